"""The ids that are written on a disk: of its partition table, its partitions and file systems.

They are read from the disk itself, the same way from a device as from a virtual disk, and without
udev. Whatever cannot be read or makes no sense has no id. The ids are spelled as blkid does.

Where they stand: UEFI 2.10, chapter 5 (GPT); for the others the superblocks in util-linux,
libblkid/src/superblocks.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vdbackup.errors import VdbackupError

Read = Callable[[int, memoryview], None]
_HEAD = 0x11000
"""Bytes at the start of a volume in which all those superblocks lie; Btrfs' is the last."""
_MAX_PARTITIONS = 128
_MAX_TABLE = 1 << 20
_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_PAGES = (4096, 8192, 16384, 65536)
"""Sizes of a page, at whose end a swap space is signed."""


@dataclass(frozen=True)
class Written:
    """The ids on a disk, "" or none where there are none.

    Attributes:
        table: GUID of a GPT, signature of an MBR.
        partitions: GUIDs of a GPT's partitions, in the table's order.
        contents: of the file systems and the like in the partitions, or on the disk without any.
    """

    table: str = ""
    partitions: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


def written_ids(read: Read, size: int, sector_size: int) -> Written:
    """The ids on a disk.

    Args:
        read: fills a view from a byte of the disk on; may raise a VdbackupError.
        size: of the disk, in bytes.
        sector_size: of the disk, in bytes; a table may be one of other sectors.
    """
    disk = _Disk(read, size)
    found, areas = _table(disk, sector_size)
    starts = [area.start for area in areas if not area.extended]
    contents = [_volume_id(disk.bytes(start, _HEAD)) for start in starts or [0]]
    return Written(found.table, found.partitions, tuple(dict.fromkeys(filter(None, contents))))


def end_of_partitions(read: Read, size: int, sector_size: int) -> int:
    """The byte behind the last partition that the table names, 0 without any; it may be anywhere.

    Arguments are those of `written_ids`.
    """
    _, areas = _table(_Disk(read, size), sector_size)
    return max((area.end for area in areas), default=0)


class _Area(NamedTuple):
    """A partition, or what holds the logical ones; in bytes."""

    start: int
    end: int
    extended: bool = False


def _table(disk: _Disk, sector_size: int) -> tuple[Written, list[_Area]]:
    sector = disk.bytes(0, 512)
    if not _is_table(sector):
        return Written(), []
    entries = list(struct.iter_unpack("<B3xB3xII", sector[446:510]))
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        return _gpt(disk, sector_size)
    signature = struct.unpack_from("<I", sector, 440)[0]
    areas = [
        _Area(start * sector_size, (start + length) * sector_size, kind in _EXTENDED)
        for _, kind, start, length in entries
        if kind
    ]
    return Written(f"{signature:08x}" if signature else ""), areas


class _Disk:
    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self.size = size

    def bytes(self, offset: int, length: int) -> bytes:
        """That stretch as far as it lies on the disk; nothing where it cannot be read."""
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        data = bytearray(length)
        try:
            self._read(offset, memoryview(data))
        except VdbackupError:  # a sector with an error there: the capture will say so
            return b""
        return bytes(data)


def _is_table(sector: bytes) -> bool:
    """Whether it is an MBR with entries: boot sectors of volumes end with the same two bytes."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa" or _fat_or_ntfs(sector):
        return False
    entries = list(struct.iter_unpack("<B3xB3xII", sector[446:510]))
    used = [each for each in entries if each[1]]
    return bool(used) and all(flag in (0x00, 0x80) and start for flag, _, start, _ in used)


def _gpt(disk: _Disk, sector_size: int) -> tuple[Written, list[_Area]]:
    for each in dict.fromkeys((sector_size, 512, 4096)):
        for place in (each, disk.size - each):  # the second is the copy at the end
            header = disk.bytes(place, 512)
            if header[:8] == b"EFI PART":
                return _gpt_entries(disk, header, each)
    return Written(), []


def _gpt_entries(disk: _Disk, header: bytes, sector_size: int) -> tuple[Written, list[_Area]]:
    guid = header[56:72]
    first, count, length = struct.unpack_from("<QII", header, 72)
    if not 128 <= length <= 4096:
        return Written(_guid(guid)), []
    wanted = min(count * length, _MAX_TABLE)
    table = disk.bytes(first * sector_size, -(-wanted // 4096) * 4096)[:wanted]
    partitions: list[str] = []
    areas: list[_Area] = []
    for at in range(0, len(table) - length + 1, length):
        kind, own, start, last = struct.unpack_from("<16s16sQQ", table, at)
        if any(kind) and len(areas) < _MAX_PARTITIONS:
            partitions.append(_guid(own))
            areas.append(_Area(start * sector_size, (last + 1) * sector_size))
    return Written(_guid(guid), tuple(filter(None, partitions))), areas


def _guid(data: bytes) -> str:
    return str(uuid.UUID(bytes_le=data)) if len(data) == 16 and any(data) else ""


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data)) if len(data) == 16 and any(data) else ""


def _volume_id(head: bytes) -> str:
    """Of what begins with these bytes; "" if it is nothing that is known here."""
    for look in (_container, _fat_or_ntfs, _unix_file_system, _swap):
        if found := look(head):
            return found
    return ""


def _container(head: bytes) -> str:
    """LUKS, a member of a software RAID, an LVM physical volume."""
    if head.startswith(b"LUKS\xba\xbe"):
        return head[168:208].partition(b"\0")[0].decode("ascii", "replace")
    for place in (0, 4096):  # versions 1.1 and 1.2
        if head[place : place + 4] == b"\xfc\x4e\x2b\xa9":
            return _uuid(head[place + 16 : place + 32])
    for label in _lvm_labels(head):
        return label
    return ""


def _lvm_labels(head: bytes) -> Iterator[str]:
    for place in range(0, 2048, 512):
        label = head[place : place + 512]
        if label.startswith(b"LABELONE") and label[24:32] == b"LVM2 001":
            (offset,) = struct.unpack_from("<I", label, 20)
            text = label[offset : offset + 32].decode("ascii", "replace")
            ends = (6, 10, 14, 18, 22, 26, 32)
            yield "-".join(text[a:b] for a, b in zip((0, *ends), ends, strict=False))


def _fat_or_ntfs(head: bytes) -> str:
    if head[510:512] != b"\x55\xaa":
        return ""
    if head[3:11] == b"NTFS    ":
        return f"{struct.unpack_from('<Q', head, 72)[0]:016X}"
    if head[3:11] == b"EXFAT   ":
        return _serial(head, 100)
    sector, cluster, _, tables = struct.unpack_from("<HBHB", head, 11)
    sane = sector in (512, 1024, 2048, 4096) and cluster.bit_count() == 1 and tables in (1, 2)
    if head[0] not in (0xEB, 0xE9) or not sane:
        return ""
    for mark, place in ((66, 67), (38, 39)):  # FAT32, then FAT12 and FAT16
        if head[mark] in (0x28, 0x29) and head[place + 15 : place + 18] == b"FAT":
            return _serial(head, place)
    return "0000-0000"


def _serial(head: bytes, place: int) -> str:
    number = struct.unpack_from("<I", head, place)[0]
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


def _unix_file_system(head: bytes) -> str:
    if head.startswith(b"XFSB"):
        return _uuid(head[32:48])
    if head[1080:1082] == b"\x53\xef":  # ext2, ext3, ext4
        return _uuid(head[1128:1144])
    if head[1024:1028] == b"\x10\x20\xf5\xf2":  # F2FS
        return _uuid(head[1132:1148])
    if head[0x10040:0x10048] == b"_BHRfS_M":
        return _uuid(head[0x10020:0x10030])
    return ""


def _swap(head: bytes) -> str:
    if any(head[page - 10 : page] == b"SWAPSPACE2" for page in _PAGES):
        return _uuid(head[1036:1052])
    return ""
