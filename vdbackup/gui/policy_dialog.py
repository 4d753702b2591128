"""Which points of a source stay: its rules, and what these would make of each point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QAbstractItemView, QGridLayout, QHeaderView, QTableView, QWidget

from vdbackup.backup import forecast
from vdbackup.backup.forecast import Fate, Outcome, Outlook
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.theme import Theme
from vdbackup.jobs import Job, JobState, Task
from vdbackup.operations import policy, writes_policy
from vdbackup.operations.policy import OFF, Change, Number
from vdbackup.operations.writes_policy import LogFate
from vdbackup.repository.policy import MAX_KEPT, Policy
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, markedn, tr, trn

WIDTH = 660  # pixels
NARROW = 150  # pixels of a field
LOWEST = 150  # pixels of the list
_SETTLED = 250  # milliseconds without a key, after which a rule is meant
_HOURS = 24
_ABOUT = tr(
    "A point stays if any of these keeps it, and pinned points always do. Others are merged "
    "or deleted after the next backup; a merge keeps the newest moment of what it joins."
)
OUTCOMES = {
    Outcome.STAYS: tr("stays"),
    Outcome.GOES: tr("goes"),
    Outcome.LATER: tr("goes later"),
}

Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class RuleField:
    """A rule as the form has it.

    Attributes:
        name: of the policy's attribute.
        title: what stands before the field.
        suffix: what stands behind the number.
        off: what stands there where the rule keeps none.
    """

    name: str
    title: str
    suffix: tuple[str, str]
    off: str = tr("none")


HOURS = markedn(" hour", " hours")
RULES = (
    RuleField("keep", tr("The newest"), markedn(" point", " points")),
    RuleField("keep_within", tr("All of the last"), markedn(" day", " days")),
    RuleField("daily", tr("One a day, of"), markedn(" day", " days")),
    RuleField("weekly", tr("One a week, of"), markedn(" week", " weeks")),
    RuleField("monthly", tr("One a month, of"), markedn(" month", " months")),
    RuleField("yearly", tr("One a year, of"), markedn(" year", " years")),
    RuleField("at_most", tr("Together at most"), markedn(" point", " points"), tr("any number")),
    RuleField("at_most_bytes", tr("Holding at most"), (" GiB", " GiB"), tr("any size")),
)
WRITES = (
    RuleField(
        "keep_writes", tr("Every write of the last"), markedn(" hour", " hours"), tr("all of it")
    ),
    RuleField(
        "moments_every", tr("Before: one moment each"), markedn(" minute", " minutes"), tr("usual")
    ),
    RuleField(
        "forget_moments", tr("No moment older than"), markedn(" day", " days"), tr("any age")
    ),
)
"""About the writes that are kept of the source's machines."""
GIB = 1 << 30


class Foretold(NamedTuple):
    """What becomes of each point, and of each log of kept writes, by a policy."""

    policy: Policy
    fates: tuple[Fate, ...]
    logs: tuple[LogFate, ...]


class PolicyDialog(parts.Dialog):
    """Shows the rules and what becomes of each point; accepted, `change` says what is wanted.

    Attributes:
        fields: of each rule, by its name; 0 is none.
        said: what the rules would mean, in a sentence.
        fates: what becomes of each point, as it was found out last.

    Signals:
        foretold(frozenset): ids of the points that would go.
    """

    foretold = Signal(object)

    def __init__(
        self, entry: Entry, worker: Worker, theme: Theme, parent: QWidget | None = None
    ) -> None:
        title = tr("Points of {entry} that stay", entry=entry.title)
        super().__init__("policyDialog", title, WIDTH, parent)
        self._entry, self._worker = entry, worker
        backup_set = entry.backup_set
        self._present = backup_set.settings.policy if backup_set else Policy()
        self.fields: dict[str, parts.SpinBox] = {}
        self.fates: tuple[Fate, ...] = ()
        self._outlook: Outlook | None = None
        self._timer = QTimer(self, singleShot=True, interval=_SETTLED)
        self._timer.timeout.connect(self._look)
        self.column.addWidget(parts.label(title, "heading"))
        self.column.addWidget(parts.label(_ABOUT, "muted"))
        self.column.addLayout(self._form())
        self.said = parts.Notice(tr("Looking…"), "policySaid")
        self.column.addWidget(self.said)
        self._model = FatesModel(theme, self)
        self.column.addWidget(_table(self._model), 1)
        self._save = parts.button(tr("Save"), "policySave", "primary")
        self._save.clicked.connect(self.accept)
        self.add_buttons(self._save)
        self._look()

    @property
    def change(self) -> Change:
        """What is to be another way."""
        return replace(self._of_points(), **self._of_writes())  # type: ignore[arg-type]

    def _of_writes(self) -> dict[str, Number]:
        """What is said of kept writes, which the rules about points know nothing of."""
        wanted = {each.name: self._wanted(each.name) for each in WRITES}
        return {
            name: OFF if number is None else number
            for name, number in wanted.items()
            if number != getattr(self._present, name)
        }

    def _of_points(self) -> Change:
        wanted = {each.name: self._wanted(each.name) for each in RULES}
        before = {each.name: getattr(self._present, each.name) for each in RULES}
        if all(number is None for number in wanted.values()):
            return Change() if wanted == before else Change(keep=policy.ALL)
        if before["keep"] is not None and wanted["keep"] is None:  # all of them are said anew
            others = {name: number for name, number in wanted.items() if number is not None}
            return Change(keep=policy.ALL, **others)  # type: ignore[arg-type]
        changed = {
            name: OFF if number is None else number
            for name, number in wanted.items()
            if number != before[name]
        }
        return Change(**changed)  # type: ignore[arg-type]

    def _wanted(self, name: str) -> int | None:
        number = self.fields[name].value()
        before: int | None = getattr(self._present, name)
        if number == self._shown(name):  # what was said more exactly than it is shown stays so
            return before
        return number * self._units.get(name, 1) or None

    def _shown(self, name: str) -> int:
        """The present number of a rule, in the field's unit; no less than it is, if it fits in."""
        number = -(-(getattr(self._present, name) or 0) // self._units.get(name, 1))
        return min(number, self.fields[name].maximum())

    def _form(self) -> QGridLayout:
        """In two columns, so that the list below has room on a small screen, too."""
        form = QGridLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(6)
        form.setColumnStretch(4, 1)
        within = self._present.keep_within or 0
        in_hours = bool(within % _HOURS)  # what was said in hours stays in hours
        self._units = {
            "keep_within": 1 if in_hours else _HOURS,
            "at_most_bytes": GIB,
            "keep_writes": 3600,
            "moments_every": 60,
            "forget_moments": 86400,
        }
        every = (*RULES, *WRITES)
        rows = -(-len(every) // 2)
        for place, each in enumerate(every):
            field = parts.SpinBox(f"rule{each.name}", each.title)
            field.setRange(0, MAX_KEPT // _HOURS)
            field.setMinimumWidth(NARROW)
            parts.name_number(
                field, *(HOURS if in_hours and each.name == "keep_within" else each.suffix)
            )
            field.setSpecialValueText(each.off)
            self.fields[each.name] = field
            field.setValue(self._shown(each.name))
            field.valueChanged.connect(self._timer.start)
            column, row = divmod(place, rows)
            form.addWidget(parts.label(each.title, wrap=False), row, 2 * column)
            form.addWidget(field, row, 2 * column + 1)
        return form

    def _look(self) -> None:
        backup_set = self._entry.backup_set
        if backup_set is None:
            return
        change, present, folder = self.change, self._present, self._entry.repository

        def foretell(_task: Task) -> Foretold:
            """What every policy goes by is found out once: it takes seconds for many points."""
            if self._outlook is None:
                self._outlook = Outlook(backup_set)
            wanted = change.of(present)
            repository = Repository.open(folder)
            now = datetime.now(UTC)
            fates = policy.foretold(repository, self._outlook, wanted, now)
            logs = writes_policy.foretold(repository, backup_set.name, wanted, now)
            return Foretold(wanted, fates, tuple(logs))

        job = Job(self.windowTitle(), foretell)
        self._worker.submit(job, partial(self._on_foretold, change))

    def _on_foretold(self, change: Change, job: Job[Foretold]) -> None:
        if change != self.change:  # typed on meanwhile: that is looked at, too
            return
        if job.error:
            self.said.say(remedies.sentences(job.error), "bad")
        elif job.state is JobState.FINISHED:
            self._show(job.outcome())
        self._save.setEnabled(job.error is None)

    def _show(self, found: Foretold) -> None:
        self.fates = found.fates
        going = [point.id for point in forecast.taken(found.fates)]
        said = (sentence(found.policy, len(going), len(found.fates)), of_writes(found))
        self.said.say(" ".join(filter(None, said)), "")
        self._model.show_fates(found.fates)
        self.foretold.emit(frozenset(going))


def sentence(wanted: Policy, going: int, every: int) -> str:
    """What the rules mean, for a person."""
    kept = policy.in_words(wanted)
    if not wanted.takes:
        return tr("All points stay.")
    if not going:
        return trn(
            "Kept: {kept}. The next backup takes none of {count} point.",
            "Kept: {kept}. The next backup takes none of {count} points.",
            every,
            kept=kept,
        )
    return trn(
        "Kept: {kept}. The next backup takes {going} of {count} point.",
        "Kept: {kept}. The next backup takes {going} of {count} points.",
        every,
        kept=kept,
        going=grouped(going),
    )


def of_writes(found: Foretold) -> str:
    """What the rules mean for kept writes, for a person; "" where nothing is said of them."""
    if not found.policy.writes.takes:
        return ""
    kept = writes_policy.in_words(found.policy.writes)
    going = [each.name for each in found.logs if each.outcome is Outcome.GOES]
    if not going:
        return tr("Of kept writes: {kept}.", kept=kept)
    return tr(
        "Of kept writes: {kept}. The next backup takes {going}.", kept=kept, going=", ".join(going)
    )


class FatesModel(QAbstractTableModel):
    """What becomes of each point, the newest first."""

    TITLES = ("#", tr("Time"), tr("Next backup"), tr("Why"))

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._fates: tuple[Fate, ...] = ()

    def show_fates(self, fates: tuple[Fate, ...]) -> None:
        """Show these."""
        self.beginResetModel()
        self._fates = fates[::-1]
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """A row for each point."""
        return 0 if parent.isValid() else len(self._fates)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's signature)
        """The same for each."""
        return 0 if parent.isValid() else len(self.TITLES)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> object:
        """The columns' names."""
        shown = orientation is Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole
        return self.TITLES[section] if shown else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """A fact in words, and how it looks."""
        fate = self._fates[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (
                f"{fate.point.sequence}",
                words.when(fate.point.created),
                OUTCOMES[fate.outcome],
                words.breakable(fate.why),
            )[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return parts.hint(fate.why)
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == 2:
            goes = fate.outcome is not Outcome.STAYS
            return QColor(self._theme.warning if goes else self._theme.good)
        return None


def _table(model: FatesModel) -> QTableView:
    table = QTableView()
    table.setObjectName("policyFates")
    table.setAccessibleName(tr("What becomes of each point"))
    table.setModel(model)
    table.setMinimumHeight(LOWEST)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setShowGrid(False)
    table.setAlternatingRowColors(True)
    table.setTabKeyNavigation(False)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(26)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    header.setStretchLastSection(True)
    header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    for column, width in enumerate((52, 132, 96)):
        table.setColumnWidth(column, width)
    header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
    return table
