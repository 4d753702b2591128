"""On-disk structures of VHDX: headers, region table, metadata table and items, parent locator.

Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", version 8.0; the clauses are
named where they matter. Numbers are little-endian, GUIDs in their binary form, places in bytes.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import google_crc32c
import numpy as np

from vdbackup.disks.extents import Int64s
from vdbackup.errors import DiskFormatError

MIB = 1 << 20
"""Everything in the file behind the header section lies at multiples of it (2.1)."""
SIGNATURE = b"vhdxfile"
HEADERS_AT = (64 << 10, 128 << 10)
HEADER_BYTES = 4096
REGION_TABLES_AT = (192 << 10, 256 << 10)
TABLE_BYTES = 64 << 10
"""Of a region table, and of the metadata table; the metadata items begin behind it."""
MAX_ENTRIES = 2047
MAX_LOCATOR_ENTRIES = 32
"""Five keys are defined. Entries may share their texts, so a small item could name gigabytes."""
BITMAP_BYTES = MIB
"""Of a sector bitmap block: one bit for each of the 2^23 sectors of a chunk (2.4)."""
LARGEST_DISK = 64 << 40
"""Bytes (2.6.2.2)."""

NULL = uuid.UUID(int=0)
BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
VHDX_LOCATOR = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")
"""The only kind of parent locator that the specification knows (2.6.2.6.3)."""

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGION_TABLE = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_METADATA_TABLE = struct.Struct("<8sHH20s")
_ITEM = struct.Struct("<16sIIII")
_PARAMETERS = struct.Struct("<II")
_LOCATOR = struct.Struct("<16sHH")
_LOCATOR_ENTRY = struct.Struct("<IIHH")

_HAS_PARENT = 2
_REQUIRED_REGION = 1


def with_checksum(data: bytes) -> bytes:
    """The structure with its CRC-32C in bytes 4 to 7, which count as zeros themselves."""
    blank = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", google_crc32c.value(blank)) + data[8:]


def checksum_holds(data: bytes) -> bool:
    """Whether bytes 4 to 7 are the CRC-32C of all others."""
    return with_checksum(data) == data


def _guid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes_le=data)


@dataclass(frozen=True)
class Header:
    """One of the two headers (2.2.2): the valid one with the higher sequence number is current.

    Attributes:
        data_write_guid: names the disk's contents; a child names its parent by it.
        log_guid: NULL where there is nothing to replay.
    """

    sequence: int
    file_write_guid: uuid.UUID
    data_write_guid: uuid.UUID
    log_guid: uuid.UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int

    @classmethod
    def parse(cls, data: bytes) -> Header | None:
        """The header from 4096 bytes; None where it is not valid."""
        if len(data) < HEADER_BYTES or data[:4] != b"head" or not checksum_holds(data):
            return None
        _, _, sequence, file_write, data_write, log, *rest = _HEADER.unpack_from(data)
        return cls(sequence, _guid(file_write), _guid(data_write), _guid(log), *rest)

    def pack(self) -> bytes:
        """4096 bytes with their checksum."""
        data = _HEADER.pack(
            b"head", 0, self.sequence, self.file_write_guid.bytes_le,
            self.data_write_guid.bytes_le, self.log_guid.bytes_le, self.log_version, self.version,
            self.log_length, self.log_offset,
        )  # fmt: skip
        return with_checksum(data.ljust(HEADER_BYTES, b"\0"))

    def check(self, path: Path, at: int) -> None:
        """Raise DiskFormatError where a current header, found at byte `at`, makes no sense."""
        if self.version != 1:
            raise DiskFormatError(path, at, f"version {self.version} of the format is unknown")
        if self.log_guid != NULL and self.log_version != 0:
            problem = f"the log's version {self.log_version} is unknown, and it is not empty"
            raise DiskFormatError(path, at, problem)
        if self.log_offset % MIB or self.log_length % MIB:
            raise DiskFormatError(path, at, "the log does not lie at whole MiB")


def current_header(copies: Sequence[bytes], path: Path) -> tuple[int, Header]:
    """Which of the two headers counts (0 or 1), and that header; raises DiskFormatError.

    Disk2vhd writes two that are the same, down to the sequence number (QEMU, block/vhdx.c).
    """
    first, second = (Header.parse(data) for data in copies)
    if first is None and second is None:
        raise DiskFormatError(path, HEADERS_AT[0], "neither of the two headers is valid")
    if first is None or (second is not None and second.sequence > first.sequence):
        number, current = 1, second
    else:
        number, current = 0, first
    assert current is not None  # noqa: S101 - one of them is
    if first and second and first.sequence == second.sequence and first != second:
        raise DiskFormatError(path, HEADERS_AT[0], "the two headers contradict each other")
    current.check(path, HEADERS_AT[number])
    return number, current


@dataclass(frozen=True)
class Region:
    """Where a part of the file lies (2.2.3.2)."""

    offset: int
    length: int


def parse_regions(copies: Sequence[bytes], path: Path) -> dict[uuid.UUID, Region]:
    """The regions by their GUIDs, from the first valid one of the two tables.

    Raises:
        DiskFormatError: no table is valid, or it names a region that must be understood and is not.
    """
    for at, data in zip(REGION_TABLES_AT, copies, strict=True):
        if len(data) == TABLE_BYTES and data[:4] == b"regi" and checksum_holds(data):
            return _parse_regions(data, path, at)
    raise DiskFormatError(path, REGION_TABLES_AT[0], "neither of the two region tables is valid")


def _parse_regions(data: bytes, path: Path, at: int) -> dict[uuid.UUID, Region]:
    _, _, count, _ = _REGION_TABLE.unpack_from(data)
    if count > MAX_ENTRIES:
        raise DiskFormatError(path, at, f"a region table cannot have {count} entries")
    regions: dict[uuid.UUID, Region] = {}
    for number in range(count):
        raw, offset, length, required = _REGION.unpack_from(data, 16 + number * _REGION.size)
        guid = _guid(raw)
        if guid in regions:
            raise DiskFormatError(path, at, f"region {guid} is there twice")
        if required & _REQUIRED_REGION and guid not in (BAT, METADATA):
            raise DiskFormatError(path, at, f"it needs region {guid}, which is unknown")
        if offset < MIB or offset % MIB or length % MIB:
            raise DiskFormatError(path, at, f"region {guid} does not lie at whole MiB")
        regions[guid] = Region(offset, length)
    for guid, name in ((BAT, "block allocation table"), (METADATA, "metadata")):
        if guid not in regions:
            raise DiskFormatError(path, at, f"the {name} region is missing")
    return regions


def pack_regions(regions: Mapping[uuid.UUID, Region]) -> bytes:
    """A table of 64 KiB in which all the regions are required, with its checksum."""
    data = _REGION_TABLE.pack(b"regi", 0, len(regions), 0)
    for guid, region in regions.items():
        data += _REGION.pack(guid.bytes_le, region.offset, region.length, _REQUIRED_REGION)
    return with_checksum(data.ljust(TABLE_BYTES, b"\0"))


@dataclass(frozen=True)
class Item:
    """An entry of the metadata table (2.6.1.2); the offset counts from the region's start.

    Attributes:
        number: of the entry in the table.
    """

    IS_USER: ClassVar = 1
    IS_VIRTUAL_DISK: ClassVar = 2
    IS_REQUIRED: ClassVar = 4

    number: int
    guid: uuid.UUID
    offset: int
    length: int
    flags: int

    @property
    def entry_offset(self) -> int:
        """Where offset and length of the item stand, from the region's start: 8 bytes."""
        return _METADATA_TABLE.size + self.number * _ITEM.size + 16

    @property
    def is_known(self) -> bool:
        """Whether the specification defines it; user's items may have any GUID."""
        defined = self.guid in _LENGTHS or self.guid == PARENT_LOCATOR
        return defined and not self.flags & self.IS_USER

    def pack(self) -> bytes:
        """32 bytes."""
        return _ITEM.pack(self.guid.bytes_le, self.offset, self.length, self.flags, 0)


_LENGTHS = {
    FILE_PARAMETERS: _PARAMETERS.size,
    VIRTUAL_DISK_SIZE: 8,
    VIRTUAL_DISK_ID: 16,
    LOGICAL_SECTOR_SIZE: 4,
    PHYSICAL_SECTOR_SIZE: 4,
}


def parse_items(data: bytes, path: Path, region: Region) -> list[Item]:
    """All entries of the metadata table, from the region's first 64 KiB.

    Raises:
        DiskFormatError: an item is missing, is there twice, lies outside the region, or must be
            understood and is not.
    """
    at = region.offset
    signature, _, count, _ = _METADATA_TABLE.unpack_from(data)
    if signature != b"metadata" or count > MAX_ENTRIES:
        raise DiskFormatError(path, at, "there is no metadata table")
    items = [_parse_item(number, data, path, region) for number in range(count)]
    known = {item.guid: item for item in items if item.is_known}
    if len(known) != sum(item.is_known for item in items):
        raise DiskFormatError(path, at, "a metadata item is there twice")
    for guid, length in _LENGTHS.items():
        if guid not in known or known[guid].length < length:
            raise DiskFormatError(path, at, f"metadata item {guid} is missing or too short")
    return items


def _parse_item(number: int, data: bytes, path: Path, region: Region) -> Item:
    start = _METADATA_TABLE.size + number * _ITEM.size
    raw, offset, length, flags, _ = _ITEM.unpack_from(data, start)
    item = Item(number, _guid(raw), offset, length, flags)
    at = region.offset + start
    if length > MIB or offset + length > region.length or (length and offset < TABLE_BYTES):
        raise DiskFormatError(path, at, f"metadata item {item.guid} lies outside its region")
    if flags & Item.IS_REQUIRED and not item.is_known:
        raise DiskFormatError(path, at, f"it needs metadata item {item.guid}, which is unknown")
    return item


def pack_items(items: Iterable[Item]) -> bytes:
    """The metadata table, without the unused rest of its 64 KiB."""
    packed = [item.pack() for item in items]
    return _METADATA_TABLE.pack(b"metadata", 0, len(packed), bytes(20)) + b"".join(packed)


@dataclass(frozen=True)
class Geometry:
    """Sizes of the disk in bytes, and what follows from them (2.4, 2.5)."""

    virtual_size: int
    block_size: int
    sector_size: int
    has_parent: bool

    @classmethod
    def parse(cls, values: Mapping[uuid.UUID, bytes], path: Path, at: int) -> Geometry:
        """From the metadata items' bytes; raises DiskFormatError where they make no sense."""
        block_size, flags = _PARAMETERS.unpack_from(values[FILE_PARAMETERS])
        (virtual_size,) = struct.unpack_from("<Q", values[VIRTUAL_DISK_SIZE])
        (sector_size,) = struct.unpack_from("<I", values[LOGICAL_SECTOR_SIZE])
        geometry = cls(virtual_size, block_size, sector_size, bool(flags & _HAS_PARENT))
        if not MIB <= block_size <= 256 * MIB or block_size & (block_size - 1):
            problem = f"a block of {block_size} bytes is not a power of two from 1 to 256 MiB"
        elif sector_size not in (512, 4096):
            problem = f"sectors of {sector_size} bytes are neither of 512 nor of 4096"
        elif not 0 < virtual_size <= LARGEST_DISK:
            problem = f"a disk of {virtual_size} bytes is not in the format's 64 TiB"
        elif virtual_size % sector_size:
            problem = f"a disk of {virtual_size} bytes does not end with a sector"
        else:
            return geometry
        raise DiskFormatError(path, at, problem)

    def pack(self) -> dict[uuid.UUID, bytes]:
        """The metadata items that say it, each with its bytes."""
        return {
            FILE_PARAMETERS: _PARAMETERS.pack(
                self.block_size, _HAS_PARENT if self.has_parent else 0
            ),
            VIRTUAL_DISK_SIZE: struct.pack("<Q", self.virtual_size),
            LOGICAL_SECTOR_SIZE: struct.pack("<I", self.sector_size),
            PHYSICAL_SECTOR_SIZE: struct.pack("<I", 4096),
        }

    @property
    def blocks(self) -> int:
        """Payload blocks; the disk's last one may be used in part."""
        return -(-self.virtual_size // self.block_size)

    @property
    def chunk_ratio(self) -> int:
        """Payload blocks that share a sector bitmap block."""
        return (self.sector_size << 23) // self.block_size

    @property
    def chunks(self) -> int:
        """Sector bitmap blocks, if the disk has a parent."""
        return -(-self.blocks // self.chunk_ratio)

    @property
    def bat_entries(self) -> int:
        """Entries that the block allocation table must have."""
        if self.has_parent:
            return self.chunks * (self.chunk_ratio + 1)
        return self.blocks + (self.blocks - 1) // self.chunk_ratio

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of a sector bitmap that stand for one payload block."""
        return self.block_size // self.sector_size // 8

    def entry_of_block(self, blocks: Int64s) -> Int64s:
        """Where the blocks' entries stand in the table: a bitmap's entry ends each full chunk."""
        return blocks + blocks // self.chunk_ratio

    def entry_of_bitmap(self, chunks: Int64s) -> Int64s:
        """Where the sector bitmaps' entries stand in the table."""
        return chunks * (self.chunk_ratio + 1) + self.chunk_ratio

    def length_of_block(self, blocks: Int64s) -> Int64s:
        """Bytes of the disk that lie in each block."""
        return np.minimum(self.block_size, self.virtual_size - blocks * self.block_size)


@dataclass(frozen=True)
class ParentLocator:
    """How a child names its parent (2.6.2.6): keys and values, both texts."""

    entries: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes, path: Path, at: int) -> ParentLocator:
        """From the item's bytes, which lie at byte `at`; raises DiskFormatError."""
        if len(data) < _LOCATOR.size:
            raise DiskFormatError(path, at, "the parent locator is too short")
        kind, _, count = _LOCATOR.unpack_from(data)
        if _guid(kind) != VHDX_LOCATOR:
            raise DiskFormatError(path, at, f"the parent is no VHDX but of kind {_guid(kind)}")
        if count > MAX_LOCATOR_ENTRIES or _LOCATOR.size + count * _LOCATOR_ENTRY.size > len(data):
            raise DiskFormatError(path, at, f"the parent locator has no room for {count} entries")
        entries = {}
        for number in range(count):
            key_at, value_at, key_length, value_length = _LOCATOR_ENTRY.unpack_from(
                data, _LOCATOR.size + number * _LOCATOR_ENTRY.size
            )
            if max(key_at + key_length, value_at + value_length) > len(data):
                raise DiskFormatError(path, at, "a text of the parent locator lies outside it")
            key, value = data[key_at : key_at + key_length], data[value_at:][:value_length]
            entries[key.decode("utf-16-le", "replace")] = value.decode("utf-16-le", "replace")
        return cls(entries)

    def pack(self) -> bytes:
        """The item's bytes; raises struct.error where a text is longer than 64 KiB."""
        table, texts = b"", b""
        start = _LOCATOR.size + len(self.entries) * _LOCATOR_ENTRY.size
        for key, value in self.entries.items():
            raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
            key_at = start + len(texts)
            table += _LOCATOR_ENTRY.pack(
                key_at, key_at + len(raw_key), len(raw_key), len(raw_value)
            )
            texts += raw_key + raw_value
        return _LOCATOR.pack(VHDX_LOCATOR.bytes_le, 0, len(self.entries)) + table + texts

    def linkages(self, path: Path, at: int) -> list[str]:
        """The parent's DataWriteGuid, and a second one while a merge replaces it.

        In lower case, without braces. Raises DiskFormatError where there is none.
        """
        found = []
        for key in ("parent_linkage", "parent_linkage2"):
            if text := self.entries.get(key):
                try:
                    found.append(str(uuid.UUID(text.strip().strip("{}"))))
                except ValueError as error:
                    raise DiskFormatError(path, at, f"{text!r} is no parent's GUID") from error
        if not found:
            raise DiskFormatError(path, at, "the parent locator does not say who the parent is")
        return found

    @property
    def paths(self) -> list[str]:
        """The parent's paths in the order in which they are to be tried.

        The relative one first, with this system's separators; the others are Windows' own.
        """
        relative = self.entries.get("relative_path", "").replace("\\", "/").removeprefix("./")
        others = (self.entries.get(key, "") for key in ("absolute_win32_path", "volume_path"))
        return [text for text in (relative, *others) if text]
