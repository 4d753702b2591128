"""A job rests where the user wants it, keeps its lock, and goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtWidgets import QPushButton

from tests.gui.user import LONG, User
from vdbackup.disks.transfer import CHUNK, transfer
from vdbackup.errors import Cancelled, LockLost, RepositoryLocked
from vdbackup.gui.jobs.panel import JobRow
from vdbackup.gui.jobs.pause_button import RESTS
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.jobs import CancelToken, Job, JobState, Paused, Progress, Task
from vdbackup.repository.repository import Repository

CHUNKS = 40


class Copying:
    """A transfer under the lock of a repository, whose chunks wait to be let through."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.moved = threading.Semaphore(0)
        self.read = 0

    def __call__(self, task: Task) -> str:
        def read(*_: object) -> None:
            assert self.moved.acquire(timeout=LONG)
            self.read += 1

        with self._repository.lock("copying", task.cancel):
            ranges = np.array([[0, CHUNKS * CHUNK]])
            transfer(ranges, read, lambda *_: None, phase="Copy", task=task)
        return "through"


@pytest.fixture
def copying(user: User, repository: Path) -> tuple[User, Copying, Job[str], JobRow]:
    work = Copying(Repository.create(repository))
    job = user.window.workers.writer(repository).submit(Job("Copy", work))
    work.moved.release(4)
    row = user.reads("Copy ")
    user.waits_until(row._pause.isVisible)
    row._pause.click()
    work.moved.release(8)  # what is under way in each thread
    user.waits_until(lambda: job.state is JobState.PAUSED)
    return user, work, job, row


def test_a_paused_job_says_that_it_keeps_the_lock_and_goes_on_when_it_is_told(
    copying: tuple[User, Copying, Job[str], JobRow], repository: Path
) -> None:
    user, work, job, row = copying
    user.reads(RESTS)
    with pytest.raises(RepositoryLocked), Repository.open(repository).lock("other"):
        pass
    assert row._pause.text() == "Resume"
    assert not row._bar.isVisible()
    row._pause.click()
    work.moved.release(CHUNKS)
    user.sees_job_end("Copy")
    assert (job.state, work.read) == (JobState.FINISHED, CHUNKS)
    assert not row._pause.isVisible()


def test_a_paused_job_can_be_cancelled(copying: tuple[User, Copying, Job[str], JobRow]) -> None:
    user, work, job, row = copying
    work.moved.release(CHUNKS)
    row._cancel.click()
    user.waits_until(lambda: row.ended)
    assert job.state is JobState.CANCELLED
    assert work.read < CHUNKS


def test_quit_when_done_lets_a_paused_job_go_on(
    copying: tuple[User, Copying, Job[str], JobRow],
) -> None:
    user, work, job, _row = copying
    user.window.close()
    question = user.sees(QuitDialog, "quitQuestion")
    assert "Copy, which is paused: it will not go on" in question.text
    work.moved.release(CHUNKS)
    question.findChild(QPushButton, "quitWhenDone").click()
    user.waits_until(lambda: not user.window.isVisible())
    assert job.state is JobState.FINISHED


def test_a_pause_holds_at_a_checkpoint_only_and_says_so_once() -> None:
    token = CancelToken()
    said: list[Progress] = []
    token.pause()
    token.check()  # where it must go on, it does
    threading.Timer(0.05, token.resume).start()
    token.checkpoint(said.append)
    assert [type(each) for each in said] == [Paused]
    token.checkpoint(said.append)
    assert len(said) == 1


def test_a_lock_that_is_lost_meanwhile_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdbackup.jobs._LOOK_AGAIN", 0.01)
    token = CancelToken()
    token.pause()
    looks: list[int] = []

    def lost() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise LockLost("Taken over.", "Begin again.")

    with token.also(lost), pytest.raises(LockLost):
        token.checkpoint(lambda _progress: None)


def test_what_is_cancelled_rests_no_more() -> None:
    token = CancelToken()
    token.cancel()
    token.pause()
    with pytest.raises(Cancelled):
        token.checkpoint(lambda _progress: None)
