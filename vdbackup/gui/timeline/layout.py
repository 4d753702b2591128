"""Where each recovery point stands in the timeline: pure arithmetic, nothing of Qt.

x grows with the sequence, which is the truth, and never with a clock that may have been set back.
Points seconds apart are one step apart, so that they can be told apart; a pause much longer than
usual makes the step up to 2.5 times as wide, so that it is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdbackup.gui.words import local
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType

WIDEST_STEP = 2.5
KINDS = tuple(PointType)  # `Layout.kind` counts in this order


@dataclass(frozen=True)
class Layout:
    """Arrays of one element per point, in the order of the sequence.

    Attributes:
        x: float64, strictly increasing, the first at 0; about 1 apart.
        time: float64, seconds since 1970.
        lane: int32, 0 is the uppermost.
        parent: int32, index of the parent, -1 for none.
        strand: int32, index of the first point of the unbroken run in this lane up to this one.
        kind: int8, index in `KINDS`.
        stored: float64, bytes that each point holds itself.
        lanes: how many lanes there are, at least 1.
    """

    x: NDArray[np.float64]
    time: NDArray[np.float64]
    lane: NDArray[np.int32]
    parent: NDArray[np.int32]
    strand: NDArray[np.int32]
    kind: NDArray[np.int8]
    stored: NDArray[np.float64]
    lanes: int

    def __len__(self) -> int:
        return len(self.x)

    def chain(self, index: int) -> list[tuple[int, int]]:
        """The way from a point down to its full, as (from, to) pairs of indices, newest first.

        A run within one lane is one pair, so that a chain of thousands is a few lines to draw.
        """
        steps = []
        while index >= 0:
            first = int(self.strand[index])
            if first != index:
                steps.append((index, first))
            index = int(self.parent[first])
            if index >= 0:
                steps.append((first, index))
        return steps

    def nearest(self, x: float) -> int:
        """The index of the point closest to `x`; -1 when there are no points."""
        if not len(self):
            return -1
        right = int(np.clip(np.searchsorted(self.x, x), 1, len(self) - 1)) if len(self) > 1 else 0
        left = max(0, right - 1)
        return left if x - self.x[left] <= self.x[right] - x else right

    def since(self, seconds: float) -> int:
        """The index from which on all points are at most `seconds` older than the last one."""
        if not len(self):
            return 0
        older = np.flatnonzero(self.time < self.time[-1] - seconds)  # also before a clock set back
        return int(older[-1]) + 1 if len(older) else 0


def arrange(points: Sequence[RecoveryPoint]) -> Layout:
    """Give each point (sorted by sequence) its place."""
    index = {point.id: i for i, point in enumerate(points)}
    parent = [index.get(point.parent or "", -1) for point in points]
    time = np.array([local(point.created).timestamp() for point in points], np.float64)
    lane, strand, lanes = _lanes(points, parent)
    return Layout(
        x=_spread(time),
        time=time,
        lane=np.array(lane, np.int32),
        parent=np.array(parent, np.int32),
        strand=np.array(strand, np.int32),
        kind=np.array([KINDS.index(point.type) for point in points], np.int8),
        stored=np.array([point.stored_bytes for point in points], np.float64),
        lanes=lanes,
    )


def _spread(time: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(time) < 2:
        return np.zeros(len(time))
    gaps = np.maximum(np.diff(time), 1.0)
    unusual = np.log10(gaps / np.median(gaps) / 2)  # up to twice the usual gap is usual
    steps = 1 + np.clip(unusual, 0, WIDEST_STEP - 1)
    return np.concatenate(([0.0], np.cumsum(steps)))


def _lanes(
    points: Sequence[RecoveryPoint], parent: Sequence[int]
) -> tuple[list[int], list[int], int]:
    """Each point's lane and the start of its strand, and the number of lanes.

    A parent's first incremental child continues its lane, unless it was promoted from a session on
    what was captured: the source's own points stay in one lane. A full takes the first lane that
    nobody will continue, any other point the first such lane below its parent's.
    """
    heir = [-1] * len(points)
    for i, above in enumerate(parent):
        if above >= 0 and heir[above] < 0 and _continues(points[i], points[above]):
            heir[above] = i
    lane, strand = [0] * len(points), list(range(len(points)))
    tips: list[int] = []  # the last point in each lane
    for i, above in enumerate(parent):
        if above >= 0 and heir[above] == i:
            lane[i], strand[i] = lane[above], strand[above]
            tips[lane[i]] = i
            continue
        first = lane[above] + 1 if above >= 0 else 0
        free = (k for k in range(first, len(tips)) if heir[tips[k]] < 0)
        lane[i] = next(free, len(tips))
        tips[lane[i] : lane[i] + 1] = [i]
    return lane, strand, max(1, len(tips))


def _continues(child: RecoveryPoint, parent: RecoveryPoint) -> bool:
    """Whether the child goes on where its parent left off."""
    fork = child.promoted_from is not None and parent.promoted_from is None
    return child.type is PointType.INCREMENTAL and not fork
