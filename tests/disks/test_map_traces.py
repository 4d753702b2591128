"""A virtual disk that lost its first 64 KiB is no raw disk; a raw one that begins with zeros is.

Both are called ".img", which says of either that it is raw.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.disks.shelf import MIB
from tests.noise import noise
from vdbackup.disks.contents import Decision, UnclearFormat, decide

LOST = 64 << 10
SMALL, MIDDLE, LARGE = 64 * MIB, 2048 * MIB, 100 * 1024 * MIB


@pytest.fixture(scope="module")
def raw_disks(tmp_path_factory) -> dict[int, Path]:
    """Disks of each size with a partition that holds noise."""
    folder = tmp_path_factory.mktemp("raw")
    return {size: partitioned(folder / f"{size}.raw", size) for size in (SMALL, MIDDLE, LARGE)}


def partitioned(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    subprocess.run(["sfdisk", "-q", path], input="label: gpt\n,,\n", text=True, check=True)
    write(path, MIB, noise(8 * MIB, 1))
    write(path, size * 3 // 4, noise(6 * MIB, 2))
    return path


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def converted(raw: Path, made: Path, *layout: str) -> Path:
    """What QEMU makes of a raw disk."""
    command = ["qemu-img", "convert", "-f", "raw", "-O", layout[0]]
    for option in layout[1:]:
        command += ["-o", option]
    subprocess.run([*command, raw, made], check=True)
    return made


SURVIVORS = [
    (SMALL, "vmdk", "virtual disk or a raw one"), (MIDDLE, "vmdk", "VMDK"), (LARGE, "vmdk", "VMDK"),
    (SMALL, "vmdk subformat=streamOptimized", "VMDK"),
    (MIDDLE, "vmdk subformat=streamOptimized", "VMDK"),
    (LARGE, "vdi", "VDI"), (LARGE, "parallels", "Parallels"),
    *((size, "qed", "QED") for size in (SMALL, MIDDLE, LARGE)),
    *((size, "qcow", "QCOW") for size in (SMALL, MIDDLE, LARGE)),
    (MIDDLE, "qcow2 cluster_size=4k", "QCOW"), (SMALL, "qcow2 cluster_size=8k", "QCOW"),
]  # fmt: skip


@pytest.mark.parametrize(("size", "layout", "words"), SURVIVORS)
def test_a_virtual_disk_that_lost_its_first_64_kib_is_asked_for(
    tmp_path, raw_disks, size, layout, words
):
    disk = converted(raw_disks[size], tmp_path / "disk.img", *layout.split())
    for fill in (bytes(LOST), noise(LOST, 4)):
        write(disk, 0, fill)
        with pytest.raises(UnclearFormat, match=words) as question:
            decide(disk)
        assert question.value.choices == ("raw",)
        assert decide(disk, "raw") == decide(disk, before="raw") == Decision("raw")


@pytest.mark.parametrize("layout", ["vdi", "qed", "qcow", "qcow2 cluster_size=4k"])
def test_a_virtual_disk_that_lost_its_header_is_asked_for(tmp_path, raw_disks, layout):
    disk = converted(raw_disks[SMALL], tmp_path / "disk.img", *layout.split())
    write(disk, 0, bytes(512))
    with pytest.raises(UnclearFormat, match="it is damaged"):
        decide(disk)


def test_a_vhdx_that_lost_its_first_mib_is_asked_for(tmp_path, raw_disks):
    disk = converted(raw_disks[SMALL], tmp_path / "disk.img", "vhdx")
    write(disk, 0, bytes(MIB))
    with pytest.raises(UnclearFormat, match="VHDX"):
        decide(disk)


OTHERS_NAMES = [".vmdk", ".vhd", ".vhdx", ".qcow2", ".qcow", ".vdi", ".qed", ".hds", ".hdd"]


@pytest.mark.parametrize("suffix", OTHERS_NAMES)
def test_what_is_called_a_virtual_disk_and_begins_as_none_is_asked_for(tmp_path, suffix):
    disk = tmp_path / f"disk{suffix}"
    disk.write_bytes(bytes(2 * MIB) + noise(MIB, 3))
    with pytest.raises(UnclearFormat, match="not what its name says"):
        decide(disk)


FILE_SYSTEMS = [
    ["mkfs.ext4", "-q", "-F"], ["mkfs.xfs", "-q", "-f"], ["mkfs.btrfs", "-q", "-f"],
    ["mkfs.fat", "-F", "32"], ["mkfs.ntfs", "-q", "-F", "-f"], ["mkfs.exfat"],
    ["mkswap", "-q"],
]  # fmt: skip


@pytest.mark.parametrize("command", FILE_SYSTEMS, ids=lambda command: command[0])
@pytest.mark.parametrize("place", [0, MIB])
def test_a_raw_disk_is_one_with_its_table_or_without(tmp_path, command, place):
    """At 1 MiB the file system is a partition's, whose table was overwritten with zeros."""
    volume, disk = tmp_path / "volume", tmp_path / "disk.img"
    volume.touch()
    os.truncate(volume, 300 * MIB)
    subprocess.run([*command, volume], check=True, capture_output=True)
    with disk.open("wb") as file:
        file.seek(place)
        with volume.open("rb") as made:
            file.write(made.read(8 * MIB))
        file.truncate(300 * MIB + place)
    assert decide(disk) == Decision("raw")


@pytest.mark.parametrize(
    "content",
    [
        noise(16 * MIB, 5),
        bytes(4 * MIB) + noise(MIB, 6),
        bytes(LOST) + b"\xff" * (8 * MIB),
        bytes(LOST) + np.arange(MIB, dtype="<u4").tobytes(),
        bytes(LOST) + b"".join((n * 128).to_bytes(4, "little") for n in range(64)) * 4096,
        bytes(LOST) + (np.arange(MIB, dtype=">u8") * 512).astype(">u8").tobytes(),
    ],
    ids=["encrypted", "data", "erased flash", "numbers", "table of a program", "symbols"],
)
def test_what_looks_a_little_like_a_map_is_none(tmp_path, content):
    disk = tmp_path / "disk.img"
    disk.write_bytes(content)
    assert decide(disk) == Decision("raw")


def test_the_programs_of_a_linux_behind_a_beginning_of_zeros_are_no_maps(tmp_path):
    disk = tmp_path / "disk.img"
    large = [path for path in Path("/usr/lib").rglob("*.so.*") if path.stat().st_size > MIB // 2]
    for path in sorted(large)[:8]:
        disk.write_bytes(bytes(LOST) + path.read_bytes()[: 7 * MIB])
        os.truncate(disk, 1 << 30)
        assert decide(disk) == Decision("raw"), path
