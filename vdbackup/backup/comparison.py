"""All of a source compared with a point: what differs, and what of that no tracker has marked.

A tracker of changes claims that what it has not marked is as the point has it. That is looked at
for what is read first, before anything is read again because it changed meanwhile: whatever
changed in between is marked by then, so that it counts for nothing once all rounds are done.
"""

from __future__ import annotations

import threading

import numpy as np

from vdbackup.backup.differences import Seen
from vdbackup.backup.unread import not_claimed
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s, Ranges, aligned, as_ranges, blocks_of, union
from vdbackup.disks.transfer import Flags, Read, transfer
from vdbackup.errors import DiskError
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK, DigestFold, differ
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.unit_digests import in_units
from vdbackup.sources.source import Rounds
from vdbackup.translation import tr, trn


def not_held(point: RecoveryPoint) -> Ranges:
    """What of the source a point does not have, so that it says nothing of it: whole blocks."""
    lost = aligned(as_ranges(point.unreadable), BLOCK, point.virtual_size)
    return union(lost, not_claimed(point))


class Unmarked:
    """Finds what differs from a point though nobody has marked it as changed since.

    What has become zeros, and differs in nothing else, is not counted. It may be space that a file
    system has given back (discard): such requests go on while it is frozen, so that the point may
    have been read before one that had been handed in, and marked, earlier. No file has anything
    there.

    Args:
        point: that was made of the source before.
        then: its disk, open.
        rounds: in which the source is read, begun; all that changed since the point is known.
        block: bytes of those that are looked at.
    """

    def __init__(
        self, point: RecoveryPoint, then: Chain, rounds: Rounds, block: int = BLOCK
    ) -> None:
        self._then, self.block = then, block
        self._marked = np.zeros(-(-point.virtual_size // block), np.bool_)
        self._found: list[int] = []
        self._lock = threading.Lock()
        if rounds.changed is not None:
            self.mark(rounds.changed)
        self.mark(not_held(point))
        self.mark(rounds.restless)

    def mark(self, ranges: Ranges) -> None:
        """What differs in these, in bytes, is to be expected."""
        block = self.block
        first, ends = ranges[:, 0] // block, -(-(ranges[:, 0] + ranges[:, 1]) // block)
        for start, end in zip(first.tolist(), ends.tolist(), strict=True):
            self._marked[start:end] = True

    def look(self, blocks: Int64s, view: memoryview, differing: Flags) -> None:
        """See blocks of the source that were read before anything was read again.

        Args:
            blocks: their numbers.
            view: their bytes.
            differing: which of them surely are not as the point has them.
        """
        for place in np.flatnonzero(differing & ~self._marked[blocks]).tolist():
            block, size = int(blocks[place]), self.block
            if self._holds_other(block, view[place * size : (place + 1) * size]):
                with self._lock:
                    self._found.append(block)

    def _holds_other(self, block: int, now: memoryview) -> bool:
        then = bytearray(len(now))
        try:
            self._then.readinto(block * self.block, memoryview(then))
        except (DiskError, OSError):  # the point is damaged there: nothing can be said
            return False
        ours, theirs = np.frombuffer(now, np.uint8), np.frombuffer(then, np.uint8)
        return bool(ours[ours != theirs].any())

    def found(self) -> Int64s:
        """The numbers of the blocks, ascending; final once all that changed has been marked."""
        blocks = np.unique(np.array(self._found, np.int64))
        return np.asarray(blocks[~self._marked[blocks]], np.int64)

    def is_marked(self) -> Flags:
        """bool[blocks]: where it is to be expected that something differs."""
        return self._marked


def doubt(count: int, size: int = BLOCK) -> str:
    """Why a tracker is not believed any more, to be put behind "because".

    Args:
        count: of the blocks that it has missed.
        size: bytes of each.
    """
    blocks = trn(
        "{count} block of {block} KiB", "{count} blocks of {block} KiB", count, block=size >> 10
    )
    return tr("a full read found {blocks} that had changed without being marked", blocks=blocks)


class Differences:
    """Which blocks of a source are not as a point has them.

    Args:
        state: the point's digests.
        size: of the disk, in bytes.
    """

    def __init__(self, state: DigestFold, size: int) -> None:
        self._state = in_units(state)
        self._size = size
        self.differs = np.zeros(-(-size // BLOCK), np.bool_)

    def look(self, ranges: Ranges, read: Read, seen: Seen | None, phase: str, task: Task) -> None:
        """Read these ranges, in bytes, which may have been looked at before.

        Args:
            ranges: whole blocks, in bytes.
            read: fills a view with pieces of the disk (`transfer`).
            seen: is shown the blocks, their bytes, and which of them surely differ.
            phase: what this is called in progress reports.
            task: what it reports to, and what stops it.
        """

        def see(pieces: Ranges, view: memoryview) -> None:
            blocks = blocks_of(pieces, BLOCK)
            known, sure = self._state.as_far_as_known(blocks)
            differing = differ(self._state.digest(view), known) & sure
            self.differs[blocks] = differing
            if seen:
                seen(blocks, view, differing)

        whole = aligned(ranges, BLOCK, self._size)
        transfer(whole, read, see, phase=phase, task=task)
