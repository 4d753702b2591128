"""Btrfs: all of its subvolumes from the topmost one on, whichever is the default.

Chunks and compression by dissect (1.10); trees here, which lists 10,000 files ten times as fast,
and comes to an end in trees that lead around in circles.

Specification: https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html
"""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from dissect.btrfs.c_btrfs import BTRFS_BLOCK_GROUP, c_btrfs
from dissect.btrfs.exceptions import Error
from dissect.btrfs.stream import HAS_ZSTD, ChunkStream, Extent, ExtentStream, decode_extent

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import (
    Content,
    EmptyFolder,
    Kind,
    Node,
    Range,
    Stat,
    Unreadable,
    data_ranges,
    plausible,
    posix_stat,
)

Key = tuple[int, int, int]
"""Object id, type, offset."""

_INODE, _INODE_NAME, _ENTRY, _EXTENT, _ROOT, _ROOT_REFERENCE, _CHUNK = 1, 12, 96, 108, 132, 156, 228
"""Types of items: an inode, its name in a folder, a folder's entry by index, a part of a file, a
subvolume, its place in another one, a part of the address space."""
_ATTRIBUTE = 24
_NAMED_ENTRY, _ROOT_NAME = 84, 144
"""A folder's entry by the hash of its name; the name of a subvolume in the one that it lies in."""
_INLINE, _RESERVED = 0, 2
"""Kinds of extents."""
_LAST = (1 << 64) - 1
_STRIPED = (
    BTRFS_BLOCK_GROUP.RAID0
    | BTRFS_BLOCK_GROUP.RAID10
    | BTRFS_BLOCK_GROUP.RAID5
    | BTRFS_BLOCK_GROUP.RAID6
)
_HEADER = struct.Struct("<96xIB")
_POINTER = struct.Struct("<QBQQ8x")
_ITEM = struct.Struct("<QBQII")
_DIRECTORY_ITEM = struct.Struct("<QBQ8xHHB")
_INODE_REFERENCE = struct.Struct("<QH")
_ROOT_BACK_REFERENCE = struct.Struct("<QQH")
_INODE_ITEM = struct.Struct("<16xQQ8xIIIIQ48xqIqIqI12x")
_INLINE_EXTENT = struct.Struct("<16xBB2xB")
_EXTENT_ITEM = struct.Struct("<21xQQQQ")
_READ = 0xFFF
"""Incompatible features that make no difference here or are read, up to copies on three and four
devices."""
_NAMES = {
    0x1000: tr("a log of zones in place of its super block"),
    0x2000: tr("a second version of its extent tree"),
    0x4000: tr("a tree of stripes"),
}
_SIMPLE_QUOTAS = 0x10000
_CACHED_NODES = 1024
_MAX_DEPTH = 1000
"""Folders of a path: Linux' have at most 4,096 bytes."""
_MAX_NODE, _MAX_PACKED = 65_536, 131_072
"""Bytes of a block of a tree, and of a compressed extent."""


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    return "Btrfs", _FileSystem(stream).root(c_btrfs.BTRFS_FS_TREE_OBJECTID, "")


class _FileSystem:
    """Where the trees lie.

    Attributes:
        devices: the one device, by its number, as dissect's ChunkStream wants to know it.
        bytes: the file system's address space.
        sector_size: in bytes.
        roots: the tree of trees.
        tree: the tree of a subvolume, by its number.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        stream.seek(c_btrfs.BTRFS_SUPER_INFO_OFFSET)
        block = c_btrfs.btrfs_super_block(stream)
        self._node_size: int = block.nodesize
        if not 4096 <= self._node_size <= _MAX_NODE:
            raise Unreadable(tr("its super block is damaged"))
        if unknown := block.incompat_flags & ~(_READ | _SIMPLE_QUOTAS):
            words = _NAMES.get(unknown & -unknown, tr("features that vdbackup does not know"))
            raise Unreadable(tr("it has {words} ({unknown:#x})", words=words, unknown=unknown))
        self.devices = {block.dev_item.devid: stream}
        self.sector_size: int = block.sectorsize
        self.bytes = ChunkStream(self)
        first_chunks = io.BytesIO(bytes(block.sys_chunk_array)[: block.sys_chunk_array_size])
        while first_chunks.tell() < block.sys_chunk_array_size:
            key = c_btrfs.btrfs_disk_key(first_chunks)
            self._add(key.offset, c_btrfs.btrfs_chunk(first_chunks))
        key = c_btrfs.BTRFS_FIRST_CHUNK_TREE_OBJECTID, _CHUNK
        for (_, _, offset), data in _Tree(self, block.chunk_root).items((*key, 0), (*key, _LAST)):
            self._add(offset, c_btrfs.btrfs_chunk(data))
        self.roots = _Tree(self, block.root)
        self.tree = lru_cache(64)(self._tree)

    def root(self, number: int, name: str) -> BtrfsNode:
        """The topmost folder of a subvolume."""
        return BtrfsNode(self, number, self._root_item(number).root_dirid, name)

    def default_subvolume(self) -> int:
        """The number of the subvolume that is mounted where nobody names another one."""
        key = c_btrfs.BTRFS_ROOT_TREE_DIR_OBJECTID, _NAMED_ENTRY
        for _, data in self.roots.items((*key, 0), (*key, _LAST)):
            number, _, _, _, length, _ = _DIRECTORY_ITEM.unpack_from(data)
            if bytes(data[_DIRECTORY_ITEM.size : _DIRECTORY_ITEM.size + length]) == b"default":
                return int(number)
        return int(c_btrfs.BTRFS_FS_TREE_OBJECTID)

    def path_of(self, number: int) -> str:
        """The path of a subvolume from the topmost folder on; "" is that itself."""
        names: list[str] = []
        while number != c_btrfs.BTRFS_FS_TREE_OBJECTID:
            (parent, folder, name) = self._named_in(self.roots, number, _ROOT_NAME)
            names.append(name)
            top = self._root_item(parent).root_dirid
            while folder != top:
                folder, _, name = self._named_in(self.tree(parent), folder, _INODE_NAME)
                names.append(name)
                if len(names) > _MAX_DEPTH:
                    raise Unreadable(tr("the file system's tree is damaged"))
            number = parent
        return "/".join(reversed(names))

    def _named_in(self, tree: _Tree, number: int, kind: int) -> tuple[int, int, str]:
        """What a subvolume or inode lies in, the folder there, and its name."""
        record = _ROOT_BACK_REFERENCE if kind == _ROOT_NAME else _INODE_REFERENCE
        for (_, _, parent), data in tree.items((number, kind, 0), (number, kind, _LAST)):
            first, *_, length = record.unpack_from(data)
            name = bytes(data[record.size : record.size + length])
            return parent, first, name.decode(errors="surrogateescape")
        raise Unreadable(tr("the name of a folder is missing"))

    def places(self, address: int, length: int) -> list[Range]:
        """Where on the device a stretch of the address space lies, each copy of it.

        Raises Unreadable where it lies in stripes over several devices.
        """
        found: list[Range] = []
        chunks = self.bytes.chunks
        row = bisect_right([chunk.offset for chunk in chunks], address) - 1
        while length > 0 and 0 <= row < len(chunks):
            chunk = chunks[row]
            inside = address - chunk.offset
            part = min(length, chunk.length - inside)
            if part <= 0:
                break
            if chunk.type & _STRIPED:
                raise Unreadable(tr("it lies in stripes"))
            starts = [each.offset + inside for each in chunk.stripes if each.fh is not None]
            found += [(start, start + part) for start in starts]
            address, length, row = address + part, length - part, row + 1
        return found

    def node(self, address: int) -> bytes:
        """A block of a tree."""
        self.bytes.seek(address)
        return bytes(self.bytes.read(self._node_size))

    def _tree(self, number: int) -> _Tree:
        return _Tree(self, self._root_item(number).bytenr)

    def _root_item(self, number: int) -> Any:
        for _, data in self.roots.items((number, _ROOT, 0), (number, _ROOT, _LAST)):
            return c_btrfs.btrfs_root_item(data)
        raise Unreadable(tr("a subvolume of it is missing"))

    def _add(self, offset: int, chunk: Any) -> None:
        """Make known where a chunk lies. dissect looks for ever for one that lies nowhere."""
        numbers = [stripe.devid for stripe in chunk.stripe]
        here = [number in self.devices for number in numbers]
        copied = chunk.type & BTRFS_BLOCK_GROUP.DUP
        if not any(here) or (copied and not all(here)):
            raise Unreadable(tr("a part of it lies on another device"))
        try:
            self.bytes.add(offset, chunk)
        except Error as error:  # more are missing than the profile can do without
            raise Unreadable(tr("a part of it lies on another device")) from error


class BtrfsNode(Node):
    """An inode of a subvolume, by one of its names."""

    __slots__ = ("_fs", "_number", "_volume")

    def __init__(self, fs: _FileSystem, volume: int, number: int, name: str) -> None:
        super().__init__(name)
        self._fs = fs
        self._volume = volume
        self._number = number

    @property
    def identity(self) -> Hashable:
        """The numbers of subvolume and inode."""
        return self._volume, self._number

    def stat(self) -> Stat:
        """From the inode."""
        data = self._fs.tree(self._volume).one((self._number, _INODE, 0))
        size, stored, links, user, group, mode, device, *times = _INODE_ITEM.unpack_from(data)
        accessed, changed, modified = (
            seconds * 10**9 + nanoseconds
            for seconds, nanoseconds in zip(times[::2], times[1::2], strict=True)
        )
        found = posix_stat(mode, size, modified)
        return found._replace(
            inode=(self._volume & 0xFFFF) << 40 | self._number & (1 << 40) - 1,
            owner=(user, group),
            links=links,
            device=_device(device) if found.kind == Kind.OTHER else 0,
            accessed=plausible(accessed),
            changed=plausible(changed),
            stored=stored,
        )

    def children(self) -> Iterator[Node]:
        """In the order in which they were made; subvolumes are folders."""
        first, last = (self._number, _ENTRY, 0), (self._number, _ENTRY, _LAST)
        for _, data in self._fs.tree(self._volume).items(first, last):
            number, kind, _, _, length, _ = _DIRECTORY_ITEM.unpack_from(data)
            encoded = bytes(data[_DIRECTORY_ITEM.size : _DIRECTORY_ITEM.size + length])
            name = encoded.decode(errors="surrogateescape")
            if kind != _ROOT:
                yield BtrfsNode(self._fs, self._volume, number, name)
            elif self._holds(number):
                yield self._fs.root(number, name)
            else:
                yield EmptyFolder(name)

    def content(self) -> Content:
        """The file's extents, decompressed; reserved ones that were never written are holes."""
        fs, size = self._fs, self.stat().size
        extents: list[Extent] = []
        position = 0
        key = self._number, _EXTENT
        for (_, _, first), data in self._fs.tree(self._volume).items((*key, 0), (*key, _LAST)):
            compression, encryption, kind = _INLINE_EXTENT.unpack_from(data)
            if compression == c_btrfs.BTRFS_COMPRESS_ZSTD and not HAS_ZSTD:
                raise Unreadable(
                    tr("reading what Zstandard compressed needs Python's backports.zstd")
                )
            if kind == _INLINE:
                packed = bytes(data[_INLINE_EXTENT.size :])
                inline = decode_extent(packed, compression, encryption, fs.sector_size)[:size]
                return Content(io.BytesIO(inline), size, [(0, len(inline))])
            at, stored, skip, length = _EXTENT_ITEM.unpack_from(data)
            if first < position or not length or (compression and stored > _MAX_PACKED):
                raise Unreadable(tr("its map of extents is damaged"))
            if kind == _RESERVED:
                continue
            if first > position:
                extents.append(Extent(0, 0, 0, 0, 0, first - position))
            extents.append(Extent(compression, encryption, at, stored, skip, length))
            position = first + length
        runs = [(extent.disk_offset or None, extent.length) for extent in extents]
        stream = ExtentStream(fs.bytes, extents, size, fs.sector_size)
        return Content(stream, size, data_ranges(runs, 1, size))

    def blocks(self) -> list[Range]:
        """Its extents, as they are stored, in each copy; a folder lies in the tree alone."""
        found: list[Range] = []
        key = self._number, _EXTENT
        for _, data in self._fs.tree(self._volume).items((*key, 0), (*key, _LAST)):
            _, _, kind = _INLINE_EXTENT.unpack_from(data)
            if kind != _INLINE:
                at, stored, _, _ = _EXTENT_ITEM.unpack_from(data)
                if at:  # 0 is a hole
                    found += self._fs.places(at, stored)
        return found

    def attributes(self) -> dict[str, bytes]:
        """From the tree: each item holds those whose names have one hash."""
        key = self._number, _ATTRIBUTE
        found = {}
        for _, data in self._fs.tree(self._volume).items((*key, 0), (*key, _LAST)):
            at = 0
            while at + _DIRECTORY_ITEM.size <= len(data):
                *_, size, length, _ = _DIRECTORY_ITEM.unpack_from(data, at)
                at += _DIRECTORY_ITEM.size
                if at + length + size > len(data):
                    raise Unreadable(tr("its attributes are damaged"))
                name = os.fsdecode(bytes(data[at : at + length]))
                found[name] = bytes(data[at + length : at + length + size])
                at += length + size
        return found

    def default_path(self) -> str:
        """Of the default subvolume (btrfs subvolume set-default)."""
        return self._fs.path_of(self._fs.default_subvolume())

    def _target(self) -> str:
        content = self.content()
        target: bytes = content.stream.read()
        return target.decode(errors="surrogateescape")

    def _holds(self, number: int) -> bool:
        """Whether a subvolume that a folder names is really there.

        A snapshot names the subvolumes that were inside the original, but holds them no more than a
        picture does: Linux shows empty folders in their places. Followed, they would lead around in
        circles wherever a subvolume holds its own snapshots.
        """
        key = (self._volume, _ROOT_REFERENCE, number)
        return any(True for _ in self._fs.roots.items(key, key))


def _device(number: int) -> int:
    """The numbers of a device, as the kernel itself keeps them: the minor one has 20 bits."""
    return os.makedev(number >> 20, number & 0xFFFFF)


class _TreeNode(NamedTuple):
    """A block of a tree: its keys in ascending order, and what belongs to each."""

    level: int
    keys: list[Key]
    pointers: list[int]
    values: list[memoryview]


class _Tree:
    """A tree of items, in ascending order of their keys."""

    def __init__(self, fs: _FileSystem, root: int) -> None:
        self._fs = fs
        self._root = root
        self._node = lru_cache(_CACHED_NODES)(self._read)

    def one(self, key: Key) -> memoryview:
        """The value of an item; raises Unreadable if there is none."""
        for _, value in self.items(key, key):
            return value
        raise Unreadable(tr("its inode is missing"))

    def items(self, first: Key, last: Key) -> Iterator[tuple[Key, memoryview]]:
        """The items from `first` to `last`."""
        return self._below(self._node(self._root), first, last)

    def _below(self, node: _TreeNode, first: Key, last: Key) -> Iterator[tuple[Key, memoryview]]:
        for index in range(max(0, bisect_right(node.keys, first) - 1), len(node.keys)):
            key = node.keys[index]
            if key > last:
                return
            if node.level:
                child = self._node(node.pointers[index])
                if child.level != node.level - 1 or child.keys[:1] != [key]:
                    raise Unreadable(tr("the file system's tree is damaged"))
                yield from self._below(child, first, last)
            elif key >= first:
                yield key, node.values[index]

    def _read(self, address: int) -> _TreeNode:
        data = memoryview(self._fs.node(address))
        count, level = _HEADER.unpack_from(data)
        record = _POINTER if level else _ITEM
        start = _HEADER.size
        if start + count * record.size > len(data) or level > 7:
            raise Unreadable(tr("the file system's tree is damaged"))
        fields = list(record.iter_unpack(data[start : start + count * record.size]))
        keys = [entry[:3] for entry in fields]
        if level:
            return _TreeNode(level, keys, [entry[3] for entry in fields], [])
        values = [data[start + offset : start + offset + size] for *_, offset, size in fields]
        return _TreeNode(level, keys, [], values)
