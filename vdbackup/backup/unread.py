"""What a capture leaves out of its source, and what a point therefore does not claim to hold.

What file systems call free is neither read nor kept: there the point reads as its parent does, or
as zeros. That the source had something else there is no difference, and no tracker has missed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vdbackup.consistency import How
from vdbackup.disks.extents import Ranges, aligned, as_ranges, overlap, union, without
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources import free_space
from vdbackup.sources.moment import Outcome
from vdbackup.sources.source import OneReading, Rounds, Source
from vdbackup.translation import tr
from vdbackup.volumes.allocation import MAX_RANGES, NOTHING, LeftOut

KEPT_AFTER_ALL = tr(
    "Free space was read, too: only of what is one moment's is it known what is free in it."
)


@dataclass
class Unread:
    """What of a source a capture has still not read, because that is free.

    Attributes:
        ranges: that, in whole blocks.
        sentences: what to say of it.
    """

    left_out: LeftOut = field(default_factory=LeftOut)
    ranges: Ranges = field(default_factory=lambda: NOTHING)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is left out, and what is kept whole and why."""
        return self.left_out.sentences

    def first(self, candidates: Ranges) -> Ranges:
        """What to read first of the whole blocks that may differ from the parent's."""
        self.ranges = overlap(candidates, self.left_out.ranges)
        return without(candidates, self.left_out.ranges)

    def again(self, changed: Ranges, swapped_to: Ranges) -> Ranges:
        """What to read of what has changed meanwhile: all but what the kernel swaps to now.

        Space for swapping that is used no more may be something else already.
        """
        swap = overlap(self.left_out.swap, swapped_to)
        wanted = without(changed, swap)
        self.ranges = union(without(self.ranges, wanted), overlap(changed, swap))
        return wanted

    def after_all(self, outcome: Outcome) -> Ranges:
        """What has to be read, too, because nothing makes the copy one moment's; else nothing."""
        if outcome.consistency.how is not How.AS_IS or not len(self.ranges):
            return NOTHING
        ranges, self.ranges = self.ranges, NOTHING
        self.left_out = replace(self.left_out, sentences=(KEPT_AFTER_ALL,))
        return ranges

    def listed(self) -> tuple[tuple[int, int], ...]:
        """What a manifest lists of it: all, and of very many what lies between the nearest, too."""
        return tuple((offset, length) for offset, length in few(self.ranges, MAX_RANGES).tolist())


def unread(source: Source, rounds: Rounds, plan: LeftOut, *, all_blocks: bool) -> Unread:
    """What is to be left out of a source, in whose rounds nothing has been read yet.

    Where that was nothing when it was planned it is not looked for again, but for what is in use,
    which may have been just writing: a failing disk may take many seconds for each failing read.
    """
    if all_blocks:
        return Unread()
    looks_again = len(plan.ranges) or not isinstance(rounds, OneReading)
    return Unread(free_space.found(source, rounds) if looks_again else plan)


def planned(source: Source, rounds: Rounds, *, all_blocks: bool) -> LeftOut:
    """What will be, as far as can be said before."""
    return LeftOut() if all_blocks else free_space.planned(source, rounds)


def not_claimed(point: RecoveryPoint) -> Ranges:
    """What of its source, in bytes, a point says nothing of: whole blocks, ascending and apart.

    There its source may have held something else at the point's moment than the point reads as.
    Whoever compares the two leaves this out, and whoever reads on from the point by what a tracker
    has marked reads what is in use of it, marked or not.
    """
    ranges = point.reading.not_read if point.reading else ()
    listed = as_ranges(ranges)
    return aligned(union(listed, NOTHING), BLOCK, point.virtual_size)


def few(ranges: Ranges, most: int) -> Ranges:
    """At most so many ranges that hold these, with the smallest gaps between them filled."""
    if len(ranges) <= most:
        return ranges
    ends = ranges.sum(1)
    gaps = ranges[1:, 0] - ends[:-1]
    cuts = np.sort(np.argsort(gaps, kind="stable")[len(gaps) - (most - 1) :])
    starts = np.concatenate((ranges[:1, 0], ranges[cuts + 1, 0]))
    lasts = np.append(ends[cuts], ends[-1])
    return np.stack([starts, lasts - starts], axis=1)
