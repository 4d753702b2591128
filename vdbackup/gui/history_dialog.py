"""What was done, in this window and before: a list of jobs, and what each had to say."""

from __future__ import annotations

from datetime import timedelta

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from vdbackup.gui import parts, words
from vdbackup.gui.jobs.history import History
from vdbackup.gui.jobs.record import End, EndedJob
from vdbackup.gui.theme import Theme
from vdbackup.text import printable
from vdbackup.translation import tr

BEGAN, TITLE, SENTENCE, TOOK = range(4)  # columns
KEY = Qt.ItemDataRole.UserRole
COUNTED = 4096
"""Bytes from which on a phase's figure is said: what is smaller may be a number of steps."""
SHOWN = 200
"""Jobs that are listed."""


class HistoryDialog(parts.Dialog):
    """The newest first; a job unfolds to its phases and details.

    Attributes:
        list: the jobs.
    """

    def __init__(self, history: History, theme: Theme, parent: QWidget) -> None:
        super().__init__("historyDialog", tr("Earlier jobs"), 640, parent)
        self.fits = False
        room = self.screen().availableSize()
        self.resize(QSize(900, 520).boundedTo(room - QSize(0, parts.FRAME)))
        self._history, self._theme = history, theme
        self.column.addWidget(parts.label(tr("Earlier jobs"), "heading"))
        about = tr("What was done in this window and before. Unfold a job to see how it went.")
        self.column.addWidget(parts.label(about, "muted"))
        self.list = self._make_list()
        self.column.addWidget(self.list, 1)
        self.add_close_button()
        self._show()
        history.changed.connect(self._show)

    def _make_list(self) -> QTreeWidget:
        made = QTreeWidget()
        made.setObjectName("historyList")
        made.setAccessibleName(tr("Jobs that have ended, newest first"))
        made.setHeaderLabels([tr("Begun"), tr("Job"), tr("What came of it"), tr("Took")])
        made.setUniformRowHeights(True)
        header = made.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(SENTENCE, QHeaderView.ResizeMode.Stretch)
        letter = self.fontMetrics().averageCharWidth()
        for column, letters in ((BEGAN, 24), (TITLE, 34), (TOOK, 10)):
            made.setColumnWidth(column, letters * letter)
        return made

    def _show(self) -> None:
        """List them anew; what was unfolded stays so."""
        open_ones = {item.data(BEGAN, KEY) for item in self._items() if item.isExpanded()}
        self.list.clear()
        newest = self._history.jobs[-SHOWN:]
        self.list.addTopLevelItems([self._item(job) for job in reversed(newest)])
        for item in self._items():
            for row in range(item.childCount()):
                item.child(row).setFirstColumnSpanned(True)
            item.setExpanded(item.data(BEGAN, KEY) in open_ones)
        if not newest:
            empty = QTreeWidgetItem(self.list, [tr("No job has ended yet.")])
            empty.setFirstColumnSpanned(True)
            empty.setFlags(Qt.ItemFlag.NoItemFlags)

    def _items(self) -> list[QTreeWidgetItem]:
        rows = map(self.list.topLevelItem, range(self.list.topLevelItemCount()))
        return [item for item in rows if item is not None]

    def _item(self, job: EndedJob) -> QTreeWidgetItem:
        sentence = printable(job.sentence)
        item = QTreeWidgetItem([words.when(job.began), printable(job.title), sentence, took(job)])
        item.setData(BEGAN, KEY, f"{job.began} {job.title}")
        item.setToolTip(SENTENCE, parts.hint(sentence))
        item.setToolTip(TITLE, parts.hint(printable(job.title)))
        colour = {
            End.FAILED: self._theme.bad,
            End.WARNED: self._theme.warning,
            End.CANCELLED: self._theme.muted,
        }.get(job.end)
        if colour:
            item.setForeground(SENTENCE, QColor(colour))
        item.addChildren([QTreeWidgetItem([line]) for line in lines(job)])
        return item


def took(job: EndedJob) -> str:
    """How long a job ran."""
    seconds = (words.local(job.ended) - words.local(job.began)) / timedelta(seconds=1)
    return words.clock(seconds)


def lines(job: EndedJob) -> list[str]:
    """All that is kept of a job, for a person."""
    steps = [
        f"{words.local(step.at):%H:%M:%S}  {printable(step.phase)}"
        + (f", {words.size(step.done)}" if step.done >= COUNTED else "")
        for step in job.steps
    ]
    return [
        f"{words.when_exactly(job.began)}: {tr(job.end.value)}",
        printable(job.sentence),
        *steps,
        *map(printable, job.details),
    ]
