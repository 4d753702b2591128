"""Points every so many seconds of one source: whether it can have them, begun, and ended."""

from __future__ import annotations

from functools import partial

from PySide6.QtWidgets import QFormLayout, QWidget

from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words, written_words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState
from vdbackup.operations import policy, protection_ways
from vdbackup.operations.protection_ways import Ways
from vdbackup.translation import grouped, tr

WIDTH = 540  # pixels
USUAL = 30
"""Seconds that are offered first."""
LONGEST = 3600
"""Seconds: what is less often is a schedule's."""
_DAY = 86400
_ABOUT = tr(
    "It runs as a job of this window until you end it or quit; in the tray it goes on. Where "
    "nothing has changed no point is made."
)


class NearDialog(parts.Dialog):
    """Says which ways a source has; accepted, points are to be made, or no more.

    Attributes:
        said, each_write: what is known of the two ways.
        every, hours: seconds from point to point; for how long, 0 for until it is ended.
        begin_button, end_button: one of which can be pressed, once it is known which.
        ends: it was accepted to end what runs.
        ways: what is known; None until it is.
    """

    def __init__(
        self, entry: Entry, worker: Worker, parent: QWidget | None = None, *, runs: bool
    ) -> None:
        title = tr("Points of {entry} every some seconds", entry=entry.title)
        super().__init__("nearDialog", title, WIDTH, parent)
        self._runs = runs
        self.ends = False
        self.ways: Ways | None = None
        self.column.addWidget(parts.label(title, "heading"))
        self.said = parts.Notice(tr("Looking…"), "nearSaid")
        self.column.addWidget(self.said)
        self.each_write = parts.Notice("", "nearEachWrite")
        self.column.addWidget(self.each_write)
        self.column.addLayout(self._form(entry))
        self._cost = parts.label("", "muted")
        self.column.addWidget(self._cost)
        self.column.addWidget(parts.label(_ABOUT, "muted"))
        self.begin_button = parts.button(tr("Begin"), "nearBegin", "primary")
        self.end_button = parts.button(tr("End"), "nearEnd")
        self.begin_button.clicked.connect(self.accept)
        self.end_button.clicked.connect(self._on_end)
        self.press_by_enter(self.add_buttons(self.begin_button, tr("Close"), self.end_button))
        self.begin_button.setEnabled(False)
        self.end_button.setEnabled(runs)
        self._policy = entry.backup_set.settings.policy if entry.backup_set else None
        self._on_every()
        name = entry.backup_set.name if entry.backup_set else None
        look = partial(protection_ways.look, entry.source, entry.repository, name)
        worker.submit(Job(title, lambda _task: look()), self._on_known)

    @property
    def seconds(self) -> float | None:
        """For how long; None for until it is ended."""
        return self.hours.value() * 3600.0 or None

    def _form(self, entry: Entry) -> QFormLayout:
        near = entry.backup_set.settings.near if entry.backup_set else None
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        self.every = parts.SpinBox("nearEvery", tr("Seconds from one point to the next"))
        self.every.setRange(1, LONGEST)
        self.every.setSuffix(tr(" seconds"))
        self.every.setValue(min(near.every, LONGEST) if near else USUAL)
        self.every.valueChanged.connect(self._on_every)
        self.hours = parts.SpinBox("nearHours", tr("Hours after which that ends by itself"))
        self.hours.setRange(0, 24 * 30)
        self.hours.setSuffix(tr(" hours"))
        self.hours.setSpecialValueText(tr("until it is ended"))
        form.addRow(parts.label(tr("A point every"), wrap=False), self.every)
        form.addRow(parts.label(tr("For"), wrap=False), self.hours)
        if near is not None:
            last = parts.label(words.breakable_lines(written_words.near_summary(near)), "muted")
            form.addRow(last)
        return form

    def _on_every(self) -> None:
        """Say how many points that may be, and which of them stay."""
        most = grouped(_DAY // self.every.value())
        stays = policy.in_words(self._policy) if self._policy else tr("all points")
        self._cost.setText(
            tr("Up to {most} points a day. By its policy it keeps {stays}.", most=most, stays=stays)
        )

    def _on_end(self) -> None:
        self.ends = True
        self.accept()

    def _on_known(self, job: Job[Ways]) -> None:
        if job.error:
            self._on_refused(job.error)
        elif job.state is JobState.FINISHED:
            self._show(job.outcome())

    def _show(self, ways: Ways) -> None:
        self.ways = ways
        said = tr("Points are being made: see the jobs.") if self._runs else ways.about_near
        self.said.say(words.breakable_lines(said), "good" if ways.near else "")
        self.each_write.say(words.breakable_lines(ways.about_each_write), "")
        can = ways.near and not self._runs
        for each in (self.begin_button, self.every, self.hours):
            each.setEnabled(can)
        if can:
            self.press_by_enter(self.begin_button)
        self.fit()

    def _on_refused(self, error: VdbackupError) -> None:
        self.said.say(remedies.sentences(error), "bad")
