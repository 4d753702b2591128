"""The report beside an overlay: it belongs to the point, and is believed only where it can be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.backup import repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.errors import RecoveryError, Remedy, UsageError
from vdbackup.guest.hardware import Controller, Hardware, HardwareRequest
from vdbackup.guest.model import Firmware, Guest, Loader, LoaderKind, Problem, System
from vdbackup.jobs import CancelToken, Task
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.retarget import refusals, report, retarget
from vdbackup.recovery.retarget.policy import for_new_point
from vdbackup.recovery.retarget.report import FileChange, RetargetReport
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import BootTest, RecoveryPoint


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.poke(0, noise(3 * BLOCK, 1))
    lab.backup()
    return lab


def reported(lab: Lab, point: RecoveryPoint | None = None) -> RetargetReport:
    """A report on the overlay that is there."""
    point = point or lab.set.points[-1]
    overlay = lab.open(lab.overlay(point))
    overlay.close()
    made = RetargetReport(
        version="1", made="2026-01-01T00:00:00+00:00", milliseconds=5, wish="auto",
        overlay=overlay.info.disk_id or "", guest=Guest(System.LINUX, name="Debian"),
        hardware=Hardware(Controller.NVME, memory_mib=2048),
        changes=(FileChange("p1", "/etc/fstab", "a\udcff\0", "b"),), notes=("A note.",),
    )  # fmt: skip
    report.save(lab.set, point, made)
    return made


def path_of(lab: Lab) -> Path:
    return report.report_path(lab.set, lab.set.points[-1])


def test_report_comes_back_as_it_was(lab: Lab) -> None:
    made = reported(lab)
    point = lab.set.points[-1]
    assert path_of(lab).name == "0001-overlay.retarget.json"
    back = report.load(lab.set, point)
    assert back is not None
    assert replace(back, changes=()) == replace(made, changes=())
    assert report.chosen_hardware(lab.set, point) == made.hardware
    lab.check_all()


def test_hardware_that_was_asked_for_goes_before_the_report(lab: Lab) -> None:
    made = reported(lab)
    point = lab.set.points[-1]
    assert report.chosen_hardware(lab.set, point, HardwareRequest(Controller.AHCI)) is None
    more = report.chosen_hardware(lab.set, point, HardwareRequest(memory_mib=512))
    assert more == replace(made.hardware, memory_mib=512)


def test_a_kernel_that_lilo_would_not_find_is_started_past_it_whatever_is_asked_for(
    lab: Lab,
) -> None:
    made = reported(lab)
    point = lab.set.points[-1]
    ahci = HardwareRequest(Controller.AHCI)
    assert report.wish_for(lab.set, point, ahci) == ahci
    lilo = Guest(System.LINUX, loaders=(Loader(LoaderKind.LILO, Firmware.BIOS),))
    report.save(lab.set, point, replace(made, guest=lilo))
    assert report.wish_for(lab.set, point, ahci) == replace(ahci, directly=True)
    report.save(lab.set, point, replace(made, guest=lilo, changes=()))  # it lies where it lay
    assert report.wish_for(lab.set, point, ahci) == ahci


def test_machine_that_was_found_not_to_boot_is_looked_at_again(lab: Lab) -> None:
    made = reported(lab)
    problem = replace(made.hardware, problems=(Problem("It holds no system."),))
    report.save(lab.set, lab.set.points[-1], replace(made, hardware=problem))
    assert report.chosen_hardware(lab.set, lab.set.points[-1]) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"overlay": "another"},
        {"overlay": None},
        {"milliseconds": -1},
        {"milliseconds": 10**30},
        {"hardware": []},
        {"hardware": {"controller": "floppy"}},
        {"changes": "x"},
        {"changes": [{"volume": "p1"}]},
        {"guest": {"system": "linux"}},
        {"unknown": 1},
    ],
)
def test_report_that_makes_no_sense_or_speaks_of_another_overlay_is_none(
    lab: Lab, damage: dict[str, Any]
) -> None:
    reported(lab)
    data = json.loads(path_of(lab).read_text())
    path_of(lab).write_text(json.dumps(data | damage))
    assert report.load(lab.set, lab.set.points[-1]) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", '"x"', "[" * 100_000, "{}"])
def test_file_that_is_no_report_is_none(lab: Lab, text: str) -> None:
    path_of(lab).write_text(text)
    assert report.load(lab.set, lab.set.points[-1]) is None


def test_deleting_a_point_takes_its_report_along(lab: Lab) -> None:
    lab.backup("full")
    reported(lab)
    lab.delete(lab.set.points[-1])
    assert not list(lab.set_folder.glob("*.retarget.json"))
    lab.check_all()


def test_merge_keeps_the_childs_report_and_drops_the_parents(lab: Lab) -> None:
    reported(lab)
    lab.poke(0, noise(BLOCK, 2))
    child = lab.backup()
    made = reported(lab)
    merged = lab.merge(child)
    assert [path.name for path in lab.set_folder.glob("*.retarget.json")] == [merged.report]
    assert report.load(lab.set, merged) is not None
    assert made.overlay
    lab.check_all()


def test_repair_leaves_a_report_that_fits_and_puts_aside_what_does_not(lab: Lab) -> None:
    reported(lab)
    repair.run(lab.repository.path, Task())
    assert report.load(lab.set, lab.set.points[-1]) is not None

    lab.overlay(lab.set.points[-1]).unlink()  # it is made anew, empty
    repair.run(lab.repository.path, Task())
    assert not path_of(lab).exists()
    assert (lab.set_folder / QUARANTINE / path_of(lab).name).exists()
    assert report.load(lab.set, lab.set.points[-1]) is None


def test_repair_puts_aside_a_report_that_nobody_can_read(lab: Lab) -> None:
    path_of(lab).write_text("{")
    repair.run(lab.repository.path, Task())
    assert not path_of(lab).exists()


def test_number_of_a_report_is_not_given_again(lab: Lab) -> None:
    (lab.set_folder / "0007-overlay.retarget.json").write_text("{}")
    assert lab.set.next_sequence() == 8


# ------------------------------------------------------------------- disks that hold no system


def test_disk_without_a_system_is_only_looked_at(lab: Lab, tmp_path: Path) -> None:
    point = lab.set.points[-1]
    said = for_new_point(lab.repository, "disk", point.id, tmp_path / "sessions", Task())
    assert said == ()
    found = report.load(lab.set, point)
    assert found is not None
    assert found.guest.system is System.NONE
    assert any(problem.blocks for problem in found.hardware.problems)
    assert not (tmp_path / "sessions").exists()
    lab.check_all()


def test_empty_overlay_comes_back(lab: Lab, tmp_path: Path) -> None:
    point = lab.set.points[-1]
    reported(lab)
    plan = retarget.plan(lab.repository, "disk", point.id, "none")
    assert "empty again" in plan.summary
    assert retarget.run(plan, tmp_path, Task()) is None
    assert not path_of(lab).exists()
    lab.check_all()


@pytest.mark.parametrize("wish", ["auto", "none"])
def test_boot_test_of_what_was_there_before_counts_no_more(
    lab: Lab, tmp_path: Path, wish: str
) -> None:
    point = lab.set.points[-1]
    test = BootTest(boot_test.now(), ok=True, sentence="Up.")
    boot_test.record(lab.repository, "disk", point.id, test, b"picture", CancelToken())
    retarget.retarget(lab.repository, "disk", point.id, wish, tmp_path, Task())
    (after,) = lab.set.points
    assert after.boot_tested is None
    assert not (lab.set.folder / after.picture).exists()


def test_wish_for_hardware_that_does_not_exist_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="floppy"):
        retarget.plan(lab.repository, "disk", lab.set.points[-1].id, "floppy")


def test_point_that_vanished_is_a_warning(lab: Lab, tmp_path: Path) -> None:
    said = for_new_point(lab.repository, "disk", "gone", tmp_path, Task())
    assert len(said) == 1
    assert said[0].title.startswith("The point is safe, but it was not made ready to boot: ")
    assert (said[0].advice, said[0].remedy) == (
        "It may have been merged or deleted.",
        Remedy.LIST_POINTS,
    )


@pytest.mark.parametrize("page", [4096, 65536])
def test_hibernated_system_is_not_changed(page: int) -> None:
    sleeping: Any = SimpleNamespace(
        volumes={"p2": SimpleNamespace(filesystem="")},
        head=lambda _: bytes(page - 10) + b"S1SUSPEND\0",
    )
    with pytest.raises(RecoveryError, match="hibernated"):
        refusals.refuse_hibernated(sleeping)
