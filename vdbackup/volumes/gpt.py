"""A GPT on a disk that is larger than the one it was made for: its second copy belongs at the end.

Firmware and programs that check take the table for damaged otherwise, and "mend" it by themselves.

Specification: UEFI 2.10, 5.3.2.
"""

from __future__ import annotations

import os
import struct
import zlib

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


def _sealed(fields: list[object], header: bytes, length: int) -> bytes:
    """A header's sector with those fields and its checksum."""
    whole = _HEADER.pack(*fields) + header[_HEADER.size :]
    checksum = _checksum(whole[:length])
    return whole[:16] + struct.pack("<I", checksum) + whole[20:]


def _checksum(header: bytes) -> int:
    return zlib.crc32(header[:16] + bytes(4) + header[20:])
