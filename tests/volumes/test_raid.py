"""Members of arrays: a mirror's is read as what it holds, no other one as a file system.

wipefs is asked whether the superblocks that are made here are where Linux has them.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.volumes import volumes
from tests.volumes.test_partitions import write
from tests.volumes.volumes import MIB, browsing
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.volumes import allocation

MEMBER = 16 * MIB
DATA = MIB
"""Where the data begin with superblocks of 1.1 and 1.2."""
VERSIONS = ("0.90", "1.0", "1.1", "1.2")


def place(version: str, size: int) -> int:
    """Where the superblock lies, by md's formulas."""
    return {
        "0.90": size // 65536 * 65536 - 65536,
        "1.0": (size // 512 - 16) // 8 * 8 * 512,
        "1.1": 0,
        "1.2": 4096,
    }[version]


def superblock(version: str, size: int, level: int, *, role: int = 0, features: int = 0) -> bytes:
    if version == "0.90":
        words = [0] * 1024
        words[0], words[2], words[4] = 0xA92B4EFC, 90, 1024
        words[5], words[7], words[8], words[10] = 77, level & 0xFFFFFFFF, (size - 65536) >> 10, 2
        words[992:997] = [role, 7, 0, role if role < 2 else 5, 6 if role < 2 else 0]
        words[38] = sum(words) & 0xFFFFFFFF
        return struct.pack("<1024I", *words)
    at = place(version, size)
    start = 0 if version == "1.0" else DATA // 512
    length = (at if version == "1.0" else size - DATA) // 512
    block = bytearray(512)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, features)
    struct.pack_into("<16s", block, 16, b"0123456789abcdef")
    struct.pack_into("<qiIQIIII", block, 64, 0, level, 0, length, 128, 2, 0, 0)
    struct.pack_into("<QQQQI", block, 128, start, length, at // 512, 0, 0)
    struct.pack_into("<I", block, 220, 2)
    struct.pack_into("<HH", block, 256, role, 1)
    total = sum(struct.unpack("<65I", block[:260]))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))
    return bytes(block)


def member(
    image: Path, content: bytes, version: str, level: int, *, at: int = 0, **options: int
) -> None:
    """Make what lies at `at` a member of an array that holds `content`."""
    write(image, at + (DATA if version in ("1.1", "1.2") else 0), content)
    block = superblock(version, MEMBER, level, **options)
    write(image, at + place(version, MEMBER), block)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, MEMBER)
    return disk


@pytest.mark.parametrize("version", VERSIONS)
def test_the_superblocks_made_here_are_those_of_linux(version: str, disk: Path) -> None:
    member(disk, b"", version, 1)
    assert "linux_raid_member" in volumes.run("wipefs", "--noheadings", disk)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("partitioned", [False, True], ids=["disk", "partition"])
def test_a_mirrors_member_is_read_as_what_the_mirror_holds(
    version: str, partitioned: bool, tmp_path: Path, filesystem: bytes
) -> None:
    disk, at = tmp_path / "disk.img", 4 * MIB if partitioned else 0
    volumes.blank(disk, MEMBER + 2 * at)
    if partitioned:
        volumes.partition(disk, f"label: gpt\nstart={at // 512}, size={MEMBER // 512}\n")
    member(disk, filesystem, version, 1, at=at)
    with browsing(disk) as browser:
        path = "/p1" if partitioned else "/"
        assert "file" in [entry.name for entry in browser.listing(path)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("level", [-1, 0, 5, 6, 10])
@pytest.mark.parametrize("partitioned", [False, True], ids=["disk", "partition"])
def test_a_member_of_any_other_array_is_never_read_as_a_file_system(
    version: str, level: int, partitioned: bool, tmp_path: Path, filesystem: bytes
) -> None:
    disk, at = tmp_path / "disk.img", 4 * MIB if partitioned else 0
    volumes.blank(disk, MEMBER + 2 * at)
    if partitioned:
        volumes.partition(disk, f"label: dos\nstart={at // 512}, size={MEMBER // 512}\n")
    member(disk, filesystem, version, level, at=at)
    write(disk, at, filesystem[: place("1.0", 8 * MIB)] if version in ("0.90", "1.0") else b"")
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert volume.filesystem == "RAID"
    assert "can be put together only by a running system" in volume.problem


def test_the_table_of_an_array_is_not_that_of_its_member(disk: Path, filesystem: bytes) -> None:
    """The first disk of stripes begins as the array does, its table included."""
    volumes.partition(disk, "label: dos\nstart=2048, size=8192\n")
    write(disk, MIB, filesystem[: 4 * MIB])
    write(disk, place("1.0", MEMBER), superblock("1.0", MEMBER, 0))
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert volume.name == ""
    assert "level 0" in volume.problem


def test_a_mirror_of_whole_disks_shows_its_partitions(disk: Path, filesystem: bytes) -> None:
    volumes.partition(disk, "label: dos\nstart=2048, size=20480\n")
    write(disk, MIB, filesystem)
    write(disk, place("1.0", MEMBER), superblock("1.0", MEMBER, 1))
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]


def test_a_superblock_at_the_end_of_the_last_partition_is_not_the_disks(
    tmp_path: Path, filesystem: bytes
) -> None:
    """Version 0.90 lies at the same place for both."""
    disk = tmp_path / "disk.img"
    volumes.blank(disk, MIB + MEMBER)
    volumes.partition(disk, f"label: dos\nstart=2048, size={MEMBER // 512}\n")
    member(disk, filesystem, "0.90", 1, at=MIB)
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_spare_is_not_read(version: str, disk: Path, filesystem: bytes) -> None:
    member(disk, filesystem, version, 1, role=0xFFFF)
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert "spare" in volume.problem


def test_a_mirrors_member_that_was_being_rebuilt_is_not_read(disk: Path, filesystem: bytes) -> None:
    member(disk, filesystem, "1.2", 1, features=2)
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert "being rebuilt" in volume.problem


def test_disks_that_a_pcs_firmware_joins_are_not_read_one_by_one(
    disk: Path, filesystem: bytes
) -> None:
    write(disk, 0, filesystem)
    write(disk, MEMBER - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00\0\0".ljust(512, b"\0"))
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert "Intel" in volume.problem


def silicon() -> bytes:
    sector = bytearray(512)
    struct.pack_into("<I", sector, 0x60, 0x2F000000)
    struct.pack_into("<H", sector, 0x13E, -sum(struct.unpack("<159H", sector[:0x13E])) & 0xFFFF)
    return bytes(sector)


MAKERS = {
    "Promise": (63, b"Promise Technology, Inc."),
    "LSI": (1, b"$XIDE$"),
    "NVIDIA": (2, b"NVIDIA  " + struct.pack("<II", 30, 0)),
    "HighPoint": (11, struct.pack("<I", 0x5A7816F3)),
    "Silicon Image": (1, silicon()),
    "VIA": (1, b"\x55\xaa\1" + bytes(47) + b"\0"),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_member_of_an_array_of_any_firmware_is_neither_read_nor_left_out_in_part(
    maker: str, tmp_path: Path
) -> None:
    """wipefs names it; the file system that begins on it has its free space anywhere."""
    image = tmp_path / "disk"
    volumes.blank(image, 32 * MIB)
    volumes.run("mkfs.ext4", "-q", "-F", image, "31M")
    with Chain.open(image, DiskFormat.RAW) as disk:
        assert len(allocation.left_out(disk, allocation.MountedAreas()).ranges)
    sectors, mark = MAKERS[maker]
    if maker == "VIA":
        mark = mark[:50] + bytes([sum(mark[:50]) & 0xFF])
    write(image, 32 * MIB - 512 * sectors, mark)
    seen = subprocess.run(["wipefs", image], capture_output=True, text=True, check=True).stdout
    assert "_raid_member" in seen
    with browsing(image) as browser:
        (volume,) = browser.volumes()
    assert maker in volume.problem
    with Chain.open(image, DiskFormat.RAW) as disk:
        assert not len(allocation.left_out(disk, allocation.MountedAreas()).ranges)
