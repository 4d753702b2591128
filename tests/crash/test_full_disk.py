"""A disk that really is full: no point is lost, deleting and merging work, the next run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash.operations import captured, job, point
from tests.crash.storage import fill, storage
from tests.noise import noise
from vdbackup.backup import merge
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.errors import NoSpace
from vdbackup.jobs import Job, JobState, Progress, Report, Task

MIB = 1 << 20
each_file_system = pytest.mark.parametrize("folder", ["ext4", "xfs"], indirect=True)


@pytest.fixture
def folder(as_root: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system: ext4, where a test asks for no other one."""
    with storage(tmp_path / "small", getattr(request, "param", "ext4")) as small:
        yield small.folder


@pytest.fixture
def small(tmp_path: Path, folder: Path, disk_format: str) -> Lab:
    """1 <- 2 <- 3 of a disk of 4 MiB on the small file system, and a full 4."""
    lab = Lab(tmp_path, 4 * MIB, folder / "repository", disk_format)
    lab.poke(0, noise(MIB, 1))
    lab.backup()
    lab.poke(2 * MIB, noise(MIB, 2))
    lab.backup()
    lab.poke(MIB // 2, noise(MIB, 3))
    lab.backup()
    lab.backup("full")
    return lab


def filling(folder: Path, phase: str = "") -> Report:
    """Fills the disk when the work is in that phase, or has begun."""

    def report(progress: Progress) -> None:
        if phase in progress.phase and not (folder / "other").exists():
            fill(folder)

    return report


@each_file_system
@pytest.mark.parametrize("kind", ["incremental", "full"])
def test_a_disk_that_runs_full_in_a_capture_keeps_every_point_and_the_next_one_goes_on(
    small, folder, kind
):
    before = small.files
    for place in (0, MIB, 2 * MIB):
        small.poke(place + MIB // 2, noise(MIB, place))
    failed = Job("Back up", lambda task: small.capture(kind, report=task.report))
    failed.run(filling(folder))
    assert isinstance(failed.error, NoSpace), failed.error
    assert "full" in failed.error.title
    assert failed.error.advice
    (folder / "other").unlink()
    assert small.files == before
    small.backup(kind)
    small.check_all()


@each_file_system
def test_a_capture_into_a_full_disk_leaves_the_last_point_and_the_next_one_goes_on(small, folder):
    before = small.files
    small.poke(MIB, noise(2 * MIB, 5))
    release = fill(folder)
    failed = job(small, captured)
    assert isinstance(failed.error, NoSpace)
    assert failed.error.advice
    assert small.files == before
    release()
    small.backup()
    small.check_all()


def test_a_disk_that_runs_full_in_a_merge_keeps_the_child_and_it_is_finished_later(small, folder):
    plan = merge.plan(small.repository, "disk", point(small, 2).id)
    failed = Job("Merge", lambda task: merge.run(plan, task))
    failed.run(filling(folder, "Merge"))
    assert failed.state == JobState.FAILED
    assert isinstance(failed.error, NoSpace)
    assert [each.sequence for each in small.set.points] == [2, 3, 4]
    for each in small.set.points:
        small.check_ours(each)
    (folder / "other").unlink()
    small.backup()
    assert small.set.journal is None
    small.check_all()


@pytest.mark.parametrize("folder", ["xfs"], indirect=True)
def test_a_disk_that_runs_full_in_a_merge_by_sharing_leaves_it_done_or_never_begun(small, folder):
    plan = merge.plan(small.repository, "disk", point(small, 2).id)
    work = Job("Merge", lambda task: merge.run(plan, task))
    work.run(filling(folder))
    done = work.state == JobState.FINISHED
    assert done or isinstance(work.error, NoSpace)
    assert [each.sequence for each in small.set.points] == ([2, 3, 4] if done else [1, 2, 3, 4])
    assert small.set.journal is None
    (folder / "other").unlink()
    small.backup()
    small.check_all()


@each_file_system
def test_a_point_that_nothing_needs_can_be_deleted_from_a_full_disk(small, folder):
    release = fill(folder)
    free = shutil.disk_usage(folder).free
    small.delete(point(small, 4))
    assert shutil.disk_usage(folder).free > free + MIB
    release()
    assert [each.sequence for each in small.set.points] == [1, 2, 3]
    small.check_all()


@each_file_system
def test_a_point_that_others_read_through_is_refused_on_a_full_disk_and_deleted_later(
    small, folder
):
    before = small.files
    release = fill(folder)
    with pytest.raises(NoSpace, match="may need"):
        small.delete(point(small, 2))
    release()
    assert small.files == before
    small.delete(point(small, 2))
    assert [each.sequence for each in small.set.points] == [1, 3, 4]
    small.check_all()


@each_file_system
def test_what_a_deletion_gives_back_is_enough_to_merge_in(tmp_path, folder, disk_format):
    """The rest of the disk stays full."""
    lab = Lab(tmp_path, 20 * MIB, folder / "repository", disk_format)
    for number in range(3):
        lab.poke(number * MIB, noise(MIB, number))
        lab.backup()
    lab.poke(0, noise(20 * MIB, 4))
    lab.backup("full")
    release = fill(folder)
    with pytest.raises(NoSpace):
        lab.merge(point(lab, 2))
    lab.delete(point(lab, 4))
    lab.merge(point(lab, 2))
    assert [each.sequence for each in lab.set.points] == [2, 3]
    lab.check_all()
    release()


def test_it_can_be_deleted_also_while_a_merge_waits_for_space_and_gives_it_that(small, folder):
    plan = merge.plan(small.repository, "disk", point(small, 2).id)
    with pytest.raises((NoSpace, OSError)):
        merge.run(plan, Task(filling(folder, "Merge")))
    assert small.set.journal is not None
    (concerned,) = [each for each in small.set.points if each.sequence == 2]
    with pytest.raises((NoSpace, OSError)):
        small.delete(concerned)
    small.delete(point(small, 4))
    small.backup()  # finishes the merge in the space that there is now
    assert [each.sequence for each in small.set.points] == [2, 3, 5]
    (folder / "other").unlink()
    small.check_all()


def test_merging_needs_space_only_for_what_the_parent_does_not_hold_yet(small, folder):
    """Blocks that both hold are overwritten where they are."""
    small.poke(MIB // 2, noise(MIB, 6))
    last = small.backup()
    free = shutil.disk_usage(folder).free
    with (folder / "other").open("wb") as other:
        other.write(bytes(free - RESERVE - MIB // 4))
    small.merge(last)
    (folder / "other").unlink()
    small.check_all()


@each_file_system
def test_a_merge_without_space_is_refused_with_figures_before_it_begins(small, folder):
    before = small.files
    release = fill(folder)
    with pytest.raises(NoSpace, match=r"Merging point 2 may need 1[678].* and .* has .* free"):
        small.merge(point(small, 2))
    release()
    assert small.files == before
    small.merge(point(small, 2))
    small.check_all()


def test_a_full_without_space_is_refused_with_figures_before_it_begins(small, folder):
    small.poke(0, noise(4 * MIB, 9))
    before = small.files
    with (folder / "other").open("wb") as other:
        other.write(bytes(shutil.disk_usage(folder).free - 3 * MIB))
    with pytest.raises(NoSpace, match=r"full backup of .*disk.img may need 5\.?0* MiB, and .* 3"):
        small.capture("full")
    assert small.files == before
    (folder / "other").unlink()
    small.backup("full")
    small.check_all()


def test_a_first_full_without_space_leaves_no_set_behind(tmp_path, folder):
    lab = Lab(tmp_path, 64 * MIB, folder / "repository")
    for at in range(64):
        lab.poke(at * MIB, noise(MIB, at))
    with pytest.raises(NoSpace):
        lab.backup()
    assert lab.repository.names() == []
