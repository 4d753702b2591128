"""Commands that make recovery points: backup, adopt, convert, demo."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from vdbackup.cli.boot_test_cmd import prove_new_point
from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    machines,
    open_repository,
    said_of,
)
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.history_cmd import note_names
from vdbackup.cli.json_values import moment_json, point_json, set_json
from vdbackup.cli.options import (
    FORMAT_NAMES,
    Subparsers,
    changing_options,
    chosen_source,
    files_options,
    new_command,
    parents_option,
    policy_change,
    policy_options,
    repository_options,
    source_format_option,
)
from vdbackup.cli.values import (
    rate,
)
from vdbackup.errors import UsageError
from vdbackup.jobs import readable_size as size
from vdbackup.pace import Limit, Pace
from vdbackup.sources.moment import Wanted
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from vdbackup.operations.backup import BackupResult
    from vdbackup.operations.machine_backup import MachineResult
    from vdbackup.operations.policy import Change
    from vdbackup.repository.backup_set import BackupSet


class _OfEveryBackup(TypedDict):
    """What a request for one source and one for a machine both hold (operations/request.py)."""

    kind: str
    disk_format: str | None
    parents_in: tuple[Path, ...]
    same_source: bool
    policy: Change
    consistency: Wanted
    read_all: bool
    all_blocks: bool


def add_backup(subparsers: Subparsers) -> None:
    """The command `backup`, and what it can be told."""
    parser = new_command(
        subparsers,
        "backup",
        backup,
        tr("back a disk up, or chosen files"),
        example="backup /dev/sdb -r /mnt/backups --keep 14",
        failed=tr("no point was made; those before are as they were"),
        warned=tr("the point is there, with a warning, such as that it does not boot"),
    )
    parser.add_argument(
        "sources", type=SourceRef.typed, metavar="SOURCE", nargs="*",
        help=tr(
            "a disk image or block device: its path, or file:PATH; if left out, what the set "
            "named with --set holds the backups of; of a machine all of its disks, that which it "
            "starts from first, or none to take the same again"
        ),
    )  # fmt: skip
    files_options(parser)
    repository_options(parser)
    parser.add_argument(
        "--machine", metavar="NAME",
        help=tr("the sources are one machine of that name: they are backed up as of one moment"),
    )  # fmt: skip
    parser.add_argument(
        "--type", default="auto", choices=["auto", "full", "incremental", "differential"],
        help=tr("auto: incremental where there is something to add to"),
    )  # fmt: skip
    parser.add_argument(
        "--format", metavar="FORMAT",
        help=tr(
            "of a new set: {format_names}; if left out vmdk, or what the disk fits into",
            format_names=FORMAT_NAMES
        ),
    )  # fmt: skip
    parents_option(parser)
    source_format_option(parser)
    parser.add_argument(
        "--same-source", action="store_true",
        help=tr(
            "SOURCE is what the set named with --set holds the backups of, or each disk of the "
            "machine what its set does, though it looks like another; nothing older is merged then"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--consistency", choices=[each.value for each in Wanted], default=Wanted.AUTO.value,
        help=tr(
            "of what is in use: auto, as of one moment where that can be had, for which its file "
            "systems are frozen; frozen, so or not at all; as-is, without holding anybody back"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--read-all", "--checksum", action="store_true",
        help=tr(
            "read everything, though a tracker says what has changed: that proves it; of files, "
            "those too whose size and times are as they were"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--all-blocks", action="store_true",
        help=tr("read and keep what file systems call free, and space for swapping, too"),
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=rate, metavar="RATE",
        help=tr("move at most so much a second: 100M, 800K"),
    )  # fmt: skip
    policy_options(parser)
    changing_options(parser)


def backup(options: argparse.Namespace) -> int:
    """Back a source up."""
    from vdbackup.operations import backup

    options.source = options.sources[0] if options.sources else None
    if options.machine is not None:
        return backup_machine(options)
    if len(options.sources) > 1:
        raise UsageError(
            tr("One source is backed up at a time, unless several are one machine."),
            tr("Name one source, or say with --machine NAME what the machine is called."),
        )
    if options.same_source and not options.set:
        raise UsageError(
            tr("--same-source says whose backups a set holds, and no set is named."),
            tr("Add --set NAME."),
        )
    source = chosen_source(options) or backup.source_of(options.repository, options.set)
    request = backup.BackupRequest(
        source,
        options.repository,
        set_name=options.set,
        source_format=options.source_format,
        **_of_every_backup(options),
    )
    pace = _pace(options)
    with backup.planned(request) as plan:
        wanted = announce(plan, options)
        if plan.similar:  # before all of it is copied
            warn(
                [
                    tr(
                        "If it is the same, go on there with --set {similar!r} --same-source.",
                        similar=plan.similar,
                    )
                ]
            )
        if not wanted:
            return DONE
        allowed = machines()
        made: BackupResult = work(
            tr("Backup of {source}", source=plan.source.title),
            lambda task: backup.run(plan, allowed, task.at(pace)),
            as_json=options.json,
            wait=options.wait,
            again=lambda task: backup.back_up(request, allowed, task.at(pace)),
        )
    point = made.point
    if options.json:
        data = point_json(made.repository.set(made.set_name), point)
        print_json({"event": "result", "set": made.set_name, **data, "notes": made.notes})
    else:
        say(
            tr(
                "Point {point} ({type}): {size} stored.",
                point=point.sequence,
                type=tr(point.type),
                size=size(point.stored_bytes),
            )
        )
        for note in made.notes:
            say(note)
    warn([*made.warnings, *said_of(made.trouble)])
    note_names(made, as_json=options.json)
    boots = not made.to_be_tested or prove_new_point(made, allowed, as_json=options.json)
    return WARNINGS if made.warnings or made.trouble or not boots else DONE


def _of_every_backup(options: argparse.Namespace) -> _OfEveryBackup:
    from vdbackup.operations.policy import Change

    return {
        "kind": options.type,
        "disk_format": options.format,
        "parents_in": tuple(options.parents_in),
        "same_source": options.same_source,
        "policy": policy_change(options) or Change(),
        "consistency": Wanted(options.consistency),
        "read_all": options.read_all,
        "all_blocks": options.all_blocks,
    }


def _pace(options: argparse.Namespace) -> Pace:
    """Nobody waits for it as for a window's: it is to cost others as little as it can."""
    return Pace(Limit(options.limit) if options.limit else None, gives_way=True)


def backup_machine(options: argparse.Namespace) -> int:
    """Back all disks of a machine up."""
    from vdbackup.operations import machine_backup

    if options.set or options.source_format or options.files:
        raise UsageError(
            tr("Each disk of a machine has a set of its own, and is what it was before."),
            tr("Leave out --set, --source-format and --files."),
        )
    if options.same_source and options.sources:
        raise UsageError(
            tr("--same-source says that the disks that the machine is known by are its own."),
            tr("Name no sources, or leave it out."),
        )
    request = machine_backup.MachineRequest(
        options.machine,
        options.repository,
        tuple(options.sources),
        **_of_every_backup(options),
    )
    pace = _pace(options)
    with machine_backup.planned(request) as plan:
        if not announce(plan, options):
            return DONE
        allowed = machines()
        made: MachineResult = work(
            tr("Backup of {machine}", machine=plan.machine.name),
            lambda task: machine_backup.run(plan, allowed, task.at(pace)),
            as_json=options.json,
            wait=options.wait,
            again=lambda task: machine_backup.back_up(request, allowed, task.at(pace)),
        )
    _show_moment(made, as_json=options.json)
    warn([*made.warnings, *said_of(made.trouble)])
    note_names(made, as_json=options.json)
    boots = not made.to_be_tested or prove_new_point(made, allowed, as_json=options.json)
    return WARNINGS if made.warnings or made.trouble or not boots else DONE


def _show_moment(made: MachineResult, *, as_json: bool) -> None:
    if as_json:
        points = [
            {
                "set": disk.set_name,
                **point_json(made.repository.set(disk.set_name), disk.point),
                "notes": disk.notes,
            }
            for disk in made.disks
        ]
        record = moment_json(made.moment)
        print_json({"event": "result", **record, "points": points, "notes": made.notes})
        return
    say(
        tr(
            "Moment {moment} of {machine}:",
            moment=made.moment.moment.number,
            machine=made.machine.name,
        )
    )
    for disk in made.disks:
        point = disk.point
        stored = size(point.stored_bytes)
        say(
            tr(
                "  {set_name}: point {point} ({type}), {stored} stored.",
                set_name=disk.set_name,
                point=point.sequence,
                type=tr(point.type),
                stored=stored,
            )
        )
        for note in disk.notes:
            say(f"    {note}")
    for note in made.notes:
        say(note)


def add_adopt(subparsers: Subparsers) -> None:
    """The command `adopt`, and what it can be told."""
    parser = new_command(
        subparsers,
        "adopt",
        adopt,
        tr("take another program's chain of disks in as a set"),
        example="adopt vm/snapshot-7.vmdk -r /mnt/backups",
        failed=tr("nothing was taken in"),
        warned=tr("it is taken in, but for snapshots inside its files"),
    )
    parser.add_argument(
        "tip", type=SourceRef.typed, metavar="CHAIN-TIP", help=tr("the newest disk of the chain")
    )
    repository_options(parser)
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help=tr("of the set: {format_names}; the tip's own if left out", format_names=FORMAT_NAMES),
    )
    parents_option(parser)
    source_format_option(parser)
    changing_options(parser)


def adopt(options: argparse.Namespace) -> int:
    """Take a chain that another program made into the repository."""
    from vdbackup.operations import adopt

    request = adopt.AdoptRequest(
        options.tip,
        options.repository,
        set_name=options.set,
        disk_format=options.format,
        source_format=options.source_format,
        parents_in=tuple(options.parents_in),
    )
    with adopt.planned(request) as plan:
        if not announce(plan, options):
            return DONE
        adopted = work(
            tr("Adopt"),
            lambda task: adopt.run(plan, task),
            as_json=options.json,
            wait=options.wait,
            again=lambda task: adopt.adopt(request, task),
        )
    return _show_new_set(adopted.backup_set, options, adopted.warnings)


def add_convert(subparsers: Subparsers) -> None:
    """The command `convert`, and what it can be told."""
    parser = new_command(
        subparsers,
        "convert",
        convert,
        tr("copy a set into a new one in another format"),
        example="convert -r /mnt/backups --set disk --format vhdx",
        failed=tr("no new set was made"),
    )
    repository_options(parser)
    parser.add_argument("--format", metavar="FORMAT", required=True, help=FORMAT_NAMES)
    parser.add_argument(
        "--to", metavar="NAME", help=tr("the new set's name; by set and format if left out")
    )
    changing_options(parser)


def convert(options: argparse.Namespace) -> int:
    """Copy a set into a new one in another format."""
    from vdbackup.operations import convert

    repository = open_repository(options.repository, as_json=options.json)
    plan = convert.plan(repository, repository.set(options.set).name, options.format, options.to)
    if not announce(plan, options):
        return DONE
    converted = work(
        tr("Convert"),
        lambda task: convert.run(plan, task),
        as_json=options.json,
        wait=options.wait,
    )
    return _show_new_set(converted.backup_set, options)


def _show_new_set(
    made: BackupSet, options: argparse.Namespace, warnings: tuple[str, ...] = ()
) -> int:
    if options.json:
        print_json({"event": "result", **set_json(made), "warnings": list(warnings)})
    else:
        count = len(made.points)
        say(
            trn(
                "The set {made} holds {count} recovery point.",
                "The set {made} holds {count} recovery points.",
                count,
                made=made.name,
            )
        )
    warn(warnings)
    return WARNINGS if warnings else DONE


def add_demo(subparsers: Subparsers) -> None:
    """The command `demo`, and what it can be told."""
    parser = new_command(
        subparsers,
        "demo",
        demo,
        tr("the whole story on a small disk made on the spot"),
        example="demo",
        failed=tr("something was not as it should be"),
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER",
        help=tr("a new folder to keep everything in; else it is thrown away at the end"),
    )  # fmt: skip


def demo(options: argparse.Namespace) -> int:
    """Tell the whole story on a small bootable disk made on the spot."""
    from tempfile import TemporaryDirectory

    from vdbackup.demo import Demo

    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="vdbackup-")))
        story: Demo = Demo(folder, tell=say)
        proofs = work(tr("Demo"), lambda task: story.run(task.cancel), as_json=False)
    say("")
    table(
        (tr("what"), tr("proof"), tr("seconds")),
        [(p.claim, p.evidence, f"{p.seconds:.1f}") for p in proofs],
    )
    if options.folder:
        say("")
        say(
            tr(
                "Everything is kept in {folder}; `vdbackup list -r {repository}`.",
                folder=options.folder,
                repository=story.repository,
            )
        )
    return DONE
