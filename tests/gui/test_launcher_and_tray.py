"""How far jobs are is seen at the program's icon; the tray keeps it without its window."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.gui.test_actions import MADE
from tests.gui.test_alerts import Desktop, bus  # noqa: F401 - a fixture
from tests.gui.user import User
from vdbackup.gui import launcher, theme
from vdbackup.gui.launcher import Launcher
from vdbackup.gui.tray import Tray
from vdbackup.jobs import Job, Progress
from vdbackup.operations.health import Concern, Finding, SetHealth


@pytest.fixture
def dock(bus: Desktop, tmp_path: Path) -> Iterator[Path]:  # noqa: F811 - what it listens on
    """A file with what a program hears that listens on the bus as a dock does."""
    monitor = shutil.which("dbus-monitor")
    assert monitor, "install dbus-bin"
    heard = tmp_path / "heard"
    command = [monitor, "--address", f"unix:path={tmp_path}/bus"]
    with (
        heard.open("w") as file,
        subprocess.Popen(
            [*command, f"interface={launcher.INTERFACE}"], stdout=file, env={"LC_ALL": "C"}
        ) as listening,
    ):
        yield heard
        listening.terminate()


def test_a_dock_hears_how_far_the_jobs_are(
    dock: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "INTERVAL", 0.0)
    qtbot.waitUntil(lambda: "NameAcquired" in dock.read_text() or "NameLost" in dock.read_text())
    shown, jobs = Launcher(), [Job("one", lambda _task: None), Job("two", lambda _task: None)]
    for job in jobs:
        shown.begin(job)
    shown.follow(jobs[0], Progress("Copy", 1 << 40, 1 << 41))
    for job in jobs:
        shown.end(job)
    qtbot.waitUntil(lambda: "boolean false" in dock.read_text())
    heard = dock.read_text()
    assert heard.count("member=Update") == heard.count('"application://vdbackup.desktop"') == 5
    assert re.findall(r"double ([0-9.]+)", heard) == ["0", "0", "0.25", "0", "0"]


def test_without_a_bus_nobody_is_told() -> None:
    shown, job = Launcher(), Job("one", lambda _task: None)
    shown.begin(job)
    shown.end(job)
    assert shown._shares == {}


def test_the_tray_keeps_the_program_and_quit_ends_it(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = user.window
    monkeypatch.setattr(window.tray, "_available", lambda: True)
    window.close()
    assert not window.isVisible()
    assert window.tray.keeps is False  # nobody has asked for it
    window.show()
    window.store.change(tray=True)
    assert window.tray.keeps
    window.close()
    assert not window.isVisible()
    open_, quit_ = window.tray.menu.actions()
    open_.trigger()
    user.waits_until(window.isVisible)
    quit_.trigger()
    user.waits_until(lambda: not window.isVisible())


def test_the_tray_bears_a_mark_while_something_needs_somebody(qtbot: QtBot, user: User) -> None:
    tray = Tray(user.window, lambda: True)
    tray.want(True, theme.LIGHT)
    quiet = tray._icon.icon().pixmap(64).toImage()
    late = SetHealth("disk", findings=(Finding(Concern.LATE, "It is late."),))
    tray.look([replace(MADE, health=late)])
    assert tray.needs_somebody
    assert tray.hint.splitlines()[0] == "vdbackup: 1 source needs somebody"
    assert tray._icon.icon().pixmap(64).toImage() != quiet
    tray.look([replace(MADE, health=SetHealth("disk"))])
    assert not tray.needs_somebody
    assert tray._icon.icon().pixmap(64).toImage() == quiet
