"""Real file systems on loop devices, mounted; none of them stays frozen, whatever a test does."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources.loops import loop, mounted, run
from vdbackup.agent.freezing import FileSystem
from vdbackup.agent.guardian import FIFREEZE, FITHAW, thaw

MIB = 1 << 20
MAKERS = {
    "ext4": (32, ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0")),
    "xfs": (304, ("mkfs.xfs", "-q")),
    "btrfs": (128, ("mkfs.btrfs", "-q", "--mixed")),
    "vfat": (16, ("mkfs.vfat",)),
}
"""MiB that each needs at least, and what makes it."""
FREEZABLE = ("ext4", "xfs", "btrfs")
LONGEST = 120
"""Seconds that a test may keep a file system frozen."""

_THAWS = f"""
import fcntl, os, select, sys
select.select([0], [], [], {LONGEST})
for descriptor in map(int, sys.argv[1:]):
    try:
        fcntl.ioctl(descriptor, {FITHAW}, 0)
    except OSError:
        pass
"""
"""A program that thaws its descriptors when its standard input ends, or after LONGEST."""


def image(path: Path, size: int, kind: str | None = None) -> Path:
    """A sparse file of so many MiB, with a file system in it."""
    with path.open("wb") as file:
        file.truncate(size * MIB)
    if kind is not None:
        run(*MAKERS[kind][1], path)
    return path


@contextmanager
def thawed_afterwards(*descriptors: int) -> Iterator[None]:
    """Thaw in the end, and after LONGEST seconds or the death of this process, too."""
    command = [sys.executable, "-c", _THAWS, *map(str, descriptors)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors) as watcher:
        try:
            yield
        finally:
            for each in descriptors:
                thaw(each)
            watcher.communicate()


@contextmanager
def opened(folder: Path, name: str | None = None) -> Iterator[FileSystem]:
    """A mounted file system that can be frozen, and is not in the end."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with thawed_afterwards(descriptor):
            yield FileSystem(name or str(folder), descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_system(folder: Path, kind: str) -> Iterator[FileSystem]:
    """One of that kind, new, mounted at `folder`."""
    disk = image(folder.with_suffix(".img"), MAKERS[kind][0], kind)
    with loop(disk) as device, mounted(device, folder), opened(folder) as found:
        yield found


def freeze(file_system: FileSystem) -> None:
    """As another program does."""
    fcntl.ioctl(file_system.descriptor, FIFREEZE, 0)


def is_frozen(file_system: FileSystem) -> bool:
    """Ask by a freeze, which is undone where it can be had."""
    try:
        freeze(file_system)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    assert thaw(file_system.descriptor)
    return False
