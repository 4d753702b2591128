"""A restore is done beforehand in a virtual twin, and the point says how long that took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.guests import boot_sector, debian
from tests.guests.debian import Debian
from tests.sources.opened import open_path
from vdbackup import cli
from vdbackup.backup import capture
from vdbackup.errors import NoSystem, UsageError
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.guest.model import Firmware
from vdbackup.jobs import Task, duration
from vdbackup.operations import rehearse
from vdbackup.operations.rehearse import Twin
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.repository.model import RecoveryPoint, Rehearsal
from vdbackup.repository.repository import Repository

MIB = 1 << 20
LIMIT = 280.0
ANY = HardwareRequest(memory_mib=128)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_restore_is_rehearsed_and_the_point_says_how_long_it_took(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.image.unlink()
    boot_sector.make(lab.image, boot_sector.say("it is back"))
    lab.backup()
    point = lab.set.points[-1]
    plan = rehearse.plan(lab.repository, "disk", point.id, Twin(None, ANY), lab.folder)
    assert "is restored to a virtual disk" in plan.summary
    options = BootTestOptions(lab.folder / "sessions", "text:it is back", LIMIT)
    found = rehearse.run(plan, options, Task())
    assert found.ok, found.sentence
    assert found.restore_seconds >= 0  # in tenths, and this disk is small
    assert found.boot_seconds > 0
    assert (found.size, found.firmware) == (point.virtual_size, "bios")
    assert lab.set.points[-1].rehearsed == found
    assert list(lab.folder.glob("vdbackup-*")) == []  # nothing stays of the twin
    for command in ("list", "status"):
        assert cli.main([command, "--json", "-r", str(lab.repository.path)]) in (0, 1)
        said = capsys.readouterr().out
        assert f'"restore_seconds": {found.restore_seconds}' in said
    lab.check_all()


def test_what_cannot_come_up_is_not_rehearsed(lab: Lab) -> None:
    lab.backup()
    (point,) = lab.set.points
    with pytest.raises(NoSystem):
        rehearse.plan(lab.repository, "disk", point.id, Twin(None, ANY))


def test_the_command_says_what_it_would_do(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    boot_sector.make(lab.image, boot_sector.say("it is back"))
    lab.backup()
    command = ["rehearse", "-r", str(lab.repository.path), "latest", "--dry-run"]
    assert cli.main(command) == 0
    assert "is restored to a virtual disk" in capsys.readouterr().out


def test_what_is_no_disk_has_no_twin(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        rehearse.like(tmp_path)


def test_a_manifest_of_before_says_nothing_of_a_rehearsal_and_one_with_it_is_read_back(
    lab: Lab,
) -> None:
    lab.backup()
    (point,) = lab.set.points
    assert "rehearsed" not in point.to_json()
    done = Rehearsal(
        "2026-11-30T06:00:00+00:00", True, 1 << 30, "nvme", "uefi", 700.0, 140.0, "Up."
    )
    data = json.loads(json.dumps({**point.to_json(), "rehearsed": done.__dict__}))
    assert RecoveryPoint.from_json(data).rehearsed == done


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (40, "40 seconds"),
        (840, "14 minutes"),
        (3600, "1 hour"),
        (7500, "2 hours 5 minutes"),
    ],
)
def test_how_long_it_took_is_said_as_a_person_would(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "wanted", "size", "sectors"),
    [
        (Debian(), HardwareRequest(Controller.VIRTIO), 1024, None),
        (Debian(boot="grub-uefi"), HardwareRequest(Controller.NVME, Firmware.UEFI), 640, None),
        (Debian(boot="grub-uefi"), HardwareRequest(Controller.NVME, Firmware.UEFI), 1024, 4096),
    ],
    ids=["bios-virtio-larger", "uefi-nvme-smaller", "uefi-nvme-4096"],
)
def test_a_debian_that_knows_ahci_alone_is_back_on_other_hardware_and_another_size(
    tmp_path: Path, kind: Debian, wanted: HardwareRequest, size: int, sectors: int | None
) -> None:
    repository = Repository.create(tmp_path / "backups")
    with open_path(debian.image(kind)) as source:
        plan = capture.plan(repository, source, set_name="disk", disk_format="qcow2")
        point = capture.run(plan, Task()).point
    planned = rehearse.plan(
        repository, "disk", point.id, Twin(size * MIB, wanted, sectors), tmp_path
    )
    options = BootTestOptions(tmp_path / "sessions", f"text:{debian.ALIVE} count=1", 600.0)
    found = rehearse.run(planned, options, Task())
    assert found.ok, found.sentence
    assert (found.size, found.controller) == (size * MIB, wanted.controller)
