"""Writing a point's disk to a target of another size: partitions, table, then file systems.

What becomes smaller does so before, in an overlay above the point that nobody else sees; the point
stays as it is. Order: all data are on the target, and read back, before the table names them; only
then are file systems made larger. Whoever is interrupted begins anew: half of it is not a state
that a journal could know.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s, Ranges, aligned, blocks_of, union
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.transfer import Flags, transfer
from vdbackup.errors import RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery import restore_journal
from vdbackup.recovery.captured import Captured
from vdbackup.recovery.exporting import exported, raw
from vdbackup.recovery.fat_sizes import make_fat_anew
from vdbackup.recovery.file_system_sizes import tell_ntfs_its_place
from vdbackup.recovery.fitting import SCRATCH, Fitting, Move, overlaid
from vdbackup.recovery.in_place import NOTHING, Figures, write_over
from vdbackup.recovery.placed import Placed
from vdbackup.recovery.restore_journal import Record, Target
from vdbackup.recovery.target import wipe_rest
from vdbackup.recovery.volume_sizes import KINDS
from vdbackup.repository.digests import BLOCK, Digests
from vdbackup.repository.unit_digests import Known
from vdbackup.translation import tr


def write_data(
    file: HostFile, chain: Chain, captured: Captured, fitting: Fitting, task: Task, *, delta: bool
) -> Figures:
    """All partitions, and what lies before them; raises as `in_place.write_over` does."""
    figures = NOTHING
    holes = not file.path.is_block_device()
    for _, stretch in fitting.stretches:
        record = Record.new(Target(str(file.path)), "", stretch)
        with restore_journal.kept(record, None, file) as journal:
            placed = Placed(file, chain, stretch, holes=holes)
            figures += write_over(placed, chain, captured, journal, task, delta=delta)
    return figures


@contextmanager
def smaller(
    chain: Chain, disk_format: DiskFormat, captured: Captured, fitting: Fitting, task: Task
) -> Iterator[tuple[Chain, Known]]:
    """The point's disk with its file systems made smaller, and what each block of that is to be.

    Args:
        chain: the point's disk.
        disk_format: of its layers.
        captured: what it is to hold: what was read of it to make file systems smaller, too.
        fitting: which become smaller, and how small.
        task: what it reports to, and what stops it.

    Raises NotResized, Damaged, OSError, Cancelled.
    """
    with ExitStack() as stack:
        nodes, folder = stack.enter_context(overlaid(chain, disk_format))
        for move in fitting.moves:
            if move.shrinks:
                task.phase(tr("Partition {move}", move=move.number))
                task.check()
                with exported(nodes, move.before.start, move.before.size, folder) as part:
                    kind = KINDS[move.filesystem]
                    kind.check(part)
                    kind.resize(part, move.after.size)
        tip = stack.enter_context(closing(Qcow2Disk.open_knowing_parent(folder / SCRATCH)))
        whole = Chain.topped(chain, tip)
        changed = aligned(tip.block_map().own_ranges(), BLOCK, whole.size)
        _prove(chain, captured, changed, task)
        yield whole, _Changed(captured.digests, whole, changed)


def _prove(chain: Chain, captured: Captured, ranges: Ranges, task: Task) -> None:
    """What the overlay was made of is as it was captured; raises Damaged."""

    def look(pieces: Ranges, view: memoryview) -> None:
        captured.look(blocks_of(pieces, BLOCK), view)

    transfer(ranges, chain.read, look, phase=tr("Check"), task=task)


class _Changed:
    """The digests of a point, but for blocks that an overlay holds: those are what they are now."""

    def __init__(self, digests: Known, chain: Chain, changed: Ranges) -> None:
        self._digests, self._chain, self._ranges = digests, chain, changed

    def as_far_as_known(self, blocks: Int64s) -> tuple[Digests, Flags]:
        """As Known has it."""
        known, sure = self._digests.as_far_as_known(blocks)
        row = np.searchsorted(self._ranges[:, 0], blocks * BLOCK, "right") - 1
        ends = self._ranges.sum(1)
        own = np.flatnonzero((row >= 0) & (ends[np.maximum(row, 0)] > blocks * BLOCK))
        for at in own.tolist():
            offset = int(blocks[at]) * BLOCK
            view = memoryview(bytearray(min(BLOCK, self._chain.size - offset)))
            self._chain.readinto(offset, view)
            known[at], sure[at] = self.digest(view)[0], True
        return known, sure

    def expected(self, blocks: Int64s) -> Digests:
        """As Known has it."""
        return self.as_far_as_known(blocks)[0]

    def digest(self, view: memoryview) -> Digests:
        """As Known has it."""
        return self._digests.digest(view)

    def held(self) -> Ranges:
        """As Known has it."""
        return union(self._digests.held(), self._ranges)

    def to_check(self, disk: Chain) -> Ranges:
        """As Known has it."""
        return union(self._digests.to_check(disk), self._ranges)

    def layer_at_fault(self, block: int, view: memoryview) -> int:
        """As Known has it; an overlay is no layer."""
        return self._digests.layer_at_fault(block, view)


def finish(target: Path, fd: int, fitting: Fitting, task: Task) -> tuple[str, ...]:
    """The table, and the file systems; what could not be made larger, a sentence each.

    Args:
        target: holds the data.
        fd: of it, for writing.
        fitting: how it is laid out.
        task: what it reports to. From here on nothing is cancelled.

    Raises OSError.
    """
    wipe_rest(fd, max(each.after.start + each.after.size for each in fitting.moves))
    for offset, data in fitting.writes:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    warnings = []
    for move in fitting.moves:
        try:
            _settle(target, move, fitting, task)
        except RecoveryError as error:  # all that was captured is there
            warnings.append(
                tr(
                    "Partition {move} is laid out anew, and its file system is as it was: {error} "
                    "{advice}",
                    move=move.number,
                    error=error.title,
                    advice=error.advice,
                ).rstrip()
            )
    os.fsync(fd)
    return tuple(warnings)


def _settle(target: Path, move: Move, fitting: Fitting, task: Task) -> None:
    """Let what lies on a partition know its new size and place, and other sectors."""
    grows = move.after.size > move.before.size
    moved = move.filesystem == "ntfs" and move.after.start != move.before.start
    anew = fitting.converts and move.filesystem == "fat"
    if not grows and not moved and not anew:
        return
    task.phase(tr("Partition {move}", move=move.number))
    with (
        tempfile.TemporaryDirectory(prefix="vdbackup-") as folder,
        exported(raw(target), move.after.start, move.after.size, Path(folder)) as part,
    ):
        if moved:
            tell_ntfs_its_place(part, move.after.start // fitting.sector_size)
        if anew:
            make_fat_anew(part, fitting.sector_size, move.after.start // fitting.sector_size)
        if grows:
            kind = KINDS[move.filesystem]
            kind.check(part)
            kind.resize(part, move.after.size)
