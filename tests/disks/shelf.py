"""A folder of layers that we write, beside the raw bytes that the disk through them holds."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef, VirtualDisk
from vdbackup.disks.formats import create_disk, open_disk
from vdbackup.disks.names import DiskFormat

GRAIN = 64 << 10
MIB = 1 << 20

Write = tuple[int, bytes | int]
"""Where, and what: bytes, or a number of bytes to zero."""


def contents(path: Path, disk_format: str | None = "vmdk") -> bytes:
    """What our own chain reads; of a format that it finds out itself, if None."""
    with Chain.open(path, DiskFormat(disk_format) if disk_format else None) as chain:
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
        return bytes(data)


def opened(
    path: Path, disk_format: str, writable: bool = False, unit: int = UNIT
) -> closing[VirtualDisk]:
    """The disk in this one file, for a `with` at whose end it is closed and not flushed."""
    return closing(open_disk(path, DiskFormat(disk_format), writable, unit))


def reference(path: Path, disk_format: str = "vmdk") -> ParentRef:
    """How a child names the disk."""
    with opened(path, disk_format) as disk:
        return ParentRef(disk.info.disk_id, disk.info.content_id, path.name)


def change(path: Path, disk_format: str, *writes: Write, unit: int = UNIT) -> None:
    """Open the disk, do the writes, and flush."""
    with opened(path, disk_format, writable=True, unit=unit) as disk:
        put(disk, *writes)
        disk.flush()


def put(disk: VirtualDisk, *writes: Write) -> None:
    """Do the writes (whole units, the disk's last one may be short)."""
    for offset, what in writes:
        if isinstance(what, int):
            disk.zero(offset, what)
        else:
            disk.write(offset, memoryview(what))


class Shelf:
    """Layers in one folder; each new one is the child of the one before.

    Attributes:
        raw: what the disk through all layers holds.
        names: of the layers, the base first.
        unit: bytes in which they are written.
    """

    def __init__(
        self, folder: Path, size: int, disk_format: str = "vmdk", unit: int = UNIT
    ) -> None:
        self.unit = unit
        self.folder = folder
        self.size = size
        self.format = disk_format
        self.raw = bytearray(size)
        self.names: list[str] = []

    @property
    def top(self) -> Path:
        """The newest layer."""
        return self.folder / self.names[-1]

    def layer(self, *writes: Write) -> Path:
        """A new layer on top, whose name says how many are below it, with these writes in it."""
        return self.add(f"{len(self.names)}.{self.format}", *writes)

    def add(self, name: str, *writes: Write) -> Path:
        """The same under another name."""
        parent = reference(self.top, self.format) if self.names else None
        kind = DiskFormat(self.format)
        disk = create_disk(self.folder / name, kind, self.size, parent, unit=self.unit)
        put(disk, *writes)
        disk.flush()
        disk.close()
        self.names.append(name)
        self.note(*writes)
        return self.folder / name

    def write(self, *writes: Write) -> None:
        """Open the newest layer again, and do these writes to it, too."""
        change(self.top, self.format, *writes, unit=self.unit)
        self.note(*writes)

    def note(self, *writes: Write) -> None:
        """The same writes to the raw bytes."""
        for offset, what in writes:
            data = bytes(what) if isinstance(what, int) else what
            self.raw[offset : offset + len(data)] = data
        assert len(self.raw) == self.size

    def raw_file(self) -> Path:
        """The raw bytes as an image."""
        path = self.folder / "wanted.raw"
        path.write_bytes(self.raw)
        return path
