"""Images that end before their file systems do, and partitions that are smaller than theirs.

Each file system is one that its own program made; where that says how long it is, it is asked.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.guests import lvm
from tests.sources.opened import open_path

MIB = 1 << 20
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "ext2": ("mkfs.ext2", "-q", "-F", "-b", "1024"),
    "XFS": ("mkfs.xfs", "-q"),
    "Btrfs": ("mkfs.btrfs", "-q"),
    "NTFS": ("mkfs.ntfs", "-F", "-Q", "-q"),
    "FAT": ("mkfs.vfat", "-F", "32"),
    "exFAT": ("mkfs.exfat",),
}
SIZES = {"XFS": 300 * MIB, "Btrfs": 130 * MIB}
"""Bytes; others are content with 40 MiB."""


def made(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.raw"
    with path.open("wb") as file:
        file.truncate(SIZES.get(kind, 40 * MIB))
    subprocess.run([*MAKE[kind], path], check=True, capture_output=True)
    return path


def said(path: Path) -> list[str]:
    """What there is to be known of a source whenever it is read."""
    with open_path(path) as source:
        return [each for each in source.defects() if "is cut off" in each]


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_system_that_goes_on_behind_the_end_of_its_image_is_told(tmp_path, kind):
    path = made(tmp_path, kind)
    size = path.stat().st_size
    assert said(path) == []
    os.truncate(path, size - 4 * MIB)
    (sentence,) = said(path)
    assert sentence.startswith(f"The {kind} of {path} is cut off")
    assert f"and there are {size - 4 * MIB:,}." in sentence
    os.truncate(path, size + MIB)
    assert said(path) == []


def test_so_is_one_whose_partition_became_smaller(tmp_path):
    disk, volume = tmp_path / "disk.raw", made(tmp_path, "ext4")
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(MIB)
        file.write(volume.read_bytes())
    for size, cut_off in ((40 * MIB, False), (30 * MIB, True)):
        table = f"label: gpt\nstart=2048, size={size // 512}\n"
        subprocess.run(["sfdisk", "-q", disk], input=table.encode(), check=True)
        sentences = said(disk)
        assert len(sentences) == cut_off
        assert all(f"The ext4 on partition 1 of {disk}" in each for each in sentences)


def test_a_physical_volume_that_was_cut_off_is_told(tmp_path):
    path = tmp_path / "pv.raw"
    path.write_bytes(lvm.head(33 * MIB, "vg", "root"))
    os.truncate(path, 33 * MIB)
    assert said(path) == []
    os.truncate(path, 33 * MIB - 4096)
    (sentence,) = said(path)
    assert sentence.startswith(f"The LVM on vg/root of {path} is cut off")


def test_the_mark_of_a_file_system_in_other_data_tells_nothing(tmp_path):
    """Two bytes mark an ext4, which any data may hold."""
    path = tmp_path / "disk.raw"
    data = bytearray(b"\xa5" * 4 * MIB)
    data[1080:1082] = b"\x53\xef"
    path.write_bytes(data)
    assert said(path) == []
