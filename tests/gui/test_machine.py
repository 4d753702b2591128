"""A machine in the window: one source, whose timeline is that of its moments."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gui.user import User
from tests.noise import noise
from tests.sources.loops import loop
from tests.sources.opened import open_path
from vdbackup.backup import machine_capture
from vdbackup.gui.add_source import PATH
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


def test_several_disks_that_are_named_together_are_backed_up_as_one_machine(
    user, disks, repository
):
    form = user.window.first_run.form
    assert not form.machine_edit.isVisible()
    form.source_edit.setText(" ".join(map(str, disks)))
    assert form.machine_edit.isVisible()
    form.repository_edit.setText(str(repository))
    form.machine_edit.setText(" ")
    assert not form.start_button.isEnabled()
    form.machine_edit.setText("web")
    user.clicks("startButton")
    dialog = user.sees(PlanDialog, "planDialog")
    assert f"{disks[0]} and {disks[1]} become the machine web" in dialog.plan.summary
    user.agrees()
    user.waits_until(lambda: user.window.entry and user.window.entry.machine)
    user.sees_points(1)
    assert (user.window.sources.count(), user.window.entry.title) == (1, "web")
    user.backs_up(2)


def test_of_a_machine_that_was_not_backed_up_no_disk_is_remembered_as_a_source_of_its_own(
    user, disks, repository
):
    form = user.window.first_run.form
    form.source_edit.setText(" ".join(map(str, disks)))
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.sees(PlanDialog, "planDialog")
    disks[1].unlink()
    user.agrees()
    user.reads("home.img")
    user.waits_until(lambda: not user.window.busy)
    assert not user.window.store.value.sources
    assert not user.window.catalogue.entries


def test_what_cannot_be_one_machine_is_refused_where_it_was_named(user, disks, repository):
    form = user.window.first_run.form
    form.repository_edit.setText(str(repository))
    for wrong, said in (
        (f"{disks[0]} {disks[0]}", "is named twice"),
        (f"{disks[0]} {disks[0]}.gone", "is missing"),
    ):
        form.source_edit.setText(wrong)
        user.clicks("startButton")
        user.waits_until(lambda said=said: said in form.refusal.text)
    assert not repository.exists() or not Repository.open(repository).names()


@pytest.mark.parametrize(
    "name", ["/mnt/my disk.img", "my disk.img", "/mnt/a 'b.img", "files:/home /etc", "/dev/sda"]
)
def test_a_blank_in_a_name_makes_no_machine(user, name):
    form = user.window.first_run.form
    form.source_edit.setText(name)
    assert not form.machine_edit.isVisible()


def test_disks_that_are_chosen_together_in_the_list_are_named_in_its_order(user):
    form = user.window.first_run.form
    user.waits_until(lambda: form.devices.count() and "Looking" not in form.devices.item(0).text())
    form.devices.clear()
    for number, path in enumerate(("/dev/a", "/dev/b c")):
        form.devices.addItem(f"Disk {number}")
        form.devices.item(number).setData(PATH, path)
    for row in (1, 0):
        form.devices.item(row).setSelected(True)
        form.devices.arrow_pressed.emit()
    assert form.source_edit.text() == "/dev/a '/dev/b c'"
    assert form.machine_edit.text()


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


def test_each_disk_of_a_moment_can_go_to_a_disk_and_all_are_named_before(
    with_machine, disks, tmp_path, as_root
):
    images = [tmp_path / name for name in ("new-root.img", "new-home.img")]
    for image in images:
        image.write_bytes(bytes(1 << 20))
    with loop(images[0]) as first, loop(images[1]) as second:
        with_machine.asks_for("actionRestore")
        dialog = with_machine.sees(MachineRestoreDialog, "machineRestoreDialog")
        for name, device in (("root", first), ("home", second)):
            box = dialog.places[name]
            with_machine.waits_until(lambda box=box, device=device: box.findData(str(device)) > 0)
            assert not dialog.accept_button.isEnabled()
            box.setCurrentIndex(box.findData(str(device)))
        assert dialog.overwrite
        assert not dialog.target_edit.isEnabled()
        with_machine.agrees("machineRestoreDialog", "restoreAccept")
        plan = with_machine.sees(PlanDialog, "planDialog").plan
        assert plan.replaces == (str(first), str(second))
        with_machine.agrees()
        with_machine.waits_until(lambda: not with_machine.window.busy)
    assert [each.read_bytes() for each in images] == [each.read_bytes() for each in disks]


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
