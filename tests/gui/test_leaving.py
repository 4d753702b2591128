"""A source leaves the list alone; its backups stay, and come back when they are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gui.user import User
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.operations.machines import Machines
from vdbackup.repository.repository import Repository
from vdbackup.settings import HiddenSet, KnownSource, Settings
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def of_two(with_source: User, repository: Path, tmp_path: Path) -> User:
    """Somebody with two sources in one repository, the second of which is chosen."""
    other = tmp_path / "server.img"
    demo_disk.create(other, "another disk")
    source = SourceRef.of_path(other)
    request = backup.BackupRequest(source, repository)
    backup.back_up(request, Machines(tmp_path / "sessions"), Task())
    window = with_source.window
    window.store.update(lambda settings: settings.with_source(KnownSource(source, repository)))
    window.catalogue.refresh(repository)
    with_source.waits_until(lambda: window.sources.count() == 2)
    window.sources.choose((str(repository), str(other)))
    with_source.waits_until(lambda: window.entry and window.entry.name == "server")
    return with_source


def names(user: User) -> list[str]:
    return [each.name for each in user.window.catalogue.entries]


def leaves(user: User) -> None:
    user.asks_for("forgetSource")
    user.agrees()
    user.waits_until(lambda: names(user) == ["laptop"])


def test_a_source_with_backups_leaves_the_list_alone_and_its_points_stay(
    of_two: User, repository: Path
) -> None:
    of_two.asks_for("forgetSource")
    said = of_two.sees(PlanDialog, "planDialog").plan.summary
    assert said.startswith(f"Its 1 point stays in {repository}, and nothing is deleted")
    assert "schedule" not in said
    of_two.agrees()
    of_two.waits_until(lambda: names(of_two) == ["laptop"])
    assert of_two.window.sources.count() == 1
    of_two.asks_for("actionRefresh")
    of_two.waits_until(lambda: of_two.window.entry and of_two.window.entry.name == "laptop")
    assert names(of_two) == ["laptop"], "reading again brings nothing back"
    assert len(Repository.open(repository).set("server").points) == 1


def test_opening_its_folder_brings_it_back(of_two: User, repository: Path) -> None:
    leaves(of_two)
    of_two.window.dialogs.show_backups(repository)
    of_two.waits_until(lambda: sorted(names(of_two)) == ["laptop", "server"])


def test_backing_it_up_again_brings_it_back(of_two: User, repository: Path, tmp_path: Path) -> None:
    leaves(of_two)
    of_two.window.dialogs.add_source(tmp_path / "server.img")
    dialog = of_two.sees(AddSourceDialog, "addSourceDialog")
    dialog.form.repository_edit.setText(str(repository))
    dialog.form.start_button.click()
    of_two.agrees()
    of_two.waits_until(lambda: sorted(names(of_two)) == ["laptop", "server"])
    of_two.sees_job_end("Back up server")
    of_two.waits_until(lambda: of_two.window.entry and of_two.window.entry.name == "server")
    of_two.sees_points(2)


def test_what_goes_on_by_itself_is_said(
    of_two: User, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = type(of_two.window.store.schedules)
    monkeypatch.setattr(store, "find", lambda *_where: object())
    of_two.asks_for("forgetSource")
    dialog = of_two.sees(PlanDialog, "planDialog")
    assert "Its schedule goes on: it is still backed up." in dialog.plan.summary
    dialog.reject()
    of_two.waits_until(lambda: not dialog.isVisible())
    assert len(names(of_two)) == 2, "whoever does not agree keeps it"


def test_the_last_one_takes_its_folder_with_it(with_source: User, repository: Path) -> None:
    with_source.asks_for("forgetSource")
    with_source.agrees()
    with_source.waits_until(with_source.window.first_run.isVisible)
    assert with_source.window.store.value.repositories == ()
    assert with_source.window.store.value.hidden == ()
    assert len(Repository.open(repository).set().points) == 1


def test_of_a_drive_that_is_away_only_the_source_leaves(of_two: User, repository: Path) -> None:
    """What else is on it nobody sees now, and must not leave with it."""
    repository.rename(repository.with_suffix(".away"))
    of_two.asks_for("actionRefresh")
    of_two.waits_until(lambda: all(each.problem for each in of_two.window.catalogue.entries))
    of_two.waits_until(lambda: of_two.window.entry and of_two.window.entry.problem)
    of_two.asks_for("forgetSource")
    of_two.waits_until(lambda: len(names(of_two)) == 1)
    repository.with_suffix(".away").rename(repository)
    of_two.asks_for("actionRefresh")
    of_two.waits_until(lambda: not any(each.problem for each in of_two.window.catalogue.entries))
    assert names(of_two) == ["laptop"]


def test_settings_hide_a_set_once_and_show_what_is_named() -> None:
    folder, other = Path("/a"), Path("/b")
    hidden = Settings().hiding(folder, ["x", "y"]).hiding(folder, ["x"]).hiding(other, ["x"])
    assert hidden.hidden == (HiddenSet(folder, "x"), HiddenSet(folder, "y"), HiddenSet(other, "x"))
    assert hidden.showing(folder, ["x"]).hidden == (HiddenSet(folder, "y"), HiddenSet(other, "x"))
    assert hidden.showing(folder).hidden == (HiddenSet(other, "x"),)
    assert hidden.without_repository(other).hidden == hidden.hidden[:2]
