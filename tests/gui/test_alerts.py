"""Failures reach people who look elsewhere, on a message bus of the test's own; jobs stay awake."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PySide6.QtCore import QThreadPool
from PySide6.QtDBus import (
    QDBusConnection,
    QDBusMessage,
    QDBusUnixFileDescriptor,
    QDBusVirtualObject,
)
from pytestqt.qtbot import QtBot

from tests import notified
from tests.gui.test_actions import MADE, UNREADABLE
from tests.gui.user import User
from vdbackup.errors import VdbackupError
from vdbackup.gui import awake, buses, desktop
from vdbackup.gui.alerts import Alerts
from vdbackup.gui.awake import Awake
from vdbackup.jobs import Job, Task
from vdbackup.operations.health import Concern, Finding, SetHealth


@dataclass
class Notes:
    """What was told, and whether somebody looks at the window."""

    looked_at: bool = False
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def alerts(self) -> Alerts:
        return Alerts(lambda *told: self.told.append(told), lambda: self.looked_at)


def failed(title: str) -> Job[object]:
    def fail(_task: Task) -> object:
        raise VdbackupError("The disk is full.", "Make room.")

    job = Job[object](title, fail)
    job.run(lambda _progress: None)
    return job


def finished(title: str) -> Job[object]:
    job = Job[object](title, lambda _task: None)
    job.run(lambda _progress: None)
    return job


def with_findings(*about: Concern) -> list[object]:
    findings = tuple(Finding(each, f"It is {each}.") for each in about)
    return [replace(MADE, health=SetHealth("disk", findings=findings))]


def test_a_failed_job_is_told_once_and_once_that_it_is_over() -> None:
    notes = Notes()
    alerts = notes.alerts()
    for job in (failed("Back up a"), failed("Back up a"), finished("Back up b")):
        alerts.job_ended(job)
    assert [told[1:] for told in notes.told] == [
        ("Failed: Back up a", "The disk is full. Make room.")
    ]
    alerts.job_ended(finished("Back up a"))
    alerts.job_ended(finished("Back up a"))
    first, over = notes.told
    assert over == (first[0], "Failed: Back up a", "This is over.")


def test_who_looks_at_the_window_is_not_told() -> None:
    notes = Notes(looked_at=True)
    alerts = notes.alerts()
    alerts.job_ended(failed("Back up a"))
    notes.looked_at = False
    alerts.job_ended(finished("Back up a"))  # nor that it is over: nothing was told
    assert notes.told == []


def test_what_a_schedule_could_not_do_is_told_once_until_it_is_over() -> None:
    notes = Notes()
    alerts = notes.alerts()
    alerts.look(with_findings(Concern.UNPROVEN))  # needs nobody
    assert notes.told == []
    for _ in range(2):
        alerts.look(with_findings(Concern.FAILED, Concern.LATE))
    assert [told[2] for told in notes.told] == ["It is failed.", "It is late."]
    alerts.look([UNREADABLE])  # its drive is away: nobody knows
    assert len(notes.told) == 2
    alerts.look(with_findings(Concern.LATE))
    assert notes.told[2][2] == "This is over."
    assert notes.told[2][0] == notes.told[0][0]


class Desktop(QDBusVirtualObject):
    """Answers as a desktop's portal and as logind, and notes what it was asked.

    Attributes:
        asked: method, signature, arguments.
        held: the other ends of the files that it gave away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, list[object]]] = []
        self.held: list[int] = []

    def introspect(self, _path: str) -> str:
        return ""

    def handleMessage(  # noqa: N802 (Qt's name)
        self, message: QDBusMessage, connection: QDBusConnection
    ) -> bool:
        self.asked.append((message.member(), message.signature(), message.arguments()))
        answer: list[object] = []
        if message.member() == "Inhibit":
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            self.held.append(reading)
            answer = [QDBusUnixFileDescriptor(writing)]
            os.close(writing)
        return connection.send(message.createReply(answer))

    def still_held(self) -> bool:
        """Whether somebody has the file open that was given away last."""
        try:
            return os.read(self.held[-1], 1) != b""
        except BlockingIOError:
            return True


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A bus with a desktop and a logind on it that note what they are asked."""
    daemon = shutil.which("dbus-daemon")
    assert daemon, "install dbus-daemon"
    address = f"unix:path={tmp_path}/bus"
    command = [daemon, "--session", "--nofork", "--nopidfile", "--print-address", "--address"]
    with subprocess.Popen(
        [*command, address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout
        where = running.stdout.readline().strip()
        there, here = (QDBusConnection.connectToBus(where, name) for name in ("there", "here"))
        fake = Desktop()
        for service in (desktop.NOTIFICATIONS, desktop.FILE_MANAGER, awake.LOGIND):
            assert there.registerService(service.service)
        whole = QDBusConnection.VirtualObjectRegisterOption.SubPath
        assert there.registerVirtualObject("/", fake, whole)
        monkeypatch.setattr(buses, "session", lambda: here)
        monkeypatch.setattr(buses, "system", lambda: here)
        yield fake
        for file in fake.held:
            os.close(file)
        for name in ("here", "there"):
            QDBusConnection.disconnectFromBus(name)
        running.terminate()


def test_the_portal_gets_what_it_takes(bus: Desktop, qtbot: QtBot) -> None:
    desktop.notify("name", "Failed: Back up a", "The disk is full.")
    qtbot.waitUntil(lambda: bool(bus.asked))
    method, signature, arguments = bus.asked[0]
    assert (method, signature, arguments[0]) == ("AddNotification", "sa{sv}", "name")


def test_without_a_portal_the_desktop_is_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    with notified.desktop(tmp_path) as (address, shown):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        monkeypatch.setattr(
            buses, "session", lambda: QDBusConnection.connectToBus(address, "no portal")
        )
        desktop.notify("name", "Failed: Back up a", "The disk is full.")
        qtbot.waitUntil(lambda: len(shown.told) == 1)
        QThreadPool.globalInstance().waitForDone()
        desktop.notify("name", "Failed: Back up a", "This is over.")
        qtbot.waitUntil(lambda: len(shown.told) == 2)
        QThreadPool.globalInstance().waitForDone()
        QDBusConnection.disconnectFromBus("no portal")
    assert shown.told == [
        (0, "Failed: Back up a", "The disk is full."),
        (1, "Failed: Back up a", "This is over."),
    ]


def test_a_file_is_chosen_in_the_file_manager(bus: Desktop, qtbot: QtBot) -> None:
    desktop.show_file(Path("/backups/a disk.vmdk"))
    qtbot.waitUntil(lambda: bool(bus.asked))
    assert bus.asked == [("ShowItems", "ass", [["file:///backups/a disk.vmdk"], ""])]


def test_the_computer_stays_awake_for_as_long_as_it_is_wanted(bus: Desktop, qtbot: QtBot) -> None:
    held = Awake()
    held.stay(True)
    held.stay(True)
    qtbot.waitUntil(lambda: held.holds)
    assert bus.asked == [("Inhibit", "ssss", ["sleep:shutdown", "vdbackup", awake.WHY, "block"])]
    qtbot.wait(50)
    assert bus.still_held()
    held.stay(False)
    qtbot.waitUntil(lambda: not bus.still_held())


def test_what_is_not_wanted_any_more_when_it_comes_is_let_go(bus: Desktop, qtbot: QtBot) -> None:
    held = Awake()
    held.stay(True)
    held.stay(False)
    qtbot.waitUntil(lambda: bool(bus.held))
    qtbot.waitUntil(lambda: not bus.still_held())
    assert not held.holds


def test_where_there_is_no_bus_nothing_is_told() -> None:
    desktop.notify("name", "title", "text")
    held = Awake()
    held.stay(True)
    assert not held.holds


def test_a_failed_backup_of_the_window_is_told_and_its_jobs_keep_it_awake(
    with_source: User, disk: Path, bus: Desktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_source.window.alerts, "_looked_at", lambda: False)
    entry = with_source.window.entry
    assert entry is not None
    disk.rename(disk.with_suffix(".away"))
    with_source.window.backups.back_up(entry, ask=False)
    with_source.waits_until(lambda: "AddNotification" in [each[0] for each in bus.asked])
    disk.with_suffix(".away").rename(disk)
    with_source.window.backups.back_up(entry, ask=False)
    with_source.sees_points(2)

    def told() -> list[object]:
        return [each[2][0] for each in bus.asked if each[0] == "AddNotification"]

    with_source.waits_until(lambda: len(told()) == 2)
    assert len(set(told())) == 1  # the second takes the place of the first
    assert "Inhibit" in [each[0] for each in bus.asked]
    with_source.waits_until(lambda: not with_source.window.awake.holds)
    with_source.waits_until(lambda: not bus.still_held())
