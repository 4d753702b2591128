"""What went wrong after a backup, and costs no point, is known later, until it could be done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.machines import Disks
from tests.operations.schedules.test_run import dated
from tests.operations.test_troubles import Alarm
from vdbackup.errors import NoSpace, RepositoryLocked, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations import following_up, health, troubles
from vdbackup.operations.following_up import follow_up
from vdbackup.operations.health import Concern, Moment
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules import merging, run
from vdbackup.operations.schedules.store import Schedule, Store

Runs = Callable[[], list[str]]
FULL = NoSpace("There is too little space.", "Make room.")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "config" / "schedules", tmp_path / "data" / "schedules")


@pytest.fixture
def schedule(lab: Lab, store: Store) -> Schedule:
    lab.backup()
    made = Schedule(lab.repository.path, "disk", "1m")
    store.save(made)
    return made


@pytest.fixture
def runs(lab: Lab, store: Store, schedule: Schedule, tmp_path: Path) -> Runs:
    """Makes a scheduled backup; what people are told of it."""
    alarm, moment = Alarm(tmp_path), Moment.at_present(7)

    def one() -> list[str]:
        dated(lab, moment.now - timedelta(hours=1))
        run.run(store, schedule, Machines(tmp_path / "sessions", None), Task())
        assert troubles.tell(store, schedule, moment, alarm.ways) == ()
        return alarm.said()

    return one


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[VdbackupError], pytest.MonkeyPatch]:
    """Lets other programs' machines keep the names of layers that are gone."""

    def with_error(error: VdbackupError) -> pytest.MonkeyPatch:
        monkeypatch.setattr(following_up, "relink", lambda *_: (error,))
        return monkeypatch

    return with_error


def concerns(lab: Lab, store: Store) -> list[Concern]:
    found = health.of_set(lab.set, store, None, Moment.at_present(7))
    return [each.about for each in found.findings]


def test_people_are_told_once_and_once_that_it_is_over(lab, store, runs, fails):
    patch = fails(FULL)
    (said,) = runs()
    assert said.startswith("Backup of disk|Not all could be done after the last backup: There is")
    assert Concern.NOT_FOLLOWED_UP in concerns(lab, store)
    assert runs() == []
    patch.undo()
    assert runs() == [
        "Backup of disk|What follows a backup could be done again: the trouble is over."
    ]
    assert Concern.NOT_FOLLOWED_UP not in concerns(lab, store)
    assert '"unfollowed"' not in (lab.set.folder / "set.json").read_text()


def test_what_passes_by_itself_is_no_trouble(lab, store, runs, fails):
    fails(RepositoryLocked("Another program writes to it.", "Wait."))
    assert runs() == []
    assert lab.set.settings.unfollowed is None


def test_a_merge_at_a_time_of_its_own_tries_again_and_says_itself_how_that_ended(
    lab, store, schedule, runs, fails, tmp_path
):
    patch = fails(FULL)
    runs()
    patch.undo()
    merging.run(store, schedule, tmp_path / "sessions", Task())
    assert lab.set.settings.unfollowed is None


def test_what_was_not_tried_is_not_over(lab, store, runs, fails, tmp_path):
    patch = fails(FULL)
    runs()
    patch.undo()
    cancelled = Task()
    cancelled.cancel.cancel()
    for task, thins in ((Task(), False), (cancelled, True)):
        follow_up(lab.repository, ["disk"], tmp_path / "sessions", task, thins=thins)
        assert lab.set.settings.unfollowed
    fails(RepositoryLocked("Another program writes to it.", "Wait."))
    follow_up(lab.repository, ["disk"], tmp_path / "sessions", Task(), thins=True)
    assert lab.set.settings.unfollowed


def test_where_nothing_went_wrong_nothing_is_written(lab, tmp_path):
    lab.backup()
    before = (lab.set.folder / "set.json").stat()
    done = follow_up(lab.repository, ["disk"], tmp_path / "sessions", Task(), thins=True)
    assert (done.done, done.trouble) == ((), ())
    after = (lab.set.folder / "set.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_of_a_machine_each_set_knows_it_until_its_merge(tmp_path, store, monkeypatch, fails):
    disks = Disks(tmp_path)
    disks.back_up()
    names = disks.machine.sets
    fails(FULL)
    follow_up(disks.repository, names, tmp_path / "sessions", Task(), thins=False)
    said = [disks.repository.settings(name).unfollowed for name in names]
    assert said == [("There is too little space. Make room.",)] * len(names)
    schedule = Schedule(disks.repository.path, names[0], "1m")
    monkeypatch.undo()
    merging.run(store, schedule, tmp_path / "sessions", Task())
    assert [disks.repository.settings(name).unfollowed for name in names] == [None] * len(names)
