"""What changes a repository waits for whoever else does, and can be stopped while it waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup import sessions
from tests.backup.lab import Lab
from tests.noise import noise
from tests.repository.computers import held
from tests.repository.test_lease import leave, of_another_computer
from vdbackup.backup import promote
from vdbackup.errors import Cancelled, LockLost
from vdbackup.jobs import CancelToken, Progress, Task, Waiting, retry_when_cleared
from vdbackup.recovery.retarget import retarget
from vdbackup.repository import lock
from vdbackup.repository.lease import LEASE_NAME, STALE

Run = Callable[[Task], object]


@pytest.fixture(params=["promote", "retarget"])
def run(
    request: pytest.FixtureRequest, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """What is to be done to the set's only point: something is copied for it."""
    point = lab.backup()
    if request.param == "retarget":
        monkeypatch.setattr(retarget, "_patches", lambda *_: {0: {0: noise(512, 3)}})
        return lambda task: retarget.retarget(
            lab.repository, "disk", point.id, retarget.AUTO, tmp_path, task
        )
    session = sessions.begin(lab, point, tmp_path / "session")
    sessions.writes(session, "write -q -P 7 64k 128k")
    plan = promote.plan(lab.repository, "disk", point.id, session)
    return lambda task: promote.run(plan, task)


def test_an_operation_is_cancelled_while_it_waits_for_another_process(lab: Lab, run: Run) -> None:
    cancel, heard = CancelToken(), list[Progress]()

    def stop(progress: Progress) -> None:
        heard.append(progress)
        cancel.cancel()

    before = lab.files
    with held(lab.repository.path, "backing up sdx"), pytest.raises(Cancelled):
        retry_when_cleared(run)(Task(stop, cancel))
    assert [type(each) for each in heard] == [Waiting]
    assert lab.files.items() >= before.items()


def test_its_next_look_at_whether_to_stop_tells_that_it_was_overtaken(
    lab: Lab, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever copies for an hour learns of it at the next chunk, not when it publishes."""
    monkeypatch.setattr(lock, "TRUSTED", 0.0)
    overtaken: list[LockLost] = []

    class Looked(CancelToken):
        def check(self) -> None:
            if (lab.repository.path / LEASE_NAME).exists() and not overtaken:
                leave(lab.repository.path, of_another_computer())
            try:
                super().check()
            except LockLost as error:
                overtaken.append(error)
                raise

    with pytest.raises(LockLost):
        run(Task(cancel=Looked()))
    assert overtaken
    then = time.time() - STALE - 1
    os.utime(lab.repository.path / LEASE_NAME, (then, then))
    lab.check_ours(*lab.set.points)
