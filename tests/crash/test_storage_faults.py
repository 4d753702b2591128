"""Storage that fails, runs full or goes away: no point is lost, and the next run goes on.

Calls that change something are made to fail, one at a time, in every operation. In the short form
each format takes a few, others than the next format, and the errors take turns; VDBACKUP_LONG=1
tries every call with every error.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash.faults import ALL, storage_error
from tests.crash.operations import (
    OPERATIONS,
    assert_said,
    check_new_set,
    check_offered,
    four_points,
    job,
    repaired,
)
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import RepositoryError
from vdbackup.jobs import JobState
from vdbackup.repository.lock import writer_lock

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE)
LONG = os.environ.get("VDBACKUP_LONG") == "1"
SAMPLES = 6
MIB = 1 << 20


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """Four points."""
    lab = Lab(tmp_path, disk_format=disk_format)
    four_points(lab)
    return lab


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_call_fails_no_point_is_lost_and_the_next_run_goes_on(lab, tmp_path_factory, name):
    story = OPERATIONS[name]
    story.prepare(lab)
    load = lab.save(tmp_path_factory.mktemp("saved"))
    with storage_error(None, calls=ALL) as faults:
        story.act(lab)
    load()
    turn = list(FORMATS).index(lab.disk_format)
    stride = 1 if LONG else max(1, len(faults.calls) // SAMPLES)
    for at in range(turn * stride // len(FORMATS), len(faults.calls), stride):
        for number in ERRORS if LONG else [ERRORS[(at // stride + turn) % len(ERRORS)]]:
            with storage_error(at, number, ALL):
                failed = job(lab, story.act)
            if failed.state == JobState.FAILED:
                assert_said(failed, number)
            check_offered(lab)
            again = job(lab, story.act)
            assert again.state == JobState.FINISHED, f"{at} {faults.calls[at]}: {again.error}"
            repaired(lab)  # a layer that had lost, or not yet got, its manifest is a point again
            check_offered(lab)
            assert [each.sequence for each in lab.set.points] in story.ends
            assert lab.set.journal is None
            lab.check_files()
            if story.new_set:
                check_new_set(lab)
            load()


def test_who_holds_the_lock_need_not_be_written_down(tmp_path):
    """It is the first that a full disk refuses, and deleting is what frees space there."""
    for at in range(4):
        with (
            storage_error(at, calls=("ftruncate", "pwrite")),
            writer_lock(tmp_path, "working"),
            pytest.raises(RepositoryError, match="is in use"),
            writer_lock(tmp_path, "working"),
        ):
            raise AssertionError
