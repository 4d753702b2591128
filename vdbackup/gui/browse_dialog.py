"""The files in a recovery point, read as the user unfolds them, and copied out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

import shiboken6
from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QSplitter,
    QStackedWidget,
    QTreeWidgetItem,
    QWidget,
)

from vdbackup.errors import Remedy, VdbackupError
from vdbackup.gui import desktop, parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.dragging import DragOut
from vdbackup.gui.file_preview import MAX_FILE, NOTHING, FilePreview, Seen, look
from vdbackup.gui.files_tree import ENTRY, NAME, FilesTree
from vdbackup.gui.folder_bar import FolderBar
from vdbackup.gui.jobs import files
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.key_row import KeyRow
from vdbackup.gui.theme import Theme
from vdbackup.jobs import Job, Task
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint
from vdbackup.text import printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.recovery.browse import Entry as FileEntry

LINGERS = 0.15
"""Seconds that a file is chosen before it is read."""


@dataclass(frozen=True)
class _Listing:
    """What a folder holds, with what to call it, and what is to be said of that."""

    entries: list[tuple[str, FileEntry]]
    warnings: tuple[str, ...]
    is_locked: bool


class BrowseDialog(parts.Dialog):
    """A tree of files beside the main window; each folder is read when it is unfolded.

    Attributes:
        tree: the files.
        extract_button: copies the chosen ones out.
        put_back_button: offers to put them back to where they came from.
        results: what a search has found, in the tree's place.
        search_edit: what is searched for.
        preview: what the chosen file holds.
        key_row: takes the key of what is encrypted.
        folder_bar: the point as a folder of this computer.

    Signals:
        versions_wanted(str, keys): those of the file at this path; keys are of what is encrypted.
        put_back_wanted(paths, keys, bool): files are to go back to where they came from, and
            whether what is there is replaced.
    """

    versions_wanted = Signal(str, object)
    put_back_wanted = Signal(object, object, bool)

    def __init__(
        self,
        entry: Entry,
        point: RecoveryPoint,
        workers: Workers,
        theme: Theme,
        mounts: Path,
        parent: QWidget,
    ) -> None:
        title = tr(
            "Files in {entry} {point}, {created}",
            entry=entry.title,
            point=words.point_name(point),
            created=words.when(point.created),
        )
        super().__init__("browseDialog", title, 640, parent)
        self.fits = False
        room = self.screen().availableSize() - QSize(0, parts.FRAME)
        self.resize(QSize(900, 580).boundedTo(room))
        self._entry, self._point, self._workers = entry, point, workers
        self._browser = files.Browser(entry.repository, entry.name, point.id)
        self._folder = folder = files.PointFolder(
            entry.repository,
            entry.name,
            point.id,
            mounts / _folder_name(entry, point),
        )
        self._worker = workers.borrow(
            f"files of {entry.name}", partial(_let_go, self._browser, folder)
        )
        self.folder_bar = FolderBar(folder, self._worker)
        self.folder_bar.failed.connect(self._on_folder_failed)
        self.column.addWidget(parts.label(title, "heading"))
        self._notice = parts.Notice(name="browseNotice")
        self.column.addWidget(self._notice)
        self.key_row = KeyRow()
        self.key_row.given.connect(self._on_key_given)
        self.column.addWidget(self.key_row)
        self.search_edit = parts.field(
            "searchEdit",
            tr("Search the whole point by name, and press Enter"),
            tr("Search by name"),
        )
        self.search_edit.setClearButtonEnabled(True)
        self.search_edit.returnPressed.connect(self._on_search_wanted)
        self.search_edit.textChanged.connect(self._on_search_changed)
        self.column.addWidget(self.search_edit)
        self.column.addWidget(self._make_lists(theme), 1)
        self.column.addWidget(self.folder_bar)
        self.extract_button = parts.button(tr("Extract…"), "extractButton", "primary")
        self.extract_button.setEnabled(False)
        self.extract_button.clicked.connect(self._on_extract_clicked)
        self._make_buttons()
        row = QHBoxLayout()
        for each in (self.put_back_button, self._open_button, self._versions_button):
            row.addWidget(each)
        row.addStretch(1)
        row.addWidget(self.folder_bar.mount_button)
        row.addWidget(self.folder_bar.disk_button)
        self.column.addLayout(row)  # beside the others they are too wide for 800 pixels in German
        self.add_buttons(self.extract_button, tr("Close"))
        self.extract_button.setDefault(False)  # Enter searches
        self._copies = TemporaryDirectory(prefix="vdbackup-", ignore_cleanup_errors=True)
        self._drag = DragOut(self._browser, self._worker, Path(self._copies.name), self)
        self._drag.told.connect(lambda sentence: self._notice.say(sentence, ""))
        self._drag.failed.connect(self._on_folder_failed)
        for tree in (self.tree, self.results):
            tree.drag_wanted.connect(lambda: self._drag.drag(self.chosen))
        self._looked_at: Job[Seen] | None = None
        self._search: Job[list[tuple[str, FileEntry]]] | None = None
        self._read(self.tree.invisibleRootItem(), "/")

    def _make_lists(self, theme: Theme) -> QSplitter:
        about = tr("Files in the recovery point")
        self.tree = FilesTree("filesTree", about, self._worker, theme)
        about = tr("Files that were found")
        self.results = FilesTree("foundTree", about, self._worker, theme, unfolds=False)
        self._pages = QStackedWidget()
        for tree in (self.tree, self.results):
            tree.itemExpanded.connect(self._on_expanded)
            tree.itemSelectionChanged.connect(self._on_selection_changed)
            tree.itemDoubleClicked.connect(self._on_double_clicked)
            self._pages.addWidget(tree)
        self.preview = FilePreview()
        both = QSplitter()
        both.addWidget(self._pages)
        both.addWidget(self.preview)
        both.setSizes([560, 260])
        both.setStretchFactor(0, 1)
        both.setChildrenCollapsible(False)
        return both

    def _make_buttons(self) -> None:
        self._versions_button = parts.button(tr("Versions…"), "versionsButton")
        self._versions_button.setToolTip(tr("Each state that the chosen file had in all points"))
        self._versions_button.setEnabled(False)
        self._versions_button.clicked.connect(self._on_versions_clicked)
        self._open_button = parts.button(tr("Open a copy"), "openCopyButton")
        self._open_button.setToolTip(
            tr("Open a copy of the chosen file with the desktop's program")
        )
        self._open_button.setEnabled(False)
        self._open_button.clicked.connect(self._on_open_clicked)

        self.put_back_button = parts.button(tr("Back to its place"), "putBackButton")
        self.put_back_button.setToolTip(
            tr("Put the chosen files back to where they came from, on this computer")
        )
        self.put_back_button.setEnabled(False)
        menu = QMenu(self.put_back_button)
        for text, overwrite in (
            (tr("What is there stays…"), False),
            (tr("What is there and differs is replaced…"), True),
        ):
            menu.addAction(text).triggered.connect(partial(self._on_put_back, overwrite))
        self.put_back_button.setMenu(menu)

    @property
    def chosen(self) -> list[str]:
        """Paths of the chosen files and folders."""
        items = self._shown.selectedItems()
        return [item.data(NAME, ENTRY).path for item in items if item.data(NAME, ENTRY)]

    @property
    def _shown(self) -> FilesTree:
        return self.results if self._pages.currentIndex() else self.tree

    def _on_search_wanted(self) -> None:
        text = self.search_edit.text().strip()
        if not text:
            return
        self._stop_searching()
        self.results.begin(self.results.invisibleRootItem(), tr("Searching …"))
        self._pages.setCurrentIndex(1)
        search = partial(self._browser.search, text)
        self._search = self._worker.submit(
            Job(tr("Search for {text}", text=text), search), self._on_searched
        )

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
        root = self.results.invisibleRootItem()
        if job.error:
            self.results.fill(root, [])
            self._notice.say(remedies.sentences(job.error), "bad")
        elif job.result:
            self.results.fill(root, job.result)
        else:
            self.results.begin(root, tr("No file or folder is called so."))

    def extract(self, destination: Path) -> None:
        """Copy the chosen files into a folder, as a job that can be seen."""
        point = self._point
        title = tr(
            "Extract from {entry} {point}",
            entry=self._entry.title,
            point=words.point_name(point),
        )
        what = (self._entry.repository, self._entry.name, point.id, self.chosen, destination)
        work = partial(files.extract, *what, self._browser.keys)
        self._workers.writer(destination).submit(Job(title, work))

    def _read(self, item: QTreeWidgetItem, path: str) -> None:
        self.tree.begin(item, tr("Reading …"))

        def listing(_task: Task) -> _Listing:
            browser = self._browser
            return _Listing(browser.listing(path), browser.warnings(path), browser.is_locked())

        self._worker.submit(
            Job(tr("List {path}", path=path), listing), partial(self._on_listed, item)
        )

    def _on_listed(self, item: QTreeWidgetItem, job: Job[_Listing]) -> None:
        if not shiboken6.isValid(item):  # it was sorted anew meanwhile
            return
        if job.error:
            item.takeChildren()
            self._notice.say(remedies.sentences(job.error), "bad")
            if job.error.remedy is Remedy.UNLOCK:
                self.key_row.setVisible(True)
        elif job.result is not None:
            self.tree.fill(item, job.result.entries)
            self.key_row.setVisible(job.result.is_locked)
            if job.result.warnings:
                self._notice.say("\n".join(map(printable, job.result.warnings)), "warning")

    def _on_key_given(self, secret: bytes) -> None:
        def unlock(_task: Task) -> None:
            self._browser.unlock(secret)

        self._worker.submit(Job(tr("Unlock"), unlock), self._on_unlocked)

    def _on_unlocked(self, job: Job[None]) -> None:
        if job.error:
            self._notice.say(remedies.sentences(job.error), "bad")
            return
        self._notice.hide()
        self._folder.keys = self._browser.keys
        self._read(self.tree.invisibleRootItem(), "/")

    def _on_expanded(self, item: QTreeWidgetItem) -> None:
        if not item.childCount():
            self._read(item, item.data(NAME, ENTRY).path)

    def _on_selection_changed(self) -> None:
        chosen = self.chosen
        self.extract_button.setEnabled(bool(chosen))
        self.put_back_button.setEnabled(bool(chosen))
        self._versions_button.setEnabled(len(chosen) == 1)
        file = self._chosen_file
        self._open_button.setEnabled(file is not None)
        self._look_at(file)

    @property
    def _chosen_file(self) -> FileEntry | None:
        """The chosen file, where it is one alone."""
        entries = [item.data(NAME, ENTRY) for item in self._shown.selectedItems()]
        return (
            entries[0] if len(entries) == 1 and entries[0] and entries[0].kind == "file" else None
        )

    def _look_at(self, file: FileEntry | None) -> None:
        """Show what a file holds, once that is read."""
        if self._looked_at is not None:
            self._worker.cancel(self._looked_at)
            self._looked_at = None
        if file is None:
            self.preview.say(NOTHING)
        elif file.size > MAX_FILE:
            self.preview.say(
                tr("It is too large to be shown here: {size}.", size=words.size(file.size))
            )
        else:
            self.preview.say(tr("Reading …"))
            path = file.path

            def seen(task: Task) -> Seen:
                task.cancel.wait(LINGERS)  # who goes through a list by the keys wants none of them
                return look(self._browser.content(path, task))

            self._looked_at = self._worker.submit(
                Job(tr("Look at {path}", path=path), seen), self._on_seen
            )

    def _on_seen(self, job: Job[Seen]) -> None:
        if job is not self._looked_at:
            return
        self._looked_at = None
        if job.error:
            self.preview.say(remedies.sentences(job.error))
        elif job.result is not None:
            self.preview.show_seen(job.result)

    def _on_double_clicked(self, item: QTreeWidgetItem) -> None:
        entry = item.data(NAME, ENTRY)
        if entry is not None and entry.kind == "file":
            self._on_open_clicked()

    def _on_open_clicked(self) -> None:
        """Open a copy with the desktop's program; it goes when this window is closed."""
        file = self._chosen_file
        if file is None:
            return
        path, folder = file.path, Path(mkdtemp(dir=self._copies.name))

        def opened(job: Job[Path]) -> None:
            if job.error:
                self._notice.say(remedies.sentences(job.error), "bad")
            elif job.result is not None and not desktop.open_file(job.result):
                self._notice.say(tr("No program of the desktop opens that file."), "warning")

        copying = partial(self._browser.copy, path, folder)
        self._worker.submit(Job(tr("Open {path}", path=path), copying), opened)

    def _on_put_back(self, overwrite: bool, _checked: bool = False) -> None:
        self.put_back_wanted.emit(self.chosen, self._browser.keys, overwrite)

    def _on_versions_clicked(self) -> None:
        self.versions_wanted.emit(self.chosen[0], self._browser.keys)

    def _on_folder_failed(self, error: VdbackupError) -> None:
        self._notice.say(remedies.sentences(error), "bad")

    def _on_extract_clicked(self) -> None:
        dialog = QFileDialog(self, tr("Extract into a folder"))
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(lambda folder: self.extract(Path(folder)))
        dialog.open()

    def done(self, result: int) -> None:
        """Give the thread back; it closes the point's disks when it is through."""
        self._stop_searching()
        self._look_at(None)
        self._drag.stop()
        self._workers.give_back(self._worker)
        self._copies.cleanup()
        super().done(result)


def _let_go(browser: files.Browser, folder: files.PointFolder) -> None:
    try:
        browser.close()
    finally:
        folder.close()


def _folder_name(entry: Entry, point: RecoveryPoint) -> str:
    """What to call a point, or a moment of one, as a folder: no two have one name."""
    name = f"{entry.name}-{point.sequence}-{point.id[:8]}"
    return f"{name}-{point.log[-6:]}-{point.write}" if isinstance(point, WrittenPoint) else name
