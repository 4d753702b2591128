"""The timeline's points with a cursor on one of them, or on a moment behind it, and what is picked.

What the cursor does at the mouse and the keys is in `timeline.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from PySide6.QtCore import (
    QPoint,
    QPointF,
    QRect,
    QRectF,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QPainter,
)
from PySide6.QtWidgets import QWidget

from vdbackup.gui import words, written_words
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline import cursor, picking, spoken
from vdbackup.gui.timeline.bands import Band, Spot, lay_out
from vdbackup.gui.timeline.layout import arrange
from vdbackup.gui.timeline.merging import Sliding
from vdbackup.gui.timeline.picking import Picks
from vdbackup.gui.timeline.view import TimelineView
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import tr

AROUND = 6.0  # pixels between a point and the halo of what is picked
OF_A_MOMENT = 7.0  # pixels, the radius of the ring around it
CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


class PointsView(TimelineView):
    """Recovery points of one backup set along the time, and the logs of writes behind them.

    Attributes:
        animated: whether a merge is seen happening.

    Signals:
        point_selected(str): the cursor went to the point, or moment, with this id ("" for none).
        picked(): other points are picked.
    """

    point_selected = Signal(str)
    picked = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        self._index = -1
        self._picks = Picks()
        self._spot: Spot | None = None
        self._logs: tuple[ReadLog, ...] = ()
        spoken.let_timelines_speak(PointsView)  # before anybody can ask what this one says
        super().__init__(theme, parent)
        self.setObjectName("timeline")
        self.setAccessibleName(tr("Timeline of recovery points"))
        self.animated = True
        self._places: dict[str, int] = {}  # index by id
        self._sliding = Sliding(self)

    # what is shown

    @property
    def points(self) -> Sequence[RecoveryPoint]:
        """The points that are shown, by sequence."""
        return self.facts.points

    @property
    def index(self) -> int:
        """Of the point under the cursor; -1 for none, behind the last for a moment."""
        return len(self.points) if self._spot else self._index

    @property
    def place(self) -> int:
        """The index of the point under the cursor, or before it; -1 for none."""
        return self._index

    @property
    def spot(self) -> Spot | None:
        """The moment under the cursor; None where that is on a point."""
        return self._spot

    @property
    def state(self) -> RecoveryPoint | None:
        """The point under the cursor, or the moment behind it."""
        if self._index < 0:
            return None
        return self._spot.moment if self._spot else self.points[self._index]

    @property
    def selected(self) -> str:
        """The id of the point under the cursor, or of the moment behind it; "" for none."""
        state = self.state
        return state.id if state else ""

    @property
    def point_id(self) -> str:
        """The id of the point under the cursor, or before it; "" for none."""
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
        return self._sliding.under_way

    def set_points(self, points: Sequence[RecoveryPoint], *, same_set: bool = False) -> None:
        """Show these points (by sequence); the cursor stays, or goes to the newest.

        With `same_set` they are a later state of what is shown: the view stays where it is, and
        points that were merged slide into the one that stands for them.
        """
        before, chosen, picked = self.facts, self.point_id, self._picks.found
        stay_picked = {self.points[index].id for index in picked} if same_set else set()
        at_end = self._spot is None and self._index in (-1, len(before.points) - 1)
        newer = bool(points) and (not before.points or points[-1].id != before.points[-1].id)
        self._sliding.stop()
        if same_set and self.animated and self.isVisible():
            self._sliding.remember(points)
        layout = arrange(points)
        places = {name: i for i, p in enumerate(points) for name in (*p.merged, p.id)}
        stays = same_set and chosen in places and not (at_end and newer)
        self._places = {point.id: i for i, point in enumerate(points)}
        self._picks.clear()
        self._picks.put(self._places[each] for each in stay_picked if each in self._places)
        self._index = places[chosen] if stays else len(points) - 1
        self._logs = self._logs if same_set else ()
        bands = lay_out(self._logs, points, layout)
        self._spot = self._same_spot(bands) if stays else None
        self.show_facts(replace(before, points=tuple(points), layout=layout, bands=bands))
        if same_set and len(before.points) > 1:
            self.keep_range(before.layout)
        else:
            self.show_since(None)
        self._announce()
        self._on_picked(picked)
        self._sliding.start()

    def set_logs(self, logs: Sequence[ReadLog]) -> None:
        """Show these logs of writes behind their points; the cursor stays where it is."""
        before = self.facts
        self._logs = tuple(logs)
        bands = lay_out(self._logs, before.points, before.layout)
        was, self._spot = self._spot, self._same_spot(bands)
        self.show_facts(replace(before, bands=bands))
        if self.facts.end != before.end:
            self.keep_range(before.layout)
        if was and (self._spot is None or self._spot.write != was.write):
            self._announce()

    def _same_spot(self, bands: Sequence[Band]) -> Spot | None:
        """The moment under the cursor where these bands have it; None where they do not."""
        if (spot := self._spot) is None:
            return None
        for band in bands:
            if band.log.session == spot.band.log.session and spot.write <= band.log.writes:
                return None if band.log.problem else Spot.nearest(band, spot.write)
        return None

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

    def select_moment(self, session: str, write: int) -> None:
        """Move the cursor to the moment after a write in a session's log, and into view."""
        for band in self.facts.bands:
            if band.log.session == session:
                self._go_to_spot(Spot.nearest(band, write))

    def select(self, point_id: str) -> None:
        """Move the cursor to a point, and into view; what is picked stays so."""
        if point_id in self._places:
            self._go_to(self._places[point_id])

    # drawing

    def draw_moving(self, painter: QPainter) -> None:
        """Draw the cursor, and points on their way into another one."""
        if self.merging:
            self._sliding.draw(painter)
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
        place_of, spot = self.place_of, self._spot
        at = self.pixel(spot.band.x_of(spot.write), spot.band.lane) if spot else place_of(index)
        chosen = self.state or self.points[index]
        painter.setClipRect(QRectF(view.left(), 0, view.width(), bars.bottom()))
        cursor.draw(
            painter,
            self.glyphs.theme,
            cursor.Cursor(
                at=at,
                top=4.0,
                bottom=bars.bottom(),
                left=view.left(),
                right=view.right(),
                ring=OF_A_MOMENT if spot else self.radius_of(index) + 3.5,
                label=cursor.label(chosen),
                chain=[
                    *([(at, place_of(index))] if spot else ()),
                    *((place_of(a), place_of(b)) for a, b in layout.chain(index)),
                ],
                focused=self.hasFocus(),
            ),
        )

    # the cursor

    def _go_to(self, index: int) -> None:
        if not 0 <= index < len(self.points) or (index == self._index and self._spot is None):
            return
        self._index, self._spot = index, None
        self._moved_to(float(self.facts.layout.x[index]))

    def _go_to_spot(self, spot: Spot) -> None:
        if spot.band.log.problem or not 0 <= spot.write <= spot.band.log.writes:
            return
        self._pick_by(Qt.KeyboardModifier.NoModifier, -1)
        was = self._spot
        if was and (was.band, was.write) == (spot.band, spot.write):
            return
        self._index, self._spot = spot.band.index, spot
        self._moved_to(spot.band.x_of(spot.write))

    def _moved_to(self, x: float) -> None:
        low, high = self.visible_range
        if x < low or x > high:
            self.set_range(x - (high - low) / 2, x + (high - low) / 2)
        self.viewport().update()
        self._announce()

    def _announce(self) -> None:
        chosen = self.state
        description = (
            tr("Recovery point {point}", point=words.point_title(chosen))
            if chosen
            else tr("No recovery points")
        )
        if isinstance(chosen, WrittenPoint):
            description = words.moment_title(chosen)
        self.setAccessibleDescription(description)
        spoken.announce(self, self.index, description if self._spot else "")
        self.point_selected.emit(chosen.id if chosen else "")

    def _pick_by(self, modifiers: Qt.KeyboardModifier, index: int) -> None:
        """Pick as a click on a point, or a step to it, means it with these keys held."""
        before = self._picks.found
        if index < 0 or not modifiers & (CTRL | SHIFT):
            self._picks.clear()
        elif modifiers & SHIFT:
            self._picks.reach(index, self._index)
        else:
            self._picks.toggle(index, self._index)
        self._on_picked(before)

    @property
    def _x(self) -> float:
        """Where the cursor stands."""
        spot = self._spot
        return spot.band.x_of(spot.write) if spot else float(self.facts.layout.x[self._index])

    # what it says

    def hint(self, index: int) -> str:
        """What a point is, in lines; behind the last, what the moment under the cursor is."""
        if (spot := self._spot) is not None and index == len(self.points):
            return written_words.hint(spot.band.log, spot.moment)
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
        own = (each.log for each in self.facts.bands if each.index == index)
        lines += [written_words.summary(log) for log in own]
        return "\n".join(lines)

    def area_of(self, index: int) -> QRect:
        """Where a point, or the moment, is on the screen; empty where it is out of sight."""
        if (spot := self._spot) is not None and index == len(self.points):
            at, reach = self.pixel(self._x, spot.band.lane), OF_A_MOMENT
        else:
            at, reach = self.place_of(index), self.radius_of(index)
        area = QRectF(at.x() - reach, at.y() - reach, 2 * reach, 2 * reach).toAlignedRect()
        area &= self.viewport().rect()
        return QRect(self.viewport().mapToGlobal(area.topLeft()), area.size())

    def point_under(self, at: QPoint) -> int:
        """The index of the point at a place of the screen; -1 for none."""
        return self.point_at(QPointF(self.viewport().mapFromGlobal(at)))
