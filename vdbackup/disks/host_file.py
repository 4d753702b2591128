"""The file that a disk lies in: whole reads and writes, large writes past the page cache.

A block device is read past it, too: see `device_reads`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.disks.at_once import WRITE, Part, move
from vdbackup.disks.descriptors import Descriptor, Held, Lent, open_to_read
from vdbackup.disks.device_reads import OF_FILES, DeviceReads
from vdbackup.errors import DiskError, DiskFormatError
from vdbackup.translation import tr

DIRECT_FROM = 512 << 10
"""Bytes from which a write goes past the page cache.

Writing 2 GiB durably took 0.7 s with O_DIRECT in pieces of 2 MiB and 1.9 to 5.4 s through the page
cache (ext4, 2 cores), and what the user's other programs have cached stays there. A small piece by
itself is better collected by the page cache: a disk's head would go to each of them. Many at once
are put in order by the kernel, too, and go past it (`write_parts`).
"""
EARLY_FROM = 64 << 10
"""Bytes from which a write through the page cache is on its way to the storage at once.

POSIX_FADV_DONTNEED begins to write what is dirty there, and waits for nothing (mm/fadvise.c). Else
all of it begins with the sync: 205 MB in pieces of 64 KiB were durable in 0.53 s, and so in 0.48.
"""
_FICLONE = 0x40049409
"""ioctl: share another file's extents (linux/fs.h)."""
_FICLONERANGE = 0x4020940D
"""ioctl: share some of them; its argument is a `struct file_clone_range` (linux/fs.h)."""
_CLONE_RANGE = struct.Struct("qQQQ")
"""Descriptor of the source, offset there, length, offset here; all but the first in bytes."""
_PROBED = 64 << 10
"""Bytes that are shared to see whether that can be: whole blocks of any file system."""
_DONTCACHE = 0x80
"""Of preadv2(2): what is read and was not cached before is let go of again (linux/fs.h,
RWF_DONTCACHE)."""
_DONTCACHE_SINCE = (6, 16)
"""Linux. 6.14 and 6.15 know it, and could let go of what another program had just written (mended
by "gate dropbehind invalidate on folio !dirty && !writeback", and switched off meanwhile)."""
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL)
"""What older kernels, and file systems that have not learnt it, say to that."""
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
"""Of fallocate(2) (linux/falloc.h)."""
_ZEROS = memoryview(bytes(1 << 20))
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
        self._descriptor: Descriptor = Held(fd)
        self._direct_fd = direct_fd
        self._device: DeviceReads | None = None
        self._read_flags = 0
        self._opened = _Stamp.of(fd)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> Self:
        """Open an existing file; raises OSError.

        Of files that are only read many can be open at once, see `descriptors`; where one is not
        the same any more when it is needed again, all methods raise DiskError.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC) if writable else open_to_read(path)
        with cls(path, fd, _open_direct(path) if writable else None).closed_on_error() as file:
            kind = os.fstat(fd).st_mode
            if stat.S_ISBLK(kind):
                file._device = DeviceReads(path)
        if not writable and stat.S_ISREG(kind):
            file._descriptor = Lent(path, fd)
        return file

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new file that only its owner may read; raises FileExistsError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return cls(path, fd, _open_direct(path))

    @contextmanager
    def closed_on_error(self) -> Iterator[Self]:
        """Close the file where the disk in it cannot be opened or made; else it stays open."""
        try:
            yield self
        except BaseException:  # a Ctrl-C, too
            self.close()
            raise

    @property
    def size(self) -> int:
        """Of the file or device, in bytes."""
        with self._descriptor as fd:
            return os.lseek(fd, 0, os.SEEK_END)

    @property
    def was_changed(self) -> bool:
        """Whether anybody has written to the file since it was opened here; no device tells."""
        try:
            with self._descriptor as fd:
                return _Stamp.of(fd) != self._opened
        except (DiskError, OSError):  # it is another one by now, or gone: nobody can say it is not
            return True

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises DiskFormatError if the file ends before."""
        done = 0
        while done < len(view):
            got = self._read_some(offset + done, view[done:])
            if got == 0:
                problem = tr("the file is shorter than its tables say")
                raise DiskFormatError(self.path, offset + done, problem)
            done += got

    def read_parts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, each from a place of its own; raises as `readinto` does."""
        if self._device is not None:
            parts = self._device.read_parts(parts, view)
        for offset, first, end in parts:
            self.readinto(offset, view[first:end])

    def _read_some(self, offset: int, view: memoryview) -> int:
        if self._device is not None:
            return self._device.readinto(offset, view)
        with self._descriptor as fd:
            try:
                return os.preadv(fd, [view], offset, self._read_flags)
            except OSError as error:
                if not self._read_flags or error.errno not in _CANNOT:
                    raise
                self._read_flags = 0
            return os.preadv(fd, [view], offset)

    def descriptor(self) -> Descriptor:
        """Its descriptor, valid inside `with`: for many small reads of what is no device."""
        return self._descriptor

    def leave_cache(self) -> None:
        """From now on, leave the page cache as it was, where kernel and file system can.

        What other programs have cached stays, and of what is read once nothing is added.
        """
        if _linux() >= _DONTCACHE_SINCE:
            self._read_flags = _DONTCACHE

    def read_past_cache(self) -> None:
        """From now on, read as the storage has it, whatever the page cache says.

        Raises OSError where the file system knows no such way, some only when they are asked.
        """
        if self._device is not None:
            return
        device = DeviceReads(self.path, OF_FILES)
        try:
            device.readinto(0, memoryview(bytearray(OF_FILES)))
        except BaseException:
            device.close()
            raise
        self._device = device

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes: fewer at the end of the file."""
        if self._device is None:
            with self._descriptor as fd:
                return os.pread(fd, length, offset)
        data = bytearray(max(0, min(length, self.size - offset)))
        self.readinto(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, view: memoryview) -> None:
        """Write all of `view` from byte `offset` on."""
        done = self._write_direct(offset, view) if len(view) >= DIRECT_FROM else 0
        with self._descriptor as fd:
            while done < len(view):
                done += os.pwritev(fd, [view[done:]], offset + done)
            if EARLY_FROM <= len(view) < DIRECT_FROM:
                os.posix_fadvise(fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def write_parts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Write parts of `view`, each from a place of its own on: many go past the page cache.

        All are under way together, and the kernel takes them in the order that suits the storage.
        """
        if self._direct_fd is not None:
            parts = move(WRITE, self._direct_fd, parts, view, _ALIGNMENT)
        for offset, first, end in parts:
            self.write(offset, view[first:end])

    def zero(self, offset: int, length: int) -> None:
        """Write zeros from byte `offset` on, in pieces of 1 MiB."""
        for done in range(0, length, len(_ZEROS)):
            self.write(offset + done, _ZEROS[: length - done])

    def punch(self, offset: int, length: int) -> None:
        """Read as zeros there from now on, and take no space for whole blocks of it.

        Where the file system knows no such thing, or it is a device, zeros are written. The length
        of the file stays (fallocate(2), FALLOC_FL_PUNCH_HOLE).
        """
        with self._descriptor as fd:
            if stat.S_ISREG(os.fstat(fd).st_mode) and _punch(fd, offset, length):
                return
        self.zero(offset, length)

    def share(self, offset: int, source: HostFile, start: int, length: int) -> None:
        """Be from byte `offset` on what `source` is from `start` on, sharing its extents.

        Raises OSError where that cannot be: EINVAL, among others, if a place or the length is no
        multiple of the file system's blocks, or the source ends before (ioctl_ficlonerange(2)).
        """
        with self._descriptor as fd, source._descriptor as source_fd:
            argument = _CLONE_RANGE.pack(source_fd, start, length, offset)
            fcntl.ioctl(fd, _FICLONERANGE, argument)

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
        with self._descriptor as fd:
            while position < end:
                try:
                    data = os.lseek(fd, position, os.SEEK_DATA)
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                        return [(start, end - start)]
                    if error.errno != errno.ENXIO:
                        raise
                    break  # nothing but a hole up to the end of the file
                if data >= end:
                    break
                position = min(os.lseek(fd, data, os.SEEK_HOLE), end)
                segments.append((data, position - data))
        return segments

    def grow(self, size: int) -> None:
        """Make the file at least `size` bytes long; what is new is a hole."""
        with self._descriptor as fd:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)

    def cut(self, size: int) -> None:
        """Make the file at most `size` bytes long: what lay behind is a hole if it grows again."""
        with self._descriptor as fd:
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)

    def drop_cached(self, size: int = 0) -> None:
        """Let the page cache forget the file, once all of it is durable: only clean pages go.

        Args:
            size: of the file's start, in bytes, if not all of it is meant.
        """
        with self._descriptor as fd:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make all that was written durable, past the page cache or through it."""
        with self._descriptor as fd:
            os.fsync(fd)

    def close(self) -> None:
        """Close the file, if it is not closed yet; what was not synced is not durable."""
        direct_fd, device = self._direct_fd, self._device
        # first: where close(2) fails the number is free, and may be another file's by the next time
        self._direct_fd = self._device = None
        try:
            if direct_fd is not None:
                os.close(direct_fd)
            if device is not None:
                device.close()
        finally:
            self._descriptor.close()


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


def _punch(fd: int, offset: int, length: int) -> bool:
    """Make a hole in a file; False where that cannot be. Python has no call for it."""
    import ctypes  # late: nearly nobody makes holes

    punch = ctypes.CDLL(None, use_errno=True).fallocate64
    where = ctypes.c_int64(offset), ctypes.c_int64(length)
    return bool(punch(fd, _PUNCH_HOLE | _KEEP_SIZE, *where) == 0)


def _linux() -> tuple[int, int]:
    """The kernel's version: "6.18.4-amd64" is (6, 18)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _open_direct(path: Path) -> int | None:
    """None where that cannot be, as on tmpfs: all goes through the page cache, errors included."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
