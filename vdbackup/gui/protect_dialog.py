"""More of one source than a point now and then: every write, or points every so many seconds.

Says which of the two it can have, what goes on, and begins or ends it.
"""

from __future__ import annotations

import enum
from functools import partial

from PySide6.QtWidgets import QFormLayout, QWidget

from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words, written_words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState
from vdbackup.operations import policy, protection_ways
from vdbackup.operations.protection_ways import Ways
from vdbackup.recovery.sessions.protection import LIMIT
from vdbackup.translation import grouped, tr

WIDTH = 540  # pixels
USUAL = 30
"""Seconds that are offered first."""
LONGEST = 3600
"""Seconds: what is less often is a schedule's."""
GIB = 1 << 30
MOST = 16 << 10
"""GiB of a log."""
_DAY = 86400
_ABOUT = tr(
    "It runs as a job of this window until you end it or quit; in the tray it goes on. Where "
    "nothing has changed no point is made."
)


class Kind(enum.Enum):
    """What is kept of a source, as the dialog has it."""

    WRITES = tr("Every write")
    POINTS = tr("A point every some seconds")


class ProtectDialog(parts.Dialog):
    """Says which ways a source has; accepted, one of them is to begin, or what goes on to end.

    Attributes:
        said, each_write: what is known of the two ways.
        kind: which of them is wanted, where there are both.
        every, limit, hours: seconds from point to point; GiB that a log may take; for how long, 0
            for until it is ended.
        begin_button, end_button: one of which can be pressed, once it is known which.
        ends: it was accepted to end what runs.
        ways: what is known; None until it is.
    """

    def __init__(
        self, entry: Entry, worker: Worker, parent: QWidget | None = None, *, runs: bool
    ) -> None:
        title = tr("Protect {entry} continuously", entry=entry.title)
        super().__init__("protectDialog", title, WIDTH, parent)
        self._runs = runs
        self.ends = False
        self.ways: Ways | None = None
        self.column.addWidget(parts.label(title, "heading"))
        self.said = parts.Notice(tr("Looking…"), "nearSaid")
        self.column.addWidget(self.said)
        self.each_write = parts.Notice("", "nearEachWrite")
        self.column.addWidget(self.each_write)
        self.column.addLayout(self._make_form(entry))
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
        self._show_kind()
        name = entry.backup_set.name if entry.backup_set else None
        look = partial(protection_ways.look, entry.source, entry.repository, name)
        worker.submit(Job(title, lambda _task: look()), self._on_known)

    @property
    def seconds(self) -> float | None:
        """For how long; None for until it is ended."""
        return self.hours.value() * 3600.0 or None

    @property
    def log_bytes(self) -> int:
        """That a log may take."""
        return self.limit.value() * GIB

    @property
    def wanted(self) -> Kind:
        """What is to be kept."""
        if self.ways is None or not self.ways.each_write:
            return Kind.POINTS
        return Kind(self.kind.currentData())

    def _make_form(self, entry: Entry) -> QFormLayout:
        near = entry.backup_set.settings.near if entry.backup_set else None
        self._form = form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        self.kind = parts.ComboBox("protectKind", tr("What is kept"))
        for each in Kind:
            self.kind.addItem(each.value, each)
        self.kind.currentIndexChanged.connect(self._show_kind)
        self.every = parts.SpinBox("nearEvery", tr("Seconds from one point to the next"))
        self.every.setRange(1, LONGEST)
        self.every.setSuffix(tr(" seconds"))
        self.every.setValue(min(near.every, LONGEST) if near else USUAL)
        self.every.valueChanged.connect(self._show_kind)
        self.limit = parts.SpinBox("protectLimit", tr("GiB that the log of writes may take"))
        self.limit.setRange(1, MOST)
        self.limit.setSuffix(" GiB")
        self.limit.setValue(LIMIT // GIB)
        self.hours = parts.SpinBox("nearHours", tr("Hours after which that ends by itself"))
        self.hours.setRange(0, 24 * 30)
        self.hours.setSuffix(tr(" hours"))
        self.hours.setSpecialValueText(tr("until it is ended"))
        form.addRow(parts.label(tr("Keep"), wrap=False), self.kind)
        form.addRow(parts.label(tr("A point every"), wrap=False), self.every)
        form.addRow(parts.label(tr("The log takes at most"), wrap=False), self.limit)
        form.addRow(parts.label(tr("For"), wrap=False), self.hours)
        if near is not None:
            last = parts.label(words.breakable_lines(written_words.near_summary(near)), "muted")
            form.addRow(last)
        return form

    def _show_kind(self) -> None:
        """Ask for what the way that is chosen needs, and say what it costs."""
        points = self.wanted is Kind.POINTS
        asks = self.ways is None or self.ways.logged is None
        self._form.setRowVisible(self.kind, bool(self.ways and self.ways.each_write))
        self._form.setRowVisible(self.every, asks and points)
        self._form.setRowVisible(self.limit, asks and not points)
        self._form.setRowVisible(self.hours, asks)
        cost = self._cost_of_points() if points else _COST_OF_WRITES
        self._cost.setText(cost if asks else "")
        self._cost.setVisible(asks)

    def _cost_of_points(self) -> str:
        most = grouped(_DAY // self.every.value())
        stays = policy.in_words(self._policy) if self._policy else tr("all points")
        return tr(
            "Up to {most} points a day. By its policy it keeps {stays}.", most=most, stays=stays
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
        goes_on = self._runs or ways.logged is not None
        if ways.logged is not None:
            said, role = written_words.logged_summary(ways.logged, ways.log), "good"
        elif self._runs:
            said, role = tr("Points are being made: see the jobs."), "good"
        else:
            said, role = ways.about_near, "good" if ways.near else ""
        self.said.say(words.breakable_lines(said), role)
        about = "" if ways.logged is not None else ways.about_each_write
        self.each_write.say(words.breakable_lines(about), "good" if ways.each_write else "")
        can = (ways.near or ways.each_write) and not goes_on
        for each in (self.begin_button, self.kind, self.every, self.limit, self.hours):
            each.setEnabled(can)
        self.end_button.setEnabled(goes_on)
        if can:
            self.press_by_enter(self.begin_button)
        self._show_kind()
        self.fit()

    def _on_refused(self, error: VdbackupError) -> None:
        self.said.say(remedies.sentences(error), "bad")


_COST_OF_WRITES = tr(
    "A point is made first, on which the writes follow. Each takes its own size and 512 bytes of "
    "the log; when that is full, or its storage, no more are kept, and you are told."
)
