"""The states that a file had over the points of a source, beside the graph that shows those."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import files
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.key_row import KeyRow
from vdbackup.jobs import Job
from vdbackup.text import iso, printable
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys

if TYPE_CHECKING:
    from vdbackup.recovery.history.versions import Version, Versions

POINT = Qt.ItemDataRole.UserRole
POINTS, SINCE, SIZE, MODIFIED = range(4)  # columns


class VersionsDialog(parts.Dialog):
    """A list, newest first; whoever chooses a state sees in the graph since when there is it.

    Attributes:
        list: the states.
        key_row: takes the key of what is encrypted.

    Signals:
        point_chosen(str): id of the first point that holds the chosen state.
        files_wanted(str): the files of that point are to be shown.
    """

    point_chosen = Signal(str)
    files_wanted = Signal(str)

    def __init__(
        self, entry: Entry, path: str, keys: Keys, workers: Workers, parent: QWidget
    ) -> None:
        title = tr("Versions of {path}", path=printable(path))
        super().__init__("versionsDialog", title, 560, parent)
        self.fits = False
        self.resize(640, 400)
        self._workers = workers
        self._worker = workers.borrow(f"versions in {entry.name}", _nothing)
        self.column.addWidget(parts.label(title, "heading"))
        self._notice = parts.Notice(name="versionsNotice")
        self.column.addWidget(self._notice)
        self.key_row = KeyRow()
        self.key_row.given.connect(self._on_key_given)
        self.column.addWidget(self.key_row)
        self.list = self._make_list()
        self.column.addWidget(self.list, 1)
        self._files_button = parts.button(
            tr("Show the files of that point"), "versionFiles", "primary"
        )
        self._files_button.setEnabled(False)
        self._files_button.clicked.connect(self._on_files_clicked)
        self.add_buttons(self._files_button, tr("Close"))
        self._title, self._keys = title, keys
        self._what = (entry.repository, entry.name, path)
        self._search()

    def _search(self) -> None:
        self.list.clear()
        waiting = QTreeWidgetItem(self.list, [tr("Looking through the points …")])
        waiting.setFlags(Qt.ItemFlag.NoItemFlags)
        search = partial(files.versions, *self._what, self._keys)
        self._job = self._worker.submit(Job(self._title, search), self._on_found)

    def _on_key_given(self, secret: bytes) -> None:
        self._worker.cancel(self._job)
        self._keys = self._keys.also(secret)
        self._search()

    def _make_list(self) -> QTreeWidget:
        made = QTreeWidget()
        made.setObjectName("versionsList")
        made.setAccessibleName(tr("States of the file, newest first"))
        made.setHeaderLabels([tr("Points"), tr("Since"), tr("Size"), tr("Modified")])
        made.setRootIsDecorated(False)
        made.setUniformRowHeights(True)
        made.header().setStretchLastSection(False)
        made.header().setSectionResizeMode(POINTS, QHeaderView.ResizeMode.Stretch)
        for column, width in ((SINCE, 150), (SIZE, 100), (MODIFIED, 150)):
            made.setColumnWidth(column, width)
        made.headerItem().setTextAlignment(SIZE, _RIGHT)
        made.itemSelectionChanged.connect(self._on_selection_changed)
        return made

    def _on_found(self, job: Job[Versions]) -> None:
        if job is not self._job:
            return
        self.list.clear()
        if job.error:
            self._notice.say(remedies.sentences(job.error), "bad")
            self._keys = self.key_row.after(job.error, self._keys)
        elif job.result is not None:
            found = job.result
            self.key_row.setVisible(found.is_locked)
            self.list.addTopLevelItems([_item(each) for each in reversed(found.versions)])
            self._notice.say("\n".join(map(printable, found.warnings)), "warning")

    def _on_selection_changed(self) -> None:
        chosen = self._chosen
        self._files_button.setEnabled(bool(chosen))
        if chosen:
            self.point_chosen.emit(chosen)

    @property
    def _chosen(self) -> str:
        items = self.list.selectedItems()
        return str(items[0].data(POINTS, POINT)) if items else ""

    def _on_files_clicked(self) -> None:
        self.files_wanted.emit(self._chosen)

    def done(self, result: int) -> None:
        """Stop looking, and give the thread back."""
        self._worker.cancel(self._job)
        self._workers.give_back(self._worker)
        super().done(result)


_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


def _item(version: Version) -> QTreeWidgetItem:
    first, last = version.points[0], version.points[-1]
    numbers = f"#{first.sequence}"
    if first is not last:
        numbers += tr(" to #{last}", last=last.sequence)
    stat = version.stat
    if stat is None:
        size, modified = tr("not there"), ""
    else:
        size = words.size(stat.size) if stat.kind == "file" else str(stat.kind)
        moment = iso(stat.modified)
        modified = words.when(moment) if moment else ""
    item = QTreeWidgetItem([numbers, words.when(first.created), size, modified])
    item.setData(POINTS, POINT, first.id)
    item.setTextAlignment(SIZE, _RIGHT)
    return item


def _nothing() -> None:
    """Its work leaves nothing open."""
