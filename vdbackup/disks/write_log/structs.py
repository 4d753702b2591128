"""What a log of writes consists of on disk: the format of the kernel's dm-log-writes.

QEMU's blklogwrites writes the same (block/blklogwrites.c; the format stands in the kernel's
drivers/md/dm-log-writes.c). All numbers are little-endian, and all sizes count in the log's own
sectors:

    sector 0    the super block: magic, version, number of entries, bytes of a sector
    each entry  one sector: where it goes, how many sectors, flags, length of what follows in it;
                then the data that were written, but for a discard
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Self

import numpy as np

from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

MAGIC = 0x6A736677736872
VERSION = 1
HEADER = struct.Struct("<QQQQ")
ENTRY = np.dtype([("sector", "<u8"), ("sectors", "<u8"), ("flags", "<u8"), ("length", "<u8")])
"""An entry's header. `length` is that of a mark's text, which follows in the same sector."""
SECTORS = (512, 4096)
"""Bytes that a log's sectors may have: what disks have."""
_SUPER = struct.Struct("<QQQI")


class Flag(IntFlag):
    """What an entry is beside a write."""

    FLUSH = 1
    """All that completed before it has been written out; its own data, if it has any, need not."""
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


KNOWN = int(Flag.FLUSH | Flag.FUA | Flag.DISCARD | Flag.MARK | Flag.METADATA)


@dataclass(frozen=True)
class SuperBlock:
    """How a log begins.

    Attributes:
        entries: that were there when it was written: QEMU writes it at a flush, before which there
            may be many more, the kernel when the log is closed.
        sector_size: the unit of the log and of the places that it names, in bytes.
    """

    entries: int
    sector_size: int

    @classmethod
    def unpack(cls, sector: bytes, path: Path) -> Self:
        """What the first sector of the log at `path` says; raises DiskFormatError."""
        if len(sector) < _SUPER.size:
            raise DiskFormatError(path, 0, tr("it is too short to be a log of writes"))
        magic, version, entries, sector_size = _SUPER.unpack_from(sector)
        if (magic, version) != (MAGIC, VERSION):
            raise DiskFormatError(path, 0, tr("it does not begin as a log of writes does"))
        if sector_size not in SECTORS:
            raise DiskFormatError(
                path,
                24,
                tr("it says that its sectors have {sector_size} bytes", sector_size=sector_size),
            )
        return cls(entries, sector_size)

    def pack(self) -> bytes:
        """The whole sector."""
        text = _SUPER.pack(MAGIC, VERSION, self.entries, self.sector_size)
        return text.ljust(self.sector_size, b"\0")
