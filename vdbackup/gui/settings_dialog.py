"""The settings: how the window looks, where things lie, how many points a set keeps."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.told_ways import ToldWays
from vdbackup.locations import Locations
from vdbackup.operations import policy
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.settings import Settings, ThemeChoice
from vdbackup.translation import tr

THEMES = {
    ThemeChoice.AUTO: tr("As the desktop"),
    ThemeChoice.LIGHT: tr("Light"),
    ThemeChoice.DARK: tr("Dark"),
}

NAMES_WIDTH = 130  # pixels
USUAL_KEEP = 30
"""Points that are offered first to whoever does not want all of them."""


class SettingsDialog(parts.Dialog):
    """Shows settings; `changes()` and `policies()` say what the user made of them.

    Attributes:
        theme, sessions, memory, headless, ask, limit, battery, remind, animations: the fields.
        told: those that say how the user is told of trouble.
        keep: for each source that has been backed up, how many points to keep.
        boot_test: for each such source, whether new points are boot-tested.
        index: for each such source, whether the names of files in new points are noted.
    """

    def __init__(
        self,
        settings: Settings,
        locations: Locations,
        entries: list[Entry],
        worker: Worker,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("settingsDialog", tr("Settings"), 540, parent)
        self._settings = settings
        self._locations = locations
        self.keep: list[tuple[Entry, KeepField]] = []
        self.boot_test: list[tuple[Entry, QCheckBox]] = []
        self.index: list[tuple[Entry, QCheckBox]] = []
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 8, 0)
        column.setSpacing(8)
        self._add_window(column)
        self._add_backups(column, [entry for entry in entries if entry.backup_set])
        self._add_trouble(column, worker)
        self._add_machines(column)
        self._add_locations(column)
        column.addStretch(1)
        self._scrolled = parts.Scrolled(inside, tr("Settings"))
        self.column.addWidget(self._scrolled, 1)
        save = parts.button(tr("Save"), "settingsSave", "primary")
        save.clicked.connect(self.accept)
        self.add_buttons(save)

    def accept(self) -> None:
        """Close it, unless something in it makes no sense: that is said."""
        if self.told.make_sense():
            super().accept()
        else:
            self._scrolled.ensureWidgetVisible(self.told.said)

    def changes(self) -> dict[str, object]:
        """The settings that the user has changed, by name; others may have changed meanwhile."""
        path = parts.path_in(self.sessions)
        usual = self._locations.data / "sessions"
        mail_to, command = self.told.texts
        wanted = {
            "theme": ThemeChoice(self.theme.currentData()),
            "sessions_folder": None if path == usual else path,
            "memory_mib": self.memory.value(),
            "headless": self.headless.isChecked(),
            "ask_before_backup": self.ask.isChecked(),
            "all_blocks": not self.used_only.isChecked(),
            "limit_mib": self.limit.value(),
            "rests_on_battery": self.battery.isChecked(),
            "remind_after_days": self.remind.value(),
            "animations": self.animations.isChecked(),
            "tray": self.tray.isChecked(),
            "mail_to": mail_to,
            "trouble_command": command,
        }
        return {
            name: value for name, value in wanted.items() if value != getattr(self._settings, name)
        }

    def policies(self) -> list[tuple[Entry, policy.Change]]:
        """For each source what it does automatically; how many points it keeps is asked alone."""
        tests = {True: BootTests.EACH, False: BootTests.OFF}
        return [
            *((entry, policy.Change(keep=field.value or policy.ALL)) for entry, field in self.keep),
            *(
                (entry, policy.Change(boot_test=tests[box.isChecked()]))
                for entry, box in self.boot_test
            ),
            *((entry, policy.Change(index=box.isChecked())) for entry, box in self.index),
        ]

    def _add_window(self, column: QVBoxLayout) -> None:
        form = _section(column, tr("Window"))
        self.theme = parts.ComboBox("themeChoice", tr("Colours"))
        for choice, name in THEMES.items():
            self.theme.addItem(name, choice.value)
        self.theme.setCurrentIndex(list(THEMES).index(self._settings.theme))
        form.addRow(_name(tr("Colours")), self.theme)
        self.animations = QCheckBox(tr("Show how points are merged"))
        self.animations.setChecked(self._settings.animations)
        form.addRow(_name(""), self.animations)
        self.tray = QCheckBox(tr("Stay in the tray when the window is closed"))
        self.tray.setChecked(self._settings.tray)
        self.tray.setToolTip(
            tr("Where the desktop has one. What is scheduled is backed up anyway.")
        )
        form.addRow(_name(""), self.tray)

    def _add_backups(self, column: QVBoxLayout, entries: list[Entry]) -> None:
        form = _section(column, tr("Backups"))
        self.ask = QCheckBox(tr("Show what will be done before each backup"))
        self.ask.setChecked(self._settings.ask_before_backup)
        form.addRow(_name(""), self.ask)
        self.used_only = QCheckBox(tr("Leave out free space, and space for swapping"))
        self.used_only.setChecked(not self._settings.all_blocks)
        self.used_only.setToolTip(
            tr("Backups are quicker and smaller. What was deleted cannot be undeleted from them.")
        )
        form.addRow(_name(""), self.used_only)
        self.limit = parts.SpinBox("limit", tr("How fast a backup goes at most"))
        self.limit.setRange(0, 100_000)
        self.limit.setSuffix(tr(" MiB/s at most"))
        self.limit.setSpecialValueText(tr("as fast as possible"))
        self.limit.setSingleStep(10)
        self.limit.setValue(self._settings.limit_mib)
        form.addRow(_name(tr("Speed")), self.limit)
        self.battery = QCheckBox(tr("Pause jobs while the computer runs on its battery"))
        self.battery.setObjectName("restsOnBattery")
        self.battery.setChecked(self._settings.rests_on_battery)
        self.battery.setToolTip(
            tr("Those of this window. They go on with mains. A schedule says for itself.")
        )
        form.addRow(_name(""), self.battery)
        self.remind = parts.SpinBox("remindAfter", tr("Remind after so many days without a backup"))
        self.remind.setRange(1, 365)
        self.remind.setSuffix(tr(" days without a backup"))
        self.remind.setValue(self._settings.remind_after_days)
        form.addRow(_name(tr("Remind after")), self.remind)
        for entry in entries:
            present = entry.backup_set.settings.policy if entry.backup_set else Policy()
            self._add_keep(form, entry, present)
            box = QCheckBox(tr("Boot-test each new point"))
            box.setChecked(present.boot_test is BootTests.EACH)
            box.setToolTip(
                tr("It is started unseen after its backup; you see whether it comes up.")
            )
            box.setAccessibleName(tr("Boot-test each new point of {entry}", entry=entry.title))
            form.addRow(_name(""), box)
            self.boot_test.append((entry, box))
            self._add_index(form, entry, present)

    def _add_index(self, form: QFormLayout, entry: Entry, present: Policy) -> None:
        box = QCheckBox(tr("Note the names of files in each new point"))
        box.setChecked(present.index)
        box.setToolTip(
            tr("Done after its backup, giving way to all else: searches are quick then.")
        )
        box.setAccessibleName(
            tr("Note the names of files in each new point of {entry}", entry=entry.title)
        )
        form.addRow(_name(""), box)
        self.index.append((entry, box))

    def _add_keep(self, form: QFormLayout, entry: Entry, present: Policy) -> None:
        """How many points a source keeps; where other rules say that, what they are."""
        if present.retention != Policy(present.keep):
            form.addRow(
                _name(tr("{entry} keeps", entry=words.breakable(entry.title))),
                parts.label(policy.in_words(present)),
            )
            return
        field = KeepField(present.keep, entry.title)
        form.addRow(_name(tr("{entry} keeps", entry=words.breakable(entry.title))), field)
        self.keep.append((entry, field))

    def _add_trouble(self, column: QVBoxLayout, worker: Worker) -> None:
        form = _section(column, tr("When a scheduled backup fails"))
        self.told = ToldWays(self._settings, worker, _name)
        form.addRow(self.told)

    def _add_machines(self, column: QVBoxLayout) -> None:
        form = _section(column, tr("Virtual machines"))
        self.memory = parts.SpinBox("memory", tr("Memory of a virtual machine"))
        self.memory.setRange(0, 1 << 20)
        self.memory.setSuffix(tr(" MiB"))
        self.memory.setValue(self._settings.memory_mib)
        self.memory.setSpecialValueText(tr("what the system needs"))
        self.memory.setSingleStep(256)
        form.addRow(_name(tr("Memory")), self.memory)
        self.headless = QCheckBox(tr("Run without a display"))
        self.headless.setChecked(self._settings.headless)
        form.addRow(_name(""), self.headless)

    def _add_locations(self, column: QVBoxLayout) -> None:
        form = _section(column, tr("Locations"))
        self.sessions = QLineEdit(str(self._settings.sessions(self._locations)))
        self.sessions.setAccessibleName(tr("Folder that virtual machines write to"))
        choose = parts.button(tr("Choose…"), "chooseSessionsButton")
        choose.clicked.connect(
            lambda: parts.choose_folder(self, tr("Where virtual machines write"), self.sessions)
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.sessions, 1)
        row.addWidget(choose)
        form.addRow(_name(tr("VMs write to")), row)
        form.addRow(_name(tr("Settings")), _path(self._locations.settings_file))
        form.addRow(_name(tr("Log")), _path(self._locations.log_file))


class KeepField(QWidget):
    """How many points a source keeps: all, or so many of the newest.

    All of them is a choice of its own, and not the number beside 1: a slip must not take them.
    """

    def __init__(self, keep: int | None, name: str) -> None:
        super().__init__()
        self.choice = parts.ComboBox("keepChoice", tr("Points that {name} keeps", name=name))
        self.choice.addItem(tr("all points"), None)
        self.choice.addItem(tr("only the newest"), True)
        self.choice.setToolTip(tr("Older points are merged or deleted after the next backup."))
        self.number = parts.SpinBox(
            "keepNumber", tr("Number of newest points that {name} keeps", name=name)
        )
        self.number.setRange(1, 100_000)
        self.number.setValue(keep or USUAL_KEEP)
        self.choice.setCurrentIndex(0 if keep is None else 1)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.choice)
        row.addWidget(self.number)
        row.addStretch(1)
        self.choice.currentIndexChanged.connect(self._on_chosen)
        self._on_chosen()

    @property
    def value(self) -> int | None:
        """How many points to keep, None for all."""
        return self.number.value() if self.choice.currentData() else None

    def _on_chosen(self) -> None:
        self.number.setVisible(bool(self.choice.currentData()))


def _section(column: QVBoxLayout, title: str) -> QFormLayout:
    heading = parts.label(title, "strong")
    if column.count():
        column.addSpacing(8)
    column.addWidget(heading)
    form = QFormLayout()
    form.setContentsMargins(12, 0, 0, 0)
    form.setHorizontalSpacing(14)
    form.setVerticalSpacing(8)
    column.addLayout(form)
    return form


def _name(text: str) -> QWidget:
    """A field's name, as wide as all others so that the fields stand in one column."""
    label = parts.label(text)
    label.setFixedWidth(NAMES_WIDTH)
    return label


def _path(path: Path) -> QWidget:
    return parts.label(words.breakable(str(path)), "muted", selectable=True)
