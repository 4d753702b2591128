"""A restored disk is changed in place so that it starts on hardware that it did not have before.

The hardware is described as sysfs would: this computer has no such disk. That a real one is read
right, and that a UEFI takes the entry, tests/rescue/test_medium.py shows in whole machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guests import debian
from tests.guests.debian import Debian
from tests.guests.lilo import LILO
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NoDriver, NotRetargeted, UnfitTarget
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import Firmware
from vdbackup.jobs import Task
from vdbackup.recovery.bootable import computer, firmware, making
from vdbackup.recovery.bootable.computer import Computer, Step
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.vm import HardwareRequest

pytestmark = pytest.mark.usefixtures("as_root")

NVME = Computer(
    Firmware.BIOS,
    (
        Step("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", "nvme"),
        Step("acpi:PNP0A08:PNP0A03:", ""),
    ),
)
LIMIT = 900.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A Debian that knows AHCI alone and calls its disk /dev/sda: its image, and the device."""
    image = tmp_path / "disk.img"
    run("cp", "--sparse=always", debian.image(Debian()), image)
    image.chmod(0o644)
    with shown(image) as device:
        yield image, device


@contextmanager
def shown(image: Path) -> Iterator[Path]:
    """A disk of such a Debian as a device with its partition."""
    start = debian.BIOS_ROOT_START * debian.SECTOR
    with loop(image) as device:
        add_partition(device, 1, start, debian.SIZE - start - (1 << 20))
        try:
            yield device
        finally:
            delete_partition(device, 1)


@pytest.fixture
def with_nvme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "of", lambda _: NVME)


@pytest.mark.usefixtures("with_nvme")
def test_what_other_hardware_takes_is_planned_then_done_and_said(disk: tuple[Path, Path]):
    image, device = disk
    plan = making.plan(device)
    assert "reaches the disk by nvme: 3 files are changed" in plan.summary
    assert [each.path.partition("-6")[0] for each in plan.changes] == [
        "/etc/fstab",
        "/boot/grub/grub.cfg",
        "/boot/initrd.img",
    ]
    assert known(device) == ("/dev/sda1", False)
    made = making.run(plan, Task())
    assert any("the drivers nvme_core, nvme" in each for each in made.done)
    assert len(made.done) == 3
    assert not made.warnings
    assert known(device)[1]
    assert known(device)[0].startswith("UUID=")
    run("e2fsck", "-f", "-n", f"{image}?offset={debian.BIOS_ROOT_START * 512}")
    assert not making.plan(device).needed  # once is enough


@pytest.mark.usefixtures("with_nvme")
def test_what_another_disk_of_this_computer_has_is_waited_for_as_before(
    disk: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, device = disk
    links = tmp_path / "by-uuid"
    links.mkdir()
    (links / "AB12-CD34").touch()
    monkeypatch.setitem(computer.NAMES, "UUID", links)
    lines = "UUID=ab12-cd34 /there vfat defaults 0 2\nUUID=ab12-cd35 /not vfat defaults 0 2\n"
    with (
        mounted(Path(f"{device}p1"), tmp_path / "root") as folder,
        (folder / "etc" / "fstab").open("a") as fstab,
    ):
        fstab.write(lines)
    (change,) = [each for each in making.plan(device).changes if each.path == "/etc/fstab"]
    assert change.after.endswith(lines.replace("/not vfat defaults", "/not vfat defaults,nofail"))


def known(device: Path) -> tuple[str, bool]:
    """What fstab calls the root, and whether the initramfs has the driver of an NVMe."""
    with Chain.open(device, DiskFormat.RAW) as chain:
        guest = inspect(chain)
        assert guest.root is not None
        assert guest.kernel is not None
        fstab = Disk(chain).trees[guest.root.volume].text("/etc/fstab")
        return fstab.split()[0], "nvme" in guest.kernel.early


@pytest.mark.usefixtures("with_nvme")
def test_a_journal_that_was_left_is_replayed_first(disk: tuple[Path, Path], tmp_path: Path):
    """What stands in the journal alone is what the system would have found."""
    _, device = disk
    part = Path(f"{device}p1")
    used = tmp_path / "used.img"
    with mounted(part, tmp_path / "root") as folder:
        with (folder / "etc" / "fstab").open("a") as fstab:
            fstab.write("/dev/sda7 /data ext4 defaults 0 2\n")
        run("sync", folder / "etc" / "fstab")
        run("cp", "--sparse=always", disk[0], used)
    with shown(used) as crashed:
        making.run(making.plan(crashed), Task())
        with Chain.open(crashed, DiskFormat.RAW) as chain:
            text = Disk(chain).trees["p1"].text("/etc/fstab")
    assert "/dev/sda7 /data ext4 defaults,nofail" in text


@pytest.mark.usefixtures("with_nvme")
def test_another_disk_than_the_one_that_was_planned_for_is_left_as_it_is(disk: tuple[Path, Path]):
    image, device = disk
    plan = making.plan(device)
    run("tune2fs", "-U", "6f1e7a52-6b0f-4a4e-9a0c-0c6d8e1f2a3b", f"{device}p1")
    before = image.read_bytes()
    with pytest.raises(UnfitTarget, match="does not hold what it held"):
        making.run(plan, Task())
    assert image.read_bytes() == before


def test_a_kernel_without_the_driver_is_refused_and_nothing_changed(
    disk: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    image, device = disk
    strange = Computer(Firmware.BIOS, (Step("pci:v0000FFFFd0000FFFF", "newest_raid"),))
    monkeypatch.setattr(computer, "of", lambda _: strange)
    before = image.read_bytes()
    with pytest.raises(NoDriver, match="has no driver newest_raid"):
        making.plan(device)
    assert image.read_bytes() == before


@pytest.mark.usefixtures("with_nvme")
def test_an_initramfs_that_lilo_would_not_find_is_left_as_it_is(disk: tuple[Path, Path]):
    image, device = disk
    with image.open("r+b") as file:
        file.write(LILO.ljust(440, b"\0"))
    before = image.read_bytes()
    with pytest.raises(NotRetargeted, match="LILO starts this system") as refused:
        making.plan(device)
    assert "run lilo there" in refused.value.advice
    assert image.read_bytes() == before


def test_a_disk_of_the_other_firmware_is_said_to_be_one(
    disk: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(computer, "of", lambda _: replace(NVME, firmware=Firmware.UEFI))
    (note,) = making.plan(disk[1]).notes
    assert "starts by BIOS alone, and this computer was started by UEFI" in note


def test_what_is_no_disk_with_a_system_is_refused(tmp_path: Path):
    image = tmp_path / "empty.img"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(UnfitTarget):
        making.plan(image)
    with loop(image) as device, pytest.raises(NotRetargeted):
        making.plan(device)


def test_a_loader_that_needs_an_entry_is_also_put_where_any_firmware_looks(tmp_path: Path):
    image = tmp_path / "disk.img"
    run("cp", "--sparse=always", debian.image(Debian(boot="grub-uefi")), image)
    image.chmod(0o644)
    esp = f"{image}@@1M"
    run("mmd", "-i", esp, "::/EFI/debian")
    run("mmove", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi")
    with Chain.open(image, DiskFormat.RAW) as chain:
        guest = inspect(chain)
        (copied,) = firmware.fallback(Disk(chain), guest)
        loader = firmware.own_loader(guest)
        content = Disk(chain).trees["p2"].read("/EFI/debian/grubx64.efi", 1 << 24)
    assert loader is not None
    assert loader.program is not None
    assert loader.program.path.lower() == "/efi/debian/grubx64.efi"
    assert (copied.path, copied.content) == ("/EFI/BOOT/BOOTX64.EFI", content)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("with_nvme")
def test_it_starts_on_that_hardware(disk: tuple[Path, Path], tmp_path: Path):
    image, device = disk
    making.run(making.plan(device), Task())
    run("sync")
    with vm.start_session(
        image,
        sessions_folder=tmp_path / "sessions",
        title="guest",
        request=HardwareRequest(Controller.NVME),
        disk_format="raw",
    ) as session:
        said = f"{debian.ALIVE} count=1 root=/dev/nvme0n1p1"
        assert session.wait_for_text(said, LIMIT), session.console_text()
