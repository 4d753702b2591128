"""Commands that look at files over all points: versions, find, diff, size."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS, open_repository
from vdbackup.cli.console import print_json, table, warn, work
from vdbackup.cli.options import (
    Subparsers,
    json_option,
    new_command,
    repository_options,
)
from vdbackup.jobs import readable_size as size

if TYPE_CHECKING:
    from vdbackup.recovery.history.versions import Version, Versions


def add_versions(subparsers: Subparsers) -> None:
    """The command `versions`, and what it can be told."""
    parser = new_command(
        subparsers,
        "versions",
        versions,
        "list each state that a file had, and the points that hold it",
        example="versions -r /mnt/backups /p2/home/me/report.odt",
        failed="no point has such a file, or none can be read",
        warned="not every point can be read",
    )
    repository_options(parser)
    parser.add_argument("path", metavar="PATH", help="a file or folder, as `files` shows it")
    json_option(parser)


def versions(options: argparse.Namespace) -> int:
    """List the states of a file."""
    from vdbackup.recovery.history.versions import versions

    repository = open_repository(options.repository, as_json=options.json)
    name = repository.set(options.set).name
    found: Versions = work(
        "Versions",
        lambda task: versions(repository, name, options.path, task),
        as_json=options.json,
    )
    if options.json:
        print_json(
            {
                "event": "result",
                "path": found.path,
                "versions": [_version_json(each) for each in found.versions],
                "points_read": found.read,
            }
        )
    else:
        table(("points", "since (UTC)", "size", "modified (UTC)"), _rows(found))
    warn(found.warnings)
    return WARNINGS if found.warnings else DONE


def _rows(found: Versions) -> list[tuple[str, ...]]:
    rows = []
    for version in found.versions:
        first, last = version.points[0], version.points[-1]
        numbers = f"{first.sequence}" if first is last else f"{first.sequence} to {last.sequence}"
        since = first.created.replace("T", " ")[:19]
        entry = version.entry
        if entry is None:
            rows.append((numbers, since, "not there", ""))
        else:
            what = size(entry.size) if entry.kind == "file" else str(entry.kind)
            rows.append((numbers, since, what, (entry.modified or "").replace("T", " ")[:19]))
    return rows


def _version_json(version: Version) -> dict[str, Any]:
    entry = version.entry
    return {
        "points": [{"id": each.id, "sequence": each.sequence} for each in version.points],
        "kind": entry and str(entry.kind),
        "size": entry and entry.size,
        "modified": entry and entry.modified,
        "modified_ns": version.stat.modified if version.stat else None,
    }
