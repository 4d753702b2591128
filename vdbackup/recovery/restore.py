"""Restore a recovery point: to a raw image, a block device, or a stand-alone virtual disk.

What clouds and other programs take beside the formats of backups is in packages.py.

What is written is checked against the digests on its way: a restore that ends well is what was
captured.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.extents import Int64s, Ranges, blocks_of, total
from vdbackup.disks.formats import check_fits, create_disk, open_disk
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.disks.transfer import transfer, transfer_in_order, write_blocks
from vdbackup.errors import Damaged, RecoveryError, Remedy, TargetExists, UnfitTarget, UsageError
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import System
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.recovery import other_hardware, packages
from vdbackup.recovery.ovf import Appliance
from vdbackup.recovery.packages import PACKAGES, Output, PackageFormat
from vdbackup.recovery.target import (
    Identity,
    check_device,
    check_same,
    description,
    held_device,
    identity,
    new_file,
    wipe_rest,
)
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks, is_zero
from vdbackup.repository.files import check_space
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.volumes import places
from vdbackup.volumes.gpt import move_second_copy

_MAX_REPORTED = 20


@dataclass(frozen=True, kw_only=True)
class RestorePlan(Plan):
    """What a restore would do.

    Attributes:
        target: a file that will be made, or a block device that will be overwritten.
        found: what the target was when it was planned; None if it was not there.
        disk_format: that a stand-alone disk can have, or of a package.
        ignore_damage: write damaged blocks as they are, and go on.
        machine: that an OVA describes, with what is on its disk; else None.
        notes: what the user has to know of it afterwards, a sentence each.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    found: Identity | None
    disk_format: DiskFormat | PackageFormat
    ignore_damage: bool
    machine: tuple[System, Hardware] | None = None
    notes: tuple[str, ...] = ()


def plan(
    repository: Repository,
    set_name: str,
    point_id: str,
    target: Path,
    *,
    disk_format: str = DiskFormat.RAW,
    overwrite: bool = False,
    ignore_damage: bool = False,
) -> RestorePlan:
    """What restoring the point to `target` would do.

    Args:
        repository: where the point is.
        set_name: the set that it belongs to.
        point_id: its id.
        target: a new file, or a block device.
        disk_format: of a file; a device is always written raw.
        overwrite: replace an existing file, or write over a device.
        ignore_damage: restore what can be read where some of it is damaged.

    Raises:
        RecoveryError: the target cannot be used. Damaged, DiskError: the point cannot.
    """
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    wanted = _named(disk_format)
    machine = None
    doing = f"planning to restore point {point.sequence}"
    with claims.open_point(repository, set_name, point_id, doing) as chain:
        size = total(chain.map.data_ranges())
        sector_size = _sector_size(chain) if target.is_block_device() else 0
        if wanted is PackageFormat.OVA and not target.is_block_device():
            machine = other_hardware.hardware_in_ovf(chain)
    on_device = target.is_block_device()
    if on_device:
        if not overwrite:
            raise TargetExists(
                f"{target} is a block device: everything on it would be lost.",
                "Choose another target, unless that is what you want.",
                remedy=Remedy.OVERWRITE,
            )
        check_device(target, point.virtual_size, sector_size)
        size = point.virtual_size
        where = f"written over everything on the device {target} ({description(target)})"
    else:
        _check_format(wanted, point)
        _check_file(target, repository, overwrite)
        if not _is_in_order(wanted):  # not compressed
            check_space(target.parent, size, "The restored disk")
        where = f"restored to the {wanted} disk {target}"
    return RestorePlan(
        summary=f"Point {point.sequence} of {set_name} is {where}, {readable_size(size)} of data.",
        bytes_to_copy=size,
        creates=() if target.exists() else (str(target),),
        replaces=(str(target),) if target.exists() else (),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        target=target,
        found=identity(target),
        disk_format=DiskFormat.RAW if on_device else wanted,
        ignore_damage=ignore_damage,
        machine=machine,
        notes=_notes(machine),
    )


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


def run(plan: RestorePlan, task: Task) -> tuple[str, ...]:
    """Restore; sentences about what was damaged (only with `ignore_damage`).

    A file is written beside its name and renamed when it is whole and durable. Nobody changes
    meanwhile what is read; raises PointInUse where somebody does.
    """
    doing = f"restoring a point to {plan.target}"
    with claims.reading(plan.repository, plan.set_name, [plan.point_id], doing) as backup_set:
        return _restored(backup_set, backup_set.point(plan.point_id), plan, task)


def _restored(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    task: Task,
) -> tuple[str, ...]:
    if plan.target.is_block_device():
        return _to_device(backup_set, point, plan, task)
    check_same(plan.target, plan.found)
    with (
        new_file(plan.target, plan.found) as path,
        _created(path, backup_set, point, plan) as disk,
    ):
        warnings = _write(backup_set, point, plan, disk, task)
        if plan.disk_format is DiskFormat.RAW and point.exact_size is not None:
            os.truncate(path, point.exact_size)  # the rest was not the source's
    return (*warnings, *plan.notes)


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


def _to_device(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    task: Task,
) -> tuple[str, ...]:
    """Write over a device, which is nobody else's meanwhile."""
    with held_device(plan.target) as fd:
        check_same(plan.target, plan.found)
        device = open_disk(plan.target, DiskFormat.RAW, writable=True)
        try:
            warnings = _write(backup_set, point, plan, device, task)
        finally:
            device.close()
        wipe_rest(fd, point.virtual_size)
        move_second_copy(fd, sector_size_of(fd))
    return warnings


def _write(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    disk: Output,
    task: Task,
) -> tuple[str, ...]:
    """All of the point's data into an open disk; on a device the zeros too."""
    with backup_set.open_chain(point) as chain, backup_set.open_digests(point) as digests:
        check = _Check(backup_set.chain(point), chain, digests, plan.ignore_damage)
        on_device = plan.target.is_block_device()
        ranges = _everything(chain.size) if on_device else digests.to_check(chain)

        def put(pieces: Ranges, view: memoryview) -> None:
            blocks = blocks_of(pieces, BLOCK)
            zero = check.look(blocks, view)
            write_blocks(disk, blocks, view, ~zero | on_device, zero)

        in_order = _is_in_order(plan.disk_format)
        move = transfer_in_order if in_order else transfer
        move(ranges, chain.read, put, phase="Restore", task=task)
    disk.flush()
    return check.warnings()


class _Check:
    """Compares what is restored with what was captured."""

    def __init__(
        self, layers: Sequence[RecoveryPoint], chain: Chain, digests: DigestFold, go_on: bool
    ) -> None:
        self._layers = layers
        self._map = chain.map
        self._disks = {layer.disk for layer in self._layers}
        self._digests = digests
        self._go_on = go_on
        self._damaged: list[tuple[int, str]] = []

    def look(self, blocks: Int64s, view: memoryview) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """bool[blocks]: which of the blocks in `view` are all zeros; raises Damaged."""
        actual = digest_blocks(view)
        known, sure = self._digests.as_far_as_known(blocks)
        for at in np.flatnonzero(differ(actual, known) | ~sure).tolist():
            block = int(blocks[at])
            layer = self._layers[self._layer_of(block)]
            self._note(block * BLOCK, layer.disk if sure[at] else layer.digests)
        return is_zero(actual)

    def _layer_of(self, block: int) -> int:
        """Which of the layers holds a block, or holds something where none should."""
        layer, first = self._digests.layer_of(block), block * BLOCK
        if layer >= 0:
            return layer
        return int(self._map.part(first, min(BLOCK, self._map.size - first)).layers.max())

    def _note(self, offset: int, file: str) -> None:
        if not self._go_on:
            problem = "not as captured" if file in self._disks else "perhaps not as captured"
            raise Damaged(
                f"{file} is damaged: {_place(offset)} are {problem}.",
                "Restore another point.",
                remedy=Remedy.IGNORE_DAMAGE,
            )
        self._damaged.append((offset, file))

    def warnings(self) -> tuple[str, ...]:
        """What was damaged, a sentence each."""
        sentences = [
            f"The {_place(offset)} are damaged in {file}."
            if file in self._disks
            else f"The {_place(offset)} could not be checked: {file} is damaged."
            for offset, file in sorted(self._damaged)[:_MAX_REPORTED]
        ]
        if len(self._damaged) > _MAX_REPORTED:
            sentences.append(f"{len(self._damaged) - _MAX_REPORTED} more blocks are damaged.")
        return tuple(sentences)


def _everything(size: int) -> Ranges:
    return np.array([[0, size]], np.int64)


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


def _place(offset: int) -> str:
    """A block of the disk; its place is exact, for whoever goes there with another tool."""
    return f"{readable_size(BLOCK)} at byte {offset:,} of the disk"
