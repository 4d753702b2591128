"""Delete: a moment goes, and every other one stays."""

from __future__ import annotations

import shutil

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import delete, merge
from vdbackup.errors import BackupError, Cancelled, ChangedMeanwhile, NoSpace, PointNotFound
from vdbackup.jobs import CancelToken, Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import PointType, RecoveryPoint


@pytest.fixture
def chain(lab: Lab) -> list[RecoveryPoint]:
    return list(four_points(lab).set.points)


@once
def four_points(lab: Lab) -> None:
    lab.backup()
    for number in range(3):
        lab.poke(number * BLOCK, noise(2 * BLOCK, number))
        lab.backup()


def sequences(lab: Lab) -> list[int]:
    return [point.sequence for point in lab.set.points]


def test_the_newest_point_simply_goes(lab, chain):
    before = lab.files
    lab.delete(chain[3])
    assert sequences(lab) == [1, 2, 3]
    after = lab.files
    assert {n for n in before if n not in after} == {
        "disk/" + lab.file("0004-incremental"),
        "disk/0004-incremental.digests",
        "disk/0004-incremental.json",
        "disk/" + lab.file("0004-overlay"),
    }
    assert {name: before[name] for name in after} == after
    lab.check_all()


@pytest.mark.each_format
def test_a_point_in_the_middle_goes_and_its_child_takes_its_blocks(lab, chain):
    lab.delete(chain[1])
    assert sequences(lab) == [1, 3, 4]
    lab.check_all()


def test_deleting_a_full_makes_its_child_the_full(lab, chain):
    lab.delete(chain[0])
    assert sequences(lab) == [2, 3, 4]
    assert lab.set.points[0].type == PointType.FULL
    lab.check_all()


def test_points_go_in_any_order(lab, chain):
    for point in (chain[2], chain[0], chain[3]):
        lab.delete(point)
        lab.check_all()
    assert sequences(lab) == [2]


def test_the_plan_of_a_deletion_says_that_it_is_the_last_point(lab):
    point = lab.backup()
    plan = delete.plan(lab.repository, "disk", point.id)
    assert "no backup of the source remains" in plan.summary
    lab.delete(point)
    assert lab.set.points == ()
    lab.check_all()


def test_a_point_that_has_become_the_last_one_meanwhile_stays(lab, chain):
    """Two computers, each of which was shown that another point stays."""
    plan = delete.plan(lab.repository, "disk", chain[0].id)
    for point in chain[:0:-1]:
        lab.delete(point)
    with pytest.raises(ChangedMeanwhile, match="no backup would remain"):
        delete.run(plan, Task())
    assert sequences(lab) == [1]
    lab.check_all()


def test_after_all_points_are_gone_a_full_begins_anew(lab):
    lab.delete(lab.backup())
    assert lab.backup().type == PointType.FULL
    lab.check_all()


def test_numbers_are_never_used_again(lab, chain):
    """`vdbackup restore 4` must not mean another disk than yesterday."""
    lab.delete(chain[3])
    assert lab.backup().sequence == 5
    for point in lab.set.points:
        lab.delete(point)
    assert lab.backup().sequence == 6


def test_a_point_with_several_children_stays_and_they_are_named(lab):
    full = lab.backup()
    for number in range(2):
        lab.poke(number * BLOCK, b"changed")
        lab.backup("differential")
    before = lab.files
    with pytest.raises(BackupError, match="points 2, 3 all read through it") as refusal:
        lab.delete(full)
    assert refusal.value.advice
    assert lab.files == before


def test_deleting_a_differential_leaves_its_siblings(lab):
    lab.backup()
    points = []
    for number in range(3):
        lab.poke(number * BLOCK, b"changed")
        points.append(lab.backup("differential"))
    lab.delete(points[1])
    assert sequences(lab) == [1, 2, 4]
    lab.check_all()


def test_a_point_whose_files_are_gone_already_is_deleted(lab, chain):
    shutil.move(lab.layer(chain[3]), lab.folder / "gone")
    lab.overlay(chain[3]).unlink()
    lab.delete(chain[3])
    assert sequences(lab) == [1, 2, 3]
    lab.check_all()


def test_a_point_that_is_not_there_is_not_found(lab, chain):
    lab.delete(chain[3])
    with pytest.raises(PointNotFound):
        lab.delete(chain[3])


def test_a_cancelled_deletion_changes_nothing(lab, chain):
    before = lab.files
    cancel = CancelToken()
    cancel.cancel()
    for point in (chain[1], chain[3]):
        with pytest.raises(Cancelled):
            delete.run(delete.plan(lab.repository, "disk", point.id), Task(cancel=cancel))
    assert lab.files == before


@pytest.fixture
def waiting(lab: Lab, chain: list[RecoveryPoint], monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Point 4 is being merged into 3, and waits for space; 5 is a full that nothing needs."""
    lab.backup("full")
    lab.merge_half(chain[3])

    def full(*_: object) -> None:
        raise NoSpace("The storage is full.")

    monkeypatch.setattr(merge, "go_on", full)
    return lab


@pytest.mark.parametrize("number", [2, 4])
def test_what_a_merge_that_waits_for_space_needs_is_not_deleted(waiting, number):
    """Its child, and what its parent reads through, which is offered to nobody meanwhile."""
    before = waiting.files
    point = next(each for each in waiting.set.points if each.sequence == number)
    with pytest.raises(NoSpace):
        waiting.delete(point)
    assert waiting.files == before


def test_what_no_merge_needs_is_deleted_while_one_waits_for_space(waiting):
    waiting.delete(waiting.set.points[-1])
    assert sequences(waiting) == [1, 2, 4]
    assert waiting.set.journal


def test_other_files_in_flight_are_deleted_before_a_merge_that_waits_for_space(waiting):
    """It may be as long as a backup, and the merge need no more than that."""
    left = waiting.set_folder / f"{waiting.file('0006-incremental')}.partial"
    left.write_bytes(bytes(BLOCK))
    own = waiting.set_folder / "0004-incremental.digests.partial"
    own.write_bytes(b"the merge's own")
    with pytest.raises(NoSpace):
        waiting.delete(waiting.set.points[1])
    assert (left.exists(), own.exists()) == (False, True)


def test_deleting_goes_on_when_it_has_finished_a_merge_that_was_cancelled(lab, chain):
    lab.merge_half(chain[2])
    lab.delete(chain[3])
    assert sequences(lab) == [1, 3]
    lab.check_all()
