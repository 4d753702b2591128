"""Storage that goes away in the middle: the job fails with a sentence, and the next run goes on.

The storage is a real file system. It is unmounted while files are open, as a network's is, or loses
its device at once with all that was not synced; then it is mounted again, which replays its own
journal. In the short form each format takes two places of an operation, others than the next
format; VDBACKUP_LONG=1 tries every change, on ext4 and on XFS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash.faults import ALL, happening, storage_error
from tests.crash.operations import (
    OPERATIONS,
    assert_said,
    check_new_set,
    check_offered,
    four_points,
    job,
    point,
    repaired,
)
from tests.crash.storage import Storage, storage
from vdbackup.backup import convert, delete, merge
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import RepositoryError
from vdbackup.jobs import Job, JobState, Progress, Report, Task
from vdbackup.recovery import verify

LONG = os.environ.get("VDBACKUP_LONG") == "1"
PLACES = 2
SIZE = 128 << 20
"""Bytes of the file system."""


@pytest.fixture(params=["ext4", "xfs"] if LONG else ["ext4"])
def drive(as_root: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Storage]:
    """What the repository is on."""
    with storage(tmp_path / "drive", request.param, SIZE) as drive:
        yield drive


@pytest.fixture
def lab(tmp_path: Path, drive: Storage, disk_format: str) -> Lab:
    """Four points on the drive."""
    lab = Lab(tmp_path, repository=drive.folder / "repository", disk_format=disk_format)
    four_points(lab)
    os.sync()  # which a backup does itself, and a copy of one that was made before does not
    return lab


def runs(lab: Lab) -> dict[str, Callable[[Task], object]]:
    plan_merge = merge.plan(lab.repository, "disk", point(lab, 2).id)
    plan_delete = delete.plan(lab.repository, "disk", point(lab, 1).id)
    return {
        "capture": lambda task: lab.capture("incremental", report=task.report, cancel=task.cancel),
        "full": lambda task: lab.capture("full", report=task.report, cancel=task.cancel),
        "merge": lambda task: merge.run(plan_merge, task),
        "delete": lambda task: delete.run(plan_delete, task),
        "convert": lambda task: convert.run(
            convert.plan(lab.repository, "disk", "qcow2" if lab.disk_format == "vmdk" else "vmdk"),
            task,
        ),
        "verify": lambda task: verify.run(verify.plan(lab.repository, "disk"), task),
    }


def at_the_first_report(act: Callable[[], None]) -> Report:
    """It happens once."""
    waiting = [act]

    def report(_: Progress) -> None:
        if waiting:
            waiting.pop()()

    return report


RUNS = ["capture", "full", "merge", "delete", "convert", "verify"]


@pytest.mark.parametrize("name", RUNS)
def test_a_repository_that_is_unmounted_is_said_to_be_gone_and_the_next_run_goes_on(
    lab, drive, name
):
    failed = Job("Work", runs(lab)[name])
    failed.run(at_the_first_report(drive.detach))
    assert failed.state == JobState.FAILED
    assert isinstance(failed.error, RepositoryError), failed.error
    assert "not there any more" in failed.error.title
    assert failed.error.advice
    assert list(drive.folder.iterdir()) == [], "something was written where the storage had been"
    drive.plug_in()
    check_offered(lab)
    lab.backup()
    lab.check_all()


@pytest.mark.parametrize("name", RUNS)
def test_a_drive_that_is_pulled_out_is_said_to_fail_and_the_next_run_goes_on(lab, drive, name):
    failed = Job("Work", runs(lab)[name])
    failed.run(at_the_first_report(drive.unplug))
    assert failed.state == JobState.FAILED
    assert isinstance(failed.error, RepositoryError), failed.error
    assert "does not answer" in failed.error.title
    assert failed.error.advice
    drive.take_out()
    drive.plug_in()
    check_offered(lab)
    lab.backup()
    lab.check_all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_wherever_a_drive_is_pulled_out_no_point_is_lost_and_the_next_run_goes_on(
    lab, drive, tmp_path_factory, name
):
    operation = OPERATIONS[name]
    operation.prepare(lab)
    load = lab.save(tmp_path_factory.mktemp("saved"))
    with storage_error(None, calls=ALL) as faults:
        operation.act(lab)
    turn, stride = list(FORMATS).index(lab.disk_format), max(1, len(faults.calls) // PLACES)
    for at in (
        range(len(faults.calls))
        if LONG
        else range(turn * stride // len(FORMATS), len(faults.calls), stride)
    ):
        load()
        os.sync()  # what was there before the operation is there in any case
        with happening(at, drive.unplug):
            failed = job(lab, operation.act)
        drive.take_out()
        drive.plug_in()
        if failed.state == JobState.FAILED:
            assert_said(failed, 0)
        check_offered(lab)
        again = job(lab, operation.act)
        assert again.state == JobState.FINISHED, f"{at} {faults.calls[at]}: {again.error}"
        repaired(lab)
        check_offered(lab)
        assert [each.sequence for each in lab.set.points] in operation.ends
        assert lab.set.journal is None
        lab.check_files()
        if operation.new_set:
            check_new_set(lab)
