"""The files in a recovery point, read as the user unfolds them, and copied out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QStackedWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from vdbackup.errors import VdbackupError
from vdbackup.gui import icons, parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.folder_bar import FolderBar
from vdbackup.gui.jobs import files
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.theme import Theme
from vdbackup.jobs import Job, Task
from vdbackup.repository.model import RecoveryPoint
from vdbackup.text import printable

if TYPE_CHECKING:
    from vdbackup.recovery.browse import Entry as FileEntry

ENTRY = Qt.ItemDataRole.UserRole  # not its path: a name need not be Unicode, as Qt's texts are
NAME, SIZE, MODIFIED = range(3)  # columns


@dataclass(frozen=True)
class _Listing:
    """What a folder holds, with what to call it, and what is to be said of that."""

    entries: list[tuple[str, FileEntry]]
    warnings: tuple[str, ...]


class BrowseDialog(parts.Dialog):
    """A tree of files beside the main window; each folder is read when it is unfolded.

    Attributes:
        tree: the files.
        extract_button: copies the chosen ones out.
        results: what a search has found, in the tree's place.
        search_edit: what is searched for.
        folder_bar: the point as a folder of this computer.

    Signals:
        versions_wanted(str): those of the file at this path.
    """

    versions_wanted = Signal(str)

    def __init__(
        self,
        entry: Entry,
        point: RecoveryPoint,
        workers: Workers,
        theme: Theme,
        mounts: Path,
        parent: QWidget,
    ) -> None:
        title = f"Files in {entry.title} #{point.sequence}, {words.when(point.created)}"
        super().__init__("browseDialog", title, 640, parent)
        self.fits = False
        self.resize(760, 560)
        self._entry, self._point, self._workers = entry, point, workers
        self._browser = files.Browser(entry.repository, entry.name, point.id)
        folder = files.PointFolder(
            entry.repository,
            entry.name,
            point.id,
            mounts / f"{entry.name}-{point.sequence}-{point.id[:8]}",
        )
        self._worker = workers.borrow(
            f"files of {entry.name}", partial(_let_go, self._browser, folder)
        )
        self.folder_bar = FolderBar(folder, self._worker)
        self.folder_bar.failed.connect(self._on_folder_failed)
        self._folder_icon = icons.icon("icon-browse", theme, theme.accent)
        self._file_icon = icons.icon("icon-file", theme, theme.muted)
        self.column.addWidget(parts.label(title, "heading"))
        self._notice = parts.Notice(name="browseNotice")
        self.column.addWidget(self._notice)
        self.search_edit = parts.field(
            "searchEdit", "Search the whole point by name, and press Enter", "Search by name"
        )
        self.search_edit.setClearButtonEnabled(True)
        self.search_edit.returnPressed.connect(self._on_search_wanted)
        self.search_edit.textChanged.connect(self._on_search_changed)
        self.column.addWidget(self.search_edit)
        self.tree = self._make_tree("filesTree", "Files in the recovery point")
        self.results = self._make_tree("foundTree", "Files that were found")
        self.results.setRootIsDecorated(False)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.tree)
        self._pages.addWidget(self.results)
        self.column.addWidget(self._pages, 1)
        self.column.addWidget(self.folder_bar)
        self.extract_button = parts.button("Extract…", "extractButton", "primary")
        self.extract_button.setEnabled(False)
        self.extract_button.clicked.connect(self._on_extract_clicked)
        self._versions_button = parts.button("Versions…", "versionsButton")
        self._versions_button.setToolTip("Each state that the chosen file had in all points")
        self._versions_button.setEnabled(False)
        self._versions_button.clicked.connect(self._on_versions_clicked)
        others = (self._versions_button, self.folder_bar.mount_button)
        self.add_buttons(self.extract_button, "Close", *others)
        self.extract_button.setDefault(False)  # Enter searches
        self._search: Job[list[tuple[str, FileEntry]]] | None = None
        self._read(self.tree.invisibleRootItem(), "/")

    def _make_tree(self, name: str, accessible_name: str) -> QTreeWidget:
        tree = QTreeWidget()
        tree.setObjectName(name)
        tree.setAccessibleName(accessible_name)
        tree.setHeaderLabels(["Name", "Size", "Modified"])
        tree.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        tree.setUniformRowHeights(True)  # else 10,000 files are measured one by one
        tree.header().setStretchLastSection(False)
        tree.header().setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        tree.setColumnWidth(SIZE, 110)
        tree.setColumnWidth(MODIFIED, 170)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        tree.headerItem().setTextAlignment(SIZE, right)
        tree.itemExpanded.connect(self._on_expanded)
        tree.itemSelectionChanged.connect(self._on_selection_changed)
        return tree

    @property
    def chosen(self) -> list[str]:
        """Paths of the chosen files and folders."""
        items = self._shown.selectedItems()
        return [item.data(NAME, ENTRY).path for item in items if item.data(NAME, ENTRY)]

    @property
    def _shown(self) -> QTreeWidget:
        return self.results if self._pages.currentIndex() else self.tree

    def _on_search_wanted(self) -> None:
        text = self.search_edit.text().strip()
        if not text:
            return
        self._stop_searching()
        self.results.clear()
        waiting = QTreeWidgetItem(self.results, ["Searching …"])
        waiting.setFlags(Qt.ItemFlag.NoItemFlags)
        self._pages.setCurrentIndex(1)
        search = partial(self._browser.search, text)
        self._search = self._worker.submit(Job(f"Search for {text}", search), self._on_searched)

    def _on_search_changed(self, text: str) -> None:
        if not text:
            self._stop_searching()
            self._pages.setCurrentIndex(0)
            self._on_selection_changed()

    def _stop_searching(self) -> None:
        if self._search is not None:
            self._worker.cancel(self._search)
            self._search = None

    def _on_searched(self, job: Job[list[tuple[str, FileEntry]]]) -> None:
        if job is not self._search:
            return  # another one has been begun since, or none is wanted
        self._search = None
        self.results.clear()
        if job.error:
            self._notice.say(remedies.sentences(job.error), "bad")
            return
        found = job.result or []
        items = [self._item(name, entry) for name, entry in found]
        self.results.addTopLevelItems(items)
        for item in items:  # a folder is not unfolded here
            item.setChildIndicatorPolicy(QTreeWidgetItem.ChildIndicatorPolicy.DontShowIndicator)
        if not found:
            nothing = QTreeWidgetItem(self.results, ["No file or folder is called so."])
            nothing.setFlags(Qt.ItemFlag.NoItemFlags)

    def extract(self, destination: Path) -> None:
        """Copy the chosen files into a folder, as a job that can be seen."""
        point = self._point
        title = f"Extract from {self._entry.title} #{point.sequence}"
        what = (self._entry.repository, self._entry.name, point.id, self.chosen, destination)
        self._workers.writer(destination).submit(Job(title, partial(files.extract, *what)))

    def _read(self, item: QTreeWidgetItem, path: str) -> None:
        waiting = QTreeWidgetItem(item, ["Reading …"])
        waiting.setFlags(Qt.ItemFlag.NoItemFlags)

        def listing(_task: Task) -> _Listing:
            return _Listing(self._browser.listing(path), self._browser.warnings(path))

        self._worker.submit(Job(f"List {path}", listing), partial(self._on_listed, item))

    def _on_listed(self, item: QTreeWidgetItem, job: Job[_Listing]) -> None:
        item.takeChildren()
        if job.error:
            self._notice.say(remedies.sentences(job.error), "bad")
        elif job.result is not None:
            item.addChildren([self._item(name, entry) for name, entry in job.result.entries])
            if job.result.warnings:
                self._notice.say("\n".join(map(printable, job.result.warnings)), "warning")

    def _item(self, name: str, entry: FileEntry) -> QTreeWidgetItem:
        is_folder = entry.kind == "folder"
        modified = words.when(entry.modified) if entry.modified else ""
        size = "" if is_folder else words.size(entry.size)
        item = QTreeWidgetItem([name, size, modified])
        item.setData(NAME, ENTRY, entry)
        item.setIcon(NAME, self._folder_icon if is_folder else self._file_icon)
        item.setTextAlignment(SIZE, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if is_folder:
            item.setChildIndicatorPolicy(QTreeWidgetItem.ChildIndicatorPolicy.ShowIndicator)
        return item

    def _on_expanded(self, item: QTreeWidgetItem) -> None:
        if not item.childCount():
            self._read(item, item.data(NAME, ENTRY).path)

    def _on_selection_changed(self) -> None:
        chosen = self.chosen
        self.extract_button.setEnabled(bool(chosen))
        self._versions_button.setEnabled(len(chosen) == 1)

    def _on_versions_clicked(self) -> None:
        self.versions_wanted.emit(self.chosen[0])

    def _on_folder_failed(self, error: VdbackupError) -> None:
        self._notice.say(remedies.sentences(error), "bad")

    def _on_extract_clicked(self) -> None:
        dialog = QFileDialog(self, "Extract into a folder")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(lambda folder: self.extract(Path(folder)))
        dialog.open()

    def done(self, result: int) -> None:
        """Give the thread back; it closes the point's disks when it is through."""
        self._stop_searching()
        self._workers.give_back(self._worker)
        super().done(result)


def _let_go(browser: files.Browser, folder: files.PointFolder) -> None:
    try:
        browser.close()
    finally:
        folder.close()
