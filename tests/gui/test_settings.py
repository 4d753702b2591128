"""What is remembered, where, and the dialog that changes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QComboBox

from tests.gui.user import User
from vdbackup.errors import VdbackupError
from vdbackup.gui import app, theme
from vdbackup.gui.settings_dialog import SettingsDialog
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource, Locations, Settings, ThemeChoice
from vdbackup.sources import demo_disk

FULL = Settings(
    repositories=(Path("/mnt/usb"), Path("/srv/backups")),
    sources=(
        KnownSource(Path("/dev/sda"), Path("/mnt/usb"), "laptop-sda"),
        KnownSource(Path("/srv/vm.img"), Path("/srv/backups")),
    ),
    theme=ThemeChoice.DARK,
    sessions_folder=Path("/var/tmp/sessions"),
    memory_mib=2048,
    headless=True,
    ask_before_backup=False,
    remind_after_days=3,
    animations=False,
)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    FULL.save(tmp_path / "new" / "settings.json")
    assert Settings.load(tmp_path / "new" / "settings.json") == FULL


def test_without_a_file_there_are_defaults_and_no_folder_is_made(locations: Locations) -> None:
    assert Settings.load(locations.settings_file) == Settings()
    assert not locations.config.exists()


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    FULL.save(file)
    before = file.stat().st_ino
    Settings().save(file)
    assert file.stat().st_ino != before  # another file took its name
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"theme": "pink"}', '{"sources": [{}]}', "\xff\xfe"])
def test_a_file_that_makes_no_sense_is_an_error_with_advice(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(VdbackupError, match="cannot be read") as caught:
        Settings.load(file)
    assert caught.value.advice


def test_the_window_puts_an_unreadable_file_aside_and_begins_anew(locations: Locations) -> None:
    locations.config.mkdir()
    locations.settings_file.write_text("{")
    settings, error = app.load(locations)
    assert settings == Settings()
    assert error is not None
    assert [path.read_text() for path in locations.config.iterdir()] == ["{"]
    settings.save(locations.settings_file)


def test_fields_of_a_newer_version_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**FULL.to_json(), "shiny": True}))
    assert Settings.load(file) == FULL


def test_every_location_can_be_redirected(tmp_path: Path) -> None:
    variables = {f"VDBACKUP_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "LOG")}
    locations = Locations.from_environment(variables)
    assert locations.settings_file == tmp_path / "CONFIG" / "settings.json"
    assert Settings().sessions(locations) == tmp_path / "DATA" / "sessions"
    assert locations.log_file == tmp_path / "LOG" / "vdbackup.log"


def test_the_environment_can_keep_machines_from_opening_a_window() -> None:
    assert Settings().display({})
    assert not Settings().display({"VDBACKUP_HEADLESS": "1"})
    assert not Settings(headless=True).display({})


def test_a_source_is_known_once_per_repository() -> None:
    settings = Settings()
    for name in (None, "laptop"):
        settings = settings.with_source(KnownSource(Path("/dev/sda"), Path("/mnt"), name))
    assert settings.sources == (KnownSource(Path("/dev/sda"), Path("/mnt"), "laptop"),)
    assert settings.without_repository(Path("/mnt")) == Settings()


def test_importing_makes_no_folder(private_home: Path) -> None:
    before = sorted(private_home.rglob("*"))
    subprocess.run([sys.executable, "-c", "import vdbackup.settings"], check=True)
    assert sorted(private_home.rglob("*")) == before


# in the window


def test_the_dialog_changes_the_colours_at_once(user: User) -> None:
    user.asks_for("actionSettings")
    choice = user.sees(SettingsDialog, "settingsDialog").findChild(QComboBox, "themeChoice")
    choice.setCurrentIndex(2)
    user.agrees("settingsDialog", "settingsSave")
    assert user.window.store.value.theme is ThemeChoice.DARK
    assert QApplication.palette().color(QPalette.ColorRole.Window) == QColor(theme.DARK.window)
    assert Settings.load(user.window.store.locations.settings_file).theme is ThemeChoice.DARK


def test_a_dialog_that_is_left_changes_nothing(user: User) -> None:
    before = user.window.store.value
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    dialog.memory.setValue(4096)
    dialog.reject()
    assert user.window.store.value == before


def test_keeping_the_newest_points_merges_the_older_ones(
    with_source: User, disk: Path, repository: Path
) -> None:
    for count in (2, 3, 4):
        demo_disk.change(disk, f"state {count}", {})
        with_source.backs_up(count)
    with_source.asks_for("actionSettings")
    ((entry, spin),) = with_source.sees(SettingsDialog, "settingsDialog").keep
    assert entry.name == "laptop"
    spin.setValue(2)
    with_source.agrees("settingsDialog", "settingsSave")
    with_source.sees_points(2)
    assert Repository.open(repository).set().settings.policy.keep == 2


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_texts_can_be_read_on_what_is_behind_them(colours: theme.Theme) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 for text."""
    texts = (colours.text, colours.muted, colours.good, colours.bad, colours.warning)
    for behind in (colours.window, colours.base):
        for text in texts:
            assert contrast(text, behind) >= 4.5, (text, behind)
    assert contrast(colours.on_accent, colours.accent) >= 4.5


def contrast(one: str, other: str) -> float:
    """The ratio of relative luminances, as WCAG defines it."""
    dark, light = sorted((luminance(QColor(one)), luminance(QColor(other))))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: QColor) -> float:
    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(part) for part in colour.getRgbF()[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# the start

START = """
import os, signal, sys, threading
from vdbackup.gui import app

def interrupt():
    from PySide6.QtWidgets import QApplication
    while not QApplication.instance() or not QApplication.instance().activeWindow():
        threading.Event().wait(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.exit(app.main([]))
"""


def test_the_window_starts_and_ends_with_ctrl_c() -> None:
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    result = subprocess.run(
        [sys.executable, "-c", START],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_without_a_display_it_says_so() -> None:
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    environment = {name: value for name, value in os.environ.items() if name not in screens}
    result = subprocess.run(
        [sys.executable, "-c", "import sys; from vdbackup.gui import app; sys.exit(app.main([]))"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "no display" in result.stderr
