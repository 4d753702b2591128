"""Tables that people really have: in other sectors than the disk says, with bad entries."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.loops import detach
from tests.volumes import volumes
from tests.volumes.test_partitions import ours, theirs, write
from tests.volumes.volumes import MIB, browsing
from vdbackup.errors import RecoveryError
from vdbackup.volumes.partitions import read_table

ENTRY = struct.Struct("<B3xB3xII")
SIZE = 64 * MIB


@contextlib.contextmanager
def device(image: Path, sector_size: int) -> Iterator[str]:
    """The image as a device whose sectors have that size."""
    options = f"--sector-size={sector_size}", "--find", "--show"
    name = volumes.run("losetup", *options, image).strip()
    try:
        yield name
    finally:
        detach(Path(name))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, SIZE)
    return disk


def table_of_4096(disk: Path, kind: str) -> None:
    with device(disk, 4096) as name:
        volumes.run("sfdisk", "--quiet", name, stdin=f"label: {kind}\nsize=8MiB\nsize=8MiB\n")


@pytest.mark.parametrize("kind", ["gpt", "dos"])
def test_a_table_of_4096_bytes_is_read_in_a_raw_file(
    as_root: None, kind: str, disk: Path, filesystem: bytes
) -> None:
    table_of_4096(disk, kind)
    write(disk, MIB, filesystem)
    assert [(part.offset, part.size) for part in ours(disk)] == [
        (MIB, 8 * MIB),
        (9 * MIB, 8 * MIB),
    ]
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]
        assert next(volume.problem for volume in browser.volumes()) == ""


def test_a_copy_of_such_a_table_is_found_at_the_end(as_root: None, disk: Path) -> None:
    table_of_4096(disk, "gpt")
    expected = ours(disk)
    write(disk, 4096, bytes(4096))
    assert len(expected) == 2
    assert ours(disk) == expected


@pytest.mark.parametrize("kind", ["gpt", "dos"])
def test_a_table_of_512_bytes_is_read_on_a_disk_of_4096(
    kind: str, disk: Path, filesystem: bytes
) -> None:
    volumes.partition(disk, f"label: {kind}\nstart=2048, size=16384\nstart=18432, size=16384\n")
    write(disk, MIB, filesystem)
    assert ours(disk, 4096) == theirs(disk)
    with disk.open("rb") as file:
        assert read_table(file, SIZE, 4096).sector_size == 512


def test_a_table_counts_in_the_disks_own_sectors_where_nothing_speaks_against_it(
    disk: Path,
) -> None:
    volumes.partition(disk, "label: dos\nstart=256, size=1024\n")
    assert [part.offset for part in ours(disk)] == [256 * 512]
    assert [part.offset for part in ours(disk, 4096)] == [256 * 4096]


def test_an_mbr_entry_beyond_the_disk_hides_only_itself(disk: Path, filesystem: bytes) -> None:
    volumes.partition(disk, "label: dos\nstart=2048, size=16384\nstart=32768, size=2048\n")
    write(disk, MIB, filesystem)
    write(disk, 446 + ENTRY.size, ENTRY.pack(0, 0x83, SIZE // 512 + 100, 2048))
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]
        problems = {volume.name: volume.problem for volume in browser.volumes()}
    assert problems == {"p1": "", "p2": "It lies beyond the end of the disk."}


@pytest.mark.parametrize("first", [SIZE // 512 + 5, 1 << 55, (1 << 64) - 2])
def test_a_gpt_entry_beyond_the_disk_hides_only_itself(
    first: int, disk: Path, filesystem: bytes
) -> None:
    volumes.partition(disk, "label: gpt\nstart=2048, size=16384\nstart=32768, size=2048\n")
    write(disk, MIB, filesystem)
    patch_gpt_entry(disk, 1, first, first + 1)
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]
        problems = {volume.name: volume.problem for volume in browser.volumes()}
    assert problems == {"p1": "", "p2": "It lies beyond the end of the disk."}


def patch_gpt_entry(disk: Path, index: int, first: int, last: int) -> None:
    """Change an entry of the first copy, checksums included."""
    data = bytearray(disk.read_bytes()[: 34 * 512])
    struct.pack_into("<QQ", data, 1024 + 128 * index + 32, first, last)
    struct.pack_into("<I", data, 512 + 88, zlib.crc32(data[1024 : 1024 + 128 * 128]))
    struct.pack_into("<I", data, 512 + 16, 0)
    struct.pack_into("<I", data, 512 + 16, zlib.crc32(data[512 : 512 + 92]))
    write(disk, 0, bytes(data))


def test_partitions_that_overlap_are_both_read(disk: Path, filesystem: bytes) -> None:
    volumes.partition(disk, "label: gpt\nstart=2048, size=16384\nstart=32768, size=2048\n")
    write(disk, MIB, filesystem)
    patch_gpt_entry(disk, 1, 2048, 18431)
    with browsing(disk) as browser:
        for name in ("p1", "p2"):
            assert "file" in [entry.name for entry in browser.listing(f"/{name}")]


def test_logical_partitions_are_numbered_by_what_is_there(disk: Path) -> None:
    """Linux gives no number to a table that names no partition, wherever it stands in the chain."""
    logical = "".join(f"start={at}, size=4096, type=83\n" for at in (22528, 30720, 38912))
    volumes.partition(disk, f"label: dos\nstart=2048, size=8192\nstart=20480, type=5\n{logical}")
    assert [part.number for part in ours(disk)] == [1, 5, 6, 7]
    starts = [part.offset for part in ours(disk)]
    write(disk, 20480 * 512 + 446, bytes(16))
    assert [(part.number, part.offset) for part in ours(disk)] == [
        (1, starts[0]),
        (5, starts[2]),
        (6, starts[3]),
    ]


def test_an_isohybrid_disk_has_a_first_partition_at_its_very_beginning(disk: Path) -> None:
    entries = ENTRY.pack(0x80, 0, 0, 8192) + ENTRY.pack(0, 0xEF, 2048, 1024)
    write(disk, 446, entries.ljust(64, b"\0") + b"\x55\xaa")
    assert [(part.number, part.offset, part.size) for part in ours(disk)] == [
        (1, 0, 8192 * 512),
        (2, MIB, 1024 * 512),
    ]


def test_a_table_behind_the_fields_of_a_fat_is_a_table(disk: Path, filesystem: bytes) -> None:
    """So sticks begin that SYSLINUX's mkdiskimage or HP's tool made; Linux goes by the table."""
    volumes.partition(disk, "label: dos\nstart=2048, size=16384\nstart=20480, size=16384\n")
    fields = struct.pack("<HBHBHHBHHHII", 512, 1, 32, 2, 0, 0, 0xF8, 0, 63, 255, 0, SIZE // 512)
    write(disk, 0, b"\xeb\x58\x90SYSLINUX" + fields)
    write(disk, MIB, filesystem)
    assert ours(disk) == theirs(disk)
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]


@pytest.mark.parametrize("name", [b"NTFS    ", b"EXFAT   "])
def test_what_a_boot_sector_calls_itself_does_not_hide_a_table(name: bytes, disk: Path) -> None:
    volumes.partition(disk, "label: dos\nstart=2048, size=16384\n")
    write(disk, 3, name)
    assert ours(disk) == theirs(disk)


@pytest.mark.parametrize("system", ["fat12", "fat16", "fat32", "ntfs", "ntfs-small-clusters"])
def test_a_volume_that_is_there_hides_a_table_in_its_boot_sector(
    system: str, tmp_path: Path
) -> None:
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    (tree / "file").write_bytes(b"f")
    volumes.MAKERS[system](tree, image)
    write(image, 446, ENTRY.pack(0x80, 6, 63, 8192).ljust(64, b"\0") + b"\x55\xaa")
    assert ours(image) == []


def test_a_gpt_is_read_though_its_protective_mbr_is_gone(disk: Path, filesystem: bytes) -> None:
    volumes.partition(disk, "label: gpt\nstart=2048, size=16384\n")
    expected = ours(disk)
    write(disk, 0, bytes(512))
    assert len(expected) == 1
    assert ours(disk) == expected
    write(disk, MIB, filesystem)
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing("/p1")]


@pytest.mark.parametrize("label", ["sgi", "sun"])
def test_a_table_that_is_not_read_is_named(label: str, disk: Path) -> None:
    volumes.partition(disk, f"label: {label}\n")
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
        assert volume.problem == (
            f"It has a partition table of {'SGI' if label == 'sgi' else 'Sun'}'s, which vdbackup "
            "does not read."
        )


def test_what_is_left_of_a_gpt_does_not_hide_a_volume_that_was_made_over_it(
    disk: Path, filesystem: bytes
) -> None:
    volumes.partition(disk, "label: gpt\nstart=2048, size=16384\n")
    protective = disk.read_bytes()[:512]
    write(disk, SIZE - 40 * 512, bytes(40 * 512))
    write(disk, 0, protective + filesystem[512:])
    with browsing(disk) as browser:
        assert "file" in [entry.name for entry in browser.listing()]


def test_a_gpt_that_is_damaged_in_both_copies_is_said_to_be(disk: Path) -> None:
    volumes.partition(disk, "label: gpt\nstart=2048, size=16384\n")
    for at in (512 + 60, SIZE - 512 + 60):
        write(disk, at, bytes([disk.read_bytes()[at] ^ 0xFF]))  # of the disk's id, which is random
    with pytest.raises(RecoveryError, match="in both of its copies"):
        ours(disk)


@pytest.mark.parametrize(
    "kind", ["42", "AF9B60A0-1431-4F62-BC68-3311714A69AD", "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"]
)
def test_volumes_that_windows_spreads_over_disks_are_named_and_not_read(
    kind: str, disk: Path, filesystem: bytes
) -> None:
    label = "dos" if kind == "42" else "gpt"
    volumes.partition(disk, f"label: {label}\nstart=2048, size=16384, type={kind}\n")
    write(disk, MIB, filesystem)
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
    assert "can be put together only by that" in volume.problem
