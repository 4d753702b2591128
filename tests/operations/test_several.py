"""Several points at once: the plan says the amounts, and what stays is what it was."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backup.lab import Lab
from tests.backup.machines import Disks
from tests.noise import noise
from vdbackup.backup import merge as one_merge
from vdbackup.disks.host_file import can_clone
from vdbackup.errors import (
    Cancelled,
    ChangedMeanwhile,
    NotMergeable,
    PointNeeded,
    PointPinned,
    UsageError,
)
from vdbackup.jobs import Plan, Task
from vdbackup.operations import delete, merge, pins, several
from vdbackup.repository.model import RecoveryPoint


@pytest.fixture
def points(lab: Lab) -> list[RecoveryPoint]:
    """A full, and five points on it, each with another amount of changed data."""
    made = [lab.backup()]
    for number in range(1, 6):
        lab.poke(number * 65536, noise(number * 65536, 10 + number))
        made.append(lab.backup())
    return made


def sequences(lab: Lab) -> list[int]:
    return [point.sequence for point in lab.set.points]


def test_a_range_becomes_one_point_of_its_newest_moment(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path
) -> None:
    plan = several.plan_merge(lab.repository, "disk", [points[1].id, points[3].id])
    assert "Points 2 to 4, 3 of them, are rolled into one" in plan.summary
    assert plan.invalidates == ("point 2", "point 3")
    shared = can_clone(lab.set.disk_path(points[1]))
    copied = 0 if shared else points[2].stored_bytes + points[3].stored_bytes
    assert plan.bytes_to_copy == copied
    assert plan.hindrance == ""
    result = several.merge_range(plan, tmp_path / "sessions", Task())
    assert (result.point.id, result.point.sequence) == (points[3].id, 4)
    assert sequences(lab) == [1, 4, 5, 6]
    lab.check_all()


def test_what_lies_on_two_chains_is_no_range(lab: Lab, points: list[RecoveryPoint]) -> None:
    beside = lab.backup(kind="differential")
    with pytest.raises(NotMergeable, match="Point 7 does not read through point 3") as caught:
        several.plan_merge(lab.repository, "disk", [points[2].id, beside.id])
    assert "one chain" in caught.value.advice
    with pytest.raises(UsageError, match="two points"):
        several.plan_merge(lab.repository, "disk", [beside.id])


def test_a_pinned_point_in_a_range_keeps_it(lab: Lab, points: list[RecoveryPoint]) -> None:
    pins.run(pins.plan(lab.repository, "disk", points[2].id, "before the move"), Task())
    with pytest.raises(PointPinned, match="Point 3 is pinned"):
        several.plan_merge(lab.repository, "disk", [points[1].id, points[3].id])
    assert sequences(lab) == [1, 2, 3, 4, 5, 6]


def test_a_range_that_has_changed_meanwhile_is_not_merged_as_it_was_not_shown(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path
) -> None:
    plan = several.plan_merge(lab.repository, "disk", [points[1].id, points[3].id])
    delete.run(delete.plan(lab.repository, "disk", points[1].id), tmp_path, Task())
    with pytest.raises(ChangedMeanwhile):
        several.merge_range(plan, tmp_path, Task())
    assert sequences(lab) == [1, 3, 4, 5, 6]
    lab.check_all()


def test_several_are_deleted_and_the_amount_is_what_is_copied(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [points[number].id for number in (4, 1, 2)]
    plan = several.plan_delete(lab.repository, "disk", ids)
    assert plan.summary.startswith("Points 2, 3 and 5 are deleted. What reads through them")
    assert plan.invalidates == ("point 2", "point 3", "point 5")
    copied: list[int] = []
    real = one_merge.merge_locked

    def watched(repository, backup_set, child_id, task, patience=None):  # type: ignore[no-untyped-def]
        copied.append(backup_set.point(child_id).stored_bytes)
        return real(repository, backup_set, child_id, task, patience)

    monkeypatch.setattr(one_merge, "merge_locked", watched)
    result = several.delete_several(plan, tmp_path / "sessions", Task())
    shared = can_clone(lab.set.disk_path(points[0]))
    assert plan.bytes_to_copy == (0 if shared else sum(copied))
    assert result.trouble == ()
    assert sequences(lab) == [1, 4, 6]
    lab.check_all()


def test_a_point_that_two_others_need_goes_once_one_of_them_goes_with_it(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path
) -> None:
    beside = lab.backup(kind="differential")
    with pytest.raises(PointNeeded, match="points 2, 7 all read through it"):
        several.plan_delete(lab.repository, "disk", [points[0].id, points[3].id])
    plan = several.plan_delete(lab.repository, "disk", [points[0].id, beside.id])
    assert plan.ids == (beside.id, points[0].id)
    several.delete_several(plan, tmp_path / "sessions", Task())
    assert sequences(lab) == [2, 3, 4, 5, 6]
    lab.check_all()


def test_all_points_are_deleted_once_it_is_said_that_they_are_the_last(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path
) -> None:
    plan = several.plan_delete(lab.repository, "disk", [point.id for point in points])
    assert "no backup of the source remains" in plan.summary
    assert "rolled" not in plan.summary
    assert plan.bytes_to_copy == 0
    several.delete_several(plan, tmp_path / "sessions", Task())
    assert sequences(lab) == []


def test_the_last_points_go_only_where_it_was_said_that_they_are_the_last(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path
) -> None:
    """Another computer deletes what was to stay, while somebody looks at the plan."""
    plan = several.plan_delete(lab.repository, "disk", [point.id for point in points[:-1]])
    assert "no backup of the source remains" not in plan.summary
    delete.run(delete.plan(lab.repository, "disk", points[-1].id), tmp_path, Task())
    with pytest.raises(ChangedMeanwhile, match="changed meanwhile"):
        several.delete_several(plan, tmp_path, Task())
    assert len(lab.set.points) == 1
    lab.check_all()


@pytest.mark.parametrize("what", ["delete", "merge"])
def test_who_writes_between_two_steps_is_waited_for_and_nothing_is_begun_anew(
    lab: Lab,
    points: list[RecoveryPoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """To begin all of it anew would ask for points that are gone."""
    operation = getattr(several, what)
    real, tries = operation.run, []
    somebody = ExitStack()

    def beside_another_one(plan: Plan, *arguments: Any) -> Any:
        tries.append(plan.summary)
        if len(tries) == 2:
            somebody.enter_context(lab.repository.lock("another one"))
            threading.Timer(0.3, somebody.close).start()
        return real(plan, *arguments)

    monkeypatch.setattr(operation, "run", beside_another_one)
    ids = [points[number].id for number in (1, 2, 3)]
    if what == "delete":
        several.delete_several(several.plan_delete(lab.repository, "disk", ids), tmp_path, Task())
        assert sequences(lab) == [1, 5, 6]
    else:
        several.merge_range(several.plan_merge(lab.repository, "disk", ids), tmp_path, Task())
        assert sequences(lab) == [1, 4, 5, 6]
    assert len(tries) == {"delete": 4, "merge": 3}[what]  # one of them twice
    lab.check_all()


def test_what_stops_a_later_step_says_how_many_are_done(
    lab: Lab, points: list[RecoveryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [points[number].id for number in (1, 2, 3)]
    plan = several.plan_delete(lab.repository, "disk", ids)
    task, real = Task(), delete.run

    def then_cancelled(*arguments: Any) -> delete.DeleteResult:
        result = real(*arguments)
        task.cancel.cancel()
        return result

    monkeypatch.setattr(delete, "run", then_cancelled)
    with pytest.raises(Cancelled) as caught:
        several.delete_several(plan, tmp_path, task)
    assert caught.value.left == "Done, and not undone: 1 of 3 steps."
    assert len(lab.set.points) == 5
    lab.check_all()


def test_of_a_machine_the_newest_moments_go_without_a_copy_too(tmp_path: Path) -> None:
    disks = Disks(tmp_path)
    for _ in range(4):
        disks.back_up()
    points = disks.repository.set("root").points
    plan = several.plan_delete(disks.repository, "root", [points[2].id, points[3].id])
    assert plan.ids == (points[3].id, points[2].id)
    assert plan.bytes_to_copy == 0
    assert "rolled" not in plan.summary
    several.delete_several(plan, tmp_path / "sessions", Task())
    disks.check(1, 2)


def test_in_which_order_very_many_go_is_known_at_once() -> None:
    """By whole numbers of points; each pair compared took an hour for as many."""
    parents = {str(number): str(number - 1) if number else None for number in range(10_000)}
    all_but_last = list(parents)[:-1]
    began = time.process_time()
    order, needed = several.order_of_going(parents, all_but_last)
    assert [each for each, _ in order] == all_but_last
    assert all(int(child or 0) == int(each) + 1 for each, child in order)
    assert needed == ()
    order, _ = several.order_of_going(parents, list(parents))
    assert [each for each, _ in order] == list(parents)[::-1]
    assert time.process_time() - began < 5


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.sets(st.integers(0, 11)))
def test_the_order_is_what_deleting_one_by_one_finds(below: list[int], chosen: set[int]) -> None:
    parents = {
        str(number): str(each % number) if number and each else None
        for number, each in enumerate(below)
    }
    going = [each for each in parents if int(each) in chosen]
    above, waiting, expected = dict(parents), list(going), []
    while waiting:
        on = {each: [child for child in above if above[child] == each] for each in waiting}
        ends = [each for each in reversed(waiting) if not on[each]]
        able = ends[:1] or [each for each in waiting if len(on[each]) == 1][:1]
        if not able:
            break
        waiting.remove(able[0])
        for child in on[able[0]]:
            above[child] = above[able[0]]
        del above[able[0]]
        expected.append((able[0], next(iter(on[able[0]]), None)))
    assert several.order_of_going(parents, going) == (tuple(expected), tuple(waiting))


def test_one_alone_is_merged_as_before(lab: Lab, points: list[RecoveryPoint]) -> None:
    alone = merge.plan(lab.repository, "disk", points[3].id)
    both = several.plan_merge(lab.repository, "disk", [points[2].id, points[3].id])
    assert both.bytes_to_copy == alone.bytes_to_copy
    assert both.invalidates == alone.invalidates
