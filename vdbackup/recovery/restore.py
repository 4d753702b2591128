"""Restore a recovery point: to a raw image, a block device, or a stand-alone virtual disk.

What is written is checked against the digests on its way: a restore that ends well is what was
captured.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.disk import VirtualDisk
from vdbackup.disks.extents import Ranges, aligned, total, union
from vdbackup.disks.formats import FORMATS, check_fits, create_disk, open_disk
from vdbackup.disks.transfer import transfer, write_blocks
from vdbackup.errors import Damaged, RecoveryError, Remedy, UsageError
from vdbackup.jobs import CancelToken, Plan, Report, readable_size
from vdbackup.recovery import places
from vdbackup.recovery.gpt import move_second_copy
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
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks, is_zero
from vdbackup.repository.files import check_room
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository

RAW = "raw"
_MOST_REPORTED = 20


@dataclass(frozen=True, kw_only=True)
class RestorePlan(Plan):
    """What a restore would do.

    Attributes:
        target: a file that will be made, or a block device that will be overwritten.
        found: what the target was when it was planned; None if it was not there.
        disk_format: "raw", or a format that a stand-alone disk can have.
        ignore_damage: write damaged blocks as they are, and go on.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path
    found: Identity | None
    disk_format: str
    ignore_damage: bool


def plan(
    repository: Repository,
    set_name: str,
    point_id: str,
    target: Path,
    *,
    disk_format: str = RAW,
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
    if disk_format not in (RAW, *FORMATS):
        raise UsageError(
            f"There is no disk format {disk_format!r}.", f"Choose raw or {', '.join(FORMATS)}."
        )
    with backup_set.open_chain(point) as chain:
        size = total(chain.map.data_ranges())
        sector_size = _sector_size(chain) if target.is_block_device() else 0
    on_device = target.is_block_device()
    if on_device:
        if not overwrite:
            raise RecoveryError(
                f"{target} is a block device: everything on it would be lost.",
                "Choose another target, unless that is what you want.",
                remedy=Remedy.OVERWRITE,
            )
        check_device(target, point.virtual_size, sector_size)
        size = point.virtual_size
        where = f"written over everything on the device {target} ({description(target)})"
    else:
        if disk_format != RAW:
            check_fits(disk_format, point.virtual_size, point.sector_size)
        _check_file(target, repository, overwrite)
        check_room(target.parent, size, "The restored disk")
        where = f"restored to the {disk_format} disk {target}"
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
        disk_format=RAW if on_device else disk_format,
        ignore_damage=ignore_damage,
    )


def _sector_size(chain: Chain) -> int:
    """Bytes of the sectors that the disk's tables count in; its own where there are none."""
    try:
        return places.find(chain)[0]
    except RecoveryError:  # a damaged table
        return chain.sector_size


def format_of(target: Path) -> str:
    """The format that a file's ending asks for, raw if it asks for none."""
    suffix = target.suffix.lower().removeprefix(".")
    return suffix if suffix in FORMATS else RAW


def run(plan: RestorePlan, report: Report, cancel: CancelToken) -> tuple[str, ...]:
    """Restore; sentences about what was damaged (only with `ignore_damage`).

    A file is written beside its name and renamed when it is whole and durable.
    """
    backup_set = plan.repository.set(plan.set_name)
    point = backup_set.point(plan.point_id)
    if plan.target.is_block_device():
        return _to_device(backup_set, point, plan, report, cancel)
    check_same(plan.target, plan.found)
    with new_file(plan.target, plan.found) as path:
        disk = create_disk(
            path, plan.disk_format, point.virtual_size, sector_size=point.sector_size
        )
        try:
            return _write(backup_set, point, plan, disk, report, cancel)
        finally:
            disk.close()


def _to_device(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    report: Report,
    cancel: CancelToken,
) -> tuple[str, ...]:
    """Write over a device, which is nobody else's meanwhile."""
    with held_device(plan.target) as fd:
        check_same(plan.target, plan.found)
        device = open_disk(plan.target, RAW, writable=True)
        try:
            warnings = _write(backup_set, point, plan, device, report, cancel)
        finally:
            device.close()
        wipe_rest(fd, point.virtual_size)
        move_second_copy(fd, sector_size_of(fd))
    return warnings


def _write(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    disk: VirtualDisk,
    report: Report,
    cancel: CancelToken,
) -> tuple[str, ...]:
    """All of the point's data into an open disk; on a device the zeros too."""
    with backup_set.open_chain(point) as chain, backup_set.open_digests(point) as digests:
        check = _Check(backup_set, point, digests, plan.ignore_damage)
        on_device = plan.target.is_block_device()
        ranges = _everything(chain.size) if on_device else _stored(chain, digests)

        def put(offset: int, view: memoryview) -> None:
            zero = check.look(offset, view)
            write_blocks(disk, offset, view, BLOCK, ~zero | on_device, zero)

        transfer(
            ranges,
            chain.readinto,
            put,
            phase="Restore",
            report=report,
            cancel=cancel,
        )
    disk.flush()
    return check.warnings()


class _Check:
    """Compares what is restored with what was captured."""

    def __init__(
        self, backup_set: BackupSet, point: RecoveryPoint, digests: DigestFold, go_on: bool
    ) -> None:
        self._layers = backup_set.chain(point)
        self._digests = digests
        self._go_on = go_on
        self._damaged: list[tuple[int, str]] = []

    def look(self, offset: int, view: memoryview) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """bool[blocks]: which of the blocks in `view` are all zeros; raises Damaged."""
        first = offset // BLOCK
        actual = digest_blocks(view)
        wrong = differ(actual, self._digests.expected(first, len(actual)))
        for block in np.flatnonzero(wrong).tolist():
            layer = self._digests.layer_of(first + block)
            self._note((first + block) * BLOCK, self._layers[layer].disk)
        return is_zero(actual)

    def _note(self, offset: int, disk: str) -> None:
        if not self._go_on:
            raise Damaged(
                f"{disk} is damaged: {BLOCK} bytes at {offset} of the disk are not as captured.",
                "Restore another point.",
                remedy=Remedy.IGNORE_DAMAGE,
            )
        self._damaged.append((offset, disk))

    def warnings(self) -> tuple[str, ...]:
        """What was damaged, a sentence each."""
        sentences = [
            f"The {BLOCK} bytes at {offset} are damaged in {disk}."
            for offset, disk in sorted(self._damaged)[:_MOST_REPORTED]
        ]
        if len(self._damaged) > _MOST_REPORTED:
            sentences.append(f"{len(self._damaged) - _MOST_REPORTED} more blocks are damaged.")
        return tuple(sentences)


def _stored(chain: Chain, digests: DigestFold) -> Ranges:
    """What the disks hold, and what they should: a block that a layer has lost must be noticed."""
    return union(aligned(chain.map.data_ranges(), BLOCK, chain.size), digests.held())


def _everything(size: int) -> Ranges:
    return np.array([[0, size]], np.int64)


def _check_file(target: Path, repository: Repository, overwrite: bool) -> None:
    if target.is_dir():
        raise RecoveryError(f"{target} is a folder.", "Give the name of a new file in it.")
    if not target.parent.is_dir():
        raise RecoveryError(f"There is no folder {target.parent}.", "Make it first.")
    if target.parent.resolve().is_relative_to(repository.path.resolve()):
        raise RecoveryError(f"{target} lies inside the repository.", "Restore to another folder.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise RecoveryError(f"{target} is neither a file nor a block device.", "Give a new file.")
    if target.exists() and not overwrite:
        raise RecoveryError(
            f"{target} exists already.", "Give another name.", remedy=Remedy.OVERWRITE
        )
