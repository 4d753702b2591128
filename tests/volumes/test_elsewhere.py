"""What lies on several devices is named where not all of them are backed up together."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sources.loops import detach
from tests.volumes import volumes
from tests.volumes.test_lvm import tool
from tests.volumes.test_raid import superblock
from tests.volumes.volumes import MIB
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.volumes import elsewhere


def said(disk: Path, *beside: Path) -> tuple[str, ...]:
    with ExitStack() as opened:
        first, *others = [
            opened.enter_context(Chain.open(each, DiskFormat.RAW)) for each in (disk, *beside)
        ]
        return elsewhere.sentences(first, others)


def two(folder: Path, size: int) -> tuple[Path, Path]:
    disks = folder / "a.img", folder / "b.img"
    for disk in disks:
        volumes.blank(disk, size)
    return disks


@pytest.mark.parametrize("profile", ["raid0", "raid1"])
def test_one_of_two_devices_of_btrfs_is_only_a_part(tmp_path: Path, profile: str) -> None:
    one, other = two(tmp_path, 256 * MIB)
    volumes.run("mkfs.btrfs", "-q", "-d", profile, "-m", "raid1", one, other)
    (sentence,) = said(one)
    assert sentence.startswith("Btrfs lies on other devices, too, which this backup does not have")
    assert said(other) == (sentence,)
    assert said(one, other) == said(other, one) == ()


def test_two_file_systems_do_not_complete_each_other(tmp_path: Path) -> None:
    one, other = two(tmp_path, 256 * MIB)
    volumes.run("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", one, other)
    (tmp_path / "elsewhere").mkdir()
    third, fourth = two(tmp_path / "elsewhere", 256 * MIB)
    volumes.run("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", third, fourth)
    assert said(one, third) == said(one) != ()
    assert said(one, third, other) == ()


def test_on_a_partition_it_is_named_by_that(tmp_path: Path) -> None:
    one, other = two(tmp_path, 256 * MIB)
    volumes.run("mkfs.btrfs", "-q", "-d", "single", "-m", "raid1", one, other)
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 260 * MIB)
    volumes.partition(disk, "label: gpt\nstart=2048, size=524288\n")
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(one.read_bytes())
    (sentence,) = said(disk)
    assert sentence.startswith("Btrfs on partition 1 lies on other devices, too,")
    assert said(disk, other) == ()


def test_a_log_or_a_real_time_section_of_xfs_is_named(tmp_path: Path) -> None:
    one, other = two(tmp_path, 320 * MIB)
    volumes.run("mkfs.xfs", "-q", "-f", "-l", f"logdev={other},size=64m", one)
    (sentence,) = said(one)
    assert sentence.startswith("XFS lies on other devices, too,")
    volumes.run("mkfs.xfs", "-q", "-f", "-r", f"rtdev={other}", one)
    assert said(one) == (sentence,)
    assert said(one, other) == ()  # it does not say which device that is


def test_a_journal_on_another_device_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 16 * MIB)
    volumes.run("mke2fs", "-q", "-F", "-t", "ext4", disk)
    assert said(disk) == ()
    with disk.open("r+b") as file:  # mke2fs takes only a device for that
        file.seek(1024 + 224)
        file.write(struct.pack("<II", 0, 0x0801))
    (sentence,) = said(disk)
    assert sentence.startswith("ext lies on other devices, too,")


@pytest.mark.parametrize(("level", "parts"), [(0, 1), (5, 1), (1, 0)])
def test_one_of_an_array_is_only_a_part_but_of_a_mirror(
    tmp_path: Path, level: int, parts: int
) -> None:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 16 * MIB)
    with disk.open("r+b") as file:
        file.seek(4096)
        file.write(superblock("1.2", 16 * MIB, level))
    assert len(said(disk)) == parts


@pytest.fixture
def group(as_root: None, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The two disks of a volume group, on the first of which all volumes begin."""
    disks = two(tmp_path, 40 * MIB)
    devices = [volumes.run("losetup", "--find", "--show", disk).strip() for disk in disks]
    try:
        tool("pvcreate", devices, *devices)
        tool("vgcreate", devices, "my-vg", *devices)
        tool("lvcreate", devices, "-an", "-Zn", "-Wn", "-n", "a", "-l", "2", "my-vg", devices[0])
        yield disks
        os.sync()
    finally:
        for device in devices:
            detach(Path(device))


def grown(disks: tuple[Path, Path], *arguments: str) -> None:
    """Change the group by one of LVM's tools."""
    found = [
        volumes.run("losetup", "--noheadings", "--output", "NAME", "--associated", disk).strip()
        for disk in disks
    ]
    tool(*arguments[:1], found, *arguments[1:])


def test_a_volume_group_is_whole_as_long_as_its_volumes_lie_on_one_disk(
    group: tuple[Path, Path],
) -> None:
    one, other = group
    assert said(one) == said(other) == ()
    grown(group, "lvextend", "-l", "+12", "my-vg/a")
    (sentence,) = said(one)
    assert sentence.startswith("The volume group my-vg lies on other devices, too,")
    assert said(other) == (sentence,)
    assert said(one, other) == ()


def test_stripes_over_two_disks_are_named_too(group: tuple[Path, Path]) -> None:
    one, other = group
    grown(group, "lvcreate", "-an", "-Zn", "-Wn", "-i", "2", "-n", "twice", "-l", "2", "my-vg")
    assert len(said(one)) == len(said(other)) == 1
    assert said(one, other) == said(other, one) == ()
