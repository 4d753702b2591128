"""How the backups are: what needs a person is said, and nothing else needs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.machines import Disks
from tests.backup.sessions import SESSION
from tests.noise import noise
from vdbackup.errors import ScheduleNotFound
from vdbackup.operations import health
from vdbackup.operations.health import Concern, Moment, SetHealth
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store
from vdbackup.repository.kept_logs import Cause, KeptLog, Protection, record_path
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import BootTest, Check
from vdbackup.repository.policy import Policy

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOUR, DAY = 3600.0, 86400.0
Look = Callable[..., SetHealth]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config", tmp_path / "data")


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


@pytest.fixture
def look(lab: Lab, store: Store) -> Look:
    """How the lab's set is; `awake`: how long the computer has been at work."""

    def looked(awake: float = 30 * DAY, free: int | None = 1 << 30) -> SetHealth:
        moment = Moment(NOW, awake, timedelta(days=7))
        return health.of_set(lab.set, store, free, moment)

    return looked


def points(lab: Lab, *ages: timedelta) -> None:
    """Points that are so old."""
    for number, age in enumerate(ages):
        lab.poke(number * 65536, noise(65536, number))
        point = lab.backup()
        lab.repository.save_point("disk", replace(point, created=(NOW - age).isoformat()))


def about(found: SetHealth) -> list[Concern]:
    return [each.about for each in found.findings]


def test_a_set_that_is_backed_up_in_time_needs_nobody(lab: Lab, look: Look) -> None:
    points(lab, timedelta(days=2), timedelta(hours=3))
    found = look()
    assert (about(found), found.needs_somebody) == ([], False)
    assert found.age == 3 * HOUR
    assert (found.points, found.layers) == (2, 2)
    assert found.last_good is not None
    assert found.last_good.sequence == 2


def test_without_a_schedule_a_backup_is_late_after_the_days_of_the_settings(
    lab: Lab, look: Look
) -> None:
    points(lab, timedelta(days=8))
    assert about(look(awake=60.0)) == [Concern.LATE]


@pytest.mark.parametrize(
    ("every", "age", "awake", "late"),
    [
        ("daily", timedelta(hours=47), 30 * DAY, False),
        ("daily", timedelta(hours=49), 30 * DAY, True),
        ("daily", timedelta(days=5), 2 * HOUR, False),  # it was off
        ("daily", timedelta(days=8), 2 * HOUR, True),  # for too long
        ("15m", timedelta(hours=9), 20 * 60.0, False),  # it was off at night
        ("15m", timedelta(minutes=40), DAY, True),
        ("monthly", timedelta(days=40), 90 * DAY, False),
        ("monthly", timedelta(days=63), HOUR, True),
        ("plug", timedelta(days=6), 90 * DAY, False),
    ],
)
def test_a_backup_is_late_by_its_schedule_and_not_because_the_computer_was_off(
    lab: Lab, store: Store, look: Look, every: str, age: timedelta, awake: float, late: bool
) -> None:
    points(lab, age)
    store.save(Schedule(lab.repository.path, "disk", every))
    assert (Concern.LATE in about(look(awake=awake))) == late


def test_a_failed_run_is_said_until_one_does_not_fail(lab: Lab, store: Store, look: Look) -> None:
    points(lab, timedelta(hours=1))
    schedule = Schedule(lab.repository.path, "disk", "daily")
    store.save(schedule)
    moment = NOW.isoformat()
    store.note(schedule.id, Run(moment, moment, Outcome.FAILED, "The disk is gone."))
    store.note(schedule.id, Run(moment, moment, Outcome.SKIPPED))
    (finding,) = look().findings
    assert finding.sentence == "The last scheduled backup failed: The disk is gone."
    store.note(schedule.id, Run(moment, moment, Outcome.WARNED, "It was in use."))
    assert about(look()) == []


def test_a_failed_run_is_said_no_more_once_somebody_has_made_a_point(
    lab: Lab, store: Store, look: Look
) -> None:
    points(lab, timedelta(hours=1))
    schedule = Schedule(lab.repository.path, "disk", "daily")
    store.save(schedule)
    for hours, said in ((2, []), (1 / 2, [Concern.FAILED])):
        moment = (NOW - timedelta(hours=hours)).isoformat()
        store.note(schedule.id, Run(moment, moment, Outcome.FAILED, "The disk is gone."))
        assert about(look()) == said


def test_a_schedule_whose_record_is_damaged_needs_somebody(
    lab: Lab, store: Store, look: Look
) -> None:
    points(lab, timedelta(hours=1))
    schedule = Schedule(lab.repository.path, "disk", "daily")
    store.save(schedule)
    (store.records / f"{schedule.id}.json").write_text("{")
    assert about(look()) == [Concern.UNREADABLE]
    with pytest.raises(ScheduleNotFound, match="makes no sense any more"):
        store.get(lab.repository.path, "disk")


def test_a_history_that_is_damaged_is_not_as_if_nothing_had_run(
    lab: Lab, store: Store, look: Look
) -> None:
    points(lab, timedelta(hours=1))
    schedule = Schedule(lab.repository.path, "disk", "daily")
    store.save(schedule)
    moment = NOW.isoformat()
    run = Run(moment, moment, Outcome.DONE, "Point 1 was made.")
    store.note(schedule.id, run)
    (store.history / f"{schedule.id}.json").write_text('{"runs": [{}]}')
    assert about(look()) == [Concern.UNREADABLE]
    store.note(schedule.id, run)  # the next one
    assert about(look()) == []
    assert store.history_of(schedule.id).runs == (run,)


def test_a_set_that_is_scheduled_and_not_there_needs_somebody(lab: Lab, store: Store) -> None:
    points(lab, timedelta(hours=1))
    store.save(Schedule(lab.repository.path, "disk", "daily"))
    store.save(Schedule(lab.repository.path, "gone", "daily"))
    store.save(Schedule(lab.repository.path.parent / "another", "of another", "daily"))
    found = health.look(lab.repository.path, store, Moment(NOW, DAY, timedelta(days=7)))
    assert [(each.name, about(each)) for each in found.sets] == [
        ("disk", []),
        ("gone", [Concern.NO_POINTS]),
    ]
    assert found.needs_somebody


def test_a_machine_whose_record_is_damaged_needs_somebody(disks: Disks, store: Store) -> None:
    disks.back_up()
    moment = Moment(datetime.now(UTC), DAY, timedelta(days=7))
    assert not health.look(disks.repository.path, store, moment).needs_somebody
    (disks.repository.path / "machine-web.json").write_text("{")
    found = health.look(disks.repository.path, store, moment)
    assert [about(each) for each in found.sets] == [[Concern.UNREADABLE]] * 2


def test_a_machines_set_that_is_not_there_needs_somebody(disks: Disks, store: Store) -> None:
    disks.back_up()
    (disks.repository.path / "home").rename(disks.folder / "away")
    found = health.look(
        disks.repository.path, store, Moment(datetime.now(UTC), DAY, timedelta(days=7))
    )
    assert [(each.name, about(each)) for each in found.sets] == [
        ("root", []),
        ("home", [Concern.NO_POINTS]),
    ]


def test_a_damaged_point_is_no_good_one(lab: Lab, look: Look) -> None:
    points(lab, timedelta(days=9), timedelta(hours=1))
    newest = lab.set.points[-1]
    checked = replace(newest, verified=Check(NOW.isoformat(), ok=False))
    lab.repository.save_point("disk", checked)
    found = look()
    assert about(found) == [Concern.LATE, Concern.DAMAGED]
    assert found.last_good is not None
    assert found.last_good.sequence == 1


def test_a_source_that_could_not_be_read_whole_needs_somebody_until_it_is(
    lab: Lab, look: Look
) -> None:
    points(lab, timedelta(hours=3), timedelta(hours=2))
    lab.repository.save_point("disk", replace(lab.set.points[1], unreadable=((4096, 1024),)))
    (finding,) = look().findings
    assert finding.about is Concern.UNREAD
    assert finding.sentence.startswith("1 KiB of the source could not be read for point 2")
    points(lab, timedelta(hours=1))
    assert about(look()) == []


def test_writes_that_are_kept_no_more_need_somebody_until_there_is_a_newer_point(
    lab: Lab, look: Look
) -> None:
    points(lab, timedelta(hours=3))
    (point,) = lab.set.points
    ended = (NOW - timedelta(hours=2)).isoformat()
    kept = KeptLog.of(
        lab.set.folder,
        Protection(
            SESSION, point.id, "disk", ended, point.virtual_size, ended=ended,
            why="Its storage is full.", cause=Cause.STORAGE, source="/dev/vg/home",
        ),
    )  # fmt: skip
    kept.save()
    (finding,) = look().findings
    assert finding.about is Concern.WRITES_ENDED
    assert finding.sentence == ("Writes to /dev/vg/home are no longer kept: Its storage is full.")
    for other in (replace(kept.protection, cause=Cause.ASKED), replace(kept.protection, source="")):
        replace(kept, protection=other).save()  # asked for, or a machine's
        assert about(look()) == []
    kept.save()
    points(lab, timedelta(hours=1))
    assert about(look()) == []


def test_kept_writes_that_nobody_can_read_need_somebody(lab: Lab, look: Look) -> None:
    points(lab, timedelta(hours=1))
    record = record_path(lab.set.folder, SESSION)
    record.write_text("{")
    record.with_suffix(".log").write_bytes(bytes(512))
    (found,) = [each for each in look().findings if each.needs_somebody]
    assert found.about is Concern.UNREADABLE
    assert str(record) in found.sentence
    assert "be forgotten" in found.sentence


def test_what_does_not_boot_any_more_is_said(lab: Lab, look: Look) -> None:
    points(lab, timedelta(days=2), timedelta(hours=1))
    for point, ok in zip(lab.set.points, (True, False), strict=True):
        tested = replace(point, boot_tested=BootTest(NOW.isoformat(), ok=ok))
        lab.repository.save_point("disk", tested)
    found = look()
    assert about(found) == [Concern.NOT_BOOTING]
    assert found.boot_tested == NOW.isoformat()


def test_what_was_not_proven_for_thirty_days_is_a_quiet_mark(lab: Lab, look: Look) -> None:
    points(lab, timedelta(days=40), timedelta(hours=1))
    found = look()
    assert (about(found), found.needs_somebody) == ([Concern.UNPROVEN], False)
    checked = replace(
        lab.set.points[0], verified=Check((NOW - timedelta(days=3)).isoformat(), True)
    )
    lab.repository.save_point("disk", checked)
    assert about(look()) == []


def test_when_the_storage_is_full_is_said_where_it_can_be(lab: Lab, look: Look) -> None:
    points(lab, *(timedelta(days=days) for days in (12, 10, 8, 6, 4, 2, 0)))
    stored = sum(point.stored_bytes for point in lab.set.points[1:])
    found = look(free=stored)
    assert found.full_in == pytest.approx(10 * DAY)
    assert about(found) == [Concern.SOON_FULL]
    assert about(look(free=100 * stored)) == []
    assert look(free=None).full_in is None
    with lab.repository.lock("a test"):
        lab.repository.set_policy("disk", Policy(daily=7))
    assert look(free=stored).full_in is None  # points are merged


def test_a_few_days_say_nothing_of_how_a_set_grows(lab: Lab, look: Look) -> None:
    points(lab, *(timedelta(hours=hours) for hours in (40, 30, 20, 10, 0)))
    assert look(free=1).full_in is None


def test_a_set_that_cannot_be_read_needs_somebody(lab: Lab, store: Store) -> None:
    points(lab, timedelta(hours=1))
    moment = Moment(NOW, DAY, timedelta(days=7))
    manifest_path(lab.set_folder, lab.set.points[0]).write_text("{")
    (found,) = health.look(lab.repository.path, store, moment).sets
    assert about(found) == [Concern.UNREADABLE, Concern.NO_POINTS]
    (lab.set_folder / "set.json").write_text("{")
    (found,) = health.look(lab.repository.path, store, moment).sets
    assert about(found) == [Concern.UNREADABLE]
    gone = health.look(lab.folder / "nowhere", store, moment)
    assert gone.problem is not None
    assert gone.needs_somebody


def test_looking_changes_nothing(lab: Lab, store: Store) -> None:
    points(lab, timedelta(hours=1))
    before = lab.files
    health.look(lab.repository.path, store, Moment.at_present(7))
    assert lab.files == before
    assert not store.records.exists()
    assert not store.history.exists()


def test_a_set_that_is_boot_tested_is_proven_by_a_point_that_is_verified_too(
    lab: Lab, look: Look
) -> None:
    """Each alone says half: data that nobody can start, or a start from data that may be wrong."""
    points(lab, timedelta(days=40), timedelta(hours=1))
    older, newer = ((NOW - timedelta(days=days)).isoformat() for days in (5, 3))
    booted = replace(lab.set.points[0], boot_tested=BootTest(newer, ok=True))
    lab.repository.save_point("disk", booted)
    assert (about(look()), look().proven) == ([Concern.UNPROVEN], "")
    lab.repository.save_point("disk", replace(booted, verified=Check(older, ok=True)))
    assert (about(look()), look().proven) == ([], older)
    lab.repository.save_point("disk", replace(booted, verified=Check(older, ok=False)))
    assert look().proven == ""
