"""`vdbackup retarget`, and what `backup` does of it by itself.

What it makes boot is shown in tests/recovery/retarget; here it is what the command says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Vdbackup
from tests.guest.test_boot_entries import unified_image, without_grub
from vdbackup.sources import demo_disk


def only_set(vdbackup: Vdbackup, repository: Path) -> Any:
    (backup_set,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    return backup_set


def reports(repository: Path) -> list[str]:
    return sorted(path.name for path in repository.glob("*/*.retarget.json"))


@pytest.mark.usefixtures("backed_up")
def test_each_new_point_is_made_ready_to_boot_and_the_list_says_so(
    vdbackup: Vdbackup, repository: Path
):
    assert reports(repository) == [f"000{n}-overlay.retarget.json" for n in (1, 2, 3)]
    for point in only_set(vdbackup, repository)["points"]:
        assert point["retargeted"] == {"hardware": "ahci", "boots": True, "changed_files": 0}


def test_a_set_can_do_without_retargeting_and_keeps_to_that(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    assert vdbackup("backup", disk, "-r", repository, "--retarget", "off").status == 0
    demo_disk.change(disk, "again", {"A.TXT": b"a"})
    assert vdbackup("backup", disk, "-r", repository, "--keep", "5").status == 0
    assert reports(repository) == []
    backup_set = only_set(vdbackup, repository)
    assert (backup_set["retarget"], backup_set["keep"]) == (False, 5)
    assert [point["retargeted"] for point in backup_set["points"]] == [None, None]
    assert vdbackup("backup", disk, "-r", repository, "--retarget", "auto").status == 0
    assert reports(repository) == ["0003-overlay.retarget.json"]
    assert only_set(vdbackup, repository)["keep"] == 5


@pytest.mark.usefixtures("backed_up")
def test_dry_run_says_what_and_why_and_does_nothing(vdbackup: Vdbackup, repository: Path):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in repository.glob("*/*"))
    said = vdbackup("retarget", 2, "-r", repository, "--dry-run")
    assert said.status == 0
    assert said.out.startswith("Point 2: ")
    assert "nothing is changed" in said.out
    planned = vdbackup("retarget", 2, "-r", repository, "--dry-run", "--json").json
    assert planned["event"] == "plan"
    assert planned["hardware"]["controller"] == "ahci"
    assert planned["guest"]["system"] == "other"
    assert planned["changes"] == []
    assert sorted((path.name, path.stat().st_mtime_ns) for path in repository.glob("*/*")) == before


def test_dry_run_says_what_blocks_and_what_to_do(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path
):
    image = unified_image("/dev/mmcblk0p2")
    source = without_grub(tmp_path, {"EFI/Linux/arch.efi": image})
    assert vdbackup("backup", source, "-r", repository, "--retarget", "off").status == 0
    said = vdbackup("retarget", "latest", "-r", repository, "--dry-run")
    assert said.status == 3
    assert "root=/dev/mmcblk0p2" in said.err
    assert "make its kernel image anew" in said.err
    planned = vdbackup("retarget", "latest", "-r", repository, "--dry-run", "--json")
    assert planned.status == 3
    assert [each["blocks"] for each in planned.json["hardware"]["problems"]] == [True]


@pytest.mark.usefixtures("backed_up")
def test_hardware_can_be_asked_for_and_undone(vdbackup: Vdbackup, repository: Path):
    said = vdbackup("retarget", 2, "-r", repository, "--hardware", "nvme", "--json")
    assert said.status == 0
    assert said.json["report"]["hardware"]["controller"] == "nvme"
    assert only_set(vdbackup, repository)["points"][1]["retargeted"]["hardware"] == "nvme"
    assert vdbackup("retarget", 2, "-r", repository, "--hardware", "none").status == 0
    assert only_set(vdbackup, repository)["points"][1]["retargeted"] is None


def test_disk_that_holds_no_system_is_said_to_and_is_no_failed_backup(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path
):
    data = tmp_path / "data.img"
    data.write_bytes(b"data" * (1 << 18))
    assert vdbackup("backup", data, "-r", repository).status == 0
    point = only_set(vdbackup, repository)["points"][0]
    assert point["retargeted"]["boots"] is False
    said = vdbackup("retarget", 1, "-r", repository)
    assert said.status == 3
    assert said.err


def test_report_that_was_tampered_with_is_passed_over(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    assert vdbackup("backup", disk, "-r", repository).status == 0
    path = repository / "laptop" / "0001-overlay.retarget.json"
    path.write_text(path.read_text().replace('"ahci"', '"../../etc/passwd"'))
    assert only_set(vdbackup, repository)["points"][0]["retargeted"] is None
    said = vdbackup("verify", "-r", repository)
    assert said.status == 0


@pytest.mark.parametrize("hardware", ["floppy", "", "AHCI"])
def test_hardware_that_does_not_exist_is_wrong_usage(
    vdbackup: Vdbackup, repository: Path, hardware: str
):
    assert vdbackup("retarget", 1, "-r", repository, "--hardware", hardware).status == 2


@pytest.mark.parametrize("more", [("--hardware", "ahci"), ("--drivers", ".")])
def test_virt_v2v_makes_machines_ready_for_virtio_alone(
    vdbackup: Vdbackup, repository: Path, more: tuple[str, str]
):
    said = vdbackup("retarget", 1, "-r", repository, "--with", "virt-v2v", *more)
    assert said.status == 2
    assert "virt-v2v makes a machine ready for virtio, with drivers of its own." in said.err
