"""Older points are merged at a time of their own, where a schedule says so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.operations.schedules.test_run import dated
from vdbackup.errors import RepositoryError, UsageError
from vdbackup.jobs import Task
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import arrange, merging, run
from vdbackup.operations.schedules.store import Outcome, Schedule, Store
from vdbackup.repository.policy import Policy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")


@pytest.fixture
def schedule(lab: Lab, store: Store) -> Schedule:
    """Of a set that keeps one point, merged at three in the night."""
    lab.backup()
    dated(lab, datetime(2020, 1, 1, tzinfo=UTC))
    with lab.repository.lock("a test"):
        lab.repository.set_policy("disk", Policy(keep=1))
    made = Schedule(lab.repository.path, "disk", "1m", merge_at="03:00")
    store.save(made)
    return made


def test_a_scheduled_backup_leaves_the_merge_to_its_time(
    lab: Lab, store: Store, schedule: Schedule
) -> None:
    lab.poke(0, noise(65536, 5))
    made = run.run(store, schedule, Machines(lab.folder / "sessions", None), Task())
    assert made.run.outcome is Outcome.DONE
    assert [point.sequence for point in lab.set.points] == [1, 2]
    merged = merging.run(store, schedule, lab.folder / "sessions", Task())
    assert merged.done == ("Point 2 was rolled into point 1.",)
    assert (merged.warnings, merged.trouble) == ((), ())
    assert [point.sequence for point in lab.set.points] == [2]
    again = merging.run(store, schedule, lab.folder / "sessions", Task())
    assert merging.words(again) == ("Nothing was to be merged.",)
    assert store.history_of(schedule.id).last == made.run  # a merge is no backup
    last = store.last_merge(schedule.id)
    assert last is not None
    assert (last.outcome, last.sentence) == (Outcome.DONE, "Nothing was to be merged.")


def test_a_merge_that_fails_is_noted(lab: Lab, store: Store, schedule: Schedule) -> None:
    (lab.repository.path / "vdbackup.json").rename(lab.folder / "away")
    with pytest.raises(RepositoryError):
        merging.run(store, schedule, lab.folder, Task())
    last = store.last_merge(schedule.id)
    assert last is not None
    assert last.outcome is Outcome.FAILED
    assert store.history_of(schedule.id).last is None  # no backup has failed
    store.remove(schedule.id)
    assert store.last_merge(schedule.id) is None


def test_a_merge_time_that_makes_no_sense_is_refused(lab: Lab, store: Store) -> None:
    lab.backup()
    with pytest.raises(UsageError, match="'25:00' is no time of the day"):
        arrange.plan(store, Schedule(lab.repository.path, "disk", "daily", merge_at="25:00"))


def test_a_drive_that_is_plugged_in_has_no_time_at_which_it_is_there(
    lab: Lab, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each night it would be said to have failed, and nothing would ever be merged."""
    lab.backup()
    monkeypatch.setattr(arrange, "mount_point_of", lambda _: "/mnt/drive")
    with pytest.raises(UsageError, match="plugged in at 03:00") as caught:
        arrange.plan(store, Schedule(lab.repository.path, "disk", "plug", merge_at="03:00"))
    assert "after each backup" in caught.value.advice


def test_its_units_and_the_lines_for_cron_are_two_each(lab: Lab, store: Store) -> None:
    lab.backup()
    wanted = Schedule(lab.repository.path, "disk", "15m", merge_at="05:10", on_mains=True)
    plan = arrange.plan(store, wanted)
    assert "is merged at 05:10, and not after each backup." in plan.summary
    named = {Path(path).name: text for path, text in plan.texts.items()}
    timer = named[f"vdbackup-merge-{wanted.id}.timer"]
    assert "OnCalendar=*-*-* 05:10:00\nPersistent=true" in timer
    service = named[f"vdbackup-merge-{wanted.id}.service"]
    assert '"schedule" "merge"' in service
    assert "ConditionACPower=true" in service
    assert len(named) == 4
    assert len(plan.units.wanted) == 2
    backup, merge = plan.cron.splitlines()
    assert backup.startswith("*/15 * * * * ")
    assert merge.startswith("10 5 * * * ")
    assert " schedule merge " in merge
