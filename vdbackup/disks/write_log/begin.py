"""A new log of writes: empty, or with what a disk holds by then as its first entries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vdbackup.disks.disk import VirtualDisk
from vdbackup.disks.extents import UNALLOCATED, ZERO
from vdbackup.disks.write_log.structs import HEADER, Flag, SuperBlock

_AT_ONCE = 1 << 20
"""Bytes that are one write at most: a multiple of every sector."""
SMALL_DISK = 64 << 30
"""Bytes of a disk up to which a log counts in sectors of 512 bytes.

An entry takes a sector besides its data, so small ones save space. QEMU starts from a moment by a
map that counts in the log's sectors, and one of 512 ends at 128 GiB (qemu/concatenation.py).
"""


def sector_size_for(disk_size: int) -> int:
    """Bytes that the sectors of a log have; the disk is whole ones of them."""
    return 512 if disk_size <= SMALL_DISK or disk_size % 4096 else 4096


def begin(path: Path, disk_size: int, written: VirtualDisk | None = None) -> int:
    """Make a log, durable, that QEMU goes on with (blklogwrites, log-append).

    Args:
        path: of the log, which only its owner may read.
        disk_size: of the disk that is written to, in bytes.
        written: what its machine has written by now, a layer of the same size; nobody writes to it.

    Returns:
        With how many writes it begins: those that make what `written` holds.

    Raises OSError, FileExistsError where there is such a file; DiskError where a layer is damaged.
    """
    sector_size = sector_size_for(disk_size)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(SuperBlock(0, sector_size).pack())
        writes = 0
        for offset, data, length in _held(written) if written else ():
            where = (offset // sector_size, length // sector_size)
            header = HEADER.pack(*where, 0 if data else Flag.DISCARD, 0)
            file.write(header.ljust(sector_size, b"\0") + data)
            writes += 1
        file.write(HEADER.pack(0, 0, Flag.FLUSH, 0).ljust(sector_size, b"\0"))
        file.seek(0)
        file.write(SuperBlock(writes + 1, sector_size).pack())
        file.flush()
        os.fsync(file.fileno())
    return writes


def _held(disk: VirtualDisk) -> Iterator[tuple[int, bytes, int]]:
    """Where a layer itself holds something, what, and how much; no data where it reads as zeros."""
    own = disk.block_map()
    runs = (own.starts, own.lengths, own.layers, own.hosts)
    for start, length, layer, host in zip(*(each.tolist() for each in runs), strict=True):
        for at in range(0, 0 if layer == UNALLOCATED else length, _AT_ONCE):
            part = min(_AT_ONCE, length - at)
            data = bytearray(0 if layer == ZERO else part)
            if data:
                disk.read_host(host + at, memoryview(data))
            yield start + at, bytes(data), part
