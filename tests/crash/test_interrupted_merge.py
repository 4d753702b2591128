"""A merge that ends at any change of any file: no point is lost, and what follows finishes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.sharing import sharing_storage
from tests.crash.faults import counted, one_by_one, power_cut, storage_error
from tests.crash.kept import each_or_some, ended_before_each_change
from tests.crash.stories import five_points
from vdbackup import cli
from vdbackup.backup import delete, merge, repair
from vdbackup.errors import Damaged, NoSpace
from vdbackup.jobs import Job, JobState, Task, silent
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint

INTO_THE_FULL, INTO_AN_INCREMENTAL, NEWEST = 2, 3, 4
MERGES = [INTO_THE_FULL, INTO_AN_INCREMENTAL, NEWEST]
"""Sequence of the point that is merged: the result gets a new name, or the child's; there is a
grandchild to be linked anew, or none."""


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return five_points(Lab(tmp_path, disk_format=disk_format))


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with sharing_storage("xfs", tmp_path_factory.mktemp("xfs")) as folder:
        yield folder


@pytest.fixture
def sharing_lab(xfs: Path, tmp_path: Path, disk_format: str) -> Lab:
    """The same where extents are shared."""
    return five_points(Lab(tmp_path, repository=xfs / tmp_path.name, disk_format=disk_format))


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def changes_of_the_merge(lab: Lab, sequence: int, load: Callable[[], None]) -> range:
    with counted() as faults:
        lab.merge(point(lab, sequence))
    load()
    assert {"fsync", "rename", "pwritev", "unlink"} <= set(faults.calls)
    return range(len(faults.calls))


def check_what_is_offered(lab: Lab, sequence: int) -> None:
    """Every point that is offered reads right or says why not; what has no part in it reads."""
    lab.check_offered(range(sequence - 1, 5))


def recover(lab: Lab) -> None:
    if lab.set.journal is None:  # it was never begun: what is half written goes with what is next
        with lab.repository.lock("sweeping"):
            assert not merge.finish_interrupted(lab.repository, "disk", Task())
    else:
        assert merge.recover(lab.repository, Task()).done


def repaired(lab: Lab) -> None:
    repair.run(lab.repository.path, Task())


def backed_up(lab: Lab) -> None:
    lab.poke(0, b"changed since")
    lab.backup()


def deleted(lab: Lab) -> None:
    last = lab.set.points[-1]
    delete.run(delete.plan(lab.repository, "disk", last.id), Task())


NEXT_OPERATIONS = [recover, repaired, backed_up, deleted]


def assert_finished(lab: Lab, sequence: int) -> None:
    """The merge is done, or it is as if it had never begun; every point is right."""
    numbers = [each.sequence for each in lab.set.points if each.sequence <= 4]
    assert numbers in ([1, 2, 3, 4], [n for n in (1, 2, 3, 4) if n != sequence - 1])
    assert lab.set.journal is None
    lab.check_without_processes()
    lab.check_by_processes(point(lab, 4))


@each_or_some
@pytest.mark.parametrize("sequence", MERGES)
def test_cut_off_at_any_change_it_is_finished_by_the_next_operation(lab, sequence, every):
    cut_off_at_any_change(lab, sequence, every)


@each_or_some
@pytest.mark.parametrize("sequence", [INTO_THE_FULL, INTO_AN_INCREMENTAL])
def test_cut_off_where_extents_are_shared_it_is_finished_or_was_never_begun(
    sharing_lab, sequence, every
):
    cut_off_at_any_change(sharing_lab, sequence, every)


def cut_off_at_any_change(lab: Lab, sequence: int, every: int) -> None:
    load = lab.save_disk()
    merged = point(lab, sequence)
    moments = ended_before_each_change(lab.repository.path, lambda: lab.merge(merged))
    for number, moment in list(enumerate(moments))[sequence % every :: every]:
        moment.bring_back()
        check_what_is_offered(lab, sequence)
        NEXT_OPERATIONS[number % len(NEXT_OPERATIONS)](lab)
        assert_finished(lab, sequence)
        load()


@pytest.mark.parametrize("sequence", MERGES)
def test_cut_off_again_while_it_is_finished_it_is_finished_then(lab, sequence):
    cut_off_twice(lab, sequence)


def test_cut_off_again_where_extents_are_shared_it_is_finished_then(sharing_lab):
    cut_off_twice(sharing_lab, INTO_THE_FULL)


def cut_off_twice(lab: Lab, sequence: int) -> None:
    load = lab.save_disk()
    merged = point(lab, sequence)
    moments = ended_before_each_change(lab.repository.path, lambda: lab.merge(merged))
    for number, moment in list(enumerate(moments))[::3]:
        moment.bring_back()
        for again in (number * 7 % len(moments), number * 5 % len(moments)):
            with power_cut(again):
                recover(lab)
            check_what_is_offered(lab, sequence)
        backed_up(lab)
        assert_finished(lab, sequence)
        load()


@each_or_some
@pytest.mark.parametrize("sequence", MERGES)
def test_storage_that_fails_at_any_change_only_delays_it(lab, tmp_path_factory, sequence, every):
    load = lab.save(tmp_path_factory.mktemp("saved"))
    for number in changes_of_the_merge(lab, sequence, load)[sequence % every :: every]:
        plan = merge.plan(lab.repository, "disk", point(lab, sequence).id)
        job = Job("Merge", lambda task, plan=plan: merge.run(plan, task))
        with storage_error(number):
            job.run(silent)
        if job.state == JobState.FAILED:
            assert isinstance(job.error, NoSpace), f"change {number}: {job.error}"
        else:  # what failed was a note of who holds the lock, or there was one write less
            assert point(lab, sequence).merged
        check_what_is_offered(lab, sequence)
        NEXT_OPERATIONS[number % len(NEXT_OPERATIONS)](lab)
        assert_finished(lab, sequence)
        load()


@each_or_some
@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_a_deletion_that_is_cut_off_is_done_or_not_begun(lab, sequence, every):
    load = lab.save_disk()
    deleted = point(lab, sequence)
    moments = ended_before_each_change(lab.repository.path, lambda: lab.delete(deleted))
    for moment in moments[sequence % every :: every]:
        moment.bring_back()
        backed_up(lab)
        repaired(lab)  # a layer that had lost its manifest only is a point again
        numbers = [each.sequence for each in lab.set.points if each.sequence <= 5]
        assert numbers in ([1, 2, 3, 4, 5], [n for n in (1, 2, 3, 4, 5) if n != sequence])
        lab.check_without_processes()
        load()


def test_a_block_that_the_storage_loses_is_noticed_before_the_child_goes(lab, monkeypatch):
    """It says that it wrote it, and did not."""
    write = os.pwritev

    def losing(fd: int, buffers: list[memoryview], offset: int) -> int:
        length = sum(map(len, buffers))
        if length >= BLOCK and lab.set_folder.as_posix() in os.readlink(f"/proc/self/fd/{fd}"):
            return length
        return write(fd, buffers, offset)

    child = point(lab, 3)
    with monkeypatch.context() as patch:
        one_by_one(patch)
        patch.setattr(os, "pwritev", losing)
        with pytest.raises(Damaged, match="is not as it was captured"):
            lab.merge(child)
    lab.check_ours(point(lab, 3))
    lab.check_ours(point(lab, 4))
    recover(lab)
    lab.check_all()


def test_recovering_where_nothing_was_interrupted_does_nothing(lab):
    before = lab.files
    assert merge.recover(lab.repository, Task()) == merge.Recovered()
    assert lab.files == before


def test_recovering_leaves_a_merge_alone_that_somebody_is_at(lab):
    with power_cut(12):
        lab.merge(point(lab, 3))
    before = lab.files
    with lab.repository.lock("merging"):
        assert merge.recover(lab.repository, Task()) == merge.Recovered()
    assert lab.files == before


def test_a_merge_that_cannot_be_finished_is_said_and_the_rest_stays_usable(lab):
    with power_cut(12):
        lab.merge(point(lab, 3))
    assert lab.set.journal is not None
    lab.layer(point(lab, 3)).rename(lab.folder / "gone")
    (error,) = merge.recover(lab.repository, Task()).undone
    assert "could not be finished" in error.title
    lab.check_ours(point(lab, 1))
    lab.check_ours(point(lab, 5))


def test_a_file_in_flight_that_somebody_throws_away_is_missed_before_the_child_goes(sharing_lab):
    lab = sharing_lab
    number = 0
    while not (lab.set.journal and lab.set.journal.result):
        with power_cut(number):
            lab.merge(point(lab, 3))
        number += 1
    for partial in lab.set_folder.glob(lab.file("0003-incremental") + ".partial"):
        partial.unlink()
    recovered = merge.recover(lab.repository, Task())
    if os.geteuid() == 0:
        assert "could not be finished" in recovered.undone[0].title
        assert (lab.set_folder / lab.file("0003-incremental")).exists()
    lab.check_ours(point(lab, 4))


def test_a_command_that_is_given_again_after_a_crash_merges_no_further(lab, capfd):
    """`vdbackup merge 3`, a power cut, `vdbackup merge 3`: point 3 must not end in the full."""
    with power_cut(12):
        lab.merge(point(lab, 3))
    assert lab.set.journal is not None
    assert cli.main(["merge", "-r", str(lab.repository.path), "3"]) == 3
    assert "was finished" in capfd.readouterr().err
    assert [each.sequence for each in lab.set.points] == [1, 3, 4, 5]
    lab.check_all()
