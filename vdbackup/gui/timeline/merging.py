"""A merge as it is seen: points slide into the one that stands for them from now on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PySide6.QtCore import QEasingCurve, QPointF, QVariantAnimation
from PySide6.QtGui import QPainter

from vdbackup.gui.timeline.glyphs import place
from vdbackup.gui.timeline.items import radius
from vdbackup.gui.timeline.view import TimelineView
from vdbackup.repository.model import RecoveryPoint

MILLISECONDS = 380
_FADED = 0.6  # of a point's colour, when it has come to its end


class Sliding:
    """Points on their way into others, in a view of a timeline."""

    def __init__(self, view: TimelineView) -> None:
        self._view = view
        self._points: list[tuple[QPointF, int, int]] = []
        self._way = QVariantAnimation(view)
        self._way.setStartValue(0.0)
        self._way.setEndValue(1.0)
        self._way.setDuration(MILLISECONDS)
        self._way.setEasingCurve(QEasingCurve.Type.InOutCubic)
        self._way.valueChanged.connect(view.viewport().update)
        self._way.finished.connect(self.stop)

    @property
    def under_way(self) -> bool:
        """Whether any point slides."""
        return bool(self._points)

    def remember(self, points: Sequence[RecoveryPoint]) -> None:
        """Note where those stand that will be one with another when `points` are shown."""
        self._points = list(self._merged_in(points))

    def _merged_in(self, points: Sequence[RecoveryPoint]) -> Iterator[tuple[QPointF, int, int]]:
        facts = self._view.facts
        places = {point.id: index for index, point in enumerate(facts.points)}
        for target, point in enumerate(points):
            gone = [name for name in point.merged if name in places]
            for name in [point.id, *gone] if gone else ():
                if name in places:
                    at = self._view.place_of(places[name])
                    yield at, int(facts.layout.kind[places[name]]), target

    def start(self) -> None:
        """Let them slide, if there are any."""
        if self._points:
            self._way.start()

    def stop(self) -> None:
        """Have them be there."""
        self._way.stop()
        self._points = []
        self._view.viewport().update()

    def draw(self, painter: QPainter) -> None:
        """Draw them where they are now."""
        progress = float(self._way.currentValue() or 0.0)
        for start, kind, target in self._points:
            at = start + (self._view.place_of(target) - start) * progress
            painter.setOpacity(1.0 - _FADED * progress)
            node = self._view.glyphs.node(kind, radius(self._view.room, 1.0))
            place(painter, node, at.x(), at.y())
        painter.setOpacity(1.0)
