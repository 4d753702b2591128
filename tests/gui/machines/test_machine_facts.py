"""The window says what a point's machine boots on, and what was changed for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.gui.user import User
from vdbackup.guest.model import Problem
from vdbackup.gui.parts import Notice
from vdbackup.recovery.retarget import report
from vdbackup.recovery.retarget.report import FileChange
from vdbackup.repository.repository import Repository


def test_new_point_says_what_it_boots_on(with_source: User) -> None:
    machine = with_source.window.machine
    with_source.waits_until(machine.isVisible)
    assert "The machine is ready to boot (SATA, BIOS): nothing had to be changed." in machine.text
    assert "BIOS" in machine.text.splitlines()[-2]


def test_what_stops_nothing_and_cannot_be_helped_is_no_warning(with_source: User) -> None:
    """The demo's disk, for one: the first that many see of the program."""
    machine = with_source.window.machine
    with_source.waits_until(machine.isVisible)
    assert "What its boot loader starts is not known" in machine.text
    assert with_source.window.findChild(Notice, "machineProblems").text == ""


def test_changed_files_are_shown_before_and_after(with_source: User, repository: Path) -> None:
    backup_set = Repository.open(repository).sets()[0]
    point = backup_set.points[0]
    made = report.load(backup_set, point)
    assert made is not None
    change = FileChange("p1", "/etc/fstab", "/dev/sda1 / ext4\n", "UUID=1 / ext4\n\x1b[2J")
    report.save(backup_set, point, replace(made, changes=(change,)))
    with_source.window.catalogue.refresh()
    machine = with_source.window.machine
    with_source.waits_until(lambda: "1 file changed" in machine.text)
    assert "p1:/etc/fstab\n  -/dev/sda1 / ext4\n  +UUID=1 / ext4" in machine.text
    assert "\x1b" not in machine.text


def test_point_that_cannot_boot_says_so_before_the_click(
    with_source: User, repository: Path
) -> None:
    backup_set = Repository.open(repository).sets()[0]
    point = backup_set.points[0]
    made = report.load(backup_set, point)
    assert made is not None
    problem = Problem("There is no boot loader on this disk.", "Restore it.")
    broken = replace(made.hardware, problems=(problem,))
    report.save(backup_set, point, replace(made, hardware=broken))
    with_source.window.catalogue.refresh()
    machine = with_source.window.machine
    with_source.waits_until(
        lambda: "There is no boot loader on this disk. Restore it." in machine.text
    )


def test_point_without_a_report_shows_nothing(with_source: User, repository: Path) -> None:
    machine = with_source.window.machine
    with_source.waits_until(machine.isVisible)
    (path,) = repository.glob("*/*.retarget.json")
    path.unlink()
    with_source.window.catalogue.refresh()
    with_source.waits_until(lambda: not machine.isVisible())
