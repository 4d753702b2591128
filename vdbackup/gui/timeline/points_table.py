"""The table of recovery points: what the timeline shows, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from vdbackup.gui import words
from vdbackup.gui.theme import Theme
from vdbackup.repository.model import Check, RecoveryPoint

Index = QModelIndex | QPersistentModelIndex

POINT_ID = Qt.ItemDataRole.UserRole


def check_in_words(check: Check | None) -> str:
    """How a check went: "yes", "failed", "never"."""
    if check is None:
        return "never"
    return f"yes, {words.when(check.at)}" if check.ok else f"failed, {words.when(check.at)}"


class PointsModel(QAbstractTableModel):
    """Recovery points as rows.

    It sorts by itself: a proxy would ask for each value many times, a second for 10,000 points.
    """

    COLUMNS = ("#", "Time", "Type", "Parent", "Stored", "Verified", "Boot-tested")
    NUMBERS = (0, 3, 4)  # columns that are aligned to the right

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self._points: list[RecoveryPoint] = []
        self._sequences: dict[str, int] = {}
        self._order = (0, Qt.SortOrder.DescendingOrder)
        self._rows: dict[str, int] = {}

    def set_points(self, points: Sequence[RecoveryPoint]) -> None:
        """Show these points."""
        self.beginResetModel()
        self._points = list(points)
        self._sequences = {point.id: point.sequence for point in points}
        self._arrange()
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the rows; who is chosen stays chosen."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        ids = [self._points[index.row()].id for index in before]
        self._order = (column, order)
        self._arrange()
        after = [
            self.index(self._rows[point_id], index.column())
            for point_id, index in zip(ids, before, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _arrange(self) -> None:
        column, order = self._order
        self._points.sort(
            key=lambda point: self._sortable(point)[column],
            reverse=order == Qt.SortOrder.DescendingOrder,
        )
        self._rows = {point.id: row for row, point in enumerate(self._points)}

    def row_of(self, point_id: str | None) -> int | None:
        """The row of a point, None if it is not shown."""
        return self._rows.get(point_id or "")

    def _parent_sequence(self, point: RecoveryPoint) -> int:
        return self._sequences.get(point.parent or "", 0)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """A row for each point."""
        return 0 if parent.isValid() else len(self._points)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """The same facts for each."""
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """The columns' names."""
        if orientation is not Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.COLUMNS[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self._alignment(section)
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A fact in words, or as something that sorts."""
        point, column = self._points[index.row()], index.column()
        answers: dict[int, Callable[[], Any]] = {
            Qt.ItemDataRole.DisplayRole: lambda: self._text(point)[column],
            Qt.ItemDataRole.TextAlignmentRole: lambda: self._alignment(column),
            Qt.ItemDataRole.ForegroundRole: lambda: self._colour(point, column),
            Qt.ItemDataRole.ToolTipRole: lambda: words.when_exactly(point.created),
            POINT_ID: lambda: point.id,
        }
        return answers[role]() if role in answers else None

    def _alignment(self, column: int) -> Qt.AlignmentFlag:
        side = Qt.AlignmentFlag.AlignRight if column in self.NUMBERS else Qt.AlignmentFlag.AlignLeft
        return side | Qt.AlignmentFlag.AlignVCenter

    def _text(self, point: RecoveryPoint) -> tuple[str, ...]:
        parent = self._parent_sequence(point)
        return (
            f"{point.sequence}",
            words.when(point.created),
            point.type.value,
            f"#{parent}" if parent else "none",
            words.size(point.stored_bytes),
            check_in_words(point.verified),
            check_in_words(point.boot_tested),
        )

    def _sortable(self, point: RecoveryPoint) -> tuple[Any, ...]:
        return (
            point.sequence,
            words.local(point.created),
            point.type.value,
            self._parent_sequence(point),
            point.stored_bytes,
            point.verified.at if point.verified else "",
            point.boot_tested.at if point.boot_tested else "",
        )

    def _colour(self, point: RecoveryPoint, column: int) -> QColor | None:
        if column == 2:
            return QColor(self.theme.of_type(point.type))
        check = {5: point.verified, 6: point.boot_tested}.get(column)
        if column < 5:
            return None
        if check is None:
            return QColor(self.theme.muted)
        failed = self.theme.bad if column == 5 else self.theme.warning
        return QColor(self.theme.good if check.ok else failed)


class PointsTable(QTableView):
    """The table, sortable by each column, the newest first.

    Signals:
        point_selected(str): the current row is this point's.
        point_activated(str): the user double-clicked it, or pressed Return.
    """

    point_selected = Signal(str)
    point_activated = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pointsTable")
        self.setAccessibleName("Table of recovery points")
        self._told = False  # the current row follows somebody else's choice
        self._model = PointsModel(theme, self)
        self.setModel(self._model)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.DescendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setAlternatingRowColors(True)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(30)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        for column, width in enumerate((52, 132, 104, 66, 84, 150, 150)):
            self.setColumnWidth(column, width)
        self.selectionModel().currentRowChanged.connect(self._on_row_changed)
        self.activated.connect(self._on_activated)

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

    def set_points(self, points: Sequence[RecoveryPoint]) -> None:
        """Show these points."""
        self._model.set_points(points)

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

    def _id_at(self, index: QModelIndex) -> str:
        return str(index.data(POINT_ID)) if index.isValid() else ""

    def _on_row_changed(self, current: QModelIndex) -> None:
        point_id = self._id_at(current)
        if point_id and not self._told:
            self.point_selected.emit(point_id)

    def _on_activated(self, index: QModelIndex) -> None:
        self.point_activated.emit(self._id_at(index))
