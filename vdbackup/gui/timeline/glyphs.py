"""The small pictures of the timeline: a shape for each type of point, badges, satellites.

Shape and colour both tell the type, for those who see no colours. Each picture is drawn once and
then copied, because drawing an antialiased shape takes ten times as long as copying it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen, QPixmap, QPolygonF

from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline.layout import KINDS
from vdbackup.repository.naming import PointType
from vdbackup.translation import tr

BADGE = 5.5  # radius, pixels


class Badge(enum.Enum):
    """What is known of a point."""

    VERIFIED = tr("verified")
    BOOTED = tr("boot-tested")
    PROVEN = tr("proven")
    DAMAGED = tr("damaged")
    NOT_BOOTED = tr("does not boot")
    ENDED_EARLY = tr("ended early")


class Glyphs:
    """Draws and keeps the pictures, for one theme and one screen resolution.

    Attributes:
        theme: whose colours they have.
        ratio: device pixels per logical pixel.
    """

    def __init__(self, theme: Theme, ratio: float) -> None:
        self.theme = theme
        self.ratio = ratio
        self._made: dict[tuple[object, float], QPixmap] = {}

    def node(self, kind: int, radius: float, *, promoted: bool = False) -> QPixmap:
        """A point of type `KINDS[kind]`; the radius (pixels) is rounded to a quarter.

        One that a virtual machine wrote is hollow: it is no moment of the source.
        """
        rounded = round(radius * 4) / 4
        draw = partial(self._node, KINDS[kind], rounded, promoted)
        return self._get(((kind, promoted), rounded), rounded + 2, draw)

    def badge(self, badge: Badge) -> QPixmap:
        """A mark that is set at a point's corner."""
        return self._get((badge, BADGE), BADGE + 1, partial(self._badge, badge))

    def overlay(self) -> QPixmap:
        """The empty child disk that belongs to a point."""
        return self._get(("overlay", 3), 4.5, self._overlay)

    def session(self) -> QPixmap:
        """A virtual machine that runs from a point."""
        return self._get(("session", 8), 9.5, self._session)

    def pin(self) -> QPixmap:
        """A point that stays whatever the policy says: a pin that is stuck in it."""
        return self._get(("pin", 7), 8.5, self._pin)

    def cross(self) -> QPixmap:
        """A point that would go."""
        return self._get(("cross", 4), 6, self._cross)

    def _get(
        self, key: tuple[object, float], half: float, draw: Callable[[QPainter], None]
    ) -> QPixmap:
        if key not in self._made:
            side = int(2 * half * self.ratio + 1)
            picture = QPixmap(side, side)
            picture.setDevicePixelRatio(self.ratio)
            picture.fill(Qt.GlobalColor.transparent)
            with QPainter(picture) as painter:
                painter.setRenderHint(QPainter.RenderHint.Antialiasing)
                painter.translate(side / self.ratio / 2, side / self.ratio / 2)
                draw(painter)
            self._made[key] = picture
        return self._made[key]

    def _node(self, kind: PointType, radius: float, hollow: bool, painter: QPainter) -> None:
        painter.setBrush(QColor(self.theme.of_type(kind)))
        painter.setPen(QPen(QColor(self.theme.base), 1.5) if radius > 4 else Qt.PenStyle.NoPen)
        draw_shape(painter, kind, radius)
        if hollow:
            painter.setBrush(QColor(self.theme.base))
            painter.setPen(Qt.PenStyle.NoPen)
            draw_shape(painter, kind, radius * 0.5)

    def _badge(self, badge: Badge, painter: QPainter) -> None:
        theme = self.theme
        colour = {
            Badge.VERIFIED: theme.good,
            Badge.BOOTED: theme.session,
            Badge.PROVEN: theme.good,
            Badge.DAMAGED: theme.bad,
            Badge.NOT_BOOTED: theme.warning,
            Badge.ENDED_EARLY: theme.warning,
        }[badge]
        painter.setBrush(QColor(colour))
        painter.setPen(QPen(QColor(theme.base), 1))
        painter.drawEllipse(QPointF(), BADGE, BADGE)
        painter.setPen(QPen(QColor(theme.base), 1.5))
        if badge is Badge.VERIFIED:
            painter.drawPolyline(_polygon((-2.4, 0.1), (-0.7, 2), (2.5, -1.8)))
        elif badge is Badge.PROVEN:  # twice, for the two proofs
            for above in (-1.6, 1.4):
                tick = _polygon((-2.2, above), (-0.6, above + 1.6), (2.3, above - 1.7))
                painter.drawPolyline(tick)
        elif badge in (Badge.DAMAGED, Badge.NOT_BOOTED, Badge.ENDED_EARLY):
            painter.drawLine(QPointF(0, -3), QPointF(0, 0.6))
            painter.drawPoint(QPointF(0, 2.8))
        else:
            painter.setBrush(QColor(theme.base))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.drawPolygon(_polygon((-1.6, -2.7), (2.9, 0), (-1.6, 2.7)))

    def _overlay(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(self.theme.muted), 1.2))
        painter.setBrush(QColor(self.theme.base))
        painter.drawEllipse(QPointF(), 3, 3)

    def _pin(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(self.theme.text), 1.6))
        painter.drawLine(QPointF(0, 7), QPointF(0, 0))
        painter.setPen(QPen(QColor(self.theme.base), 1))
        painter.setBrush(QColor(self.theme.text))
        painter.drawEllipse(QPointF(0, -3), 4, 4)

    def _cross(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(self.theme.bad), 2))
        painter.drawLine(QPointF(-4, -4), QPointF(4, 4))
        painter.drawLine(QPointF(-4, 4), QPointF(4, -4))

    def _session(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(self.theme.base), 1.2))
        painter.setBrush(QColor(self.theme.session))
        painter.drawEllipse(QPointF(), 8, 8)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self.theme.base))
        painter.drawPolygon(_polygon((-2.4, -4), (4.2, 0), (-2.4, 4)))


def draw_shape(painter: QPainter, kind: PointType, radius: float) -> None:
    """The outline of a type around the origin: square, circle or diamond."""
    if kind is PointType.FULL:
        side = radius * 0.9
        painter.drawRoundedRect(QRectF(-side, -side, 2 * side, 2 * side), side / 4, side / 4)
    elif kind is PointType.INCREMENTAL:
        painter.drawEllipse(QPointF(), radius * 0.95, radius * 0.95)
    else:
        tip = radius * 1.2
        painter.drawPolygon(_polygon((0, -tip), (tip, 0), (0, tip), (-tip, 0)))


def place(painter: QPainter, picture: QPixmap, x: float, y: float) -> None:
    """Draw a picture with its centre at (x, y), in logical pixels."""
    half = picture.width() / picture.devicePixelRatio() / 2
    painter.drawPixmap(QPointF(x - half, y - half), picture)


def _polygon(*corners: tuple[float, float]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in corners])
