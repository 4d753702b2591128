"""A machine in the window: one source, whose timeline is that of its moments."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backup.lab import noise
from tests.gui.user import User
from tests.sources.opened import open_path
from vdbackup.backup import machine_capture
from vdbackup.gui.machine_restore_dialog import MachineRestoreDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.jobs import Task
from vdbackup.repository import publication
from vdbackup.repository.machine import KnownMachines, moments_of
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    disks = [tmp_path / "root.img", tmp_path / "home.img"]
    for seed, each in enumerate(disks):
        each.write_bytes(noise(1 << 20, seed))
    return disks


@pytest.fixture
def with_machine(user: User, disks: list[Path], repository: Path) -> User:
    """Somebody whose window shows a machine of two disks, backed up twice."""
    made = Repository.create(repository)
    for _ in range(2):
        with ExitStack() as stack:
            sources = [stack.enter_context(open_path(each)) for each in disks]
            machine_capture.run(machine_capture.plan(made, sources, "web"), Task())
    for each in disks:
        known = KnownSource(SourceRef.of_path(each), repository)
        user.window.store.update(lambda settings, known=known: settings.with_source(known))
    user.window.catalogue.refresh()
    user.sees_points(2)
    return user


def test_a_machine_is_one_source_whose_details_name_the_points_of_all_disks(with_machine):
    window = with_machine.window
    assert window.sources.count() == 1
    assert window.entry.title == "web"
    assert window.details.fact("machine").replace("\u200b", "") == "moment 2: root #2, home #2"


def test_back_up_now_makes_a_moment_of_all_disks(with_machine, repository):
    with_machine.backs_up(3)
    assert [len(each.points) for each in Repository.open(repository).sets()] == [3, 3]
    with_machine.reads("Moment 3 of web made, of 2 disks.")


def test_delete_says_that_all_disks_lose_the_moment_and_takes_it_from_all(with_machine, repository):
    with_machine.asks_for("actionDelete")
    dialog = with_machine.sees(PlanDialog, "planDialog")
    assert "on all of its disks" in dialog.plan.summary
    with_machine.agrees()
    with_machine.sees_points(1)
    assert [len(each.points) for each in Repository.open(repository).sets()] == [1, 1]


def test_a_moment_is_restored_into_a_folder(with_machine, disks, tmp_path):
    folder = tmp_path / "again"
    folder.mkdir()
    with_machine.asks_for("actionRestore")
    dialog = with_machine.sees(MachineRestoreDialog, "machineRestoreDialog")
    assert dialog.windowTitle() == "Restore moment 2 of web"
    dialog.target_edit.setText(str(folder))
    with_machine.agrees("machineRestoreDialog", "restoreAccept")
    with_machine.agrees()
    with_machine.waits_until((folder / "home.img").exists)
    with_machine.waits_until(lambda: not with_machine.window.busy)
    assert [(folder / each.name).read_bytes() for each in disks] == [
        each.read_bytes() for each in disks
    ]


def test_a_moment_that_is_not_whole_is_shown_so(with_machine, repository):
    opened = Repository.open(repository)
    moment = moments_of(opened, KnownMachines.of(opened).named("web"))[-1]
    with opened.lock("a test"):
        publication.withdraw(repository / "home", moment.points["home"])
    with_machine.window.catalogue.refresh()
    window = with_machine.window
    with_machine.waits_until(lambda: window.entry and window.entry.halves)
    assert "not whole, home missing" in window.details.fact("machine").replace("\u200b", "")


def test_all_of_a_machine_is_read_where_that_is_asked_for_and_none_of_it_converted(with_machine):
    assert not with_machine.window.actions_["convertSet"].isVisible()
    with_machine.asks_for("actionBackUpReadAll")
    with_machine.agrees()
    with_machine.sees_points(3)
