"""Files by name in all points of a source, beside the graph that shows those."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QTreeWidgetItem, QWidget

from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.changes_dialog import MOST, ListDialog
from vdbackup.gui.jobs import changes
from vdbackup.gui.jobs.worker import Workers
from vdbackup.jobs import Job
from vdbackup.text import iso, printable
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:
    from vdbackup.recovery.history.find import Occurrence, Search

PATH, SIZE, MODIFIED, POINTS = range(4)  # columns
_STATE = Qt.ItemDataRole.UserRole


class FindDialog(ListDialog):
    """A list of states of files; whoever chooses one sees in the graph where it is last.

    Attributes:
        field: takes the name.

    Signals:
        point_chosen(str): id of the last point that holds the chosen state.
        files_wanted(str): the files of that point are to be shown.
        versions_wanted(str, Keys): the states of the chosen path are to be shown.
    """

    point_chosen = Signal(str)
    files_wanted = Signal(str)
    versions_wanted = Signal(str, object)

    def __init__(
        self, entry: Entry, where: Callable[[str, str], Path], workers: Workers, parent: QWidget
    ) -> None:
        """`where` as `Locations.names_file`."""
        title = tr("Find a file in the points of {entry}", entry=entry.title)
        columns = [tr("File"), tr("Size"), tr("Modified"), tr("Points")]
        super().__init__("findDialog", title, columns, workers, parent)
        self._entry, self._where = entry, where
        self.list.setRootIsDecorated(False)
        self.list.setColumnWidth(MODIFIED, 150)
        self.list.setColumnWidth(POINTS, 100)
        about = tr("Some letters of its name, or *.odt")
        self.field = parts.field("findEdit", about, about)
        row = QHBoxLayout()
        row.addWidget(self.field, 1)
        self._search = parts.button(tr("Find"), "findButton", "primary")
        self._search.clicked.connect(self._on_search)
        row.addWidget(self._search)
        self.column.insertLayout(1, row)
        self.column.addWidget(self.list, 1)
        self._files = parts.button(tr("Show the files of that point"), "foundFiles")
        self._files.clicked.connect(lambda: self.files_wanted.emit(self._chosen[0]))
        self._versions = parts.button(tr("Versions"), "foundVersions")
        self._versions.clicked.connect(
            lambda: self.versions_wanted.emit(self._chosen[1], self.keys)
        )
        self.add_buttons(self._files, tr("Close"), self._versions)
        self.press_by_enter(self._search)
        self.field.textChanged.connect(self._on_changed)
        self.list.itemSelectionChanged.connect(self._on_selection_changed)
        self._on_changed("")
        self._on_selection_changed()

    def _on_changed(self, text: str) -> None:
        self._search.setEnabled(bool(text.strip()))

    def _on_search(self) -> None:
        where = self._entry.repository, self._entry.name
        search = partial(changes.find, *where, self.field.text().strip(), self._where)
        self.ask(search, self._show)

    def _show(self, job: Job[object]) -> None:
        found: Search = job.result  # type: ignore[assignment]
        shown, count = found.found[:MOST], len(found.found)
        more = tr(" The first {most} are shown.", most=grouped(MOST)) if count > MOST else ""
        self.said.setText(
            tr("{count} found.{more}", count=grouped(count), more=more)
            if shown
            else tr("No file in the points has such a name.")
        )
        self.list.addTopLevelItems([_item(each) for each in shown])
        self.warn(found.warnings, is_locked=found.is_locked)

    def _on_selection_changed(self) -> None:
        point, _ = self._chosen
        self._files.setEnabled(bool(point))
        self._versions.setEnabled(bool(point))
        if point:
            self.point_chosen.emit(point)

    @property
    def _chosen(self) -> tuple[str, str]:
        """The last point of the chosen state, and the path."""
        items = self.list.selectedItems()
        found: tuple[str, str] = items[0].data(PATH, _STATE) if items else ("", "")
        return found


def _item(found: Occurrence) -> QTreeWidgetItem:
    first, last = found.points[0], found.points[-1]
    numbers = f"#{first.sequence}"
    if first is not last:
        numbers += tr(" to #{last}", last=last.sequence)
    name = found.name
    size = words.size(name.size) if name.kind == "file" else tr(name.kind)
    moment = iso(name.modified)
    modified = words.when(moment) if moment else ""
    item = QTreeWidgetItem([printable(found.path), size, modified, numbers])
    item.setData(PATH, _STATE, (last.id, found.path))
    item.setTextAlignment(SIZE, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item
