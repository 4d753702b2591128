"""Long work in the window: progress, cancelling, failing, closing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import shiboken6
from PySide6.QtCore import QObject, Qt
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG, User
from tests.noise import noise
from vdbackup.errors import BackupError, Remedy, SessionUnusable
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.jobs.pace import Pace
from vdbackup.gui.jobs.panel import JobsPanel
from vdbackup.gui.jobs.worker import Throttle, Worker
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.jobs import Job, JobState, Progress, Task
from vdbackup.recovery import relinking
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def worker(qtbot: QtBot) -> Worker:
    worker = Worker("test")
    yield worker
    worker.stop()
    assert worker.wait(LONG)


class Gate:
    """Work that goes on until it is let through or cancelled."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, task: Task) -> str:
        self.entered.set()
        task.phase("Wait", 5 << 30, 10 << 30)
        while not self.opened.wait(0.01):
            task.check()
        return "through"


def test_jobs_run_one_after_another_in_the_order_they_were_queued(
    worker: Worker, qtbot: QtBot
) -> None:
    done: list[str] = []
    for name in ("first", "second", "third"):
        worker.submit(Job(name, lambda _: None), lambda job: done.append(job.title))
    qtbot.waitUntil(lambda: len(done) == 3)
    assert done == ["first", "second", "third"]


class Asker(QObject):
    """Wants to hear of a job."""

    def hear(self, job: Job) -> None:
        raise AssertionError(f"it is gone, and was told of {job.title}")


def test_a_dialog_that_was_closed_meanwhile_is_told_of_no_job(worker: Worker, qtbot: QtBot) -> None:
    gate, asker, told = Gate(), Asker(), []
    worker.submit(Job("first", gate), asker.hear)
    worker.submit(Job("second", lambda _: None), told.append)
    shiboken6.delete(asker)
    gate.opened.set()
    qtbot.waitUntil(lambda: bool(told))


def test_more_than_four_gibibytes_arrive_as_they_were_sent(worker: Worker, qtbot: QtBot) -> None:
    gate = Gate()
    with qtbot.waitSignal(worker.progressed) as heard:
        job = worker.submit(Job("long", gate))
    gate.opened.set()
    qtbot.waitUntil(lambda: job.state is JobState.FINISHED)
    assert heard.args == [job, Progress("Wait", 5 << 30, 10 << 30)]


def test_progress_is_passed_on_ten_times_a_second() -> None:
    throttle = Throttle()
    passed = [now for now in range(10_000) if throttle.passes("Copy", now / 1000)]
    assert len(passed) == 100  # of ten seconds


def test_a_new_phase_is_passed_on_at_once() -> None:
    throttle = Throttle()
    assert throttle.passes("Copy", 0.0)
    assert throttle.passes("Check", 0.001)
    assert not throttle.passes("Check", 0.002)


def test_a_job_that_waits_is_cancelled_at_once(worker: Worker, qtbot: QtBot) -> None:
    gate, ended = Gate(), []
    worker.submit(Job("running", gate))
    waiting = worker.submit(Job("waiting", lambda _: None), ended.append)
    assert gate.entered.wait(LONG)
    worker.cancel(waiting)
    qtbot.waitUntil(lambda: ended == [waiting])
    assert waiting.state is JobState.CANCELLED
    gate.opened.set()


def test_a_running_job_stops_when_it_is_cancelled(worker: Worker, qtbot: QtBot) -> None:
    gate = Gate()
    job = worker.submit(Job("running", gate))
    assert gate.entered.wait(LONG)
    worker.cancel(job)
    qtbot.waitUntil(lambda: job.state is JobState.CANCELLED)


def test_a_failed_job_does_not_end_its_thread(worker: Worker, qtbot: QtBot) -> None:
    def fail(_task: Task) -> None:
        raise BackupError("It went wrong.", "Try again.")

    worker.submit(Job("fails", fail))
    after = worker.submit(Job("works", lambda _: 1))
    qtbot.waitUntil(lambda: after.state is JobState.FINISHED)


def test_speed_and_time_left_follow_the_reports() -> None:
    pace = Pace()
    for second in range(11):
        pace.follow("Copy", second * 100, float(second))
    assert pace.speed == pytest.approx(100)
    assert pace.seconds_left(2000) == pytest.approx(10)
    pace.follow("Check", 0, 11.0)
    assert pace.seconds_left(2000) is None


def test_a_row_says_how_its_job_ended(qtbot: QtBot) -> None:
    panel = JobsPanel()
    qtbot.addWidget(panel)
    panel.show()
    job = Job("Back up", lambda _: Told("Point #2 made.", ("one", "two"), ("But.",)))
    panel.add(job)
    job.run(lambda _: None)
    panel.end(job)
    (row,) = panel.rows
    assert row.sentence == "Point #2 made. But."
    panel.refuse("Merge", BackupError("It is a full.", "Choose another."))
    assert panel.rows[0].sentence == "It is a full. Choose another."


@pytest.fixture
def big_disk(user: User, tmp_path: Path) -> Path:
    """32 MiB that take eight seconds to back up, on however fast a machine."""
    user.window.store.change(limit_mib=4)
    image = tmp_path / "big.img"
    image.write_bytes(noise(32 << 20, 7))
    return image


def test_a_backup_is_cancelled_from_the_window(
    user: User, big_disk: Path, repository: Path, qtbot: QtBot
) -> None:
    backups = user.window.backups
    backups.back_up(backups.add_source(SourceRef.of_path(big_disk), repository), ask=False)
    with qtbot.waitSignal(user.window.workers.progressed, timeout=LONG):
        pass
    (row,) = user.window.jobs.rows
    qtbot.mouseClick(row.findChild(QPushButton, "cancelButton"), Qt.MouseButton.LeftButton)
    assert user.sees_job_end("Back up").sentence == "Cancelled."
    assert Repository.open(repository).set().points == ()


def test_a_backup_goes_as_fast_as_the_settings_say_and_says_so(
    user: User, big_disk: Path, repository: Path, qtbot: QtBot
) -> None:
    backups = user.window.backups
    backups.back_up(backups.add_source(SourceRef.of_path(big_disk), repository), ask=False)
    (row,) = user.window.jobs.rows
    user.waits_until(
        lambda: any("of at most 4 MiB/s" in label.text() for label in row.findChildren(QLabel))
    )
    qtbot.mouseClick(row.findChild(QPushButton, "cancelButton"), Qt.MouseButton.LeftButton)
    assert user.sees_job_end("Back up").sentence == "Cancelled."


def test_what_is_free_is_left_out_unless_the_settings_say_otherwise(
    with_source: User, repository: Path
) -> None:
    with_source.window.store.change(all_blocks=True)
    with_source.backs_up(2)
    first, second = (point.reading for point in Repository.open(repository).set().points)
    assert first is not None
    assert second is not None
    assert (first.all_blocks, second.all_blocks) == (False, True)


def test_closing_the_window_asks_before_it_stops_a_backup(
    user: User, big_disk: Path, repository: Path, qtbot: QtBot
) -> None:
    backups = user.window.backups
    backups.back_up(backups.add_source(SourceRef.of_path(big_disk), repository), ask=False)
    with qtbot.waitSignal(user.window.workers.progressed, timeout=LONG):
        pass
    user.window.close()
    assert user.window.isVisible()
    assert "Back up big" in user.sees(QuitDialog, "quitQuestion").text
    user.agrees("quitQuestion", "stopAndQuit")
    user.waits_until(lambda: not user.window.isVisible())
    assert Repository.open(repository).set().points == ()


def test_the_question_goes_when_what_it_asks_about_has_ended(user: User, repository: Path) -> None:
    gate = Gate()
    user.window.workers.writer(repository).submit(Job("Wait", gate))
    user.window.close()
    question = user.sees(QuitDialog, "quitQuestion")
    assert "Wait" in question.text
    gate.opened.set()
    user.waits_until(lambda: user.window.ending._question is None)
    assert user.window.isVisible()


def test_the_window_closes_when_all_is_done_if_that_is_wanted(user: User, repository: Path) -> None:
    gate = Gate()
    job = user.window.workers.writer(repository).submit(Job("Wait", gate))
    user.window.close()
    user.agrees("quitQuestion", "quitWhenDone")
    assert user.sees(QPushButton, "stayOpen")
    gate.opened.set()
    user.waits_until(lambda: not user.window.isVisible())
    assert job.state is JobState.FINISHED


def test_what_fails_on_the_way_keeps_the_window_open(user: User, repository: Path) -> None:
    gate = Gate()

    def fail(task: Task) -> None:
        gate(task)
        raise BackupError("It went wrong.", "Try again.")

    user.window.workers.writer(repository).submit(Job("Fail", fail))
    user.window.close()
    user.agrees("quitQuestion", "quitWhenDone")
    gate.opened.set()
    user.reads("It went wrong.")
    user.waits_until(lambda: not user.window.busy)
    assert user.window.isVisible()
    assert not user.window.statusBar().isVisible()


def test_machines_that_cannot_be_linked_anew_are_a_warning_with_what_to_press(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SessionUnusable("It fits no more.", "End it.", remedy=Remedy.END_SESSION)

    monkeypatch.setattr(relinking, "relink_all", refuse)
    with_source.window.store.machines.sessions_folder.mkdir(parents=True, exist_ok=True)
    with_source.backs_up(2)
    with_source.asks_for("actionMerge")
    with_source.agrees()
    row = with_source.sees_job_end("Merge")
    assert row.sentence.startswith("Merged: point #2 now holds what its parent held. It fits no")
    assert row.sentence.endswith("End it. The list of virtual machines offers both.")
    with_source.sees_points(1)
