"""Which points are picked beside the one under the cursor, as in any list: by Shift and Ctrl.

Without any picked, what is done is done to the point under the cursor alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from vdbackup.gui.theme import Theme

HALO = 0.35
"""How much of the accent's colour lies over what is picked."""


class Picks:
    """Indices of points.

    Attributes:
        found: what is picked; nothing where the cursor's point alone is meant.
    """

    def __init__(self) -> None:
        self.found: frozenset[int] = frozenset()
        self._from = -1

    def clear(self) -> None:
        """Nothing is picked any more."""
        self.found, self._from = frozenset(), -1

    def put(self, indices: Iterable[int]) -> None:
        """These are picked; a single one is as good as none."""
        found = frozenset(indices)
        self.found = found if len(found) > 1 else frozenset()

    def hold(self, cursor: int) -> None:
        """The cursor goes elsewhere, and what was chosen stays so."""
        self.found = self.found or frozenset({cursor})

    def toggle(self, index: int, cursor: int) -> None:
        """Pick one more, or one less."""
        self.found = (self.found or frozenset({cursor})) ^ {index}
        self._from = index

    def reach(self, index: int, cursor: int) -> None:
        """Pick all from where that began, which is the cursor's point at first, to here."""
        if self._from < 0:
            self._from = cursor
        low, high = sorted((self._from, index))
        self.found = frozenset(range(low, high + 1))


def draw(painter: QPainter, theme: Theme, places: Iterable[tuple[QPointF, float]]) -> None:
    """Draw a halo around each point that is picked; `places` has where it is, and its radius."""
    fill, edge = QColor(theme.accent), QColor(theme.accent)
    fill.setAlphaF(HALO)
    painter.setBrush(fill)
    painter.setPen(QPen(edge, 1.5, Qt.PenStyle.DashLine))
    for at, reach in places:
        painter.drawEllipse(at, reach, reach)
    painter.setBrush(Qt.BrushStyle.NoBrush)
