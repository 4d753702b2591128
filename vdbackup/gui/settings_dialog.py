"""The settings: how the window looks, where things lie, how many points a set keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts
from vdbackup.gui.catalogue import Entry
from vdbackup.repository.model import BootTests
from vdbackup.settings import Locations, Settings, ThemeChoice

THEMES = {
    ThemeChoice.AUTO: "As the desktop",
    ThemeChoice.LIGHT: "Light",
    ThemeChoice.DARK: "Dark",
}

NAMES_WIDTH = 130  # pixels


class SettingsDialog(parts.Dialog):
    """Shows settings; `chosen()` and `kept()` say what the user made of them.

    Attributes:
        theme, sessions, memory, headless, ask, remind, animations: the fields.
        keep: for each source that has been backed up, how many points to keep (0 keeps all).
        boot_test: for each such source, whether new points are boot-tested.
    """

    def __init__(
        self,
        settings: Settings,
        locations: Locations,
        entries: list[Entry],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("settingsDialog", "Settings", 540, parent)
        self._settings = settings
        self._locations = locations
        self.keep: list[tuple[Entry, QSpinBox]] = []
        self.boot_test: list[tuple[Entry, QCheckBox]] = []
        column = self.column
        column.setSpacing(8)
        self._add_window(column)
        self._add_backups(column, [entry for entry in entries if entry.backup_set])
        self._add_machines(column)
        self._add_locations(column)
        save = parts.button("Save", "settingsSave", "primary")
        save.setDefault(True)
        save.clicked.connect(self.accept)
        self.add_buttons(save)

    def chosen(self) -> Settings:
        """The settings as the user wants them."""
        folder = self.sessions.text().strip()
        path = Path(folder).expanduser() if folder else None
        usual = self._locations.data / "sessions"
        return replace(
            self._settings,
            theme=ThemeChoice(self.theme.currentData()),
            sessions_folder=None if path == usual else path,
            memory_mib=self.memory.value(),
            headless=self.headless.isChecked(),
            ask_before_backup=self.ask.isChecked(),
            remind_after_days=self.remind.value(),
            animations=self.animations.isChecked(),
        )

    def kept(self) -> list[tuple[Entry, int | None]]:
        """For each source how many points it shall keep, None for all."""
        return [(entry, spin.value() or None) for entry, spin in self.keep]

    def tested(self) -> list[tuple[Entry, BootTests]]:
        """For each source which of its new points shall be boot-tested."""
        choices = {True: BootTests.EACH, False: BootTests.OFF}
        return [(entry, choices[box.isChecked()]) for entry, box in self.boot_test]

    def _add_window(self, column: QVBoxLayout) -> None:
        form = _section(column, "Window")
        self.theme = QComboBox()
        self.theme.setObjectName("themeChoice")
        for choice, name in THEMES.items():
            self.theme.addItem(name, choice.value)
        self.theme.setCurrentIndex(list(THEMES).index(self._settings.theme))
        form.addRow(_name("Colours"), self.theme)
        self.animations = QCheckBox("Show how points are merged")
        self.animations.setChecked(self._settings.animations)
        form.addRow(_name(""), self.animations)

    def _add_backups(self, column: QVBoxLayout, entries: list[Entry]) -> None:
        form = _section(column, "Backups")
        self.ask = QCheckBox("Show what will be done before each backup")
        self.ask.setChecked(self._settings.ask_before_backup)
        form.addRow(_name(""), self.ask)
        self.remind = _spin(1, 365, self._settings.remind_after_days, " days without a backup")
        form.addRow(_name("Remind after"), self.remind)
        for entry in entries:
            policy = entry.backup_set.settings.policy if entry.backup_set else None
            spin = _spin(0, 100_000, (policy and policy.keep) or 0, " newest points")
            spin.setSpecialValueText("all points")
            spin.setToolTip("Older points are merged or deleted after each backup.")
            spin.setAccessibleName(f"Points to keep of {entry.name}")
            form.addRow(_name(f"{entry.name} keeps"), spin)
            self.keep.append((entry, spin))
            box = QCheckBox("Boot-test each new point")
            box.setChecked(policy is not None and policy.boot_test is BootTests.EACH)
            box.setToolTip("It is started unseen after its backup; you see whether it comes up.")
            box.setAccessibleName(f"Boot-test each new point of {entry.name}")
            form.addRow(_name(""), box)
            self.boot_test.append((entry, box))

    def _add_machines(self, column: QVBoxLayout) -> None:
        form = _section(column, "Virtual machines")
        self.memory = _spin(0, 1 << 20, self._settings.memory_mib, " MiB")
        self.memory.setSpecialValueText("what the system needs")
        self.memory.setSingleStep(256)
        form.addRow(_name("Memory"), self.memory)
        self.headless = QCheckBox("Run without a display")
        self.headless.setChecked(self._settings.headless)
        form.addRow(_name(""), self.headless)

    def _add_locations(self, column: QVBoxLayout) -> None:
        form = _section(column, "Locations")
        self.sessions = QLineEdit(str(self._settings.sessions(self._locations)))
        self.sessions.setAccessibleName("Folder that virtual machines write to")
        choose = parts.button("Choose…", "chooseSessionsButton")
        choose.clicked.connect(
            lambda: parts.choose_folder(self, "Where virtual machines write", self.sessions)
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.sessions, 1)
        row.addWidget(choose)
        form.addRow(_name("VMs write to"), row)
        form.addRow(_name("Settings"), _path(self._locations.settings_file))
        form.addRow(_name("Log"), _path(self._locations.log_file))


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


def _spin(least: int, most: int, value: int, suffix: str) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(least, most)
    spin.setSuffix(suffix)
    spin.setValue(value)
    spin.setMaximumWidth(230)
    spin.setMinimumWidth(200)
    return spin


def _path(path: Path) -> QWidget:
    return parts.label(str(path), "muted", selectable=True)
