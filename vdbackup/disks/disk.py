"""What every virtual-disk format offers: VirtualDisk, and the values that describe a disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vdbackup.disks.extents import BlockMap

SECTOR = 512
"""The unit of the formats' own structures, in bytes."""


@dataclass(frozen=True)
class ParentRef:
    """How a child names its parent.

    Attributes:
        disk_id: the parent's UUID, if the format carries it.
        content_id: changes when another program writes to the parent (VMDK: CID, 8 hex digits).
        relative_path: the parent's path as the child has it, external text.
    """

    disk_id: str | None
    content_id: str
    relative_path: str


@dataclass(frozen=True)
class DiskInfo:
    """A disk's facts; sizes in bytes.

    Attributes:
        block_size: unit of allocation; writes come in whole blocks, the last one may be short.
    """

    format: str
    virtual_size: int
    sector_size: int
    block_size: int
    disk_id: str | None
    content_id: str
    parent: ParentRef | None


class VirtualDisk(Protocol):
    """One virtual-disk file, without its parents. Offsets and lengths are bytes.

    `read_host` and `write` may be called from several threads at once.
    """

    path: Path

    @property
    def info(self) -> DiskInfo:
        """The disk's facts."""

    def block_map(self) -> BlockMap:
        """Where the disk's own blocks lie; data are in layer 0."""

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from the file, from host offset `host` on (one run of `block_map`)."""

    def write(self, offset: int, view: memoryview) -> None:
        """Write whole blocks; durable after `flush`."""

    def zero(self, offset: int, length: int) -> None:
        """Make whole blocks read as zeros, whatever a parent has there; durable after `flush`."""

    def flush(self) -> None:
        """Make all writes durable: the data first, then the tables that name them."""

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return."""

    def adopt(self, disk_id: str, content_id: str) -> None:
        """Take another disk's identity, so that its children find this one; durable on return."""

    def close(self) -> None:
        """Close the file without a flush."""
