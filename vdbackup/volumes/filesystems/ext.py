"""ext2, ext3 and ext4: super block, groups and inodes by dissect; folders and maps of blocks here.

dissect (3.15) reads block 0 where an ext3 file ends with a hole, reads the first 60 bytes only of
what is stored in an inode, takes such folders for others, and leaves out the last inode.

Specification: https://docs.kernel.org/filesystems/ext4/
"""

from __future__ import annotations

import io
import itertools
import logging
import struct
from collections.abc import Hashable, Iterator
from typing import Any

from dissect.extfs.c_ext import c_ext
from dissect.extfs.extfs import ExtFS
from dissect.util.stream import RunlistStream

from vdbackup.volumes.filesystems import jbd2
from vdbackup.volumes.filesystems.node import (
    Content,
    Node,
    Run,
    Stat,
    Unreadable,
    data_ranges,
    merged,
    posix_stat,
    runs_of,
)

log = logging.getLogger(__name__)

_SUPER_BLOCK = 1024
_READ = 0x0002 | 0x0004 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x2000 | 0x4000 | 0x38000
"""Incompatible features that make no difference here or are read: file types in folders, recovery,
extents, 64 bits, multiple mount protection, flexible groups, attributes in inodes, a seed for
checksums, large folders, data in inodes, encryption of single files, folded case."""
_RECOVER = 0x0004
"""The feature that a file system has as long as its journal may hold something."""
_NAMES = {
    0x0001: "compressed files",
    0x0008: "a journal for another file system",
    0x0010: "descriptors spread over its groups (meta_bg)",
    0x1000: "data in folders (dirdata)",
}
_BIGALLOC = 0x0200
"""A feature that only writing needs to know; but dissect does not open such a file system."""
_IN_INODE = 60
"""Bytes of the space that an inode has for a map of blocks, or for a small file instead."""
_MAX_DEPTH = 5
"""Of a tree of extents; enough for any file."""
_INITIALIZED = 0x8000
"""Blocks of the longest extent that holds data; a longer one is reserved and reads as zeros."""


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    _check_features(stream)
    try:
        stream = replayed(stream)
    except Unreadable as error:  # what is not replayed is said (journals.py)
        log.info("the journal is not replayed: %s", error)
    fs = ExtFS(stream)
    return f"ext{fs.type}", ExtNode(fs, c_ext.EXT2_ROOT_INO, "")


def replayed(stream: io.BufferedReader) -> io.BufferedReader:
    """The volume as it is once its journal is replayed; itself where there is nothing to replay.

    Raises Unreadable where the journal cannot be read.
    """
    stream.seek(_SUPER_BLOCK)
    super_block = stream.read(1024)
    (incompatible,) = struct.unpack_from("<I", super_block, 96)
    inode, device = struct.unpack_from("<II", super_block, 224)
    if not incompatible & _RECOVER:
        return stream
    if device or not inode:
        raise Unreadable("its journal lies on another device")
    fs = ExtFS(stream)
    journal = ExtNode(fs, inode, "").content()
    size = fs.block_size

    def read(block: int) -> bytes:
        journal.stream.seek(block * size)
        data: bytes = journal.stream.read(size)
        if len(data) < size:
            raise Unreadable("its journal is damaged")
        return data

    patches = jbd2.replay(read, journal.size // size, size)
    return io.BufferedReader(jbd2.Replayed(stream, patches, read, size), size)


def _check_features(stream: io.BufferedReader) -> None:
    """Raise Unreadable where the file system has what is not read here, and say what."""
    stream.seek(_SUPER_BLOCK)
    incompatible, read_only = struct.unpack_from("<96xII", stream.read(1024))
    for bit in (1 << number for number in range(32)):
        if incompatible & bit & ~_READ:
            words = _NAMES.get(bit, f"a feature that vdbackup does not know ({bit:#x})")
            raise Unreadable(f"it has {words}")
    if read_only & _BIGALLOC:
        raise Unreadable("it has clusters of several blocks (bigalloc)")


class ExtNode(Node):
    """An inode, by one of its names."""

    __slots__ = ("_fs", "_inode", "_number")

    def __init__(self, fs: ExtFS, number: int, name: str) -> None:
        super().__init__(name)
        self._fs = fs
        self._number = number
        self._inode: Any = None

    @property
    def identity(self) -> Hashable:
        """The inode's number."""
        return self._number

    def stat(self) -> Stat:
        """From the inode."""
        inode = self._load()
        return posix_stat(inode.inode.i_mode, inode.size, self._modified(inode.inode))

    def children(self) -> Iterator[Node]:
        """In the order of the folder's blocks, which is that of a hash in large ones."""
        for index, (number, name) in enumerate(self._entries()):
            if index >= 2 or name not in (b".", b".."):
                yield ExtNode(self._fs, number, name.decode(errors="surrogateescape"))

    def content(self) -> Content:
        """The file's blocks; reserved ones that were never written are holes."""
        inode = self._load()
        self._check_plain()
        if inode.inode.i_flags & c_ext.EXT4_INLINE_DATA_FL:
            data = self._inline()[: inode.size]
            if len(data) < inode.size:
                raise Unreadable("its inode holds only a part of it")
            return Content(io.BytesIO(data), inode.size, [(0, inode.size)])
        size, block_size = inode.size, self._fs.block_size
        runs = self._runs(-(-size // block_size))
        stream = RunlistStream(self._fs.fh, runs, size, block_size)
        return Content(stream, size, data_ranges(runs, block_size, size))

    def _target(self) -> str:
        self._check_plain()
        return str(self._load().link)

    def _check_plain(self) -> None:
        """What is encrypted has names and targets that only look like such."""
        if self._load().inode.i_flags & c_ext.EXT4_ENCRYPT_FL:
            raise Unreadable("it is encrypted")

    def _load(self) -> Any:
        if self._inode is None:
            self._inode = self._fs.get_inode(self._number)
        return self._inode

    def _modified(self, inode: Any) -> int:
        """Seconds have 34 bits, the lowest 32 of them signed, where the inode is large enough."""
        extra = 0
        if self._fs.sb.s_inode_size > 128 and inode.i_extra_isize >= 12:
            extra = inode.i_mtime_extra
        seconds = (inode.i_mtime ^ 0x8000_0000) - 0x8000_0000 + ((extra & 3) << 32)
        return int(seconds * 10**9 + (extra >> 2))

    def _inline(self) -> bytes:
        """What the inode has place for, then what the attribute "system.data" holds."""
        inode = self._load()
        rest = (
            attribute.value
            for attribute in inode.xattr
            if attribute.entry.e_name_index == 7 and attribute.entry.e_name == b"data"
        )
        return bytes(inode.inode.i_block) + next(rest, b"")

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        self._check_plain()
        if self._load().inode.i_flags & c_ext.EXT4_INLINE_DATA_FL:
            data = self._inline()
            yield from _parse(data[4:_IN_INODE])  # the first four bytes are ".."
            yield from _parse(data[_IN_INODE:])
            return
        content = self.content()
        for start, end in content.ranges:
            for offset in range(start, end, self._fs.block_size):
                length = min(self._fs.block_size, end - offset)
                content.stream.seek(offset)
                block = content.stream.read(length)
                if len(block) < length:
                    raise Unreadable("the disk ends before a part of it")
                yield from _parse(block)

    def _runs(self, blocks: int) -> list[Run]:
        inode = self._load().inode
        data = bytes(inode.i_block)
        if inode.i_flags & c_ext.EXT4_EXTENTS_FL:
            return merged(runs_of(self._extents(data, None), blocks), blocks)
        return merged(self._indirect(data), blocks)

    def _extents(self, data: bytes, depth: int | None) -> Iterator[tuple[int, int | None, int]]:
        magic, count, _, level = struct.unpack_from("<HHHH", data)
        wrong_level = level > _MAX_DEPTH if depth is None else level != depth or not count
        if magic != 0xF30A or wrong_level or 12 * (count + 1) > len(data):
            raise Unreadable("its map of blocks is damaged")
        for offset in range(12, 12 * (count + 1), 12):
            if level:
                _, low, high = struct.unpack_from("<IIH", data, offset)
                yield from self._extents(self._block(high << 32 | low), level - 1)
            else:
                first, length, high, low = struct.unpack_from("<IHHI", data, offset)
                if length > _INITIALIZED:
                    yield first, None, length - _INITIALIZED
                else:
                    yield first, high << 32 | low, length

    def _indirect(self, data: bytes) -> Iterator[Run]:
        """The map of ext2 and ext3: 12 blocks, then trees that are 1, 2 and 3 levels high."""
        blocks = struct.unpack("<15I", data)
        levels = (*itertools.repeat(0, 12), 1, 2, 3)
        for block, level in zip(blocks, levels, strict=True):
            yield from self._tree(block, level)

    def _tree(self, block: int, level: int) -> Iterator[Run]:
        per_block = self._fs.block_size // 4
        if not block:
            yield None, per_block**level
        elif not level:
            yield block, 1
        else:
            for child in struct.unpack(f"<{per_block}I", self._block(block)):
                yield from self._tree(child, level - 1)

    def _block(self, number: int) -> bytes:
        self._fs.fh.seek(number * self._fs.block_size)
        data = self._fs.fh.read(self._fs.block_size)
        if len(data) < self._fs.block_size:
            raise Unreadable("the disk ends before a part of it")
        return bytes(data)


def _parse(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of a folder's block: inode number, name."""
    offset = 0
    while offset + 8 <= len(block):
        number, length, name_length, _ = struct.unpack_from("<IHBB", block, offset)
        if length in (0, 0xFFFF) and len(block) == 0x10000:
            length = len(block)
        if length < 8 + (name_length if number else 0) or offset + length > len(block):
            raise Unreadable("the folder is damaged")
        if number:
            yield number, block[offset + 8 : offset + 8 + name_length]
        offset += length
