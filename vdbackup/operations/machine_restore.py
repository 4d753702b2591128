"""Restore a moment of a machine: each of its disks to a target of its own, or all into a folder.

All is planned before the first of them is written: where one cannot be, none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.names import DiskFormat
from vdbackup.errors import UnfitTarget, UsageError
from vdbackup.jobs import Plan, Task
from vdbackup.recovery import restore
from vdbackup.recovery.restore import RestorePlan, RestoreRequest
from vdbackup.repository.files import check_space
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.repository import Repository


@dataclass(frozen=True, kw_only=True)
class MachineRestorePlan(Plan):
    """What restoring a moment would do, disk by disk."""

    disks: tuple[RestorePlan, ...]


def targets_for(moment: MomentPoints, given: Sequence[Path], disk_format: str) -> dict[str, Path]:
    """Where each disk goes, by its set.

    Args:
        moment: whole.
        given: a target for each disk, in the machine's order; or one folder for all, in which each
            becomes a file that is called as its set.
        disk_format: of the files in a folder.

    Raises UsageError where they are too many or too few, UnfitTarget where two are one.
    """
    names = list(moment.points)
    if len(given) == 1 and (given[0].is_dir() or len(names) > 1):
        (folder,) = given
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder, and {moment.moment.machine} has {len(names)} disks.",
                f"Name a folder for all, or a target for each: {', '.join(names)}.",
            )
        ending = "img" if disk_format == DiskFormat.RAW else disk_format
        return {name: folder / f"{name}.{ending}" for name in names}
    if len(given) != len(names):
        raise UsageError(
            f"{len(given)} targets are named, and {moment.moment.machine} has {len(names)} disks.",
            f"Name a folder for all, or a target for each: {', '.join(names)}.",
        )
    if len({each.resolve() for each in given}) < len(given):
        raise UnfitTarget("Two disks would be restored to one target.", "Name one for each.")
    return dict(zip(names, given, strict=True))


def plan(
    repository: Repository,
    moment: MomentPoints,
    targets: dict[str, Path],
    *,
    disk_format: str = DiskFormat.RAW,
    overwrite: bool = False,
    ignore_damage: bool = False,
) -> MachineRestorePlan:
    """What restoring a moment would do.

    Args:
        repository: where it is.
        moment: which.
        targets: of each set, from `targets_for`.
        disk_format: of files.
        overwrite: replace existing files, or write over devices.
        ignore_damage: restore what can be read where some of it is damaged.

    Raises NotWhole where a disk's point is missing, and what `restore.plan` does.
    """
    moment.check_whole()
    disks = tuple(
        restore.plan(
            RestoreRequest(
                repository,
                name,
                point.id,
                targets[name],
                disk_format=disk_format,
                overwrite=overwrite,
                ignore_damage=ignore_damage,
            )
        )
        for name, point in moment.points.items()
    )
    files: dict[Path, int] = {}
    for each in disks:
        if not each.target.is_block_device():
            folder = each.target.parent.resolve()
            files[folder] = files.get(folder, 0) + each.bytes_to_copy
    for folder, size in files.items():
        check_space(folder, size, "The restored disks")
    return MachineRestorePlan(
        summary=" ".join(each.summary for each in disks),
        bytes_to_copy=sum(each.bytes_to_copy for each in disks),
        creates=tuple(name for each in disks for name in each.creates),
        replaces=tuple(name for each in disks for name in each.replaces),
        disks=disks,
    )


def run(plan: MachineRestorePlan, task: Task) -> tuple[str, ...]:
    """Restore; what was damaged, or is to be known, a sentence each with its set before it.

    A failure or a cancel leaves the disks that were restored before; each is whole or not there.
    """
    return tuple(
        f"{each.set_name}: {sentence}"
        for each in plan.disks
        for sentence in restore.run(each, task).warnings
    )
