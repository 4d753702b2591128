"""What is remembered, where, and the dialog that changes it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QPalette, QWheelEvent
from PySide6.QtWidgets import QApplication, QComboBox, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from tests.gui.user import User
from vdbackup.errors import VdbackupError
from vdbackup.gui import app, drawings, parts, theme
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.settings_dialog import USUAL_KEEP, KeepField, SettingsDialog
from vdbackup.gui.sources_list import SourcesList
from vdbackup.gui.store import Store
from vdbackup.jobs import Task
from vdbackup.locations import Locations
from vdbackup.recovery.history.find import Pattern, find
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import SetSettings, SourceIdentity
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource, Settings, ThemeChoice
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef

SET = SetSettings(SourceIdentity("id", "disk", "/dev/sda"), 1 << 30, 512, "vmdk")
FULL = Settings(
    repositories=(Path("/mnt/usb"), Path("/srv/backups")),
    sources=(
        KnownSource(SourceRef.parse("/dev/sda"), Path("/mnt/usb"), "laptop-sda"),
        KnownSource(SourceRef.parse("/srv/vm.img"), Path("/srv/backups")),
        KnownSource(SourceRef.parse("/srv/d\udcefsk: 1.img"), Path("/srv/backups")),
        KnownSource(SourceRef.parse("lvm:of/a-newer-version"), Path("/srv/backups")),
    ),
    theme=ThemeChoice.DARK,
    sessions_folder=Path("/var/tmp/sessions"),
    memory_mib=2048,
    headless=True,
    ask_before_backup=False,
    all_blocks=True,
    limit_mib=30,
    rests_on_battery=True,
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"theme": "pink"}',
        '{"sources": [{}]}',
        "\xff\xfe",
        '{"memory_mib": Infinity}',
        '{"headless": "no"}',
        '{"remind_after_days": -1}',
        '{"repositories": "/mnt/usb"}',
        '{"sessions_folder": "a\\u0000b"}',
        "[" * 100_000,
        '{"memory_mib": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:20],
)
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
    settings, source = Settings(), SourceRef.parse("/dev/sda")
    for name in (None, "laptop"):
        settings = settings.with_source(KnownSource(source, Path("/mnt"), name))
    assert settings.sources == (KnownSource(source, Path("/mnt"), "laptop"),)
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
    dark = QColor(theme.DARK.window)
    user.waits_until(lambda: QApplication.palette().color(QPalette.ColorRole.Window) == dark)
    assert Settings.load(user.window.store.locations.settings_file).theme is ThemeChoice.DARK


def has_colour(wanted: QColor) -> bool:
    """Whether windows have that colour now."""
    return QApplication.palette().color(QPalette.ColorRole.Window) == wanted


def test_only_another_theme_styles_the_window_anew(window: MainWindow, user: User) -> None:
    """Every widget is polished then, which takes longer than to build the window."""
    styled = 0

    class Watch(QObject):
        def eventFilter(self, _: QObject, event: QEvent) -> bool:  # noqa: N802
            nonlocal styled
            styled += event.type() is QEvent.Type.StyleChange
            return False

    watch = Watch(window)
    window.installEventFilter(watch)
    window.store.change(remind_after_days=99)
    assert styled == 0
    for choice, colours in ((ThemeChoice.DARK, theme.DARK), (ThemeChoice.LIGHT, theme.LIGHT)):
        window.store.change(theme=choice)
        wanted = QColor(colours.window)
        user.waits_until(partial(has_colour, wanted))
        assert styled > 0
        styled = 0


def test_a_dialog_that_is_left_changes_nothing(user: User) -> None:
    before = user.window.store.value
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    dialog.memory.setValue(4096)
    dialog.reject()
    assert user.window.store.value == before


def wants_to_keep(user: User, count: int) -> None:
    """Say in the settings how many points are to be kept, and save."""
    user.asks_for("actionSettings")
    ((entry, field),) = user.sees(SettingsDialog, "settingsDialog").keep
    assert entry.name == "laptop"
    field.choice.setCurrentIndex(1)
    field.number.setValue(count)
    user.agrees("settingsDialog", "settingsSave")


def test_a_policy_is_confirmed_with_what_goes_and_acts_after_the_next_backup(
    with_source: User, disk: Path, repository: Path
) -> None:
    for count in (2, 3):
        demo_disk.change(disk, f"state {count}", {})
        with_source.backs_up(count)
    wants_to_keep(with_source, 2)
    plan = with_source.sees(PlanDialog, "planDialog")
    assert [name.partition(",")[0] for name in plan.plan.invalidates] == ["#1", "#2"]
    assert plan.cancel_button.isDefault()
    with_source.agrees()
    assert "from its next backup on" in with_source.sees_job_end("Policy of laptop").sentence
    assert len(Repository.open(repository).set().points) == 3
    assert Repository.open(repository).set().settings.policy.keep == 2
    demo_disk.change(disk, "state 4", {})
    with_source.backs_up(2)
    timeline = with_source.window.panel.timeline
    assert [point.sequence for point in timeline.points] == [3, 4]
    assert timeline.selected == timeline.points[-1].id


def test_a_policy_that_is_not_confirmed_is_none(with_source: User, repository: Path) -> None:
    wants_to_keep(with_source, 1)
    with_source.sees(PlanDialog, "planDialog").reject()
    assert Repository.open(repository).set().settings.policy.keep is None


def test_all_points_is_not_the_number_beside_one(qtbot: QtBot) -> None:
    field = KeepField(None, "laptop")
    qtbot.addWidget(field)
    assert field.value is None
    field.choice.setCurrentIndex(1)
    assert field.value == USUAL_KEEP
    field.number.setValue(1)
    field.number.stepDown()
    assert field.value == 1


def test_a_wheel_changes_no_field_that_was_not_clicked(user: User) -> None:
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    dialog.theme.setFocus()
    fields = [dialog.remind, dialog.memory]
    for field in fields:
        before = field.value()
        turn_wheel(field)
        assert field.value() == before
        assert not field.hasFocus()
    dialog.memory.setFocus()
    turn_wheel(dialog.theme)
    assert dialog.theme.currentIndex() == list(ThemeChoice).index(user.window.store.value.theme)
    dialog.reject()


def turn_wheel(widget: QWidget) -> None:
    """One notch down over a widget."""
    at = QPointF(widget.rect().center())
    event = QWheelEvent(
        at,
        QPointF(widget.mapToGlobal(at)),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


def test_every_field_of_the_window_is_one_that_a_wheel_passes_over() -> None:
    changed_by_wheel = {"QComboBox", "QSpinBox", "QDoubleSpinBox", "QSlider", "QDial"}
    changed_by_wheel |= {"QDateEdit", "QTimeEdit", "QDateTimeEdit"}
    folder = Path(parts.__file__).parent
    for module in sorted(folder.rglob("*.py")):
        made = {
            ast.unparse(node.func).rpartition(".")[2]
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        assert not made & changed_by_wheel, module


def test_the_settings_scroll_where_the_screen_is_low(user: User, tmp_path: Path) -> None:
    many = [
        Entry(SourceRef.parse(f"/dev/sd{i}"), tmp_path, BackupSet(f"sd{i}", tmp_path, SET, ()))
        for i in range(40)
    ]
    store = user.window.store
    dialog = SettingsDialog(
        store.value, store.locations, many, user.window.workers.reader(None), user.window
    )
    dialog.open()
    screen = dialog.screen().availableGeometry()
    assert screen.height() * 0.8 < dialog.height() <= screen.height()
    save = user.sees(QPushButton, "settingsSave")
    assert dialog.rect().contains(save.mapTo(dialog, save.rect().bottomRight()))
    dialog.reject()


def test_enter_saves_the_settings_wherever_the_focus_is(user: User, qtbot: QtBot) -> None:
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    dialog.sessions.setFocus()
    dialog.sessions.setText("/somewhere/else")
    qtbot.keyClick(dialog.sessions, Qt.Key.Key_Return)
    user.waits_until(lambda: not dialog.isVisible())
    assert user.window.store.value.sessions_folder == Path("/somewhere/else")


def test_names_of_files_are_noted_after_each_backup_of_a_source_that_wants_it(
    with_source: User, repository: Path, locations: Locations
) -> None:
    user = with_source
    user.asks_for("actionSettings")
    ((_, box),) = user.sees(SettingsDialog, "settingsDialog").index
    box.setChecked(True)
    user.clicks("settingsSave")
    user.sees_job_end("Policy of laptop")
    user.backs_up(2)
    user.sees_job_end("Names of files in laptop")
    opened = Repository.open(repository)
    file = locations.names_file(opened.id, "laptop")
    found = find(opened, "laptop", Pattern("README.TXT"), file, Task())
    assert found.read == 0
    assert [point.sequence for each in found.found for point in each.points] == [1, 2]


# two windows


def test_what_another_window_has_saved_stays(locations: Locations) -> None:
    mine, other = Store(Settings(), locations), Store(Settings(), locations)
    mine.update(lambda settings: settings.with_source(FULL.sources[0]))
    other.change(memory_mib=512)
    saved = Settings.load(locations.settings_file)
    assert saved.sources == FULL.sources[:1]
    assert saved.memory_mib == 512
    mine.reload()
    assert mine.value == saved == other.value


def test_settings_that_cannot_be_saved_hold_for_this_run(locations: Locations) -> None:
    store, failed = Store(Settings(), locations), []
    store.failed.connect(failed.append)
    locations.config.write_text("a file where the folder should be")
    store.change(memory_mib=512)
    assert store.value.memory_mib == 512
    assert isinstance(failed[0], VdbackupError)


def test_many_who_write_at_once_lose_nothing(locations: Locations) -> None:
    Settings().save(locations.settings_file)

    def add(number: int) -> None:
        source = KnownSource(SourceRef.parse(f"/dev/sd{number}"), Path("/mnt"))
        Settings.update(locations.settings_file, lambda s: s.with_source(source), Settings())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(Settings.load(locations.settings_file).sources) == 40


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_texts_can_be_read_on_what_is_behind_them(colours: theme.Theme) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 for text."""
    texts = (colours.text, colours.muted, colours.good, colours.bad, colours.warning)
    for behind in (colours.window, colours.base):
        for text in texts:
            assert contrast(text, behind) >= 4.5, (text, behind)
    assert contrast(colours.on_accent, colours.accent) >= 4.5
    assert contrast(colours.base, colours.bad) >= 4.5  # a dangerous button


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_types_can_be_read_in_the_table_and_states_of_a_chosen_source(
    colours: theme.Theme,
) -> None:
    for kind in PointType:
        for behind in (colours.base, colours.window):  # of every other row
            assert contrast(colours.of_type(kind), behind) >= 4.5, (kind, behind)
    chosen = blended(colours.accent, colours.window, SourcesList.MARKED)
    for text in (colours.text, colours.muted, colours.bad, colours.warning):
        assert contrast(text, chosen) >= 4.5, text


def blended(above: str, below: str, part: float) -> str:
    """What is seen of a colour through another one."""
    over, under = QColor(above).getRgb()[:3], QColor(below).getRgb()[:3]
    mixed = (round(a * part + b * (1 - part)) for a, b in zip(over, under, strict=True))
    return QColor(*mixed).name()


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
        timeout=200,
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
        timeout=200,
        check=False,
    )
    assert result.returncode == 1
    assert "no display" in result.stderr


def test_without_its_drawings_the_window_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(drawings, "FOLDERS", (tmp_path,))
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert app.main([]) == 1
    assert f"no vdbackup.svg in {tmp_path}" in capsys.readouterr().err


def test_drawings_are_found_in_the_installed_package(tmp_path: Path) -> None:
    package = Path(drawings.__file__).parents[1]
    for module in ("__init__.py", "translation.py", "gui/__init__.py", "gui/drawings.py"):
        (tmp_path / "vdbackup" / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / module, tmp_path / "vdbackup" / module)
    expected = tmp_path / "vdbackup" / "resources" / "check.svg"
    expected.parent.mkdir()
    expected.touch()
    program = "from vdbackup.gui.drawings import drawing; print(drawing('check'))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(expected)


def test_settings_that_fit_are_seen_without_scrolling(user: User) -> None:
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    area = dialog.findChild(parts.Scrolled)
    assert area.verticalScrollBar().maximum() == 0
    dialog.reject()


def test_what_makes_no_sense_is_said_and_not_saved(user: User) -> None:
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    dialog.told.mail_to.setText("me")
    user.clicks("settingsSave")
    assert dialog.isVisible()
    assert dialog.told.said.text.startswith("'me' is no address for mail.")
    dialog.told.mail_to.setText("me@example.org")
    user.clicks("settingsSave")
    assert user.window.store.value.mail_to == "me@example.org"


def test_a_test_tells_the_user_by_what_is_typed(user: User, tmp_path: Path, qtbot: QtBot) -> None:
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    told = tmp_path / "told"
    dialog.told.command.setText(f"/bin/sh -c 'printf %s \"$1\" > {told}' alarm")
    user.clicks("testTelling")
    qtbot.waitUntil(lambda: "By the command: told." in dialog.told.said.text)
    assert told.read_text() == "Test message"
    assert "On the desktop: " in dialog.told.said.text
    dialog.reject()
    assert user.window.store.value.trouble_command == ""


def test_what_a_command_has_set_meanwhile_is_shown_and_stays(user: User) -> None:
    file = user.window.store.locations.settings_file
    Settings.update(file, lambda now: replace(now, mail_to="me@example.org"), Settings())
    user.asks_for("actionSettings")
    dialog = user.sees(SettingsDialog, "settingsDialog")
    assert dialog.told.mail_to.text() == "me@example.org"
    dialog.told.mail_to.clear()
    user.clicks("settingsSave")
    assert Settings.load(file).mail_to == ""
