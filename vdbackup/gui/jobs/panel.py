"""What is being done and what came of it: a row for each job."""

from __future__ import annotations

import time

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.jobs.pace import Pace
from vdbackup.gui.jobs.pause_button import PauseButton
from vdbackup.jobs import Job, JobState, Paused, Progress, Waiting
from vdbackup.text import printable
from vdbackup.translation import tr

STEPS = 1000  # of a progress bar; bytes do not fit its 32 bits
KEPT = 20  # rows of jobs that have ended


class JobRow(QFrame):
    """One job.

    Attributes:
        job: the job, None for something that failed before there was one.

    Signals:
        cancel_wanted(Job): the user wants it to stop.
        dismissed(JobRow): the user has read it.
    """

    cancel_wanted = Signal(object)
    dismissed = Signal(object)

    def __init__(self, title: str, job: Job[object] | None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.job = job
        self._pace = Pace()
        title = printable(title)
        self.setAccessibleName(title)
        self.setProperty("card", "true")
        grid = QGridLayout(self)
        grid.setContentsMargins(12, 5, 8, 5)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        self._title = parts.label(title, "strong")
        self._title.setMinimumWidth(190)
        self._said = parts.label(tr("Waiting for its turn"), "muted")
        self._bar = QProgressBar()
        self._bar.setMaximum(STEPS)
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName(tr("Progress of {title}", title=title))
        self._pace_label = parts.label("", "muted", wrap=False)
        self._pace_label.setMinimumWidth(190)
        self._details = parts.label("", "muted", selectable=True)
        self._fold = parts.Fold(tr("Details"), self._details)
        self._pause = PauseButton(title, job)
        self._pause.asked.connect(lambda sentence: self._say(sentence, "muted"))
        self._cancel = _cancel_button(title, stays=job is not None and job.stays)
        self._cancel.clicked.connect(self._on_cancel_clicked)
        self._close = QToolButton()
        self._close.setText("✕")
        self._close.setToolTip(tr("Remove from this list"))
        self._close.setAccessibleName(tr("Remove from the list: {title}", title=title))
        self._close.setAutoRaise(True)
        self._close.clicked.connect(lambda: self.dismissed.emit(self))
        middle = Qt.AlignmentFlag.AlignVCenter
        grid.addWidget(self._title, 0, 0, middle)
        working = QHBoxLayout()
        working.setSpacing(12)
        working.addWidget(self._bar, 1, middle)
        working.addWidget(self._said)
        grid.addLayout(working, 0, 1)
        grid.addWidget(self._pace_label, 0, 2, middle)
        grid.addWidget(self._fold, 0, 3, middle)
        grid.addWidget(self._pause, 0, 4, middle)
        grid.addWidget(self._cancel, 0, 5, middle)
        grid.addWidget(self._close, 0, 6, middle)
        grid.addWidget(self._details, 1, 0, 1, 7)
        self._fold.hide()
        self._close.hide()
        self._bar.hide()
        self._pace_label.hide()

    @property
    def sentence(self) -> str:
        """What the row says."""
        return self._said.text()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to happen."""
        return self._cancel.isHidden()

    @property
    def _goes_on(self) -> bool:
        """Whether nobody has asked the job to stop, or to rest."""
        return self._cancel.isEnabled() and not self._pause.paused

    def begin(self) -> None:
        """The job runs now."""
        self._say(tr("Starting"), "muted")
        self._show_bar(True)
        self._bar.setRange(0, 0)

    def follow(self, progress: Progress) -> None:
        """Show how far the job is."""
        if self.ended:
            return
        if isinstance(progress, Paused):
            self._rest()
            return
        if isinstance(progress, Waiting):
            self._wait(progress.phase)
            return
        self._show_bar(True)
        self._pause.setVisible(bool(progress.total) and self._cancel.isEnabled())
        self._pause.show_state()
        if not progress.total:  # nobody knows how long it takes
            if self._goes_on:
                self._say(printable(progress.phase), "muted")
            return
        self._pace.follow(progress.phase, progress.done, time.monotonic())
        if self._bar.maximum() != STEPS:
            self._bar.setRange(0, STEPS)
        share = progress.done / progress.total
        self._bar.setValue(round(share * STEPS))
        if self._goes_on:
            self._say(f"{printable(progress.phase)} {share:.0%}", "muted")
        self._pace_label.setText(self._pace_in_words(progress))

    def _pace_in_words(self, progress: Progress) -> str:
        parts = [
            tr(
                "{size} of {size_2}",
                size=words.size(progress.done),
                size_2=words.size(progress.total),
            )
        ]
        if self._pace.speed:
            parts = [f"{words.size(self._pace.speed)}/s"]
            if progress.limit is not None:
                parts[0] += tr(" of at most {size}/s", size=words.size(progress.limit))
        left = self._pace.seconds_left(progress.total)
        if left is not None:
            parts.append(tr("{left} left", left=words.clock(left)))
        return " · ".join(parts)

    def _rest(self) -> None:
        """Say that the job rests, and what that means for others."""
        self._show_bar(False)
        self._pace_label.setText("")
        if self._cancel.isEnabled() and self._pause.paused:
            self._pause.show_state()
            self._pause.show()
            self._say(self._pause.rests, "muted")

    def _wait(self, sentence: str) -> None:
        """Say for whom the job waits; there is nothing to rest from meanwhile."""
        self._show_bar(False)
        self._pause.hide()
        self._bar.setRange(0, 0)
        self._pace_label.setText("")
        if self._cancel.isEnabled():
            self._say(tr("Waiting: {sentence}", sentence=printable(sentence)), "muted")

    def show_end(self, job: Job[object]) -> None:
        """Say how the job ended."""
        if job.state is JobState.FAILED and job.error:
            self.show_error(job.error)
        elif job.state is JobState.CANCELLED:
            self._end(tr("Cancelled. {left}", left=printable(job.left)).strip(), "muted", ())
        else:
            self.show_told(job.result if isinstance(job.result, Told) else Told(tr("Done.")))

    def show_told(self, told: Told) -> None:
        """Say what was done."""
        sentence = printable(" ".join((told.sentence, *told.warnings)))
        self._end(sentence, "warning" if told.warnings else "good", told.details)

    def show_error(self, error: VdbackupError) -> None:
        """Say what went wrong and what to do."""
        self._end(remedies.sentences(error), "bad", ())

    def _end(self, sentence: str, role: str, details: tuple[str, ...]) -> None:
        self._say(sentence, role)
        self._said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._show_bar(False)
        self._pause.hide()
        self._cancel.hide()
        self._close.show()
        self._details.setText("\n".join(map(printable, details)))
        self._fold.setVisible(bool(details))

    def _show_bar(self, moves: bool) -> None:
        """Show the bar of what moves; where nothing does, what is said gets its room."""
        policy = self._said.sizePolicy()  # a new one would forget that the text wraps
        preferred, expanding = QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding
        policy.setHorizontalPolicy(preferred if moves else expanding)
        self._said.setSizePolicy(policy)
        self._bar.setVisible(moves)
        self._pace_label.setVisible(moves)

    def _say(self, text: str, role: str) -> None:
        self._said.setText(text)
        parts.set_role(self._said, role)

    def _on_cancel_clicked(self) -> None:
        self._pause.hide()
        self._cancel.setEnabled(False)
        self._say(tr("stopping"), "muted")
        self.cancel_wanted.emit(self.job)


def _cancel_button(title: str, *, stays: bool) -> QPushButton:
    """What stops a job; of one that stays that is no cancelling."""
    made = parts.button(tr("End") if stays else tr("Cancel"), "cancelButton")
    said = tr("End: {title}", title=title) if stays else tr("Cancel: {title}", title=title)
    made.setAccessibleName(said)
    return made


class JobsPanel(QScrollArea):
    """Rows of jobs, the newest on top.

    Signals:
        cancel_wanted(Job): the user wants it to stop.
        filled(): there is a row more.
    """

    cancel_wanted = Signal(object)
    filled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("jobsPanel")
        self.setAccessibleName(tr("Jobs"))
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(12, 8, 12, 8)
        self._column.setSpacing(6)
        self._empty = parts.label(
            tr(
                "No jobs. What is being done, and what came of it, stands here; what was done "
                "before, in Earlier jobs (Ctrl+J)."
            ),
            "muted",
        )
        self._column.addWidget(self._empty)
        self._column.addStretch(1)
        self.setWidget(inside)
        self._rows: dict[int, JobRow] = {}
        self.rows: list[JobRow] = []

    def sizeHint(self) -> QSize:
        """Room for one row and a bit."""
        return QSize(600, 112)

    @Slot(object)
    def add(self, job: Job[object]) -> None:
        """Show a job that waits for its turn."""
        row = self._insert(JobRow(job.title, job))
        self._rows[job.id] = row
        row.cancel_wanted.connect(self.cancel_wanted)

    @Slot(object)
    def begin(self, job: Job[object]) -> None:
        """Show that a job runs."""
        if row := self._rows.get(job.id):
            row.begin()

    @Slot(object, object)
    def follow(self, job: Job[object], progress: Progress) -> None:
        """Show how far a job is."""
        if row := self._rows.get(job.id):
            row.follow(progress)

    @Slot(object)
    def end(self, job: Job[object]) -> None:
        """Show how a job ended."""
        if row := self._rows.pop(job.id, None):
            row.show_end(job)

    def refuse(self, title: str, error: VdbackupError) -> None:
        """Show that something could not even begin."""
        self._insert(JobRow(title, None)).show_error(error)

    def tell(self, title: str, told: Told) -> None:
        """Show what came of something that was no job."""
        self._insert(JobRow(title, None)).show_told(told)

    def _insert(self, row: JobRow) -> JobRow:
        self._empty.hide()
        self._column.insertWidget(0, row)
        self.rows.insert(0, row)
        row.dismissed.connect(self._on_dismissed)
        for old in [each for each in self.rows if each.ended][KEPT:]:
            self._on_dismissed(old)
        self.verticalScrollBar().setValue(0)
        self.filled.emit()
        return row

    def _on_dismissed(self, row: JobRow) -> None:
        self.rows.remove(row)
        self._column.removeWidget(row)
        row.deleteLater()
        self._empty.setVisible(not self.rows)
