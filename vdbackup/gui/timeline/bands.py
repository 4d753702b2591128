"""Where logs of writes lie in the timeline, and which moment is where: arithmetic, nothing of Qt.

A log is a band from its point to the next place, in which its own time runs; what came between two
looks into it is spread evenly, so that every write has a place of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s
from vdbackup.gui.timeline.layout import Layout
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint

GAP = 0.14
"""Steps of x that stay free beside both points."""
SEEN_AT_ONCE = 40
"""Writes that the closest look shows."""
_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Band:
    """A log in the timeline.

    Attributes:
        log: what it shows.
        point: that the writes lie behind.
        index: of that point.
        lane: that of the point.
        left, right: x at which it begins and ends.
        row, rows: which of the logs behind this point it is, and of how many.
    """

    log: ReadLog
    point: RecoveryPoint
    index: int
    lane: int
    left: float
    right: float
    row: int
    rows: int

    @cached_property
    def _course(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Numbers of writes, their x, and their times in ns, all ascending."""
        writes, times = self.log.course
        span = float(times[-1] - times[0])
        if span > 0:
            share = (times - times[0]) / span
        else:  # nobody knows when they came
            share = np.linspace(0, 1, len(times)) if len(times) > 1 else np.zeros(1)
        x = self.left + share * (self.right - self.left)
        return writes.astype(np.float64), x, times.astype(np.float64)

    @cached_property
    def ticks(self) -> NDArray[np.float64]:
        """float64[n], ascending: the x of each consistent moment."""
        return self._places(self.log.moments)

    def x_of(self, write: int) -> float:
        """Where the moment after a write stands."""
        return float(self._places(np.array([write]))[0])

    def _places(self, moments: Int64s) -> NDArray[np.float64]:
        """Where moments stand: as soon as they had come, where nothing came after them for long."""
        writes, x, _ = self._course
        first = np.minimum(np.searchsorted(writes, moments), len(writes) - 1)
        return np.where(writes[first] == moments, x[first], np.interp(moments, writes, x))

    def time_at(self, x: float) -> datetime:
        """The local time that stands there."""
        _, places, times = self._course
        return datetime.fromtimestamp(float(np.interp(x, places, times)) / _NS, UTC).astimezone()

    def write_at(self, x: float, reach: float) -> int:
        """The consistent moment closest to `x` if one is within `reach`; else any write there."""
        moments, ticks = self.log.moments, self.ticks
        if len(ticks):
            right = min(int(np.searchsorted(ticks, x)), len(ticks) - 1)
            nearest = min(max(right - 1, 0), right, key=lambda each: abs(float(ticks[each]) - x))
            if abs(float(ticks[nearest]) - x) <= reach:
                return int(moments[nearest])
        writes, places, _ = self._course
        return self.log.held(int(np.interp(x, places, writes)))

    def moment_beside(self, write: int, step: int) -> int:
        """The consistent moment `step` of them behind a write, or before it; the last there is."""
        moments = self.log.moments
        if not len(moments):
            return write
        at = int(np.searchsorted(moments, write, "left" if step < 0 else "right"))
        at += step if step < 0 else step - 1
        return int(moments[min(max(at, 0), len(moments) - 1)])


def lay_out(
    logs: Iterable[ReadLog], points: Sequence[RecoveryPoint], layout: Layout
) -> tuple[Band, ...]:
    """The bands of those logs whose points are shown, in their order."""
    places = {point.id: i for i, point in enumerate(points)}
    behind: dict[int, list[ReadLog]] = {}
    for log in logs:
        if log.point_id in places:
            behind.setdefault(places[log.point_id], []).append(log)
    bands: list[Band] = []
    for index, own in sorted(behind.items()):
        begin = float(layout.x[index])
        end = float(layout.x[index + 1]) if index + 1 < len(layout) else begin + 1
        for row, log in enumerate(own):
            lane = int(layout.lane[index])
            place = (begin + GAP, end - GAP, row, len(own))
            bands.append(Band(log, points[index], index, lane, *place))
    return tuple(bands)


def narrowest(bands: Sequence[Band]) -> float:
    """Steps of x that the closest look shows."""
    steps = ((each.right - each.left) / max(each.log.writes, 1) * SEEN_AT_ONCE for each in bands)
    return min((2.0, *steps))


@dataclass(frozen=True)
class Spot:
    """A place in a band: the moment after a write, which is kept."""

    band: Band
    write: int

    @classmethod
    def nearest(cls, band: Band, write: int, *, later: bool = False) -> Spot:
        """That after a write, or the nearest before it or behind it: logs are thinned."""
        return cls(band, band.log.held(write, later=later))

    @cached_property
    def moment(self) -> WrittenPoint:
        """That moment; raises as `ReadLog.moment`."""
        return self.band.log.moment(self.band.point, self.write)
