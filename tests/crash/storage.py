"""Small real file systems, which run full, are unplugged and are mounted again."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.sources.loops import detach

MIB = 1 << 20
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4"],
    "xfs": ["mkfs.xfs", "-q"],
}
"""The command that makes one, without the device."""
_SMALLEST = {"ext4": 48 * MIB, "xfs": 300 * MIB}
"""Bytes; XFS refuses to be smaller."""
PATIENCE = 60.0
"""Seconds to wait until nobody has a file system any more."""
_GOING_DOWN = 0x8004587D
"""ioctl: EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN (linux/ext4.h, xfs_fs.h)."""
_NOTHING_MORE = 2
"""Its argument: what waits in memory, the journal's too, is never written."""


class Storage:
    """A file system on a loop device, mounted on `folder` as long as it is plugged in.

    Attributes:
        folder: where; empty while nothing is mounted there.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._device = device

    def plug_in(self) -> None:
        """Mount it, as it was when the power went or when it was unmounted."""
        _run("mount", self._device, self.folder)

    def take_out(self) -> None:
        """Unmount it; raises CalledProcessError where a file is still open.

        A process with a copy of all mounts (a container that is being started) keeps it for a
        while: mounting it again would then give the same one, pulled out as it is.
        """
        _run("umount", self.folder)
        until = time.monotonic() + PATIENCE
        while not self._is_free():
            if time.monotonic() > until:
                raise TimeoutError(f"{self._device} is still mounted elsewhere")
            time.sleep(0.01)

    def _is_free(self) -> bool:
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return False
        return True

    def detach(self) -> None:
        """Take it out of the tree of folders while files are open: those go on working."""
        _run("umount", "--lazy", self.folder)

    def unplug(self) -> None:
        """From now on nothing reaches the device, and every call fails: what was synced is there.

        It stays mounted, like a disk that was pulled out, until it is taken out.
        """
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _GOING_DOWN, struct.pack("I", _NOTHING_MORE))
        finally:
            os.close(fd)


@contextmanager
def storage(folder: Path, kind: str, size: int = 0) -> Iterator[Storage]:
    """A new file system of `size` bytes or as small as can be, mounted on a new folder; as root."""
    folder.mkdir()
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(max(size, _SMALLEST[kind]))
    _run(*_MAKE[kind], image)
    device = _run("losetup", "--find", "--show", image)
    try:
        made = Storage(folder, device)
        made.plug_in()
        try:
            yield made
        finally:
            with suppress(subprocess.CalledProcessError):  # a test may have ended without it
                made.take_out()
    finally:
        detach(Path(device))
        image.unlink()


def fill(folder: Path) -> Callable[[], None]:
    """Take all that is free, to the last block; calling the result gives it back."""
    fd = os.open(folder / "other", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        size, end = 64 * MIB, 0
        while size >= 4096:
            try:
                os.posix_fallocate(fd, end, size)
                end += size
            except OSError:
                size //= 2
    finally:
        os.close(fd)
    return (folder / "other").unlink


def _run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return done.stdout.strip()
