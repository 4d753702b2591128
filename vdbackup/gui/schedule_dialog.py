"""When a source is backed up automatically: how often, what systemd is told, how it went."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from PySide6.QtCore import QTime
from PySide6.QtGui import QFontDatabase
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState
from vdbackup.operations.schedules import arrange, conditions
from vdbackup.operations.schedules.arrange import SchedulePlan
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store
from vdbackup.operations.schedules.timing import Timing
from vdbackup.text import printable
from vdbackup.translation import markedn, tr

WIDTH = 560  # pixels
_HEIGHT = 190  # pixels of the units' text
NEVER = ""
MOST_VERIFIED = 100_000
USUAL_MERGE = "03:00"
LETTERS = 26
"""Of a choice that have room; all of it is seen where it is chosen."""
VERIFIED = markedn(" point", " points")
CHOICES = {
    NEVER: tr("Only when I say so"),
    "5m": tr("Every 5 minutes"),
    "15m": tr("Every 15 minutes"),
    "30m": tr("Every 30 minutes"),
    "hourly": tr("Hourly"),
    "360m": tr("Every 6 hours"),
    "daily": tr("Daily"),
    "weekly": tr("Weekly, on Mondays"),
    "monthly": tr("Monthly, on the 1st"),
    "login": tr("At login"),
    "plug": tr("When the drive with the backups is plugged in"),
}
_ABOUT = tr(
    "It is backed up with the window open or closed. What was missed while the computer was "
    "off is made up once."
)
DAMAGED = tr("The schedule that it had makes no sense any more. Save another one, or save none.")
RUNS_DAMAGED = tr(
    "How its last scheduled backups ended is not known any more: the record of that is "
    "damaged. The next one is noted anew."
)
RAN = {
    Outcome.DONE: "good",
    Outcome.WARNED: "warning",
    Outcome.FAILED: "bad",
    Outcome.SKIPPED: "muted",
}


class ScheduleDialog(parts.Dialog):
    """Shows a set's schedule; accepted, `plan` or `removes` says what is to be done.

    Attributes:
        every, at, on_mains, delay, verify, merges, merge_at, networks, not_metered,
            not_presenting: the fields.
        said: what it would mean, or why it cannot be.
        plan: what is to be set; None where nothing is, or it is not known yet.
    """

    def __init__(
        self, entry: Entry, store: Store, worker: Worker, parent: QWidget | None = None
    ) -> None:
        title = tr("Schedule of {entry}", entry=entry.title)
        super().__init__("scheduleDialog", title, WIDTH, parent)
        self._store, self._worker = store, worker
        folder = entry.repository.absolute()
        self._present = store.find(folder, entry.name)
        self._damaged = store.is_damaged(folder, entry.name)
        self._has_one = self._present is not None or self._damaged
        self._wanted = self._present or Schedule(folder, entry.name, "daily")
        self.plan: SchedulePlan | None = None
        self.column.addWidget(parts.label(title, "heading"))
        inside = QWidget()
        self._inside = QVBoxLayout(inside)
        self._inside.setContentsMargins(0, 0, 8, 0)
        self._inside.setSpacing(12)
        self._inside.addWidget(parts.label(_ABOUT, "muted"))
        self._inside.addLayout(self._form())
        self.said = parts.Notice("", "scheduleSaid")
        self._inside.addWidget(self.said)
        self._add_last_run()
        self._units = QPlainTextEdit()
        self._units.setReadOnly(True)
        self._units.setObjectName("scheduleUnits")
        self._units.setAccessibleName(tr("What systemd is told"))
        self._units.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self._units.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._units.setFixedHeight(_HEIGHT)
        self._fold = parts.Fold(tr("What systemd is told"), self._units)
        self._inside.addWidget(self._fold)
        self._inside.addWidget(self._units)
        self._inside.addStretch(1)
        self.column.addWidget(parts.Scrolled(inside, title), 1)
        self._save = parts.button(tr("Save"), "scheduleSave", "primary")
        self._save.clicked.connect(self.accept)
        self.add_buttons(self._save)
        self._on_chosen()

    @property
    def removes(self) -> bool:
        """Whether the schedule that it has, damaged or not, is to be no more."""
        return self._has_one and self.every.currentData() == NEVER

    @property
    def wanted(self) -> Schedule | None:
        """What the fields say; None for no schedule."""
        every = self.every.currentData()
        if every == NEVER:
            return None
        return replace(
            self._wanted,
            every=every,
            at=self.at.time().toString("HH:mm") if Timing(every).has_time else "",
            on_mains=self.on_mains.isChecked(),
            random_delay=self.delay.value() * 60,
            verify=self.verify.value(),
            networks=_listed(self.networks.text()),
            not_metered=self.not_metered.isChecked(),
            not_presenting=self.not_presenting.isChecked(),
            merge_at=self.merge_at.time().toString("HH:mm") if self.merges.isChecked() else "",
        )

    def _form(self) -> QFormLayout:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        self.every = parts.ComboBox("scheduleEvery", tr("How often it is backed up"))
        adjusts = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.every.setSizeAdjustPolicy(adjusts)
        self.every.setMinimumContentsLength(LETTERS)
        chosen = self._present.every if self._present else NEVER
        choices = CHOICES if chosen in CHOICES else {**CHOICES, chosen: _in_words(self._wanted)}
        for every, name in choices.items():
            self.every.addItem(name, every)
        self.every.setCurrentIndex(list(choices).index(chosen))
        self.at = parts.TimeField("scheduleAt", tr("Time of the day"))
        self.at.setDisplayFormat("HH:mm")
        time = self._wanted.timing.time
        self.at.setTime(QTime(time.hour, time.minute))
        self.on_mains = QCheckBox(tr("Not while the computer runs on its battery"))
        self.on_mains.setChecked(self._wanted.on_mains)
        self.delay = parts.SpinBox("scheduleDelay", tr("Up to so many minutes later"))
        self.delay.setRange(0, 24 * 60)
        self.delay.setSuffix(tr(" minutes at most"))
        self.delay.setSpecialValueText(tr("none"))
        self.delay.setValue(self._wanted.random_delay // 60)
        self.verify = parts.SpinBox("scheduleVerify", tr("So many points are verified each time"))
        self.verify.setRange(0, MOST_VERIFIED)
        self.verify.setSpecialValueText(tr("none"))
        self.verify.setValue(self._wanted.verify)
        parts.name_number(self.verify, *VERIFIED)
        self.verify.setToolTip(tr("Those whose last verification is the longest ago."))
        form.addRow(parts.label(tr("How often"), wrap=False), self.every)
        form.addRow(parts.label(tr("At"), wrap=False), self.at)
        form.addRow(parts.label(tr("Random delay"), wrap=False), self.delay)
        form.addRow(parts.label(tr("Then verify"), wrap=False), self.verify)
        form.addRow(parts.label(tr("Merge"), wrap=False), self._merge_row())
        form.addRow(parts.label(tr("Only on"), wrap=False), self._network_row())
        form.addRow(parts.label("", wrap=False), self.on_mains)
        self.not_presenting = QCheckBox(tr("Not while somebody presents, or sees a film"))
        self.not_presenting.setChecked(self._wanted.not_presenting)
        self.not_presenting.setToolTip(tr("As long as a program keeps the screen on."))
        self.not_presenting.toggled.connect(self._on_chosen)
        form.addRow(parts.label("", wrap=False), self.not_presenting)
        self._rows = form
        self.every.currentIndexChanged.connect(self._on_chosen)
        self.at.timeChanged.connect(self._on_chosen)
        self.delay.valueChanged.connect(self._on_chosen)
        self.verify.valueChanged.connect(self._on_chosen)
        self.on_mains.toggled.connect(self._on_chosen)
        return form

    def _merge_row(self) -> QWidget:
        """When the policy is applied, where that is not after each backup."""
        merge_at = self._wanted.merge_at
        self.merges = QCheckBox(tr("not after each backup, but at"))
        self.merges.setChecked(bool(merge_at))
        self.merge_at = parts.TimeField("scheduleMergeAt", tr("When older points are merged"))
        self.merge_at.setDisplayFormat("HH:mm")
        self.merge_at.setTime(QTime.fromString(merge_at or USUAL_MERGE, "HH:mm"))
        self.merge_at.setEnabled(bool(merge_at))
        self.merges.toggled.connect(self.merge_at.setEnabled)
        self.merges.toggled.connect(self._on_chosen)
        self.merge_at.timeChanged.connect(self._on_chosen)
        made = self._merging = QWidget()
        row = QHBoxLayout(made)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.merges)
        row.addWidget(self.merge_at)
        return made

    def _network_row(self) -> QWidget:
        """On which networks it is made."""
        hint = tr("any network")
        self.networks = parts.field("scheduleNetworks", hint, tr("Networks that it is made on"))
        self.networks.setText(", ".join(self._wanted.networks))
        self.networks.setMinimumWidth(190)
        look = Job(tr("Look at the network"), lambda _task: conditions.networks())
        self._worker.submit(look, self._on_networks_seen)
        self.not_metered = QCheckBox(tr("not if metered"))
        self.not_metered.setChecked(self._wanted.not_metered)
        self.networks.textChanged.connect(self._on_chosen)
        self.not_metered.toggled.connect(self._on_chosen)
        made = self._network = QWidget()
        row = QHBoxLayout(made)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.networks)
        row.addWidget(self.not_metered)
        return made

    def _on_networks_seen(self, job: Job[set[str]]) -> None:
        self.networks.setToolTip(
            parts.hint(
                tr(
                    "Names of connections, addresses of gateways, or interfaces, with commas. "
                    "Now: {networks}",
                    networks=", ".join(sorted(job.result or ())) or tr("none"),
                )
            )
        )

    def _add_last_run(self) -> None:
        last = self._store.history_of(self._wanted.id).last
        if self._damaged:
            self._inside.addWidget(parts.Notice(DAMAGED, "scheduleDamaged", "bad"))
        if self._store.history_is_damaged(self._wanted.id):
            self._inside.addWidget(parts.Notice(RUNS_DAMAGED, "scheduleRunsDamaged", "warning"))
        if last is not None:
            notice = parts.Notice(run_in_words(last), "scheduleLast", RAN[last.outcome])
            self._inside.addWidget(notice)

    def _on_chosen(self) -> None:
        wanted = self.wanted
        self._rows.setRowVisible(self.at, wanted is not None and wanted.timing.has_time)
        self._rows.setRowVisible(self.delay, wanted is not None and wanted.every != "plug")
        self._rows.setRowVisible(self.verify, wanted is not None)
        for row in (self._network, self.not_presenting):
            self._rows.setRowVisible(row, wanted is not None)
        self._rows.setRowVisible(self._merging, wanted is not None)
        self._rows.setRowVisible(self.on_mains, wanted is not None)
        self._fold.setVisible(wanted is not None)
        self.plan = None
        if wanted is None:
            self._units.hide()
            self._save.setEnabled(self._has_one)
            self.said.say(tr("It is backed up when you say so, and not automatically."), "")
            return
        self._save.setEnabled(False)
        job = Job(self.windowTitle(), lambda _task: arrange.plan(self._store, wanted))
        self._worker.submit(job, partial(self._on_planned, wanted))

    def _on_planned(self, wanted: Schedule, job: Job[SchedulePlan]) -> None:
        if wanted != self.wanted:  # chosen anew meanwhile: that is planned, too
            return
        if job.error:
            self._on_refused(job.error)
        elif job.state is JobState.FINISHED:
            self._show(job.outcome())

    def _on_refused(self, error: VdbackupError) -> None:
        self._units.setPlainText("")
        self.said.say(remedies.sentences(error), "bad")

    def _show(self, plan: SchedulePlan) -> None:
        self.plan = plan
        self._save.setEnabled(True)
        about = words.breakable(f"{plan.summary} {plan.warning}".rstrip())
        self.said.say(about, "warning" if plan.warning else "")
        texts = [f"# {path}\n{text}" for path, text in plan.texts.items()]
        if not plan.by_systemd:
            self.said.say(f"{about} {_no_systemd(plan)}", "warning")
        self._units.setPlainText("\n".join(map(_lines, texts)))


def _no_systemd(plan: SchedulePlan) -> str:
    """What is to be done by hand."""
    if not plan.cron:
        return tr("systemd does not run here, and cron cannot do that: choose another time.")
    line = words.breakable_lines(plan.cron)
    return tr(
        "systemd does not run here: add this to your crontab (crontab -e): {line}",
        line=f"\n{line}",
    )


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines())) + "\n"


def _in_words(schedule: Schedule) -> str:
    said = schedule.timing.words
    return f"{said[:1].upper()}{said[1:]}"


def run_in_words(run: Run) -> str:
    """How the last run ended, for a person."""
    how = {Outcome.FAILED: tr("failed"), Outcome.WARNED: tr("was made, with warnings")}
    sentence = f" {words.breakable(run.sentence)}" if run.outcome in how else ""
    return tr(
        "The last backup {how}, {began}.{sentence}",
        how=how.get(run.outcome, tr("was made")),
        began=words.when(run.began),
        sentence=sentence,
    )


def _listed(text: str) -> tuple[str, ...]:
    """Names that are typed with commas between them."""
    return tuple(filter(None, map(str.strip, text.split(","))))
