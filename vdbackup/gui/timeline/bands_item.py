"""The logs of writes as they are drawn: a band for each, in it a tick for each consistent moment.

Where ticks lie closer than pixels they become columns, the higher the more there are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QLineF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPen

from vdbackup.gui.timeline.bands import Band
from vdbackup.gui.timeline.glyphs import BADGE, Badge, Glyphs, place

Floats = NDArray[np.float64]
HEIGHT = 18.0  # pixels of all bands behind one point, as long as there is room
LOWEST = 5.0  # pixels of one of several
ROOM_FOR_BADGE = 16.0  # pixels
COLUMN = 2.0  # pixels that a tick takes, with what is beside it


def area(band: Band, left: float, right: float, lane: float) -> QRectF:
    """Where a band lies: from `left` to `right`, behind a point at the height `lane`; pixels."""
    height = max(LOWEST, HEIGHT / band.rows)
    top = lane - height * band.rows / 2 + height * band.row
    return QRectF(left, top, right - left, height - (1.0 if band.rows > 1 else 0.0))


class _Drawn(pg.GraphicsObject):
    """Something of each band, drawn in pixels."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self._bands: tuple[Band, ...] = ()
        self._lanes = 1
        self._glyphs = glyphs

    def show_bands(self, bands: tuple[Band, ...], lanes: int, glyphs: Glyphs) -> None:
        """Show these from now on, where there are so many lanes."""
        self.prepareGeometryChange()
        self._bands, self._lanes, self._glyphs = bands, lanes, glyphs
        self.update()

    def boundingRect(self) -> QRectF:
        """All of them."""
        if not self._bands:
            return QRectF()
        return QRectF(-2, -2, max(each.right for each in self._bands) + 4, self._lanes + 3)

    def paint(self, painter: QPainter, *_: object) -> None:
        """Draw what is visible."""
        if not self._bands:
            return
        transform = painter.transform()
        painter.resetTransform()
        view = self.getViewBox().sceneBoundingRect()
        painter.setClipRect(view)

        def pixel(x: Floats) -> Floats:
            return x * transform.m11() + transform.dx()

        for band in self._bands:
            left, right = pixel(np.array([band.left, band.right])).tolist()
            if left <= view.right() and right >= view.left():
                lane = band.lane * transform.m22() + transform.dy()
                self.draw(painter, band, area(band, left, right, lane), pixel)
        painter.setClipping(False)

    def draw(
        self, painter: QPainter, band: Band, whole: QRectF, pixel: Callable[[Floats], Floats]
    ) -> None:
        """Draw one band, `whole` of which lies there; `pixel` says where an x is."""


class BandsItem(_Drawn):
    """The bands themselves, below points and edges."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(glyphs)
        self.setZValue(-1)

    def draw(
        self, painter: QPainter, band: Band, whole: QRectF, pixel: Callable[[Floats], Floats]
    ) -> None:
        """A frame, and a tick for each consistent moment."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        theme, view = self._glyphs.theme, self.getViewBox().sceneBoundingRect()
        left, right = max(whole.left(), view.left() - 2), min(whole.right(), view.right() + 2)
        seen = QRectF(left, whole.top(), right - left, whole.height())
        colour = QColor(theme.bad if band.log.problem else theme.session)
        fill = QColor(colour)
        fill.setAlphaF(0.14)
        painter.setPen(QPen(colour, 1))
        painter.setBrush(fill)
        painter.drawRect(seen)
        if band.log.problem:
            painter.setBrush(QBrush(colour, Qt.BrushStyle.BDiagPattern))
            painter.drawRect(seen)
            return
        x, share = thinned(pixel(band.ticks), left, right)
        low = seen.bottom()
        painter.drawLines(
            [
                QLineF(at, low, at, low - height)
                for at, height in zip(x.tolist(), (share * seen.height()).tolist(), strict=True)
            ]
        )


class BandMarksItem(_Drawn):
    """What is wrong with a log, over everything at its end."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(glyphs)
        self.setZValue(1)

    def draw(
        self, painter: QPainter, band: Band, whole: QRectF, _pixel: Callable[[Floats], Floats]
    ) -> None:
        """A badge, where there is room for one."""
        if whole.width() < ROOM_FOR_BADGE or not (band.log.problem or band.log.cut_short):
            return
        badge = Badge.DAMAGED if band.log.problem else Badge.ENDED_EARLY
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        place(painter, self._glyphs.badge(badge), whole.right() - BADGE, whole.center().y())


def thinned(ticks: Floats, left: float, right: float) -> tuple[Floats, Floats]:
    """Ascending places in pixels as one for each column between two, and how high each is, 0 to 1.

    One that stands alone is as high as there is room.
    """
    first, last = np.searchsorted(ticks, [left, right])
    columns = np.floor(ticks[first:last] / COLUMN)
    starts = np.flatnonzero(np.diff(columns, prepend=-np.inf))
    if not len(starts):
        return np.zeros(0), np.zeros(0)
    count = np.diff(starts, append=len(columns)).astype(np.float64)
    most = float(count.max())
    share = np.ones(len(count)) if most == 1 else np.log2(1 + count) / np.log2(1 + most)
    return np.floor(columns[starts] * COLUMN) + 0.5, share
