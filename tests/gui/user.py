"""Somebody who uses the window by mouse and keyboard, and waits until they see what they expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QApplication, QDialog, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from vdbackup.gui.jobs.panel import JobRow
from vdbackup.gui.main_window import MainWindow

LONG = 200_000  # milliseconds that a job may take on a busy machine

T = TypeVar("T", bound=QWidget)


class User:
    """Somebody in front of the window.

    Attributes:
        window: what they look at.
    """

    def __init__(self, window: MainWindow, qtbot: QtBot) -> None:
        self.window = window
        self._bot = qtbot

    def waits_until(self, happened: Callable[[], object]) -> None:
        """Look at the window until something has happened."""
        self._bot.waitUntil(lambda: bool(happened()), timeout=LONG)

    def clicks(self, name: str) -> None:
        """Click the visible button of that name."""
        button = self.sees(QPushButton, name)
        self._bot.mouseClick(button, Qt.MouseButton.LeftButton)

    def sees(self, kind: type[T], name: str) -> T:
        """The visible widget of that kind and name, once it is there."""

        def visible() -> list[T]:
            windows = [each for each in QApplication.topLevelWidgets() if each.isVisible()]
            found = [child for each in windows for child in each.findChildren(kind, name)]
            found += [
                each for each in windows if isinstance(each, kind) and each.objectName() == name
            ]
            return [widget for widget in found if widget.isVisible()]

        self.waits_until(visible)
        return visible()[-1]

    def asks_for(self, action: str) -> None:
        """Trigger an action of the toolbar, once it can be used."""
        self.waits_until(self.window.actions_[action].isEnabled)
        self.window.actions_[action].trigger()

    def agrees(self, name: str = "planDialog", button: str = "planAccept") -> None:
        """Say yes to a question."""
        dialog = self.sees(QDialog, name)
        self._bot.mouseClick(dialog.findChild(QPushButton, button), Qt.MouseButton.LeftButton)
        self.waits_until(lambda: not dialog.isVisible())

    def sees_points(self, count: int) -> None:
        """Wait until the timeline shows so many points."""
        self.waits_until(lambda: len(self.window.panel.timeline.points) == count)

    def sees_job_end(self, title: str) -> JobRow:
        """The newest row whose title begins so, once its job has ended."""

        def rows() -> list[JobRow]:
            return [row for row in self.window.jobs.rows if row.accessibleName().startswith(title)]

        self.waits_until(lambda: rows() and rows()[0].ended)
        return rows()[0]

    def reads(self, text: str) -> JobRow:
        """The row of the jobs panel that says this, once there is one."""

        def rows() -> list[JobRow]:
            return [row for row in self.window.jobs.rows if text in row.sentence]

        self.waits_until(rows)
        return rows()[0]

    def backs_up(self, points_afterwards: int) -> None:
        """Make a recovery point and wait until it is there."""
        self.asks_for("actionBackUp")
        self.agrees()
        self.sees_points(points_afterwards)

    def presses(self, *keys: Qt.Key) -> None:
        """Press keys in the timeline."""
        for key in keys:
            self._bot.keyClick(self.window.panel.timeline, key)

    def drags_cursor(self, start: int, end: int) -> list[str]:
        """Drag from one point to another with the mouse; the ids that were chosen on the way."""
        timeline = self.window.panel.timeline
        chosen: list[str] = []
        timeline.point_selected.connect(chosen.append)
        viewport, left = timeline.viewport(), Qt.MouseButton.LeftButton
        at, to = (timeline.place_of(index).toPoint() for index in (start, end))
        self._bot.mousePress(viewport, left, pos=at)
        steps = 40
        for step in range(1, steps + 1):
            x = at.x() + (to.x() - at.x()) * step // steps
            move_mouse(viewport, QPoint(x, at.y() + 30))
        self._bot.mouseRelease(viewport, left, pos=QPoint(to.x(), at.y() + 30))
        timeline.point_selected.disconnect(chosen.append)
        return chosen


def move_mouse(viewport: QWidget, to: QPoint) -> None:
    """Move with the left button held: `QTest.mouseMove` knows of no button."""
    left = Qt.MouseButton.LeftButton
    where = QPointF(to)
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        where,
        QPointF(viewport.mapToGlobal(to)),
        Qt.MouseButton.NoButton,
        left,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(viewport, event)
