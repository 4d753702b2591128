"""A window with settings of its own, a small disk, and somebody who uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PySide6.QtDBus import QDBusConnection
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from tests.agent.mounts import image
from tests.agent.trackers import own_trackers
from tests.gui.user import LONG, User
from tests.sources.loops import loop, mounted
from vdbackup.gui import buses, plugging
from vdbackup.gui.garbage import Collector
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.store import Store
from vdbackup.locations import Locations
from vdbackup.settings import Settings, ThemeChoice
from vdbackup.sources import demo_disk


@pytest.fixture(autouse=True)
def no_buses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's desktop is told what becomes of a test, nor kept awake."""
    nowhere = QDBusConnection("no bus")
    monkeypatch.setattr(buses, "session", lambda: nowhere)
    monkeypatch.setattr(buses, "system", lambda: nowhere)


@pytest.fixture(autouse=True)
def no_plugging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing follows what other tests attach and mount meanwhile."""
    monkeypatch.setattr(plugging, "listening", lambda: None)
    monkeypatch.setattr(plugging, "mounts", lambda: None)


@pytest.fixture(autouse=True)
def collector(qapp: QApplication) -> Iterator[Collector]:
    """Garbage of windows goes in the thread that they are in, as it does in the program."""
    collector = Collector()
    yield collector
    collector.end()


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    """Folders that no other test knows."""
    return Locations(*(tmp_path / name for name in ("config", "data", "logs", "cache")))


@pytest.fixture
def store(locations: Locations) -> Store:
    """Settings for machines without a display, and a screen that nobody looks at."""
    settings = Settings(theme=ThemeChoice.LIGHT, headless=True, animations=False, memory_mib=128)
    return Store(settings, locations)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A small disk that boots and says a sentence."""
    image = tmp_path / "laptop.img"
    demo_disk.create(image, "the first state")
    return image


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder for backups, not there yet."""
    return tmp_path / "backups"


@pytest.fixture
def window(store: Store, qtbot: QtBot) -> Iterator[MainWindow]:
    """The main window, shown; closed with all its threads afterwards."""
    window = MainWindow(store)  # not for `qtbot.addWidget`, which deletes it while a job runs
    window.show()
    qtbot.waitExposed(window)
    yield window
    window.workers.cancel_all()
    window.sessions.kill_all()
    qtbot.waitUntil(lambda: not window.busy, timeout=LONG)
    window.close()
    with qtbot.waitSignal(window.destroyed, timeout=LONG):
        window.deleteLater()


@pytest.fixture
def user(window: MainWindow, qtbot: QtBot) -> User:
    """Somebody in front of the window."""
    return User(window, qtbot)


@pytest.fixture
def with_source(user: User, disk: Path, repository: Path) -> User:
    """The same, who has added the disk and backed it up once."""
    user.window.first_run.form.source_edit.setText(str(disk))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    return user


@pytest.fixture
def mounted_device(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A device with a mounted ext4, whose changes can be tracked, by trackers of the test's own."""
    with ExitStack() as stack:
        stack.enter_context(own_trackers(tmp_path / "bpf", longest=256 << 20))
        device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
        stack.enter_context(mounted(device, tmp_path / "mount"))
        yield device


@pytest.fixture
def owner(user: User, mounted_device: Path, repository: Path) -> User:
    """Somebody who has backed that device up."""
    form = user.window.first_run.form
    form.source_edit.setText(str(mounted_device))
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    return user
