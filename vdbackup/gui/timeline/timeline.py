"""The timeline: a graph of recovery points with a cursor that snaps to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from PySide6.QtCore import (
    QEasingCurve,
    QEvent,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
    QVariantAnimation,
    Signal,
)
from PySide6.QtGui import (
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QWheelEvent,
)
from PySide6.QtWidgets import QToolTip, QWidget

from vdbackup.gui import words
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline import cursor, picking, spoken
from vdbackup.gui.timeline.glyphs import place
from vdbackup.gui.timeline.items import radius
from vdbackup.gui.timeline.layout import arrange
from vdbackup.gui.timeline.picking import Picks
from vdbackup.gui.timeline.view import TimelineView
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

MERGE_MILLISECONDS = 380
AROUND = 6.0  # pixels between a point and the halo of what is picked
DRAGGED = 6.0  # pixels that a click may move
_CTRL, _SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


class Timeline(TimelineView):
    """Recovery points of one backup set along the time.

    Left button: move the cursor; with Ctrl, pick one more; with Shift, pick a range, or pan where
    it is dragged. Wheel: zoom; with Shift, or middle button: pan. Arrow keys: the next point,
    or the next lane; Home, End; with Shift they pick, with Ctrl they leave what is picked, and
    Ctrl+Space picks; + and - zoom; Return boots.

    Attributes:
        animated: whether a merge is seen happening.

    Signals:
        point_selected(str): the cursor went to the point with this id ("" for none).
        point_activated(str): the user double-clicked it, or pressed Return.
        menu_wanted(QPoint): what can be done to it is asked for, at a place of the screen.
        picked(): other points are picked.
    """

    point_selected = Signal(str)
    point_activated = Signal(str)
    menu_wanted = Signal(QPoint)
    picked = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        self._index = -1
        self._picks = Picks()
        self._ghosts: list[tuple[QPointF, int, int]] = []
        super().__init__(theme, parent)
        self.setObjectName("timeline")
        self.setAccessibleName(tr("Timeline of recovery points"))
        spoken.let_timelines_speak(Timeline)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.animated = True
        self._places: dict[str, int] = {}  # index by id
        self._pan_from: tuple[float, float, float] | None = None
        self._reaches = False
        self._merge = QVariantAnimation(self)
        self._merge.setStartValue(0.0)
        self._merge.setEndValue(1.0)
        self._merge.setDuration(MERGE_MILLISECONDS)
        self._merge.setEasingCurve(QEasingCurve.Type.InOutCubic)
        self._merge.valueChanged.connect(self.viewport().update)
        self._merge.finished.connect(self._on_merge_shown)

    # what is shown

    @property
    def points(self) -> Sequence[RecoveryPoint]:
        """The points that are shown, by sequence."""
        return self.facts.points

    @property
    def index(self) -> int:
        """Of the point under the cursor; -1 for none."""
        return self._index

    @property
    def selected(self) -> str:
        """The id of the point under the cursor, "" for none."""
        return self.points[self._index].id if self._index >= 0 else ""

    @property
    def chosen(self) -> tuple[str, ...]:
        """The ids of the points that are picked, by sequence, or of that under the cursor."""
        picked = sorted(self._picks.found) or ([self._index] if self._index >= 0 else [])
        return tuple(self.points[index].id for index in picked)

    def pick(self, point_ids: Iterable[str]) -> None:
        """Pick these points, wherever the cursor is."""
        before = self._picks.found
        self._picks.put(self._places[each] for each in point_ids if each in self._places)
        self._on_picked(before)

    def _on_picked(self, before: frozenset[int]) -> None:
        if self._picks.found != before:
            self.viewport().update()
            self.picked.emit()

    @property
    def merging(self) -> bool:
        """Whether points are on their way into another one."""
        return bool(self._ghosts)

    def set_points(self, points: Sequence[RecoveryPoint], *, same_set: bool = False) -> None:
        """Show these points (by sequence); the cursor stays, or goes to the newest.

        With `same_set` they are a later state of what is shown: the view stays where it is, and
        points that were merged slide into the one that stands for them.
        """
        before, chosen, picked = self.facts, self.selected, self._picks.found
        stay_picked = {self.points[index].id for index in picked} if same_set else set()
        at_end = self._index in (-1, len(before.points) - 1)
        newer = bool(points) and (not before.points or points[-1].id != before.points[-1].id)
        self._remember_merged(points if same_set else ())
        facts = replace(before, points=tuple(points), layout=arrange(points))
        places = {name: i for i, p in enumerate(points) for name in (*p.merged, p.id)}
        stays = same_set and chosen in places and not (at_end and newer)
        self._places = {point.id: i for i, point in enumerate(points)}
        self._picks.clear()
        self._picks.put(self._places[each] for each in stay_picked if each in self._places)
        self._index = places[chosen] if stays else len(points) - 1
        self.show_facts(facts)
        if same_set and len(before.points) > 1:
            self.keep_range(before.layout)
        else:
            self.show_since(None)
        self._announce()
        self._on_picked(picked)
        if self._ghosts:
            self._merge.start()

    def set_sessions(self, point_ids: frozenset[str]) -> None:
        """Mark the points from which a virtual machine runs."""
        if point_ids != self.facts.sessions:
            self.show_facts(replace(self.facts, sessions=point_ids))

    def set_pinned(self, point_ids: frozenset[str]) -> None:
        """Mark the points that stay whatever the policy says."""
        if point_ids != self.facts.pinned:
            self.show_facts(replace(self.facts, pinned=point_ids))

    def set_going(self, point_ids: frozenset[str]) -> None:
        """Mark the points that would go by a policy that is being tried."""
        if point_ids != self.facts.going:
            self.show_facts(replace(self.facts, going=point_ids))

    def select(self, point_id: str) -> None:
        """Move the cursor to a point, and into view; what is picked stays so."""
        if point_id in self._places:
            self._go_to(self._places[point_id])

    # drawing

    def draw_moving(self, painter: QPainter) -> None:
        """Draw the cursor, and points on their way into another one."""
        if self._ghosts:
            self._draw_ghosts(painter)
        if self._picks.found:
            self._draw_picked(painter)
        if self._index >= 0:
            self._draw_cursor(painter)

    def _draw_picked(self, painter: QPainter) -> None:
        low, high = self.visible_range
        x = self.facts.layout.x
        seen = (each for each in self._picks.found if low <= x[each] <= high)
        painter.setClipRect(self.graph_area)
        around = ((self.place_of(each), self.radius_of(each) + AROUND) for each in seen)
        picking.draw(painter, self.glyphs.theme, around)

    def _draw_cursor(self, painter: QPainter) -> None:
        layout, index = self.facts.layout, self._index
        view, bars = self.graph_area, self.bars_area
        place_of = self.place_of
        painter.setClipRect(QRectF(view.left(), 0, view.width(), bars.bottom()))
        cursor.draw(
            painter,
            self.glyphs.theme,
            cursor.Cursor(
                at=place_of(index),
                top=4.0,
                bottom=bars.bottom(),
                left=view.left(),
                right=view.right(),
                ring=self.radius_of(index) + 3.5,
                label=cursor.label(self.points[index]),
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
            place(painter, self.glyphs.node(kind, radius(self.room, 1.0)), at.x(), at.y())
        painter.setOpacity(1.0)

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
                    kind = int(self.facts.layout.kind[places[name]])
                    self._ghosts.append((self.place_of(places[name]), kind, target))

    # the user

    def sizeHint(self) -> QSize:
        """Room for two lanes."""
        return QSize(640, 380)

    def _go_to(self, index: int) -> None:
        if not 0 <= index < len(self.points) or index == self._index:
            return
        self._index = index
        low, high = self.visible_range
        x = float(self.facts.layout.x[index])
        if x < low or x > high:
            self.set_range(x - (high - low) / 2, x + (high - low) / 2)
        self.viewport().update()
        self._announce()

    def _announce(self) -> None:
        point = self.points[self._index] if self._index >= 0 else None
        description = (
            tr("Recovery point {point}", point=words.point_title(point))
            if point
            else tr("No recovery points")
        )
        self.setAccessibleDescription(description)
        spoken.announce(self, self._index)
        self.point_selected.emit(point.id if point else "")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin to move the cursor, or to pan; pick one more."""
        left = event.button() == Qt.MouseButton.LeftButton
        by_shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.button() == Qt.MouseButton.MiddleButton or by_shift:
            self._pan_from = (event.position().x(), *self.visible_range)
            self._reaches = left  # unless it is dragged
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
        elif left:
            index = self.point_near(event.position())
            self._pick_by(event.modifiers(), index)
            self._go_to(index)
        event.accept()

    def _pick_by(self, modifiers: Qt.KeyboardModifier, index: int) -> None:
        """Pick as a click on a point, or a step to it, means it with these keys held."""
        before = self._picks.found
        if index < 0 or not modifiers & (_CTRL | _SHIFT):
            self._picks.clear()
        elif modifiers & _SHIFT:
            self._picks.reach(index, self._index)
        else:
            self._picks.toggle(index, self._index)
        self._on_picked(before)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move the cursor to the nearest point, or pan."""
        if self._pan_from:
            start, low, high = self._pan_from
            self._reaches &= abs(event.position().x() - start) < DRAGGED
            moved = (event.position().x() - start) / self.room
            self.set_range(low - moved, high - moved)
        elif event.buttons() & Qt.MouseButton.LeftButton:
            self._go_to(self.facts.layout.nearest(self.x_at(event.position().x())))
        event.accept()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End what the press began; a click with Shift picks up to where it was."""
        if self._reaches:
            index = self.point_near(event.position())
            self._pick_by(_SHIFT, index)
            self._go_to(index)
        self._pan_from, self._reaches = None, False
        self.unsetCursor()
        event.accept()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Boot the point that is meant; beside all of them nothing is."""
        index = self.point_at(event.position())
        if event.button() == Qt.MouseButton.LeftButton and index >= 0:
            self._go_to(index)
            self.point_activated.emit(self.selected)
        event.accept()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Offer what can be done to the point that is meant; by the keyboard, that of the cursor.

        Beside all of them nothing is meant.
        """
        at = event.globalPos()
        by_mouse = event.reason() == QContextMenuEvent.Reason.Mouse
        index = self.point_under(at) if by_mouse else self._index
        if index < 0:
            return
        if index not in self._picks.found:
            self._pick_by(Qt.KeyboardModifier.NoModifier, index)
        self._go_to(index)
        self.menu_wanted.emit(at if by_mouse else self.area_of(index).center())

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
        if (there := self._led_to(key)) is not None:
            if held & _CTRL and not held & _SHIFT and there >= 0:
                self._picks.hold(self._index)
            elif there >= 0:
                self._pick_by(held, there)
            self._go_to(there)
        elif key == Qt.Key.Key_Space and held & _CTRL and self._index >= 0:
            self._picks.toggle(self._index, self._index)
        elif key == Qt.Key.Key_A and held & _CTRL:
            self._picks.put(range(last + 1))
        elif key == Qt.Key.Key_Escape and before:
            self._picks.clear()
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus) and last >= 0:
            factor = 1.25 if key == Qt.Key.Key_Minus else 0.8
            self.zoom(factor, float(self.facts.layout.x[self._index]))
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
        if key in step:
            return min(max(self._index + step[key], 0), last)
        if key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            return 0 if key == Qt.Key.Key_Home else last
        if key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            return self._in_lane_beside(-1 if key == Qt.Key.Key_Up else 1)
        return None

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
            at = QPointF(event.pos())
            index = self.point_at(at)
            QToolTip.showText(event.globalPos(), self.hint(index) if index >= 0 else "", self)
            return True
        return bool(super().viewportEvent(event))

    def hint(self, index: int) -> str:
        """What a point is, in lines."""
        point = self.points[index]
        lines = [
            words.point_title(point),
            tr(
                "{size} of {size_2}",
                size=words.size(point.stored_bytes),
                size_2=words.size(point.virtual_size),
            ),
        ]
        if point.proven:
            lines.append(tr("proven {proven}", proven=words.age(point.proven)))
        if point.id in self.facts.sessions:
            lines.append(tr("a virtual machine runs from it"))
        if point.id in self.facts.pinned:
            lines.append(tr("pinned"))
        if index in self._picks.found:
            lines.append(tr("picked"))
        if point.id in self.facts.going:
            lines.append(tr("would go with the next backup"))
        return "\n".join(lines)

    def area_of(self, index: int) -> QRect:
        """Where a point is on the screen; empty where it is out of sight."""
        at, reach = self.place_of(index), self.radius_of(index)
        area = QRectF(at.x() - reach, at.y() - reach, 2 * reach, 2 * reach).toAlignedRect()
        area &= self.viewport().rect()
        return QRect(self.viewport().mapToGlobal(area.topLeft()), area.size())

    def point_under(self, at: QPoint) -> int:
        """The index of the point at a place of the screen; -1 for none."""
        return self.point_at(QPointF(self.viewport().mapFromGlobal(at)))

    def focusInEvent(self, event: QEvent) -> None:
        """Show where the keyboard is."""
        self.viewport().update()

    def focusOutEvent(self, event: QEvent) -> None:
        """Show that the keyboard is elsewhere."""
        self.viewport().update()

    def _on_merge_shown(self) -> None:
        self._ghosts = []
        self.viewport().update()
