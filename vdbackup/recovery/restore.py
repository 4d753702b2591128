"""Restore a recovery point: to a raw image, a block device, or a stand-alone virtual disk.

What clouds and other programs take beside the formats of backups is in packages.py.

What is written is checked against the digests on its way: a restore that ends well is what was
captured. What is written over, a device or, of a delta, a file, is read back besides (in_place.py),
and goes on where an earlier restore was cut off (restore_journal.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.extents import Ranges, blocks_of, total
from vdbackup.disks.formats import check_fits, create_disk, probe
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.disks.transfer import transfer, transfer_in_order, write_blocks
from vdbackup.errors import RecoveryError, Remedy, TargetExists, UnfitTarget, UsageError
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import System
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.recovery import other_hardware, packages, restore_journal
from vdbackup.recovery.captured import Captured
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.in_place import Figures, write_over
from vdbackup.recovery.ovf import Appliance
from vdbackup.recovery.packages import PACKAGES, Output, PackageFormat
from vdbackup.recovery.placed import Placed, Stretch
from vdbackup.recovery.restore_journal import Found, Record, Target
from vdbackup.recovery.target import (
    Identity,
    check_device,
    check_same,
    description,
    held_device,
    held_file,
    identity,
    losing,
    new_file,
    wipe_rest,
)
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.files import check_space
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.inventory import Device, device
from vdbackup.volumes import places
from vdbackup.volumes.gpt import move_second_copy


@dataclass(frozen=True)
class RestoreRequest:
    """What somebody wants restored.

    Attributes:
        repository, set_name, point_id: the point.
        target: a new file, or a block device.
        disk_format: of a file; a device is always written raw.
        overwrite: replace an existing file, or write over a device.
        ignore_damage: restore what can be read where some of it is damaged.
        delta: write only what differs from what the device, or raw file, holds.
        journals: a folder in which to note how far it has come, should it be interrupted.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    disk_format: str = DiskFormat.RAW
    overwrite: bool = False
    ignore_damage: bool = False
    delta: bool = False
    journals: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RestorePlan(Plan):
    """What a restore would do.

    Attributes:
        target: a file that will be made, or a block device or file that will be written over.
        found: what the target was when it was planned; None if it was not there.
        lying_there: what the device is, and what lies on it; None of a file.
        disk_format: that a stand-alone disk can have, or of a package.
        ignore_damage: write damaged blocks as they are, and go on.
        delta: write only what differs from what the target holds.
        interrupted: how far an earlier restore to this target has come.
        journals: the folder where it is noted how far this one comes; None where it is not.
        machine: that an OVA describes, with what is on its disk; else None.
        notes: what the user has to know of it afterwards, a sentence each.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    found: Identity | None
    lying_there: Device | None
    disk_format: DiskFormat | PackageFormat
    ignore_damage: bool
    delta: bool
    interrupted: Found
    journals: Path | None
    machine: tuple[System, Hardware] | None = None
    notes: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether what is there is written over; else a file is made."""
        return self.delta or self.lying_there is not None


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        target: holds the point now.
        warnings: what was damaged, or is to be known of what was made, a sentence each.
        figures: how much was read and written.
    """

    target: Path
    warnings: tuple[str, ...]
    figures: Figures


def plan(request: RestoreRequest) -> RestorePlan:
    """What restoring a point would do.

    Raises:
        RecoveryError: the target cannot be used. Damaged, DiskError: the point cannot.
    """
    repository, set_name, point_id = request.repository, request.set_name, request.point_id
    target, delta = request.target, request.delta
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    wanted = _named(request.disk_format)
    on_device = target.is_block_device()
    machine = None
    doing = f"planning to restore point {point.sequence}"
    with claims.open_point(repository, set_name, point_id, doing) as chain:
        size = total(chain.map.data_ranges())
        sector_size = _sector_size(chain) if on_device else 0
        if wanted is PackageFormat.OVA and not on_device:
            machine = other_hardware.hardware_in_ovf(chain)
    lying_there = None
    interrupted = Found(Record.new(Target(str(target)), point_id, Stretch(0, point.virtual_size)))
    if on_device:
        lying_there = _device(repository, target, overwrite=request.overwrite)
        check_device(target, point.virtual_size, sector_size)
        size, wanted = point.virtual_size, DiskFormat.RAW
        what = f"written over everything on the device {target} ({description(lying_there)})"
    else:
        _check_format(wanted, point)
        _check_file(target, repository, request.overwrite)
        if delta:
            _check_delta(target, wanted)
        if not _is_in_order(wanted):  # not compressed
            check_space(target.parent, size, "The restored disk")
        what = f"{'written over' if delta else 'restored to'} the {wanted} disk {target}"
    if on_device or delta:
        interrupted = _interrupted(
            target, point, None if request.ignore_damage else request.journals
        )
        size -= interrupted.record.size
    return RestorePlan(
        summary=" ".join(
            [
                f"Point {point.sequence} of {set_name} is {what}, {readable_size(size)} of data.",
                *_sentences(lying_there, interrupted, delta=delta),
            ]
        ),
        bytes_to_copy=size,
        creates=() if target.exists() else (str(target),),
        replaces=(str(target),) if target.exists() else (),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        target=target,
        found=identity(target),
        lying_there=lying_there,
        disk_format=wanted,
        ignore_damage=request.ignore_damage,
        delta=delta,
        interrupted=interrupted,
        journals=request.journals,
        machine=machine,
        notes=_notes(machine),
    )


def _device(repository: Repository, target: Path, *, overwrite: bool) -> Device:
    """What lies on a device that may be written over; raises UnfitTarget."""
    if problem := hindrance(target, repository.path):
        raise problem
    found = device(target)
    if not overwrite:
        raise TargetExists(
            f"{target} is a block device ({description(found)}): everything on it would be lost. "
            f"{losing(found)}",
            "Choose another target, unless that is what you want.",
            remedy=Remedy.OVERWRITE,
        )
    return found


def _check_delta(target: Path, disk_format: DiskFormat | PackageFormat) -> None:
    """Raise UnfitTarget where there is no raw disk that could be compared."""
    if not target.exists():
        raise UnfitTarget(
            f"There is no {target} to compare the point with.", "Restore all of the point."
        )
    if disk_format is not DiskFormat.RAW or probe(target) is not DiskFormat.RAW:
        raise UnfitTarget(
            f"{target} is no raw disk, and only those are compared and written over.",
            "Restore all of the point to a new file.",
        )


def _interrupted(target: Path, point: RecoveryPoint, journals: Path | None) -> Found:
    """What an earlier restore of the point to that target has left."""
    size = 0
    if target.is_block_device():
        with open(target, "rb") as opened:
            size = opened.seek(0, os.SEEK_END)
    wanted = Record.new(Target.of(target, size), point.id, Stretch(0, point.virtual_size))
    return restore_journal.find(journals, wanted)


def _sentences(lying_there: Device | None, interrupted: Found, *, delta: bool) -> Iterator[str]:
    """What else a plan has to say."""
    if lying_there is not None:
        yield losing(lying_there)
    if delta:
        yield "It is compared with that first, and only what differs is written."
    if interrupted.record.done:
        there = readable_size(interrupted.record.size)
        yield f"An earlier restore was interrupted, and is gone on with: {there} are there already."
    if interrupted.anew:
        yield interrupted.anew


def _named(disk_format: str) -> DiskFormat | PackageFormat:
    """What a point can be restored to, by its name; raises UsageError."""
    if disk_format in PACKAGES:
        return PackageFormat(disk_format)
    if disk_format in list(DiskFormat):
        return DiskFormat(disk_format)
    raise UsageError(
        f"There is no disk format {disk_format!r}.",
        f"Choose raw or {', '.join([*BACKUP_FORMATS, *PACKAGES])}.",
    )


def _is_in_order(disk_format: DiskFormat | PackageFormat) -> bool:
    """Whether such a file is written from its start to its end."""
    return isinstance(disk_format, PackageFormat) and PACKAGES[disk_format].in_order


def _check_format(disk_format: DiskFormat | PackageFormat, point: RecoveryPoint) -> None:
    """Raise DiskError where a point does not fit into a format."""
    if disk_format is DiskFormat.RAW:
        return
    if isinstance(disk_format, PackageFormat):
        inside = PACKAGES[disk_format].disk_format
    else:
        inside = disk_format
    check_fits(inside, packages.size_in(disk_format, point.virtual_size), point.sector_size)


def _notes(machine: tuple[System, Hardware] | None) -> tuple[str, ...]:
    """What the user has to know of an appliance."""
    if machine is None:
        return ()
    _, hardware = machine
    sentences = [problem.sentence for problem in hardware.problems]
    if hardware.edit.needed:
        sentences.append(
            f"The machine has its disk on {hardware.controller}, which the system on it may not "
            "start from as it is."
        )
    return (*sentences, *filter(None, [other_hardware.notice(hardware).strip()]))


def _sector_size(chain: Chain) -> int:
    """Bytes of the sectors that the disk's tables count in; its own where there are none."""
    try:
        return places.find(chain)[0]
    except RecoveryError:  # a damaged table
        return chain.sector_size


def format_of(target: Path) -> str:
    """The format that a file's ending asks for, raw if it asks for none."""
    suffix = target.suffix.lower().removeprefix(".")
    return suffix if suffix in (*BACKUP_FORMATS, PackageFormat.OVA) else DiskFormat.RAW


def run(plan: RestorePlan, task: Task) -> Restored:
    """Restore.

    A file is written beside its name and renamed when it is whole and durable. Nobody changes
    meanwhile what is read; raises PointInUse where somebody does. Raises TargetInUse, UnfitTarget
    where the target is not what was planned any more, TargetUnsound where it does not hold what was
    written to it, Damaged where the point is not whole.
    """
    doing = f"restoring a point to {plan.target}"
    with claims.reading(plan.repository, plan.set_name, [plan.point_id], doing) as backup_set:
        point = backup_set.point(plan.point_id)
        return (_in_place if plan.in_place else _new_file)(backup_set, point, plan, task)


def _new_file(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    task: Task,
) -> Restored:
    check_same(plan.target, plan.found)
    with (
        new_file(plan.target, plan.found) as path,
        _created(path, backup_set, point, plan) as disk,
    ):
        warnings, written = _write(backup_set, point, plan, disk, task)
        if plan.disk_format is DiskFormat.RAW and point.exact_size is not None:
            os.truncate(path, point.exact_size)  # the rest was not the source's
    return Restored(plan.target, (*warnings, *plan.notes), Figures(0, written, 0, 0))


@contextmanager
def _created(
    path: Path, backup_set: BackupSet, point: RecoveryPoint, plan: RestorePlan
) -> Iterator[Output]:
    """The file in the making, in the format that was chosen."""
    size = point.virtual_size
    made: AbstractContextManager[Output]
    if plan.disk_format is PackageFormat.VHD_FIXED:
        made = packages.fixed_vhd(path, size)
    elif plan.disk_format is PackageFormat.VMDK_STREAM:
        made = packages.stream_vmdk(path, size)
    elif plan.disk_format is PackageFormat.OVA:
        made = packages.ova(path, size, partial(_appliance, backup_set, point, plan))
    else:
        disk = create_disk(path, plan.disk_format, size, sector_size=point.sector_size)
        made = closing(disk)
    with made as output:
        yield output


def _appliance(
    backup_set: BackupSet, point: RecoveryPoint, plan: RestorePlan, disk_file: str, disk_id: str
) -> Appliance:
    if plan.machine is None:
        raise ValueError("no machine was planned")
    system, hardware = plan.machine
    return Appliance(
        f"{backup_set.name} {point.sequence}",
        system is System.LINUX,
        hardware,
        disk_file,
        disk_id,
        point.virtual_size,
        plan.bytes_to_copy,
    )


def _write(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    disk: Output,
    task: Task,
) -> tuple[tuple[str, ...], int]:
    """All of the point's data into a new disk: what was damaged, and how many bytes there were."""
    with backup_set.open_chain(point) as chain, backup_set.open_digests(point) as digests:
        captured = Captured(backup_set.chain(point), chain, digests, plan.ignore_damage)
        ranges = digests.to_check(chain)

        def put(pieces: Ranges, view: memoryview) -> None:
            blocks = blocks_of(pieces, BLOCK)
            zero = captured.look(blocks, view)
            write_blocks(disk, blocks, view, ~zero, zero)

        move = transfer_in_order if _is_in_order(plan.disk_format) else transfer
        move(ranges, chain.read, put, phase="Restore", task=task)
    disk.flush()
    return captured.warnings(), total(ranges)


def _in_place(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    task: Task,
) -> Restored:
    """Write over what is there, which is nobody else's meanwhile."""
    on_device = plan.target.is_block_device()
    if on_device and (problem := hindrance(plan.target, plan.repository.path)):
        raise problem
    with (held_device if on_device else held_file)(plan.target) as fd:
        check_same(plan.target, plan.found)
        with closing(HostFile.open(plan.target, writable=True)) as file:
            if not on_device:
                file.grow(point.virtual_size)
                file.cut(point.virtual_size)
            warnings, figures = _write_over(backup_set, point, plan, file, task)
        if on_device:
            wipe_rest(fd, point.virtual_size)
            move_second_copy(fd, sector_size_of(fd))
        elif point.exact_size is not None:
            os.ftruncate(fd, point.exact_size)
            os.fsync(fd)
    return Restored(plan.target, warnings, figures)


def _write_over(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    file: HostFile,
    task: Task,
) -> tuple[tuple[str, ...], Figures]:
    stretch = Stretch(0, point.virtual_size)
    with backup_set.open_chain(point) as chain, backup_set.open_digests(point) as digests:
        captured = Captured(backup_set.chain(point), chain, digests, plan.ignore_damage)
        placed = Placed(file, chain, stretch, holes=not plan.target.is_block_device())
        with restore_journal.kept(plan.interrupted.record, plan.journals, file) as journal:
            figures = write_over(placed, chain, captured, journal, task, delta=plan.delta)
    return captured.warnings(), figures


def _check_file(target: Path, repository: Repository, overwrite: bool) -> None:
    if target.is_dir():
        raise UnfitTarget(f"{target} is a folder.", "Give the name of a new file in it.")
    if not target.parent.is_dir():
        raise UnfitTarget(f"There is no folder {target.parent}.", "Make it first.")
    if target.parent.resolve().is_relative_to(repository.path.resolve()):
        raise UnfitTarget(f"{target} lies inside the repository.", "Restore to another folder.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise UnfitTarget(f"{target} is neither a file nor a block device.", "Give a new file.")
    if target.exists() and not overwrite:
        raise TargetExists(
            f"{target} exists already.", "Give another name.", remedy=Remedy.OVERWRITE
        )
