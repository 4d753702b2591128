"""Writing a GPT: a new one, or one on a disk of another size than the one it was made for.

Its second copy belongs at the disk's end. Firmware and programs that check take the table for
damaged otherwise, and "mend" it by themselves. All identities stay: the disk's, the partitions',
their types, names and numbers.

Specification: UEFI 2.10, 5.3.2.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Mapping

from vdbackup.volumes.layout import Place
from vdbackup.volumes.places import Disk

_HEADER = struct.Struct("<8s4sIII4Q16sQIII")
"""Signature, revision, size, checksum, reserved, here, the other one, first and last usable sector,
the disk's GUID, place, number and size of the entries, their checksum."""
_MAX_TABLE = 1 << 20
"""Bytes of entries; 128 entries have 16 KiB."""

_ENTRY = struct.Struct("<16s16sQQQ72s")
"""Type, GUID, first and last sector, attributes, name (UTF-16)."""
_ENTRIES, _ENTRY_SIZE = 128, 128
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""Type of a partition with a Linux file system."""


def write_table(
    fd: int, size: int, sector_size: int, start: int, length: int, kind: uuid.UUID, name: str
) -> None:
    """Give a disk a table with one partition, new GUIDs, and both copies; not durable.

    Args:
        fd: of the disk.
        size: of it, in bytes.
        sector_size: in bytes.
        start: of the partition, in bytes, a whole sector.
        length: of it, in bytes, whole sectors.
        kind: the partition's type.
        name: of the partition.
    """
    last = size // sector_size - 1
    sectors = _ENTRIES * _ENTRY_SIZE // sector_size
    first, end = start // sector_size, (start + length) // sector_size - 1
    own = uuid.uuid4().bytes_le
    entry = _ENTRY.pack(
        kind.bytes_le, uuid.uuid4().bytes_le, first, end, 0, name.encode("utf-16-le")
    )
    entries = entry.ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    protective = struct.pack(
        "<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, min(last, 0xFFFFFFFF)
    )
    os.pwrite(fd, protective.ljust(64, b"\0") + b"\x55\xaa", 446)
    blank = bytes(sector_size)
    for here, other, place in ((1, last, 2), (last, 1, last - sectors)):
        fields: list[object] = [
            b"EFI PART", b"\0\0\1\0", _HEADER.size, 0, 0, here, other, 2 + sectors,
            last - sectors - 1, own, place, _ENTRIES, _ENTRY_SIZE, zlib.crc32(entries),
        ]  # fmt: skip
        os.pwrite(fd, entries, place * sector_size)
        os.pwrite(fd, _sealed(fields, blank, _HEADER.size), here * sector_size)


def move_second_copy(fd: int, sector_size: int) -> None:
    """Put a disk's second GPT at its end, and let the first one name it; durable on return.

    Nothing is done where there is no whole GPT, or no space behind its partitions. Order: the copy
    at the end is durable before the first header names it; until then that names the old copy.

    Args:
        fd: of a device.
        sector_size: in bytes.
    """
    header = os.pread(fd, sector_size, sector_size)
    fields = list(_HEADER.unpack_from(header))
    length, place, count, size = fields[2], fields[10], fields[11], fields[12]
    if fields[0] != b"EFI PART" or not _HEADER.size <= length <= sector_size:
        return
    if fields[3] != _checksum(header[:length]) or not 0 < count * size <= _MAX_TABLE:
        return
    entries = os.pread(fd, count * size, place * sector_size)
    if zlib.crc32(entries) != fields[13]:
        return
    sectors = -(-len(entries) // sector_size)
    last = os.lseek(fd, 0, os.SEEK_END) // sector_size - 1
    if fields[6] == last or fields[8] >= last - sectors:
        return
    fields[8] = last - sectors - 1
    second = [*fields[:5], last, fields[5], *fields[7:10], last - sectors, *fields[11:]]
    padded = entries + bytes(sectors * sector_size - len(entries))
    os.pwrite(fd, padded, (last - sectors) * sector_size)
    os.pwrite(fd, _sealed(second, header, length), last * sector_size)
    os.fsync(fd)
    fields[6] = last
    os.pwrite(fd, _sealed(fields, header, length), sector_size)
    os.fsync(fd)


def relaid(
    header: bytes, entries: bytes, places: Mapping[int, Place], size: int
) -> list[tuple[int, bytes]]:
    """What to write for the same table on a disk of another size: (offset, bytes), in this order.

    The second copy is there before the first one names it.

    Args:
        header: the first copy's, a sector of the disk.
        entries: all of them.
        places: where each partition lies now, by its number.
        size: of the disk, in bytes.
    """
    sector_size = len(header)
    fields = list(_HEADER.unpack_from(header))
    length, entry_size = fields[2], fields[12]
    changed = bytearray(entries)
    for number, place in places.items():
        first = place.start // sector_size
        last = (place.start + place.size) // sector_size - 1
        struct.pack_into("<QQ", changed, (number - 1) * entry_size + 32, first, last)
    end = usable_end(len(entries), sector_size, size) // sector_size
    fields[6], fields[8], fields[13] = size // sector_size - 1, end - 1, zlib.crc32(changed)
    second = [*fields[:5], fields[6], fields[5], *fields[7:10], end, *fields[11:]]
    return [
        (end * sector_size, bytes(changed)),
        (fields[6] * sector_size, _sealed(second, header, length)),
        (fields[10] * sector_size, bytes(changed)),
        (fields[5] * sector_size, _sealed(fields, header, length)),
    ]


def in_sectors(header: bytes, entries: bytes, sector_size: int) -> bytes:
    """The first copy's header on a disk with other sectors; its entries are those of `relaid`.

    Args:
        header: a sector of the disk as it is.
        entries: all of them.
        sector_size: of the other disk, in bytes.
    """
    fields = list(_HEADER.unpack_from(header))
    behind = 2 + -(-len(entries) // sector_size)
    first = -(-int(fields[7]) * len(header) // sector_size)
    fields[5], fields[7], fields[10] = 1, max(behind, first), 2
    return _sealed(fields, header[:512].ljust(sector_size, b"\0")[:sector_size], fields[2])


def usable_end(entries: int, sector_size: int, size: int) -> int:
    """The first byte of a disk that its second copy takes.

    Args:
        entries: bytes of the table's entries.
        sector_size: in bytes.
        size: of the disk, in bytes.
    """
    return (size // sector_size - 1 - -(-entries // sector_size)) * sector_size


def read_first_copy(disk: Disk, sector_size: int) -> tuple[bytes, bytes] | None:
    """The first copy's header, a sector, and its entries; None where it is not whole."""
    header = _bytes(disk, sector_size, sector_size)
    fields = _HEADER.unpack_from(header)
    length, place, count, size = fields[2], fields[10], fields[11], fields[12]
    if fields[0] != b"EFI PART" or not _HEADER.size <= length <= sector_size:
        return None
    if fields[3] != _checksum(header[:length]) or not 0 < count * size <= _MAX_TABLE:
        return None
    usable = fields[7] * sector_size
    if (
        fields[5] != 1
        or size < 128
        or not place >= 2
        or place * sector_size + count * size > usable
    ):
        return None  # it would be written where it says that it lies
    entries = _bytes(disk, place * sector_size, count * size)
    return (header, entries) if zlib.crc32(entries) == fields[13] else None


def _bytes(disk: Disk, offset: int, length: int) -> bytes:
    """Bytes of a disk, zeros behind its end."""
    data = bytearray(length)
    there = max(0, min(length, disk.size - offset))
    disk.readinto(offset, memoryview(data)[:there])
    return bytes(data)


def _sealed(fields: list[object], header: bytes, length: int) -> bytes:
    """A header's sector with those fields and its checksum."""
    whole = _HEADER.pack(*fields) + header[_HEADER.size :]
    checksum = _checksum(whole[:length])
    return whole[:16] + struct.pack("<I", checksum) + whole[20:]


def _checksum(header: bytes) -> int:
    return zlib.crc32(header[:16] + bytes(4) + header[20:])
