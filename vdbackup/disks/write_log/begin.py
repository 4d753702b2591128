"""A log of writes for QEMU to go on with: a new one, or one that was ended.

Either is first brought to what its disk holds by then, as entries of its own with a flush behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vdbackup.disks.disk import VirtualDisk
from vdbackup.disks.extents import UNALLOCATED, ZERO
from vdbackup.disks.write_log.log import WriteLog, other_log
from vdbackup.disks.write_log.structs import HEADER, Flag, SuperBlock
from vdbackup.durable import hold_lock, open_own

AT_ONCE = 1 << 20
"""Bytes that are one write at most: a multiple of every sector."""
SMALL_DISK = 64 << 30
"""Bytes of a disk up to which a log counts in sectors of 512 bytes.

An entry takes a sector besides its data, so small ones save space. QEMU starts from a moment by a
map that counts in the log's sectors, and one of 512 ends at 128 GiB (qemu/concatenation.py).
"""
Piece = tuple[int, bytes, int]
"""Where on a disk, in bytes, what stands there, and how much; no data where it reads as zeros."""


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
        pieces = _held(written) if written else ()
        return _append(file, sector_size, 0, pieces, b"")


def begin_empty(path: Path, sector_size: int, length: int) -> None:
    """Make a log for the kernel to write to, durable; only its owner may read it.

    Args:
        path: of the log.
        sector_size: of the volume that is logged, in bytes, and so of the log.
        length: bytes that it may take: the file is so long from the first on, and sparse.

    Raises OSError, FileExistsError where there is such a file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(SuperBlock(0, sector_size).pack())
        file.truncate(length // sector_size * sector_size)
        _sync(file)


def go_on(log: WriteLog, count: int, pieces: Iterable[Piece], mark: bytes) -> int:
    """Have a log that nobody adds to end behind its first `count` entries, then add these writes.

    What is cut off meanwhile is a log that ends somewhere in between.

    Args:
        log: as it is.
        count: of its entries that stay.
        pieces: what is written, in whole sectors of the log.
        mark: text of an entry in front of them, which says why they are there.

    Returns:
        How many writes were added.

    Raises OSError, BlockingIOError where it is just being replaced or deleted; Obstructed where
    something else bears its name, ChangedWhileRead where it is another log by now.
    """
    sector_size, end = log.entries.sector_size, int(log.entries.places[count])
    with os.fdopen(hold_lock(open_own(log.path, os.O_RDWR)), "r+b") as file:
        if not log.entries.stand_in(file.fileno()):
            raise other_log(log.path)
        file.write(SuperBlock(count, sector_size).pack())
        file.truncate(end)
        file.seek(end)
        return _append(file, sector_size, count, pieces, mark)


def _append(
    file: BinaryIO, sector_size: int, count: int, pieces: Iterable[Piece], mark: bytes
) -> int:
    """Add entries behind the first `count`, with a flush, durably; how many of them are writes."""
    if mark:
        header = HEADER.pack(0, 0, Flag.MARK, len(mark))
        file.write((header + mark).ljust(sector_size, b"\0"))
        count += 1
    writes = 0
    for offset, data, length in pieces:
        where = (offset // sector_size, length // sector_size)
        header = HEADER.pack(*where, 0 if data else Flag.DISCARD, 0)
        file.write(header.ljust(sector_size, b"\0") + data)
        writes += 1
    file.write(HEADER.pack(0, 0, Flag.FLUSH, 0).ljust(sector_size, b"\0"))
    _sync(file)  # an entry that is named is there
    file.seek(0)
    file.write(SuperBlock(count + writes + 1, sector_size).pack())
    _sync(file)
    return writes


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _held(disk: VirtualDisk) -> Iterator[Piece]:
    """What a layer itself holds."""
    own = disk.block_map()
    runs = (own.starts, own.lengths, own.layers, own.hosts)
    for start, length, layer, host in zip(*(each.tolist() for each in runs), strict=True):
        for at in range(0, 0 if layer == UNALLOCATED else length, AT_ONCE):
            part = min(AT_ONCE, length - at)
            data = bytearray(0 if layer == ZERO else part)
            if data:
                disk.read_host(host + at, memoryview(data))
            yield start + at, bytes(data), part
