"""What every virtual-disk format offers: VirtualDisk, and the values that describe a disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vdbackup.disks.at_once import Part
from vdbackup.disks.extents import BlockMap, Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.translation import tr

SECTOR = 512
"""The unit of the formats' own structures, in bytes."""
NOT_CLOSED = tr("was not closed by the program that wrote it: what that held back is missing")
"""A disk's `unclean`, in all formats that note it."""
UNIT = 64 << 10
"""Bytes in which disks are written: whole units at multiples of it, the disk's last may be short.

What one digest covers, and what every format can take without completing it from a parent.
"""
FINE_UNIT = 8 << 10
"""The same of disks of which small parts change all over, as inodes do.

It costs eight times the tables and digests, and is worth it where these parts are most of what
changes. The other formats could go lower, but libvmdk takes no grain of a VMDK that is smaller (the
specification says "greater than 8 sectors"), and digests are to fit whatever the format.
"""
LARGEST_FINE = 256 << 30
"""Bytes of a disk up to which it may be written in fine units: tables of VMDK, twice 128 MiB."""


@dataclass(frozen=True)
class ParentRef:
    """How a child names its parent.

    Attributes:
        disk_id: the parent's UUID, None where the format carries none.
        content_id: changes when another program writes to the parent (VMDK: CID, 8 hex digits;
            VHDX: DataWriteGuid); "" where the format carries none.
        relative_path: the parent's path as the child has it, external text.
        other_paths: more such texts, in the order in which they are to be tried.
        disk_format: the parent's, where it need not be the child's and the child says it.
        named: whether the child says the path; else it was found, or made up, by the identity.
    """

    disk_id: str | None
    content_id: str
    relative_path: str
    other_paths: tuple[str, ...] = field(default=(), compare=False)
    disk_format: DiskFormat | None = field(default=None, compare=False)
    named: bool = field(default=True, compare=False)

    @property
    def proves(self) -> bool:
        """Whether the child can tell its parent from another disk in the same place."""
        return bool(self.disk_id or self.content_id)

    def means(self, disk: DiskInfo) -> bool:
        """Whether that disk is the parent, unaltered; what one of them lacks is not compared."""
        return (not self.content_id or self.content_id == disk.content_id) and (
            not self.disk_id or not disk.disk_id or self.disk_id == disk.disk_id
        )


@dataclass(frozen=True)
class DiskInfo:
    """A disk's facts; sizes in bytes.

    Attributes:
        block_size: unit of allocation in the file.
        disk_id: UUID in lower case without braces, None where the file carries none.
        content_id: as in ParentRef.
        file_name: what the disk says its file is called (VMDK, in its extent line); external text,
            None where the format carries none.
        unclean: what the file says was wrong when it was written last, to follow its name in a
            sentence; "" where nothing was.
    """

    format: DiskFormat
    virtual_size: int
    sector_size: int
    block_size: int
    disk_id: str | None
    content_id: str
    parent: ParentRef | None
    file_name: str | None = None
    unclean: str = ""


class VirtualDisk(Protocol):
    """One virtual-disk file, without its parents. Offsets and lengths are bytes.

    `read_host`, `write` and `zero` may be called from several threads at once, on different units.
    All methods raise OSError where the storage fails. Those that change the disk raise DiskError
    where its layout is only read (read_only.py); opening it for writing has refused that before.
    """

    path: Path

    @property
    def unit(self) -> int:
        """Bytes in which it is written, a power of two: UNIT or FINE_UNIT."""

    @property
    def info(self) -> DiskInfo:
        """The disk's facts."""

    @property
    def host_files(self) -> tuple[HostFile, ...]:
        """The open files that it is read from."""

    def block_map(self) -> BlockMap:
        """Where the disk's own blocks lie, as of the last flush: ascending; data are in layer 0.

        Raises DiskFormatError where a table names what is not there.
        """

    def doubts(self) -> tuple[str, ...]:
        """What contradicts itself in the file, beside what `info` says.

        Each follows the file's name in a sentence. It reads all tables. Raises OSError, and
        DiskFormatError as `block_map` does.
        """

    def unread(self) -> tuple[str, ...]:
        """What its owner keeps in the file beside the disk as it is, and is not read.

        Each follows the file's name in a sentence. Nothing is wrong with such a file.
        """

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from `host` on, a place in the file (within one run of `block_map`).

        Raises DiskFormatError where the file ends before, or what is compressed is damaged.
        """

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, each as `read_host` does, in few calls where that can be."""

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """What is stored of `length` bytes from `host` on: (host, length), ascending.

        Holes of the file are left out: they read as zeros, whatever becomes of the storage. What is
        compressed has none.
        """

    def write(self, offset: int, view: memoryview) -> None:
        """Write whole units; durable after `flush`.

        Raises DiskError where the tables cannot name one block more.
        """

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Write some of the units that `view` holds, as `write` does.

        Args:
            units: int64[n], their numbers in the disk, ascending.
            view: whole units, one behind the other; the disk's last may be short.
            at: int64[n], where in the view each is, in units, ascending.
        """

    def share(self, offset: int, length: int, source: HostFile, start: int) -> None:
        """Hold in whole units, none of them short, what `source` holds from byte `start` on.

        The file's extents are shared, and nothing is copied; durable after `flush`. Raises OSError
        where that cannot be, as HostFile.share does: the units have to be written then.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make whole units read as zeros, whatever a parent has there; durable after `flush`.

        Raises DiskError as `write` does.
        """

    def flush(self) -> None:
        """Make all writes durable: the data first, then the tables that name them."""

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return.

        Raises DiskError where the disk has none, or cannot have that one's name written in it.
        """

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Take another disk's identity, so that its children find this one; durable on return.

        `file_name` is what the file will be called, if not as it is: some formats write it down.
        """

    def close(self) -> None:
        """Close the file without a flush."""
