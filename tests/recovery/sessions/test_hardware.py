"""Guests boot unedited on the hardware that is chosen for them; their backups stay as they were.

The long forms boot a whole Debian in every way; CI boots one, and a small Linux for the rest.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from tests.guests import boot_sector, chains, debian
from tests.guests import tiny_linux as tiny_linux_builder
from tests.guests.debian import Debian
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.errors import RecoveryError
from vdbackup.guest.hardware import ANYTHING, Controller, HardwareRequest
from vdbackup.guest.model import Firmware
from vdbackup.qemu import accelerator, qemu
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.session import Session

LIMIT = 280.0  # seconds; a Debian takes 30 on a machine that does nothing else
ESP = MIB
"""Where the EFI system partition of a Debian with UEFI begins."""


def boot(
    disk: Path, sessions: Path, wish: HardwareRequest = ANYTHING, disk_format: str = "raw"
) -> Session:
    return vm.start_session(
        disk, sessions_folder=sessions, title="guest", request=wish, disk_format=disk_format
    )


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def built(kind: Debian) -> Path:
    try:
        return debian.image(kind)
    except debian.NotBuilt as error:
        pytest.fail(str(error), pytrace=False)


def copy(image: Path, target: Path) -> Path:
    volumes.run("cp", "--sparse=always", image, target)
    target.chmod(0o600)
    return target


# --------------------------------------------------------------------- by choice, and unedited


def test_a_debian_that_knows_only_ahci_is_started_there_unedited(sessions: Path) -> None:
    """As far as its kernel, which its GRUB has read from that disk; the rest takes twice as long.

    That this Debian comes up from a disk that it has a driver for is in retarget/test_machines.py.
    """
    with boot(built(Debian()), sessions) as session:
        assert session.hardware.controller is Controller.AHCI
        assert session.hardware.firmware is Firmware.BIOS
        assert session.wait_for_text(f"root={Debian().device} ro", LIMIT), session.console_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "firmware"),
    [
        (Debian(), Firmware.BIOS),
        (Debian(boot="grub-uefi"), Firmware.UEFI),
        (Debian(boot="systemd-boot"), Firmware.UEFI),
        (Debian(root="xfs"), Firmware.BIOS),
        (Debian(root="btrfs"), Firmware.BIOS),
        (Debian(lvm=True), Firmware.BIOS),
        (Debian(init="systemd"), Firmware.BIOS),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_debian_that_knows_only_ahci_boots_unedited(
    sessions: Path, kind: Debian, firmware: Firmware
) -> None:
    """The image is read-only, and is the backup itself."""
    image = built(kind)
    with boot(image, sessions) as session:
        assert session.hardware.controller is Controller.AHCI
        assert session.hardware.firmware is firmware
        assert session.wait_for_text(f"{debian.ALIVE} count=1 root={kind.device}", LIMIT), (
            session.console_text()
        )


@pytest.mark.long
@pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "vhdx", "qcow2"])
def test_a_debian_boots_from_an_incremental_in_every_format(
    tmp_path: Path, sessions: Path, disk_format: str
) -> None:
    image = built(Debian())
    later = copy(image, tmp_path / "later.img")
    debian.set_boot_count(later, 41)
    overlay = chains.make(tmp_path / "chain", image, later, disk_format=disk_format)
    before = chains.digests(overlay)
    with boot(overlay, sessions, disk_format=disk_format) as session:
        assert session.wait_for_text(f"{debian.ALIVE} count=42", LIMIT), session.console_text()
    assert chains.digests(overlay) == before


@pytest.mark.long
def test_a_vendors_loader_without_a_fallback_is_started_by_a_boot_entry(
    tmp_path: Path, sessions: Path
) -> None:
    disk = copy(built(Debian(boot="grub-uefi")), tmp_path / "disk.img")
    esp, loader = f"{disk}@@{ESP}", tmp_path / "loader.efi"
    volumes.run("mcopy", "-i", esp, "::EFI/BOOT/BOOTX64.EFI", loader)
    volumes.run("mdel", "-i", esp, "::EFI/BOOT/BOOTX64.EFI")
    volumes.run("mmd", "-i", esp, "::EFI/debian")
    volumes.run("mcopy", "-i", esp, loader, "::EFI/debian/grubx64.efi")
    with boot(disk, sessions) as session:
        assert session.hardware.loader is not None
        assert session.wait_for_text(f"{debian.ALIVE} count=1", LIMIT), session.console_text()


# ------------------------------------------------------------- without a boot loader, and alone


@pytest.fixture
def parts(tiny_linux: Path, tmp_path: Path) -> Path:
    """A folder with the kernel and the initramfs of the small Linux."""
    folder = tmp_path / "parts"
    folder.mkdir()
    where = f"{tiny_linux}@@{tiny_linux_builder.BOOT_START * 512}"
    volumes.run("mcopy", "-i", where, "::vmlinuz", "::initrd.gz", folder)
    return folder


def tiny_root(folder: Path, parts: Path, fstab: str) -> Path:
    """An ext4 that has all of a system: its kernel, and a root that counts boots."""
    tree = folder / "tree"
    for name, text in {
        "etc/os-release": 'PRETTY_NAME="Tiny"\n',
        "etc/fstab": fstab,
        "bootcount": "6\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    version = kernel_version(parts / "vmlinuz")
    (tree / "boot").mkdir()
    shutil.copy(parts / "vmlinuz", tree / "boot" / f"vmlinuz-{version}")
    shutil.copy(parts / "initrd.gz", tree / "boot" / f"initrd.img-{version}")
    volume = folder / "volume.img"
    volumes.ext("ext4", "-L", "root", size=48 * MIB)(tree, volume)
    return volume


def kernel_version(image: Path) -> str:
    head = image.read_bytes()[:0x10000]
    (at,) = struct.unpack_from("<H", head, 0x20E)
    return head[at + 0x200 :].split(maxsplit=1)[0].decode()


@pytest.mark.parametrize("disk_format", ["vmdk", pytest.param("vhdx", marks=pytest.mark.long)])
def test_a_volume_alone_boots_as_the_partition_that_it_was(
    tmp_path: Path, sessions: Path, parts: Path, disk_format: str
) -> None:
    volume = tiny_root(tmp_path, parts, "/dev/vda5 / ext4 defaults 0 1\n")
    overlay = chains.make(tmp_path / "chain", volume, disk_format=disk_format)
    before = chains.digests(overlay)
    with boot(overlay, sessions, disk_format=disk_format) as session:
        alive = f"{tiny_linux_builder.ALIVE} root=/dev/vda5 count=7"
        assert session.wait_for_text(alive, LIMIT), session.console_text()
    assert chains.digests(overlay) == before


def test_a_disk_without_a_boot_loader_starts_its_kernel(
    tmp_path: Path, sessions: Path, parts: Path
) -> None:
    volume, disk = tiny_root(tmp_path, parts, ""), tmp_path / "disk.img"
    volumes.blank(disk, 52 * MIB)
    volumes.partition(disk, "label: gpt\nsize=48M\n")
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(volume.read_bytes())
    with boot(disk, sessions / "a, b") as session:
        assert session.hardware.direct is not None
        alive = f"{tiny_linux_builder.ALIVE} root=/dev/vda1 count=7"
        assert session.wait_for_text(alive, LIMIT), session.console_text()


def test_what_cannot_boot_is_refused_before_anything_is_made(
    tmp_path: Path, sessions: Path
) -> None:
    tree, volume = tmp_path / "tree", tmp_path / "volume.img"
    tree.mkdir()
    (tree / "photo.jpg").write_bytes(b"photo")
    volumes.ext("ext4")(tree, volume)
    with pytest.raises(RecoveryError, match="There is no operating system on this disk"):
        boot(volume, sessions)
    assert not sessions.exists()


def test_hardware_that_was_asked_for_is_tried_even_where_it_is_known_not_to_boot(
    tmp_path: Path, sessions: Path
) -> None:
    volumes.blank(tmp_path / "empty.img", 8 * MIB)
    with boot(tmp_path / "empty.img", sessions, HardwareRequest(Controller.AHCI)) as session:
        assert session.running
        assert session.hardware.problems


# ---------------------------------------------------------------------------------- a network


def test_a_network_has_the_guests_card_and_an_address_of_its_own(
    tiny_linux: Path, sessions: Path
) -> None:
    wish = HardwareRequest(network=True)
    with boot(tiny_linux, sessions, wish) as one, boot(tiny_linux, sessions, wish) as two:
        shown = [
            session.execute("human-monitor-command", **{"command-line": "info network"})
            for session in (one, two)
        ]
        assert all("type=user" in text for text in shown)
        assert shown[0] != shown[1]
        assert one.execute("query-uuid") != two.execute("query-uuid")


# --------------------------------------------------------------------------- KVM that does not


def test_a_machine_that_kvm_cannot_run_is_started_again_without_it(
    tmp_path: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM is claimed; the event is the one that QEMU sends where KVM meets what it cannot run."""
    disk = boot_sector.make(
        tmp_path / "disk.img", boot_sector.say("up and running") + boot_sector.SWITCH_OFF
    )
    claimed = accelerator.Choice(qemu.Accelerator.KVM, "")
    monkeypatch.setattr(accelerator, "choose", lambda: claimed)
    monkeypatch.setattr(qemu, "processor", lambda _: ["-accel", "tcg", "-cpu", "max"])
    with boot(disk, sessions, HardwareRequest(Controller.AHCI)) as session:
        first = session.execute("query-status")
        session._on_event("STOP", {"running": False, "status": "internal-error"})
        assert session.wait_for_text("up and running\r\n", LIMIT), session.console_text()
        assert first["running"]
        assert session.accelerator is qemu.Accelerator.TCG
        assert "was started again without it" in session.notice
        assert session.wait(LIMIT)
        assert session.error is None


def test_a_machine_that_is_killed_while_it_is_started_without_kvm_stays_killed(
    tiny_linux: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = accelerator.Choice(qemu.Accelerator.KVM, "")
    monkeypatch.setattr(accelerator, "choose", lambda: claimed)
    monkeypatch.setattr(qemu, "processor", lambda _: ["-accel", "tcg", "-cpu", "max"])
    with boot(tiny_linux, sessions) as session:
        session._on_event("STOP", {"running": False, "status": "internal-error"})
        session.kill()
        assert not session.running
