"""A tree of files that may hold 100,000 in one folder: sorted and filled without a halt.

Qt's items are made in slices between which the window goes on, and no more of them than somebody
scrolls to; all are sorted, on the reader's thread. (Measured: 100,000 items at once take 1 s, as
long again to be sorted by Qt, which would not know what a size is, and 100 ms whenever garbage is
collected.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import shiboken6
from PySide6.QtCore import QEvent, QModelIndex, Qt, QTimer, Signal
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from vdbackup.gui import icons, words
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.theme import Theme
from vdbackup.jobs import Job
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.recovery.browse import Entry

ENTRY = Qt.ItemDataRole.UserRole  # not its path: a name need not be Unicode, as Qt's texts are
NAME, SIZE, MODIFIED = range(3)  # columns
SLICE = 2000
"""Items that are made, or removed, between two turns of the window: some 20 ms."""
PAGE = 10_000
"""Items that are made at all, until the end of them is scrolled to."""
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter

Named = tuple[str, "Entry"]
"""A file, and what it is called."""


class FilesTree(QTreeWidget):
    """Names, sizes, moments; a click on a column's head sorts by it, folders first.

    Attributes:
        unfolds: folders can be unfolded here.

    Signals:
        drag_wanted(): the chosen files are to be dragged elsewhere.
    """

    drag_wanted = Signal()

    def __init__(
        self, name: str, accessible_name: str, worker: Worker, theme: Theme, *, unfolds: bool = True
    ) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible_name)
        self.unfolds = unfolds
        self._worker = worker
        self._todo: deque[Iterator[None]] = deque()
        self._files: list[Named] | None = None  # of the topmost folder, once it is read
        self._rest: tuple[QTreeWidgetItem, Sequence[Named], int] | None = None
        self.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        self.verticalScrollBar().rangeChanged.connect(self._on_scrolled)
        self._order = (NAME, Qt.SortOrder.AscendingOrder)
        self._folder_icon = icons.icon("icon-browse", theme, theme.accent)
        self._file_icon = icons.icon("icon-file", theme, theme.muted)
        self.setHeaderLabels([tr("Name"), tr("Size"), tr("Modified")])
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setDragEnabled(True)
        self.setUniformRowHeights(True)  # else 10,000 files are measured one by one
        self.setRootIsDecorated(unfolds)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        header.setSectionsClickable(True)
        header.setSortIndicatorShown(True)
        header.setSortIndicator(*self._order)
        header.sortIndicatorChanged.connect(self._on_order_changed)
        self._size_columns()
        self.headerItem().setTextAlignment(SIZE, _RIGHT)
        self._turn = QTimer(self, interval=0)
        self._turn.timeout.connect(self._on_turn)

    @property
    def filling(self) -> bool:
        """Whether there is more to come."""
        return bool(self._todo)

    def begin(self, item: QTreeWidgetItem, sentence: str) -> None:
        """Show, in place of what a folder holds, that this is looked for."""
        self._stop(item)
        waiting = QTreeWidgetItem(item, [sentence])
        waiting.setFlags(Qt.ItemFlag.NoItemFlags)

    def fill(self, item: QTreeWidgetItem, files: list[Named]) -> None:
        """Show what a folder holds; the first slice at once. It is sorted by name already."""
        self._stop(item)
        if item is self.invisibleRootItem():
            self._files = files
        if self._order == (NAME, Qt.SortOrder.AscendingOrder):
            self._begin(self._filled(item, files))
        else:
            self._sort(item, files)

    def _stop(self, item: QTreeWidgetItem) -> None:
        """What a folder was being filled with is wanted no more."""
        if item is self.invisibleRootItem():
            self._todo.clear()
            self._files = self._rest = None
        item.takeChildren()

    def _begin(self, work: Iterator[None]) -> None:
        self._todo.append(work)
        if len(self._todo) == 1:
            self._on_turn()

    def _on_turn(self) -> None:
        if self._todo and next(self._todo[0], self) is self:
            self._todo.popleft()
        if self._todo:
            self._turn.start()
        else:
            self._turn.stop()

    def _filled(self, item: QTreeWidgetItem, files: Sequence[Named], at: int = 0) -> Iterator[None]:
        """Add a page of files, from one on; the next follows when the end is come near."""
        end = min(at + PAGE, len(files))
        for first in range(at, end, SLICE):
            if not shiboken6.isValid(item):
                return
            item.addChildren([self._made(*each) for each in files[first : min(first + SLICE, end)]])
            if first + SLICE >= end and end < len(files):
                self._rest = (item, files, end)
            yield

    def _on_scrolled(self) -> None:
        bar = self.verticalScrollBar()
        if self._rest is not None and bar.value() + 2 * bar.pageStep() >= bar.maximum():
            (item, files, at), self._rest = self._rest, None
            self._begin(self._filled(item, files, at))

    def _made(self, name: str, entry: Entry) -> QTreeWidgetItem:
        is_folder = entry.kind == "folder"
        modified = words.when(entry.modified) if entry.modified else ""
        item = QTreeWidgetItem([name, "" if is_folder else words.size(entry.size), modified])
        item.setData(NAME, ENTRY, entry)
        item.setIcon(NAME, self._folder_icon if is_folder else self._file_icon)
        item.setTextAlignment(SIZE, _RIGHT)
        if is_folder:
            policies = QTreeWidgetItem.ChildIndicatorPolicy
            item.setChildIndicatorPolicy(
                policies.ShowIndicator if self.unfolds else policies.DontShowIndicator
            )
        return item

    def _on_order_changed(self, column: int, order: Qt.SortOrder) -> None:
        self._order = (column, order)
        self._todo.clear()
        self._rest = None
        if self._files is not None:
            self._sort(self.invisibleRootItem(), self._files)

    def _sort(self, item: QTreeWidgetItem, files: list[Named]) -> None:
        """Fill a folder in the order that is chosen; what was unfolded in it is read again."""
        order = self._order

        def sorted_(job: Job[list[Named]]) -> None:
            if order == self._order and job.result is not None and shiboken6.isValid(item):
                self._begin(self._refilled(item, job.result))

        work = partial(in_order, files, *order)
        self._worker.submit(Job(tr("Sort"), lambda _task: work()), sorted_)

    def _refilled(self, item: QTreeWidgetItem, files: list[Named]) -> Iterator[None]:
        index = QModelIndex() if item is self.invisibleRootItem() else self.indexFromItem(item)
        while (count := item.childCount()) > 0:
            self.model().removeRows(max(0, count - SLICE), min(count, SLICE), index)
            yield
        yield from self._filled(item, files)

    def startDrag(self, _actions: Qt.DropAction) -> None:
        """Let the window drag files: Qt would drag its items."""
        self.drag_wanted.emit()

    def _size_columns(self) -> None:
        letter = self.fontMetrics().averageCharWidth()
        self.setColumnWidth(SIZE, 16 * letter)
        self.setColumnWidth(MODIFIED, 25 * letter)

    def changeEvent(self, event: QEvent) -> None:
        """Columns are as wide as letters want it."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self._size_columns()


def in_order(files: list[Named], column: int, order: Qt.SortOrder) -> list[Named]:
    """Sorted by a column; folders stay first, and what is alike is sorted by name."""
    down = order is Qt.SortOrder.DescendingOrder
    found = sorted(files, key=lambda each: each[1].name.lower(), reverse=down and column == NAME)
    if column == SIZE:
        found.sort(key=lambda each: each[1].size, reverse=down)
    elif column == MODIFIED:
        found.sort(key=lambda each: each[1].modified or "", reverse=down)
    return sorted(found, key=lambda each: each[1].kind != "folder")
