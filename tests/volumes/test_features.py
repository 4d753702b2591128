"""File systems with features that not everybody has: read right, or named and refused."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.loops import unmount
from tests.volumes import volumes
from tests.volumes.test_partitions import write
from tests.volumes.volumes import MIB, browsing
from vdbackup.errors import RecoveryError
from vdbackup.jobs import Task

Maker = Callable[[Path, Path], None]


def xfs(*options: str) -> Maker:
    def make(tree: Path, image: Path) -> None:
        volumes.blank(image, 300 * MIB)
        listing = image.with_suffix(".proto")
        listing.write_text("\n".join(["/none", "0 0", *volumes._prototype(tree)]) + "\n")
        volumes.run("mkfs.xfs", "-q", "-p", listing, *options, image)

    return make


def btrfs(*options: str) -> Maker:
    def make(tree: Path, image: Path) -> None:
        volumes.blank(image, 160 * MIB)
        volumes.run("mkfs.btrfs", "-q", "--rootdir", tree, *options, image)

    return make


READ: dict[str, Maker] = {
    **{
        f"ext4-{feature}": volumes.ext("ext4", "-O", feature)
        for feature in ("^64bit", "metadata_csum_seed", "ea_inode", "large_dir", "mmp", "casefold",
                        "encrypt", "quota", "sparse_super2", "^flex_bg")
    },
    "xfs-bigtime": xfs("-m", "bigtime=1"),
    "xfs-nrext64": xfs("-i", "nrext64=1"),
    "xfs-rmap": xfs("-m", "rmapbt=1,reflink=1"),
    "xfs-v4": xfs("-m", "crc=0"),
    "xfs-4kn": xfs("-s", "size=4096"),
    "btrfs-mixed": btrfs("--mixed"),
    "btrfs-xxhash": btrfs("--csum", "xxhash"),
    "ntfs-4kn": volumes.ntfs("--sector-size", "4096", size=64 * MIB),
    "ntfs-large-clusters": volumes.ntfs("--cluster-size", "1048576", size=200 * MIB),
    "fat32-4kn": volumes.fat(32, 300 * MIB, "-S", "4096"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "inner").mkdir()
    (folder / "inner/text").write_bytes(b"again and again " * 20_000)
    for number in range(60):
        (folder / f"number-{number:03}").write_bytes(bytes([number]) * number * 37)
    return folder


@pytest.mark.parametrize("kind", READ)
def test_what_makes_no_difference_is_read(kind: str, tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    READ[kind](tree, image)
    with browsing(image) as browser:
        browser.extract(["/"], tmp_path / "out", Task(lambda _: None))
    assert volumes.contents(tmp_path / "out") == volumes.contents(tree)


@pytest.mark.parametrize(
    ("options", "word"),
    [("bigalloc", "bigalloc"), ("meta_bg,^resize_inode", "meta_bg")],
)
def test_what_ext4_can_have_and_is_not_read_is_named(
    options: str, word: str, tree: Path, tmp_path: Path
) -> None:
    volumes.ext("ext4", "-O", options)(tree, tmp_path / "image")
    assert word in problem(tmp_path / "image")


def problem(image: Path) -> str:
    with browsing(image) as browser:
        (volume,) = browser.volumes()
        return volume.problem


@pytest.mark.parametrize(
    ("maker", "at", "order", "bit", "words"),
    [
        (volumes.ext("ext4"), 1024 + 96, "<I", 1 << 20, "0x100000"),
        (xfs(), 216, ">I", 1 << 30, "0x40000000"),
        (xfs(), 216, ">I", 0x10, "xfs_repair"),
        (btrfs(), 0x10000 + 188, "<Q", 0x4000, "a tree of stripes"),
        (btrfs(), 0x10000 + 188, "<Q", 1 << 40, "does not know"),
    ],
    ids=["ext4", "xfs", "xfs-needs-repair", "btrfs-stripe-tree", "btrfs"],
)
def test_what_a_later_version_may_have_is_refused(
    maker: Maker, at: int, order: str, bit: int, words: str, tree: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    maker(tree, image)
    with image.open("rb") as file:
        file.seek(at)
        (flags,) = struct.unpack(order, file.read(struct.calcsize(order)))
    write(image, at, struct.pack(order, flags | bit))
    assert words in problem(image)


@pytest.mark.parametrize("profile", ["raid0", "raid1", "raid5", "raid10", "single"])
def test_one_device_of_a_btrfs_on_two_gives_right_bytes_or_none(
    profile: str, tree: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for image in (first, second):
        volumes.blank(image, 300 * MIB)
    options = ("-d", profile, "-m", "raid1", "--rootdir", tree)
    volumes.run("mkfs.btrfs", "-q", *options[:4], first, second)
    for image in (first, second):
        said = problem(image)
        assert not said or "another device" in said or "does not" in said
        assert not said or profile != "raid1"


def test_what_ext4_encrypted_is_not_shown_as_if_it_were_a_name(tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    volumes.ext("ext4", "-O", "encrypt")(tree, image)
    volumes.run("debugfs", "-w", "-R", "set_inode_field /inner flags 0x80800", image)
    with browsing(image) as browser, pytest.raises(RecoveryError, match="encrypted"):
        browser.listing("/inner")


@pytest.mark.parametrize("kind", ["interix", "wsl"])
def test_links_that_linux_made_on_ntfs_are_links(kind: str, as_root: None, tmp_path: Path) -> None:
    """ntfs-3g writes them as one of these says; Windows sees files that it has no use for."""
    tree, image, mounted = tmp_path / "tree", tmp_path / "image", tmp_path / "mounted"
    tree.mkdir()
    (tree / "file").write_bytes(b"f")
    volumes.ntfs()(tree, image)
    mounted.mkdir()
    targets = {"near": "file", "far": "/else/where/ü", "long": "x" * 1000}
    volumes.run("ntfs-3g", "-o", f"special_files={kind}", image, mounted)
    try:
        for name, target in targets.items():
            (mounted / name).symlink_to(target)
        os.mknod(mounted / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (mounted / "IntxLNK").write_bytes(b"IntxLNK\1f\0")  # what is not the system's is a file
    finally:
        unmount(mounted)
    with browsing(image) as browser:
        result = browser.extract(["/"], tmp_path / "out", Task(lambda _: None))
    assert {name: os.readlink(tmp_path / "out" / name) for name in targets} == targets
    assert (tmp_path / "out/IntxLNK").read_bytes() == b"IntxLNK\1f\0"
    assert not (tmp_path / "out/device").exists()
    assert "device" in str(result)


FOREIGN = {
    "F2FS": (1024, b"\x10\x20\xf5\xf2"),
    "ReFS": (3, b"ReFS\0\0\0\0"),
    "APFS": (32, b"NXSB"),
    "bcachefs": (4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    "ZFS": (132 << 10, struct.pack("<Q", 0x00BAB10C)),
    "ReiserFS": (0x10034, b"ReIsEr2Fs"),
    "JFS": (32768, b"JFS1"),
    "NILFS2": (1030, b"\x34\x34"),
    "UFS": (0x1055C, b"\x19\x01\x54\x19"),
    "EROFS": (1024, b"\xe2\xe1\xf5\xe0"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_system_that_is_not_read_is_named(name: str, tmp_path: Path) -> None:
    volumes.blank(tmp_path / "image", 4 * MIB)
    write(tmp_path / "image", *FOREIGN[name])
    assert problem(tmp_path / "image") == (
        f"Its file system, {name}, is not one that vdbackup reads."
    )
