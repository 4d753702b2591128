"""Reading a block device, or a file, past its page cache, as its storage holds it now.

A mounted file system writes its files' data by requests of its own, which neither use nor drop the
pages that were cached of the device itself: those grow old as long as anybody has the device open.
Reading with O_DIRECT asks the storage, after what was written through the device's own cache; what
is cached stays as it is, and nothing is added (block/fops.c, blkdev_read_iter). Of a file it is the
same: its file system writes out first what waits in that range (mm/filemap.c).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdbackup.disks.at_once import READ, Part, move
from vdbackup.disks.granted import open_or_granted

_BLKSSZGET = 0x1268
"""ioctl: logical sector size of a block device (linux/fs.h)."""
OF_FILES = 4096
"""Bytes of which places and lengths in a file are multiples: no file system wants more of O_DIRECT
than the logical sectors of its device (open(2))."""
_BOUNCED = 1 << 20
"""Bytes at most that go through a buffer of our own at once."""


class DeviceReads:
    """A block device or file, open for reading. Methods may be called from several threads at once.

    Attributes:
        sector_size: logical, in bytes: what places and lengths are multiples of on the way there.
    """

    def __init__(self, path: Path, sector_size: int | None = None) -> None:
        """Open it; raises OSError: EINVAL where a file system knows no way past its page cache.

        Args:
            path: the device or file.
            sector_size: of a file; None for what the device says.
        """
        self._kept = threading.local()
        self._fd = open_or_granted(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            self.sector_size = sector_size or sector_size_of(self._fd)
        except BaseException:
            self.close()
            raise

    def readinto(self, offset: int, view: memoryview) -> int:
        """Fill some of `view` from byte `offset` on, any place; how many bytes, 0 at the end."""
        whole = len(view) // self.sector_size * self.sector_size
        # pages: no device wants more of an address than that
        if offset % self.sector_size == 0 and whole and _address(view) % mmap.PAGESIZE == 0:
            return os.preadv(self._fd, [view[:whole]], offset)
        return self._bounced(offset, view)

    def read_parts(self, parts: Sequence[Part], view: memoryview) -> list[Part]:
        """Read many parts of `view` at once; those that have still to be read, one by one."""
        return move(READ, self._fd, parts, view, self.sector_size)

    def _bounced(self, offset: int, view: memoryview) -> int:
        """The same through a buffer that lies as the device wants it."""
        start = offset // self.sector_size * self.sector_size
        wanted = min(offset - start + len(view), _BOUNCED)
        buffer = self._buffer(-(-wanted // self.sector_size) * self.sector_size)
        got = os.preadv(self._fd, [buffer], start)
        done = max(0, min(got, wanted) - (offset - start))
        view[:done] = buffer[offset - start : offset - start + done]
        return done

    def _buffer(self, size: int) -> memoryview:
        """This thread's own, kept: making one took as long as reading a sector into it."""
        kept: memoryview | None = getattr(self._kept, "buffer", None)
        if kept is None or len(kept) < size:
            kept = self._kept.buffer = memoryview(mmap.mmap(-1, size))
        return kept[:size]

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)


def sector_size_of(fd: int) -> int:
    """Of an open block device: its logical sectors, in bytes; raises OSError."""
    size: int = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    return size


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
