"""Whether a file system was in use when it was captured, and its journal holds what its files lack.

Whoever mounts such a file system replays the journal first. Read without that, deleted files are
still there, and new ones are not. ext's journal is replayed while it is read (jbd2.py); of the
others it is said that it should be.
"""

from __future__ import annotations

import io
import struct

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable

_SECTOR = 512
_XFS_BLOCK_SIZE, _XFS_LOG_START, _XFS_GROUP_BLOCKS, _XFS_LOG_BLOCKS = 4, 48, 84, 96
_XFS_GROUP_LOG = 124
"""Places in the super block (XFS Algorithms & Data Structures, "Superblocks")."""
_RECORD = 0xFEEDBABE
"""What a record in XFS's log begins with; other blocks begin with the number of their cycle."""
_MAX_RECORD = (256 << 10) // _SECTOR + 8
"""Sectors of a record with its headers."""
_UNMOUNT = 0x20
"""Flag of the operation that an unmount writes (xfs_log_format.h, XLOG_UNMOUNT_TRANS)."""
_BTRFS_LOG_ROOT = 0x10000 + 96
"""Place of the address of the tree of logs; 0 if nothing waits in one (On-disk-format)."""

SENTENCE = tr(
    "It was in use when it was captured, and its {log} was not applied: files that were "
    "changed shortly before may be missing, old or still there though they were deleted."
)

HIBERNATED = tr(
    "Its Windows was hibernated when it was captured, or shut down with fast startup, and "
    "keeps in its memory what it may not have written: files that were changed shortly before "
    "may be missing, old or still there though they were deleted."
)


def warning(kind: str, stream: io.BufferedReader) -> str:
    """A sentence where the files shown are not the newest that the file system holds; else "".

    Args:
        kind: as volumes/volumes.py knows the file system.
        stream: the volume. Its structures may be hostile: anything may be raised.
    """
    if kind == "xfs" and not _xfs_is_clean(stream):
        return SENTENCE.format(log="log")
    if kind == "btrfs" and _at(stream, _BTRFS_LOG_ROOT, "<Q"):
        return SENTENCE.format(log=tr("log of synced files"))
    if kind == "ntfs":
        return _of_ntfs(stream)
    if kind == "ext" and not _ext_is_replayed(stream):
        return SENTENCE.format(log="journal")
    return ""


def _ext_is_replayed(stream: io.BufferedReader) -> bool:
    from vdbackup.volumes.filesystems import ext

    try:
        ext.replayed(stream)
    except Unreadable:
        return False
    return True


def _of_ntfs(stream: io.BufferedReader) -> str:
    from vdbackup.volumes.filesystems import ntfs

    _, root = ntfs.open_root(stream)
    if root.hibernated():
        return HIBERNATED
    return SENTENCE.format(log="log") if root.unclean() else ""


def _xfs_is_clean(stream: io.BufferedReader) -> bool:
    """Whether the last record of the log is that of an unmount.

    As xlog_find_tail() in the kernel's fs/xfs/xfs_log_recover.c, without the checks of checksums.
    """
    log_start = _at(stream, _XFS_LOG_START, ">Q")
    if not log_start:
        return False  # on another device
    block = _at(stream, _XFS_BLOCK_SIZE, ">I")
    shift = _at(stream, _XFS_GROUP_LOG, "B")
    group, number = log_start >> shift, log_start & ((1 << shift) - 1)
    start = (group * _at(stream, _XFS_GROUP_BLOCKS, ">I") + number) * block
    sectors = _at(stream, _XFS_LOG_BLOCKS, ">I") * block // _SECTOR
    head = _head(stream, start, sectors)
    for back in range(1, min(_MAX_RECORD, sectors) + 1):
        sector = start + (head - back) % sectors * _SECTOR
        if _at(stream, sector, ">I") == _RECORD:
            operations = _at(stream, sector + 40, ">I")
            first = start + (head - back + _headers(stream, sector)) % sectors * _SECTOR
            return operations == 1 and bool(_at(stream, first + 9, "B") & _UNMOUNT)
    return False


def _headers(stream: io.BufferedReader, sector: int) -> int:
    """Sectors of a record's headers: one for each 32 KiB that a record may have."""
    version, size = _at(stream, sector + 8, ">I"), _at(stream, sector + 320, ">I")
    return max(1, -(-size // (32 << 10))) if version & 2 else 1


def _head(stream: io.BufferedReader, start: int, sectors: int) -> int:
    """The sector at which the next record would begin: there the number of the cycle falls."""
    first = _cycle(stream, start)
    low, high = 0, sectors
    while high - low > 1:
        middle = (low + high) // 2
        if _cycle(stream, start + middle * _SECTOR) == first:
            low = middle
        else:
            high = middle
    return high % sectors


def _cycle(stream: io.BufferedReader, place: int) -> int:
    word: int = _at(stream, place, ">I")
    return _at(stream, place + 4, ">I") if word == _RECORD else word


def _at(stream: io.BufferedReader, place: int, layout: str) -> int:
    stream.seek(place)
    number: int = struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]
    return number
