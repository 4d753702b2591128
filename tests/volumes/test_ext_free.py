"""The free blocks of ext2, ext3 and ext4 are those that dumpe2fs names; in doubt there are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.volumes.volumes import MIB, run, sample
from vdbackup.volumes.filesystems.ext_free import free_of_mounted, free_of_unmounted, kind_of
from vdbackup.volumes.filesystems.node import Unreadable

VARIANTS = {
    "ext2": ("mkfs.ext2", 40, "-b", "1024"),
    "ext2 with every copy": ("mkfs.ext2", 60, "-b", "1024", "-O", "^sparse_super,^resize_inode"),
    "ext3": ("mkfs.ext3", 64),
    "ext4": ("mkfs.ext4", 300, "-b", "4096"),
    "ext4 of 1 KiB": ("mkfs.ext4", 150, "-b", "1024"),
    "without flex_bg": ("mkfs.ext4", 600, "-O", "^flex_bg,^resize_inode", "-b", "2048"),
    "32 bits": ("mkfs.ext4", 300, "-O", "^64bit"),
    "checksums of descriptors": ("mkfs.ext4", 300, "-O", "^metadata_csum,uninit_bg", "-b", "1024"),
    "no checksums": ("mkfs.ext4", 300, "-O", "^metadata_csum,^uninit_bg", "-b", "1024"),
    "meta_bg": ("mkfs.ext4", 700, "-O", "meta_bg,^resize_inode", "-b", "1024"),
    "meta_bg, 64 bits off": ("mkfs.ext4", 500, "-O", "meta_bg,^resize_inode,^64bit", "-b", "1024"),
    "bigalloc": ("mkfs.ext4", 300, "-O", "bigalloc", "-C", "16384"),
    "bigalloc of 1 KiB": ("mkfs.ext4", 300, "-O", "bigalloc", "-b", "1024", "-C", "8192"),
    "sparse_super2": ("mkfs.ext4", 300, "-O", "sparse_super2,^resize_inode", "-b", "1024"),
    "a seed": ("mkfs.ext4", 300, "-O", "metadata_csum_seed", "-b", "1024"),
    "features of late": (
        "mkfs.ext4", 300, "-O",
        "fast_commit,orphan_file,inline_data,large_dir,ea_inode,casefold,encrypt,verity,quota",
    ),
    "no journal": ("mkfs.ext4", 300, "-O", "^has_journal"),
    "small groups": ("mkfs.ext4", 200, "-b", "1024", "-g", "1024"),
    "an odd end": ("mkfs.ext4", 133, "-b", "1024", "-G", "4"),
}  # fmt: skip


def made(folder: Path, variant: str) -> Path:
    """One with files in it, some of which were deleted again."""
    maker, size, *options = VARIANTS[variant]
    image = folder / "ext.img"
    with image.open("wb") as file:
        file.truncate(size * MIB - (4096 if variant == "an odd end" else 0))
    files = folder / "files"
    files.mkdir()
    run(maker, "-q", "-F", *options, "-d", sample(files), image)
    run("debugfs", "-w", "-R", "rm /folder/inner/large.bin", image)
    return image


def reads(image: Path) -> tuple[Callable[[int, int], bytes], int]:
    data = image.read_bytes()
    return lambda offset, length: data[offset : offset + length], len(data)


def according_to_dumpe2fs(image: Path) -> set[int]:
    """Numbers of the blocks that are free; of a cluster it names the first alone before 1.47.2."""
    said = run("dumpe2fs", image)
    cluster = re.search(r"Cluster size: +(\d+)", said)
    whole = int(cluster[1]) // block_size(image) if cluster else 1
    found: set[int] = set()
    for line in said.splitlines():
        if named := re.fullmatch(r"  Free blocks: (.+)", line):
            for part in named[1].split(", "):
                first, _, last = part.partition("-")
                found.update(range(int(first), (int(last or first) // whole + 1) * whole))
    return found


def blocks(ranges: np.ndarray, size: int) -> set[int]:
    assert not (ranges % size).any()
    return {
        block
        for offset, length in ranges.tolist()
        for block in range(offset // size, (offset + length) // size)
    }


def block_size(image: Path) -> int:
    found = re.search(r"Block size: +(\d+)", run("dumpe2fs", "-h", image))
    assert found
    return int(found[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_free_is_what_dumpe2fs_says(tmp_path, variant):
    image = made(tmp_path, variant)
    wanted = according_to_dumpe2fs(image)
    assert wanted
    for free_of in (free_of_unmounted, free_of_mounted):
        assert blocks(free_of(*reads(image)), block_size(image)) == wanted
    kind = variant.split()[0]
    assert kind_of(image.read_bytes()[:4096]) == (kind if kind.startswith("ext") else "ext4")


def damaged(image: Path, place: int, *, by: int = 0xFF) -> tuple[Callable[[int, int], bytes], int]:
    data = bytearray(image.read_bytes())
    data[place] ^= by
    return lambda offset, length: bytes(data[offset : offset + length]), len(data)


def place_of_bitmap(image: Path, group: int = 0) -> int:
    found = re.findall(r"Block bitmap at (\d+)", run("dumpe2fs", image))
    return int(found[group]) * block_size(image)


def test_a_bitmap_that_is_not_what_its_checksum_says_frees_nothing(tmp_path):
    image = made(tmp_path, "ext4")
    place = place_of_bitmap(image) + 3000
    with pytest.raises(Unreadable, match="maps of free blocks are damaged"):
        free_of_unmounted(*damaged(image, place))


def test_of_one_that_is_mounted_the_groups_that_are_in_doubt_have_nothing_free(tmp_path):
    image = made(tmp_path, "ext4")
    wanted = according_to_dumpe2fs(image)
    found = blocks(free_of_mounted(*damaged(image, place_of_bitmap(image) + 3000)), 4096)
    assert found == {block for block in wanted if block >= 32768}


@pytest.mark.parametrize("variant", ["ext2", "ext3", "no checksums"])
def test_without_checksums_the_count_of_free_blocks_shows_damage(tmp_path, variant):
    image = made(tmp_path, variant)
    with pytest.raises(Unreadable, match="maps of free blocks are damaged"):
        free_of_unmounted(*damaged(image, place_of_bitmap(image) + 100, by=1))


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (4, "checksum of its super block is wrong"),
        (56, "super block is damaged"),
        (76, "version"),
        (92 + 1, "features"),
        (96 + 3, "features"),
    ],
)
def test_a_super_block_that_is_not_understood_frees_nothing(tmp_path, place, why):
    image = made(tmp_path, "ext4")
    for free_of in (free_of_unmounted, free_of_mounted):
        with pytest.raises(Unreadable, match=why):
            free_of(*damaged(image, 1024 + place))


def test_a_descriptor_that_is_not_what_its_checksum_says_frees_nothing(tmp_path):
    for variant in ("ext4", "checksums of descriptors"):
        folder = tmp_path / variant
        folder.mkdir()
        image = made(folder, variant)
        start = 2 * block_size(image) if block_size(image) == 1024 else block_size(image)
        with pytest.raises(Unreadable, match="damaged"):
            free_of_unmounted(*damaged(image, start + 0x12, by=2))


def test_what_was_not_unmounted_or_has_errors_has_nothing_free(tmp_path):
    image = made(tmp_path, "ext3")
    with pytest.raises(Unreadable, match="journal has not been replayed"):
        free_of_unmounted(*damaged(image, 1024 + 96, by=4))
    free_of_mounted(*damaged(image, 1024 + 96, by=4))
    with pytest.raises(Unreadable, match="not unmounted cleanly"):
        free_of_unmounted(*damaged(image, 1024 + 58, by=1))
    free_of_mounted(*damaged(image, 1024 + 58, by=1))
    for free_of in (free_of_unmounted, free_of_mounted):
        with pytest.raises(Unreadable, match="errors"):
            free_of(*damaged(image, 1024 + 58, by=2))


def test_a_volume_that_ends_before_its_file_system_has_nothing_free(tmp_path):
    image = made(tmp_path, "ext4")
    read, size = reads(image)
    with pytest.raises(Unreadable, match="cut off"):
        free_of_unmounted(read, size - 4096)
