"""Volumes of every kind that vdbackup reads, made by their own tools; the kernel mounts none."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sources.loops import loop
from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.recovery.browse import FileBrowser

MOMENT = 1_500_000_000
"""When everything in a sample was modified, in seconds since 1970; even, as FAT needs it."""
MIB = 1 << 20


def run(*command: str | Path, stdin: str = "") -> str:
    """What a tool prints that is expected to succeed."""
    environment = {
        **os.environ,
        "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",  # not in an ordinary user's
        "TZ": "UTC",  # FAT has no time zone
        "LC_ALL": "C.UTF-8",
        "MTOOLS_SKIP_CHECK": "1",
    }
    ended = subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, f"{command[0]}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@contextmanager
def browsing(image: Path) -> Iterator[FileBrowser]:
    """The files of a raw image."""
    with Chain.open(image, DiskFormat.RAW) as chain:
        yield FileBrowser(chain)


def sample(folder: Path) -> Path:
    """A tree of files as any file system can hold it."""
    noise = random.Random(7)
    contents = {
        "hello.txt": b"Hello\n",
        "empty": b"",
        "Größe.txt": "ÄÖÜ".encode(),
        "MixedCase.Text": b"m",
        "folder/one-block": noise.randbytes(4096),
        "folder/inner/large.bin": noise.randbytes(3 * MIB + 12345),
        "folder/inner/text": b"again and again " * 20_000,
        **{f"many/number-{number:04}": b"n" * number for number in range(400)},
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (folder / "holes").open("wb") as file:
        file.seek(MIB)
        file.write(noise.randbytes(10_000))
        file.truncate(5 * MIB // 2 + 3)
    touch(folder)
    return folder


def touch(folder: Path) -> None:
    """Set the times of everything in a folder, and its own, to MOMENT."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (MOMENT, MOMENT), follow_symlinks=False)


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """What is in a folder, by path: a file's bytes, a link's target, None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = path.read_bytes()
    found.pop("lost+found", None)
    return found


# ------------------------------------------------------------------------------------- makers


def blank(image: Path, size: int) -> None:
    """An image without anything in it."""
    with image.open("xb") as file:
        file.truncate(size)


def ext(kind: str, *options: str, size: int = 48 * MIB) -> Callable[[Path, Path], None]:
    """Makes ext2, ext3 or ext4."""

    def make(tree: Path, image: Path) -> None:
        blank(image, size)
        run("mke2fs", "-q", "-F", "-t", kind, *options, "-d", tree, image)

    return make


def xfs(tree: Path, image: Path) -> None:
    """XFS. Its tool takes a list of what to put in, in which no name may have a space."""
    listing = image.with_suffix(".proto")
    listing.write_text("\n".join(["/none", "0 0", *_prototype(tree)]) + "\n")
    blank(image, 300 * MIB)
    run("mkfs.xfs", "-q", "-p", listing, image)


def _prototype(folder: Path) -> Iterator[str]:
    yield "d--755 0 0"
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            yield f"{path.name} l--777 0 0 {path.readlink()}"
        elif path.is_dir():
            first, *rest = _prototype(path)
            yield f"{path.name} {first}"
            yield from rest
        else:
            yield f"{path.name} ---644 0 0 {path}"
    yield "$"


def btrfs(tree: Path, image: Path) -> None:
    """Btrfs."""
    blank(image, 160 * MIB)
    run("mkfs.btrfs", "-q", "--rootdir", tree, image)


def ntfs(*options: str, size: int = 48 * MIB) -> Callable[[Path, Path], None]:
    """Makes NTFS, with links as Windows has them."""

    def make(tree: Path, image: Path) -> None:
        archive = image.with_suffix(".wim")
        blank(image, size)
        run("mkntfs", "--quiet", "--force", "--quick", *options, image)
        run("wimlib-imagex", "capture", tree, archive, "--compress=none")
        run("wimlib-imagex", "apply", archive, "1", image)

    return make


def fat(bits: int, size: int, *options: str) -> Callable[[Path, Path], None]:
    """Makes FAT12, FAT16 or FAT32."""

    def make(tree: Path, image: Path) -> None:
        blank(image, size)
        run("mkfs.fat", "-F", str(bits), *options, image)
        run("mcopy", "-s", "-m", "-i", image, *sorted(tree.iterdir()), "::/")

    return make


@contextmanager
def exfat_mounted(image: Path, top: Path) -> Iterator[None]:
    """Shown by the FUSE program that is not ours; all is written when its process has ended.

    It takes devices alone for root, and lets others see what it shows (allow_other): only root may
    have that, but where /etc/fuse.conf says otherwise.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount an exFAT by FUSE")
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    quiet = subprocess.DEVNULL
    with (
        loop(image) as device,
        subprocess.Popen(
            ["mount.exfat-fuse", "-d", device, top], env=environment, stdout=quiet, stderr=quiet
        ) as process,
    ):
        while not top.is_mount():
            assert process.poll() is None
            os.sched_yield()
        try:
            yield
        finally:
            run("fusermount", "-u", top)


def exfat(*options: str, size: int = 48 * MIB) -> Callable[[Path, Path], None]:
    """Makes exFAT."""

    def make(tree: Path, image: Path) -> None:
        blank(image, size)
        run("mkfs.exfat", *options, image)
        top = image.with_suffix(".mounted")
        top.mkdir()
        with exfat_mounted(image, top):
            for each in sorted(tree.iterdir()):
                run("cp", "-r", "--preserve=timestamps", each, top)
        top.rmdir()

    return make


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "ext4": ext("ext4"),
    "ext3": ext("ext3", "-b", "1024"),
    "ext2": ext("ext2", "-I", "128"),
    "xfs": xfs,
    "btrfs": btrfs,
    "ntfs": ntfs(),
    "ntfs-small-clusters": ntfs("--cluster-size", "512"),
    "fat12": fat(12, 32 * MIB, "-s", "32"),
    "fat16": fat(16, 64 * MIB),
    "fat32": fat(32, 64 * MIB, "-s", "1"),
    "exfat": exfat(),
    "exfat-small-clusters": exfat("-c", "512"),
}
NAMES = {
    "ext4": "ext4",
    "ext3": "ext3",
    "ext2": "ext2",
    "xfs": "XFS",
    "btrfs": "Btrfs",
    "ntfs": "NTFS",
    "ntfs-small-clusters": "NTFS",
    "fat12": "FAT12",
    "fat16": "FAT16",
    "fat32": "FAT32",
    "exfat": "exFAT",
    "exfat-small-clusters": "exFAT",
}


def partition(disk: Path, script: str) -> None:
    """Write a partition table (see sfdisk's manual)."""
    run("sfdisk", "--quiet", disk, stdin=script)


@contextmanager
def overwritten(image: Path, patches: list[tuple[int, bytes]]) -> Iterator[None]:
    """Bytes of an image, by offset, changed for a while."""
    with image.open("r+b", buffering=0) as file:
        before = []
        for offset, new in patches:
            file.seek(offset)
            before.append((offset, file.read(len(new))))
            file.seek(offset)
            file.write(new)
        try:
            yield
        finally:
            for offset, old in reversed(before):
                file.seek(offset)
                file.write(old)
