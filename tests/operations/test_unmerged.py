"""What a policy had to leave after a backup is known to whoever looks later, until it could."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.machines import Disks
from tests.noise import noise
from tests.operations.schedules.test_run import dated
from tests.operations.test_troubles import Alarm
from vdbackup.backup import capture
from vdbackup.errors import NoSpace
from vdbackup.jobs import Task
from vdbackup.operations import health, troubles
from vdbackup.operations.health import Concern, Moment
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import run
from vdbackup.operations.schedules.store import Outcome, Schedule, Store
from vdbackup.repository.policy import Policy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")


@pytest.fixture
def keeps_one(lab: Lab) -> Lab:
    """Three points, of a set that keeps one from the next backup on."""
    for number in range(3):
        lab.poke(number * 65536, noise(65536, number))
        lab.backup()
    with lab.repository.lock("a test"):
        lab.repository.set_policy("disk", Policy(keep=1))
    return lab


def concerns(lab: Lab, store: Store) -> list[Concern]:
    found = health.of_set(lab.set, store, None, Moment.at_present(7))
    return [each.about for each in found.findings]


def test_what_stays_of_a_damaged_chain_needs_somebody_until_it_is_mended(
    keeps_one: Lab, store: Store
) -> None:
    layer = keeps_one.set.disk_path(keeps_one.set.points[1])
    layer.rename(layer.with_suffix(".away"))
    keeps_one.backup()
    assert concerns(keeps_one, store) == [Concern.NOT_MERGED]
    assert len(keeps_one.set.points) > 1
    layer.with_suffix(".away").rename(layer)
    keeps_one.backup()
    assert concerns(keeps_one, store) == []
    assert '"unmerged"' not in (keeps_one.set.folder / "set.json").read_text()


def test_a_policy_that_fails_is_known_too(
    keeps_one: Lab, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpace("There is too little space.", "Make room.")

    with monkeypatch.context() as patch:
        patch.setattr(capture.retention, "apply", full)
        keeps_one.backup()
    found = health.of_set(keeps_one.set, store, None, Moment.at_present(7))
    (finding,) = found.findings
    assert finding.about is Concern.NOT_MERGED
    assert finding.sentence.endswith("the older ones were not merged: There is too little space.")
    keeps_one.backup()
    assert concerns(keeps_one, store) == []


def test_of_a_scheduled_backup_people_are_told_once_and_once_that_it_is_over(
    keeps_one: Lab, store: Store, tmp_path: Path
) -> None:
    alarm, moment = Alarm(tmp_path), Moment.at_present(7)
    schedule = Schedule(keeps_one.repository.path, "disk", "1m")
    store.save(schedule)

    def runs() -> list[str]:
        dated(keeps_one, moment.now - timedelta(hours=1))
        made = run.run(store, schedule, Machines(tmp_path / "sessions", None), Task())
        assert made.run.outcome in (Outcome.DONE, Outcome.WARNED)
        assert troubles.tell(store, schedule, moment, alarm.ways) == ()
        return alarm.said()

    layer = keeps_one.set.disk_path(keeps_one.set.points[1])
    layer.rename(layer.with_suffix(".away"))
    (said,) = runs()
    assert said.startswith("Backup of disk|Not all that its policy lets go went:")
    assert runs() == []
    layer.with_suffix(".away").rename(layer)
    assert runs() == ["Backup of disk|Older points are merged again: the trouble is over."]
    assert runs() == []


def test_of_a_machine_each_set_knows_it(tmp_path: Path, store: Store) -> None:
    disks = Disks(tmp_path)
    for _ in range(3):
        disks.back_up()
    with disks.repository.lock("a test"):
        for name in disks.machine.sets:
            disks.repository.set_policy(name, Policy(keep=1))
    home = disks.repository.set(disks.machine.sets[1])
    layer = home.disk_path(home.points[1])
    layer.rename(layer.with_suffix(".away"))
    disks.back_up()
    left = [disks.repository.settings(name).unmerged for name in disks.machine.sets]
    assert left[0] == left[1]
    assert left[0]
    layer.with_suffix(".away").rename(layer)
    disks.back_up()
    assert [disks.repository.settings(name).unmerged for name in disks.machine.sets] == [None, None]
