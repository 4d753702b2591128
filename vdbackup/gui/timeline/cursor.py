"""What moves in the timeline: the cursor, and the chain of the point that it stands on."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen

from vdbackup.gui import words
from vdbackup.gui.theme import Theme
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint

HANDLE_HEIGHT = 22  # pixels
MARGIN = 10  # pixels beside its text


@dataclass(frozen=True)
class Cursor:
    """Where the cursor is, in pixels.

    Attributes:
        at: the point, or the moment, that it stands on.
        top, bottom, left, right: the space that it may use.
        ring: radius of the ring around the point.
        label: what its handle says.
        chain: lines from the point down to its full.
        focused: whether the keyboard moves it.
    """

    at: QPointF
    top: float
    bottom: float
    left: float
    right: float
    ring: float
    label: str
    chain: list[tuple[QPointF, QPointF]]
    focused: bool


def label(point: RecoveryPoint) -> str:
    """What the handle says: "#27  today 15:44", "#27@w1200  15:44:07, consistent"."""
    if isinstance(point, WrittenPoint):
        name = f"\u2066{words.point_name(point)}\u2069"  # one word, from right to left, too
        return f"{name}  {words.clock_of(point)}, {words.state_of(point)}"
    return f"#{point.sequence}  {words.when(point.created)}"


def draw(painter: QPainter, theme: Theme, cursor: Cursor) -> None:
    """Draw chain, line, ring and handle over what is there, covering no point."""
    accent = QColor(theme.accent)
    marker = QColor(accent)
    marker.setAlphaF(0.28)
    painter.setPen(QPen(marker, 9, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
    painter.drawLines([QLineF(a, b) for a, b in cursor.chain])
    painter.setPen(QPen(accent, 1.5))
    x = cursor.at.x()
    ring_top, ring_bottom = cursor.at.y() - cursor.ring, cursor.at.y() + cursor.ring
    painter.drawLine(QPointF(x, cursor.top + HANDLE_HEIGHT), QPointF(x, ring_top))
    painter.drawLine(QPointF(x, ring_bottom), QPointF(x, cursor.bottom))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(accent, 3 if cursor.focused else 1.5))
    painter.drawEllipse(cursor.at, cursor.ring, cursor.ring)
    metrics = QFontMetricsF(painter.font())
    room = cursor.right - cursor.left - 2 * (MARGIN + metrics.horizontalAdvance("M"))
    text = metrics.elidedText(cursor.label, Qt.TextElideMode.ElideRight, max(room, 0.0))
    if x < cursor.left:  # it is out of sight, on that side
        text = f"\N{BLACK LEFT-POINTING TRIANGLE} {text}"
    elif x > cursor.right:
        text = f"{text} \N{BLACK RIGHT-POINTING TRIANGLE}"
    width = metrics.horizontalAdvance(text) + 2 * MARGIN
    left = min(max(x - width / 2, cursor.left), max(cursor.right - width, cursor.left))
    handle = QRectF(left, cursor.top, width, HANDLE_HEIGHT)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(accent)
    painter.drawRoundedRect(handle, 5, 5)
    painter.setPen(QColor(theme.on_accent))
    painter.drawText(handle, Qt.AlignmentFlag.AlignCenter, text)
