"""What was changed is read again, and nothing else; what others change meanwhile is seen, too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, Qt

from tests.backup.lab import Lab
from tests.gui.user import User
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.gui.catalogue import Shelf, read
from vdbackup.jobs import Task
from vdbackup.operations.changed import ANY, NOTHING, Changed
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.repository import Repository


def back_up(lab: Lab, name: str) -> None:
    """What a command does in the background."""
    with open_path(lab.image) as source:
        capture.run(capture.plan(lab.repository, source, set_name=name, same_source=True), Task())


def aged(folder: Path, seconds: int = 60) -> None:
    """Nobody has changed it for that long."""
    then = os.stat(folder).st_mtime - seconds
    os.utime(folder, (then, then))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A repository of three sets."""
    lab = Lab(tmp_path, size=1 << 20)
    for name in ("a", "b", "c"):
        back_up(lab, name)
        aged(lab.repository.path / name)
    return lab


@pytest.fixture
def shelf(lab: Lab) -> Shelf:
    """It has been read."""
    shelf = Shelf(lab.repository.path)
    shelf.survey(ANY)
    return shelf


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sets that are read from now on."""
    names: list[str] = []
    original = Repository.set

    def note(self: Repository, name: str | None = None) -> BackupSet:
        names.append(str(name))
        return original(self, name)

    monkeypatch.setattr(Repository, "set", note)
    return names


def test_only_what_was_changed_is_read_again(shelf: Shelf, opened: list[str]) -> None:
    sets, damaged = shelf.survey(Changed.only("b"))
    assert (opened, damaged) == (["b"], [])
    assert [each.name for each in sets] == ["a", "b", "c"]


def test_what_was_changed_a_moment_ago_is_not_trusted_to_stay_so(
    shelf: Shelf, lab: Lab, opened: list[str]
) -> None:
    """A file system whose clock ticks every two seconds would not tell of a second change."""
    folder = lab.repository.path / "c"
    os.utime(folder)
    shelf.survey(NOTHING)
    shelf.survey(NOTHING)
    assert opened == ["c", "c"]
    aged(folder)
    shelf.survey(NOTHING)
    shelf.survey(NOTHING)
    assert opened == ["c", "c", "c"]


def test_all_is_read_again_where_nothing_is_known(shelf: Shelf, opened: list[str]) -> None:
    shelf.survey(ANY)
    assert opened == ["a", "b", "c"]


def test_what_another_process_changes_meanwhile_is_seen_with_the_next_reading(
    shelf: Shelf, lab: Lab
) -> None:
    back_up(lab, "c")
    back_up(lab, "d")
    shutil.rmtree(lab.repository.path / "a")
    sets, _ = shelf.survey(Changed.only("b"))
    assert [(each.name, len(each.points)) for each in sets] == [("b", 1), ("c", 2), ("d", 1)]


def test_a_set_that_is_damaged_meanwhile_is_seen_and_looked_at_each_time(
    shelf: Shelf, lab: Lab
) -> None:
    settings = lab.repository.path / "c/set.json"
    before = settings.read_bytes()
    settings.unlink()
    settings.write_bytes(b"{")
    sets, (damaged,) = shelf.survey(NOTHING)
    assert (damaged.name, len(sets)) == ("c", 2)
    settings.write_bytes(before)  # by hand, in its place: its folder does not tell
    assert len(shelf.survey(NOTHING)[0]) == 3


def test_the_backups_of_another_drive_in_the_same_place_are_read_whole(
    shelf: Shelf, lab: Lab, opened: list[str]
) -> None:
    """Its folders may be of the same moments: it may be a copy."""
    marker = lab.repository.path / "vdbackup.json"
    marker.write_text(marker.read_text().replace(lab.repository.id, "another"))
    shelf.survey(NOTHING)
    assert opened == ["a", "b", "c"]


def test_what_a_partial_reading_shows_is_what_a_whole_one_does(shelf: Shelf, lab: Lab) -> None:
    back_up(lab, "b")
    assert read(shelf, (), Changed.only("b")) == read(Shelf(lab.repository.path), ())


def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sets that are read from now on, by reading."""
    surveys: list[list[str]] = []
    original = Repository.survey

    def note(self, names=None):  # type: ignore[no-untyped-def]
        surveys.append(list(self.names() if names is None else names))
        return original(self, names)

    monkeypatch.setattr(Repository, "survey", note)
    return surveys


def test_a_set_that_cannot_be_read_is_looked_at_each_minute_and_no_other(
    user: User, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, folder = user.window, lab.repository.path
    settings = folder / "c/set.json"
    settings.rename(settings.with_name("away"))
    aged(folder / "c")
    window.store.update(lambda settings: settings.with_repository(folder))
    window.catalogue.refresh()
    user.waits_until(lambda: [bool(e.problem) for e in window.catalogue.entries].count(True) == 1)
    settings.with_name("away").rename(settings)
    surveys = surveyed(monkeypatch)
    window._on_minute()
    user.waits_until(lambda: not any(each.problem for each in window.catalogue.entries))
    assert surveys == [["c"]]


def test_a_job_of_the_window_has_its_own_set_read_and_f5_all(
    with_source: User, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = with_source
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab", size=1 << 20)
    lab.repository = Repository.open(repository)
    back_up(lab, "another")
    aged(repository / "another")
    user.asks_for("actionRefresh")
    user.waits_until(lambda: len(user.window.catalogue.entries) == 2)
    surveys = surveyed(monkeypatch)
    user.window.operations.verify(user.window.entry, user.window.entry.points)
    user.sees_job_end("Verify")
    user.waits_until(lambda: surveys)
    assert surveys == [["laptop"]]
    user.waits_until(lambda: user.window.entry and user.window.entry.points[0].verified)
    user.asks_for("actionRefresh")
    user.waits_until(lambda: surveys == [["laptop"], ["another", "laptop"]])


def test_a_dialog_that_was_closed_has_nothing_read_whole_and_another_program_all(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Changed] = []
    window = with_source.window
    monkeypatch.setattr(
        window.catalogue, "refresh", lambda _folder=None, changed=ANY: asked.append(changed)
    )
    monkeypatch.setattr(window, "isActiveWindow", lambda: True)
    change = QEvent(QEvent.Type.ActivationChange)
    window.changeEvent(change)
    window._on_application_state(Qt.ApplicationState.ApplicationInactive)
    window._on_application_state(Qt.ApplicationState.ApplicationActive)
    window.changeEvent(change)
    window.changeEvent(change)
    assert asked == [NOTHING, ANY, NOTHING]
