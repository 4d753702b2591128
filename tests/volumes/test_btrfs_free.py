"""What is free of a Btrfs may hold anything: its own checker and every file's sum say so."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.noise import noise
from tests.sources.loops import loop, mounted
from tests.volumes.volumes import MIB, run
from vdbackup.disks.extents import total
from vdbackup.volumes.filesystems.btrfs_free import Read, free_of_mounted, free_of_unmounted
from vdbackup.volumes.filesystems.node import Unreadable

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 300 * MIB
SUPER_BLOCK = 64 << 10
VARIANTS = {
    "usual": (),
    "data twice": ("--data", "dup"),
    "mixed groups": ("--mixed",),
    "large nodes": ("--nodesize", "65536"),
    "no tree of free space": ("--runtime-features", "^free-space-tree"),
}


def empty(folder: Path, *options: str) -> Path:
    image = folder / "btrfs.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.btrfs", "--quiet", *options, image)
    return image


def made(folder: Path, *options: str) -> Path:
    """One with holes of all sizes, a snapshot that needs what was deleted, and a hole's worth."""
    image = empty(folder, *options)
    with loop(image) as device, mounted(device, folder / "mount") as mount:
        for number in range(1500):
            (mount / f"{number}").write_bytes(noise(1 + number * 7 % 40_000, number))
        run("btrfs", "subvolume", "snapshot", "-r", mount, mount / "before")
        for number in range(0, 1500, 3):
            (mount / f"{number}").unlink()
        (mount / "goes").write_bytes(noise(30 * MIB, 5))
        os.sync()
        (mount / "goes").unlink()
        run("btrfs", "filesystem", "sync", mount)
    return image


@contextmanager
def reading(image: Path) -> Iterator[Read]:
    with image.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        yield read


def free(image: Path) -> np.ndarray:
    with reading(image) as read:
        return free_of_unmounted(read, image.stat().st_size)


def sums(image: Path, folder: Path) -> dict[str, str]:
    with loop(image) as device, mounted(device, folder, "-o", "ro") as mount:
        return {
            str(path.relative_to(mount)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in mount.rglob("*")
            if path.is_file()
        }


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_free_may_hold_anything(tmp_path: Path, variant: str) -> None:
    image = made(tmp_path, *VARIANTS[variant])
    before = sums(image, tmp_path / "mount")
    found = free(image)
    assert total(found) > (60 if "free" in variant else 150) * MIB
    with image.open("r+b") as file:
        for offset, length in found.tolist():
            file.seek(offset)
            file.write(noise(length, offset))
    run("btrfs", "check", "--readonly", "--check-data-csum", image)
    assert len(before) == 2500
    assert sums(image, tmp_path / "mount") == before


def test_what_is_in_use_is_read_as_of_its_last_transaction(tmp_path: Path) -> None:
    image = made(tmp_path)
    wanted = free(image)
    with loop(image) as device, mounted(device, tmp_path / "mount") as mount:
        (mount / "new").write_bytes(noise(MIB, 1))
        with reading(image) as read:
            assert free_of_mounted(read, SIZE).tolist() == wanted.tolist()
        run("btrfs", "filesystem", "sync", mount)
        with reading(image) as read:
            assert total(free_of_mounted(read, SIZE)) <= total(wanted) - MIB


def test_a_log_that_was_not_applied_is_in_nobodys_tree(tmp_path: Path) -> None:
    image, pulled = made(tmp_path), tmp_path / "pulled.img"
    with loop(image) as device, mounted(device, tmp_path / "mount") as mount:
        fd = os.open(mount / "synced", os.O_CREAT | os.O_WRONLY)
        os.write(fd, noise(100_000, 1))
        os.fsync(fd)
        os.close(fd)
        shutil.copy(image, pulled)
    with pytest.raises(Unreadable, match="log of synced files"):
        free(pulled)


def test_of_several_devices_nothing_is_known(tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    with other.open("wb") as file:
        file.truncate(SIZE)
    image = empty(tmp_path)
    run("mkfs.btrfs", "--quiet", "--force", "--data", "single", image, other)
    for each in (image, other):
        with pytest.raises(Unreadable, match="several devices"):
            free(each)


def test_of_what_is_damaged_nothing_is_free(tmp_path: Path) -> None:
    """A bit anywhere in the super block or in a block of a tree that is asked."""
    image = made(tmp_path)
    asked: list[tuple[int, int]] = []
    with reading(image) as read:

        def noted(offset: int, length: int) -> bytes:
            asked.append((offset, length))
            return read(offset, length)

        free_of_unmounted(noted, SIZE)
    assert len(asked) > 3
    for offset, length in asked:
        for place in (offset, offset + 50, offset + 120, offset + length - 1):
            with image.open("r+b") as file:
                file.seek(place)
                (was,) = file.read(1)
                file.seek(place)
                file.write(bytes([was ^ 0x10]))
                file.flush()
                with pytest.raises(Unreadable):
                    free(image)
                file.seek(place)
                file.write(bytes([was]))
    free(image)


def test_of_a_disk_that_ends_too_early_nothing_is_known(tmp_path: Path) -> None:
    image = made(tmp_path)
    with reading(image) as read, pytest.raises(Unreadable):
        free_of_unmounted(read, SIZE - MIB)
    with image.open("r+b") as file:
        file.truncate(SUPER_BLOCK + 100)
    with pytest.raises(Unreadable):
        free(image)
