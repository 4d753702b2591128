"""A scheduled run makes the point of its slot, once, and notes how it ended."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.machines import SIZE, Disks
from tests.noise import noise
from vdbackup.backup import capture
from vdbackup.errors import ScheduleNotFound, SourceNotFound, VdbackupError
from vdbackup.jobs import CancelToken, Task
from vdbackup.operations.backup import BackupRequest, planned
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import run
from vdbackup.operations.schedules.store import MAX_RUNS, History, Outcome, Run, Schedule, Store
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")


@pytest.fixture
def schedule(lab: Lab, store: Store) -> Schedule:
    """Of a set whose only point is as old as one likes."""
    lab.backup()
    dated(lab, datetime.now(UTC) - timedelta(days=2))
    made = Schedule(lab.repository.path, "disk", "daily")
    store.save(made)
    return made


def dated(lab: Lab, moment: datetime) -> None:
    point = lab.set.points[-1]
    lab.repository.save_point("disk", replace(point, created=moment.isoformat()))


def ran(store: Store, schedule: Schedule, lab: Lab) -> run.RunResult:
    return run.run(store, schedule, Machines(lab.folder / "sessions", None), Task())


def test_a_slot_gets_one_point_however_often_it_is_run(
    lab: Lab, store: Store, schedule: Schedule
) -> None:
    lab.poke(0, noise(65536, 5))
    made = ran(store, schedule, lab)
    assert made.made is not None
    assert (made.run.outcome, made.run.point) == (Outcome.DONE, 2)
    again = ran(store, schedule, lab)
    assert again.made is None
    assert again.run.sentence == "Not due: point 2 was made since the last time it was."
    assert [point.sequence for point in lab.set.points] == [1, 2]
    last = store.history_of(schedule.id).last
    assert last == made.run


def test_what_somebody_made_by_hand_in_the_slot_counts(
    lab: Lab, store: Store, schedule: Schedule
) -> None:
    lab.backup()
    assert ran(store, schedule, lab).run.outcome is Outcome.SKIPPED


def test_a_point_that_a_wrong_clock_has_dated_ahead_stops_no_backup(
    lab: Lab, store: Store, schedule: Schedule
) -> None:
    dated(lab, datetime.now(UTC) + timedelta(days=400))
    assert ran(store, schedule, lab).made is not None


def test_two_runs_at_once_make_one_point(lab: Lab, store: Store, schedule: Schedule) -> None:
    with store.running(schedule.id) as first:
        assert first
        second = ran(store, schedule, lab)
    assert (second.made, second.run.outcome) == (None, Outcome.SKIPPED)
    assert len(lab.set.points) == 1
    assert store.history_of(schedule.id) == History()


def test_a_run_that_has_waited_for_another_computer_looks_again(
    lab: Lab, store: Store, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one had the lock, and made the point."""
    asked: list[object] = []
    first = run._backed_up

    def waits(*arguments: object) -> run.RunResult:
        if not asked:
            asked.append(arguments)
            lab.backup()
            error = run.RepositoryLocked("Somebody writes.", "", cleared=lambda: True)
            raise error
        return first(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_backed_up", waits)
    assert ran(store, schedule, lab).run.outcome is Outcome.SKIPPED
    assert len(lab.set.points) == 2


def test_a_run_that_fails_is_noted_with_its_code_and_the_next_one_tries_again(
    lab: Lab, store: Store, schedule: Schedule
) -> None:
    away = lab.image.rename(lab.image.with_suffix(".away"))
    with pytest.raises(SourceNotFound):
        ran(store, schedule, lab)
    last = store.history_of(schedule.id).last
    assert last is not None
    assert (last.outcome, last.code) == (Outcome.FAILED, "source-not-found")
    assert "disk.img" in last.sentence
    away.rename(lab.image)
    assert ran(store, schedule, lab).run.outcome is Outcome.DONE


def test_a_repository_that_is_away_is_noted(lab: Lab, store: Store, schedule: Schedule) -> None:
    shutil.move(lab.repository.path, lab.folder / "unplugged")
    with pytest.raises(VdbackupError):
        ran(store, schedule, lab)
    last = store.history_of(schedule.id).last
    assert last is not None
    assert last.code == "no-repository"


def test_a_run_that_is_stopped_is_noted(lab: Lab, store: Store, schedule: Schedule) -> None:
    cancel = CancelToken()
    cancel.cancel()
    machines = Machines(lab.folder / "sessions", None)
    with pytest.raises(VdbackupError):
        run.run(store, schedule, machines, Task(cancel=cancel))
    last = store.history_of(schedule.id).last
    assert last is not None
    assert last.code == "cancelled"
    assert len(lab.set.points) == 1


def test_the_history_is_bounded_and_holds_no_row_of_false_alarms(store: Store) -> None:
    moment = "2026-11-29T12:30:00+00:00"
    done, skipped = Run(moment, moment, Outcome.DONE), Run(moment, moment, Outcome.SKIPPED)
    for each in [done, *[skipped] * 5] * (MAX_RUNS + 3):
        store.note("a", each)
    runs = store.history_of("a").runs
    assert len(runs) == MAX_RUNS
    assert [each.outcome for each in runs[-3:]] == [Outcome.DONE, Outcome.DONE, Outcome.SKIPPED]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 5000, '{"runs": [{"began": "x"}]}', "\0"])
def test_records_that_make_no_sense_are_passed_over(store: Store, text: str) -> None:
    schedule = Schedule(Path("/backups"), "laptop \udcff", "15m")
    store.save(schedule)
    assert store.schedules() == [schedule]
    (file,) = store.records.iterdir()
    for path in (file, store.history / file.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert store.schedules() == []
    assert store.history_of(schedule.id) == History()
    with pytest.raises(ScheduleNotFound):
        store.get(schedule.repository, schedule.set_name)


def test_a_machines_run_notes_the_scheduled_disks_point_and_the_bytes_of_all(
    tmp_path: Path, store: Store
) -> None:
    disks = Disks(tmp_path)
    alone = BackupRequest(SourceRef.of_path(disks.images[1]), disks.repository.path)
    with planned(alone) as plan:
        capture.run(plan, Task())
    made = disks.back_up()
    for name, point in made.moment.points.items():
        old = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        disks.repository.save_point(name, replace(point, created=old))
    schedule = Schedule(disks.repository.path, "home", "daily")
    store.save(schedule)
    noted = run.run(store, schedule, Machines(tmp_path / "sessions", None), Task()).run
    points = [disks.repository.set(name).points[-1] for name in ("root", "home")]
    assert [each.sequence for each in points] == [2, 3]
    assert noted.point == 3
    assert noted.stored_bytes == sum(each.stored_bytes for each in points) > 0
    assert noted.read_bytes == 2 * SIZE
