"""Commands that look: list, files, info."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vdbackup.cli import remedies
from vdbackup.cli.common import DONE, WARNINGS, find_moment_or_point, open_repository, unread_state
from vdbackup.cli.console import print_json, say, table, warn
from vdbackup.cli.json_values import machine_json, problem_json, set_json
from vdbackup.cli.keys import key_options, keys_of
from vdbackup.cli.options import (
    Subparsers,
    json_option,
    new_command,
    parents_option,
    repository_options,
    source_format_option,
    state_options,
)
from vdbackup.errors import NotADisk, PointNotFound
from vdbackup.jobs import readable_size as size
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.machine import KnownMachines, MomentPoints
    from vdbackup.repository.model import Pin, RecoveryPoint


def add_list(subparsers: Subparsers) -> None:
    """The command `list`, and what it can be told."""
    parser = new_command(
        subparsers,
        "list",
        list_points,
        tr("list sets and recovery points"),
        example="list -r /mnt/backups",
        failed=tr("there is no repository, or it cannot be read"),
        warned=tr("something in it is damaged, or may not be read"),
    )
    repository_options(parser, in_set=False)
    json_option(parser)


def list_points(options: argparse.Namespace) -> int:
    """List sets and recovery points, and what of them is damaged."""
    from vdbackup.repository import long_chains
    from vdbackup.repository.machine import KnownMachines, moments

    repository = open_repository(options.repository)
    sets, damaged = repository.survey()
    half_made = repository.in_the_making()
    known = KnownMachines.of(repository)
    status = WARNINGS if damaged or known.damaged or any(each.broken for each in sets) else DONE
    if options.json:
        print_json(
            {
                "repository": repository.id,
                "sets": [set_json(each) for each in sets],
                "damaged": [{"name": each.name, **problem_json(each.problem)} for each in damaged],
                "in_the_making": half_made,
                "machines": [machine_json(each, moments(each, sets)) for each in known.all],
                "damaged_machines": [
                    {"name": each.name, **problem_json(each.problem)} for each in known.damaged
                ],
            }
        )
        return status
    _say_machines(known, sets)
    for backup_set in sets:
        settings = backup_set.settings
        path = settings.source.path or tr("source unknown")
        say(f"{backup_set.name}: {path}, {size(settings.virtual_size)}, {settings.format}")
        rows = [_point_row(backup_set, point) for point in backup_set.points]
        if rows:
            table(_COLUMNS, rows)
        if long := long_chains.sentence(backup_set):
            say(long)
        for pin, point in _pinned(backup_set):
            say(
                tr("Point {point} is pinned: {note}", point=point.sequence, note=pin.note)
                if pin.note
                else tr("Point {point} is pinned.", point=point.sequence)
            )
        for manifest in backup_set.broken:
            say(f"{unread_state(manifest)}: {remedies.sentences(manifest.problem)}")
    for each in damaged:
        say(f"{each.name}: {unread_state(each)}: {remedies.sentences(each.problem)}")
    for name in half_made:
        say(
            tr(
                "{name}: a set that is being made, or whose making was cut off; in that case the "
                "next `vdbackup adopt` or `vdbackup convert` removes it.",
                name=name,
            )
        )
    if not sets and not damaged:
        say(tr("No backups yet."))
    return status


_COLUMNS = (
    "#",
    tr("created (UTC)"),
    tr("type"),
    tr("parent"),
    tr("stored"),
    tr("verified"),
    tr("boots"),
    tr("proven"),
    tr("id"),
)


def _say_machines(known: KnownMachines, sets: Sequence[BackupSet]) -> None:
    from vdbackup.repository.machine import moments

    for machine in known.all:
        say(tr("The machine {machine}: {sets}", machine=machine.name, sets=", ".join(machine.sets)))
        if rows := [_moment_row(each) for each in moments(machine, sets)]:
            table(_MOMENT_COLUMNS, rows)
    for lost in known.damaged:
        say(
            tr(
                "The machine {lost}: DAMAGED: {problem}",
                lost=lost.name,
                problem=remedies.sentences(lost.problem),
            )
        )


_MOMENT_COLUMNS = (tr("moment"), tr("created (UTC)"), tr("points"), tr("missing"), tr("id"))


def _moment_row(found: MomentPoints) -> tuple[str, ...]:
    points = ", ".join(f"{name} #{point.sequence}" for name, point in found.points.items())
    missing = ", ".join(found.missing)
    number, created = str(found.moment.number), found.created.replace("T", " ")[:19]
    return (
        number,
        created,
        points,
        missing and tr("NOT WHOLE: {missing}", missing=missing),
        found.moment.id[:8],
    )


def _number_of(backup_set: BackupSet, point_id: str | None) -> str:
    try:
        return str(backup_set.point(point_id).sequence) if point_id is not None else ""
    except PointNotFound:
        return ""


def _pinned(backup_set: BackupSet) -> Iterator[tuple[Pin, RecoveryPoint]]:
    for point in backup_set.points:
        if pin := backup_set.pin(point):
            yield pin, point


def _point_row(backup_set: BackupSet, point: RecoveryPoint) -> tuple[str, ...]:
    verified = "" if not point.verified else tr("ok") if point.verified.ok else tr("DAMAGED")
    boots = "" if not point.boot_tested else tr("yes") if point.boot_tested.ok else tr("NO")
    proven = _ago(point.proven) if point.proven else ""
    kind = (
        tr("{type}, of a session", type=tr(point.type)) if point.promoted_from else tr(point.type)
    )
    created = point.created.replace("T", " ")[:19]
    above = _number_of(backup_set, point.parent)
    stored = size(point.stored_bytes)
    proofs = (verified, boots, proven)
    return (str(point.sequence), created, kind, above, stored, *proofs, point.id[:8])


def _ago(moment: str) -> str:
    """How long ago a moment is, in days: "today", "12 days ago"."""
    from datetime import UTC, datetime  # late: most commands say no times

    at = datetime.fromisoformat(moment)
    days = (datetime.now(UTC) - (at if at.tzinfo else at.replace(tzinfo=UTC))).days
    return trn("{count} day ago", "{count} days ago", days) if days >= 1 else tr("today")


def add_files(subparsers: Subparsers) -> None:
    """The command `files`, and what it can be told."""
    parser = new_command(
        subparsers,
        "files",
        files,
        tr("list files inside a point"),
        example="files -r /mnt/backups latest /p1/etc",
        failed=tr("there is no such point or folder, or it cannot be read"),
        warned=tr("not all of it can be read"),
    )
    state_options(parser)
    parser.add_argument("path", nargs="?", default="/", metavar="PATH", help=tr("a folder in it"))
    key_options(parser)
    json_option(parser)


def files(options: argparse.Namespace) -> int:
    """List files inside a point."""
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import claims

    repository = open_repository(options.repository)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    doing, keys = tr("listing files of point {point}", point=point.sequence), keys_of(options)
    with claims.open_point(repository, backup_set.name, point.id, doing) as chain:
        browser = FileBrowser(chain)
        if keys:
            browser.unlock(keys)
        entries, warnings = browser.listing(options.path), browser.warnings([options.path])
    if options.json:
        print_json([{**vars(entry), "kind": str(entry.kind)} for entry in entries])
    else:
        for entry in entries:
            name = entry.name + ("/" if entry.kind == "folder" else "")
            say(f"{entry.size:>14}  {(entry.modified or '')[:19]:<19}  {name}")
    warn(warnings)
    return WARNINGS if warnings else DONE


def add_info(subparsers: Subparsers) -> None:
    """The command `info`, and what it can be told."""
    parser = new_command(
        subparsers,
        "info",
        info,
        tr("describe a virtual disk and its chain"),
        example="info disk.qcow2",
        failed=tr("there is no such disk, or it cannot be read"),
        warned=tr("it was not closed properly, or is not what it is called"),
    )
    parser.add_argument(
        "disk", type=SourceRef.typed, metavar="DISK", help=tr("a virtual disk, its newest file")
    )
    parents_option(parser)
    source_format_option(parser)
    json_option(parser)


def info(options: argparse.Namespace) -> int:
    """Describe a virtual disk and its chain."""
    from vdbackup.disks.chain import Chain
    from vdbackup.disks.contents import decide
    from vdbackup.disks.extents import total
    from vdbackup.errors import SourceNotFound
    from vdbackup.recovery import loader_files

    path = options.disk.path
    if not path.exists():
        raise SourceNotFound(tr("There is no {path}.", path=path), tr("Check the path."))
    if path.is_dir():
        raise NotADisk(tr("{path} is a folder.", path=path), tr("Give a virtual disk file."))
    decision = decide(path, options.source_format)
    with Chain.open(path, decision.disk_format, options.parents_in) as chain:
        doubts = [*filter(None, [decision.doubt]), *chain.doubts(), *chain.unread()]
        started = loader_files.starts(chain)
        loader = started.kind.value if started else None
        layers: list[dict[str, Any]] = [
            {
                "path": str(layer.path),
                "format": layer.info.format,
                "virtual_size": layer.info.virtual_size,
                "sector_size": layer.info.sector_size,
                "block_size": layer.info.block_size,
                "disk_id": layer.info.disk_id,
                "content_id": layer.info.content_id,
                "parent": layer.info.parent.relative_path if layer.info.parent else None,
                "stored_bytes": total(layer.block_map().data_ranges()),
            }
            for layer in reversed(chain.layers)
        ]
    if options.json:
        print_json({**layers[0], "chain": layers, "warnings": doubts, "bios_loader": loader})
    for number, layer in enumerate([] if options.json else layers):
        say(tr("parent: {path}", path=layer["path"]) if number else f"{layer['path']}")
        say(
            tr(
                "  format        {format}, blocks of {size}",
                format=layer["format"],
                size=size(layer["block_size"]),
            )
        )
        say(
            tr(
                "  virtual size  {size} ({virtual_size} bytes)",
                size=size(layer["virtual_size"]),
                virtual_size=layer["virtual_size"],
            )
        )
        say(tr("  stored        {size}", size=size(layer["stored_bytes"])))
        say(
            tr(
                "  identity      {disk_id}, content {content_id}",
                disk_id=layer["disk_id"] or "-",
                content_id=layer["content_id"] or "-",
            )
        )
    if loader not in (None, "other") and not options.json:
        say(tr("a BIOS starts: {loader}", loader=loader))
    warn(doubts)
    return WARNINGS if doubts else DONE
