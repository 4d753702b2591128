"""Restore a recovery point: to a raw image, a block device, or a stand-alone virtual disk.

What clouds and other programs take beside the formats of backups is in packages.py.

What is written is checked against the digests on its way: a restore that ends well is what was
captured. What is written over, a device or, of a delta, a file, is read back besides (in_place.py),
and goes on where an earlier restore was cut off (restore_journal.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.extents import Ranges, blocks_of, overlap, total
from vdbackup.disks.formats import create_disk
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.transfer import transfer, transfer_in_order, write_blocks
from vdbackup.errors import Cancelled
from vdbackup.guest.model import System
from vdbackup.jobs import Task
from vdbackup.recovery import packages, resized, restore_journal
from vdbackup.recovery.captured import Captured
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.in_place import NOTHING, Figures, copy, write_over
from vdbackup.recovery.ovf import Appliance
from vdbackup.recovery.packages import Output, PackageFormat, is_in_order
from vdbackup.recovery.pieces import Piece
from vdbackup.recovery.placed import Placed
from vdbackup.recovery.restore_journal import Journal
from vdbackup.recovery.restore_plan import RestorePlan, RestoreRequest, format_of, plan
from vdbackup.recovery.target import (
    check_same,
    held_device,
    held_file,
    new_file,
    read_table_again,
    wipe_rest,
)
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.unit_digests import in_units
from vdbackup.translation import tr
from vdbackup.volumes.gpt import move_second_copy

__all__ = ["RestorePlan", "RestoreRequest", "Restored", "format_of", "plan", "run"]


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


def run(plan: RestorePlan, task: Task) -> Restored:
    """Restore.

    A file is written beside its name and renamed when it is whole and durable. Nobody changes
    meanwhile what is read; raises PointInUse where somebody does. Raises TargetInUse, UnfitTarget
    where the target is not what was planned any more, TargetUnsound where it does not hold what was
    written to it, Damaged where the point is not whole.
    """
    with ready(plan) as begun:
        return begun.write(task)


@dataclass(frozen=True)
class Ready:
    """A restore whose point nobody changes and whose targets nobody else uses; nothing is written.

    Attributes:
        plan: what was planned, and still holds.
    """

    plan: RestorePlan
    _backup_set: BackupSet
    _held: tuple[int, ...]
    _stack: ExitStack

    def write(self, task: Task) -> Restored:
        """Restore, once; how far it has come stays noted until `ready` ends."""
        plan, point = self.plan, self._backup_set.point(self.plan.point_id)
        if not plan.in_place:
            return _new_file(self._backup_set, point, plan, task)
        try:
            targets = [
                self._stack.enter_context(_journalled(plan, piece, fd))
                for piece, fd in zip(plan.pieces, self._held, strict=True)
            ]
            done = _in_place(self._backup_set, point, plan, targets, task)
            for target in targets:
                target.journal.note()
        except Cancelled:
            half = tr(
                "{target} may be written over in part: restore to it again.", target=plan.target
            )
            raise Cancelled(left=half) from None
        return done


@contextmanager
def ready(plan: RestorePlan) -> Iterator[Ready]:
    """All that `run` looks at before it writes the first byte, and raises the same.

    What is noted of an interrupted restore goes where this ends without an error: of several that
    belong together, all go on until the last of them is done.
    """
    doing = tr("restoring a point to {target}", target=plan.target)
    with (
        claims.reading(plan.repository, plan.set_name, [plan.point_id], doing) as backup_set,
        ExitStack() as stack,
    ):
        if plan.in_place:
            held = tuple(stack.enter_context(_held(plan, piece)) for piece in plan.pieces)
        else:
            held = ()
            check_same(plan.pieces[0].target, plan.pieces[0].found)
        yield Ready(plan, backup_set, held, stack)


def _new_file(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    task: Task,
) -> Restored:
    (piece,) = plan.pieces
    if piece.number:
        return _partition_to_file(backup_set, point, plan, piece, task)
    with (
        new_file(piece.target, piece.found) as path,
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
        raise ValueError(tr("no machine was planned"))
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
    with _opened(backup_set, point, plan) as (chain, captured):
        ranges = captured.digests.to_check(chain)

        def put(pieces: Ranges, view: memoryview) -> None:
            blocks = blocks_of(pieces, BLOCK)
            zero = captured.look(blocks, view)
            write_blocks(disk, blocks, view, ~zero, zero)

        move = transfer_in_order if is_in_order(plan.disk_format) else transfer
        move(ranges, chain.read, put, phase=tr("Restore"), task=task)
    disk.flush()
    return captured.warnings(), total(ranges)


def _partition_to_file(
    backup_set: BackupSet, point: RecoveryPoint, plan: RestorePlan, piece: Piece, task: Task
) -> Restored:
    with (
        new_file(piece.target, piece.found) as path,
        closing(HostFile.create(path)) as file,
        _opened(backup_set, point, plan) as (chain, captured),
    ):
        file.grow(piece.stretch.size)
        placed = Placed(file, chain, piece.stretch, holes=True)
        ranges = overlap(captured.digests.to_check(chain), placed.ranges)
        copy(placed, chain, captured, ranges, task)
    return Restored(plan.target, captured.warnings(), Figures(0, total(ranges), 0, 0))


@contextmanager
def _opened(
    backup_set: BackupSet, point: RecoveryPoint, plan: RestorePlan
) -> Iterator[tuple[Chain, Captured]]:
    """The point's disk, and what it was captured as."""
    with backup_set.open_chain(point) as chain, backup_set.open_digests(point) as fold:
        known = in_units(fold)
        yield chain, Captured(backup_set.chain(point), chain, known, plan.ignore_damage)


def _in_place(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    targets: Sequence[_Target],
    task: Task,
) -> Restored:
    """Write over what is there, which is nobody else's meanwhile."""
    warnings: tuple[str, ...] = ()
    figures = NOTHING
    with _opened(backup_set, point, plan) as (chain, captured):
        for target in targets:
            if plan.fitting is None:
                figures += _write_over(target, chain, captured, plan, task)
                _finish(target, point)
            else:
                with _of_that_size(backup_set, point, plan, chain, captured, task) as (disk, known):
                    figures += resized.write_data(
                        target.file, disk, known, plan.fitting, task, delta=plan.delta
                    )
                warnings += resized.finish(target.piece.target, target.fd, plan.fitting, task)
                read_table_again(target.fd)
        warnings = (*captured.warnings(), *warnings)
    return Restored(plan.target, (*warnings, *plan.notes), figures)


@dataclass(frozen=True)
class _Target:
    """What is written in place: a piece's target, held, open, and with its journal."""

    piece: Piece
    fd: int
    file: HostFile
    journal: Journal


@contextmanager
def _held(plan: RestorePlan, piece: Piece) -> Iterator[int]:
    """A descriptor of a target, which is what was planned, and in use by nobody else."""
    on_device = piece.target.is_block_device()
    if on_device and (problem := hindrance(piece.target, plan.repository.path)):
        raise problem
    with (held_device if on_device else held_file)(piece.target) as fd:
        check_same(piece.target, piece.found)
        yield fd


@contextmanager
def _journalled(plan: RestorePlan, piece: Piece, fd: int) -> Iterator[_Target]:
    """A target, open, and with its journal."""
    journals = None if plan.ignore_damage or plan.fitting else plan.journals
    if journals is None:  # what was noted before is right no more
        restore_journal.forget(piece.interrupted.record, plan.journals)
    with closing(HostFile.open(piece.target, writable=True)) as file:
        if piece.lying_there is None and plan.fitting is None:
            file.grow(piece.stretch.size)
            file.cut(piece.stretch.size)
        with restore_journal.kept(piece.interrupted.record, journals, file) as journal:
            yield _Target(piece, fd, file, journal)


def _write_over(
    target: _Target, chain: Chain, captured: Captured, plan: RestorePlan, task: Task
) -> Figures:
    """Write a piece, and read it back."""
    holes = target.piece.lying_there is None
    placed = Placed(target.file, chain, target.piece.stretch, holes=holes)
    return write_over(placed, chain, captured, target.journal, task, delta=plan.delta)


def _finish(target: _Target, point: RecoveryPoint) -> None:
    """Let nothing be found behind what was written, and a larger disk's table be whole."""
    piece, fd = target.piece, target.fd
    if piece.lying_there is not None:
        wipe_rest(fd, piece.stretch.size)
        if not piece.number:
            move_second_copy(fd, sector_size_of(fd))
            read_table_again(fd)
    elif point.exact_size is not None and not piece.number:
        os.ftruncate(fd, point.exact_size)
        os.fsync(fd)


@contextmanager
def _of_that_size(
    backup_set: BackupSet,
    point: RecoveryPoint,
    plan: RestorePlan,
    chain: Chain,
    captured: Captured,
    task: Task,
) -> Iterator[tuple[Chain, Captured]]:
    """The point's disk, or where that is too large, one with smaller file systems."""
    if plan.fitting is None or not any(move.shrinks for move in plan.fitting.moves):
        yield chain, captured
        return
    disk_format = backup_set.settings.format
    with resized.smaller(chain, disk_format, captured, plan.fitting, task) as (whole, known):
        yield whole, Captured(backup_set.chain(point), whole, known, plan.ignore_damage)
