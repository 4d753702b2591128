"""On-disk structures of hosted sparse VMDK: the header and the text descriptor.

Source: VMware, "Virtual Disk Format 5.0" (the SparseExtentHeader, grain directory and tables, and
the descriptor file). Numbers are little-endian, places are in sectors of 512 bytes. What QEMU and
VirtualBox want beyond it was found by experiment and stands beside the code that does it.
"""

from __future__ import annotations

import string
import struct
import uuid
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from vdbackup.disks.disk import SECTOR
from vdbackup.errors import DiskError, DiskFormatError

MAGIC = b"KDMV"
NEWLINES = b"\n \r\n"
"""A text-mode transfer alters these four bytes, and so gives itself away."""

FLAG_NEWLINE_TEST = 1 << 0
FLAG_REDUNDANT_TABLE = 1 << 1
FLAG_ZERO_GRAINS = 1 << 2
FLAG_COMPRESSED = 1 << 16

GRAIN = 128
"""Sectors in a grain that we create: 64 KiB, as every VMDK writer does."""
TABLE_ENTRIES = 512
"""Entries in a grain table."""
DESCRIPTOR_AT = 1
"""QEMU looks for the descriptor in sector 1 (block/vmdk.c: 0x200) and nowhere else."""
DESCRIPTOR_SECTORS = 20
"""QEMU reads CID and parent hint in the first 10 KiB of the descriptor (DESC_SIZE)."""
AT_END = 0xFFFFFFFFFFFFFFFF
"""As grain directory offset: the real header is at the end of the file (streamOptimized)."""
NO_PARENT = "ffffffff"

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")


@dataclass(frozen=True)
class SparseExtentHeader:
    """The file's first sector. All places and sizes in sectors."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    entries_per_table: int
    redundant_directory: int
    directory: int
    overhead: int
    unclean: int
    newlines: bytes
    compression: int

    @classmethod
    def parse(cls, data: bytes, path: Path, file_size: int) -> SparseExtentHeader:
        """The header from 512 bytes; raises DiskFormatError where it makes no sense."""
        if len(data) < SECTOR or not data.startswith(MAGIC):
            raise DiskFormatError(path, 0, "there is no sparse extent header")
        header = cls(*_HEADER.unpack(data[:SECTOR]))
        for problem in header._problems(file_size):
            raise DiskFormatError(path, 0, problem)
        return header

    def _problems(self, file_size: int) -> list[str]:
        problems = []
        if self.version not in (1, 2, 3):
            problems.append(f"header version {self.version} is unknown")
        if self.flags & FLAG_NEWLINE_TEST and self.newlines != NEWLINES:
            problems.append("the file was altered by a text-mode transfer")
        if self.flags & FLAG_COMPRESSED or self.compression or self.directory == AT_END:
            problems.append("compressed (streamOptimized) disks cannot be read")
        elif self.entries_per_table != TABLE_ENTRIES:
            problems.append(f"grain tables have {self.entries_per_table} entries instead of 512")
        elif not 8 <= self.grain_size <= 4096 or self.grain_size & (self.grain_size - 1):
            problems.append(
                f"a grain of {self.grain_size} sectors is not a power of two from 8 to 4096"
            )
        elif not 0 < self.capacity <= 2**32:
            problems.append(f"a capacity of {self.capacity} sectors is not in the format's 2 TiB")
        else:
            end = self.directory * SECTOR + 4 * self.tables
            if not self.directory or end > file_size:
                problems.append("the grain directory lies outside the file")
        if self.descriptor_offset * SECTOR + self.descriptor_size * SECTOR > file_size:
            problems.append("the descriptor lies outside the file")
        if self.descriptor_size > 2048:
            problems.append(f"a descriptor of {self.descriptor_size} sectors is too large")
        return problems

    @property
    def grains(self) -> int:
        """Grains that the capacity takes; the last one may be short."""
        return -(-self.capacity // self.grain_size)

    @property
    def tables(self) -> int:
        """Grain tables, and entries of the grain directory."""
        return -(-self.grains // TABLE_ENTRIES)

    def first_table(self, directory: int) -> int:
        """The sector of the first grain table, which lies right behind the directory in ours."""
        return directory + -(-self.tables * 4 // SECTOR)

    def is_ours(self) -> bool:
        """Whether everything lies where `for_disk` puts it (QEMU does the same)."""
        ours = SparseExtentHeader.for_disk(self.capacity * SECTOR)
        return self == replace(ours, version=self.version, unclean=self.unclean)

    def pack(self) -> bytes:
        """512 bytes."""
        return _HEADER.pack(*astuple(self))

    @classmethod
    def for_disk(cls, virtual_size: int) -> SparseExtentHeader:
        """The header of a new disk of `virtual_size` bytes.

        Then come the descriptor, both directories, each with its tables preallocated one after the
        other (QEMU and VMware do it so), then the grains.
        """
        header = cls(
            MAGIC, 1, FLAG_NEWLINE_TEST | FLAG_REDUNDANT_TABLE, virtual_size // SECTOR, GRAIN,
            DESCRIPTOR_AT, DESCRIPTOR_SECTORS, TABLE_ENTRIES, 0, 0, 0, 0, NEWLINES, 0,
        )  # fmt: skip
        tables_sectors = header.tables * TABLE_ENTRIES * 4 // SECTOR
        redundant = DESCRIPTOR_AT + DESCRIPTOR_SECTORS
        primary = header.first_table(redundant) + tables_sectors
        overhead = -(-(header.first_table(primary) + tables_sectors) // GRAIN) * GRAIN
        return replace(header, redundant_directory=redundant, directory=primary, overhead=overhead)


@dataclass(frozen=True)
class Descriptor:
    """The text descriptor inside the file.

    Attributes:
        cid, parent_cid: 8 hex digits; QEMU changes a disk's CID when it opens it and then writes.
        uuid, parent_uuid: VirtualBox treats a child without them as parentless.
        parent_hint: the parent's path.
    """

    virtual_size: int
    file_name: str
    cid: str
    uuid: str | None
    parent_cid: str = NO_PARENT
    parent_uuid: str | None = None
    parent_hint: str | None = None

    @classmethod
    def parse(cls, text: str, path: Path, virtual_size: int) -> Descriptor:
        """The fields that identify the disk and its parent; unknown lines are passed over."""
        fields: dict[str, str] = {}
        for line in text.replace("\r", "\n").split("\n"):
            name, _, value = line.partition("=")
            fields.setdefault(name.strip().lower(), value.strip().strip('"'))
        kind = fields.get("createtype", "")
        if kind.lower() != "monolithicsparse":
            raise DiskFormatError(
                path, SECTOR, f"VMDK of type {kind or 'unknown'!r} cannot be read"
            )
        try:
            return cls(
                virtual_size, path.name, _cid(fields["cid"]), _uuid(fields.get("ddb.uuid.image")),
                _cid(fields.get("parentcid", NO_PARENT)), _uuid(fields.get("ddb.uuid.parent")),
                fields.get("parentfilenamehint"),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise DiskFormatError(
                path, SECTOR, "the descriptor has no valid CID, or a UUID that is none"
            ) from error

    def pack(self) -> bytes:
        """The descriptor, padded with NULs to its whole place in the file.

        A line break or quote in a name would forge entries: such names are refused by DiskError.
        """
        for name in (self.file_name, self.parent_hint or ""):
            if not name.isprintable() or '"' in name:
                raise DiskError(
                    f"A VMDK cannot be named {name!r}, or be the child of one that is.",
                    "Choose a name without quotes and control characters.",
                )
        cylinders = min(self.virtual_size // (16 * 63 * SECTOR), 16383)
        lines = [
            "# Disk DescriptorFile", "version=1", 'encoding="UTF-8"',
            f"CID={self.cid}", f"parentCID={self.parent_cid}",
            'createType="monolithicSparse"',
        ]  # fmt: skip
        if self.parent_hint is not None:
            lines.append(f'parentFileNameHint="{self.parent_hint}"')
        lines += [
            "", "# Extent description",
            f'RW {self.virtual_size // SECTOR} SPARSE "{self.file_name}"',
            "", "# The Disk Data Base", "#DDB", "",
            'ddb.virtualHWVersion = "4"', 'ddb.adapterType = "ide"',
            f'ddb.geometry.cylinders = "{cylinders}"',
            'ddb.geometry.heads = "16"', 'ddb.geometry.sectors = "63"',
        ]  # fmt: skip
        if self.uuid:
            lines.append(f'ddb.uuid.image="{self.uuid}"')
            lines.append(f'ddb.uuid.modification="{_modification(self.uuid, self.cid)}"')
        if self.parent_uuid:
            lines.append(f'ddb.uuid.parent="{self.parent_uuid}"')
            modification = _modification(self.parent_uuid, self.parent_cid)
            lines.append(f'ddb.uuid.parentmodification="{modification}"')
        data = "\n".join([*lines, ""]).encode()
        room = DESCRIPTOR_SECTORS * SECTOR
        if len(data) > room:
            raise ValueError(f"a descriptor of {len(data)} bytes does not fit into {room}")
        return data.ljust(room, b"\0")


def _cid(text: str) -> str:
    """8 hex digits in lower case; raises ValueError."""
    if not 0 < len(text) <= 8 or not set(text) <= set(string.hexdigits):
        raise ValueError(f"{text!r} is no CID")
    return text.lower().rjust(8, "0")


def _uuid(text: str | None) -> str | None:
    """The text if it is a UUID; raises ValueError."""
    return None if text is None else str(uuid.UUID(text))


def _modification(disk_uuid: str, cid: str) -> str:
    """VirtualBox compares a child's `parentmodification` with the parent's `modification`.

    Deriving it from UUID and CID means that whoever knows the two knows the third.
    """
    return str(uuid.uuid5(uuid.UUID(disk_uuid), cid))
