"""Storage that fails, runs full or goes away: no point is lost, and the next run goes on.

Calls that change something are made to fail, one at a time, in every operation. In the short form
each format takes a few, others than the next format, and the errors take turns; VDBACKUP_LONG=1
tries every call with every error.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backup.lab import Lab, noise
from tests.crash.faults import ALL, storage_error
from vdbackup.backup import adopt, convert, delete, merge, repair
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import NoSpace, PointNotFound, RepositoryError, VdbackupError
from vdbackup.jobs import CancelToken, Job, JobState, Progress, Report, silent
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.lock import writer_lock
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet
from vdbackup.sources.source import open_source

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE)
LONG = os.environ.get("VDBACKUP_LONG") == "1"
SAMPLES = 6
MIB = 1 << 20

Act = Callable[[Lab], object]


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """1 <- 2 <- 3, a full 4, and a disk that has changed since; the chain lies elsewhere, too."""
    lab = Lab(tmp_path, disk_format=disk_format)
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.poke(5 * BLOCK, BLOCK)
    lab.backup()
    lab.poke(2 * BLOCK, noise(2 * BLOCK, 3))
    lab.poke(-512, noise(512, 4))
    lab.backup()
    lab.backup("full")
    shutil.copytree(lab.set_folder, lab.folder / "elsewhere")
    lab.poke(12 * BLOCK + 5, noise(BLOCK, 5))
    return lab


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def merged(lab: Lab) -> None:
    merge.recover(lab.repository, silent, CancelToken())
    if lab.set.points[0].sequence == 1:
        lab.merge(point(lab, 2))


def deleted(lab: Lab) -> None:
    with suppress(PointNotFound, StopIteration):
        lab.delete(point(lab, 3))


def converted(lab: Lab) -> None:
    names = list(FORMATS)
    other = names[(names.index(lab.disk_format) + 1) % len(names)]
    if "new" not in lab.repository.names():
        convert.run(convert.plan(lab.repository, "disk", other, "new"), silent, CancelToken())


def adopted(lab: Lab) -> None:
    if "new" not in lab.repository.names():
        with open_source(lab.folder / "elsewhere" / lab.file("0003-incremental")) as source:
            plan = adopt.plan(lab.repository, source, set_name="new")
            adopt.run(plan, silent, CancelToken())


def captured(lab: Lab) -> None:
    lab.capture("incremental")


def repaired(lab: Lab) -> None:
    repair.run(lab.repository.path, silent, CancelToken())


def lose_the_catalogue(lab: Lab) -> None:
    for path in lab.set_folder.iterdir():
        if path.stat().st_mode & 0o777 != 0o444:
            path.unlink()


@dataclass(frozen=True)
class Story:
    """An operation, what comes before it, and the points of "disk" that there may be at the end."""

    act: Act
    ends: tuple[list[int], ...]
    prepare: Act = lambda _: None
    new_set: bool = False


STORIES = {
    "capture": Story(captured, ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])),
    "merge": Story(merged, ([2, 3, 4],)),
    "delete": Story(deleted, ([1, 2, 4], [1, 2, 3, 4])),
    "convert": Story(converted, ([1, 2, 3, 4],), new_set=True),
    "adopt": Story(adopted, ([1, 2, 3, 4],), new_set=True),
    "repair": Story(repaired, ([1, 2, 3, 4],), lose_the_catalogue),
}


def check_offered(lab: Lab) -> None:
    """All that is offered reads right; while a merge waits, what it concerns may be refused."""
    names = lab.repository.names()
    backup_set = lab.set if "disk" in names else None
    for each in backup_set.points if backup_set else ():
        lab.moments.setdefault(each.id, lab.image)
        with suppress(VdbackupError) if backup_set and backup_set.journal else nullcontext():
            lab.check_ours(each)


def check_new_set(lab: Lab) -> None:
    """It is the same disks again."""
    by_number = {each.sequence: lab.moments[each.id] for each in lab.set.points}
    new = lab.repository.set("new")
    assert [each.sequence for each in new.points] == list(by_number)[: len(new.points)]
    for each in new.points:
        assert contents(new, each) == by_number[each.sequence].read_bytes()


def contents(backup_set: BackupSet, each: RecoveryPoint) -> bytes:
    data = bytearray(each.virtual_size)
    with backup_set.open_chain(each) as chain:
        chain.readinto(0, memoryview(data))
    return bytes(data)


def job(lab: Lab, act: Act) -> Job:
    done = Job("Work", lambda _report, _cancel: act(lab))
    done.run(silent)
    return done


def assert_said(failed: Job, number: int) -> None:
    """The error is one of the user's: what is wrong, and what to do."""
    error = failed.error
    assert type(error) is not VdbackupError, error
    assert error is not None
    assert error.title
    assert error.advice
    assert isinstance(error, NoSpace) == (number in (errno.ENOSPC, errno.EDQUOT)), error


@pytest.mark.parametrize("name", STORIES)
def test_whatever_call_fails_no_point_is_lost_and_the_next_run_goes_on(lab, tmp_path_factory, name):
    story = STORIES[name]
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
    """It is the first that a full disk refuses, and deleting is what makes room there."""
    for at in range(4):
        with (
            storage_error(at, calls=("ftruncate", "pwrite")),
            writer_lock(tmp_path, "working"),
            pytest.raises(RepositoryError, match="is in use"),
            writer_lock(tmp_path, "working"),
        ):
            raise AssertionError


# ---------------------------------------------------------------------- a disk that really is full


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "small", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Callable[[], None]:
    """Take all that is free, to the last byte; calling the result gives it back."""
    with (folder / "other").open("wb", buffering=0) as other, suppress(OSError):
        while True:
            other.write(bytes(4096))
    return (folder / "other").unlink


@pytest.fixture
def small(tmp_path: Path, storage: Path, disk_format: str) -> Lab:
    """1 <- 2 <- 3 of a disk of 4 MiB on the small file system, and a full 4."""
    lab = Lab(tmp_path, 4 * MIB, storage / "repository", disk_format)
    lab.poke(0, noise(MIB, 1))
    lab.backup()
    lab.poke(2 * MIB, noise(MIB, 2))
    lab.backup()
    lab.poke(MIB // 2, noise(MIB, 3))
    lab.backup()
    lab.backup("full")
    return lab


def filling(folder: Path, phase: str) -> Report:
    """Fills the disk when the work is in that phase."""

    def report(progress: Progress) -> None:
        if progress.phase == phase and not (folder / "other").exists():
            fill(folder)

    return report


def test_a_capture_into_a_full_disk_leaves_the_last_point_and_the_next_one_goes_on(small, storage):
    before = small.files
    small.poke(MIB, noise(2 * MIB, 5))
    release = fill(storage)
    failed = job(small, captured)
    assert isinstance(failed.error, NoSpace)
    assert failed.error.advice
    assert small.files == before
    release()
    small.backup()
    small.check_all()


def test_a_disk_that_runs_full_in_a_merge_keeps_the_child_and_it_is_finished_later(small, storage):
    plan = merge.plan(small.repository, "disk", point(small, 2).id)
    failed = Job("Merge", lambda report, cancel: merge.run(plan, report, cancel))
    failed.run(filling(storage, "Merge"))
    assert failed.state == JobState.FAILED
    assert isinstance(failed.error, NoSpace)
    assert [each.sequence for each in small.set.points] == [2, 3, 4]
    for each in small.set.points:
        small.check_ours(each)
    (storage / "other").unlink()
    small.backup()
    assert small.set.journal is None
    small.check_all()


def test_a_point_that_nothing_needs_can_be_deleted_from_a_full_disk(small, storage):
    release = fill(storage)
    free = shutil.disk_usage(storage).free
    small.delete(point(small, 4))
    assert shutil.disk_usage(storage).free > free + MIB
    release()
    assert [each.sequence for each in small.set.points] == [1, 2, 3]
    small.check_all()


def test_it_can_be_deleted_also_while_a_merge_waits_for_room_and_gives_it_that(small, storage):
    plan = merge.plan(small.repository, "disk", point(small, 2).id)
    with pytest.raises((NoSpace, OSError)):
        merge.run(plan, filling(storage, "Merge"), CancelToken())
    assert small.set.journal is not None
    (concerned,) = [each for each in small.set.points if each.sequence == 2]
    with pytest.raises((NoSpace, OSError)):
        small.delete(concerned)
    small.delete(point(small, 4))
    small.backup()  # finishes the merge in the room that there is now
    assert [each.sequence for each in small.set.points] == [2, 3, 5]
    (storage / "other").unlink()
    small.check_all()


def test_merging_needs_room_only_for_what_the_parent_does_not_hold_yet(small, storage):
    """Blocks that both hold are overwritten where they are."""
    small.poke(MIB // 2, noise(MIB, 6))
    last = small.backup()
    free = shutil.disk_usage(storage).free
    with (storage / "other").open("wb") as other:
        other.write(bytes(free - RESERVE - MIB // 4))
    small.merge(last)
    (storage / "other").unlink()
    small.check_all()


def test_a_merge_without_room_is_refused_with_figures_before_it_begins(small, storage):
    before = small.files
    release = fill(storage)
    with pytest.raises(NoSpace, match=r"Merging point 2 may need 1[678].* and .* has 0 bytes free"):
        small.merge(point(small, 2))
    release()
    assert small.files == before


def test_a_full_without_room_is_refused_with_figures_before_it_begins(small, storage):
    small.poke(0, noise(4 * MIB, 9))
    before = small.files
    with (storage / "other").open("wb") as other:
        other.write(bytes(shutil.disk_usage(storage).free - 3 * MIB))
    with pytest.raises(NoSpace, match=r"full backup of .*disk.img may need 5\.?0* MiB, and .* 3"):
        small.capture("full")
    assert small.files == before
    (storage / "other").unlink()
    small.backup("full")
    small.check_all()


def test_a_first_full_without_room_leaves_no_set_behind(tmp_path, storage):
    lab = Lab(tmp_path, 64 * MIB, storage / "repository")
    for at in range(64):
        lab.poke(at * MIB, noise(MIB, at))
    with pytest.raises(NoSpace):
        lab.backup()
    assert lab.repository.names() == []


# -------------------------------------------------------------------- a repository that goes away


@contextmanager
def gone(lab: Lab) -> Iterator[Report]:
    """At the first progress report the folder is somewhere else; at the end it is back."""
    away = lab.folder / "away"

    def report(_: Progress) -> None:
        if not away.exists():
            lab.repository.path.rename(away)

    yield report
    assert away.exists()
    away.rename(lab.repository.path)


def runs(lab: Lab) -> dict[str, Callable[[Report, CancelToken], object]]:
    plan_merge = merge.plan(lab.repository, "disk", point(lab, 2).id)
    plan_delete = delete.plan(lab.repository, "disk", point(lab, 1).id)
    return {
        "capture": lambda report, cancel: lab.capture("incremental", report=report, cancel=cancel),
        "full": lambda report, cancel: lab.capture("full", report=report, cancel=cancel),
        "merge": lambda report, cancel: merge.run(plan_merge, report, cancel),
        "delete": lambda report, cancel: delete.run(plan_delete, report, cancel),
        "convert": lambda report, cancel: convert.run(
            convert.plan(lab.repository, "disk", "qcow2" if lab.disk_format == "vmdk" else "vmdk"),
            report,
            cancel,
        ),
    }


@pytest.mark.parametrize("name", ["capture", "full", "merge", "delete", "convert"])
def test_a_repository_that_goes_away_is_said_to_and_the_next_run_goes_on(lab, name):
    failed = Job("Work", runs(lab)[name])
    with gone(lab) as report:
        failed.run(report)
        assert failed.state == JobState.FAILED
        assert isinstance(failed.error, RepositoryError), failed.error
        assert "not there any more" in failed.error.title
        assert failed.error.advice
    check_offered(lab)
    lab.backup()
    lab.check_all()
