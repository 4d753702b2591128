"""The timeline: a graph of recovery points with a cursor that snaps to them.

What stands still is drawn once into a picture (by pyqtgraph); a frame of dragging copies it and
draws the cursor over it. Zooming, panning and new points make a new picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import (
    QEasingCurve,
    QEvent,
    QPointF,
    QRectF,
    QSize,
    Qt,
    QVariantAnimation,
    Signal,
)
from PySide6.QtGui import (
    QColor,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QFrame, QGraphicsView, QToolTip, QWidget

from vdbackup.gui import timeline_cursor, words
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline_glyphs import Glyphs, place
from vdbackup.gui.timeline_items import BarsItem, ChainItem, Facts, TimeAxis, radius
from vdbackup.gui.timeline_layout import Layout, arrange
from vdbackup.repository.model import RecoveryPoint

LANE_HEIGHT = 84  # pixels, where there is room
BARS_HEIGHT = 84
FEWEST_STEPS = 7.0  # a lone point does not fill the window
REACH = 16  # pixels from which a point is meant
MERGE_MILLISECONDS = 380


class Timeline(pg.GraphicsView):
    """Recovery points of one backup set along the time.

    Left button: move the cursor. Wheel: zoom; with Shift, or middle button: pan. Arrow keys: the
    neighbouring point, or the next lane; Home, End; + and - zoom; Return boots.

    Attributes:
        animated: whether a merge is seen happening.

    Signals:
        point_selected(str): the cursor went to the point with this id ("" for none).
        point_activated(str): the user double-clicked it, or pressed Return.
        range_changed(float, float): the x at both edges, after zooming or panning.
    """

    point_selected = Signal(str)
    point_activated = Signal(str)
    range_changed = Signal(float, float)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("timeline")
        self.setAccessibleName("Timeline of recovery points")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setMouseTracking(False)  # pyqtgraph would look for what hovers, at each move
        self.setAntialiasing(True)
        self.animated = True
        self._facts = Facts((), arrange(()))
        self._glyphs = Glyphs(theme, self.devicePixelRatioF())
        self._places: dict[str, int] = {}  # index by id
        self._index = -1
        self._picture: QPixmap | None = None
        self._pan_from: tuple[float, float, float] | None = None
        self._ghosts: list[tuple[QPointF, int, int]] = []
        self._merge = QVariantAnimation(self, startValue=0.0, endValue=1.0)
        self._merge.setDuration(MERGE_MILLISECONDS)
        self._merge.setEasingCurve(QEasingCurve.Type.InOutCubic)
        self._merge.valueChanged.connect(self.viewport().update)
        self._merge.finished.connect(self._on_merge_shown)
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
        self._chain = ChainItem(self._facts, self._glyphs)
        self._bars = BarsItem(self._facts, self._glyphs)
        self._view.addItem(self._chain, ignoreBounds=True)
        self._bars_view.addItem(self._bars, ignoreBounds=True)
        self._bars_view.setYRange(0, 1.4, padding=0)
        self._bars_view.setXLink(self._view)
        self._axis.linkToView(self._bars_view)
        self._view.sigXRangeChanged.connect(self._on_range_changed)
        self._view.sigResized.connect(self._on_resized)
        self._bars_view.sigResized.connect(self._invalidate)

    # what is shown

    @property
    def points(self) -> Sequence[RecoveryPoint]:
        """The points that are shown, by sequence."""
        return self._facts.points

    @property
    def layout_of_points(self) -> Layout:
        """Where each point stands."""
        return self._facts.layout

    @property
    def selected(self) -> str:
        """The id of the point under the cursor, "" for none."""
        return self.points[self._index].id if self._index >= 0 else ""

    @property
    def visible_range(self) -> tuple[float, float]:
        """X at the left and the right edge."""
        low, high = self._view.viewRange()[0]
        return float(low), float(high)

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self._glyphs = Glyphs(theme, self.devicePixelRatioF())
        self.setBackground(theme.base)
        self._axis.setPen(pg.mkPen(theme.border))
        self._axis.setTextPen(pg.mkPen(theme.muted))
        self._show_facts()

    def set_points(self, points: Sequence[RecoveryPoint], *, same_set: bool = False) -> None:
        """Show these points (by sequence); the cursor stays, or goes to the newest.

        With `same_set` they are a later state of what is shown: the view stays where it is, and
        points that were merged slide into the one that stands for them.
        """
        before, chosen = self._facts, self.selected
        at_end = self._index in (-1, len(before.points) - 1)
        self._remember_merged(points if same_set else ())
        self._facts = Facts(tuple(points), arrange(points), before.sessions)
        places = {name: i for i, p in enumerate(points) for name in (*p.merged, p.id)}
        stays = same_set and chosen in places and not (at_end and len(points) > len(before.points))
        self._places = {point.id: i for i, point in enumerate(points)}
        self._index = places[chosen] if stays else len(points) - 1
        self._show_facts()
        if same_set and len(before.points) > 1:
            self._keep_range(before.layout)
        else:
            self.show_since(None)
        self._announce()
        if self._ghosts:
            self._merge.start()

    def set_sessions(self, point_ids: frozenset[str]) -> None:
        """Mark the points from which a virtual machine runs."""
        self._facts = Facts(self._facts.points, self._facts.layout, point_ids)
        self._show_facts()

    def select(self, point_id: str) -> None:
        """Move the cursor to a point, and into view."""
        if point_id in self._places:
            self._go_to(self._places[point_id])

    def show_since(self, seconds: float | None) -> None:
        """Show the points of so many seconds before the newest one; None shows all."""
        layout = self._facts.layout
        if not len(layout):
            return
        first = 0 if seconds is None else layout.since(seconds)
        low, high = float(layout.x[first]), float(layout.x[-1])
        if high - low < FEWEST_STEPS:
            low = max(0.0, high - FEWEST_STEPS)
            high = low + FEWEST_STEPS
        margin = 0.6 + (high - low) * 0.01
        self._set_range(low - margin, high + margin)

    def scroll_to(self, low: float) -> None:
        """Show what begins at x = `low`, as wide as now."""
        left, right = self.visible_range
        self._set_range(low, low + right - left)

    @property
    def whole_range(self) -> tuple[float, float]:
        """X at which panning ends, left and right."""
        layout = self._facts.layout
        last = float(layout.x[-1]) if len(layout) else 0.0
        margin = 0.6 + last * 0.01
        return -margin, max(last, FEWEST_STEPS) + margin

    def _show_facts(self) -> None:
        self._chain.show_facts(self._facts, self._glyphs)
        self._bars.show_facts(self._facts, self._glyphs)
        self._axis.show_layout(self._facts.layout)
        self._fit_lanes()
        self._invalidate()

    def _keep_range(self, before: Layout) -> None:
        low, high = self.visible_range
        followed = len(before) and before.x[-1] <= high  # the newest point was in view
        end = self.whole_range[1]
        if followed and end > high:
            low = min(low, self.whole_range[0]) if low <= 0 else low + end - high
            high = end
        self._set_range(low, high)

    def _set_range(self, low: float, high: float) -> None:
        least, most = self.whole_range
        width = min(max(high - low, 2.0), most - least)
        low = min(max(low, least), most - width)
        self._view.setXRange(low, low + width, padding=0)

    def _fit_lanes(self) -> None:
        height, lanes = self._view.height(), self._facts.layout.lanes
        if height <= 0:
            return
        visible = max(height / LANE_HEIGHT, lanes + 0.2)
        top = (lanes - 1 - visible) / 2
        self._view.setYRange(top, top + visible, padding=0)

    # drawing

    def _invalidate(self) -> None:
        self._picture = None
        self.viewport().update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Copy the picture, and draw the cursor over it."""
        if self._picture is None:
            self._picture = self._draw_picture()
        with QPainter(self.viewport()) as painter:
            painter.drawPixmap(0, 0, self._picture)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            if self._ghosts:
                self._draw_ghosts(painter)
            if self._index >= 0:
                self._draw_cursor(painter)

    def _draw_picture(self) -> QPixmap:
        size = self.viewport().size()
        picture = QPixmap(size * self.devicePixelRatioF())
        picture.setDevicePixelRatio(self.devicePixelRatioF())
        picture.fill(QColor(self._glyphs.theme.base))
        self.scene().prepareForPaint()
        with QPainter(picture) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            QGraphicsView.render(self, painter)
            if len(self._facts.layout):
                most = words.size(float(self._facts.layout.stored.max()))
                text = f"Changed data, up to {most}"
                painter.setPen(QColor(self._glyphs.theme.muted))
                painter.drawText(
                    self._bars_view.sceneBoundingRect(), Qt.AlignmentFlag.AlignTop, text
                )
        return picture

    def _draw_cursor(self, painter: QPainter) -> None:
        layout, index = self._facts.layout, self._index
        view, bars = self._view.sceneBoundingRect(), self._bars_view.sceneBoundingRect()
        place_of = self.place_of
        painter.setClipRect(QRectF(view.left(), 0, view.width(), bars.bottom()))
        timeline_cursor.draw(
            painter,
            self._glyphs.theme,
            timeline_cursor.Cursor(
                at=place_of(index),
                top=4.0,
                bottom=bars.bottom(),
                left=view.left(),
                right=view.right(),
                ring=radius(self.room, float(self._chain.share[index])) + 3.5,
                label=timeline_cursor.label(self.points[index]),
                chain=[(place_of(a), place_of(b)) for a, b in layout.chain(index)],
                focused=self.hasFocus(),
            ),
        )

    def _draw_ghosts(self, painter: QPainter) -> None:
        progress = float(self._merge.currentValue() or 0.0)
        for start, kind, target in self._ghosts:
            end = self.place_of(target)
            at = start + (end - start) * progress
            painter.setOpacity(1.0 - 0.6 * progress)
            place(painter, self._glyphs.node(kind, radius(self.room, 1.0)), at.x(), at.y())
        painter.setOpacity(1.0)

    @property
    def room(self) -> float:
        """Pixels per step of x."""
        low, high = self.visible_range
        return self._view.width() / (high - low)

    def place_of(self, index: int) -> QPointF:
        """Where the point with this index is drawn, in the viewport's pixels."""
        layout = self._facts.layout
        view = self._view.sceneBoundingRect()
        (left, right), (top, bottom) = self._view.viewRange()
        x = view.left() + (layout.x[index] - left) / (right - left) * view.width()
        y = view.top() + (layout.lane[index] - top) / (bottom - top) * view.height()
        return QPointF(float(x), float(y))

    def _remember_merged(self, points: Sequence[RecoveryPoint]) -> None:
        """Note where the points stand that are about to become one with another."""
        self._merge.stop()
        self._ghosts = []
        if not self.animated or not self.isVisible():
            return
        places = {point.id: index for index, point in enumerate(self.points)}
        for target, point in enumerate(points):
            gone = [name for name in point.merged if name in places]
            for name in [point.id, *gone] if gone else ():
                if name in places:
                    kind = int(self._facts.layout.kind[places[name]])
                    self._ghosts.append((self.place_of(places[name]), kind, target))

    # the user

    def sizeHint(self) -> QSize:
        """Room for two lanes."""
        return QSize(640, 380)

    def _x_at(self, pixel: float) -> float:
        view, (low, high) = self._view.sceneBoundingRect(), self.visible_range
        return low + (pixel - view.left()) / view.width() * (high - low)

    def _point_near(self, at: QPointF) -> int:
        """The point that is drawn at a place, or else the one above or below it; -1 for none."""
        layout = self._facts.layout
        middle = layout.nearest(self._x_at(at.x()))
        span = int(REACH / max(self.room, 1.0)) + 1
        best, closest = middle, float(REACH)
        for index in range(max(0, middle - span), min(len(layout), middle + span + 1)):
            offset = self.place_of(index) - at
            distance = float(np.hypot(offset.x(), offset.y()))
            if distance < closest:
                best, closest = index, distance
        return best

    def _go_to(self, index: int) -> None:
        if not 0 <= index < len(self.points) or index == self._index:
            return
        self._index = index
        low, high = self.visible_range
        x = float(self._facts.layout.x[index])
        if x < low or x > high:
            self._set_range(x - (high - low) / 2, x + (high - low) / 2)
        self.viewport().update()
        self._announce()

    def _announce(self) -> None:
        point = self.points[self._index] if self._index >= 0 else None
        said = f"Recovery point {words.point_title(point)}" if point else "No recovery points"
        self.setAccessibleDescription(said)
        self.point_selected.emit(point.id if point else "")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin to move the cursor, or to pan."""
        panning = event.button() == Qt.MouseButton.MiddleButton or (
            event.modifiers() & Qt.KeyboardModifier.ShiftModifier
        )
        if panning:
            self._pan_from = (event.position().x(), *self.visible_range)
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
        elif event.button() == Qt.MouseButton.LeftButton:
            self._go_to(self._point_near(event.position()))
        event.accept()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move the cursor to the nearest point, or pan."""
        if self._pan_from:
            start, low, high = self._pan_from
            moved = (event.position().x() - start) / self.room
            self._set_range(low - moved, high - moved)
        elif event.buttons() & Qt.MouseButton.LeftButton:
            self._go_to(self._facts.layout.nearest(self._x_at(event.position().x())))
        event.accept()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End what the press began."""
        self._pan_from = None
        self.unsetCursor()
        event.accept()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Boot the point."""
        if event.button() == Qt.MouseButton.LeftButton and self._index >= 0:
            self._go_to(self._point_near(event.position()))
            self.point_activated.emit(self.selected)
        event.accept()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom around the pointer; with Shift or a sideways wheel, pan."""
        turned = event.angleDelta()
        low, high = self.visible_range
        if turned.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            step = -(turned.x() or turned.y()) / 120 * (high - low) / 8
            self._set_range(low + step, high + step)
        else:
            self._zoom(0.8 ** (turned.y() / 120), self._x_at(event.position().x()))
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move the cursor, zoom, boot."""
        last = len(self.points) - 1
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_PageUp: -10}
        step[Qt.Key.Key_PageDown] = 10
        key = Qt.Key(event.key())
        if key in step:
            self._go_to(min(max(self._index + step[key], 0), last))
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            self._go_to(0 if key == Qt.Key.Key_Home else last)
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._go_to(self._in_lane_beside(-1 if key == Qt.Key.Key_Up else 1))
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus) and last >= 0:
            factor = 1.25 if key == Qt.Key.Key_Minus else 0.8
            self._zoom(factor, float(self._facts.layout.x[self._index]))
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._index >= 0:
            self.point_activated.emit(self.selected)
        else:
            event.ignore()

    def _in_lane_beside(self, step: int) -> int:
        """The closest point in the lane `step` below; -1 for none."""
        if self._index < 0:
            return -1
        layout = self._facts.layout
        there = np.flatnonzero(layout.lane == layout.lane[self._index] + step)
        if not len(there):
            return -1
        return int(there[np.abs(layout.x[there] - layout.x[self._index]).argmin()])

    def _zoom(self, factor: float, around: float) -> None:
        low, high = self.visible_range
        self._set_range(around - (around - low) * factor, around + (high - around) * factor)

    def viewportEvent(self, event: QEvent) -> bool:
        """Say what a point is when the pointer rests on it."""
        if isinstance(event, QHelpEvent) and len(self.points):
            at = QPointF(event.pos())
            index = self._point_near(at)
            offset = self.place_of(index) - at
            near = np.hypot(offset.x(), offset.y()) < REACH
            QToolTip.showText(event.globalPos(), self._hint(index) if near else "", self)
            return True
        return bool(super().viewportEvent(event))

    def _hint(self, index: int) -> str:
        point = self.points[index]
        lines = [
            words.point_title(point),
            f"{words.size(point.stored_bytes)} of {words.size(point.virtual_size)}",
        ]
        if point.id in self._facts.sessions:
            lines.append("a virtual machine runs from it")
        return "\n".join(lines)

    # what Qt tells

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """The picture no longer fits."""
        super().resizeEvent(event)
        if hasattr(self, "_chain"):  # pyqtgraph resizes itself while it is being made
            self._invalidate()

    def focusInEvent(self, event: QEvent) -> None:
        """Show where the keyboard is."""
        self.viewport().update()

    def focusOutEvent(self, event: QEvent) -> None:
        """Show that the keyboard is elsewhere."""
        self.viewport().update()

    def _on_range_changed(self) -> None:
        self._invalidate()
        self.range_changed.emit(*self.visible_range)

    def _on_resized(self) -> None:
        self._fit_lanes()
        self._invalidate()

    def _on_merge_shown(self) -> None:
        self._ghosts = []
        self.viewport().update()
