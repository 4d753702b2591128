"""ext2, ext3 and ext4: super block and groups by dissect; inodes, folders and maps of blocks here.

dissect (3.15) reads block 0 where an ext3 file ends with a hole, reads the first 60 bytes only of
what is stored in an inode, takes such folders for others, and leaves out the last inode. It takes
180 us for an inode, of which a walk through all files needs each: read here, it takes 10.

Specification: https://docs.kernel.org/filesystems/ext4/
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import stat as posix
import struct
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import NamedTuple

from dissect.extfs.c_ext import c_ext
from dissect.extfs.extfs import ExtFS
from dissect.util.stream import RunlistStream

from vdbackup.translation import tr
from vdbackup.volumes.filesystems import jbd2
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Node,
    Range,
    Run,
    Stat,
    Unreadable,
    blocks_of,
    data_ranges,
    merged,
    plausible,
    posix_acl,
    posix_stat,
    read_at,
    runs_of,
)

log = logging.getLogger(__name__)

_SUPER_BLOCK = 1024
_SECTOR = 512
_MAX_ATTRIBUTE = 65_536
"""Bytes; Linux allows no more (XATTR_SIZE_MAX)."""
_READ = 0x0002 | 0x0004 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x2000 | 0x4000 | 0x38000
"""Incompatible features that make no difference here or are read: file types in folders, recovery,
extents, 64 bits, multiple mount protection, flexible groups, attributes in inodes, a seed for
checksums, large folders, data in inodes, encryption of single files, folded case."""
_RECOVER = 0x0004
"""The feature that a file system has as long as its journal may hold something."""
_NAMES = {
    0x0001: tr("compressed files"),
    0x0008: tr("a journal for another file system"),
    0x0010: tr("descriptors spread over its groups (meta_bg)"),
    0x1000: tr("data in folders (dirdata)"),
}
_BIGALLOC = 0x0200
"""A feature that only writing needs to know; but dissect does not open such a file system."""
_IN_INODE = 60
"""Bytes of the space that an inode has for a map of blocks, or for a small file instead."""
_MAX_DEPTH = 5
"""Of a tree of extents; enough for any file."""
_INITIALIZED = 0x8000
"""Blocks of the longest extent that holds data; a longer one is reserved and reads as zeros."""


_INODE = struct.Struct("<HHIIII4xHHII4x60s4xII4xHHHH4x")
"""Mode, user, size, times of access, change and modification, group, links, sectors, flags, map of
blocks, block of attributes; the upper halves of size, sectors, block of attributes, user, group."""
_OLD_INODE = 128
_PIECE, _PIECES = 64 << 10, 256
"""Bytes of a table of inodes that are read at once, and how many such pieces are kept: a large
folder names its files in the order of a hash, and their inodes lie in another one."""
_EXTRA = struct.Struct("<H2xIII")
"""What follows in a longer inode: how long it is; of the times of change, modification and access
what their 32 bits leave out."""
_HUGE_FILE = 0x40000
"""A flag: the file's sectors are counted in blocks."""
_ATTRIBUTES = 0xEA020000
_ATTRIBUTE = struct.Struct("<BBHII4x")
"""Length and space of a name, where the value lies, in which inode, how long it is."""
_PREFIXES = {1: "user.", 4: "trusted.", 6: "security."}
_ACCESS_LIST, _DEFAULT_LIST = 2, 3
_LISTS = {_ACCESS_LIST: "system.posix_acl_access", _DEFAULT_LIST: "system.posix_acl_default"}
_NAMED_USER, _NAMED_GROUP = 0x02, 0x08


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    _check_features(stream)
    try:
        stream = replayed(stream)
    except Unreadable as error:  # what is not replayed is said (journals.py)
        log.info("the journal is not replayed: %s", error)
    fs = _FileSystem(stream)
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
        raise Unreadable(tr("its journal lies on another device"))
    fs = _FileSystem(stream)
    journal = ExtNode(fs, inode, "").content()
    size = fs.block_size

    def read(block: int) -> bytes:
        journal.stream.seek(block * size)
        data: bytes = journal.stream.read(size)
        if len(data) < size:
            raise Unreadable(tr("its journal is damaged"))
        return data

    patches = jbd2.replay(read, journal.size // size, size)
    return io.BufferedReader(jbd2.Replayed(stream, patches, read, size), size)


def _check_features(stream: io.BufferedReader) -> None:
    """Raise Unreadable where the file system has what is not read here, and say what."""
    stream.seek(_SUPER_BLOCK)
    incompatible, read_only = struct.unpack_from("<96xII", stream.read(1024))
    for bit in (1 << number for number in range(32)):
        if incompatible & bit & ~_READ:
            words = _NAMES.get(bit, tr("a feature that vdbackup does not know ({bit:#x})", bit=bit))
            raise Unreadable(tr("it has {words}", words=words))
    if read_only & _BIGALLOC:
        raise Unreadable(tr("it has clusters of several blocks (bigalloc)"))


class _Inode(NamedTuple):
    """An inode as it lies on the disk; times in ns, `data` is its map of blocks."""

    mode: int
    size: int
    accessed: int
    changed: int
    modified: int
    owner: tuple[int, int]
    links: int
    stored: int
    flags: int
    data: bytes
    attributes: int
    raw: bytes


class _FileSystem(ExtFS):  # type: ignore[misc]  # dissect has no types
    """One that reads inodes fast."""

    def __init__(self, stream: io.BufferedReader) -> None:
        super().__init__(stream)
        self._inodes: int = self.sb.s_inodes_count
        self._per_group: int = self.sb.s_inodes_per_group
        self._inode_size: int = max(_OLD_INODE, self.sb.s_inode_size)
        self._table = lru_cache(1024)(self._find_table)
        self._piece = lru_cache(_PIECES)(self._read_piece)

    def inode(self, number: int) -> _Inode:
        """An inode by its number; raises Unreadable where there is none."""
        if not 0 < number <= self._inodes:
            raise Unreadable(tr("its inode is missing"))
        group, index = divmod(number - 1, self._per_group)
        piece, start = divmod(index * self._inode_size, _PIECE)
        raw = self._piece(group, piece)[start : start + self._inode_size]
        if len(raw) < self._inode_size:
            raise Unreadable(tr("the disk ends before its inode"))
        (mode, user, size, accessed, changed, modified, group_id, links, sectors, flags, data,
         attributes, size_high, sectors_high, attributes_high, user_high, group_high,
        ) = _INODE.unpack_from(raw)  # fmt: skip
        extra, *times = _EXTRA.unpack_from(raw, _OLD_INODE) if len(raw) > _OLD_INODE else (0,)
        times = [
            *(value if extra >= 8 + 4 * row else 0 for row, value in enumerate(times)),
            *(0, 0, 0),
        ]
        stored = (sectors_high << 32 | sectors) * (
            self.block_size if flags & _HUGE_FILE else _SECTOR
        )
        return _Inode(
            mode,
            size_high << 32 | size,
            _moment(accessed, times[2]),
            _moment(changed, times[0]),
            _moment(modified, times[1]),
            (user_high << 16 | user, group_high << 16 | group_id),
            links,
            stored,
            flags,
            data,
            attributes_high << 32 | attributes,
            raw,
        )

    def _read_piece(self, group: int, number: int) -> bytes:
        self.fh.seek(self._table(group) + number * _PIECE)
        return bytes(self.fh.read(_PIECE))

    def _find_table(self, group: int) -> int:
        """Where a group's inodes begin, in bytes."""
        found = self._read_group_desc(group)
        high = found.bg_inode_table_hi if self._group_desc_struct == c_ext.ext4_group_desc else 0
        return int(high << 32 | found.bg_inode_table_lo) * int(self.block_size)


def _moment(seconds: int, extra: int) -> int:
    """In ns; seconds have 34 bits, the lowest 32 of them signed, where an inode is long enough."""
    seconds = (seconds ^ 0x8000_0000) - 0x8000_0000 + ((extra & 3) << 32)
    return seconds * 10**9 + (extra >> 2)


class ExtNode(Node):
    """An inode, by one of its names."""

    __slots__ = ("_fs", "_number")

    def __init__(self, fs: _FileSystem, number: int, name: str) -> None:
        super().__init__(name)
        self._fs = fs
        self._number = number

    @property
    def identity(self) -> Hashable:
        """The inode's number."""
        return self._number

    def stat(self) -> Stat:
        """From the inode."""
        inode = self._load()
        found = posix_stat(inode.mode, inode.size, inode.modified)
        return found._replace(
            inode=self._number,
            owner=inode.owner,
            links=inode.links,
            device=_device(inode) if found.kind == Kind.OTHER else 0,
            accessed=plausible(inode.accessed),
            changed=plausible(inode.changed),
            stored=inode.stored,
        )

    def children(self) -> Iterator[Node]:
        """In the order of the folder's blocks, which is that of a hash in large ones."""
        for index, (number, name) in enumerate(self._entries()):
            if index >= 2 or name not in (b".", b".."):
                yield ExtNode(self._fs, number, name.decode(errors="surrogateescape"))

    def content(self) -> Content:
        """The file's blocks; reserved ones that were never written are holes."""
        inode = self._load()
        self._check_plain()
        if inode.flags & c_ext.EXT4_INLINE_DATA_FL:
            data = self._inline()[: inode.size]
            if len(data) < inode.size:
                raise Unreadable(tr("its inode holds only a part of it"))
            return Content(io.BytesIO(data), inode.size, [(0, inode.size)])
        size, block_size = inode.size, self._fs.block_size
        runs = self._runs(-(-size // block_size))
        stream = RunlistStream(self._fs.fh, runs, size, block_size)
        return Content(stream, size, data_ranges(runs, block_size, size))

    def blocks(self) -> list[Range]:
        """By its map of blocks, without those that the map itself takes."""
        inode = self._load()
        is_mapped = posix.S_IFMT(inode.mode) in (posix.S_IFREG, posix.S_IFDIR)
        if not is_mapped or inode.flags & c_ext.EXT4_INLINE_DATA_FL:
            return []
        runs = self._runs(-(-inode.size // self._fs.block_size))
        return blocks_of(runs, self._fs.block_size)

    def attributes(self) -> dict[str, bytes]:
        """From the inode, and from the block that it names."""
        return {
            name: _attribute_value(index, value)
            for index, suffix, value in self._attributes()
            if (name := _attribute_name(index, suffix))
        }

    def _target(self) -> str:
        self._check_plain()
        inode = self._load()
        if inode.flags & (c_ext.EXT4_INLINE_DATA_FL | c_ext.EXT4_EXTENTS_FL) or (
            inode.size >= _IN_INODE
        ):
            content = self.content()
            return os.fsdecode(read_at(content, 0, content.size))
        return os.fsdecode(inode.data[: inode.size])

    def _check_plain(self) -> None:
        """What is encrypted has names and targets that only look like such."""
        if self._load().flags & c_ext.EXT4_ENCRYPT_FL:
            raise Unreadable(tr("it is encrypted"))

    def _load(self) -> _Inode:
        return self._fs.inode(self._number)

    def _inline(self) -> bytes:
        """What the inode has place for, then what the attribute "system.data" holds."""
        rest = (value for index, name, value in self._attributes() if (index, name) == (7, b"data"))
        return self._load().data + next(rest, b"")

    def _attributes(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Extended attributes: what their name begins with, the rest of it, the value."""
        inode = self._load()
        if len(inode.raw) > _OLD_INODE:
            (extra,) = struct.unpack_from("<H", inode.raw, _OLD_INODE)
            start = _OLD_INODE + extra
            if inode.raw[start : start + 4] == _ATTRIBUTES.to_bytes(4, "little"):
                yield from self._parse_attributes(inode.raw, start + 4, start + 4)
        if inode.attributes:
            block = self._block(inode.attributes)
            if block[:4] != _ATTRIBUTES.to_bytes(4, "little"):
                raise Unreadable(tr("its attributes are damaged"))
            yield from self._parse_attributes(block, 32, 0)

    def _parse_attributes(
        self, data: bytes, at: int, base: int
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """The entries from `at` on, whose values are counted from `base`."""
        while at + _ATTRIBUTE.size <= len(data) and any(data[at : at + 4]):
            length, index, place, inode, size = _ATTRIBUTE.unpack_from(data, at)
            name = data[at + _ATTRIBUTE.size : at + _ATTRIBUTE.size + length]
            if inode:  # large ones have a file of their own
                if size > _MAX_ATTRIBUTE:
                    raise Unreadable(tr("its attributes are damaged"))
                value = read_at(ExtNode(self._fs, inode, "").content(), 0, size)
            else:
                value = data[base + place : base + place + size]
            if len(value) != size:
                raise Unreadable(tr("its attributes are damaged"))
            yield index, name, value
            at += -(-(_ATTRIBUTE.size + length) // 4) * 4

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        self._check_plain()
        if self._load().flags & c_ext.EXT4_INLINE_DATA_FL:
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
                    raise Unreadable(tr("the disk ends before a part of it"))
                yield from _parse(block)

    def _runs(self, blocks: int) -> list[Run]:
        inode = self._load()
        if inode.flags & c_ext.EXT4_EXTENTS_FL:
            return merged(runs_of(self._extents(inode.data, None), blocks), blocks)
        return merged(self._indirect(inode.data), blocks)

    def _extents(self, data: bytes, depth: int | None) -> Iterator[tuple[int, int | None, int]]:
        magic, count, _, level = struct.unpack_from("<HHHH", data)
        wrong_level = level > _MAX_DEPTH if depth is None else level != depth or not count
        if magic != 0xF30A or wrong_level or 12 * (count + 1) > len(data):
            raise Unreadable(tr("its map of blocks is damaged"))
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
            raise Unreadable(tr("the disk ends before a part of it"))
        return bytes(data)


def _parse(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of a folder's block: inode number, name."""
    offset = 0
    while offset + 8 <= len(block):
        number, length, name_length, _ = struct.unpack_from("<IHBB", block, offset)
        if length in (0, 0xFFFF) and len(block) == 0x10000:
            length = len(block)
        if length < 8 + (name_length if number else 0) or offset + length > len(block):
            raise Unreadable(tr("the folder is damaged"))
        if number:
            yield number, block[offset + 8 : offset + 8 + name_length]
        offset += length


def _device(inode: _Inode) -> int:
    """The numbers of a device: as they were of 16 bits, or as they are of 32 (linux/kdev_t.h)."""
    old, new = struct.unpack_from("<II", inode.data)
    if old:
        return os.makedev(old >> 8 & 0xFF, old & 0xFF)
    return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)


def _attribute_name(index: int, suffix: bytes) -> str:
    """What Linux calls an attribute; "" for one that it keeps to itself."""
    if index in _LISTS:
        return _LISTS[index]
    prefix = _PREFIXES.get(index)
    return prefix + os.fsdecode(suffix) if prefix else ""


def _attribute_value(index: int, value: bytes) -> bytes:
    """An access control list is stored without the places that only named ones need."""
    return posix_acl(_acl_entries(value)) if index in _LISTS else value


def _acl_entries(value: bytes) -> Iterator[tuple[int, int, int | None]]:
    at = 4
    while at + 4 <= len(value):
        tag, allowed = struct.unpack_from("<HH", value, at)
        at += 4
        who = None
        if tag in (_NAMED_USER, _NAMED_GROUP):
            (who,) = struct.unpack_from("<I", value, at)
            at += 4
        yield tag, allowed, who
