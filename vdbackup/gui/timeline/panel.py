"""The middle of the window: the graph and the table of one source's recovery points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QPoint, QPointF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPixmap, QResizeEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollBar,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.theme import Theme
from vdbackup.gui.timeline.glyphs import Badge, Glyphs, place
from vdbackup.gui.timeline.layout import KINDS
from vdbackup.gui.timeline.moment_bar import MomentBar
from vdbackup.gui.timeline.points_table import PointsTable
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.kept_logs import UnreadLog
from vdbackup.repository.written import WrittenPoint, point_of
from vdbackup.translation import grouped, marked, tr

if TYPE_CHECKING:
    from vdbackup.gui.timeline.timeline import Timeline

RANGES = {
    marked("day"): words.DAY,
    marked("week"): 7 * words.DAY,
    marked("month"): 31 * words.DAY,
    marked("all"): None,
}
HINTS = {
    marked("day"): tr("Show the last day"),
    marked("week"): tr("Show the last week"),
    marked("month"): tr("Show the last month"),
    marked("all"): tr("Show all"),
    marked("graph"): tr("Show the recovery points as a graph"),
    marked("table"): tr("Show the recovery points as a table"),
}
ROOM_FOR_RANGES = 470  # pixels of the panel
SCROLL = 1000  # steps of the scroll bar per step of x
LINE = 24  # pixels of one of the legend
MOST_LINES = 3
FIRST, BEFORE_NAME, BETWEEN = 12.0, 12, 13  # pixels of it: before the first glyph, and so on


class TimelinePanel(QFrame):
    """Title, range buttons, graph or table, legend.

    Attributes:
        table: the same as the timeline in words; they follow each other.
        animated: whether a merge is seen happening.

    Signals:
        point_selected(str): id of the chosen point, or of the moment behind it, "" for none.
        point_activated(str): the user wants to boot it.
        backup_wanted(): from the page of a source without points.
        menu_wanted(QPoint): what can be done to the chosen point is asked for.
        picked(): other points are picked beside it, or none.
    """

    point_selected = Signal(str)
    point_activated = Signal(str)
    backup_wanted = Signal()
    menu_wanted = Signal(QPoint)
    picked = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("pane", "true")
        self._entry: Entry | None = None
        self.animated = True
        self._theme = theme
        self._sessions: frozenset[str] = frozenset()
        self._timeline: Timeline | None = None
        self.table = PointsTable(theme)
        self._title = parts.Elided("heading")
        self._picked = parts.label("", "muted", wrap=False)
        self._picked.setObjectName("pickedPoints")
        self._picked.hide()
        self._ranges = QButtonGroup(self)
        self._ranges_box = QWidget()
        self._views = QButtonGroup(self)
        self._scroll = QScrollBar(Qt.Orientation.Horizontal)
        self._scroll.setAccessibleName(tr("Part of the timeline that is shown"))
        self._legend = Legend(theme)
        self.moments = MomentBar()
        self._logs: tuple[ReadLog, ...] = ()
        self._unread: tuple[UnreadLog, ...] = ()
        self._message = parts.label("", "heading")
        self._advice = parts.label("", "muted")
        self._first = parts.button(tr("Back up now"), "firstBackupButton", "primary")
        self._pages = QStackedWidget()
        self._pages.addWidget(self._graph_page())
        self._pages.addWidget(self.table)
        self._pages.addWidget(self._empty_page())
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 8)
        column.setSpacing(8)
        column.addLayout(self._header())
        column.addWidget(self._pages, 1)
        column.addWidget(self.moments)
        self.table.point_selected.connect(self._on_table_selected)
        self.table.point_activated.connect(self.point_activated)
        self.table.menu_wanted.connect(self.menu_wanted)
        self.table.picked.connect(self._on_table_picked)
        self.moments.wanted.connect(self._on_moment_wanted)
        self._scroll.valueChanged.connect(self._on_scrolled)
        self._first.clicked.connect(self.backup_wanted)
        self.show_entry(None)

    @property
    def timeline(self) -> Timeline:
        """The graph. It is made when it is first needed, as pyqtgraph takes long to import."""
        if self._timeline is None:
            from vdbackup.gui.timeline.timeline import Timeline

            self._timeline = timeline = Timeline(self._theme)
            timeline.set_sessions(self._sessions)
            timeline.point_selected.connect(self._on_timeline_selected)
            timeline.point_activated.connect(self.point_activated)
            timeline.menu_wanted.connect(self.menu_wanted)
            timeline.picked.connect(self._on_picked)
            timeline.range_changed.connect(self._on_range_changed)
            self._graph_column.insertWidget(0, timeline, 1)
            QWidget.setTabOrder(self._views.button(1), timeline)
        return self._timeline

    @property
    def selected(self) -> str:
        """The id of the chosen point, or of the moment behind it, "" for none."""
        return self._timeline.selected if self._timeline else ""

    @property
    def chosen(self) -> tuple[str, ...]:
        """The ids of all points that are picked, by sequence; of the chosen one where none are."""
        return self._timeline.chosen if self._timeline else ()

    @property
    def moment(self) -> WrittenPoint | None:
        """The chosen moment, None where a point is chosen."""
        chosen = self._timeline.state if self._timeline else None
        return chosen if isinstance(chosen, WrittenPoint) else None

    def set_logs(self, logs: Sequence[ReadLog], unread: Sequence[UnreadLog] = ()) -> None:
        """Show these logs behind their points; of `unread` ones nobody knows whose they are."""
        self._logs, self._unread = tuple(logs), tuple(unread)
        if self._timeline:
            self._timeline.set_logs(self._logs)
            self._show_moments()

    def set_sessions(self, point_ids: frozenset[str]) -> None:
        """Mark the points from which a virtual machine runs."""
        self._sessions = point_ids
        if self._timeline:
            self._timeline.set_sessions(point_ids)

    def set_going(self, point_ids: frozenset[str]) -> None:
        """Mark the points that would go by a policy that is being tried."""
        if self._timeline:
            self._timeline.set_going(point_ids)

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self._theme = theme
        if self._timeline:
            self._timeline.set_theme(theme)
        self.table.set_theme(theme)
        self._legend.set_theme(theme)

    def show_entry(self, entry: Entry | None) -> None:
        """Show a source's points; a newer state of the same source keeps view and cursor."""
        same = bool(entry and self._entry and entry.key == self._entry.key)
        if same and entry == self._entry:
            return
        self._entry = entry
        points = entry.points if entry else ()
        self._title.setText(entry.title if entry else tr("Timeline"))
        pins = entry.pins if entry else {}
        self.table.set_points(points, pins)
        if self._timeline or points:
            self.timeline.animated = self.animated
            self.timeline.set_points(points, same_set=same)
            self.timeline.set_pinned(frozenset(pins))
            self.timeline.set_going(frozenset())
        if not same:
            self._ranges.button(len(RANGES) - 1).setChecked(True)
        self._show_page()

    def show_table(self, wanted: bool = True) -> None:
        """Show the table, or the graph."""
        self._views.button(1 if wanted else 0).setChecked(True)
        self._show_page()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave the ranges out where they would take the room of the source's name."""
        super().resizeEvent(event)
        self._ranges_box.setVisible(self.width() >= ROOM_FOR_RANGES)

    @property
    def shows_table(self) -> bool:
        """Whether the table was chosen."""
        return self._views.checkedId() == 1

    def _show_page(self) -> None:
        entry = self._entry
        for button in self._views.buttons():
            button.setEnabled(bool(entry and entry.points))
        for button in self._ranges.buttons():  # they are the graph's
            button.setEnabled(bool(entry and entry.points) and self._views.checkedId() == 0)
        if entry and entry.points:
            self._pages.setCurrentIndex(self._views.checkedId())
            return
        self._pages.setCurrentIndex(2)
        self._first.setVisible(entry is not None and entry.problem is None)
        if entry is None:
            self._message.setText(tr("No source is chosen"))
            self._advice.setText(tr("Choose one on the left, or add one."))
        elif entry.problem:
            self._message.setText(words.breakable(entry.problem.title))
            self._advice.setText(words.breakable(remedies.advice(entry.problem)))
        else:
            self._message.setText(tr("No recovery points yet"))
            sentence = tr(
                "The first backup copies all of {source} that holds data.", source=entry.source
            )
            # a page that is not shown needs room, too
            self._advice.setText(words.breakable(sentence))

    def _header(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self._title, 1)
        row.addWidget(self._picked)
        inside = QHBoxLayout(self._ranges_box)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        for number, name in enumerate(RANGES):
            button = _segment(tr(name), HINTS[name])
            self._ranges.addButton(button, number)
            inside.addWidget(button)
        self._ranges_box.setMinimumWidth(1)  # it goes where there is no room for it
        row.addWidget(self._ranges_box)
        self._ranges.idClicked.connect(self._on_range_clicked)
        row.addSpacing(14)
        for number, name in enumerate((marked("graph"), marked("table"))):
            button = _segment(tr(name), HINTS[name])
            button.setObjectName(f"{name}Button")
            self._views.addButton(button, number)
            row.addWidget(button)
        self._views.button(0).setChecked(True)
        self._views.idClicked.connect(self._show_page)
        return row

    def _graph_page(self) -> QWidget:
        page = QWidget()
        column = self._graph_column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self._scroll)
        column.addWidget(self._legend)
        return page

    def _empty_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setSpacing(10)
        middle = Qt.AlignmentFlag.AlignHCenter
        column.addStretch(1)
        for label in (self._message, self._advice):
            label.setAlignment(middle)
            column.addWidget(label)
        column.addWidget(self._first, 0, middle)
        column.addStretch(1)
        return page

    def _on_table_selected(self, point_id: str) -> None:
        self.timeline.select(point_id)

    def _on_table_picked(self, point_ids: tuple[str, ...]) -> None:
        self.timeline.pick(point_ids)

    def _on_picked(self) -> None:
        """Show the same in both, and say how many it is."""
        chosen = self.chosen
        self.table.show_picked(chosen)
        points = [each for each in self.timeline.points if each.id in set(chosen)]
        said = tr(
            "{count} points picked, {size}",
            count=grouped(len(points)),
            size=words.size(sum(each.stored_bytes for each in points)),
        )
        self._picked.setText(said if len(points) > 1 else "")
        self._picked.setVisible(len(points) > 1)
        self.picked.emit()

    def _on_timeline_selected(self, point_id: str) -> None:
        self.table.select(point_of(point_id))
        self._show_moments()
        self.point_selected.emit(point_id)

    def _show_moments(self) -> None:
        timeline = self.timeline
        behind = [each for each in timeline.facts.bands if each.index == timeline.place]
        self.moments.show_moments(behind, timeline.spot)
        if not behind and self._entry and self._entry.backup_set:
            self.moments.show_near(self._entry.backup_set.settings.near)
            if self._unread:
                self.moments.show_unread(self._unread)

    def _on_moment_wanted(self, session: str, write: int) -> None:
        self.timeline.select_moment(session, write)

    def _on_range_clicked(self, number: int) -> None:
        self.timeline.show_since(list(RANGES.values())[number])

    def _on_range_changed(self, low: float, high: float) -> None:
        least, most = self.timeline.whole_range
        self._scroll.blockSignals(True)
        self._scroll.setRange(round(least * SCROLL), round((most - (high - low)) * SCROLL))
        self._scroll.setPageStep(max(1, round((high - low) * SCROLL)))
        self._scroll.setSingleStep(SCROLL)
        self._scroll.setValue(round(low * SCROLL))
        self._scroll.blockSignals(False)
        part = high - low < most - least - 0.01
        self._scroll.setVisible(part)
        if part and self._ranges.checkedId() == len(RANGES) - 1:  # by the wheel: not all of it
            self._light_no_range()

    def _light_no_range(self) -> None:
        self._ranges.setExclusive(False)
        for button in self._ranges.buttons():
            button.setChecked(False)
        self._ranges.setExclusive(True)

    def _on_scrolled(self, value: int) -> None:
        self.timeline.scroll_to(value / SCROLL)


class Legend(QWidget):
    """Says what the shapes and badges of the timeline mean."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(tr("Legend"))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy = self.sizePolicy()
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        about = tr(
            "Square: full. Circle: incremental. Diamond: differential. Hollow: made of what a "
            "VM wrote. Small ring: overlay. Badges: verified, boot-tested, proven (both), "
            "damaged, does not boot. Above a point: pinned, running VM. A band behind a point: "
            "every write of its VM is kept, with a tick for each consistent moment."
        )
        self.setAccessibleDescription(about)
        self.setToolTip(parts.hint(about))
        self.set_theme(theme)

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self._glyphs = Glyphs(theme, self.devicePixelRatioF())
        self.update()

    def sizeHint(self) -> QSize:
        """One line."""
        return QSize(500, LINE)

    def minimumSizeHint(self) -> QSize:
        """One line."""
        return QSize(0, LINE)

    def hasHeightForWidth(self) -> bool:
        """What one line has no room for stands in the next."""
        return True

    def heightForWidth(self, width: int) -> int:
        """So many lines as it needs, and as the graph can spare; the hint has all of it."""
        lines = 1 + max((line for line, _, _, _ in self._placed(width)), default=0)
        return LINE * min(lines, MOST_LINES)

    def _items(self) -> list[tuple[QPixmap, str]]:
        """Each glyph, and what it means."""
        glyphs = self._glyphs
        items = [(glyphs.node(number, 7.0), tr(kind)) for number, kind in enumerate(KINDS)]
        items += [(glyphs.node(1, 7.0, promoted=True), tr("of a VM"))]
        items += [
            (glyphs.badge(Badge.VERIFIED), tr("verified")),
            (glyphs.badge(Badge.BOOTED), tr("boots")),
        ]
        items += [(glyphs.badge(Badge.PROVEN), tr("proven"))]
        items += [(glyphs.pin(), tr("pinned"))]
        items += [(glyphs.badge(each), each.value) for each in (Badge.DAMAGED, Badge.NOT_BOOTED)]
        items += [(glyphs.session(), tr("running VM")), (glyphs.overlay(), tr("overlay"))]
        return items

    def _placed(self, width: int) -> Iterator[tuple[int, float, QPixmap, str]]:
        """In which line each stands, and where in it; the more important ones come first."""
        metrics, line, left = self.fontMetrics(), 0, FIRST
        for picture, name in self._items():
            room = metrics.horizontalAdvance(name) + BEFORE_NAME
            if left + room > width and left > FIRST:
                line, left = line + 1, FIRST
            yield line, left, picture, name
            left += room + BETWEEN

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw each glyph with its name, as far as there is room."""
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QColor(self._glyphs.theme.muted))
            ascent = painter.fontMetrics().ascent()
            for line, left, picture, name in self._placed(self.width()):
                middle = LINE * (line + 0.5)
                if middle > self.height():
                    return
                place(painter, picture, left, middle)
                painter.drawText(QPointF(left + BEFORE_NAME, middle + ascent / 2 - 1), name)


def _segment(name: str, hint: str) -> QPushButton:
    button = QPushButton()  # Qt calls a tool button a check box, whatever it excludes
    button.setText(name)
    button.setCheckable(True)
    button.setToolTip(hint)
    button.setProperty("segment", "true")
    button.setAutoExclusive(True)  # what makes it a radio button for those who hear it
    button.setAccessibleName(hint)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    policy = button.sizePolicy()
    policy.setVerticalPolicy(QSizePolicy.Policy.Fixed)  # its letters are cut where it is low
    button.setSizePolicy(policy)
    return button
