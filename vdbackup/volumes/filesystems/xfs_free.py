"""Which bytes of an XFS are free: by the tree of free space that each of its groups has.

Only where nobody has it mounted and its log says that it was unmounted. Under a freeze the log is
left as if it were in use, and afterwards a tree cannot be read while it changes: of two blocks of
it one may be older than the other.

Specification: XFS Algorithms & Data Structures, "AG Free Space Management", "Short Format B+trees".
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np

from vdbackup.disks.extents import Ranges
from vdbackup.translation import tr
from vdbackup.volumes.filesystems import journals
from vdbackup.volumes.filesystems.node import Unreadable

_READ_ONLY = 0xF
"""Features: trees of free inodes, of owners, of shared blocks, and counts of their blocks."""
_INCOMPATIBLE = 0xEF
"""File types, sparse inodes, an own UUID of metadata, large times and counts, exchanged ranges,
parents. Not: "needs repair" (0x10), folders of metadata, zones."""
_NO_BLOCK = 0xFFFF_FFFF
_MAX_LEVELS = 9
_DAMAGED = tr("its trees of free blocks are damaged")


def free(stream: io.BufferedReader) -> Ranges:
    """What is free in an XFS that nobody has mounted, in bytes; raises Unreadable in any doubt."""
    stream.seek(0)
    xfs = _Xfs.read(stream.read(512))
    if journals.warning("xfs", stream):
        raise Unreadable(tr("its log has not been applied: it is in use, or was not unmounted"))
    groups = [_Group(xfs, stream, number).free() for number in range(xfs.groups)]
    return np.concatenate([np.empty((0, 2), np.int64), *groups])


@dataclass(frozen=True)
class _Xfs:
    """What the super block says; `block` and `sector` in bytes, `length` of a group in blocks."""

    block: int
    blocks: int
    sector: int
    length: int
    groups: int
    has_sums: bool

    @classmethod
    def read(cls, data: bytes) -> _Xfs:
        block, blocks = struct.unpack_from(">4xIQ", data)
        length, groups = struct.unpack_from(">II", data, 84)
        version, sector = struct.unpack_from(">HH", data, 100)
        read_only, incompatible, log = struct.unpack_from(">III", data, 212)
        has_sums = version & 15 == 5
        if version & 15 not in (4, 5) or data[126]:
            raise Unreadable(tr("it is of a version that vdbackup does not know"))
        if has_sums and (read_only & ~_READ_ONLY or incompatible & ~_INCOMPATIBLE or log):
            raise Unreadable(tr("it has features that vdbackup does not know, or needs a repair"))
        sane = 512 <= sector <= block <= 65536 and length > 0 and groups == -(-blocks // length)
        if not sane:
            raise Unreadable(tr("its super block is damaged"))
        return cls(block, blocks, sector, length, groups, has_sums)


class _Group:
    """An allocation group."""

    def __init__(self, xfs: _Xfs, stream: io.BufferedReader, number: int) -> None:
        self._xfs, self._stream, self._number = xfs, stream, number
        self._start = number * xfs.length * xfs.block

    def free(self) -> Ranges:
        """What is free in it, in bytes of the volume."""
        xfs, number = self._xfs, self._number
        head = self._read(xfs.sector, xfs.sector, 216)
        magic, version, own, length, root = struct.unpack_from(">4sIIII", head)
        (levels,) = struct.unpack_from(">I", head, 28)
        (count,) = struct.unpack_from(">I", head, 52)
        wanted = min(xfs.length, xfs.blocks - number * xfs.length)
        if (magic, version, own, length) != (b"XAGF", 1, number, wanted):
            raise Unreadable(_DAMAGED)
        if not 0 < levels <= _MAX_LEVELS:
            raise Unreadable(_DAMAGED)
        pieces = self._leaves(root, levels)
        apart = (pieces[1:, 0] > pieces[:-1].sum(1)).all() and (pieces[:, 1] > 0).all()
        inside = not len(pieces) or pieces[-1].sum() <= length
        if not apart or not inside or pieces[:, 1].sum() != count:
            raise Unreadable(_DAMAGED)
        return pieces * xfs.block + np.array([self._start, 0], np.int64)

    def _leaves(self, root: int, levels: int) -> Ranges:
        """The records of the tree, from its leftmost leaf on."""
        at = root
        for level in range(levels - 1, 0, -1):
            _, pointers = self._block(at, level)
            at = int(pointers[0])
        found, seen = [np.empty((0, 2), np.int64)], set[int]()
        while at != _NO_BLOCK:
            if at in seen:
                raise Unreadable(_DAMAGED)
            seen.add(at)
            at, records = self._block(at, 0)
            found.append(records.reshape(-1, 2))
        return np.concatenate(found)

    def _block(self, number: int, level: int) -> tuple[int, Ranges]:
        """A block of the tree: its right neighbour, and its records, or its pointers downwards."""
        xfs = self._xfs
        if number >= xfs.length:
            raise Unreadable(_DAMAGED)
        data = self._read(number * xfs.block, xfs.block, 52)
        magic, own_level, count, _, right = struct.unpack_from(">4sHHII", data)
        start = 56 if xfs.has_sums else 16
        if magic != (b"AB3B" if xfs.has_sums else b"ABTB") or own_level != level:
            raise Unreadable(_DAMAGED)
        if xfs.has_sums and struct.unpack_from(">I", data, 48)[0] != self._number:
            raise Unreadable(_DAMAGED)
        most = (xfs.block - start) // (12 if level else 8)
        if count > most or (level and not count):
            raise Unreadable(_DAMAGED)
        if level:
            numbers = np.frombuffer(data, ">u4", count, start + most * 8)
        else:
            numbers = np.frombuffer(data, ">u4", count * 2, start)
        return right, numbers.astype(np.int64)

    def _read(self, offset: int, length: int, checksum: int) -> bytes:
        """Bytes of the group whose checksum, if there is one, stands at that place and is right."""
        self._stream.seek(self._start + offset)
        data = self._stream.read(length)
        if len(data) < length:
            raise Unreadable(tr("the disk ends before a part of it"))
        if self._xfs.has_sums:
            blank = data[:checksum] + bytes(4) + data[checksum + 4 :]
            if google_crc32c.value(blank) != int.from_bytes(
                data[checksum : checksum + 4], "little"
            ):
                raise Unreadable(_DAMAGED)
        return data
