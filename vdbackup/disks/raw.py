"""Raw disks: an image file or a block device, byte n of the disk at byte n of the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vdbackup.disks.disk import SECTOR, DiskInfo, ParentRef, data_segments, read_fully, write_fully
from vdbackup.disks.extents import ZERO, BlockMap
from vdbackup.errors import DiskError

_ZEROS = memoryview(bytes(1 << 20))


class RawDisk:
    """A raw image or block device.

    The virtual size is rounded up to a whole sector, as QEMU does; the missing tail reads as zeros.
    """

    def __init__(self, path: Path, fd: int, size: int, sector_size: int = SECTOR) -> None:
        self.path = path
        self._fd = fd
        self._stored = size
        virtual_size = -(-size // SECTOR) * SECTOR
        self.info = DiskInfo("raw", virtual_size, sector_size, SECTOR, None, "", None)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> RawDisk:
        """Open an existing image or device."""
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        return cls(path, fd, os.lseek(fd, 0, os.SEEK_END))

    @classmethod
    def create(cls, path: Path, virtual_size: int) -> RawDisk:
        """Make a new, sparse image of `virtual_size` bytes; raises FileExistsError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, virtual_size)
        return cls(path, fd, virtual_size)

    def block_map(self) -> BlockMap:
        """Holes of the image read as zeros and are never read."""
        segments = np.array(data_segments(self._fd, 0, self._stored), np.int64).reshape(-1, 2)
        offsets, lengths = segments[:, 0], segments[:, 1]
        layers = np.zeros(len(segments), np.int32)
        return BlockMap.from_runs(self.info.virtual_size, offsets, lengths, layers, offsets, ZERO)

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` on."""
        stored = max(0, min(len(view), self._stored - host))
        read_fully(self._fd, host, view[:stored], self.path)
        view[stored:] = bytes(len(view) - stored)

    def write(self, offset: int, view: memoryview) -> None:
        """Write at byte `offset`."""
        write_fully(self._fd, offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Write zeros."""
        for position in range(offset, offset + length, len(_ZEROS)):
            write_fully(self._fd, position, _ZEROS[: offset + length - position])

    def flush(self) -> None:
        """Make all writes durable."""
        os.fsync(self._fd)

    def relink(self, parent: ParentRef) -> None:
        """Raw disks have no parents: raises DiskError."""
        raise DiskError(
            f"{self.path} is a raw disk, which cannot have a parent {parent.relative_path}."
        )

    def adopt(self, disk_id: str, content_id: str) -> None:
        """Raw disks carry no identity: raises DiskError."""
        raise DiskError(f"{self.path} is a raw disk, which cannot carry the identity {disk_id}.")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
