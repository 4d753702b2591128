"""Of each trouble of a schedule people are told once, and once that it is over."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from vdbackup.operations import troubles
from vdbackup.operations.health import Moment
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store
from vdbackup.operations.telling import Ways


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")


@pytest.fixture
def schedule(lab: Lab, store: Store) -> Schedule:
    lab.backup()
    made = Schedule(lab.repository.path, "disk", "hourly")
    store.save(made)
    return made


class Alarm:
    """A command that is told, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        self.ways = Ways(
            desktop=False,
            command=("/bin/sh", "-c", f'printf "%s|%s\\n" "$1" "$2" >> {self._said}', "alarm"),
        )

    def said(self) -> list[str]:
        """What has been said since it was asked last."""
        lines = self._said.read_text().splitlines() if self._said.exists() else []
        self._said.write_text("")
        return lines


def ran(store: Store, schedule: Schedule, outcome: Outcome, sentence: str = "") -> None:
    now = datetime.now(UTC).isoformat()
    store.note(schedule.id, Run(now, now, outcome, sentence))


def test_each_trouble_is_told_once_and_once_that_it_is_over(
    store: Store, schedule: Schedule, tmp_path: Path
) -> None:
    alarm, moment = Alarm(tmp_path), Moment.at_present(7)

    def tells() -> list[str]:
        assert troubles.tell(store, schedule, moment, alarm.ways) == ()
        return alarm.said()

    ran(store, schedule, Outcome.DONE)
    assert tells() == []
    ran(store, schedule, Outcome.FAILED, "The disk is full. Make room.")
    assert tells() == ["Backup of disk|The disk is full. Make room."]
    for outcome in (Outcome.FAILED, Outcome.SKIPPED):
        ran(store, schedule, outcome, "The disk is full. Make room.")
        assert tells() == []
    ran(store, schedule, Outcome.DONE)
    assert tells() == ["Backup of disk|It is backed up again: the trouble is over."]
    assert tells() == []
    assert not store.told_of(schedule.id).exists()


def test_what_is_away_is_not_over(
    lab: Lab, store: Store, schedule: Schedule, tmp_path: Path
) -> None:
    alarm, moment = Alarm(tmp_path), Moment.at_present(7)
    ran(store, schedule, Outcome.FAILED, "It is damaged.")
    troubles.tell(store, schedule, moment, alarm.ways)
    assert len(alarm.said()) == 1
    lab.repository.path.rename(tmp_path / "away")
    ran(store, schedule, Outcome.FAILED, "It is not there.")
    troubles.tell(store, schedule, moment, alarm.ways)
    ran(store, schedule, Outcome.DONE)
    troubles.tell(store, schedule, moment, alarm.ways)
    assert alarm.said() == []
    (tmp_path / "away").rename(lab.repository.path)
    troubles.tell(store, schedule, moment, alarm.ways)
    assert len(alarm.said()) == 1
    store.told_of(schedule.id).write_text("no sense")  # then it is told once more, at the worst
    ran(store, schedule, Outcome.FAILED, "It is damaged.")
    troubles.tell(store, schedule, moment, alarm.ways)
    assert alarm.said() == ["Backup of disk|It is damaged."]
    store.remove(schedule.id)
    assert not store.told_of(schedule.id).exists()
