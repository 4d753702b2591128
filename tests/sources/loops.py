"""Loop devices over images, and what is mounted from them; gone when their block ends."""

from __future__ import annotations

import ctypes
import fcntl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLKPG, _ADD, _DELETE = 0x1269, 1, 2
"""The kernel's partitions of a disk, whatever its table says (linux/blkpg.h). Debian has moved the
programs that ask for it from one package to another."""


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a command; what it says, without the end of its last line."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, input=stdin)
    return done.stdout.strip()


@contextmanager
def loop(image: Path, *options: str) -> Iterator[Path]:
    device = run("losetup", "--find", "--show", *options, image)
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


def add_partition(disk: Path, number: int, start: int, length: int) -> None:
    """Give a disk a partition, in bytes; no table is needed for that."""
    _ask_of_partition(disk, _ADD, number, start, length)


def delete_partition(disk: Path, number: int) -> None:
    _ask_of_partition(disk, _DELETE, number)


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
        run("umount", folder)
