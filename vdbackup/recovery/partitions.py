"""Where the partitions of a disk lie: GPT and MBR with its logical partitions, as Linux sees them.

dissect.volume would number them otherwise, takes a sector off each of a GPT's, and does not end
where a table claims to have billions of entries; so the tables are read here.

Specifications: UEFI 2.10, chapter 5 (GPT, protective MBR); "Extended boot record" has none: this is
what Linux does in block/partitions/msdos.c.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from vdbackup.errors import RecoveryError

log = logging.getLogger(__name__)

_SIGNATURE = b"\x55\xaa"
_TABLE = 446
_ENTRY = struct.Struct("<B3xB3xII")
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MAX_LOGICAL = 256
_GPT_HEADER = struct.Struct("<8s4xII4xQQQQ16xQIII")
_MAX_TABLE = 1 << 20
"""Bytes of a GPT's table; 128 entries have 16 KiB."""


@dataclass(frozen=True)
class Partition:
    """Where a partition lies: `offset` and `size` in bytes, `number` as in Linux (/dev/sda2)."""

    number: int
    offset: int
    size: int


def partitions(disk: io.BufferedReader, size: int, sector_size: int) -> list[Partition]:
    """The partitions of a disk, by number; none if it has no table.

    Args:
        disk: the disk's bytes.
        size: of the disk, in bytes.
        sector_size: bytes that a sector of the tables stands for.

    Raises:
        RecoveryError: it has a GPT, and both copies of it are damaged.
    """
    entries = _table(disk, 0, size // sector_size)
    if any(kind == _PROTECTIVE for kind, _, _ in entries.values()):
        return _gpt(disk, size, sector_size)
    found: list[Partition] = []
    for slot, (kind, start, length) in entries.items():
        if kind in _EXTENDED:
            found += _logical(disk, start, sector_size)
        else:
            found.append(Partition(slot + 1, start * sector_size, length * sector_size))
    return sorted(found, key=lambda partition: partition.number)


Entries = dict[int, tuple[int, int, int]]
"""By slot (0 to 3): type, first sector, number of sectors."""


def _table(disk: io.BufferedReader, offset: int, sectors: int) -> Entries:
    """The used entries of the table in the sector at `offset`; none if it is no table.

    Nothing says that it is one: other boot sectors end with the same signature. A table's entries
    are flagged active or not, and begin on the disk.
    """
    sector = _read(disk, offset, 512)
    if sector[510:512] != _SIGNATURE or _is_volume(sector):
        return {}
    entries: Entries = {}
    for slot, (flag, kind, start, length) in enumerate(_ENTRY.iter_unpack(sector[_TABLE:510])):
        if not kind:
            continue
        if flag not in (0x00, 0x80) or not 0 < start < sectors or not length:
            return {}
        entries[slot] = kind, start, length
    return entries


def _is_volume(sector: bytes) -> bool:
    """Whether it is the boot sector of a volume: a disk may be one, without partitions."""
    return sector[3:11] in (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-") or is_fat(sector)


def is_fat(sector: bytes) -> bool:
    """Whether a boot sector describes a FAT. The name for it in there is said to mean nothing."""
    if len(sector) < 512 or sector[510:512] != _SIGNATURE or sector[0] not in (0xEB, 0xE9):
        return False
    sector_size, cluster, reserved, tables = struct.unpack_from("<HBHB", sector, 11)
    return (
        sector_size in (512, 1024, 2048, 4096)
        and cluster.bit_count() == 1
        and reserved > 0
        and tables in (1, 2)
    )


def _logical(disk: io.BufferedReader, extended: int, sector_size: int) -> Iterator[Partition]:
    """The logical partitions: a chain of tables, each names one partition and the next table."""
    at, seen = extended, set[int]()
    for number in range(5, 5 + _MAX_LOGICAL):
        seen.add(at)
        sector = _read(disk, at * sector_size, 512)
        if sector[510:512] != _SIGNATURE:
            log.info("the chain of logical partitions breaks off at sector %d", at)
            return
        one, following, *_ = _ENTRY.iter_unpack(sector[_TABLE:510])
        _, kind, start, length = one
        if kind and length:
            yield Partition(number, (at + start) * sector_size, length * sector_size)
        _, kind, start, _ = following
        if kind not in _EXTENDED or not start or extended + start in seen:
            return
        at = extended + start


def _gpt(disk: io.BufferedReader, size: int, sector_size: int) -> list[Partition]:
    """By the first copy of the table or, if that is damaged, the one at the disk's end."""
    for sector in (1, size // sector_size - 1):
        found = _gpt_copy(disk, sector, sector_size)
        if found is not None:
            return found
        log.info("the partition table at sector %d is damaged", sector)
    raise RecoveryError(
        "The disk's partition table (GPT) is damaged, in both of its copies.",
        "Restore the recovery point and repair the table there, for example with gdisk.",
    )


def _gpt_copy(disk: io.BufferedReader, sector: int, sector_size: int) -> list[Partition] | None:
    header = _read(disk, sector * sector_size, sector_size)
    magic, header_size, checksum, here, _, _, _, table, count, entry_size, table_checksum = (
        _GPT_HEADER.unpack_from(header)
    )
    if magic != b"EFI PART" or here != sector or not 92 <= header_size <= sector_size:
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:header_size]) != checksum:
        return None
    if entry_size < 128 or count * entry_size > _MAX_TABLE:
        return None
    entries = _read(disk, table * sector_size, count * entry_size)
    if zlib.crc32(entries) != table_checksum:
        return None
    found = []
    for index in range(count):
        kind, first, last = struct.unpack_from("<16s16xQQ", entries, index * entry_size)
        if any(kind) and first <= last:
            length = last - first + 1
            found.append(Partition(index + 1, first * sector_size, length * sector_size))
    return found


def _read(disk: io.BufferedReader, offset: int, length: int) -> bytes:
    """Bytes of the disk; zeros beyond its end."""
    disk.seek(offset)
    return disk.read(length).ljust(length, b"\0")
