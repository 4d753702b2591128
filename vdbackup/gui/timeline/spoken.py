"""The timeline for those who hear it: a list of recovery points, as a screen reader asks for it.

What is drawn is one picture, in which a screen reader finds nothing. Here it gets an item for each
point, with its name, its place and whether the cursor is on it; made when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

from PySide6.QtCore import QObject, QPoint, QRect
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QAccessibleEvent,
    QAccessibleInterface,
)
from PySide6.QtWidgets import QAccessibleWidget, QWidget

_kept: list[QAccessibleInterface] = []
"""Qt asks these as long as their widgets are there: Python must not let go of them before."""


class Speaking(Protocol):
    """What a timeline says of itself."""

    @property
    def points(self) -> Sequence[object]:
        """Those that are shown."""

    @property
    def index(self) -> int:
        """Of the point under the cursor; -1 for none, behind the last for a moment."""

    def hint(self, index: int) -> str:
        """What a point is, in lines."""

    def area_of(self, index: int) -> QRect:
        """Where it is on the screen."""

    def point_under(self, at: QPoint) -> int:
        """The index of the point at a place of the screen; -1 for none."""


class SpokenTimeline(QAccessibleWidget):
    """A list whose items are the points."""

    def __init__(self, widget: QWidget, timeline: Speaking) -> None:
        super().__init__(widget, QAccessible.Role.List)
        self.timeline = timeline
        self._items: dict[int, SpokenPoint] = {}
        _kept.append(self)

    def childCount(self) -> int:
        """As many as points, and the moment that the cursor is on."""
        points = len(self.timeline.points)
        return points + 1 if self.timeline.index == points > 0 else points

    def child(self, index: int) -> Any:
        """The point's item."""
        if not 0 <= index < self.childCount():
            return None
        if index not in self._items:
            self._items[index] = SpokenPoint(self, index)
            QAccessible.registerAccessibleInterface(self._items[index])
        return self._items[index]

    def indexOfChild(self, child: QAccessibleInterface) -> int:
        """Which point an item is."""
        return child.index if isinstance(child, SpokenPoint) else -1

    def childAt(self, x: int, y: int) -> Any:
        """The item at a place of the screen."""
        return self.child(self.timeline.point_under(QPoint(x, y)))

    def focusChild(self) -> Any:
        """The item under the cursor."""
        return self.child(self.timeline.index)


class SpokenPoint(QAccessibleInterface):
    """A recovery point in the list, or behind the last of them the moment under the cursor."""

    def __init__(self, above: SpokenTimeline, index: int) -> None:
        super().__init__()
        self._above = above
        self.index = index

    def isValid(self) -> bool:
        """Whether there is such a point still."""
        return self._above.isValid() and self.index < self._above.childCount()

    def object(self) -> Any:
        """It is drawn, and no object of Qt's."""
        return None

    def window(self) -> Any:
        """The list's."""
        return None

    def parent(self) -> QAccessibleInterface:
        """The list."""
        return self._above

    def child(self, _index: int) -> Any:
        """It has none."""
        return None

    def childAt(self, _x: int, _y: int) -> Any:
        """It has none."""
        return None

    def childCount(self) -> int:
        """It has none."""
        return 0

    def indexOfChild(self, _child: QAccessibleInterface) -> int:
        """It has none."""
        return -1

    def text(self, kind: QAccessible.Text) -> str:
        """Its name is what the pointer would show."""
        if kind != QAccessible.Text.Name or not self.isValid():
            return ""
        return ", ".join(self._above.timeline.hint(self.index).splitlines())

    def setText(self, _kind: QAccessible.Text, _text: str) -> None:
        """Nobody names a point."""

    def rect(self) -> QRect:
        """Where it is on the screen."""
        return self._above.timeline.area_of(self.index) if self.isValid() else QRect()

    def role(self) -> QAccessible.Role:
        """An item of a list."""
        return QAccessible.Role.ListItem

    def state(self) -> QAccessible.State:
        """The list's where the cursor is, so it has the keyboard when the list has.

        Python cannot set the bits of a state.
        """
        here = self.isValid() and self.index == self._above.timeline.index
        return self._above.state() if here else QAccessible.State()


def announce(widget: QWidget, index: int, moment: str = "") -> None:
    """Let a screen reader say the point, or the moment, that the cursor is on now.

    From one moment to the next the item is the same, so that what it is has to be said.
    """
    if index >= 0 and QAccessible.isActive():
        event = QAccessibleEvent(widget, QAccessible.Event.Focus)
        event.setChild(index)
        QAccessible.updateAccessibility(event)
        if moment:
            QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(widget, moment))


@functools.cache
def let_timelines_speak(kind: type[QWidget]) -> None:
    """Tell Qt what a screen reader gets of widgets of this class."""

    def spoken(_class_name: str, what: QObject) -> QAccessibleInterface | None:
        return SpokenTimeline(what, what) if isinstance(what, kind) else None  # type: ignore[arg-type]

    QAccessible.installFactory(spoken)
