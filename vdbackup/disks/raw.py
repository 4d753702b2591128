"""Raw disks: an image file or a block device, byte n of the disk at byte n of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdbackup.disks.at_once import Part
from vdbackup.disks.disk import SECTOR, DiskInfo, ParentRef
from vdbackup.disks.extents import ZERO, BlockMap, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import OneFileDisk, one_by_one
from vdbackup.errors import NotLinkable
from vdbackup.translation import tr


class RawDisk(OneFileDisk):
    """A raw image or block device.

    The virtual size is rounded up to a whole sector, as QEMU does; the missing tail reads as zeros.
    """

    def __init__(self, file: HostFile) -> None:
        super().__init__(file)
        self._stored = file.size
        virtual_size = -(-self._stored // SECTOR) * SECTOR
        self.info = DiskInfo(DiskFormat.RAW, virtual_size, SECTOR, SECTOR, None, "", None)

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> RawDisk:
        """Open an existing image or device; raises OSError."""
        return cls(HostFile.open(path, writable))

    @classmethod
    def create(cls, path: Path, virtual_size: int) -> RawDisk:
        """Make a new, sparse image of `virtual_size` bytes; raises FileExistsError."""
        file = HostFile.create(path)
        file.grow(virtual_size)
        return cls(file)

    def block_map(self) -> BlockMap:
        """Holes of the image read as zeros and are never read."""
        segments = as_ranges(self._file.data_segments(0, self._stored))
        offsets, lengths = segments[:, 0], segments[:, 1]
        layers = np.zeros(len(segments), np.int32)
        return BlockMap.from_runs(self.info.virtual_size, offsets, lengths, layers, offsets, ZERO)

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` on."""
        stored = max(0, min(len(view), self._stored - host))
        self._file.readinto(host, view[:stored])
        view[stored:] = bytes(len(view) - stored)

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, one by one."""
        one_by_one(self.read_host, parts, view)

    def write(self, offset: int, view: memoryview) -> None:
        """Write at byte `offset`."""
        self._file.write(offset, view)

    def share(self, offset: int, length: int, source: HostFile, start: int) -> None:
        """Share extents from byte `offset` on; raises OSError."""
        self._file.share(offset, source, start, length)

    def zero(self, offset: int, length: int) -> None:
        """Write zeros."""
        self._file.zero(offset, length)

    def flush(self) -> None:
        """Make all writes durable."""
        self._file.sync()

    def relink(self, parent: ParentRef) -> None:
        """Raw disks have no parents: raises NotLinkable."""
        raise NotLinkable(
            tr(
                "{path} is a raw disk, which cannot have a parent {relative_path}.",
                path=self.path,
                relative_path=parent.relative_path,
            )
        )

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Raw disks carry no identity: raises NotLinkable."""
        raise NotLinkable(
            tr(
                "{path} is a raw disk, which cannot carry the identity {disk_id}.",
                path=self.path,
                disk_id=disk_id,
            )
        )
