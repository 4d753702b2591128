"""A job of the window waits for whoever else works on the repository, and says for whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gui.jobs.test_jobs import Gate
from tests.gui.user import LONG, User
from tests.repository.computers import held
from vdbackup.errors import RepositoryLocked
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.jobs import Job, JobState, Task, retry_when_cleared


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_waits_for_another_process_and_can_be_cancelled(with_source: User, cancelled: bool):
    user = with_source
    (worker,) = user.window.workers._writers
    with held(worker, "backing up sdx") as holder:
        user.asks_for("actionBackUp")
        user.agrees()
        row = user.reads(f"process {holder.pid} on ")
        assert row.sentence.startswith("Waiting: ")
        assert "backing up sdx" in row.sentence
        if cancelled:
            row._cancel.click()
        else:
            holder.kill()
        user.waits_until(lambda: row.ended)
    assert row.sentence == "Cancelled." if cancelled else "made" in row.sentence
    user.sees_points(1 if cancelled else 2)


class InTheWay:
    """Work that somebody is in the way of at first; then it has nothing to say for a while."""

    def __init__(self) -> None:
        self.there, self.begun = True, Gate()

    def __call__(self, task: Task) -> None:
        if self.there:
            raise RepositoryLocked("Tim is in the way.", "Wait.", cleared=lambda: not self.there)
        self.begun(Task(cancel=task.cancel))


def test_a_job_that_has_begun_after_waiting_does_not_say_any_more_that_it_waits(
    user: User, repository: Path
) -> None:
    work = InTheWay()
    job = Job("Work", retry_when_cleared(work))
    user.window.workers.writer(repository).submit(job)
    row = user.reads("Waiting: Tim is in the way.")
    assert job.state is JobState.WAITING
    assert not row._bar.isVisible()  # nothing moves
    work.there = False
    assert work.begun.entered.wait(LONG)
    user.reads("Starting")
    assert job.state is JobState.RUNNING
    assert row._bar.isVisible()
    work.begun.opened.set()
    user.sees_job_end("Work")


def test_the_question_whether_to_quit_tells_what_runs_from_what_waits(
    user: User, repository: Path
) -> None:
    work, gate = InTheWay(), Gate()
    worker = user.window.workers.writer(repository)
    worker.submit(Job("First", retry_when_cleared(work)))
    worker.submit(Job("Second", gate))
    user.window.close()
    question = user.sees(QuitDialog, "quitQuestion")
    user.waits_until(lambda: "First, which waits: it will not go on" in question.text)
    assert "Second, which waits for its turn: it will not be begun" in question.text
    work.there = False
    assert work.begun.entered.wait(LONG)
    user.waits_until(lambda: "which waits: it" not in question.text)
    work.begun.opened.set()
    user.waits_until(lambda: "which waits" not in question.text)
    assert "Second" in question.text
    user.agrees("quitQuestion", "stopAndQuit")
    user.waits_until(lambda: not user.window.isVisible())
    assert not gate.opened.is_set()
