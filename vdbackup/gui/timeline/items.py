"""What stands still in the timeline, as pyqtgraph items: the chains, the bars, the time axis.

All of them draw in pixels, not in the plot's units: a circle stays round at every zoom. Where
points lie closer than pixels, one of them is drawn for all in the same place, so that the cost of
a picture follows its width and not the number of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from vdbackup.gui import words
from vdbackup.gui.timeline.bands import Band
from vdbackup.gui.timeline.glyphs import Badge, Glyphs, place
from vdbackup.gui.timeline.layout import Layout
from vdbackup.repository.model import RecoveryPoint

BLOCK = 65536  # bytes; the smallest change there is
COLUMN = 2.0  # pixels that count as one place
SMALLEST, LARGEST = 2.2, 11.0  # radius of a point, pixels
CLOSE = 1.6  # steps of x in sight below which the time within a log is told
FAINT = 0.3  # opacity of what would go
ROOM_FOR_BADGES, ROOM_FOR_NAMES, ROOM_FOR_OVERLAYS = 20, 30, 30  # pixels from point to point


@dataclass(frozen=True)
class Facts:
    """What the timeline shows.

    Attributes:
        points: by sequence.
        layout: where each stands.
        sessions: ids of points from which a virtual machine runs.
        pinned: ids of points that stay whatever the policy says.
        going: ids of points that would go by a policy that is being tried.
        bands: logs of writes behind them.
    """

    points: Sequence[RecoveryPoint]
    layout: Layout
    sessions: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    going: frozenset[str] = frozenset()
    bands: tuple[Band, ...] = ()

    @property
    def end(self) -> float:
        """The x at which there is no more."""
        last = float(self.layout.x[-1]) if len(self.layout) else 0.0
        return max([last, *(each.right for each in self.bands)])


def scaled(amount: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bytes as 0 to 1, by their logarithm: a full and a tiny increment are both seen."""
    if not len(amount):
        return amount
    powers = np.log2(1 + amount / BLOCK)
    return powers / max(1.0, float(powers.max()))


def radius(room: float, share: float) -> float:
    """Radius in pixels of a point with `room` pixels to the next; `share` is its scaled size."""
    return float(np.clip(room * 0.36, SMALLEST, LARGEST)) * (0.72 + 0.28 * share)


class ChainItem(pg.GraphicsObject):
    """Points, their edges, badges and satellites."""

    def __init__(self, facts: Facts, glyphs: Glyphs) -> None:
        super().__init__()
        self.show_facts(facts, glyphs)

    def show_facts(self, facts: Facts, glyphs: Glyphs) -> None:
        """Show something else from now on."""
        self.prepareGeometryChange()
        layout = facts.layout
        self._facts, self._glyphs = facts, glyphs
        self.share = scaled(layout.stored)
        last = np.zeros(len(layout), np.int32)
        np.maximum.at(last, layout.strand, np.arange(len(layout), dtype=np.int32))
        self._strands = np.flatnonzero(last > np.arange(len(layout)))
        self._ends = last[self._strands]
        branches = layout.parent >= 0
        branches[branches] = layout.lane[layout.parent[branches]] != layout.lane[branches]
        self._branches = np.flatnonzero(branches)
        self.update()

    def boundingRect(self) -> QRectF:
        """All there is, with room for what is drawn around a point."""
        layout = self._facts.layout
        width = float(layout.x[-1]) if len(layout) else 0.0
        return QRectF(-2, -2, width + 4, layout.lanes + 3)

    def paint(self, painter: QPainter, *_: object) -> None:
        """Draw what is visible."""
        layout = self._facts.layout
        if not len(layout):
            return
        transform = painter.transform()
        painter.resetTransform()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        view = self.getViewBox().sceneBoundingRect()
        x = layout.x * transform.m11() + transform.dx()
        y = layout.lane * transform.m22() + transform.dy()
        room = transform.m11()
        seen = np.flatnonzero((x > view.left() - 30) & (x < view.right() + 30))
        self._draw_edges(painter, x, y, (view.left(), view.right()))
        if len(seen):
            self._draw_points(painter, x, y, room, self._thinned(seen, x, room))

    def _draw_edges(
        self,
        painter: QPainter,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        view: tuple[float, float],
    ) -> None:
        layout = self._facts.layout
        left, right = view
        lines = [
            QLineF(max(x[a], left), y[a], min(x[b], right), y[b])
            for a, b in zip(self._strands, self._ends, strict=True)
            if x[a] < right and x[b] > left
        ]
        child = self._branches
        child = child[(x[child] > left) & (x[layout.parent[child]] < right)]
        _, first = np.unique(
            np.stack((np.floor(x[child] / COLUMN), layout.parent[child])), axis=1, return_index=True
        )
        for i in child[first]:
            above = layout.parent[i]
            lines.append(QLineF(x[above], y[above], x[i], y[i]))
        painter.setPen(QPen(QColor(self._glyphs.theme.edge), 2))
        painter.drawLines(lines)

    def _thinned(
        self, seen: NDArray[np.intp], x: NDArray[np.floating], room: float
    ) -> NDArray[np.intp]:
        """Of the visible points, one for each place and type; all where there is room."""
        if room > 2 * COLUMN:
            return seen
        layout = self._facts.layout
        place_of = np.floor(x[seen] / COLUMN).astype(np.int64)
        key = (place_of * layout.lanes + layout.lane[seen]) * 4 + layout.kind[seen]
        _, first = np.unique(key, return_index=True)
        return seen[first]

    def _draw_points(
        self,
        painter: QPainter,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        room: float,
        seen: NDArray[np.intp],
    ) -> None:
        points, layout, glyphs = self._facts.points, self._facts.layout, self._glyphs
        theme = glyphs.theme
        name_font = painter.font()
        name_font.setPixelSize(11)
        painter.setFont(name_font)
        muted = QColor(theme.muted)
        for i in seen:
            at_x, at_y = float(x[i]), float(y[i])
            size = radius(room, float(self.share[i]))
            point = points[i]
            if room >= ROOM_FOR_OVERLAYS:
                painter.setPen(QPen(muted, 1))
                corner = QPointF(at_x + size + 5, at_y - size - 5)
                painter.drawLine(QPointF(at_x, at_y), corner)
                place(painter, glyphs.overlay(), corner.x(), corner.y())
            promoted = point.promoted_from is not None
            goes = point.id in self._facts.going
            painter.setOpacity(FAINT if goes else 1.0)
            place(painter, glyphs.node(int(layout.kind[i]), size, promoted=promoted), at_x, at_y)
            painter.setOpacity(1.0)
            if goes:  # not by colour alone
                place(painter, glyphs.cross(), at_x, at_y)
            self._draw_badges(painter, point, at_x, at_y, size, room)
            if room >= ROOM_FOR_NAMES:
                painter.setPen(muted)
                box = QRectF(at_x - 30, at_y + size + 5, 60, 16)
                painter.drawText(box, Qt.AlignmentFlag.AlignCenter, f"#{point.sequence}")
            if point.id in self._facts.sessions:
                painter.setPen(QPen(QColor(theme.session), 1.5))
                painter.drawLine(QPointF(at_x, at_y - size), QPointF(at_x, at_y - size - 10))
                place(painter, glyphs.session(), at_x, at_y - size - 17)

    def _draw_badges(
        self, painter: QPainter, point: RecoveryPoint, x: float, y: float, size: float, room: float
    ) -> None:
        low = y + size * 0.8
        wrong = trouble(point)
        if wrong:  # a badge that is worth crowding for
            place(painter, self._glyphs.badge(wrong), x - size * 0.9, y - size * 0.9)
        if point.id in self._facts.pinned:  # so is this
            beside = size * 0.6 if point.id in self._facts.sessions else 0.0
            place(painter, self._glyphs.pin(), x - beside, y - size - 6)
        if room < ROOM_FOR_BADGES:
            return
        if point.proven:
            place(painter, self._glyphs.badge(Badge.PROVEN), x + size * 0.9, low)
            return
        if point.verified and point.verified.ok:
            place(painter, self._glyphs.badge(Badge.VERIFIED), x + size * 0.9, low)
        if point.boot_tested and point.boot_tested.ok:
            place(painter, self._glyphs.badge(Badge.BOOTED), x - size * 0.9, low)


def trouble(point: RecoveryPoint) -> Badge | None:
    """What is wrong with a point; one that does not boot may hold all of its data."""
    if point.verified and not point.verified.ok:
        return Badge.DAMAGED
    if point.boot_tested and not point.boot_tested.ok:
        return Badge.NOT_BOOTED
    return None


class BarsItem(pg.GraphicsObject):
    """How much each point holds itself: what had changed.

    A bar's height goes by the logarithm, and the highest is the largest that is in sight.
    """

    def __init__(self, facts: Facts, glyphs: Glyphs) -> None:
        super().__init__()
        self.show_facts(facts, glyphs)

    def show_facts(self, facts: Facts, glyphs: Glyphs) -> None:
        """Show something else from now on."""
        self.prepareGeometryChange()
        self._layout, self._glyphs = facts.layout, glyphs
        self.update()

    def boundingRect(self) -> QRectF:
        """All bars."""
        width = float(self._layout.x[-1]) if len(self._layout) else 0.0
        return QRectF(-2, 0, width + 4, 1)

    def paint(self, painter: QPainter, *_: object) -> None:
        """Draw the visible bars; where several share a place, the highest of them."""
        if not len(self._layout):
            return
        transform = painter.transform()
        painter.resetTransform()
        view = self.getViewBox().sceneBoundingRect()
        x = self._layout.x * transform.m11() + transform.dx()
        seen = np.flatnonzero((x > view.left() - 30) & (x < view.right() + 30))
        if not len(seen):
            return
        column = np.floor(x[seen] / COLUMN)
        starts = np.flatnonzero(np.diff(column, prepend=-np.inf))
        height = scaled(np.maximum.reduceat(self._layout.stored[seen], starts))
        width = float(np.clip(transform.m11() * 0.5, 1.5, 20))
        bottom, top = view.bottom(), transform.m22()  # pixels; m22 is negative, y grows upwards
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._glyphs.theme.bar))
        painter.drawRects(
            [
                QRectF(
                    at - width / 2, bottom - max(1.5, -share * top), width, max(1.5, -share * top)
                )
                for at, share in zip(x[seen][starts].tolist(), height.tolist(), strict=True)
            ]
        )


class TimeAxis(pg.AxisItem):
    """Says when the points below which it stands were made."""

    LABEL_WIDTH = 84  # pixels

    def __init__(self) -> None:
        super().__init__("bottom")
        self._layout: Layout | None = None
        self._bands: tuple[Band, ...] = ()
        self.setStyle(tickLength=5, tickTextOffset=4, autoExpandTextSpace=False)
        self.setHeight(44)

    def show_facts(self, facts: Facts) -> None:
        """Label these from now on."""
        self._layout, self._bands = facts.layout, facts.bands
        self.picture = None
        self.update()

    def tickValues(
        self,
        minVal: float,  # noqa: N803 (pyqtgraph's name)
        maxVal: float,  # noqa: N803
        size: float,
    ) -> list[tuple[float, list[float]]]:
        """Every so many points one, so that labels do not touch, the same ones while panning."""
        if self._layout is None or not len(self._layout) or size <= 0:
            return []
        if maxVal - minVal < CLOSE and (inside := self._band_at((minVal + maxVal) / 2)):
            return [_evenly(max(minVal, inside.left), min(maxVal, inside.right), maxVal - minVal,
                            size / self.LABEL_WIDTH)]  # fmt: skip
        x = self._layout.x
        stride = 1
        while stride * size / (maxVal - minVal) < self.LABEL_WIDTH:
            stride *= 2
        ticks = x[::stride]
        return [(float(stride), ticks[(ticks >= minVal) & (ticks <= maxVal)].tolist())]

    def _band_at(self, x: float) -> Band | None:
        return next((each for each in self._bands if each.left <= x <= each.right), None)

    def _time_at(self, x: float) -> datetime:
        layout, band = self._layout, self._band_at(x)
        if band is not None:
            return band.time_at(x)
        if layout is None:
            return datetime.now(UTC).astimezone()
        return datetime.fromtimestamp(layout.time[layout.nearest(x)], UTC).astimezone()

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """The time of day, with its date wherever a new day begins."""
        if self._layout is None:
            return []
        moments = [self._time_at(x) for x in values]
        minutes = [moment.replace(second=0, microsecond=0) for moment in moments]
        seconds = len(set(minutes)) < len(minutes)
        years = bool(moments) and moments[0].year != datetime.now(UTC).year
        labels, day = [], None
        for moment in moments:
            label = f"{moment:%H:%M:%S}" if seconds else f"{moment:%H:%M}"
            if moment.date() != day:
                day = moment.date()
                told = words.day(moment, with_year=years)
                label += f"\n{told}" if years else f"\n{words.weekday(moment)} {told}"
            labels.append(label)
        return labels


def _evenly(low: float, high: float, width: float, most: float) -> tuple[float, list[float]]:
    """Places between two x, so many in a `width` at most, the same ones while panning."""
    step = 2.0 ** np.ceil(np.log2(width / max(most, 1.0)))
    return float(step), (np.arange(np.ceil(low / step), high / step) * step).tolist()
