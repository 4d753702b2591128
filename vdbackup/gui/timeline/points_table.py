"""The table of recovery points: what the timeline shows, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from PySide6.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QContextMenuEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QStyle, QTableView, QWidget

from vdbackup.gui import words
from vdbackup.gui.theme import Theme
from vdbackup.repository.model import Check, Pin, RecoveryPoint
from vdbackup.text import printable
from vdbackup.translation import tr

Index = QModelIndex | QPersistentModelIndex

POINT_ID = Qt.ItemDataRole.UserRole


def check_in_words(check: Check | None) -> str:
    """How a check went: "yes", "failed", "never"."""
    if check is None:
        return tr("never")
    return (
        tr("yes, {at}", at=words.when(check.at))
        if check.ok
        else tr("failed, {at}", at=words.when(check.at))
    )


@dataclass(frozen=True)
class Row:
    """A recovery point as the table has it.

    Attributes:
        point: the point.
        parent: its parent's number, 0 where it has none that is shown.
        pin: what was said when it was pinned; None where it is not.
    """

    point: RecoveryPoint
    parent: int = 0
    pin: Pin | None = None

    @property
    def pinned(self) -> str:
        """Whether it is pinned, and why, in words."""
        return (printable(self.pin.note) or tr("yes")) if self.pin else ""


@dataclass(frozen=True)
class Column:
    """A fact about recovery points.

    Attributes:
        title: what it is called.
        width: in pixels, before the user has chosen another; its title may need more.
        text: the fact in words.
        sort_by: the fact as something that sorts.
        colour: of the words, in a theme; None for the usual one.
        number: it is aligned to the right.
        hint: more of it.
    """

    title: str
    width: int
    text: Callable[[Row], str]
    sort_by: Callable[[Row], int | str | datetime]
    colour: Callable[[Row, Theme], str | None] = lambda _row, _theme: None
    number: bool = False
    hint: Callable[[Row], str] = lambda row: words.when_exactly(row.point.created)

    @property
    def alignment(self) -> Qt.AlignmentFlag:
        """Where in its cells it stands."""
        side = Qt.AlignmentFlag.AlignRight if self.number else Qt.AlignmentFlag.AlignLeft
        return side | Qt.AlignmentFlag.AlignVCenter


def _of_check(
    title: str, check: Callable[[RecoveryPoint], Check | None], failed: Callable[[Theme], str]
) -> Column:
    """How a check went; `failed` is the colour of one that did not go well."""

    def colour(row: Row, theme: Theme) -> str:
        found = check(row.point)
        if found is None:
            return theme.muted
        return theme.good if found.ok else failed(theme)

    def moment(row: Row) -> str:
        found = check(row.point)
        return found.at if found else ""

    return Column(title, 150, lambda row: check_in_words(check(row.point)), moment, colour)


COLUMNS = (
    Column(
        "#",
        width=52,
        text=lambda row: f"{row.point.sequence}",
        sort_by=lambda row: row.point.sequence,
        number=True,
    ),
    Column(
        tr("Time"),
        width=132,
        text=lambda row: words.when(row.point.created),
        sort_by=lambda row: words.local(row.point.created),
    ),
    Column(
        tr("Type"),
        width=104,
        text=lambda row: tr(row.point.type),
        sort_by=lambda row: row.point.type.value,
        colour=lambda row, theme: theme.of_type(row.point.type),
    ),
    Column(
        tr("Parent"),
        width=66,
        text=lambda row: f"#{row.parent}" if row.parent else tr("none"),
        sort_by=lambda row: row.parent,
        number=True,
    ),
    Column(
        tr("Stored"),
        width=84,
        text=lambda row: words.size(row.point.stored_bytes),
        sort_by=lambda row: row.point.stored_bytes,
        number=True,
    ),
    _of_check(tr("Verified"), lambda point: point.verified, lambda theme: theme.bad),
    _of_check(tr("Boot-tested"), lambda point: point.boot_tested, lambda theme: theme.warning),
    Column(
        tr("Pinned"),
        width=120,
        text=lambda row: row.pinned,
        sort_by=lambda row: row.pinned,
    ),
)


class PointsModel(QAbstractTableModel):
    """Recovery points as rows.

    It sorts by itself: a proxy would ask for each value many times, a second for 10,000 points.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self._rows: list[Row] = []
        self._order = (0, Qt.SortOrder.DescendingOrder)
        self._places: dict[str, int] = {}

    def set_points(self, points: Sequence[RecoveryPoint], pins: Mapping[str, Pin]) -> None:
        """Show these points; `pins` has those that are pinned, by id."""
        self.beginResetModel()
        numbers = {point.id: point.sequence for point in points}
        self._rows = [
            Row(point, numbers.get(point.parent or "", 0), pins.get(point.id)) for point in points
        ]
        self._arrange()
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the rows; who is chosen stays chosen."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        ids = [self._rows[index.row()].point.id for index in before]
        self._order = (column, order)
        self._arrange()
        after = [
            self.index(self._places[point_id], index.column())
            for point_id, index in zip(ids, before, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _arrange(self) -> None:
        column, order = self._order
        self._rows.sort(key=COLUMNS[column].sort_by, reverse=order == Qt.SortOrder.DescendingOrder)
        self._places = {row.point.id: place for place, row in enumerate(self._rows)}

    def row_of(self, point_id: str | None) -> int | None:
        """The row of a point, None if it is not shown."""
        return self._places.get(point_id or "")

    def id_of(self, row: int) -> str:
        """The point of a row."""
        return self._rows[row].point.id

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """A row for each point."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """The same facts for each."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        """The columns' names."""
        if orientation is not Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section].title
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return COLUMNS[section].alignment
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """A fact in words, and how it looks."""
        row, column = self._rows[index.row()], COLUMNS[index.column()]
        answers: dict[int, Callable[[], object]] = {
            Qt.ItemDataRole.DisplayRole: lambda: column.text(row),
            Qt.ItemDataRole.TextAlignmentRole: lambda: column.alignment,
            Qt.ItemDataRole.ForegroundRole: lambda: self._colour(row, column),
            Qt.ItemDataRole.ToolTipRole: lambda: column.hint(row),
            POINT_ID: lambda: row.point.id,
        }
        return answers[role]() if role in answers else None

    def _colour(self, row: Row, column: Column) -> QColor | None:
        colour = column.colour(row, self.theme)
        return QColor(colour) if colour else None


class PointsTable(QTableView):
    """The table, sortable by each column, the newest first.

    Signals:
        point_selected(str): the current row is this point's.
        point_activated(str): the user double-clicked it, or pressed Return.
        menu_wanted(QPoint): what can be done to it is asked for, at a place of the screen.
        picked(tuple[str, ...]): the user has picked the rows of these points.
    """

    point_selected = Signal(str)
    point_activated = Signal(str)
    menu_wanted = Signal(QPoint)
    picked = Signal(object)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pointsTable")
        self.setAccessibleName(tr("Table of recovery points"))
        self._told = False  # the current row follows somebody else's choice
        self._model = PointsModel(theme, self)
        self.setModel(self._model)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.DescendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setShowGrid(False)
        self.setAlternatingRowColors(True)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(30)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        self._size_columns()
        self.selectionModel().currentRowChanged.connect(self._on_row_changed)
        self.selectionModel().selectionChanged.connect(self._on_selection_changed)
        self.activated.connect(self._on_activated)

    def _size_columns(self) -> None:
        """Each has room for its title, with the mark of what is sorted by, in any language."""
        header = self.horizontalHeader()
        header.ensurePolished()
        mark = self.style().pixelMetric(QStyle.PixelMetric.PM_HeaderMarkSize, None, header)
        for place, column in enumerate(COLUMNS):
            needed = header.sectionSizeHint(place)
            sorted_by = place == header.sortIndicatorSection()
            needed += 0 if sorted_by else 2 * mark  # beside it are as many pixels free
            self.setColumnWidth(place, max(column.width, needed))

    @property
    def sorted_by(self) -> tuple[int, bool]:
        """The column, and whether the largest comes first."""
        header = self.horizontalHeader()
        largest_first = header.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
        return header.sortIndicatorSection(), largest_first

    def sort_by(self, column: int, *, largest_first: bool) -> None:
        """Sort by a column, if there is one of that number."""
        if 0 <= column < self.model().columnCount():
            order = Qt.SortOrder.DescendingOrder if largest_first else Qt.SortOrder.AscendingOrder
            self.sortByColumn(column, order)

    def set_theme(self, theme: Theme) -> None:
        """Take these colours."""
        self._model.theme = theme
        self.viewport().update()

    def set_points(
        self, points: Sequence[RecoveryPoint], pins: Mapping[str, Pin] | None = None
    ) -> None:
        """Show these points; `pins` has those that are pinned, by id."""
        self._model.set_points(points, pins or {})

    def select(self, point_id: str) -> None:
        """Make a point's row the current one, without a signal."""
        row = self._model.row_of(point_id)
        if row is None or point_id == self._id_at(self.currentIndex()):
            return
        index = self._model.index(row, 0)
        self._told = True
        self.setCurrentIndex(index)
        self._told = False
        self.scrollTo(index)

    def show_picked(self, point_ids: Iterable[str]) -> None:
        """Pick the rows of these points, without a signal; the current row stays."""
        rows = sorted(row for each in point_ids if (row := self._model.row_of(each)) is not None)
        wanted, last = QItemSelection(), self._model.columnCount() - 1
        for first, end in _runs(rows):
            wanted.select(self._model.index(first, 0), self._model.index(end, last))
        self._told = True
        self.selectionModel().select(wanted, QItemSelectionModel.SelectionFlag.ClearAndSelect)
        self._told = False

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Offer what can be done to the point of the current row."""
        if self.currentIndex().isValid():
            self.menu_wanted.emit(event.globalPos())

    def _id_at(self, index: QModelIndex) -> str:
        return str(index.data(POINT_ID)) if index.isValid() else ""

    def _on_row_changed(self, current: QModelIndex) -> None:
        point_id = self._id_at(current)
        if point_id and not self._told:
            self.point_selected.emit(point_id)

    def _on_selection_changed(self) -> None:
        if not self._told:
            found = self.selectionModel().selection()
            runs = [found.at(number) for number in range(found.count())]
            rows = [row for run in runs for row in range(run.top(), run.bottom() + 1)]
            self.picked.emit(tuple(self._model.id_of(row) for row in rows))

    def _on_activated(self, index: QModelIndex) -> None:
        self.point_activated.emit(self._id_at(index))


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each of the runs that ascending numbers make."""
    first = before = None
    for row in rows:
        if before is not None and first is not None and row != before + 1:
            yield first, before
            first = row
        first = row if first is None else first
        before = row
    if before is not None and first is not None:
        yield first, before
