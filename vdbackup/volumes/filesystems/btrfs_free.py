"""Which bytes of a Btrfs are free: what lies in no chunk, and what its tree of free space names.

A Btrfs never writes over what its last transaction needs, so its trees can be read while it is in
use: what a super block leads to is of one moment, and each block of it has a checksum, its own
address, and the transaction that wrote it. A block that has been taken for something new meanwhile
is seen by these; then another super block leads to another tree.

Only one device, whose chunks lie on it once, or twice: of others it takes more to know what lies
where. Anything that is unknown ends in Unreadable: then nothing is free.

Specification: https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html; of the tree of free
space, fs/btrfs/free-space-tree.c, and linux/btrfs_tree.h.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np

from vdbackup.disks.extents import Ranges, as_ranges, overlap, union, without
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.free_clusters import clear_bits
from vdbackup.volumes.filesystems.node import Unreadable

Read = Callable[[int, int], bytes]
"""Bytes of the volume, from an offset on, so many; fewer at its end."""

_MIB = 1 << 20
_SUPER_BLOCKS = (64 << 10, 64 * _MIB, 256 << 30)
_SUPER_SIZE, _SUPER_ROOM = 4096, 64 << 10
_RESERVED = _MIB
"""Bytes at the beginning of a device in which no chunk lies: boot loaders do."""
_WRITTEN = 1
_FREE_SPACE_TREE, _FREE_SPACE_TREE_VALID = 1, 2
_READ_ONLY = 0xF
"""Features: the tree of free space, verity, a tree of block groups."""
_INCOMPATIBLE = 0xFFF | 0x10000
"""References back, the default subvolume, mixed groups, compression, large nodes and references,
parity, slim metadata, holes that are not listed, its own UUID of metadata, three and four copies,
simple quotas. Not: zones, the second tree of extents, a tree of stripes."""
_CRC32C = 0
_PROFILES, _DUP = 0x7F8, 0x20
"""Of a chunk's type: how it is spread over devices."""
_ROOT_ITEM, _INFO, _EXTENT, _BITMAP, _CHUNK = 132, 198, 199, 200, 228
"""Types of items."""
_FREE_SPACE_ROOT = 10
_KEY = struct.Struct("<QBQ")
_HEADER, _POINTER, _ITEM = 101, 33, 25
_MAX_LEVELS = 8
_MAX_BLOCKS = 1 << 16
"""Of one tree: 1 GiB, or the free space of many TiB."""
_TRIES = 3
_DAMAGED = tr("its trees are damaged")


def free_of_unmounted(read: Read, size: int) -> Ranges:
    """What is free in a Btrfs that nobody has mounted, in bytes; raises Unreadable in any doubt."""
    super_block = _SuperBlock.read(read, size)
    if super_block.log_root:
        raise Unreadable(tr("its log of synced files has not been applied"))
    return _Btrfs(read, super_block).free()


def free_of_mounted(read: Read, size: int) -> Ranges:
    """What was free in one that is in use, in a transaction that ended before this is called.

    Of what has been written since it says nothing. Raises as `free_of_unmounted` does.
    """
    for left in reversed(range(_TRIES)):
        try:
            return _Btrfs(read, _SuperBlock.read(read, size)).free()
        except Unreadable:  # another transaction took a block of it, or was writing this
            if not left:
                raise
    raise AssertionError


@dataclass(frozen=True)
class _SuperBlock:
    """What it says; places and sizes in bytes, the roots by their logical addresses."""

    generation: int
    root: _Pointer
    chunks: _Pointer
    log_root: int
    device: int
    size: int
    sector: int
    node: int
    has_free_space_tree: bool
    first_chunks: bytes

    @classmethod
    def read(cls, read: Read, size: int) -> _SuperBlock:
        data = read(_SUPER_BLOCKS[0], _SUPER_SIZE)
        if len(data) < _SUPER_SIZE or data[64:72] != b"_BHRfS_M":
            raise Unreadable(tr("its super block is damaged"))
        (address, flags), (generation, root, chunks, log) = (
            struct.unpack_from("<QQ", data, 48),
            struct.unpack_from("<QQQQ", data, 72),
        )
        (devices,) = struct.unpack_from("<Q", data, 136)
        sector, node, _, _, first = struct.unpack_from("<IIIII", data, 144)
        chunk_generation, _, read_only, incompatible, sums, level, chunk_level = struct.unpack_from(
            "<QQQQHBB", data, 164
        )
        device, length = struct.unpack_from("<QQ", data, 201)
        if sums != _CRC32C:
            raise Unreadable(tr("its checksums are of a kind that vdbackup does not know"))
        if not _is_whole(data) or address != _SUPER_BLOCKS[0]:
            raise Unreadable(tr("its super block is damaged"))
        if devices != 1:
            raise Unreadable(tr("it lies on several devices"))
        if flags != _WRITTEN or read_only & ~_READ_ONLY or incompatible & ~_INCOMPATIBLE:
            raise Unreadable(tr("it has features that vdbackup does not know"))
        sane = sector in (4096, 8192, 16384, 65536) and sector <= node <= 65536
        if not sane or node % sector or first > 2048 or not _RESERVED < length <= size:
            raise Unreadable(tr("its super block is damaged"))
        valid = _FREE_SPACE_TREE | _FREE_SPACE_TREE_VALID
        return cls(
            generation,
            _Pointer(root, generation, level),
            _Pointer(chunks, chunk_generation, chunk_level),
            log,
            device,
            length,
            sector,
            node,
            read_only & valid == valid,
            data[811 : 811 + first],
        )


@dataclass(frozen=True)
class _Pointer:
    """Where a block of a tree lies, which transaction wrote it, and how far above the leaves."""

    address: int
    generation: int
    level: int


@dataclass(frozen=True, order=True)
class _Chunk:
    """Logical addresses, and where on the device they lie: at one place, or at two."""

    logical: int
    length: int
    places: tuple[int, ...]


class _Btrfs:
    """A file system as of one transaction."""

    def __init__(self, read: Read, super_block: _SuperBlock) -> None:
        self._read, self._super = read, super_block
        self._chunks = sorted(self._first_chunks())
        self._chunks = sorted(
            self._chunk(logical, data)
            for _, kind, logical, data in self._items(super_block.chunks)
            if kind == _CHUNK
        )

    def free(self) -> Ranges:
        """What is free, in bytes of the device."""
        size = self._super.size
        taken = _joined((place, chunk.length) for chunk in self._chunks for place in chunk.places)
        device = as_ranges([(_RESERVED, size - _RESERVED)])
        free = without(device, taken)
        if self._super.has_free_space_tree:
            free = union(free, self._on_device(self._free_space()))
        kept = as_ranges([(place, _SUPER_ROOM) for place in _SUPER_BLOCKS])
        return overlap(without(free, kept), device)

    def _free_space(self) -> Ranges:
        """By logical addresses, ascending; none lies in several chunks."""
        found: list[tuple[int, int]] = []
        maps = [np.empty((0, 2), np.int64)]
        for start, kind, length, data in self._items(self._root_of(_FREE_SPACE_ROOT)):
            if kind == _EXTENT:
                found.append((start, length))
            elif kind == _BITMAP:
                bits = length // self._super.sector
                if len(data) * 8 < bits:
                    raise Unreadable(_DAMAGED)
                used = ~np.frombuffer(data, np.uint8)
                maps.append(clear_bits(used, bits) * self._super.sector + np.array([start, 0]))
        pieces = np.concatenate([as_ranges(found), *maps])
        pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
        if (pieces[:, 1] <= 0).any() or (pieces[1:, 0] < pieces[:-1].sum(1)).any():
            raise Unreadable(_DAMAGED)
        return pieces

    def _on_device(self, logical: Ranges) -> Ranges:
        """Where that lies; what is in no chunk, nowhere: mkfs.btrfs leaves some that it removes."""
        chunks = as_ranges([(chunk.logical, chunk.length) for chunk in self._chunks])
        number = np.searchsorted(chunks[:, 0], logical[:, 0], "right") - 1
        inside = (number >= 0) & (logical.sum(1) <= chunks[number].sum(1))
        logical, number = logical[inside], number[inside]
        found = [np.empty((0, 2), np.int64)]
        for copy in (0, -1):  # the same where there is but one
            moved = [chunk.places[copy] - chunk.logical for chunk in self._chunks]
            found.append(logical + np.array([(by, 0) for by in moved], np.int64)[number])
        return union(np.concatenate(found), found[0])

    def _root_of(self, tree: int) -> _Pointer:
        for number, kind, _, data in self._items(self._super.root):
            if (number, kind) == (tree, _ROOT_ITEM) and len(data) >= 239:
                generation, _, address = struct.unpack_from("<QQQ", data, 160)
                return _Pointer(address, generation, data[238])
        raise Unreadable(_DAMAGED)

    def _first_chunks(self) -> Iterator[_Chunk]:
        """Those that the super block lists itself, in which the tree of chunks lies."""
        data, at = self._super.first_chunks, 0
        while at < len(data):
            if at + _KEY.size + 48 > len(data):
                raise Unreadable(_DAMAGED)
            _, _, logical = _KEY.unpack_from(data, at)
            item = data[at + _KEY.size :]
            yield self._chunk(logical, item)
            at += _KEY.size + 48 + 32 * struct.unpack_from("<H", item, 44)[0]

    def _chunk(self, logical: int, data: bytes) -> _Chunk:
        if len(data) < 48:
            raise Unreadable(_DAMAGED)
        length, _, _, kind = struct.unpack_from("<QQQQ", data)
        (stripes,) = struct.unpack_from("<H", data, 44)
        spread = kind & _PROFILES
        if spread not in (0, _DUP):
            raise Unreadable(tr("its chunks are spread in a way that vdbackup does not know"))
        if stripes != (2 if spread else 1) or len(data) < 48 + 32 * stripes:
            raise Unreadable(_DAMAGED)
        found = [struct.unpack_from("<QQ", data, 48 + 32 * number) for number in range(stripes)]
        size = self._super.size
        if any(
            device != self._super.device or not 0 < length <= size - place
            for device, place in found
        ):
            raise Unreadable(_DAMAGED)
        return _Chunk(logical, length, tuple(place for _, place in found))

    def _items(self, root: _Pointer) -> Iterator[tuple[int, int, int, bytes]]:
        """A tree's items in order: the three parts of the key, and the data."""
        waiting, seen = [root], 0
        while waiting:
            pointer = waiting.pop()
            block = self._block(pointer)
            seen += 1
            (count,) = struct.unpack_from("<I", block, 96)
            if seen > _MAX_BLOCKS or _HEADER + count * _ITEM > len(block):
                raise Unreadable(_DAMAGED)
            if pointer.level:
                if _HEADER + count * _POINTER > len(block):
                    raise Unreadable(_DAMAGED)
                places = range(_HEADER, _HEADER + count * _POINTER, _POINTER)
                below = [struct.unpack_from("<QQ", block, at + _KEY.size) for at in places]
                waiting += [
                    _Pointer(address, generation, pointer.level - 1)
                    for address, generation in reversed(below)
                ]
                continue
            for at in range(_HEADER, _HEADER + count * _ITEM, _ITEM):
                offset, length = struct.unpack_from("<II", block, at + _KEY.size)
                start = _HEADER + offset
                if start + length > len(block):
                    raise Unreadable(_DAMAGED)
                yield (*_KEY.unpack_from(block, at), block[start : start + length])

    def _block(self, pointer: _Pointer) -> bytes:
        """A block of a tree that is what leads there says that it is."""
        data = self._read(self._place(pointer.address), self._super.node)
        if len(data) < self._super.node or pointer.level > _MAX_LEVELS or not _is_whole(data):
            raise Unreadable(_DAMAGED)
        address, generation = struct.unpack_from("<Q24xQ", data, 48)
        if _Pointer(address, generation, data[100]) != pointer:
            raise Unreadable(_DAMAGED)
        return data

    def _place(self, logical: int) -> int:
        """Where on the device a block of a tree lies, its first copy."""
        number = bisect_right(self._chunks, logical, key=lambda chunk: chunk.logical) - 1
        chunk = self._chunks[number] if number >= 0 else None
        if chunk is None or logical > chunk.logical + chunk.length - self._super.node:
            raise Unreadable(_DAMAGED)
        return chunk.places[0] + logical - chunk.logical


def _is_whole(block: bytes) -> bool:
    """Whether a block's checksum, at its beginning, is that of the rest."""
    return int.from_bytes(block[:4], "little") == int(google_crc32c.value(block[32:]))


def _joined(pieces: Iterator[tuple[int, int]]) -> Ranges:
    """Ascending and apart; raises Unreadable where two overlap."""
    found = as_ranges(sorted(pieces))
    if (found[1:, 0] < found[:-1].sum(1)).any():
        raise Unreadable(_DAMAGED)
    return union(found, np.empty((0, 2), np.int64))
