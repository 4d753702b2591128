"""A GPT on a disk of another size than the one it was made for: its second copy belongs at the end.

Firmware and programs that check take the table for damaged otherwise, and "mend" it by themselves.
All identities stay: the disk's, the partitions', their types, names and numbers.

Specification: UEFI 2.10, 5.3.2.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping

from vdbackup.volumes.layout import Place
from vdbackup.volumes.places import Disk

_HEADER = struct.Struct("<8s4sIII4Q16sQIII")
"""Signature, revision, size, checksum, reserved, here, the other one, first and last usable sector,
the disk's GUID, place, number and size of the entries, their checksum."""
_MAX_TABLE = 1 << 20
"""Bytes of entries; 128 entries have 16 KiB."""


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
