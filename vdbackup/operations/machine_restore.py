"""Restore a moment of a machine: each of its disks to a target of its own, or all into a folder.

All is planned before the first of them is written, and all targets are held for nobody else: where
one cannot be written, none is. How far it has come is noted until the last of them is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vdbackup.agent.stacking import number_of, numbers_on
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import UnfitTarget, UsageError
from vdbackup.jobs import Plan, Task
from vdbackup.recovery import restore
from vdbackup.recovery.restore import RestorePlan, RestoreRequest
from vdbackup.repository.files import check_space
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


def file_of(folder: Path, set_name: str, disk_format: str) -> Path:
    """What a disk becomes in a folder."""
    return folder / f"{set_name}.{'img' if disk_format == DiskFormat.RAW else disk_format}"


@dataclass(frozen=True)
class MachineRestoreRequest:
    """What somebody wants restored; what is not said here is as `RestoreRequest` has it.

    Attributes:
        moment: whose points they are.
        targets: of each set, from `targets_for`.
        disk_format: of files.
    """

    repository: Repository
    moment: MomentPoints
    targets: Mapping[str, Path]
    disk_format: str = DiskFormat.RAW
    overwrite: bool = False
    ignore_damage: bool = False
    delta: bool = False
    resize: bool = False
    journals: Path | None = None


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
                tr(
                    "{folder} is no folder, and {machine} has {count} disks.",
                    folder=folder,
                    machine=moment.moment.machine,
                    count=len(names),
                ),
                tr("Name a folder for all, or a target for each: {names}.", names=", ".join(names)),
            )
        return {name: file_of(folder, name, disk_format) for name in names}
    if len(given) != len(names):
        raise UsageError(
            tr(
                "{count} targets are named, and {machine} has {count_2} disks.",
                count=len(given),
                machine=moment.moment.machine,
                count_2=len(names),
            ),
            tr("Name a folder for all, or a target for each: {names}.", names=", ".join(names)),
        )
    if len({each.resolve() for each in given}) < len(given):
        raise UnfitTarget(
            tr("Two disks would be restored to one target."), tr("Name one for each.")
        )
    return dict(zip(names, given, strict=True))


def plan(request: MachineRestoreRequest) -> MachineRestorePlan:
    """What restoring a moment would do.

    Raises NotWhole where a disk's point is missing, and what `restore.plan` does.
    """
    moment = request.moment
    moment.check_whole()
    _check_apart(request.targets)
    disks = tuple(
        restore.plan(
            RestoreRequest(
                request.repository,
                name,
                point.id,
                request.targets[name],
                disk_format=request.disk_format,
                overwrite=request.overwrite,
                ignore_damage=request.ignore_damage,
                delta=request.delta,
                resize=request.resize,
                journals=request.journals,
            )
        )
        for name, point in moment.points.items()
    )
    files: dict[Path, int] = {}
    for each in disks:
        if not each.in_place:
            folder = each.target.parent.resolve()
            files[folder] = files.get(folder, 0) + each.bytes_to_copy
    for folder, size in files.items():
        check_space(folder, size, tr("The restored disks"))
    return MachineRestorePlan(
        summary=" ".join(each.summary for each in disks),
        bytes_to_copy=sum(each.bytes_to_copy for each in disks),
        creates=tuple(name for each in disks for name in each.creates),
        replaces=tuple(name for each in disks for name in each.replaces),
        disks=disks,
    )


def _check_apart(targets: Mapping[str, Path]) -> None:
    """Raise UnfitTarget where what is written to one target would lie on another one, too."""
    devices = {name: each for name, each in targets.items() if each.exists() and not each.is_dir()}
    numbers = {name: numbers_on(each) for name, each in devices.items()}
    for one, other in combinations(devices, 2):
        own = {number_of(str(devices[name])) for name in (one, other)} - {None}
        if not own.isdisjoint(numbers[one] & numbers[other]):
            raise UnfitTarget(
                tr(
                    "{device} and {device_2} are one disk, or one lies on the other.",
                    device=devices[one],
                    device_2=devices[other],
                ),
                tr("Name a target of its own for each disk of the machine."),
            )


def run(plan: MachineRestorePlan, task: Task) -> tuple[str, ...]:
    """Restore; what was damaged, or is to be known, a sentence each with its set before it.

    A failure or a cancel leaves the disks that were restored before: a new file is whole or not
    there, and a device that was begun with is gone on with when it is restored to again.
    """
    with ExitStack() as stack:
        begun = [stack.enter_context(restore.ready(each)) for each in plan.disks]
        return tuple(
            f"{each.plan.set_name}: {sentence}"
            for each in begun
            for sentence in each.write(task).warnings
        )
