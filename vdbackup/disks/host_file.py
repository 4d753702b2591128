"""The file that a disk lies in: whole reads and writes, large writes past the page cache.

A block device is read past it, too: see `device_reads`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.disks.device_reads import DeviceReads
from vdbackup.errors import DiskFormatError

DIRECT_FROM = 512 << 10
"""Bytes from which a write goes past the page cache.

Writing 2 GiB durably took 0.7 s with O_DIRECT in pieces of 2 MiB and 1.9 to 5.4 s through the page
cache (ext4, 2 cores), and what the user's other programs have cached stays there. Small pieces are
better collected by the page cache: a disk's head would go to each of them.
"""
_FICLONE = 0x40049409
"""ioctl: share another file's extents (linux/fs.h)."""
_FICLONERANGE = 0x4020940D
"""ioctl: share some of them; its argument is a `struct file_clone_range` (linux/fs.h)."""
_CLONE_RANGE = struct.Struct("qQQQ")
"""Descriptor of the source, offset there, length, offset here; all but the first in bytes."""
_PROBED = 64 << 10
"""Bytes that are shared to see whether that can be: whole blocks of any file system."""
_ALIGNMENT = 4096
"""What O_DIRECT wants of addresses, offsets and lengths (logical blocks are 512 or 4096 bytes)."""


@dataclass(frozen=True)
class _Stamp:
    """What changes with whatever is written to a file: by `ctime` also what sets `mtime` back."""

    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, fd: int) -> Self:
        now = os.fstat(fd)
        return cls(now.st_size, now.st_mtime_ns, now.st_ctime_ns)


class HostFile:
    """An open file or block device. All methods may be called from several threads at once."""

    def __init__(self, path: Path, fd: int, direct_fd: int | None = None) -> None:
        self.path = path
        self._fd = fd
        self._direct_fd = direct_fd
        self._device: DeviceReads | None = None
        self._opened = _Stamp.of(fd)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> Self:
        """Open an existing file; raises OSError."""
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        file = cls(path, fd, _open_direct(path) if writable else None)
        try:
            if stat.S_ISBLK(os.fstat(fd).st_mode):
                file._device = DeviceReads(path)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new file that only its owner may read; raises FileExistsError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return cls(path, fd, _open_direct(path))

    @property
    def size(self) -> int:
        """Of the file or device, in bytes."""
        return os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def was_changed(self) -> bool:
        """Whether anybody has written to the file since it was opened here; no device tells."""
        return _Stamp.of(self._fd) != self._opened

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises DiskFormatError if the file ends before."""
        done = 0
        while done < len(view):
            got = self._read_some(offset + done, view[done:])
            if got == 0:
                problem = "the file is shorter than its tables say"
                raise DiskFormatError(self.path, offset + done, problem)
            done += got

    def _read_some(self, offset: int, view: memoryview) -> int:
        if self._device is not None:
            return self._device.readinto(offset, view)
        return os.preadv(self._fd, [view], offset)

    def expect(self, offset: int, length: int) -> None:
        """Let the storage fetch what will be read soon, while other things are done."""
        if self._device is not None:
            return  # it would fetch it into the page cache, which is not read
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes: fewer at the end of the file."""
        if self._device is None:
            return os.pread(self._fd, length, offset)
        data = bytearray(max(0, min(length, self.size - offset)))
        self.readinto(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, view: memoryview) -> None:
        """Write all of `view` from byte `offset` on."""
        done = self._write_direct(offset, view) if len(view) >= DIRECT_FROM else 0
        while done < len(view):
            done += os.pwritev(self._fd, [view[done:]], offset + done)

    def share(self, offset: int, source: HostFile, start: int, length: int) -> None:
        """Be from byte `offset` on what `source` is from `start` on, sharing its extents.

        Raises OSError where that cannot be: EINVAL, among others, if a place or the length is no
        multiple of the file system's blocks, or the source ends before (ioctl_ficlonerange(2)).
        """
        fcntl.ioctl(self._fd, _FICLONERANGE, _CLONE_RANGE.pack(source._fd, start, length, offset))

    def _write_direct(self, offset: int, view: memoryview) -> int:
        """Write what can go past the page cache; how many bytes from the start on."""
        if self._direct_fd is None or offset % _ALIGNMENT:
            return 0
        try:
            whole = view[: len(view) // _ALIGNMENT * _ALIGNMENT]
            return os.pwritev(self._direct_fd, [whole], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the buffer's address, or the file system's rules
                raise
            return 0

    def data_segments(self, start: int, end: int) -> list[tuple[int, int]]:
        """What the file system stores of bytes [start, end): (offset, length); holes are left out.

        A file system that knows no holes answers with everything (SEEK_DATA, lseek(2)). A block
        device answers EINVAL: all of it is stored.
        """
        segments = []
        position = start
        while position < end:
            try:
                data = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                    return [(start, end - start)]
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole up to the end of the file
            if data >= end:
                break
            position = min(os.lseek(self._fd, data, os.SEEK_HOLE), end)
            segments.append((data, position - data))
        return segments

    def grow(self, size: int) -> None:
        """Make the file at least `size` bytes long; what is new is a hole."""
        if os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)

    def cut(self, size: int) -> None:
        """Make the file at most `size` bytes long: what lay behind is a hole if it grows again."""
        if os.fstat(self._fd).st_size > size:
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Make all that was written durable, past the page cache or through it."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file, if it is not closed yet; what was not synced is not durable."""
        if self._direct_fd is not None:
            os.close(self._direct_fd)
        if self._device is not None:
            self._device.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._direct_fd, self._device = -1, None, None


def can_clone(source: Path) -> bool:
    """Whether the storage lets new files in its folder share extents with `source`.

    Tried with a file that never has a name, so that nothing is left behind. Where the storage knows
    no such files (O_TMPFILE), or the folder cannot be written to, the answer is no.
    """
    try:
        flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
        with (
            open(source, "rb") as original,
            open(os.open(source.parent, flags, 0o600), "wb") as new,
        ):
            length = (
                _PROBED if os.fstat(original.fileno()).st_size > _PROBED else 0
            )  # 0: up to the end
            argument = _CLONE_RANGE.pack(original.fileno(), 0, length, 0)
            fcntl.ioctl(new.fileno(), _FICLONERANGE, argument)
    except OSError:
        return False
    return True


def clone(source: Path, target: Path) -> bool:
    """Make `target`, a new file that shares all of `source`'s extents; False where that cannot be.

    ioctl_ficlonerange(2): XFS, Btrfs and few others can, within one file system.
    """
    with (
        open(source, "rb") as original,
        open(
            os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        ) as copy,
    ):
        try:
            fcntl.ioctl(copy, _FICLONE, original.fileno())
            return True
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
                raise
    target.unlink()
    return False


def _open_direct(path: Path) -> int | None:
    """None where that cannot be, as on tmpfs: all goes through the page cache, errors included."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
