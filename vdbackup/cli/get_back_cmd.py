"""Commands that get something back: restore, export, extract."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    confirm,
    find_moment_or_point,
    open_repository,
)
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.json_values import (
    files_plan_json,
    files_restored_json,
    put_back_plan_json,
    restore_plan_json,
    restored_json,
)
from vdbackup.cli.keys import key_options, keys_of
from vdbackup.cli.options import (
    FORMAT_NAMES,
    Subparsers,
    dry_run_option,
    json_option,
    machine_option,
    new_command,
    state_options,
)
from vdbackup.cli.values import (
    partition_numbers,
    positive,
)
from vdbackup.errors import UsageError
from vdbackup.translation import tr, trn

if TYPE_CHECKING:
    from vdbackup.repository.repository import Repository


def add_restore(subparsers: Subparsers) -> None:
    """The command `restore`, and what it can be told."""
    parser = new_command(
        subparsers,
        "restore",
        restore,
        tr("restore a point to a raw file or block device, or its chosen files"),
        example="restore -r /mnt/backups latest disk-again.img",
        failed=tr("the target does not hold the point"),
        warned=tr("something was left out, or could not be checked"),
    )
    state_options(parser)
    machine_option(parser)
    parser.add_argument(
        "targets", type=Path, metavar="TARGET", nargs="*",
        help=tr(
            "a new file, or a device; of files a folder, in which they get the paths that they "
            "had, or nothing: where they came from; of a machine one for each disk, or one folder"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--files", action="store_true",
        help=tr("of a set of chosen files: the files, with all that was kept of them"),
    )  # fmt: skip
    parser.set_defaults(format="raw")
    parser.add_argument(
        "--partition", type=partition_numbers, default=(), metavar="N[,N]",
        help=tr(
            "only these partitions of the disk: one to a partition, device or new raw file, "
            "several to the same partitions of a disk"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--resize", choices=["auto", "off"], default="off",
        help=tr(
            "auto: fit the disk to a device, or a raw file that is there, of another size; off, "
            "which is usual: what is larger stays free"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--grow", type=positive, metavar="N",
        help=tr(
            "the partition that takes what is new on a larger one, instead of the last that can"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--delta", action="store_true",
        help=tr(
            "compare with what TARGET holds, and write only what differs: for a device or raw "
            "file with an older or damaged state"
        ),
    )  # fmt: skip
    _restoring(parser)


def add_export(subparsers: Subparsers) -> None:
    """The command `export`, and what it can be told."""
    parser = new_command(
        subparsers,
        "export",
        restore,
        tr("write a point as one stand-alone disk"),
        example="export -r /mnt/backups latest for-a-friend.vhdx",
        failed=tr("the target does not hold the point"),
        warned=tr("something was left out, or could not be checked"),
    )
    state_options(parser)
    machine_option(parser)
    parser.add_argument(
        "targets", type=Path, metavar="FILE", nargs="+",
        help=tr("a new file; of a machine one for each disk, or a folder for all"),
    )  # fmt: skip
    parser.set_defaults(files=False)
    parser.add_argument(
        "--format",
        default=None,
        help=tr(
            "raw, {format_names}; for clouds and appliances vhd-fixed (Azure), vmdk-stream (AWS, "
            "vSphere) or ova (VirtualBox, vSphere); by FILE's ending if left out",
            format_names=FORMAT_NAMES,
        ),
    )
    parser.set_defaults(delta=False, partition=(), resize="off", grow=None)
    _restoring(parser)


def _restoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help=tr("replace what is there"))
    parser.add_argument(
        "--ignore-damage",
        action="store_true",
        help=tr("restore what is whole of a damaged point; of files, what is damaged as well"),
    )
    dry_run_option(parser)
    json_option(parser)


def restore(options: argparse.Namespace) -> int:
    """Restore or export a point."""
    from vdbackup.locations import Locations
    from vdbackup.operations import restore

    if options.files and options.machine is None and len(options.targets) < 2:
        return _restore_files(options)
    if not options.targets:
        raise UsageError(
            tr("It is not said where the disk is to be restored to."),
            tr("Name a new file, or a device."),
        )
    repository = open_repository(options.repository, as_json=options.json)
    if options.machine is not None:
        return _restore_machine(repository, options)
    if len(options.targets) != 1:
        raise UsageError(
            tr("One disk is restored to one target."),
            tr("With --machine all disks of a machine are."),
        )
    (target,) = options.targets
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    plan = restore.plan(
        restore.RestoreRequest(
            repository,
            backup_set.name,
            point.id,
            target,
            disk_format=options.format or restore.format_of(target),
            overwrite=options.overwrite,
            ignore_damage=options.ignore_damage,
            delta=options.delta,
            partitions=options.partition,
            resize=options.resize == "auto" or options.grow is not None,
            grown=options.grow,
            journals=Locations.from_environment().restores,
        )
    )
    if not announce(plan, options, **restore_plan_json(plan)):
        return DONE
    restored = work(tr("Restore"), lambda task: restore.run(plan, task), as_json=options.json)
    if options.json:
        print_json({"event": "result", **restored_json(restored)})
    elif plan.in_place:
        say(restored.figures.sentence)
    warn(restored.warnings)
    return WARNINGS if restored.warnings else DONE


def _restore_files(options: argparse.Namespace) -> int:
    from vdbackup.operations import restore_files

    _refuse(options, tr("chosen files"), "--delta", "--partition", "--resize", "--grow")
    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    target = options.targets[0].absolute() if options.targets else restore_files.ORIGIN
    request = restore_files.FilesRequest(
        repository,
        backup_set.name,
        point.id,
        target,
        overwrite=options.overwrite,
        ignore_damage=options.ignore_damage,
    )
    plan = work(
        tr("Look what is there"),
        lambda task: restore_files.plan(request, task),
        as_json=options.json,
    )
    if not announce(plan, options, **files_plan_json(plan)):
        return DONE
    restored = work(tr("Restore"), lambda task: restore_files.run(plan, task), as_json=options.json)
    if options.json:
        print_json({"event": "result", **files_restored_json(restored)})
    warn(restored.warnings)
    return WARNINGS if restored.warnings else DONE


def _refuse(options: argparse.Namespace, what: str, *unfit: str) -> None:
    """Refuse what says how one disk is written, where something else is restored."""
    given = {
        "--delta": options.delta,
        "--partition": bool(options.partition),
        "--resize": options.resize == "auto",
        "--grow": options.grow is not None,
    }
    if names := [name for name in unfit if given[name]]:
        raise UsageError(
            tr("{name} is for a single disk, not for {what}.", name=names[0], what=what),
            tr("Leave it out."),
        )


def _restore_machine(repository: Repository, options: argparse.Namespace) -> int:
    """Restore all disks of a machine."""
    from vdbackup.locations import Locations
    from vdbackup.operations import machine_restore
    from vdbackup.operations.restore import format_of
    from vdbackup.repository.machine import KnownMachines, find_moment

    if options.set is not None or options.files:
        raise UsageError(
            tr("A point is of a machine or of a set."),
            tr("Leave out --machine, or --set and --files."),
        )
    _refuse(options, tr("a machine"), "--partition", "--grow")
    machine = KnownMachines.of(repository).named(options.machine)
    moment = find_moment(repository, machine, options.point)
    moment.check_whole()
    disk_format = options.format or format_of(options.targets[0])
    targets = machine_restore.targets_for(moment, options.targets, disk_format)
    plan = machine_restore.plan(
        machine_restore.MachineRestoreRequest(
            repository,
            moment,
            targets,
            disk_format=disk_format,
            overwrite=options.overwrite,
            ignore_damage=options.ignore_damage,
            delta=options.delta,
            resize=options.resize == "auto",
            journals=Locations.from_environment().restores,
        )
    )
    if not announce(plan, options):
        return DONE
    warnings = work(
        tr("Restore"), lambda task: machine_restore.run(plan, task), as_json=options.json
    )
    if options.json:
        written = [{"set": name, "target": str(target)} for name, target in targets.items()]
        print_json({"event": "result", "targets": written, "warnings": warnings})
    warn(warnings)
    return WARNINGS if warnings else DONE


def add_extract(subparsers: Subparsers) -> None:
    """The command `extract`, and what it can be told."""
    parser = new_command(
        subparsers,
        "extract",
        extract,
        tr("copy files out of a point"),
        example="extract -r /mnt/backups latest /p1/etc/fstab .",
        failed=tr("nothing was written"),
        warned=tr("not all of it was written as it is in the point"),
    )
    state_options(parser)
    parser.add_argument(
        "paths", nargs="+", metavar="PATH",
        help=tr("files or folders in it, and behind them a folder that they are copied into"),
    )  # fmt: skip
    parser.add_argument(
        "--to-original", action="store_true",
        help=tr(
            "put them back to where they came from, in the file systems that are mounted here; no "
            "folder is named then, and what is there stays"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true",
        help=tr("with --to-original: replace what is there and differs, after asking"),
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help=tr("replace it without asking"))
    dry_run_option(parser)
    parser.add_argument(
        "--ignore-damage", action="store_true", help=tr("take what is damaged, too, as it is")
    )
    key_options(parser)
    json_option(parser)


def extract(options: argparse.Namespace) -> int:
    """Copy files out of a point."""
    if options.to_original:
        return _put_back(options)
    for given, name in ((options.overwrite, "--overwrite"), (options.yes, "--yes"),
                        (options.dry_run, "--dry-run")):  # fmt: skip
        if given:
            raise UsageError(
                tr("{name} goes with --to-original alone.", name=name), tr("Leave it out.")
            )
    if len(options.paths) < 2:
        raise UsageError(
            tr("It is not said which folder the files are to be copied into."),
            tr("Name it behind them, or say --to-original."),
        )
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import checked

    *paths, destination = options.paths

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    doing = tr("extracting files of point {point}", point=point.sequence)
    keys = keys_of(options)
    with checked.open_point(
        repository, backup_set.name, point.id, doing, ignore_damage=options.ignore_damage
    ) as disk:
        browser = FileBrowser(disk)
        if keys:
            browser.unlock(keys)
        warnings = work(
            tr("Extract"),
            lambda task: browser.extract(paths, Path(destination), task),
            as_json=options.json,
        )
    warnings = (*warnings, *disk.damage)
    if options.json:
        print_json({"event": "result", "warnings": warnings})
    warn(warnings)
    return WARNINGS if warnings else DONE


def _put_back(options: argparse.Namespace) -> int:
    """Put files back to where they came from."""
    from vdbackup.operations import put_back

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)
    request = put_back.PutBackRequest(
        repository,
        backup_set.name,
        point.id,
        tuple(options.paths),
        overwrite=options.overwrite,
        ignore_damage=options.ignore_damage,
        keys=keys_of(options),
    )
    plan = work(
        tr("Look what is there"),
        lambda task: put_back.plan(request, task),
        as_json=options.json,
    )
    if not announce(plan, options, **put_back_plan_json(plan)):
        return DONE
    if plan.replaces and not options.yes:
        confirm(
            tr("Replace what is there?"),
            tr("Files that are there would be replaced, and nobody can be asked."),
            tr("Nothing was replaced."),
        )
    done = work(tr("Put back"), lambda task: put_back.run(plan, task), as_json=options.json)
    if options.json:
        result = {"files": done.files, "same": done.same, "warnings": done.warnings}
        print_json({"event": "result", **result})
    else:
        say(trn("{count} file put back.", "{count} files put back.", done.files))
    warn(done.warnings)
    return WARNINGS if done.warnings else DONE
