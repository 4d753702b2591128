"""The timeline: a graph of recovery points with a cursor that snaps to them."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import (
    QEvent,
    QPoint,
    QPointF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QToolTip, QWidget

from vdbackup.gui import written_words
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline import steps
from vdbackup.gui.timeline.bands import Spot
from vdbackup.gui.timeline.points_view import CTRL, SHIFT, PointsView

DRAGGED = 6.0  # pixels that a click may move
SNAP = 3.0  # pixels from which a consistent moment is meant, and not the write under the pointer


class Timeline(PointsView):
    """The points of one backup set, steered by the mouse and the keyboard.

    Left button: move the cursor; with Ctrl, pick one more; with Shift, pick a range, or pan where
    it is dragged. Wheel: zoom; with Shift, or middle button: pan. Arrow keys: the next point,
    or the next lane; Home, End; with Shift they pick, with Ctrl they leave what is picked, and
    Ctrl+Space picks; + and - zoom; Return boots. In a log of writes: Alt and arrow keys: the
    neighbouring consistent moment, or the next log; with Shift, too: the neighbouring write
    (`steps.py`).

    Signals:
        point_activated(str): the user double-clicked it, or pressed Return.
        menu_wanted(QPoint): what can be done to it is asked for, at a place of the screen.
    """

    point_activated = Signal(str)
    menu_wanted = Signal(QPoint)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._pan_from: tuple[float, float, float] | None = None
        self._reaches = False

    def sizeHint(self) -> QSize:
        """Room for two lanes."""
        return QSize(640, 380)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin to move the cursor, or to pan; pick one more."""
        left = event.button() == Qt.MouseButton.LeftButton
        by_shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.button() == Qt.MouseButton.MiddleButton or by_shift:
            self._pan_from = (event.position().x(), *self.visible_range)
            self._reaches = left  # unless it is dragged
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
        elif left and event.modifiers() & CTRL:
            index = self.point_near(event.position())
            self._pick_by(event.modifiers(), index)
            self._go_to(index)
        elif left:
            self._pick_by(Qt.KeyboardModifier.NoModifier, -1)
            self._go_to_place(event.position(), pressed=True)
        event.accept()

    def _go_to_place(self, at: QPointF, *, pressed: bool) -> None:
        """Move the cursor to the point that is drawn at a place, or to the moment there."""
        drawn = self.point_at(at) if pressed else -1
        band = self.band_at(at)
        if drawn >= 0 and band is None:
            self._go_to(drawn)
            return
        x = self.x_at(at.x())
        if (band := band or steps.band_above(self.facts.bands, x, self._spot)) is None:
            self._go_to(self.facts.layout.nearest(x))
        elif band.log.problem:
            self._go_to(band.index)
        else:
            self._go_to_spot(Spot(band, band.write_at(x, SNAP / self.room)))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move the cursor to the nearest point, or pan."""
        if self._pan_from:
            start, low, high = self._pan_from
            self._reaches &= abs(event.position().x() - start) < DRAGGED
            moved = (event.position().x() - start) / self.room
            self.set_range(low - moved, high - moved)
        elif event.buttons() & Qt.MouseButton.LeftButton:
            self._go_to_place(event.position(), pressed=False)
        event.accept()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End what the press began; a click with Shift picks up to where it was."""
        if self._reaches:
            index = self.point_near(event.position())
            self._pick_by(SHIFT, index)
            self._go_to(index)
        self._pan_from, self._reaches = None, False
        self.unsetCursor()
        event.accept()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Boot the point that is meant; beside all of them nothing is."""
        at = event.position()
        meant = self.point_at(at) >= 0 or self.band_at(at) is not None
        if event.button() == Qt.MouseButton.LeftButton and meant:
            self._go_to_place(at, pressed=True)
            self.point_activated.emit(self.selected)
        event.accept()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Offer what can be done to the point that is meant; by the keyboard, that of the cursor.

        Beside all of them nothing is meant.
        """
        at = event.globalPos()
        by_mouse = event.reason() == QContextMenuEvent.Reason.Mouse
        inside = QPointF(self.viewport().mapFromGlobal(at))
        if by_mouse and self.point_at(inside) < 0 and self.band_at(inside) is None:
            return
        index = self.point_at(inside) if by_mouse else self._index
        if index not in self._picks.found:
            self._pick_by(Qt.KeyboardModifier.NoModifier, index)
        if by_mouse:
            self._go_to_place(inside, pressed=True)
        if self.index >= 0:
            self.menu_wanted.emit(at if by_mouse else self.area_of(self.index).center())

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom around the pointer; with Shift or a sideways wheel, pan."""
        turned = event.angleDelta()
        low, high = self.visible_range
        if turned.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            step = -(turned.x() or turned.y()) / 120 * (high - low) / 8
            self.set_range(low + step, high + step)
        else:
            self.zoom(0.8 ** (turned.y() / 120), self.x_at(event.position().x()))
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move the cursor, pick, zoom, boot."""
        last, held, key = len(self.points) - 1, event.modifiers(), Qt.Key(event.key())
        before = self._picks.found
        if held & Qt.KeyboardModifier.AltModifier:
            self._step_in_log(event)
        elif (there := self._led_to(key)) is not None:
            if held & CTRL and not held & SHIFT and there >= 0:
                self._picks.hold(self._index)
            elif there >= 0:
                self._pick_by(held, there)
            self._go_to(there)
        elif key == Qt.Key.Key_Space and held & CTRL and self._index >= 0:
            self._picks.toggle(self._index, self._index)
        elif key == Qt.Key.Key_A and held & CTRL:
            self._picks.put(range(last + 1))
        elif key == Qt.Key.Key_Escape and before:
            self._picks.clear()
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus) and last >= 0:
            factor = 1.25 if key == Qt.Key.Key_Minus else 0.8
            self.zoom(factor, self._x)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._index >= 0:
            self.point_activated.emit(self.selected)
        else:
            event.ignore()
        self._on_picked(before)

    def _led_to(self, key: Qt.Key) -> int | None:
        """Where a key leads from the cursor, -1 for nowhere; None where it is none that leads."""
        last = len(self.points) - 1
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_PageUp: -10}
        step[Qt.Key.Key_PageDown] = 10
        if key == Qt.Key.Key_Left and self._spot is not None:
            return self._index  # to the point before the moment
        if key in step:
            return min(max(self._index + step[key], 0), last)
        if key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            return 0 if key == Qt.Key.Key_Home else last
        if key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            return self._in_lane_beside(-1 if key == Qt.Key.Key_Up else 1)
        return None

    def _step_in_log(self, event: QKeyEvent) -> None:
        """Move the cursor by a moment, or a write, of the log that it is in or that begins here."""
        behind = [each for each in self.facts.bands if each.index == self._index]
        by_write = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        wanted = steps.step(Qt.Key(event.key()), behind, self._spot, by_write=by_write)
        if wanted is None:
            event.ignore()
        elif wanted == steps.TO_POINT:
            self._go_to(self._index)
        else:
            self._go_to_spot(wanted)

    def _in_lane_beside(self, step: int) -> int:
        """The closest point in the lane `step` below; -1 for none."""
        if self._index < 0:
            return -1
        layout = self.facts.layout
        there = np.flatnonzero(layout.lane == layout.lane[self._index] + step)
        if not len(there):
            return -1
        return int(there[np.abs(layout.x[there] - layout.x[self._index]).argmin()])

    def viewportEvent(self, event: QEvent) -> bool:
        """Say what a point is when the pointer rests on it."""
        if isinstance(event, QHelpEvent) and len(self.points):
            text = self._text_at(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), text, self)
            return True
        return bool(super().viewportEvent(event))

    def _text_at(self, at: QPointF) -> str:
        """What there is at a place, in lines."""
        if (band := self.band_at(at)) is None:
            index = self.point_at(at)
            return self.hint(index) if index >= 0 else ""
        if band.log.problem:
            return written_words.summary(band.log)
        write = band.write_at(self.x_at(at.x()), SNAP / self.room)
        return written_words.hint(band.log, Spot.nearest(band, write).moment)

    def focusInEvent(self, event: QEvent) -> None:
        """Show where the keyboard is."""
        self.viewport().update()

    def focusOutEvent(self, event: QEvent) -> None:
        """Show that the keyboard is elsewhere."""
        self.viewport().update()
