"""A set's policy, changed without a backup: what was shown, and nothing more, goes by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backup.lab import Lab, fingerprint
from tests.noise import noise
from vdbackup.backup.forecast import Outcome
from vdbackup.errors import BackupError, UsageError
from vdbackup.jobs import Task
from vdbackup.operations import pins, policy
from vdbackup.operations.policy import ALL, Change, PolicyResult
from vdbackup.repository import holds
from vdbackup.repository.model import Promotion
from vdbackup.repository.policy import BootTests, Policy


def changed(lab: Lab, change: Change) -> PolicyResult:
    return policy.run(policy.plan(lab.repository, "disk", change), Task())


def back_up(lab: Lab, times: int) -> None:
    for number in range(times):
        lab.poke(number * 65536, noise(65536, number))
        lab.backup()


def test_points_that_a_policy_takes_go_with_the_next_backup_and_not_before(lab: Lab) -> None:
    back_up(lab, 4)
    plan = policy.plan(lab.repository, "disk", Change(keep=2))
    assert [point.sequence for point in plan.takes] == [1, 2, 3]
    assert plan.invalidates == ("point 1", "point 2", "point 3")
    result = policy.run(plan, Task())
    assert result.policy == Policy(keep=2)
    assert [point.sequence for point in lab.set.points] == [1, 2, 3, 4]
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [4, 5]
    lab.check_all()


def test_a_plan_changes_nothing(lab: Lab) -> None:
    back_up(lab, 2)
    before = fingerprint(lab.repository.path)
    policy.plan(lab.repository, "disk", Change(1, retarget=False, boot_test=BootTests.EACH))
    assert fingerprint(lab.repository.path) == before


def test_a_policy_takes_no_more_points_than_were_shown(lab: Lab) -> None:
    back_up(lab, 2)
    plan = policy.plan(lab.repository, "disk", Change(keep=2))
    back_up(lab, 1)
    with pytest.raises(BackupError, match="more points would go"):
        policy.run(plan, Task())
    assert lab.set.settings.policy == Policy()


def test_what_would_go_is_not_told_while_a_manifest_is_damaged(lab: Lab) -> None:
    """None goes then; all that are older would once it is mended, and nobody would have seen it."""
    back_up(lab, 3)
    plan = policy.plan(lab.repository, "disk", Change(keep=4))
    manifest = lab.set.folder / "0002-incremental.json"
    manifest.write_text("{")
    with pytest.raises(BackupError, match="cannot be told while 0002-incremental"):
        policy.plan(lab.repository, "disk", Change(keep=1))
    with pytest.raises(BackupError, match="cannot be told"):
        policy.run(plan, Task())
    assert lab.set.settings.policy == Policy()
    changed(lab, Change(boot_test=BootTests.EACH, keep=ALL))
    assert lab.set.settings.policy == Policy(boot_test=BootTests.EACH)


def test_a_change_of_policy_keeps_what_others_have_changed_meanwhile(lab: Lab) -> None:
    back_up(lab, 1)
    plans = [
        policy.plan(lab.repository, "disk", change)
        for change in (Change(keep=5), Change(boot_test=BootTests.EACH), Change(retarget=False))
    ]
    for plan in plans:
        policy.run(plan, Task())
    assert lab.set.settings.policy == Policy(5, retarget=False, boot_test=BootTests.EACH)


def test_all_points_can_be_kept_again(lab: Lab) -> None:
    back_up(lab, 2)
    changed(lab, Change(keep=2))
    plan = policy.plan(lab.repository, "disk", Change(keep=ALL))
    assert plan.takes == ()
    assert policy.run(plan, Task()).sentences == ("disk keeps all its points.",)
    back_up(lab, 1)
    assert len(lab.set.points) == 3


def test_each_change_is_said_in_a_sentence(lab: Lab) -> None:
    back_up(lab, 1)
    said = changed(lab, Change(1, retarget=False, boot_test=BootTests.EACH)).sentences
    assert said == (
        "disk keeps its newest point alone, from its next backup on.",
        "New points of disk are made ready to boot only when somebody asks for it.",
        "Each new point of disk is boot-tested.",
    )
    said = changed(lab, Change(retarget=True, boot_test=BootTests.OFF)).sentences
    assert said == (
        "Each new point of disk is made ready to boot.",
        "No new point of disk is boot-tested.",
    )
    assert changed(lab, Change(retarget=True)).sentences == ()


def test_what_the_policy_takes_already_is_not_asked_for_again(lab: Lab) -> None:
    back_up(lab, 3)
    changed(lab, Change(keep=1))
    assert policy.plan(lab.repository, "disk", Change(keep=1, retarget=False)).takes == ()


def test_the_newest_point_always_stays(lab: Lab) -> None:
    back_up(lab, 1)
    with pytest.raises(UsageError, match="cannot be kept"):
        policy.plan(lab.repository, "disk", Change(keep=0))


def test_a_change_of_rules_takes_what_was_foretold_and_no_more(lab: Lab) -> None:
    back_up(lab, 5)
    pins.run(pins.plan(lab.repository, "disk", lab.set.points[1].id, "by hand"), Task())
    plan = policy.plan(lab.repository, "disk", Change(daily=7, at_most=3))
    gone = [fate.point.sequence for fate in plan.fates if fate.outcome is Outcome.GOES]
    assert gone == [1, 3, 4, 5]
    assert plan.invalidates == tuple(f"point {number}" for number in gone)
    policy.run(plan, Task())
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [2, 6]
    lab.check_all()


def test_a_set_holds_no_more_than_its_policy_lets_it_and_loses_no_more_than_that_needs(
    lab: Lab,
) -> None:
    lab.poke(0, noise(15 * 65536, 1))
    lab.backup()
    for number in range(4):
        lab.poke(0, noise(3 * 65536, 20 + number))  # the same each time: what is merged is freed
        lab.backup()
    limit = sum(point.stored_bytes for point in lab.set.points)
    one = lab.set.points[-1].stored_bytes
    plan = policy.plan(lab.repository, "disk", Change(at_most_bytes=limit))
    gone = [fate for fate in plan.fates if fate.outcome is Outcome.GOES]
    assert [fate.point.sequence for fate in gone] == [1]
    assert gone[0].why == "the newer ones hold as much as they may"
    policy.run(plan, Task())
    for number in range(3):
        lab.poke(0, noise(3 * 65536, 30 + number))
        lab.backup()
        held = sum(point.stored_bytes for point in lab.set.points)
        assert limit - one < held <= limit  # nor did more go
    assert [point.sequence for point in lab.set.points] == [4, 5, 6, 7, 8]
    lab.check_all()


def test_a_large_full_that_is_older_takes_no_point_of_the_chain_after_it_with_it(lab: Lab) -> None:
    """It is no part of what is kept: with its own chain it is just gone."""
    lab.poke(0, noise(15 * 65536, 1))
    lab.backup()
    lab.poke(0, bytes(13 * 65536))
    lab.backup(kind="full")
    for number in range(4):
        lab.poke(65536, noise(65536, 20 + number))
        lab.backup()
    points = lab.set.points
    limit = points[0].stored_bytes
    assert sum(point.stored_bytes for point in points[1:]) + points[-1].stored_bytes < limit
    plan = policy.plan(lab.repository, "disk", Change(at_most_bytes=limit))
    gone = [fate for fate in plan.fates if fate.outcome is Outcome.GOES]
    assert [fate.point.sequence for fate in gone] == [1]
    policy.run(plan, Task())
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [2, 3, 4, 5, 6, 7]
    lab.check_all()


def test_the_newest_point_stays_however_little_there_may_be(lab: Lab) -> None:
    back_up(lab, 3)
    changed(lab, Change(at_most_bytes=1 << 20))
    policy.run(policy.plan(lab.repository, "disk", Change(at_most_bytes=1)), Task())
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [4]
    lab.check_all()
    with pytest.raises(UsageError, match="can hold"):
        Policy(at_most_bytes=0)


def test_a_set_that_several_rules_keep_says_so_in_one_sentence(lab: Lab) -> None:
    back_up(lab, 1)
    (said,) = changed(lab, Change(keep=3, keep_within=48, daily=7, monthly=1, at_most=50)).sentences
    assert said == (
        "disk keeps the newest 3, all points of the last 2 days and the newest of each of 7 days "
        "and 1 month, 50 points at most, from its next backup on."
    )


def test_what_a_session_lies_on_goes_once_that_is_over(lab: Lab) -> None:
    back_up(lab, 3)
    first = lab.set.points[0]
    session = lab.folder / "sessions" / "laptop"
    session.mkdir(parents=True)
    holds.place(lab.set, first, "20261128-120000-abcdef", "laptop", session)
    plan = policy.plan(lab.repository, "disk", Change(keep=1))
    assert [fate.outcome for fate in plan.fates] == [Outcome.LATER, Outcome.GOES, Outcome.GOES]
    assert plan.fates[0].why.endswith("not while a session lies on it")
    policy.run(plan, Task())
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [1, 4]


def test_a_policy_never_bridges_what_was_promoted(lab: Lab) -> None:
    back_up(lab, 3)
    second = lab.set.points[1]
    made = Promotion("20261128-120000-abcdef", "a machine", second.created)
    lab.repository.save_point("disk", replace(second, promoted_from=made))
    changed(lab, Change(daily=3))
    back_up(lab, 1)
    assert [point.sequence for point in lab.set.points] == [2, 4]
    lab.check_all()
