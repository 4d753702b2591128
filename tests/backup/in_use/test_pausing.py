"""A pause never holds what is frozen: who writes there goes on, and the backup rests elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.mounts import image, is_frozen
from tests.backup.in_use.devices import restored, use
from tests.noise import noise
from tests.sources.loops import loop
from tests.sources.opened import open_path
from vdbackup.agent import in_use
from vdbackup.agent.file_systems import Together
from vdbackup.agent.freezing import Freeze
from vdbackup.backup import capture
from vdbackup.backup.capture import CaptureResult
from vdbackup.jobs import Job, JobState, Paused, Progress, Task
from vdbackup.recovery import verify
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")


def test_a_pause_that_is_asked_for_in_a_freeze_begins_after_it(
    stack, tmp_path, repository, monkeypatch
):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 96, "ext4")))
    found = use(stack, device, tmp_path / "mount")
    (tmp_path / "mount" / "large").write_bytes(noise(1, 40 << 20))
    frozen_together = in_use.frozen_together
    in_freeze: list[bool] = []

    @contextmanager
    def pausing(mounted: Sequence[Together]) -> Iterator[Freeze]:
        with frozen_together(mounted) as freeze:
            job.cancel.pause()
            in_freeze.append(is_frozen(found))
            yield freeze

    monkeypatch.setattr(in_use, "frozen_together", pausing)
    rested = threading.Event()
    states: list[bool] = []

    def hears(progress: Progress) -> None:
        if isinstance(progress, Paused):
            states.append(is_frozen(found))
            rested.set()

    def work(task: Task) -> CaptureResult:
        with open_path(device) as source:
            plan = capture.plan(repository, source, consistency=Wanted.FROZEN, all_blocks=True)
            return capture.run(plan, task)

    job = Job("Back up", work)
    thread = threading.Thread(target=job.run, args=(hears,))
    thread.start()
    while thread.is_alive():  # it may have nothing to copy after one of them
        if rested.wait(0.05):
            assert job.state is JobState.PAUSED
            Path(tmp_path / "mount" / "meanwhile").write_bytes(b"goes on")  # would wait for ever
            rested.clear()
            job.cancel.resume()
    thread.join()
    made = job.outcome()
    assert in_freeze
    assert all(in_freeze)
    assert not any(states)
    assert not is_frozen(found)
    plan = verify.plan(repository, repository.set().name)
    restored(repository, made.point, tmp_path / "again.raw")
    assert all(each.ok for each in verify.run(plan, Task()))
