"""Loop devices over images, and what is mounted from them; gone when their block ends."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOP_CTL_ADD, _LOOP_CTL_REMOVE = 0x4C80, 0x4C81
_BLKPG, _ADD, _DELETE = 0x1269, 1, 2
"""The kernel's partitions of a disk, whatever its table says (linux/blkpg.h). Debian has moved the
programs that ask for it from one package to another."""
_PATIENCE = 30.0
"""Seconds in which whoever has a device, a partition or a mount open lets go of it: tests that run
beside this one look at all that there are."""
_PAUSE = 0.02


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a command; what it says, without the end of its last line."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, input=stdin)
    return done.stdout.strip()


@contextmanager
def loop(image: Path, *options: str) -> Iterator[Path]:
    device = run("losetup", "--find", "--show", *options, image)
    try:
        _delete_partitions(Path("/sys/block") / Path(device).name)  # a killed run's
        yield Path(device)
    finally:
        detach(Path(device))


@contextmanager
def own_name() -> Iterator[Path]:
    """A loop device that no other test is given, for what happens between one medium and the next.

    `losetup --find` takes the first that is free; the kernel makes further ones by number, and we
    have one of this process's (linux/loop.h).
    """
    number = 1000 + os.getpid() % 100_000
    with Path("/dev/loop-control").open("rb") as control:
        fcntl.ioctl(control, _LOOP_CTL_ADD, number)
        try:
            yield Path(f"/dev/loop{number}")
        finally:
            fcntl.ioctl(control, _LOOP_CTL_REMOVE, number)


@contextmanager
def attached(device: Path, image: Path) -> Iterator[Path]:
    run("losetup", device, image)
    try:
        yield device
    finally:
        detach(device)


def detach(device: Path) -> None:
    """Once nobody has it open: until then the kernel only notes that it is to be detached, and its
    image, with what that lies on, is in use."""
    run("losetup", "--detach", device)
    backing = Path("/sys/block", device.name, "loop/backing_file")
    until = time.monotonic() + _PATIENCE
    while backing.exists():
        assert time.monotonic() < until, f"{device} is in use still"
        time.sleep(_PAUSE)


def add_partition(disk: Path, number: int, start: int, length: int) -> None:
    """Give a disk a partition, in bytes; no table is needed for that."""
    _ask_of_partition(disk, _ADD, number, start, length)


def delete_partition(disk: Path, number: int) -> None:
    """Once nobody has it open: the program of a FUSE file system ends after its umount has."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return _ask_of_partition(disk, _DELETE, number)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def delete_partitions_of_unused() -> None:
    """Loop devices that hold nothing have no partitions.

    The kernel keeps those that it was told of when a device is detached. A run that is killed in
    the midst leaves them, and the next one that is given the device could add none.
    """
    for disk in Path("/sys/block").glob("loop*"):
        if not (disk / "loop/backing_file").exists():
            with suppress(PermissionError):  # in a container, where none could be added either
                _delete_partitions(disk)


def _delete_partitions(disk: Path) -> None:
    """All of a disk's, by its folder in sysfs."""
    for partition in disk.glob("*/partition"):
        delete_partition(Path("/dev") / disk.name, int(partition.read_text()))


def _ask_of_partition(disk: Path, what: int, number: int, start: int = 0, length: int = 0) -> None:
    partition = ctypes.create_string_buffer(
        struct.pack("@qqi64s64s4x", start, length, number, b"", b"")
    )
    request = struct.pack("@iiiP", what, 0, len(partition), ctypes.addressof(partition))
    with disk.open("rb") as opened:
        fcntl.ioctl(opened, _BLKPG, request)


@contextmanager
def two_partitions(image: Path) -> Iterator[tuple[Path, Path]]:
    """Two partitions, of the two halves of a disk."""
    with loop(image) as disk:
        half = image.stat().st_size // 2
        add_partition(disk, 1, 0, half)
        add_partition(disk, 2, half, half)
        try:
            yield Path(f"{disk}p1"), Path(f"{disk}p2")
        finally:
            delete_partition(disk, 1)
            delete_partition(disk, 2)


@contextmanager
def mounted(device: Path | str, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run("mount", *options, device, folder)
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Once nobody is in it; what else is wrong is said at once."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            run("umount", folder)
        except subprocess.CalledProcessError as error:
            if "busy" not in error.stderr or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return
