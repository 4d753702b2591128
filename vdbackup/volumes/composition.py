"""A disk composed around a volume that stands alone: partition tables in front and behind.

The volume is not touched, and not copied: the chain's map is moved behind the tables by its own
algebra, and QEMU reads both through a concatenation map, whatever the chain's format is.

    0            protective MBR, GPT header, table
    1 MiB        the volume, as the partition of the number that it had
    behind it    the second table and header

Specification: UEFI 2.10, chapter 5.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdbackup.disks.extents import ZERO, BlockMap

START = 1 << 20
"""Where the volume begins on the composed disk, in bytes."""
_ENTRIES, _ENTRY = 128, 128
_TABLE = _ENTRIES * _ENTRY
_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ALIGNMENT = 64 << 10
"""Of what stands behind the volume: the map's clusters are as large as everything allows."""


@dataclass(frozen=True)
class Composition:
    """A disk around a volume.

    Attributes:
        flat: the composed disk's map; its last layer is the file with the tables.
        tables: the bytes of that file.
    """

    flat: BlockMap
    tables: bytes


def compose(volume: BlockMap, layers: int, partition: int, sector_size: int) -> Composition:
    """The disk around a volume.

    Args:
        volume: the chain's map.
        layers: how many files that has; the tables become the next one.
        partition: the number that the volume gets, from 1 to 128.
        sector_size: of the composed disk, in bytes.
    """
    end = START + volume.size
    behind = -(-end // _ALIGNMENT) * _ALIGNMENT
    tail = -(-(_TABLE + sector_size) // _ALIGNMENT) * _ALIGNMENT
    size = behind + tail
    front, back = _tables(size, volume.size, partition, sector_size, tail)
    tables = front + back
    starts = np.concatenate([[0], volume.starts + START, [end, behind]])
    frame = np.int32(layers)
    owners = np.concatenate([[frame], volume.layers, [ZERO, frame]]).astype(np.int32)
    hosts = np.concatenate([[0], volume.hosts, [0, len(front)]]).astype(np.int64)
    filled = np.diff(starts, append=size) > 0
    return Composition(BlockMap(size, starts[filled], owners[filled], hosts[filled]), tables)


def write(composition: Composition, folder: Path) -> Path:
    """The file with the tables, made in `folder`."""
    path = folder / "tables.bin"
    path.write_bytes(composition.tables)
    return path


def _tables(size: int, length: int, partition: int, sector: int, tail: int) -> tuple[bytes, bytes]:
    """What stands before the volume, and the last `tail` bytes of the disk."""
    last = size // sector - 1
    table_sectors = -(-_TABLE // sector)
    first_usable, last_usable = START // sector, (size - tail) // sector - 1
    volume_end = START // sector + -(-length // sector) - 1
    entry = struct.pack(
        "<16s16sQQQ", _LINUX, _identity(size, partition), START // sector, volume_end, 0
    )
    table = bytearray(_TABLE)
    table[(partition - 1) * _ENTRY : (partition - 1) * _ENTRY + len(entry)] = entry
    usable = (first_usable, last_usable)
    common = _identity(size, 0), bytes(table)
    front = bytearray(START)
    front[:512] = _protective(last)
    front[sector : sector + 92] = _header(1, last, 2, usable, *common)
    front[2 * sector : 2 * sector + _TABLE] = table
    back = bytearray(tail)
    at = tail - sector - table_sectors * sector
    back[at : at + _TABLE] = table
    back[tail - sector : tail - sector + 92] = _header(
        last, 1, last - table_sectors, usable, *common
    )
    return bytes(front), bytes(back)


def _identity(size: int, partition: int) -> bytes:
    """An id that is the same each time: a session may be opened again."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"vdbackup {size} {partition}").bytes_le


def _protective(last: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _header(
    here: int, other: int, table_at: int, usable: tuple[int, int], disk: bytes, table: bytes
) -> bytes:
    def packed(checksum: int) -> bytes:
        return _HEADER.pack(
            b"EFI PART", 0x10000, _HEADER.size, checksum, 0, here, other, *usable, disk, table_at,
            _ENTRIES, _ENTRY, zlib.crc32(table),
        )  # fmt: skip

    return packed(zlib.crc32(packed(0)))
