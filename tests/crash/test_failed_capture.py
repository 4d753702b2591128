"""A capture that fails, is cancelled or is cut off leaves the last point as it was."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.backup.lab import SIZE, Lab
from tests.crash.faults import counted, storage_error
from tests.crash.kept import each_or_some, ended_before_each_change
from tests.crash.operations import two_points
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import capture, repair
from vdbackup.errors import Cancelled, NoSpace, SourceError
from vdbackup.jobs import CancelToken, Job, JobState, Task, silent
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.policy import Policy
from vdbackup.sources.source import OneReading

MIB = 1 << 20


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return two_points(Lab(tmp_path, disk_format=disk_format))


class Broken:
    """A source that cannot be read from some byte on."""

    def __init__(self, source, offset: int) -> None:
        self._source, self._offset = source, offset

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def rounds(self, *_: object) -> OneReading:
        return OneReading(self)

    def readinto(self, offset: int, view: memoryview) -> None:
        if offset + len(view) > self._offset:
            raise SourceError("The disk cannot be read.", "Check it.")
        self._source.readinto(offset, view)


@pytest.mark.parametrize("kind", ["auto", "full", "differential"])
@pytest.mark.parametrize("offset", [0, SIZE - 1])
def test_a_source_that_cannot_be_read_leaves_everything_as_it_was(lab, kind, offset):
    before = lab.files
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, Broken(source, offset), kind=kind)
        with pytest.raises(SourceError, match="cannot be read"):
            capture.run(plan, Task())
    assert lab.files == before
    lab.backup()
    lab.check_all()


def test_a_disk_of_which_nothing_can_be_read_is_no_backup(tmp_path, monkeypatch):
    lab = Lab(tmp_path)
    lab.poke(0, noise(BLOCK, 1))

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source)
        monkeypatch.setattr(os, "preadv", fails)
        with pytest.raises(SourceError, match=r"Nothing of .*disk\.img can be read") as refusal:
            capture.run(plan, Task())
    assert refusal.value.advice
    assert lab.set.points == ()


def test_an_image_that_becomes_shorter_while_it_is_read_is_no_backup(lab):
    before = lab.files
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source)
        os.truncate(lab.image, 3 * BLOCK)
        with pytest.raises(SourceError, match="became shorter"):
            capture.run(plan, Task())
    assert lab.files == before


@pytest.mark.parametrize("kind", ["auto", "full", "differential"])
def test_a_cancelled_capture_leaves_everything_as_it_was(lab, kind):
    before = lab.files
    cancel = CancelToken()
    with pytest.raises(Cancelled, match="Nothing was changed"):
        lab.capture(kind, report=lambda _: cancel.cancel(), cancel=cancel)
    assert lab.files == before
    lab.backup()
    lab.check_all()


def test_a_capture_of_a_disk_of_another_size_that_fails_leaves_everything_as_it_was(lab):
    before = lab.files
    os.truncate(lab.image, SIZE + BLOCK)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        lab.capture(report=lambda _: cancel.cancel(), cancel=cancel, policy=Policy(1))
    assert lab.files == before


def test_a_first_capture_that_fails_does_not_stand_in_the_next_ones_way(tmp_path):
    lab = Lab(tmp_path)
    lab.poke(0, noise(BLOCK, 1))
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        lab.capture(report=lambda _: cancel.cancel(), cancel=cancel)
    lab.backup()
    lab.check_all()


def changes_of_a_capture(lab: Lab, load: Callable[[], None]) -> range:
    """Numbers of the changes of files that one capture makes."""
    with counted() as faults:
        lab.backup()
    load()
    assert {"fsync", "ftruncate", "rename", "pwritev"} <= set(faults.calls)
    return range(len(faults.calls))


@each_or_some
def test_storage_that_fails_at_any_change_leaves_the_last_point_as_it_was(
    lab, tmp_path_factory, every
):
    """Or the new point is there, if its manifest was."""
    load = lab.save(tmp_path_factory.mktemp("saved"))
    before = lab.files
    for number in changes_of_a_capture(lab, load)[::every]:
        with storage_error(number):
            job = Job("Back up", lambda task: lab.capture(report=task.report, cancel=task.cancel))
            job.run(silent)
        if job.state == JobState.FAILED:
            assert isinstance(job.error, NoSpace), f"change {number}: {job.error}"
            published = [point for point in lab.set.points if point.id not in lab.moments]
            for point in published:
                lab.moments[point.id] = lab.image
            assert published or lab.files == before, f"change {number}"
        for point in lab.set.points:
            lab.check_ours(point)
        lab.backup()
        lab.check_all()
        load()


@each_or_some
def test_a_capture_that_is_cut_off_at_any_change_leaves_the_last_point_as_it_was(lab, every):
    load = lab.save_disk()
    for moment in ended_before_each_change(lab.repository.path, lab.capture)[::every]:
        load()
        moment.bring_back()
        for point in lab.set.points:
            lab.moments.setdefault(point.id, lab.image)
            lab.check_ours(point)
        lab.backup("incremental")
        repair.run(lab.repository.path, Task())  # what has no manifest gets one
        for point in lab.set.points:
            lab.moments.setdefault(point.id, lab.image)
        lab.check_all()


@pytest.fixture
def small_storage(tmp_path: Path) -> Iterator[Path]:
    """A folder with space for 4 MiB, as far as this user can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    with ExitStack() as stack:
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(folder)]
            subprocess.run(mount, check=True)
            stack.callback(subprocess.run, ["umount", str(folder)], check=True)
        yield folder


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No space is left; for an ordinary user, no file may grow beyond 2 MiB."""
    if os.geteuid() == 0:
        with (folder / "other").open("wb", buffering=0) as other, suppress(OSError):
            while True:
                other.write(bytes(4096))
        os.truncate(folder / "other", (folder / "other").stat().st_size - MIB)
        yield
        (folder / "other").unlink()
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_storage_that_is_full_is_said_to_be_and_the_last_point_is_whole(tmp_path, small_storage):
    lab = Lab(tmp_path, 3 * MIB, small_storage / "repository")
    lab.poke(0, noise(MIB, 1))
    lab.backup()
    before = lab.files
    lab.poke(0, noise(3 * MIB, 2))
    with filled(small_storage):
        job = Job("Back up", lambda task: lab.capture("full", report=task.report))
        job.run(silent)
    assert job.error is not None
    assert job.error.advice
    assert isinstance(job.error, NoSpace) or os.geteuid()
    assert lab.files == before
    lab.poke(MIB, 2 * MIB)
    lab.backup()
    lab.check_all()
