"""Writing a point over what is there: a device, or a file that holds an older state of it.

Compare, write, read back. Only a delta compares first: what the target holds is read, and told by
its digests from what the point holds; the point itself is read for what differs alone. What counts
in the end is what is read back from the storage, past every cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, blocks_of, edges_of, overlap, total, without
from vdbackup.disks.transfer import Flags, chunks, transfer
from vdbackup.errors import TargetUnsound
from vdbackup.jobs import Task, readable_size
from vdbackup.recovery.captured import Captured
from vdbackup.recovery.placed import Placed
from vdbackup.recovery.restore_journal import Journal
from vdbackup.repository.digests import BLOCK, differ, is_zero
from vdbackup.translation import grouped, tr

_AT_ONCE = 1 << 15
"""Blocks whose digests are looked up together."""


@dataclass(frozen=True)
class Figures:
    """What a restore in place did; all in bytes, in whole blocks.

    Attributes:
        compared: of the target, read to see what differs.
        written: to the target.
        verified: of the target, read back and found to be what was captured.
        resumed: on the target already, by a restore that was interrupted.
    """

    compared: int
    written: int
    verified: int
    resumed: int

    def __add__(self, other: Figures) -> Figures:
        """Both together."""
        return Figures(
            self.compared + other.compared,
            self.written + other.written,
            self.verified + other.verified,
            self.resumed + other.resumed,
        )

    @property
    def sentence(self) -> str:
        """What was done, in figures."""
        written = tr("{size} written", size=readable_size(self.written))
        read = tr("{size} compared, ", size=readable_size(self.compared)) if self.compared else ""
        before = (
            tr("; {size} were there already", size=readable_size(self.resumed))
            if self.resumed
            else ""
        )
        return tr(
            "{read}{written}, {size} read back and verified{before}.",
            read=read,
            written=written,
            size=readable_size(self.verified),
            before=before,
        )


NOTHING = Figures(0, 0, 0, 0)


def write_over(
    placed: Placed,
    chain: Chain,
    captured: Captured,
    journal: Journal,
    task: Task,
    *,
    delta: bool,
) -> Figures:
    """Let a target hold what the point holds; durable and read back on return.

    Args:
        placed: the target.
        chain: the point's disk.
        captured: its digests.
        journal: what an earlier run has done already; notes what this one does.
        task: what it reports to, and what stops it.
        delta: whether what the target holds is compared first.

    Raises:
        TargetUnsound: what was written is not there. Damaged: the point is. OSError: the target
        cannot be read or written. Cancelled.
    """
    wanted = placed.ranges
    resumed = overlap(wanted, journal.done)
    todo, unproven, compared = without(wanted, resumed), wanted, 0
    if delta:
        stale, compared = _differing(placed, captured, todo, tr("Compare"), task)
        alike = without(todo, stale)
        journal.right(alike)
        todo, unproven = stale, without(wanted, alike)
    copy(placed, chain, captured, todo, task, journal.right)
    journal.note()
    wrong = _read_back(placed, captured, unproven, task)
    again = total(wrong)
    if again:  # of a target that was changed since it was written, or lost what it had taken
        copy(placed, chain, captured, wrong, task)
        still = _read_back(placed, captured, wrong, task)
        if len(still):
            raise TargetUnsound(
                tr(
                    "The target does not hold what was written to it, at byte {still} of the disk "
                    "and perhaps elsewhere.",
                    still=grouped(still[0, 0]),
                ),
                tr("Do not trust it: look at the kernel's log, and restore to another one."),
            )
    return Figures(compared, total(todo) + again, total(unproven), total(resumed))


def copy(
    placed: Placed,
    chain: Chain,
    captured: Captured,
    ranges: Ranges,
    task: Task,
    done: Callable[[Ranges], None] = lambda _: None,
) -> None:
    """Write what the point holds in some whole blocks; durable on return.

    Args:
        placed: the target.
        chain: the point's disk.
        captured: its digests.
        ranges: what to write.
        task: what it reports to, and what stops it.
        done: told what was written, from several threads.

    Raises Damaged, OSError, Cancelled.
    """

    def put(pieces: Ranges, view: memoryview) -> None:
        blocks = blocks_of(pieces, BLOCK)
        placed.write(blocks, view, captured.look(blocks, view))
        done(pieces)

    transfer(ranges, chain.read, put, phase=tr("Restore"), task=task)
    placed.sync()


def _read_back(placed: Placed, captured: Captured, ranges: Ranges, task: Task) -> Ranges:
    """Where the storage does not hold what the point does; what that has lost is not asked for."""
    placed.read_past_cache()
    wrong, _ = _differing(placed, captured, ranges, tr("Verify"), task)
    if len(damaged := captured.damaged()):
        flags = np.zeros(int(damaged[-1]) + 1, np.bool_)
        flags[damaged] = True
        wrong = without(wrong, _ranges(flags, 0))
    return wrong


def _differing(
    placed: Placed, captured: Captured, ranges: Ranges, phase: str, task: Task
) -> tuple[Ranges, int]:
    """Where a target does not hold what the point does, in whole blocks, and how much was read.

    Holes of the target are zeros: they are not read.
    """
    if not len(ranges):
        return ranges, 0
    first = int(ranges[0, 0]) // BLOCK
    flags = np.zeros(-(-int(ranges[-1].sum()) // BLOCK) - first, np.bool_)
    digests = captured.digests

    def look(pieces: Ranges, view: memoryview) -> None:
        blocks = blocks_of(pieces, BLOCK)
        known, sure = digests.as_far_as_known(blocks)
        flags[blocks - first] = differ(digests.digest(view), known) | ~sure

    stored = overlap(ranges, placed.stored())
    transfer(stored, placed.read, look, phase=phase, task=task)
    holes = overlap(without(ranges, stored), digests.held())
    for portion in chunks(holes, _AT_ONCE * BLOCK):
        blocks = blocks_of(portion, BLOCK)
        known, sure = digests.as_far_as_known(blocks)
        flags[blocks - first] = ~is_zero(known) | ~sure
        task.check()
    return overlap(_ranges(flags, first), ranges), total(stored)  # the last may be short


def _ranges(flags: Flags, first: int) -> Ranges:
    """Stretches of blocks for which a flag is set, in bytes; the first flag is of block `first`."""
    edges = edges_of(flags) + first
    return np.stack([edges[:, 0], edges[:, 1] - edges[:, 0]], axis=1) * BLOCK
