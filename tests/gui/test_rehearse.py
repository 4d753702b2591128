"""All of a restore is done beforehand from the window, and the point says how long it took."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel

from tests.gui.user import User
from tests.sources.loops import loop
from vdbackup.guest.hardware import Controller
from vdbackup.guest.model import Firmware
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.rehearse_dialog import RehearseDialog
from vdbackup.gui.source_dialog import SourceDialog
from vdbackup.operations.rehearse import Twin
from vdbackup.repository.repository import Repository
from vdbackup.sources import inventory


def test_a_restore_is_rehearsed_and_the_window_says_how_long_one_would_be_away(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    user, folder = with_source, tmp_path / "meanwhile"
    folder.mkdir()
    user.asks_for("actionRehearse")
    dialog = user.sees(RehearseDialog, "rehearseDialog")
    assert not dialog.before.isVisible(), "it was never rehearsed"
    dialog.folder_edit.setText(str(folder))
    user.agrees("rehearseDialog", "rehearseAccept")
    plan = user.sees(PlanDialog, "planDialog").plan.summary
    assert f"is restored to a virtual disk of 16 MiB in {folder}" in plan
    user.agrees()
    row = user.sees_job_end("Rehearse a restore of #1 of laptop")
    assert row.sentence.startswith("Back in ")
    user.waits_until(lambda: "rehearsed today" in user.window.details.fact("rehearsed"))
    (point,) = Repository.open(repository).set("laptop").points
    assert point.rehearsed is not None
    assert point.rehearsed.ok
    assert list(folder.iterdir()) == [], "nothing stays of the twin"
    user.asks_for("aboutSource")
    page = user.sees(SourceDialog, "sourceDialog")
    said = {each.accessibleName(): each.text() for each in page.findChildren(QLabel)}
    assert said["Restore"].startswith("back in ")
    page.close()
    user.asks_for("actionRehearse")
    dialog = user.sees(RehearseDialog, "rehearseDialog")
    assert dialog.before.text.startswith("Back in "), "the next one says how the last one ended"
    dialog.close()


def test_what_is_chosen_is_what_is_rehearsed(with_source: User) -> None:
    with_source.asks_for("actionRehearse")
    dialog = with_source.sees(RehearseDialog, "rehearseDialog")
    wanted = dialog.wanted
    assert isinstance(wanted, Twin)
    assert (wanted.size, wanted.hardware.controller, dialog.folder) == (None, None, None)
    dialog.disk_size.setValue(500)
    dialog.controller.setCurrentText("nvme")
    dialog.firmware.setCurrentText("UEFI")
    wanted = dialog.wanted
    assert isinstance(wanted, Twin)
    assert wanted.size == 500 << 30
    assert (wanted.hardware.controller, wanted.hardware.firmware) == (
        Controller.NVME,
        Firmware.UEFI,
    )
    dialog.close()


def test_a_disk_of_this_computer_can_be_what_it_is_rehearsed_for(
    as_root: None, with_source: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "other.img"
    with image.open("xb") as file:
        file.truncate(24 << 20)
    with loop(image) as device:
        found = inventory.Device(device, "disk", 24 << 20, "Fast SSD", "", ())
        partition = inventory.Device(Path("/dev/part"), "part", 1 << 20, "", "", ())
        monkeypatch.setattr(inventory, "disks", lambda: [found, partition])
        with_source.asks_for("actionRehearse")
        dialog = with_source.sees(RehearseDialog, "rehearseDialog")
        with_source.waits_until(lambda: dialog.target.count() == 2)
        said = f"Fast SSD ({device.name}) of this computer, 24 MiB"
        assert dialog.target.itemText(1) == said
        dialog.target.setCurrentIndex(1)
        assert dialog.wanted == device
        assert not dialog.disk_size.isEnabled(), "its size is known"
        with_source.agrees("rehearseDialog", "rehearseAccept")
        assert "a virtual disk of 24 MiB" in with_source.sees(PlanDialog, "planDialog").plan.summary


def test_a_disk_without_a_system_is_not_rehearsed_and_that_is_said(
    user: User, tmp_path: Path, repository: Path
) -> None:
    image = tmp_path / "data.img"
    image.write_bytes(b"data" * 4096)
    user.window.first_run.form.source_edit.setText(str(image))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    user.asks_for("actionRehearse")
    user.agrees("rehearseDialog", "rehearseAccept")
    user.reads("There is no system on point 1 that could come up.")
