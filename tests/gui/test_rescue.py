"""A rescue medium is made in the window, and a restore on one ends with a disk that starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton

from tests.gui.user import User
from vdbackup.errors import NotRetargeted
from vdbackup.guest.model import Guest, System
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.rescue import MediumDialog
from vdbackup.jobs import Task
from vdbackup.recovery.bootable import making as bootable
from vdbackup.recovery.bootable.making import BootablePlan, MadeBootable
from vdbackup.recovery.retarget.report import FileChange

DISK = Path("/dev/nvme0n1")


def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a script stand for what installs a Debian in ten minutes."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "mmdebstrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def asks_for_a_medium(user: User, image: Path) -> None:
    user.asks_for("actionMakeRescue")
    dialog = user.sees(MediumDialog, "mediumDialog")
    assert not dialog.accept_button.isEnabled()
    dialog.target_edit.setText(str(image))
    dialog.text_box.setChecked(True)
    user.agrees("mediumDialog", "mediumAccept")


def test_a_medium_is_planned_shown_and_cancelled_without_a_rest(
    with_source: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmdebstrap(tmp_path, monkeypatch, "sleep 1000")
    image = tmp_path / "rescue.iso"
    asks_for_a_medium(with_source, image)
    plan = with_source.sees(PlanDialog, "planDialog").plan
    assert "A rescue medium that asks in text" in plan.summary
    assert plan.creates == (str(image),)
    with_source.agrees()
    row = with_source.reads("Install Debian, and pack it")
    button = row.findChild(QPushButton, "cancelButton")
    assert button is not None
    button.click()
    with_source.reads("Cancelled")
    assert not image.exists()


def test_what_its_programs_say_is_told(
    with_source: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmdebstrap(tmp_path, monkeypatch, 'echo "E: no network." >&2; exit 1')
    asks_for_a_medium(with_source, tmp_path / "rescue.iso")
    with_source.agrees()
    with_source.reads("mmdebstrap says: no network")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a medium the window is root's."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("root")
def test_after_a_restore_it_is_offered_to_make_the_disk_start_here(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = MadeBootable(("/etc/fstab was changed.",), ("The firmware has not taken an entry.",))
    plan = BootablePlan(
        summary="Debian on /dev/nvme0n1 is made to start on this computer.",
        replaces=("/etc/fstab",),
        disk=DISK,
        system=Guest(System.LINUX),
        changes=(FileChange("p1", "/etc/fstab", "old", "new"),),
        entry="",
        notes=(),
    )
    monkeypatch.setattr(bootable, "plan", lambda _disk: plan)

    def run(_plan: BootablePlan, _task: Task) -> MadeBootable:
        return done

    monkeypatch.setattr(bootable, "run", run)
    with_source.window.operations.restored.emit(DISK)
    shown = with_source.sees(PlanDialog, "planDialog")
    assert shown.plan is plan
    with_source.agrees()
    with_source.reads("/dev/nvme0n1 is ready to start on this computer.")
    with_source.reads("The firmware has not taken an entry.")


@pytest.mark.usefixtures("root")
def test_a_disk_of_data_is_left_as_it_is(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def refuse(disk: Path) -> BootablePlan:
        asked.append(disk)
        raise NotRetargeted("There is no operating system on this disk: it holds data.")

    monkeypatch.setattr(bootable, "plan", refuse)
    with_source.window.operations.restored.emit(DISK)
    with_source.waits_until(lambda: asked == [DISK])
    with_source.waits_until(lambda: not with_source.window.workers.busy)
    assert with_source.window.findChild(PlanDialog) is None
