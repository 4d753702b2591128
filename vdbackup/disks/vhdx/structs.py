"""What a VHDX begins with: the two headers and the two region tables, each with its checksum.

Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", version 8.0; the clauses are
named where they matter. Numbers are little-endian, GUIDs in their binary form, places in bytes.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

MIB = 1 << 20
"""Everything in the file behind the header section lies at multiples of it (2.1)."""
SIGNATURE = b"vhdxfile"
HEADERS_AT = (64 << 10, 128 << 10)
HEADER_BYTES = 4096
REGION_TABLES_AT = (192 << 10, 256 << 10)
TABLE_BYTES = 64 << 10
"""Of a region table, and of the metadata table; the metadata items begin behind it."""
MAX_ENTRIES = 2047

NULL = uuid.UUID(int=0)
BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGION_TABLE = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")

_REQUIRED_REGION = 1


def with_checksum(data: bytes) -> bytes:
    """The structure with its CRC-32C in bytes 4 to 7, which count as zeros themselves."""
    blank = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", google_crc32c.value(blank)) + data[8:]


def checksum_holds(data: bytes) -> bool:
    """Whether bytes 4 to 7 are the CRC-32C of all others."""
    return with_checksum(data) == data


def guid_of(data: bytes) -> uuid.UUID:
    """From the 16 bytes of its binary form."""
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
        return cls(sequence, guid_of(file_write), guid_of(data_write), guid_of(log), *rest)

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
            raise DiskFormatError(
                path, at, tr("version {version} of the format is unknown", version=self.version)
            )
        if self.log_guid != NULL and self.log_version != 0:
            problem = tr(
                "the log's version {log_version} is unknown, and it is not empty",
                log_version=self.log_version,
            )
            raise DiskFormatError(path, at, problem)
        if self.log_offset % MIB or self.log_length % MIB:
            raise DiskFormatError(path, at, tr("the log does not lie at whole MiB"))


def current_header(copies: Sequence[bytes], path: Path) -> tuple[int, Header]:
    """Which of the two headers counts (0 or 1), and that header; raises DiskFormatError.

    Disk2vhd writes two that are the same, down to the sequence number (QEMU, block/vhdx.c).
    """
    headers = [Header.parse(data) for data in copies]
    valid = [(number, header) for number, header in enumerate(headers) if header is not None]
    if not valid:
        raise DiskFormatError(path, HEADERS_AT[0], tr("neither of the two headers is valid"))
    number, current = max(valid, key=lambda each: each[1].sequence)
    if any(other.sequence == current.sequence and other != current for _, other in valid):
        raise DiskFormatError(path, HEADERS_AT[0], tr("the two headers contradict each other"))
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
    raise DiskFormatError(
        path, REGION_TABLES_AT[0], tr("neither of the two region tables is valid")
    )


def _parse_regions(data: bytes, path: Path, at: int) -> dict[uuid.UUID, Region]:
    _, _, count, _ = _REGION_TABLE.unpack_from(data)
    if count > MAX_ENTRIES:
        raise DiskFormatError(
            path, at, tr("a region table cannot have {count} entries", count=count)
        )
    regions: dict[uuid.UUID, Region] = {}
    for number in range(count):
        raw, offset, length, required = _REGION.unpack_from(data, 16 + number * _REGION.size)
        guid = guid_of(raw)
        if guid in regions:
            raise DiskFormatError(path, at, tr("region {guid} is there twice", guid=guid))
        if required & _REQUIRED_REGION and guid not in (BAT, METADATA):
            raise DiskFormatError(
                path, at, tr("it needs region {guid}, which is unknown", guid=guid)
            )
        if offset < MIB or offset % MIB or length % MIB:
            raise DiskFormatError(
                path, at, tr("region {guid} does not lie at whole MiB", guid=guid)
            )
        regions[guid] = Region(offset, length)
    for wanted, name in ((BAT, tr("block allocation table")), (METADATA, "metadata")):
        if wanted not in regions:
            raise DiskFormatError(path, at, tr("the {name} region is missing", name=name))
    return regions


def pack_regions(regions: Mapping[uuid.UUID, Region]) -> bytes:
    """A table of 64 KiB in which all the regions are required, with its checksum."""
    data = _REGION_TABLE.pack(b"regi", 0, len(regions), 0)
    for guid, region in regions.items():
        data += _REGION.pack(guid.bytes_le, region.offset, region.length, _REQUIRED_REGION)
    return with_checksum(data.ljust(TABLE_BYTES, b"\0"))
