"""Which program a machine's firmware is told to start, and when what a BIOS starts is left over."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guest.test_inspect import disk_of, look
from tests.guests import systems
from tests.volumes import volumes
from tests.volumes.test_partitions import write
from tests.volumes.volumes import MIB
from vdbackup.guest.choice import choose
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.guest.linux import unified
from vdbackup.guest.model import Firmware

BOOT = b"\xeb\x63\x90".ljust(0x5C, b"\0") + struct.pack("<Q", 1) + b"GRUB \0Geom\0Hard Disk\0"
"""GRUB's boot.img: the rest of it begins in the sector whose number it names."""


def program(**sections: bytes) -> bytes:
    """A PE program of UEFI for x86-64 with these sections."""
    head = bytearray(b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0")
    head += struct.pack("<HH12xHH", 0x8664, len(sections), 112, 0)
    head += struct.pack("<H66xH", 0x20B, 10).ljust(112, b"\0")
    at = 1024
    table, data = b"", b""
    for name, content in sections.items():
        table += struct.pack("<8sIIII16x", f".{name}".encode(), len(content), 0, len(content), at)
        data += content
        at += len(content)
    return (bytes(head) + table).ljust(1024, b"\0") + data


def disk(tmp_path: Path, files: dict[str, bytes], *, code: bytes = bytes(440)) -> Path:
    efi, tree = tmp_path / "efi", tmp_path / "tree"
    (efi / "EFI").mkdir(parents=True)
    for name, content in files.items():
        (efi / name).parent.mkdir(parents=True, exist_ok=True)
        (efi / name).write_bytes(content)
    tree.mkdir()
    systems.linux(tree, ["nvme"], root="/dev/nvme0n1p2")
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    parts = [tmp_path / "efi.img", tmp_path / "root.img"]
    return disk_of(tmp_path / "disk.img", parts, "gpt", code)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["EFI/Linux/arch-linux.efi"], "/EFI/Linux/arch-linux.efi"),
        (["EFI/Linux/a-6.1.9.efi", "EFI/Linux/a-6.1.10+3.efi"], "/EFI/Linux/a-6.1.10+3.efi"),
        (["EFI/Linux/a-1.efi", "EFI/Linux/a-2+0-3.efi"], "/EFI/Linux/a-1.efi"),
        (["EFI/refind/refind_x64.efi"], "/EFI/refind/refind_x64.efi"),
        (["EFI/limine/BOOTX64.EFI"], "/EFI/limine/BOOTX64.EFI"),
        (["EFI/CLOVER/CLOVERX64.efi"], "/EFI/CLOVER/CLOVERX64.efi"),
        (["EFI/systemd/systemd-bootx64.efi"], "/EFI/systemd/systemd-bootx64.efi"),
        (["EFI/Microsoft/Boot/bootmgfw.efi"], "/EFI/Microsoft/Boot/bootmgfw.efi"),
        (["EFI/debian/mmx64.efi", "EFI/debian/shimx64.efi"], "/EFI/debian/shimx64.efi"),
        (["EFI/own/memtest.efi", "EFI/own/loader.efi"], "/EFI/own/loader.efi"),
    ],
)
def test_what_only_a_firmwares_own_entry_starts_gets_one(
    files: list[str], expected: str, tmp_path: Path
) -> None:
    chosen = choose(look(disk(tmp_path, dict.fromkeys(files, program()))))
    assert chosen.firmware is Firmware.UEFI
    assert chosen.loader is not None
    assert chosen.loader.path == expected
    assert any(expected in reason for reason in chosen.reasons)


WINDOWS = program() + "bootmgr.exe".encode("utf-16-le")
MANAGER = "EFI/Microsoft/Boot/bootmgfw.efi"


@pytest.mark.parametrize("own", ["EFI/debian/shimx64.efi", "EFI/Linux/arch.efi"])
def test_a_linux_beside_a_windows_that_the_firmware_finds_by_itself_gets_an_entry(
    own: str, tmp_path: Path
) -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": WINDOWS, MANAGER: WINDOWS, own: program()}
    guest = look(disk(tmp_path, files))
    chosen = choose(guest)
    assert chosen.loader is not None
    assert chosen.loader.path == f"/{own}"
    assert any(own in reason for reason in chosen.reasons)
    assert guest.loaders[0].program == chosen.loader


@pytest.mark.parametrize("beside", ["EFI/HP/diagnostics.efi", "EFI/debian/readme.txt"])
def test_what_lies_beside_windows_boot_manager_and_starts_no_linux_gets_none(
    beside: str, tmp_path: Path
) -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": WINDOWS, MANAGER: WINDOWS, beside: program()}
    assert choose(look(disk(tmp_path, files))).loader is None


def test_a_linux_that_the_firmware_finds_by_itself_needs_no_entry_beside_a_windows(
    tmp_path: Path,
) -> None:
    shim = "EFI/debian/shimx64.efi"
    files = {"EFI/BOOT/BOOTX64.EFI": program(), MANAGER: WINDOWS, shim: program()}
    assert choose(look(disk(tmp_path, files))).loader is None


def test_a_program_for_another_processor_is_not_started(tmp_path: Path) -> None:
    arm = program().replace(b"PE\0\0\x64\x86", b"PE\0\0\x64\xaa")
    assert look(disk(tmp_path, {"EFI/Linux/arm.efi": arm})).firmware == ()


@pytest.mark.parametrize("sector", [b"EFI PART", bytes(8)], ids=["gpt", "nothing"])
def test_the_beginning_of_a_grub_alone_does_not_choose_a_bios(
    sector: bytes, tmp_path: Path
) -> None:
    image = disk(tmp_path, {"EFI/BOOT/BOOTX64.EFI": program()}, code=BOOT)
    assert image.read_bytes()[512:520] == b"EFI PART"
    if not any(sector):
        write(image, 0x5C, struct.pack("<Q", 40))
    assert look(image).firmware == (Firmware.UEFI,)


def test_a_piece_of_grub_inside_a_file_system_is_left_over(tmp_path: Path) -> None:
    image = disk(tmp_path, {"EFI/BOOT/BOOTX64.EFI": program()}, code=BOOT)
    write(image, 0x5C, struct.pack("<Q", 80 * MIB // 512))
    write(image, 80 * MIB, b"\x52\xe8\x28\x01")
    assert look(image).firmware == (Firmware.UEFI,)


def test_a_whole_grub_is_started_by_a_bios(tmp_path: Path) -> None:
    image = disk(tmp_path, {"EFI/BOOT/BOOTX64.EFI": program()}, code=BOOT)
    write(image, 0x5C, struct.pack("<Q", 40))
    write(image, 40 * 512, b"\x52\xe8\x28\x01")
    assert look(image).firmware == (Firmware.BIOS, Firmware.UEFI)


def test_the_parts_of_a_unified_kernel_image_are_found() -> None:
    parts = unified.read(
        program(linux=b"k", initrd=b"i", cmdline=b"root=LABEL=r  ro\n\0", uname=b"6.1")
    )
    assert parts is not None
    assert (parts.kernel, parts.initramfs, parts.version) == (b"k", b"i", "6.1")
    assert parts.command_line == "root=LABEL=r ro"


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=6))
def test_no_damage_to_a_unified_kernel_image_does_harm(patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(program(linux=b"kernel", initrd=b"initramfs", cmdline=b"quiet"))
    for at, new in patches:
        data[at : at + len(new)] = new
    unified.machine(bytes(data[:4096]))
    unified.read(bytes(data))


# ---------------------------------------------------- names of devices where no GRUB holds them


def unified_image(root: str, drivers: tuple[str, ...] = ("ahci", "sd_mod", "nvme")) -> bytes:
    return program(
        linux=systems.kernel(),
        initrd=systems.initramfs(drivers),
        cmdline=f"root={root} ro quiet".encode(),
        uname=systems.VERSION.encode(),
    )


def without_grub(tmp_path: Path, files: dict[str, bytes | str]) -> Path:
    """A Linux whose fstab has names that stay, and on its EFI partition these files."""
    efi, tree = tmp_path / "efi", tmp_path / "tree"
    for name, content in files.items():
        (efi / name).parent.mkdir(parents=True, exist_ok=True)
        (efi / name).write_bytes(content.encode() if isinstance(content, str) else content)
    tree.mkdir()
    fstab = "UUID=6a1b2c3d-0000-4000-8000-000000000001 / ext4 defaults 0 1\n"
    systems.linux(tree, ["virtio_pci", "virtio_blk", "ahci"], fstab=fstab)
    shutil.rmtree(tree / "boot")
    volumes.fat(32, 64 * MIB, "-s", "1")(efi, tmp_path / "efi.img")
    volumes.ext("ext4")(tree, tmp_path / "root.img")
    return disk_of(
        tmp_path / "disk.img", [tmp_path / "efi.img", tmp_path / "root.img"], "gpt", bytes(440)
    )


def test_a_unified_kernel_image_gets_the_hardware_that_its_command_line_names(tmp_path: Path):
    image = unified_image("/dev/nvme0n1p2")
    guest = look(without_grub(tmp_path, {"EFI/Linux/arch.efi": image}))
    assert [(name.name, name.essential, name.fixed) for name in guest.device_names] == [
        ("/dev/nvme0n1p2", True, True)
    ]
    chosen = choose(guest)
    assert chosen.controller is Controller.NVME
    assert chosen.boots
    assert "/dev/nvme0n1p2" in chosen.reasons[0]


@pytest.mark.parametrize("root", ["/dev/mmcblk0p2", "/dev/sdb2", "/dev/disk/by-id/ata-A-part2"])
def test_what_a_unified_kernel_image_names_and_no_disk_here_is_called_blocks(
    tmp_path: Path, root: str
):
    guest = look(without_grub(tmp_path, {"EFI/Linux/arch.efi": unified_image(root)}))
    chosen = choose(guest)
    assert not chosen.boots
    assert not chosen.edit.needed  # nothing that could be changed
    (problem,) = [each for each in chosen.problems if root in each.sentence]
    assert problem.blocks
    assert "/EFI/Linux/arch.efi starts Linux with root=" in problem.sentence
    assert "UUID" in problem.advice


def test_hardware_that_is_asked_for_and_not_named_so_blocks(tmp_path: Path):
    image = unified_image("/dev/sda2", ("ahci", "sd_mod", "virtio_pci", "virtio_blk"))
    guest = look(without_grub(tmp_path, {"EFI/Linux/arch.efi": image}))
    assert choose(guest).controller is Controller.AHCI
    asked = choose(guest, HardwareRequest(Controller.VIRTIO))
    assert not asked.boots
    assert any("root=/dev/sda2" in problem.sentence for problem in asked.problems)


@pytest.mark.parametrize(
    ("image", "left", "essential"),
    [("/dev/nvme0n1p2", "UUID=1", ["/dev/nvme0n1p2"]), ("UUID=1", "/dev/nvme0n1p2", [])],
)
def test_options_that_another_kernel_left_are_not_those_of_a_unified_kernel_image(
    tmp_path: Path, image: str, left: str, essential: list[str]
):
    files = {
        "EFI/Linux/arch.efi": unified_image(image),
        "refind_linux.conf": f'"Boot" "root={left} ro"\n',
    }
    guest = look(without_grub(tmp_path, files))
    assert [name.name for name in guest.device_names if name.essential] == essential


def test_a_unified_kernel_image_that_names_its_root_by_uuid_needs_nothing(tmp_path: Path):
    image = unified_image("UUID=6a1b2c3d-0000-4000-8000-000000000001")
    guest = look(without_grub(tmp_path, {"EFI/Linux/arch.efi": image}))
    assert guest.device_names == ()
    assert choose(guest).boots


LIMINE = """timeout: 5
# a comment: path: boot():/no
/+Arch Linux
//linux
    protocol: linux
    path: boot():/vmlinuz-linux#0123abcd
    cmdline: root=/dev/sda2 rw
    module_path: boot():/initramfs.img
/Memtest
    protocol: efi
    path: boot():/memtest.efi
"""
LIMINE_OLD = """TIMEOUT=5
:Arch Linux
PROTOCOL=linux
KERNEL_PATH=boot:///vmlinuz-linux
CMDLINE=root=/dev/sda2 rw
MODULE_PATH=boot:///initramfs.img
"""
REFIND = """timeout 20
menuentry "Old" {
    loader /vmlinuz-old
    options "root=/dev/sdc1"
    disabled
}
menuentry "Arch Linux" {
    icon     /EFI/refind/icons/os_arch.png
    loader   /vmlinuz-linux
    initrd   /initramfs.img
    options  "root=/dev/sda2 rw"
    submenuentry "Terminal" {
        add_options "systemd.unit=multi-user.target"
    }
}
"""
REFIND_LINUX = """# made by mkrlconf
"Boot with standard options"  "root=/dev/sda2 rw initrd=initramfs.img"
"Boot to single-user mode"    "root=/dev/sda2 rw single"
"""
ENTRY = "title Arch\nlinux /vmlinuz-linux\ninitrd /initramfs.img\noptions root=/dev/sda2 rw\n"


@pytest.mark.parametrize(
    ("program_at", "file", "text", "line"),
    [
        ("EFI/limine/limine_x64.efi", "limine.conf", LIMINE, 7),
        ("EFI/limine/limine_x64.efi", "EFI/limine/limine.cfg", LIMINE_OLD, 5),
        ("EFI/refind/refind_x64.efi", "EFI/refind/refind.conf", REFIND, 11),
        ("EFI/refind/refind_x64.efi", "refind_linux.conf", REFIND_LINUX, 2),
        ("EFI/systemd/systemd-bootx64.efi", "loader/entries/arch.conf", ENTRY, 4),
    ],
    ids=["limine", "limine of 2023", "refind", "refind_linux", "systemd-boot"],
)
def test_a_root_that_a_boot_loaders_file_names_by_its_disk_is_found(
    tmp_path: Path, program_at: str, file: str, text: str, line: int
):
    kernel = {"vmlinuz-linux": systems.kernel(), "initramfs.img": systems.initramfs(["virtio_pci"])}
    guest = look(without_grub(tmp_path, {program_at: program(), file: text, **kernel}))
    found = next(iter(guest.device_names))
    places = [(each.name, each.file.path, each.line) for each in guest.device_names]
    assert len(set(places)) == len(places)
    assert places[0] == ("/dev/sda2", f"/{file}", line)
    assert (found.essential, found.fixed) == (True, False)
    edit = choose(guest, HardwareRequest(Controller.VIRTIO)).edit
    assert edit.needed
    assert found in edit.names
