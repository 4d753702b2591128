"""Machines: the points of several disks are kept, merged, deleted and named together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.agent.mounts import image
from tests.backup.machines import SIZE, Disks
from tests.crash.kept import ended_before_each_change
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import capture, convert, machine_capture, merge, repair
from vdbackup.errors import (
    BackupError,
    BadSetName,
    DamagedMetadata,
    MachineNotFound,
    NoSpace,
    NotMergeable,
    NotOneMachine,
    NotWhole,
    PointNotFound,
    Remedy,
    UnfitTarget,
    UsageError,
    VdbackupError,
)
from vdbackup.jobs import Task
from vdbackup.operations import delete, machine_backup, machine_restore, pins, policy
from vdbackup.operations import merge as merging
from vdbackup.operations.backup import BackupRequest, planned
from vdbackup.operations.machine_backup import MachineRequest
from vdbackup.operations.machine_restore import MachineRestoreRequest
from vdbackup.operations.machines import Machines
from vdbackup.operations.policy import Change
from vdbackup.repository import publication
from vdbackup.repository.machine import (
    KnownMachines,
    find_moment,
    moments_of,
    points_together,
)
from vdbackup.repository.policy import Policy
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


def back_up_alone(disks: Disks, number: int, **wanted: Any) -> None:
    request = BackupRequest(
        SourceRef.of_path(disks.images[number]), disks.repository.path, policy=Change(**wanted)
    )
    with planned(request) as plan:
        capture.run(plan, Task())


def lose(disks: Disks, name: str, number: int) -> None:
    """A disk's point of a moment."""
    moment = find_moment(disks.repository, disks.machine, str(number))
    with disks.repository.lock("a test"):
        publication.withdraw(disks.repository.path / name, moment.points[name])


def delete_moment(disks: Disks, name: str, sequence: int) -> None:
    _, point = disks.repository.find(str(sequence), name)
    plan = delete.plan(disks.repository, name, point.id)
    delete.run(plan, disks.folder / "sessions", Task())


# ------------------------------------------------------------------------------- together


def test_a_deletion_of_one_disks_point_takes_the_moments_others_and_says_so(disks):
    for _ in range(3):
        disks.back_up()
    _, point = disks.repository.find("2", "home")
    plan = delete.plan(disks.repository, "home", point.id)
    assert plan.invalidates == ("point 2 of root", "point 2 of home")
    assert "Moment 2 of web is deleted, on all of its disks." in plan.summary
    result = delete.run(plan, disks.folder / "sessions", Task())
    assert result.changed.sets == {"root", "home"}
    disks.check(1, 3)


def test_a_merge_of_one_disks_point_takes_the_moments_others(disks):
    for _ in range(3):
        disks.back_up()
    _, point = disks.repository.find("3", "root")
    plan = merging.plan(disks.repository, "root", point.id)
    result = merging.run(plan, disks.folder / "sessions", Task())
    assert result.point.sequence == 3
    assert result.changed.sets == {"root", "home"}
    disks.check(1, 3)


def test_points_that_do_not_follow_those_of_one_moment_are_not_merged(disks):
    disks.back_up()
    disks.back_up()
    lose(disks, "home", 2)
    disks.back_up()
    _, point = disks.repository.find("3", "root")
    with pytest.raises(NotMergeable, match="do not all follow those of one moment"):
        merging.plan(disks.repository, "root", point.id)


def test_as_many_moments_are_kept_as_were_asked_for_and_the_rest_goes_together(disks):
    for _ in range(4):
        disks.back_up()
    change = Change(keep=2)
    plan = policy.plan(disks.repository, "home", change)
    assert [point.sequence for point in plan.takes] == [1, 2, 3]
    policy.run(plan, Task())
    assert {each.settings.policy.keep for each in disks.repository.sets()} == {2}
    made = disks.back_up()
    assert made.notes == tuple(f"Moment {number} is no longer kept." for number in (1, 2, 3))
    disks.check(4, 5)


def test_chains_that_go_as_a_whole_are_rolled_into_nothing(disks, monkeypatch):
    """What is only to be deleted is not copied before, for which there may be no space."""
    for _ in range(3):
        disks.back_up()
    policy.run(policy.plan(disks.repository, "root", Change(keep=1)), Task())
    rolled: list[str] = []
    merge_locked = merge.merge_locked
    monkeypatch.setattr(
        merge, "merge_locked", lambda *args: rolled.append(args[2]) or merge_locked(*args)
    )
    made = disks.capture(kind="full")
    assert made.notes == tuple(f"Moment {number} is no longer kept." for number in (3, 2, 1))
    assert (disks.numbers(), rolled) == ([4], [])


def test_what_is_left_of_a_moment_counts_for_nothing_and_goes_when_it_is_old(disks):
    for _ in range(3):
        disks.back_up()
    lose(disks, "home", 3)
    assert disks.halves() == [3]
    policy.run(policy.plan(disks.repository, "root", Change(keep=2)), Task())
    disks.back_up()
    assert (disks.numbers(), disks.halves()) == ([2, 4], [3])
    disks.back_up()
    assert disks.halves() == []
    disks.check(4, 5)


def test_what_a_set_held_before_it_was_a_machines_goes_when_it_is_older(disks):
    back_up_alone(disks, 0)
    disks.back_up()
    assert [point.sequence for point in disks.repository.set("root").points] == [1, 2]
    policy.run(policy.plan(disks.repository, "root", Change(keep=1)), Task())
    disks.back_up()
    assert [point.sequence for point in disks.repository.set("root").points] == [3]
    disks.check(2)


def test_what_a_set_held_before_it_was_a_machines_goes_no_sooner_than_it_would_have_alone(disks):
    for number in range(1, 4):
        back_up_alone(disks, 0, keep=3)
        back_up_alone(disks, 1, keep=3)
        disks.write(number)
    left = []
    for _ in range(4):
        disks.back_up()
        root, home = disks.repository.set("root"), disks.repository.set("home")
        assert [each.sequence for each in root.points] == [each.sequence for each in home.points]
        left.append([each.sequence for each in root.points])
    assert left == [[2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]
    disks.check(2, 3, 4)


def test_a_moment_with_a_point_in_use_stays_whole_until_that_is_over(disks):
    from vdbackup.repository import claims

    for _ in range(2):
        disks.back_up()
    policy.run(policy.plan(disks.repository, "root", Change(keep=1)), Task())
    _, point = disks.repository.find("1", "home")
    with claims.reading(disks.repository, "home", [point.id], "a test"):
        made = disks.back_up()
    assert any("Moment 1 stays for now" in note for note in made.notes)
    assert disks.halves() == []
    disks.back_up()
    disks.check(4)


# --------------------------------------------------------------------------- bad days


def test_a_backup_that_ends_at_any_change_leaves_moments_that_are_whole_or_named(disks):
    disks.back_up()
    found = set()
    for moment in ended_before_each_change(disks.repository.path, disks.capture):
        moment.bring_back()
        merge.recover(disks.repository, Task())
        sets = {each.name: len(each.points) for each in disks.repository.sets()}
        found.add((disks.numbers()[1:] != [], disks.halves() != []))
        if len(set(sets.values())) > 1:
            assert disks.halves() == [2]
        made = disks.capture()
        assert not made.moment.missing
        assert made.moment.moment.number not in (1, *disks.halves())
    assert found >= {(False, False), (True, False)}


def test_a_point_whose_manifest_was_lost_is_of_its_moment_again_once_it_is_rebuilt(disks):
    disks.back_up()
    next((disks.repository.path / "home").glob("0001-*.json")).unlink()
    assert disks.halves() == [1]
    with pytest.raises(NotWhole, match="home has no point of it"):
        find_moment(disks.repository, disks.machine, "1").check_whole()
    repair.run(disks.repository.path, Task())
    assert disks.halves() == []
    disks.check(1)
    delete_moment(disks, "home", 1)
    assert disks.numbers() == []
    assert all(not each.points for each in disks.repository.sets())


def test_two_machines_that_claim_one_set_are_both_refused(disks):
    disks.back_up()
    record = disks.repository.path / "machine-other.json"
    record.write_text(json.dumps({"name": "other", "sets": ["home"]}))
    known = KnownMachines.of(disks.repository)
    assert {each.name for each in known.damaged} == {"web", "other"}
    _, point = disks.repository.find("1", "root")
    for refused in (
        disks.capture,
        lambda: delete.plan(disks.repository, "root", point.id),
        lambda: policy.plan(disks.repository, "root", Change(keep=1)),
        lambda: points_together(disks.repository, disks.repository.set("root"), point),
    ):
        with pytest.raises(DamagedMetadata, match="is claimed by the machine"):
            refused()
    record.unlink()
    disks.check(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "web"}',
        '{"name": "web", "sets": []}',
        '{"name": "web", "sets": ["root", "root"]}',
        '{"name": "web", "sets": ["../root"]}',
        '{"name": "else", "sets": ["root", "home"]}',
        '{"name": "web", "sets": ["root"], "last_number": -1}',
    ],
)
def test_a_record_that_makes_no_sense_stops_what_would_part_the_disks(disks, text):
    disks.back_up()
    (disks.repository.path / "machine-web.json").write_text(text)
    (lost,) = KnownMachines.of(disks.repository).damaged
    assert lost.name == "web"
    _, point = disks.repository.find("1", "home")
    with pytest.raises(DamagedMetadata):
        delete.plan(disks.repository, "home", point.id)
    with pytest.raises(DamagedMetadata):
        disks.capture()


def test_disks_of_a_machine_whose_record_is_damaged_become_no_other_machine(disks):
    disks.back_up()
    (disks.repository.path / "machine-web.json").write_text('{"name": "web", "sets": 3}')
    with ExitStack() as stack:
        sources = [stack.enter_context(open_path(each)) for each in disks.images]
        with pytest.raises(DamagedMetadata, match="record of the machine web is damaged"):
            machine_capture.plan(disks.repository, sources, "another")


def test_a_number_is_given_to_one_moment_only_whatever_was_deleted(disks):
    disks.back_up()
    disks.back_up()
    delete_moment(disks, "root", 2)
    made = disks.back_up()
    assert made.moment.moment.number == 3


# ------------------------------------------------------------------------- what is refused


def request(disks: Disks, *images: Path, **wanted: Any) -> MachineRequest:
    refs = tuple(map(SourceRef.of_path, images))
    return MachineRequest("web", disks.repository.path, refs, **wanted)


def planned_sets(disks: Disks, *images: Path, **wanted: Any) -> Sequence[str]:
    return machine_backup.plan(request(disks, *images, **wanted)).machine.sets


def test_a_machine_is_backed_up_again_by_its_name_alone(disks):
    disks.back_up()
    machines = Machines(disks.folder / "sessions")
    made = machine_backup.back_up(request(disks), machines, Task())
    assert made.moment.moment.number == 2
    assert list(made.moment.points) == ["root", "home"]
    assert made.changed.sets == {"root", "home"}


def test_a_disk_of_a_machine_is_not_backed_up_alone(disks):
    disks.back_up()
    alone = BackupRequest(SourceRef.of_path(disks.images[1]), disks.repository.path)
    with pytest.raises(NotOneMachine, match="is a disk of the machine web"), planned(alone):
        pass


def test_a_machine_is_not_backed_up_without_one_of_its_disks(disks):
    disks.back_up()
    with pytest.raises(NotOneMachine, match="has other disks, too: home"):
        planned_sets(disks, disks.images[0])
    disks.images[1].rename(disks.folder / "unplugged")
    with pytest.raises(NotOneMachine, match=r"missing \(home of web\): There is no"):
        planned_sets(disks)


def test_a_machine_goes_on_without_a_disk_that_is_gone_for_good_as_is_advised(disks):
    disks.back_up()
    disks.images[1].unlink()
    with pytest.raises(NotOneMachine) as raised:
        planned_sets(disks)
    assert "gone for good, remove machine-web.json" in raised.value.advice
    (disks.repository.path / "machine-web.json").unlink()
    left = MachineRequest("web", disks.repository.path, (SourceRef.of_path(disks.images[0]),))
    made = machine_backup.back_up(left, Machines(disks.folder), Task())
    assert (made.machine.sets, made.moment.missing) == (("root",), ())
    first, second = moments_of(disks.repository, made.machine)
    assert (first.missing, second.moment.number) == (("home",), 2)
    assert len(disks.repository.set("home").points) == 1


def test_another_disk_in_the_place_of_a_machines_is_refused_until_it_is_said_to_be_meant(disks):
    from vdbackup.errors import OtherSource

    image(disks.images[1], 4, "ext4")
    disks.capture()
    disks.images[1].unlink()
    image(disks.images[1], 4, "ext4")
    with pytest.raises(OtherSource) as raised:
        planned_sets(disks)
    assert raised.value.remedy is Remedy.SAY_SAME_DISK
    assert planned_sets(disks, same_source=True) == ("root", "home")


def test_a_disk_that_is_named_twice_or_is_another_machines_is_refused(disks):
    with pytest.raises(NotOneMachine, match="is named twice"):
        planned_sets(disks, disks.images[0], disks.images[0])
    disks.back_up()
    other = MachineRequest("other", disks.repository.path, (SourceRef.of_path(disks.images[0]),))
    with pytest.raises(NotOneMachine, match="belongs to the machine web"):
        machine_backup.plan(other)
    with pytest.raises(MachineNotFound, match="no machine 'none'"):
        machine_backup.plan(MachineRequest("none", disks.repository.path))


def test_a_disk_joins_a_machine_and_older_moments_stay_whole_without_it(disks):
    disks.back_up()
    third = disks.folder / "third.img"
    third.write_bytes(noise(SIZE, 7))
    disks.images.append(third)
    made = disks.back_up()
    assert list(made.moment.points) == ["root", "home", "third"]
    disks.check(1, 2)
    policy.run(policy.plan(disks.repository, "root", Change(keep=1)), Task())
    disks.back_up()
    disks.check(3)


def test_disks_that_fit_one_by_one_and_not_together_are_refused_before_any_set_is_made(
    disks, monkeypatch
):
    monkeypatch.setattr("vdbackup.backup.space.free_space", lambda _: 7 << 20)
    monkeypatch.setattr("vdbackup.repository.files.free_space", lambda _: 7 << 20)
    with pytest.raises(NoSpace, match="A backup of web may need"):
        disks.capture()
    assert disks.repository.names() == []


def test_while_disks_are_to_keep_different_points_none_goes_and_each_backup_says_so(disks):
    back_up_alone(disks, 0, keep=1)
    back_up_alone(disks, 1, keep=2)
    said = "root, home are not to keep the same points"
    with machine_backup.planned(disks.request()) as plan:
        assert said in plan.summary
        assert {each.policy.keep for each in plan.disks} == {1, 2}
    for _ in range(2):
        made = disks.back_up()
        (warning,) = made.warnings
        assert said in warning
    disks.check(1, 2)
    with machine_backup.planned(disks.request(policy=Change(keep=1))) as plan:
        assert plan.invalidates == ("Point 1 of root", "Point 1 of home", "Moment 1", "Moment 2")
        machine_backup.run(plan, Machines(disks.folder / "sessions"), Task())
    assert disks.numbers() == [3]
    assert {each.settings.policy.keep for each in disks.repository.sets()} == {1}


def test_what_a_new_machine_takes_of_what_its_disks_held_before_is_in_the_plan(disks):
    for number in range(1, 4):
        back_up_alone(disks, 0)
        disks.write(number)
    with machine_backup.planned(disks.request(policy=Change(keep=2))) as plan:
        assert plan.invalidates == ("Point 1 of root", "Point 2 of root")
        machine_backup.run(plan, Machines(disks.folder / "sessions"), Task())
    assert [each.sequence for each in disks.repository.set("root").points] == [3, 4]


def test_two_new_disks_that_are_called_alike_get_sets_of_their_own(disks):
    images = []
    for number in range(3):
        (disks.folder / f"{number}").mkdir()
        path = disks.folder / f"{number}/disk.img"
        path.write_bytes(noise(SIZE, number))
        images.append(path)
    assert planned_sets(disks, *images) == ("disk", "disk-2", "disk-3")


# ---------------------------------------------------------------------------- restore


def test_all_disks_of_a_moment_are_restored_together(disks, tmp_path):
    disks.back_up()
    disks.back_up()
    moment = find_moment(disks.repository, disks.machine, "1")
    (tmp_path / "out").mkdir()
    targets = machine_restore.targets_for(moment, [tmp_path / "out"], "raw")
    plan = machine_restore.plan(MachineRestoreRequest(disks.repository, moment, targets))
    assert plan.creates == tuple(str(tmp_path / f"out/{name}.img") for name in ("root", "home"))
    machine_restore.run(plan, Task())
    restored = [(tmp_path / f"out/{name}.img").read_bytes() for name in ("root", "home")]
    assert restored == disks.held[1]


def test_targets_that_do_not_fit_the_disks_are_refused_before_anything_is_written(disks, tmp_path):
    disks.back_up()
    moment = find_moment(disks.repository, disks.machine, "latest")
    with pytest.raises(UsageError, match="3 targets are named, and web has 2 disks"):
        machine_restore.targets_for(moment, [tmp_path / each for each in "abc"], "raw")
    with pytest.raises(UsageError, match="is no folder, and web has 2 disks"):
        machine_restore.targets_for(moment, [tmp_path / "a"], "raw")
    with pytest.raises(UnfitTarget, match="to one target"):
        machine_restore.targets_for(moment, [tmp_path / "a", tmp_path / "a"], "raw")
    lose(disks, "home", 1)
    half = find_moment(disks.repository, disks.machine, "1")
    with pytest.raises(NotWhole):
        machine_restore.plan(
            MachineRestoreRequest(disks.repository, half, {"root": tmp_path / "a"})
        )
    with pytest.raises(PointNotFound):
        find_moment(disks.repository, disks.machine, "latest")


@pytest.mark.parametrize("by", [None, delete, merging])
def test_a_moment_stays_whole_where_a_disks_point_cannot_go_for_damage_above_it(disks, by):
    for _ in range(3):
        disks.back_up()
    home = disks.repository.set("home")
    if by:
        _, asked = disks.repository.find("1" if by is delete else "2", "root")
        plan = by.plan(disks.repository, "root", asked.id)
    layer = home.disk_path(home.points[2])
    layer.chmod(0o600)
    layer.write_bytes(bytes(1024) + layer.read_bytes()[1024:])
    if by:
        with pytest.raises(VdbackupError):
            by.run(plan, disks.folder / "sessions", Task())
    else:
        policy.run(policy.plan(disks.repository, "root", Change(keep=1)), Task())
        made = disks.back_up()
        assert any("Moment 1 was due to go, and stays" in each for each in made.warnings)
    assert disks.halves() == []
    assert disks.numbers()[:3] == [1, 2, 3]


@pytest.mark.parametrize("what", [delete, merging])
def test_a_moment_of_which_a_point_was_pinned_meanwhile_stays_whole(disks, what):
    for _ in range(3):
        disks.back_up()
    _, asked = disks.repository.find("2" if what is delete else "3", "root")
    plan = what.plan(disks.repository, "root", asked.id)
    _, pinned = disks.repository.find("2", "home")
    pins.run(pins.plan(disks.repository, "home", pinned.id, ""), Task())
    with pytest.raises(BackupError, match="pinned"):
        what.run(plan, disks.folder / "sessions", Task())
    disks.check(1, 2, 3)


@pytest.mark.parametrize("name", ["", "a/b", "web.partial"])
def test_a_machines_name_that_no_file_can_bear_is_refused(disks, name):
    with pytest.raises(BadSetName, match="cannot be the name of a machine"):
        machine_backup.plan(replace(disks.request(), name=name))


def test_a_name_that_is_anothers_but_for_upper_and_lower_case_is_refused(disks):
    disks.back_up()
    with pytest.raises(NotOneMachine, match="differs only in upper and lower case"):
        machine_backup.plan(replace(disks.request(), name="Web"))


def test_a_machine_goes_on_in_its_own_sets_when_one_was_converted(disks):
    disks.back_up()
    plan = convert.plan(disks.repository, "home", "qcow2")
    assert "home stays, and backups of the machine web go on there." in plan.summary
    convert.run(plan, Task())
    made = disks.back_up()
    assert made.moment.points.keys() == {"root", "home"}
    disks.check(1, 2)


# ------------------------------------------------------------------------------- one policy


def test_a_change_of_policy_names_what_goes_of_the_other_disks_too(disks):
    for number in range(3):
        back_up_alone(disks, 1)
        disks.write(number)
    disks.back_up()
    plan = policy.plan(disks.repository, "root", Change(keep=1))
    assert plan.invalidates == (*(f"Point {n} of home" for n in (1, 2, 3)), "Moment 1")
    plan = policy.plan(disks.repository, "root", Change(keep=2))
    assert plan.invalidates == ("Point 1 of home", "Point 2 of home", "Point 3 of home")
    policy.run(plan, Task())
    assert disks.back_up().notes == tuple(f"{each} is no longer kept." for each in plan.invalidates)


def test_what_is_foretold_of_a_machines_points_is_what_becomes_of_its_moments(disks):
    for _ in range(3):
        disks.back_up()
    _, point = disks.repository.find("1", "home")
    pins.run(pins.plan(disks.repository, "home", point.id, ""), Task())
    plan = policy.plan(disks.repository, "root", Change(keep=2))
    assert [(fate.point.sequence, str(fate.outcome)) for fate in plan.fates] == [
        (1, "stays"),
        (2, "goes"),
        (3, "stays"),
    ]
    policy.run(plan, Task())
    disks.back_up()
    disks.check(1, 3, 4)


def test_a_policy_that_one_disk_has_already_becomes_that_of_all(disks):
    disks.back_up()
    settings = disks.repository.set("home").settings
    disks.repository.set_policy("home", settings.policy.retaining(Policy(keep=2)))
    policy.run(policy.plan(disks.repository, "home", Change(keep=2)), Task())
    assert {each.settings.policy.keep for each in disks.repository.sets()} == {2}
