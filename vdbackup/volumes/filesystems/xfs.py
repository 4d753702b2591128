"""XFS, by dissect, except for the map of a file's blocks.

dissect (3.13) gives what lies on the disk where a file has blocks that are reserved and were never
written, which read as zeros; and it misses most names where a folder's block is larger than the
file system's.

Specification: XFS Algorithms & Data Structures, 3rd edition.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Hashable, Iterator
from typing import Any

from dissect.util.stream import RunlistStream
from dissect.xfs.c_xfs import c_xfs
from dissect.xfs.xfs import XFS, INode, fsb_to_bb, parse_fsblock

from vdbackup.translation import tr
from vdbackup.volumes.filesystems import xfs_attributes
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Node,
    Range,
    Stat,
    Unreadable,
    blocks_of,
    data_ranges,
    merged,
    plausible,
    posix_stat,
    runs_of,
)

_CORE_4, _CORE_5 = 100, 176
"""Bytes of an inode before its forks: of version 4 and 5 of the file system."""
_DEVICE, _LOCAL, _EXTENTS = 0, 1, 2
"""Formats of forks."""
_MAX_ATTRIBUTES = 65_536
"""Blocks of attributes."""
_NEEDS_REPAIR = 0x10
_READ = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80
"""Incompatible features that make no difference here or are read: file types in folders, sparse
inodes, another UUID, times after 2038, large counters of extents, exchanged ranges, pointers to
parents."""


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    _check_features(stream)
    fs = XFS(stream)
    if fs.sb.sb_dirblklog:
        raise Unreadable(tr("the blocks of its folders are larger than those of its files"))
    return "XFS", XfsNode(fs.root, "")


def _check_features(stream: io.BufferedReader) -> None:
    """Raise Unreadable where the file system has what is not read here, and say what."""
    stream.seek(0)
    version, incompatible = struct.unpack_from(">100xH114xI", stream.read(512))
    if version & 0xF < 5:
        return
    if incompatible & _NEEDS_REPAIR:
        raise Unreadable(tr("it waits for xfs_repair"))
    if unknown := incompatible & ~_READ:
        raise Unreadable(
            tr("it has features that vdbackup does not know ({unknown:#x})", unknown=unknown)
        )


class XfsNode(Node):
    """An inode, by one of its names."""

    __slots__ = ("_inode",)

    def __init__(self, inode: INode, name: str) -> None:
        super().__init__(name)
        self._inode: Any = inode

    @property
    def identity(self) -> Hashable:
        """The inode's number."""
        return int(self._inode.inum)

    def stat(self) -> Stat:
        """From the inode."""
        inode = self._inode
        found = posix_stat(inode.inode.di_mode, inode.size, inode.mtime_ns)
        return found._replace(
            inode=int(inode.inum),
            owner=(inode.inode.di_uid, inode.inode.di_gid),
            links=inode.inode.di_nlink,
            device=self._device() if found.kind == Kind.OTHER else 0,
            accessed=plausible(inode.atime_ns),
            changed=plausible(inode.ctime_ns),
            stored=inode.inode.di_nblocks * inode.xfs.block_size,
        )

    def children(self) -> Iterator[Node]:
        """In the order of the folder's blocks."""
        for index, child in enumerate(self._inode.iterdir()):
            if index >= 2 or child.filename not in (".", ".."):
                yield XfsNode(child, child.filename)

    def content(self) -> Content:
        """The file's blocks; reserved ones that were never written are holes."""
        inode, fs = self._inode, self._inode.xfs
        if inode.inode.di_flags & c_xfs.XFS_DIFLAG_REALTIME:
            raise Unreadable(tr("it lies on another device, XFS's real-time section"))
        size, block_size = inode.size, fs.block_size
        blocks = -(-size // block_size)
        runs = merged(runs_of(self._extents(), blocks), blocks)
        stream = RunlistStream(fs.fh, runs, size, block_size)
        return Content(stream, size, data_ranges(runs, block_size, size))

    def blocks(self) -> list[Range]:
        """By its map of blocks, without those that the map itself takes."""
        fs = self._inode.xfs
        found: list[Range] = []
        for _, start, count in self._extents():
            found += blocks_of([(start, count)], fs.block_size)
        return found

    def attributes(self) -> dict[str, bytes]:
        """From the inode, or from the blocks that it names."""
        inode = self._inode
        if not inode.inode.di_forkoff:
            return {}
        fork = inode.attrfork().read()
        if inode.inode.di_aformat == _LOCAL:
            return xfs_attributes.named(xfs_attributes.in_inode(fork))
        if inode.inode.di_aformat != _EXTENTS:
            raise Unreadable(tr("it has more attributes than vdbackup reads"))
        count = inode.attr_extents
        places: dict[int, int] = {}
        for at in range(0, min(16 * count, len(fork) - 15), 16):
            first, start, length, _ = parse_fsblock(fork[at : at + 16])
            if len(places) + length > _MAX_ATTRIBUTES:
                raise Unreadable(tr("its attributes are damaged"))
            places.update((first + number, start + number) for number in range(length))

        def read(number: int) -> bytes:
            fs = inode.xfs
            if number not in places:
                raise Unreadable(tr("its attributes are damaged"))
            group, block = fsb_to_bb(places[number], fs.sb.sb_agblklog)
            fs.fh.seek((group * fs.sb.sb_agblocks + block) * fs.block_size)
            data: bytes = fs.fh.read(fs.block_size)
            if len(data) < fs.block_size:
                raise Unreadable(tr("the disk ends before a part of it"))
            return data

        return xfs_attributes.named(xfs_attributes.in_blocks(sorted(places), read))

    def _device(self) -> int:
        """Of a device, which lies where others have a map: 14 bits, and 18 (xfs_inode_fork.c)."""
        inode = self._inode.inode  # reads the inode, if nobody has
        start = _CORE_5 if inode.di_version >= 3 else _CORE_4
        (number,) = struct.unpack_from(">I", self._inode._buf.getvalue(), start)
        return os.makedev(number >> 18, number & 0x3FFFF) if inode.di_format == _DEVICE else 0

    def _target(self) -> str:
        return str(self._inode.link)

    def _extents(self) -> Iterator[tuple[int, int | None, int]]:
        fs = self._inode.xfs
        for first, start, count, unwritten in self._inode._iter_blocks():
            group, block = fsb_to_bb(start, fs.sb.sb_agblklog)
            yield first, None if unwritten else group * fs.sb.sb_agblocks + block, count
