"""What makes a point as large as it is, and what differs between two points: lists of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import changes
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.key_row import KeyRow
from vdbackup.jobs import Job, Task
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import is_moment
from vdbackup.text import printable
from vdbackup.translation import grouped, tr
from vdbackup.volumes.keys import Keys

if TYPE_CHECKING:
    from vdbackup.recovery.history.differences import Difference, Differences
    from vdbackup.recovery.history.owners import Share, Sizes

MOST = 20_000
"""Rows that are shown: nobody reads more, and each takes memory."""
PATH, BYTES, WHAT = range(3)  # columns
NEEDLESS = 110  # pixels of height
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class ListDialog(parts.Dialog):
    """A list beside the main window that a job fills.

    Attributes:
        list: the files.
        said: what they come to.
        key_row: takes the key of what is encrypted.
        keys: that were given so far.
    """

    def __init__(
        self, name: str, title: str, columns: Sequence[str], workers: Workers, parent: QWidget
    ) -> None:
        super().__init__(name, title, 600, parent)
        self.fits = False
        self.resize(720, 520)
        self._title, self._workers = title, workers
        self._worker = workers.borrow(title, _nothing)
        self._job: Job[object] | None = None
        self.column.addWidget(parts.label(title, "heading"))
        self._notice = parts.Notice(name="changesNotice")
        self.column.addWidget(self._notice)
        self.key_row = KeyRow()
        self.key_row.given.connect(self._on_key_given)
        self.column.addWidget(self.key_row)
        self.keys = Keys()
        self.said = parts.label("", "muted")
        self.column.addWidget(self.said)
        self.list = self._make_list(columns)

    def _make_list(self, columns: Sequence[str]) -> QTreeWidget:
        made = QTreeWidget()
        made.setObjectName("changesList")
        made.setAccessibleName(tr("Files and folders"))
        made.setHeaderLabels(list(columns))
        made.setUniformRowHeights(True)
        made.header().setStretchLastSection(False)
        made.header().setSectionResizeMode(PATH, QHeaderView.ResizeMode.Stretch)
        made.headerItem().setTextAlignment(BYTES, _RIGHT)
        made.setColumnWidth(BYTES, 110)
        return made

    def ask(self, do: Callable[[Keys, Task], object], show: Callable[[Job[object]], None]) -> None:
        """Have a job find it out; what was asked before is not wanted any more."""
        self._asked = do, show
        if self._job is not None:
            self._worker.cancel(self._job)
        self._notice.say("", "")
        self.list.clear()
        self.said.setText(tr("Looking through the points …"))
        self._job = self._worker.submit(
            Job(self._title, partial(do, self.keys)), partial(self._on_ended, show)
        )

    def _on_ended(self, show: Callable[[Job[object]], None], job: Job[object]) -> None:
        if job is not self._job:
            return
        self.said.setText("")
        if job.error:
            self._notice.say(remedies.sentences(job.error), "bad")
            self.keys = self.key_row.after(job.error, self.keys)
        elif job.result is not None:
            show(job)

    def _on_key_given(self, secret: bytes) -> None:
        self.keys = self.keys.also(secret)
        self.ask(*self._asked)

    def warn(self, warnings: Iterable[str], *, is_locked: bool) -> None:
        """Say what could not be looked through, and ask for the key of what is encrypted."""
        self.key_row.setVisible(is_locked)
        self._notice.say("\n".join(map(printable, warnings)), "warning")

    def done(self, result: int) -> None:
        """Stop, and give the thread back."""
        if self._job is not None:
            self._worker.cancel(self._job)
        self._workers.give_back(self._worker)
        super().done(result)


class SizeDialog(ListDialog):
    """Folders and files by how many of the changed bytes are theirs, the largest first.

    Attributes:
        needless: what of that need not be kept the next time.
        leave_out_button: offers to leave it out, where chosen files are backed up.

    Signals:
        leaving_out_wanted(patterns): of what is to be left out from the next backup on.
    """

    leaving_out_wanted = Signal(object)

    def __init__(
        self, entry: Entry, point: RecoveryPoint, workers: Workers, parent: QWidget
    ) -> None:
        title = tr(
            "Why point {point} of {entry} is so large",
            point=words.point_name(point),
            entry=entry.title,
        )
        super().__init__("sizeDialog", title, [tr("Whose"), tr("Changed")], workers, parent)
        self.column.addWidget(self.list, 1)
        self.column.addWidget(self._make_needless())
        self.add_close_button()
        self.ask(partial(changes.sizes, entry.repository, entry.name, point.id), self._show)

    def _show(self, job: Job[object]) -> None:
        found: Sizes = job.result  # type: ignore[assignment]
        before = (
            tr("changed since #{before}", before=found.before.sequence)
            if found.before
            else tr("hold data")
        )
        self.said.setText(
            tr(
                "It stores {size}, in blocks of 64 KiB. {size_2} {before}; of that:",
                size=words.size(found.stored),
                size_2=words.size(found.changed),
                before=before,
            )
        )
        self._add_files(found.shares)
        for what, count in sorted(found.others, key=lambda other: -other[1]):
            if count:
                item = _row(self.list.invisibleRootItem(), printable(what), count)
                _in_italics(item)
        self.list.expandToDepth(0)
        self.list.sortItems(BYTES, Qt.SortOrder.DescendingOrder)
        self._show_needless(found)
        self.warn(found.warnings, is_locked=found.is_locked)

    def _make_needless(self) -> QWidget:
        self.needless = self._make_list([tr("Need not be kept"), tr("Changed"), tr("What it is")])
        self.needless.setObjectName("needlessList")
        self.needless.setAccessibleName(tr("What need not be kept"))
        self.needless.setRootIsDecorated(False)
        self.needless.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.needless.setColumnWidth(WHAT, 260)
        self.needless.setFixedHeight(NEEDLESS)
        self._how = parts.label("", "muted")
        self.leave_out_button = parts.button(tr("Leave that out…"), "leaveOutButton")
        self.leave_out_button.clicked.connect(self._on_leave_out_clicked)
        self._patterns: tuple[str, ...] = ()
        self._section = QWidget()
        column = QVBoxLayout(self._section)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.needless)
        row = QHBoxLayout()
        row.addWidget(self._how, 1)
        row.addWidget(self.leave_out_button)
        column.addLayout(row)
        self._section.hide()
        return self._section

    def _show_needless(self, found: Sizes) -> None:
        self.needless.clear()
        for each in found.needless:
            item = _row(self.needless.invisibleRootItem(), printable(each.path), each.bytes)
            item.setText(WHAT, tr(each.why.sentence))
            item.setToolTip(PATH, parts.hint(each.path))
        sure = [each for each in found.needless if not each.why.is_a_hint]
        self._patterns = tuple(each.exclude for each in sure if each.exclude)
        is_of_files = found.choice is not None
        self.leave_out_button.setVisible(is_of_files)
        self.leave_out_button.setEnabled(bool(self._patterns))
        self._how.setText(
            tr("{size} of that nobody needs again.", size=words.size(sum(e.bytes for e in sure)))
            if is_of_files
            else tr(
                "A disk is backed up as a whole. What is deleted on it, or moved to a volume that "
                "is not backed up, is not in later points: free space and swap partitions are not "
                "read."
            )
        )
        self._section.setVisible(bool(found.needless))

    def _on_leave_out_clicked(self) -> None:
        self.leaving_out_wanted.emit(self._patterns)

    def _add_files(self, shares: Sequence[Share]) -> None:
        """A folder comes before what is in it: it has no fewer bytes, and the shorter path."""
        made: dict[str, QTreeWidgetItem] = {"": self.list.invisibleRootItem()}
        for share in shares[:MOST]:
            above, _, name = share.path.rpartition("/")
            made[share.path] = _row(made[above], printable(name), share.bytes)
        if len(shares) > MOST:
            item = QTreeWidgetItem(
                made[""], [tr("{count} more have less each", count=grouped(len(shares) - MOST))]
            )
            _in_italics(item)


class DifferencesDialog(ListDialog):
    """Files that are not the same in two points.

    Attributes:
        other: the point that is compared with.
    """

    def __init__(
        self, entry: Entry, point: RecoveryPoint, workers: Workers, parent: QWidget
    ) -> None:
        title = tr(
            "What differs between point {point} of {entry} and another",
            point=words.point_name(point),
            entry=entry.title,
        )
        columns = [tr("File"), tr("Changed"), tr("What")]
        super().__init__("differencesDialog", title, columns, workers, parent)
        self._entry, self._point = entry, point
        self.list.setRootIsDecorated(False)
        self.list.setColumnWidth(WHAT, 180)
        self.other = parts.ComboBox("otherPoint", tr("Compare with"))
        for each in reversed(entry.points):
            if each.id != point.id:
                self.other.addItem(words.point_title(each), each.id)
        upto = point.sequence + is_moment(point.id)  # a moment comes after its own point
        before = [each for each in entry.points if each.sequence < upto]
        if before:
            self.other.setCurrentIndex(self.other.findData(before[-1].id))
        row = QHBoxLayout()
        row.addWidget(parts.label(tr("Compare with"), wrap=False))
        row.addWidget(self.other, 1)
        self.column.insertLayout(1, row)
        self.column.addWidget(self.list, 1)
        self.add_close_button()
        self.other.currentIndexChanged.connect(self._on_chosen)
        self._on_chosen()

    def _on_chosen(self, _index: int = 0) -> None:
        other = self._entry.point(self.other.currentData())
        if other is None:
            return
        one, two = sorted(
            (self._point, other), key=lambda each: (each.sequence, is_moment(each.id))
        )
        compare = partial(changes.differences, self._entry.repository, self._entry.name)
        self.ask(lambda keys, task: compare((one.id, two.id), keys, task), self._show)

    def _show(self, job: Job[object]) -> None:
        found: Differences = job.result  # type: ignore[assignment]
        count = len(found.files)
        files = (
            tr("1 file or folder differs")
            if count == 1
            else tr("{count} files and folders differ", count=grouped(count))
        )
        more = tr(" The first {most} are shown.", most=grouped(MOST)) if count > MOST else ""
        self.said.setText(
            tr(
                "From #{before} to #{after}: {files}, and {size} of the disk.{more}",
                before=found.before.sequence,
                after=found.after.sequence,
                files=files,
                size=words.size(found.changed),
                more=more,
            )
        )
        self.list.addTopLevelItems([_difference(each) for each in found.files[:MOST]])
        self.warn(found.warnings, is_locked=found.is_locked)


class _Row(QTreeWidgetItem):
    """A row that is sorted by its bytes."""

    def __lt__(self, other: QTreeWidgetItem) -> bool:
        mine, others = (each.data(BYTES, Qt.ItemDataRole.UserRole) for each in (self, other))
        return (mine or 0) < (others or 0)


def _row(above: QTreeWidgetItem, name: str, count: int) -> QTreeWidgetItem:
    item = _Row(above, [name, words.size(count)])
    item.setData(BYTES, Qt.ItemDataRole.UserRole, float(count))
    item.setTextAlignment(BYTES, _RIGHT)
    return item


def _difference(found: Difference) -> QTreeWidgetItem:
    changed = words.size(found.changed) if found.changed else ""
    item = QTreeWidgetItem([printable(found.path), changed, ", ".join(map(tr, found.what))])
    item.setTextAlignment(BYTES, _RIGHT)
    return item


def _in_italics(item: QTreeWidgetItem) -> None:
    font = item.font(PATH)
    font.setItalic(True)
    item.setFont(PATH, font)


def _nothing() -> None:
    """Its work leaves nothing open."""
