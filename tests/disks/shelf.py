"""A folder of layers that we write, beside the raw bytes that the disk through them holds."""

from __future__ import annotations

import random
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import ParentRef, VirtualDisk
from vdbackup.disks.formats import create_disk, open_disk

GRAIN = 64 << 10
MIB = 1 << 20

Write = tuple[int, bytes | int]
"""Where, and what: bytes, or a number of bytes to zero."""


def noise(length: int, seed: int) -> bytes:
    """Bytes without zeros among them for long, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def contents(path: Path, disk_format: str = "vmdk") -> bytes:
    """What our own chain reads."""
    with Chain.open(path, disk_format) as chain:
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
        return bytes(data)


def reference(path: Path, disk_format: str = "vmdk") -> ParentRef:
    """How a child names the disk."""
    disk = open_disk(path, disk_format)
    info = disk.info
    disk.close()
    return ParentRef(info.disk_id, info.content_id, path.name)


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
    """

    def __init__(self, folder: Path, size: int, disk_format: str = "vmdk") -> None:
        self.folder = folder
        self.size = size
        self.format = disk_format
        self.raw = bytearray(size)
        self.names: list[str] = []

    def add(self, name: str, *writes: Write) -> Path:
        """A new layer on top, with these writes in it."""
        top = self.folder / self.names[-1] if self.names else None
        parent = reference(top, self.format) if top else None
        disk = create_disk(self.folder / name, self.format, self.size, parent)
        put(disk, *writes)
        disk.flush()
        disk.close()
        self.names.append(name)
        self.note(*writes)
        return self.folder / name

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
