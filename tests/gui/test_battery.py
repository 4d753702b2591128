"""Jobs rest on battery where that is wanted, on a bus of the test's own, and go on with mains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jeepney import DBusAddress
from PySide6.QtDBus import QDBusConnection
from pytestqt.qtbot import QtBot

from tests import notified
from tests.gui.user import User
from tests.notified import Shown
from vdbackup.gui import battery, buses
from vdbackup.gui.awake import Awake
from vdbackup.gui.battery import ON_BATTERY, UPOWER, WHY, Battery, Resting
from vdbackup.gui.jobs.pause_button import RESTS
from vdbackup.jobs import Job, JobState, Paused, Progress, Task

ADDRESS = DBusAddress(UPOWER.path, UPOWER.service, UPOWER.interface)


@pytest.fixture
def upower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """A bus with a UPower on it, by which the computer runs on mains."""
    with notified.desktop(tmp_path, UPOWER.service) as (address, shown):
        shown.answers[ON_BATTERY] = ("b", False)
        bus = QDBusConnection.connectToBus(address, "upower")
        monkeypatch.setattr(buses, "system", lambda: bus)
        yield shown
        QDBusConnection.disconnectFromBus("upower")


def plugs_out(upower: Shown) -> None:
    upower.changes(ADDRESS, ON_BATTERY, "b", True)


def plugs_in(upower: Shown) -> None:
    upower.changes(ADDRESS, ON_BATTERY, "b", False)


def test_it_is_known_at_once_and_followed_what_the_computer_runs_on(
    upower: Shown, qtbot: QtBot
) -> None:
    upower.answers[ON_BATTERY] = ("b", True)
    followed = Battery()
    qtbot.waitUntil(lambda: followed.in_use)
    plugs_in(upower)
    qtbot.waitUntil(lambda: not followed.in_use)
    plugs_out(upower)
    qtbot.waitUntil(lambda: followed.in_use)


def test_without_a_upower_the_computer_runs_on_mains(qtbot: QtBot) -> None:
    assert not Battery().in_use


class Working:
    """Work that moves a byte whenever it may."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.moved = 0

    def __call__(self, task: Task) -> str:
        while not self.ends.wait(0.01):
            task.checkpoint()
            self.moved += 1
            task.report(Progress("Copy", self.moved, 1 << 20))
        return "through"


def test_a_job_rests_on_battery_says_so_and_goes_on_with_mains(
    upower: Shown, user: User, repository: Path
) -> None:
    window, work = user.window, Working()
    window.store.change(rests_on_battery=True)
    job = window.workers.writer(repository).submit(Job("Copy", work))
    user.waits_until(lambda: work.moved)
    plugs_out(upower)
    user.waits_until(lambda: job.state is JobState.PAUSED)
    row = user.reads(WHY)
    assert row.sentence == f"{WHY} {RESTS}"
    assert row._pause.text() == "Resume"
    plugs_in(upower)
    before = work.moved
    user.waits_until(lambda: work.moved > before)
    assert row._pause.text() == "Pause"
    work.ends.set()
    user.sees_job_end("Copy")


def test_who_wants_a_job_to_go_on_all_the_same_says_so(
    upower: Shown, user: User, repository: Path
) -> None:
    window, work = user.window, Working()
    plugs_out(upower)
    user.waits_until(lambda: window.battery.in_use)
    window.store.change(rests_on_battery=True)
    job = window.workers.writer(repository).submit(Job("Copy", work))
    row = user.reads(WHY)
    row._pause.click()
    user.waits_until(lambda: work.moved > 1)
    assert job.state is JobState.RUNNING
    work.ends.set()
    user.sees_job_end("Copy")


def test_it_is_as_chosen_in_the_settings(upower: Shown, user: User, repository: Path) -> None:
    window, work = user.window, Working()
    job = window.workers.writer(repository).submit(Job("Copy", work))
    plugs_out(upower)
    user.waits_until(lambda: window.battery.in_use)
    assert not job.cancel.paused, "nobody has chosen that"
    window.store.change(rests_on_battery=True)
    assert job.cancel.paused
    window.store.change(rests_on_battery=False)
    assert not job.cancel.paused
    work.ends.set()
    user.sees_job_end("Copy")


def test_what_somebody_has_paused_mains_does_not_wake_and_what_stays_never_rests() -> None:
    resting, mine, stays = Resting(), Job("mine", Working()), Job("stays", Working(), stays=True)
    for job in (mine, stays):
        resting.begin(job)
    mine.cancel.pause()
    resting.want(True)
    resting.want(False)
    assert mine.cancel.paused
    assert not stays.cancel.paused
    resting.want(True)
    late = Job("late", Working())
    resting.begin(late)
    assert (late.cancel.paused, late.cancel.why_paused) == (True, battery.WHY)
    resting.end(late)
    resting.want(False)
    assert late.cancel.paused, "it is over: nobody follows it"


def test_while_all_jobs_rest_the_computer_may_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    awake, job = Awake(), Job("one", Working())
    monkeypatch.setattr(awake, "stay", asked.append)
    awake.begin(job)
    awake.follow(job, Paused("Paused", 0, 0))
    awake.follow(job, Progress("Copy", 1, 2))
    awake.end(job)
    assert asked == [True, False, True, False]
