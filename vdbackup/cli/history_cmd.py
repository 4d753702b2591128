"""Commands that look at files over all points: versions, find, diff, size."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS, find_moment_or_point, open_repository
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.keys import key_options, keys_of
from vdbackup.cli.options import (
    POINT_HELP,
    Subparsers,
    json_option,
    new_command,
    repository_options,
    state_options,
)
from vdbackup.cli.values import (
    positive,
)
from vdbackup.jobs import readable_size as size
from vdbackup.text import iso, printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.backup import BackupResult
    from vdbackup.operations.machine_backup import MachineResult
    from vdbackup.recovery.history.differences import Difference, Differences
    from vdbackup.recovery.history.find import Occurrence, Search
    from vdbackup.recovery.history.index import Name
    from vdbackup.recovery.history.owners import Sizes
    from vdbackup.recovery.history.versions import Version, Versions
    from vdbackup.repository.model import RecoveryPoint
    from vdbackup.repository.repository import Repository
    from vdbackup.volumes.filesystems.node import Stat


def add_versions(subparsers: Subparsers) -> None:
    """The command `versions`, and what it can be told."""
    parser = new_command(
        subparsers,
        "versions",
        versions,
        tr("list each state that a file had, and the points that hold it"),
        example="versions -r /mnt/backups /p2/home/me/report.odt",
        failed=tr("no point has such a file, or none can be read"),
        warned=tr("not every point can be read"),
    )
    repository_options(parser)
    parser.add_argument("path", metavar="PATH", help=tr("a file or folder, as `files` shows it"))
    key_options(parser)
    json_option(parser)


def versions(options: argparse.Namespace) -> int:
    """List the states of a file."""
    from vdbackup.recovery.history.versions import versions

    repository = open_repository(options.repository, as_json=options.json)
    name, keys = repository.set(options.set).name, keys_of(options)
    found: Versions = work(
        tr("Versions"),
        lambda task: versions(repository, name, options.path, task, keys),
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
        table((tr("points"), tr("since (UTC)"), tr("size"), tr("modified (UTC)")), _rows(found))
    warn(found.warnings)
    return WARNINGS if found.warnings else DONE


def _rows(found: Versions) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for version in found.versions:
        since = version.points[0].created.replace("T", " ")[:19]
        stat = version.stat
        what = (tr("not there"), "") if stat is None else (_what(stat.kind, stat.size), _time(stat))
        rows.append((_numbers(version.points), since, *what))
    return rows


def _numbers(points: Sequence[RecoveryPoint]) -> str:
    first, last = points[0].sequence, points[-1].sequence
    return f"{first}" if first == last else tr("{first} to {last}", first=first, last=last)


def _what(kind: str, bytes_: int) -> str:
    return size(bytes_) if kind == "file" else kind


def _time(of: Stat | Name) -> str:
    return (iso(of.modified) or "").replace("T", " ")[:19]


def _version_json(version: Version) -> dict[str, Any]:
    stat = version.stat
    return {
        "points": [_point_json(each) for each in version.points],
        "kind": str(stat.kind) if stat else None,
        "size": stat.size if stat else None,
        "modified": iso(stat.modified) if stat else None,
        "modified_ns": stat.modified if stat else None,
    }


def add_find(subparsers: Subparsers) -> None:
    """The command `find`, and what it can be told."""
    parser = new_command(
        subparsers,
        "find",
        find,
        tr("find files by name in all points"),
        example="find -r /mnt/backups '*.odt'",
        failed=tr("no file has such a name, or no point can be read"),
        warned=tr("not every point can be read"),
    )
    repository_options(parser)
    parser.add_argument(
        "name",
        metavar="NAME",
        help=tr("as a shell has it: *.odt; with a slash in it, a whole path"),
    )
    parser.add_argument(
        "-i",
        "--ignore-case",
        action="store_true",
        help=tr("capitals and small letters are the same"),
    )
    parser.add_argument(
        "--no-index", action="store_true",
        help=tr("read all points, and neither use nor keep what earlier searches have found out"),
    )  # fmt: skip
    key_options(parser)
    json_option(parser)


def find(options: argparse.Namespace) -> int:
    """Find files by name."""
    from vdbackup.errors import NotInPoint, WrongKey
    from vdbackup.locations import Locations
    from vdbackup.recovery.history.find import Pattern, find

    repository = open_repository(options.repository, as_json=options.json)
    locations = Locations.from_environment()
    pattern = Pattern(options.name, options.ignore_case)
    keys = keys_of(options)
    names = [options.set] if options.set else [each.name for each in repository.sets()]
    warnings: list[str] = []
    any_found, refused = False, None
    for name in names:
        file = None if options.no_index else locations.names_file(repository.id, name)
        search = partial(find, pattern=pattern, index_file=file, keys=keys)
        try:
            found = _found(repository, name, search, options)
        except WrongKey as error:  # they may be another set's
            refused = error
            warnings.append(f"{name}: {error.title}")
            continue
        any_found = any_found or bool(found.found)
        warnings += found.warnings
        if options.json:
            print_json(_search_json(name, found))
        elif found.found:
            say(f"{name}:")
            head = (tr("points"), tr("size"), tr("modified (UTC)"), tr("path"))
            table(head, [_occurrence_row(each) for each in found.found])
    if refused is not None and not any_found:
        raise refused
    warn(warnings)
    if not any_found:
        raise NotInPoint(
            tr(
                "No file in the points of {repository} is called {name}.",
                repository=repository.path,
                name=printable(options.name),
            ),
            tr("Use * for any letters, as in '*name*'; -i passes over capitals."),
        )
    return WARNINGS if warnings else DONE


def note_names(made: BackupResult | MachineResult, *, as_json: bool) -> None:
    """Note the names of files in points that have just been made, where their sets want that.

    What is not noted the next search reads itself, so nothing is said of it.
    """
    if not made.to_be_indexed:
        return
    from vdbackup.locations import Locations
    from vdbackup.recovery.history.noting import note

    repository, locations = made.repository, Locations.from_environment()
    for name in made.to_be_indexed:
        file = locations.names_file(repository.id, name)
        noting = partial(note, repository.path, name, file)
        work(tr("Names of files in {name}", name=name), noting, as_json=as_json)


def _found(
    repository: Repository, name: str, search: Callable[..., Search], options: argparse.Namespace
) -> Search:
    result: Search = work(
        tr("Find"),
        lambda task: search(repository, name, task=task),
        as_json=options.json,
    )
    return result


def _occurrence_row(each: Occurrence) -> tuple[str, ...]:
    name = each.name
    return (_numbers(each.points), _what(name.kind, name.size), _time(name), each.path)


def _search_json(name: str, found: Search) -> dict[str, Any]:
    return {
        "event": "result",
        "set": name,
        "found": [
            {
                "path": each.path,
                "kind": each.name.kind,
                "size": each.name.size,
                "modified": iso(each.name.modified),
                "points": [_point_json(point) for point in each.points],
            }
            for each in found.found
        ],
        "points_read": found.read,
    }


def _point_json(point: RecoveryPoint) -> dict[str, Any]:
    return {"id": point.id, "sequence": point.sequence}


def add_diff(subparsers: Subparsers) -> None:
    """The command `diff`, and what it can be told."""
    parser = new_command(
        subparsers,
        "diff",
        diff,
        tr("list the files that differ between two points, and in what"),
        example="diff -r /mnt/backups 3 latest /p2/etc",
        failed=tr("there is no such point or folder, or it cannot be read"),
        warned=tr("not all of them can be read"),
    )
    repository_options(parser)
    parser.add_argument("before", metavar="POINT", help=POINT_HELP)
    parser.add_argument("after", metavar="POINT", help=tr("the one that it is compared with"))
    parser.add_argument("path", nargs="?", default="/", metavar="PATH", help=tr("a folder in them"))
    key_options(parser)
    json_option(parser)


def diff(options: argparse.Namespace) -> int:
    """List the files that differ."""
    from vdbackup.recovery.history.differences import differences

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, before = find_moment_or_point(repository, options.before, options.set)
    _, after = find_moment_or_point(repository, options.after, options.set)
    ids, keys = (before.id, after.id), keys_of(options)
    found: Differences = work(
        tr("Compare"),
        lambda task: differences(repository, backup_set.name, ids, options.path, task, keys),
        as_json=options.json,
    )
    if options.json:
        print_json(
            {
                "event": "result",
                "before": _point_json(found.before),
                "after": _point_json(found.after),
                "changed_bytes": found.changed,
                "files": [_difference_json(each) for each in found.files],
            }
        )
    else:
        rows: list[tuple[str, ...]] = [
            (", ".join(map(tr, each.what)), size(each.changed) if each.changed else "", each.path)
            for each in found.files
        ]
        if rows:
            table((tr("what"), tr("changed"), tr("path")), rows)
        one = len(rows) == 1
        what = (
            tr("1 file or folder differs")
            if one
            else tr("{count} files and folders differ", count=len(rows))
        )
        say(
            tr(
                "{what}; {size} of the disk do, with what its file systems keep for themselves.",
                what=what,
                size=size(found.changed),
            )
        )
    warn(found.warnings)
    return WARNINGS if found.warnings else DONE


def _difference_json(each: Difference) -> dict[str, Any]:
    before, after = each.sizes
    return {
        "path": each.path,
        "what": [str(what) for what in each.what],
        "kind": str(each.kind),
        "size_before": before,
        "size_after": after,
        "changed_bytes": each.changed,
    }


def add_size(subparsers: Subparsers) -> None:
    """The command `size`, and what it can be told."""
    parser = new_command(
        subparsers,
        "size",
        size_of,
        tr("say why a point is as large as it is: changed bytes by folder and file"),
        example="size -r /mnt/backups latest",
        failed=tr("there is no such point or folder, or it cannot be read"),
        warned=tr("not all of it can be looked through"),
    )
    state_options(parser)
    parser.add_argument("path", nargs="?", default="/", metavar="PATH", help=tr("a folder in it"))
    parser.add_argument(
        "--top",
        type=positive,
        default=20,
        metavar="N",
        help=tr("show the N largest; 20 if left out"),
    )
    key_options(parser)
    json_option(parser)


def size_of(options: argparse.Namespace) -> int:
    """Say whose the changed bytes of a point are."""
    from vdbackup.recovery.history.owners import sizes

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    keys = keys_of(options)
    found: Sizes = work(
        tr("Look through the point"),
        lambda task: sizes(repository, backup_set.name, point.id, options.path, task, keys),
        as_json=options.json,
    )
    if options.json:
        print_json(
            {
                "event": "result",
                "point": _point_json(found.point),
                "before": _point_json(found.before) if found.before else None,
                "stored_bytes": found.stored,
                "changed_bytes": found.changed,
                "files": [
                    {"path": each.path, "kind": str(each.kind), "changed_bytes": each.bytes}
                    for each in found.shares
                ],
                "others": [
                    {"what": what, "changed_bytes": bytes_} for what, bytes_ in found.others
                ],
                "needless": [
                    {
                        "path": each.path,
                        "why": str(each.why),
                        "hint": each.why.is_a_hint,
                        "changed_bytes": each.bytes,
                        "exclude": each.exclude or None,
                    }
                    for each in found.needless
                ],
            }
        )
    else:
        _say_sizes(found, options)
    warn(found.warnings)
    return WARNINGS if found.warnings else DONE


def _say_sizes(found: Sizes, options: argparse.Namespace) -> None:
    top = options.top
    against = (
        tr("changed since point {before}", before=found.before.sequence)
        if found.before
        else tr("hold data")
    )
    say(
        tr(
            "Point {point} stores {size}, in blocks of 64 KiB; {size_2} {against}, of that:",
            point=found.point.sequence,
            size=size(found.stored),
            size_2=size(found.changed),
            against=against,
        )
    )
    rows: list[tuple[str, ...]] = [
        (size(each.bytes), each.path + ("/" if each.kind == "folder" else ""))
        for each in found.shares[:top]
    ]
    rows += [(size(bytes_), f"({what})") for what, bytes_ in found.others if bytes_]
    table((tr("bytes"), tr("whose")), rows)
    if len(found.shares) > top:
        say(tr("{count} more have less each.", count=len(found.shares) - top))
    if found.needless:
        _say_needless(found, options.repository)


def _say_needless(found: Sizes, repository: Path) -> None:
    """What could be left out the next time, and how; nothing is by itself."""
    total = sum(each.bytes for each in found.needless if not each.why.is_a_hint)
    say("")
    say(
        tr("What need not be kept, {size} (and what may be wanted all the same):", size=size(total))
    )
    rows: list[tuple[str, ...]] = [
        (size(each.bytes), each.path, tr(each.why.sentence)) for each in found.needless
    ]
    table((tr("bytes"), tr("where"), tr("what it is")), rows)
    if found.choice is None:
        say(tr(
            "A disk is backed up as a whole. What is deleted on it, or moved to a volume that is "
            "not backed up, is not in later points: free space and swap partitions are not read."
        ))  # fmt: skip
        return
    patterns = [each.exclude for each in found.needless if not each.why.is_a_hint]
    if patterns:
        wanted = replace(found.choice, exclude=(*found.choice.exclude, *patterns))
        command = f"vdbackup backup -r {shlex.quote(str(repository))} --files {wanted}"
        if command.isprintable():  # else what is shown would name other files
            say(tr("From the next backup on it is left out by: {command}", command=command))
