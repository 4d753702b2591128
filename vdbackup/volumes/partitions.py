"""Where the partitions of a disk lie: GPT and MBR with its logical partitions, as Linux sees them.

dissect.volume would number them otherwise, takes a sector off each of a GPT's, and does not end
where a table claims to have billions of entries; so the tables are read here.

A table counts in the sectors of the disk that it was written on, 512 bytes or 4096, and nothing in
it says which. A raw file says neither, and what was copied from one disk to the other keeps its
own: so a table is looked for in the sectors that the disk has, and then in the others.

Specifications: UEFI 2.10, chapter 5 (GPT, protective MBR); "Extended boot record" has none: this is
what Linux does in block/partitions/msdos.c.
"""

from __future__ import annotations

import io
import logging
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from vdbackup.errors import GuestUnreadable
from vdbackup.translation import tr
from vdbackup.volumes import signatures

log = logging.getLogger(__name__)

_SIGNATURE = b"\x55\xaa"
_TABLE = 446
_ENTRY = struct.Struct("<B3xB3xII")
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_LOGICAL = range(5, 257)
"""Numbers of logical partitions: Linux gives a disk 256 at most."""
_MAX_EMPTY = 100
"""Tables in a chain, one after the other, that name no partition: as in Linux."""
_GPT_HEADER = struct.Struct("<8s4xII4xQQQQ16xQIII")
_MAX_TABLE = 1 << 20
"""Bytes of a GPT's table; 128 entries have 16 KiB."""
_SECTOR_SIZES = (512, 4096, 2048, 1024)


@dataclass(frozen=True)
class Partition:
    """Where a partition lies: `offset` and `size` in bytes, `number` as in Linux (/dev/sda2).

    A table may say anything: it may lie beyond the disk's end, or reach over it.

    Attributes:
        kind: the type that the table gives it: "83" of an MBR, a GUID of a GPT.
    """

    number: int
    offset: int
    size: int
    kind: str = field(default="", compare=False)


@dataclass(frozen=True)
class Table:
    """A disk's partition table.

    Attributes:
        sector_size: that it counts in, in bytes.
        partitions: by number; none if the disk has no table.
        scheme: "gpt" or "dos"; "" where there is none.
        whole: a GPT of which both copies lie on this disk, undamaged.
    """

    sector_size: int
    partitions: tuple[Partition, ...] = ()
    scheme: str = ""
    whole: bool = False


def read_table(disk: io.BufferedReader, size: int, sector_size: int) -> Table:
    """The partition table of a disk.

    Args:
        disk: the disk's bytes.
        size: of the disk, in bytes.
        sector_size: the disk's own, in which its table counts unless only another makes sense.

    Raises:
        RecoveryError: it has a GPT, and both copies of it are damaged.
    """
    entries = _entries(disk)
    sizes = list(dict.fromkeys((sector_size, *_SECTOR_SIZES)))
    if any(entry.kind == _PROTECTIVE for entry in entries.values()):
        return _gpt(disk, size, sizes, entries)
    unit = _unit(disk, size, sizes[:2], entries)
    found = _of_mbr(disk, entries, unit)
    if not any(part.offset < size for part in found):
        if _is_volume(disk):
            return Table(sector_size)
        if not found and (unprotected := _unprotected_gpt(disk, sizes)):
            return unprotected
    return Table(unit, tuple(sorted(found, key=lambda part: part.number)), "dos" if found else "")


def contradicting(disk: io.BufferedReader, size: int, table: Table) -> list[Partition]:
    """What else lies on a disk by other marks than the table that Linux goes by.

    Partitions of an MBR beside a GPT, as hybrids have them; those of a GPT beside an MBR that does
    not protect it, which firmware and other systems may go by; and the disk as a whole, where more
    than a boot sector says that it is one volume.
    """
    own = {(each.offset, each.size) for each in table.partitions}
    others: list[Partition] = []
    if table.scheme == "gpt":
        entries = {n: e for n, e in _entries(disk).items() if e.kind != _PROTECTIVE}
        others = _of_mbr(disk, entries, table.sector_size)
    elif table.scheme == "dos":
        if beside := _unprotected_gpt(disk, list(dict.fromkeys((table.sector_size, 512, 4096)))):
            others = list(beside.partitions)
        if signatures.lie_behind_boot_sector(_read(disk, 0, signatures.HEAD)):
            others.append(Partition(0, 0, size))
    return [each for each in others if (each.offset, each.size) not in own]


def partitions(disk: io.BufferedReader, size: int, sector_size: int) -> list[Partition]:
    """The partitions of a disk, by number; arguments and errors are those of `read_table`."""
    return list(read_table(disk, size, sector_size).partitions)


def has_table(head: bytes) -> bool:
    """Whether a table stands in the first bytes of a volume, whatever else these say that it is."""
    gpt = any(head.startswith(b"EFI PART", unit) for unit in _SECTOR_SIZES)
    return gpt or bool(_table_in(head[:512]))


# ----------------------------------------------------------------------------------------- MBR


@dataclass(frozen=True)
class _Entry:
    """An entry of an MBR: type, first sector, number of sectors."""

    kind: int
    start: int
    length: int

    def partition(self, number: int, base: int, unit: int) -> Partition:
        """What it names, counted from the sector `base` on."""
        return Partition(number, (base + self.start) * unit, self.length * unit, f"{self.kind:02x}")


_Entries = dict[int, _Entry]
"""By slot, 0 to 3."""


def _entries(disk: io.BufferedReader) -> _Entries:
    """The used entries of the table in a disk's first sector; none if it is no table.

    Nothing says that it is one: other boot sectors end with the same signature. A table's entries
    are flagged active or not. What else an entry says is believed, or not, for that entry alone.
    """
    sector = _read(disk, 0, 512)
    used = _table_in(sector)
    return {} if used and _is_boot_sector(disk, sector) else used


def _table_in(sector: bytes) -> _Entries:
    if sector[510:512] != _SIGNATURE:
        return {}
    if any(sector[at] not in (0x00, 0x80) for at in range(_TABLE, 510, _ENTRY.size)):
        return {}
    return _used(sector)


def _used(sector: bytes) -> _Entries:
    every = enumerate(_ENTRY.iter_unpack(sector[_TABLE:510]))
    return {slot: _Entry(*rest) for slot, (_, *rest) in every if rest[2]}


def _of_mbr(disk: io.BufferedReader, entries: _Entries, unit: int) -> list[Partition]:
    """The partitions that an MBR's entries name, and the logical ones in them."""
    found: list[Partition] = []
    for slot, entry in entries.items():
        if entry.kind in _EXTENDED:
            first = min(_LOGICAL[0] + sum(each.number >= 5 for each in found), _LOGICAL[-1] + 1)
            found += _logical(disk, entry, unit, first)
        else:
            found.append(entry.partition(slot + 1, 0, unit))
    return found


def _is_boot_sector(disk: io.BufferedReader, sector: bytes) -> bool:
    """Whether the volume is there whose boot sector it is: a disk may be one, without partitions.

    The sector alone does not tell: tools for sticks put the fields of a FAT before a table, for the
    sake of BIOSes that ask for them, and Linux goes by the table.
    """
    size, per_cluster, reserved, media = struct.unpack_from("<HBH5xB", sector, 11)
    match sector[3:11]:
        case b"-FVE-FS-":
            return True
        case b"NTFS    ":
            cluster = size * (per_cluster if per_cluster <= 128 else 1 << 256 - per_cluster)
            (table,) = struct.unpack_from("<Q", sector, 48)
            return _read(disk, table * cluster, 4) in (b"FILE", b"BAAD")
        case b"EXFAT   ":  # all of its first sectors are signed
            length = 1 << min(sector[108], 12)
            return _read(disk, length, length).endswith(_SIGNATURE)
    if not signatures.is_fat(sector):
        return False
    return _read(disk, reserved * size, 2) == bytes([media, 0xFF])


def _is_volume(disk: io.BufferedReader) -> bool:
    return signatures.is_known(_read(disk, 0, signatures.HEAD))


def _unit(disk: io.BufferedReader, size: int, sizes: list[int], entries: _Entries) -> int:
    """Bytes that a sector of an MBR stands for: the disk's own where anything speaks for those.

    Only where no partition begins with anything known, and some would if the table counted in the
    other sectors, it does.
    """
    for unit in sizes:
        fits = all((e.start + e.length) * unit <= size for e in entries.values())
        if (fits or unit == sizes[0]) and any(_begins(disk, e, unit) for e in entries.values()):
            return unit
    return sizes[0]


def _begins(disk: io.BufferedReader, entry: _Entry, unit: int) -> bool:
    """Whether anything known begins where an entry says."""
    head = _read(disk, entry.start * unit, 512 if entry.kind in _EXTENDED else signatures.HEAD)
    if entry.kind in _EXTENDED:
        return head[510:512] == _SIGNATURE
    return entry.start > 0 and signatures.is_known(head)


def _logical(
    disk: io.BufferedReader, extended: _Entry, unit: int, number: int
) -> Iterator[Partition]:
    """The logical partitions: a chain of tables, each names partitions and the next table.

    One that names none (its partition was deleted) takes no number.
    """
    at, length, empty, seen = extended.start, extended.length, 0, set[int]()
    while at not in seen and empty < _MAX_EMPTY:
        seen.add(at)
        sector = _read(disk, at * unit, 512)
        if sector[510:512] != _SIGNATURE:
            log.info("the chain of logical partitions breaks off at sector %d", at)
            return
        entries, empty = _used(sector), empty + 1
        for slot, entry in entries.items():
            if entry.kind in _EXTENDED or (slot >= 2 and not _inside(entry, at, length, extended)):
                continue
            if number not in _LOGICAL:
                return
            yield entry.partition(number, at, unit)
            number, empty = number + 1, 0
        following = next((e for e in entries.values() if e.kind in _EXTENDED), None)
        if following is None:
            return
        at, length = extended.start + following.start, following.length


def _inside(entry: _Entry, at: int, length: int, extended: _Entry) -> bool:
    """Whether a third or fourth entry, which may be garbage, lies where it belongs."""
    end = at + entry.start + entry.length
    return entry.start + entry.length <= length and end <= extended.start + extended.length


# ----------------------------------------------------------------------------------------- GPT


@dataclass(frozen=True)
class _Copy:
    """One of the two copies of a GPT: where the other one lies, and what it names."""

    other: int
    partitions: tuple[Partition, ...]


def _gpt(disk: io.BufferedReader, size: int, sizes: list[int], entries: _Entries) -> Table:
    """By the first copy of the table or, if that is damaged, by the one behind all partitions."""
    for unit in sizes:
        if found := _gpt_copy(disk, 1, unit):
            whole = found.other > 1 and _gpt_copy(disk, found.other, unit) is not None
            return Table(unit, found.partitions, "gpt", whole)
    log.info("the first copy of the partition table is damaged")
    ends = [e.start + e.length - 1 for e in entries.values() if e.kind == _PROTECTIVE]
    for unit in sizes:
        for sector in (size // unit - 1, *ends):  # a disk may have grown behind it
            if found := _gpt_copy(disk, sector, unit):
                return Table(unit, found.partitions, "gpt")
    if _is_volume(disk):  # what is left of a table that was there before
        return Table(sizes[0])
    raise GuestUnreadable(
        tr("The disk's partition table (GPT) is damaged, in both of its copies."),
        tr("Restore the recovery point and repair the table there, for example with gdisk."),
    )


def _unprotected_gpt(disk: io.BufferedReader, sizes: list[int]) -> Table | None:
    """A GPT whose protective MBR is gone: Linux shows nothing there, and gdisk writes it anew.

    By the first copy alone: the second outlives whatever a disk is used for afterwards.
    """
    copies = ((unit, _gpt_copy(disk, 1, unit)) for unit in sizes)
    return next((Table(unit, copy.partitions, "gpt") for unit, copy in copies if copy), None)


def _gpt_copy(disk: io.BufferedReader, sector: int, unit: int) -> _Copy | None:
    header = _read(disk, sector * unit, unit)
    magic, header_size, checksum, here, other, _, _, table, count, entry_size, table_checksum = (
        _GPT_HEADER.unpack_from(header)
    )
    if magic != b"EFI PART" or here != sector or not 92 <= header_size <= unit:
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:header_size]) != checksum:
        return None
    if entry_size < 128 or count * entry_size > _MAX_TABLE:
        return None
    entries = _read(disk, table * unit, count * entry_size)
    if zlib.crc32(entries) != table_checksum:
        return None
    found = []
    for index in range(count):
        kind, first, last = struct.unpack_from("<16s16xQQ", entries, index * entry_size)
        if any(kind) and first <= last:
            guid = str(uuid.UUID(bytes_le=kind))
            found.append(Partition(index + 1, first * unit, (last - first + 1) * unit, guid))
    return _Copy(other, tuple(found))


_FARTHEST = (1 << 63) - 1
"""Bytes; a file has none beyond."""


def _read(disk: io.BufferedReader, offset: int, length: int) -> bytes:
    """Bytes of the disk; zeros beyond its end."""
    if offset > _FARTHEST - length:
        return bytes(length)
    disk.seek(offset)
    return disk.read(length).ljust(length, b"\0")
