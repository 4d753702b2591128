"""A folder of VMDK layers that we write, beside the raw bytes that the disk through them holds."""

from __future__ import annotations

import random
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.vmdk import VmdkDisk

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


def reference(path: Path) -> ParentRef:
    """How a child names the disk."""
    disk = VmdkDisk.open(path)
    info = disk.info
    disk.close()
    return ParentRef(info.disk_id, info.content_id, path.name)


def put(disk: VmdkDisk, *writes: Write) -> None:
    """Do the writes (whole grains, the disk's last one may be short)."""
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

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.raw = bytearray(size)
        self.names: list[str] = []

    def add(self, name: str, *writes: Write) -> Path:
        """A new layer on top, with these writes in it."""
        parent = reference(self.folder / self.names[-1]) if self.names else None
        disk = VmdkDisk.create(self.folder / name, self.size, parent)
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
