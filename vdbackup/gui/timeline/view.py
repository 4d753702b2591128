"""The timeline's picture: recovery points, bars and time axis, drawn once by pyqtgraph.

A frame in which only the cursor moves copies the picture and draws the cursor over it. Zooming,
panning, resizing and other points make a new picture.
"""

from __future__ import annotations

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPixmap, QResizeEvent
from PySide6.QtWidgets import QFrame, QGraphicsView, QWidget

from vdbackup.gui import words
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline import bands_item
from vdbackup.gui.timeline.bands import Band, narrowest
from vdbackup.gui.timeline.bands_item import BandMarksItem, BandsItem
from vdbackup.gui.timeline.glyphs import Glyphs
from vdbackup.gui.timeline.items import BarsItem, ChainItem, Facts, TimeAxis, radius
from vdbackup.gui.timeline.layout import Layout, arrange
from vdbackup.translation import tr

LANE_HEIGHT = 84  # pixels, where there is room
BARS_HEIGHT = 84
FEWEST_STEPS = 7.0  # a lone point does not fill the window
EDGE = 44  # pixels beside the outermost points
REACH = 16  # pixels from which a point is meant


class TimelineView(pg.GraphicsView):
    """Shows facts, and knows where on the screen each point is.

    Attributes:
        facts: what is shown.
        glyphs: the pictures of points and badges.
        pictures_drawn: how often the picture had to be drawn.

    Signals:
        range_changed(float, float): the x at both edges, after zooming or panning.
    """

    range_changed = Signal(float, float)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setMouseTracking(False)  # pyqtgraph would look for what hovers, at each move
        self.facts = Facts((), arrange(()))
        self.glyphs = Glyphs(theme, self.devicePixelRatioF())
        self.pictures_drawn = 0
        self._shows_all = True
        self._picture: QPixmap | None = None
        self._build()
        self.set_theme(theme)

    def _build(self) -> None:
        grid = pg.GraphicsLayout()
        grid.setContentsMargins(10, 34, 10, 4)
        grid.setSpacing(0)
        self.setCentralItem(grid)
        self._view = pg.ViewBox(invertY=True, enableMenu=False)
        self._bars_view = pg.ViewBox(enableMenu=False)
        self._axis = TimeAxis()
        for row, item in enumerate((self._view, self._bars_view, self._axis)):
            grid.addItem(item, row, 0)
        grid.layout.setRowFixedHeight(1, BARS_HEIGHT)
        grid.layout.setRowStretchFactor(0, 1)
        self._chain = ChainItem(self.facts, self.glyphs)
        self._bars = BarsItem(self.facts, self.glyphs)
        self._written = (BandsItem(self.glyphs), BandMarksItem(self.glyphs))
        for each in self._written:
            self._view.addItem(each, ignoreBounds=True)
        self._view.addItem(self._chain, ignoreBounds=True)
        self._bars_view.addItem(self._bars, ignoreBounds=True)
        self._bars_view.setYRange(0, 1.4, padding=0)
        self._bars_view.setXLink(self._view)
        self._axis.linkToView(self._bars_view)
        self._view.sigXRangeChanged.connect(self._on_range_changed)
        self._view.sigResized.connect(self._on_resized)
        self._bars_view.sigResized.connect(self._invalidate)

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self.glyphs = Glyphs(theme, self.devicePixelRatioF())
        self.setBackground(theme.base)
        self._axis.setPen(pg.mkPen(theme.border))
        self._axis.setTextPen(pg.mkPen(theme.muted))
        self.show_facts(self.facts)

    def show_facts(self, facts: Facts) -> None:
        """Show these facts; the range stays as it is."""
        self.facts = facts
        self._chain.show_facts(facts, self.glyphs)
        self._bars.show_facts(facts, self.glyphs)
        for each in self._written:
            each.show_bands(facts.bands, facts.layout.lanes, self.glyphs)
        self._axis.show_facts(facts)
        self._fit_lanes()
        self._invalidate()

    @property
    def painted(self) -> bool:
        """Whether the picture is that of the facts."""
        return self._picture is not None

    # the range

    @property
    def visible_range(self) -> tuple[float, float]:
        """X at the left and the right edge."""
        low, high = self._view.viewRange()[0]
        return float(low), float(high)

    @property
    def whole_range(self) -> tuple[float, float]:
        """X at which panning ends, left and right."""
        last = max(self.facts.end, FEWEST_STEPS)
        margin = self._margin(last)
        return -margin, last + margin

    def _margin(self, steps: float) -> float:
        """What to add on both sides of so many steps, in steps, so that labels have room."""
        width = max(self._view.width() - 2 * EDGE, 1.0)
        return max(0.6, steps * EDGE / width)

    def set_range(self, low: float, high: float) -> None:
        """Show this range of x, as far as there is anything."""
        self._shows_all = False
        least, most = self.whole_range
        width = min(max(high - low, narrowest(self.facts.bands)), most - least)
        low = min(max(low, least), most - width)
        self._view.setXRange(low, low + width, padding=0)

    def show_since(self, seconds: float | None) -> None:
        """Show the points of so many seconds before the newest one; None shows all."""
        layout = self.facts.layout
        if not len(layout):
            return
        first = 0 if seconds is None else layout.since(seconds)
        low, high = float(layout.x[first]), self.facts.end
        if high - low < FEWEST_STEPS:
            low = max(0.0, high - FEWEST_STEPS)
            high = low + FEWEST_STEPS
        margin = self._margin(high - low)
        self.set_range(low - (0.6 if first else margin), high + margin)
        self._shows_all = seconds is None

    def scroll_to(self, low: float) -> None:
        """Show what begins at x = `low`, as wide as now."""
        left, right = self.visible_range
        self.set_range(low, low + right - left)

    def keep_range(self, before: Layout) -> None:
        """After a change of facts, show what was shown; follow the newest point if it was seen."""
        if self._shows_all:
            self.show_since(None)
            return
        low, high = self.visible_range
        followed = len(before) and before.x[-1] <= high
        shift = max(0.0, self.whole_range[1] - high) if followed else 0.0
        self.set_range(low + shift, high + shift)

    def zoom(self, factor: float, around: float) -> None:
        """Show `factor` times as much; x = `around` stays where it is."""
        low, high = self.visible_range
        self.set_range(around - (around - low) * factor, around + (high - around) * factor)

    # where things are

    @property
    def room(self) -> float:
        """Pixels per step of x."""
        low, high = self.visible_range
        return self._view.width() / (high - low)

    def place_of(self, index: int) -> QPointF:
        """Where the point with this index is drawn, in the viewport's pixels."""
        layout = self.facts.layout
        return self.pixel(float(layout.x[index]), int(layout.lane[index]))

    def pixel(self, at: float, lane: int) -> QPointF:
        """Where the x `at` in a lane is, in the viewport's pixels."""
        view = self._view.sceneBoundingRect()
        (left, right), (top, bottom) = self._view.viewRange()
        x = view.left() + (at - left) / (right - left) * view.width()
        y = view.top() + (lane - top) / (bottom - top) * view.height()
        return QPointF(float(x), float(y))

    def area_of_band(self, band: Band) -> QRectF:
        """Where a band is drawn, in the viewport's pixels."""
        left, right = self.pixel(band.left, band.lane), self.pixel(band.right, band.lane)
        return bands_item.area(band, left.x(), right.x(), left.y())

    def band_at(self, at: QPointF) -> Band | None:
        """The band that is drawn at a place, None for none."""
        found = (each for each in self.facts.bands if self.area_of_band(each).contains(at))
        return next(found, None)

    def radius_of(self, index: int) -> float:
        """How large a point is drawn, in pixels."""
        return radius(self.room, float(self._chain.share[index]))

    @property
    def graph_area(self) -> QRectF:
        """Where points are drawn, in the viewport's pixels."""
        return self._view.sceneBoundingRect()

    @property
    def bars_area(self) -> QRectF:
        """Where bars are drawn, in the viewport's pixels."""
        return self._bars_view.sceneBoundingRect()

    def x_at(self, pixel: float) -> float:
        """The x at a column of the viewport."""
        view, (low, high) = self._view.sceneBoundingRect(), self.visible_range
        return low + (pixel - view.left()) / view.width() * (high - low)

    def point_near(self, at: QPointF) -> int:
        """The point that is drawn at a place, or else the one above or below it; -1 for none."""
        drawn = self.point_at(at)
        return drawn if drawn >= 0 else self.facts.layout.nearest(self.x_at(at.x()))

    def point_at(self, at: QPointF) -> int:
        """The point that is drawn at a place, -1 for none."""
        layout = self.facts.layout
        middle = layout.nearest(self.x_at(at.x()))
        span = int(REACH / max(self.room, 1.0)) + 1
        best, closest = -1, float(REACH)
        for index in range(max(0, middle - span), min(len(layout), middle + span + 1)):
            offset = self.place_of(index) - at
            distance = float(np.hypot(offset.x(), offset.y()))
            if distance < closest:
                best, closest = index, distance
        return best

    # drawing

    def _fit_lanes(self) -> None:
        height, lanes = self._view.height(), self.facts.layout.lanes
        if height <= 0:
            return
        visible = max(height / LANE_HEIGHT, lanes + 0.2)
        top = (lanes - 1 - visible) / 2
        self._view.setYRange(top, top + visible, padding=0)

    def _invalidate(self) -> None:
        self._picture = None
        self.viewport().update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Copy the picture, and draw the cursor over it."""
        if self._picture is None:
            self._picture = self._draw_picture()
            self.pictures_drawn += 1
        with QPainter(self.viewport()) as painter:
            painter.drawPixmap(0, 0, self._picture)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self.draw_moving(painter)

    def draw_moving(self, painter: QPainter) -> None:
        """Draw over the picture what moves; here nothing does."""

    def _draw_picture(self) -> QPixmap:
        size = self.viewport().size()
        picture = QPixmap(size * self.devicePixelRatioF())
        picture.setDevicePixelRatio(self.devicePixelRatioF())
        picture.fill(QColor(self.glyphs.theme.base))
        self.scene().prepareForPaint()
        with QPainter(picture) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            area = self.viewport().rect()  # else Qt takes the picture's size in device pixels
            QGraphicsView.render(self, painter, QRectF(area), area)
            if len(self.facts.layout):
                text = tr("Changed data, up to {size}", size=words.size(self._most_in_sight()))
                painter.setPen(QColor(self.glyphs.theme.muted))
                painter.drawText(
                    self._bars_view.sceneBoundingRect(), Qt.AlignmentFlag.AlignTop, text
                )
        return picture

    def _most_in_sight(self) -> float:
        """Bytes of the largest change that is shown now."""
        layout, (low, high) = self.facts.layout, self.visible_range
        seen = layout.stored[(layout.x >= low) & (layout.x <= high)]
        return float(seen.max()) if len(seen) else 0.0

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """The picture no longer fits."""
        super().resizeEvent(event)
        if hasattr(self, "_chain"):  # pyqtgraph resizes itself while it is being made
            self._invalidate()

    def _on_range_changed(self) -> None:
        self._invalidate()
        self.range_changed.emit(*self.visible_range)

    def _on_resized(self) -> None:
        self._fit_lanes()
        if self._shows_all:
            self.show_since(None)  # the margins are pixels
        self._invalidate()
