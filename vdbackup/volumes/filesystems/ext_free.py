"""Which bytes of an ext2, ext3 or ext4 are free: by its block bitmaps, where those are sure.

A bitmap counts where its checksum, or the group's count of free blocks, agrees with it. Whatever
else the super block or a descriptor says that is unknown or does not fit ends in Unreadable: then
nothing is free. What a group keeps for itself (copies of the super block, descriptors, bitmaps,
tables of inodes) is in use whatever its bitmap says.

Specification: https://docs.kernel.org/filesystems/ext4/ ("Block Group Descriptors", "Block and
inode Bitmaps", "Checksums"); of groups without a bitmap, fs/ext4/balloc.c, ext4_init_block_bitmap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s, Ranges, union, without
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.free_clusters import clear_bits
from vdbackup.volumes.filesystems.node import Unreadable

Read = Callable[[int, int], bytes]
"""Bytes of the volume, from an offset on, so many; fewer at its end."""
_Flags = NDArray[np.bool_]
_Bytes = NDArray[np.uint8]

_SUPER_BLOCK, _SUPER_SIZE = 1024, 1024
_VALID, _ERRORS = 1, 2
_JOURNAL, _SPARSE_2, _COMPATIBLE = 0x4, 0x200, 0x1E7F
"""Features of no account for who only reads: preallocation, journal, attributes, room to grow,
index of folders, sparse_super2, fast commits, stable inodes, an orphan file. Not the bitmap of
excluded blocks (0x100)."""
_RECOVER, _META_BG, _64BIT, _SEED = 0x4, 0x10, 0x80, 0x2000
_INCOMPATIBLE = 0x2 | _RECOVER | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | _SEED | 0x3C000
"""File types in folders, recovery, meta_bg, extents, 64 bits, multiple mount protection, flexible
groups, attributes in inodes, a seed of checksums, large folders, data in inodes, encryption, folded
case."""
_SPARSE, _GDT_CSUM, _BIGALLOC, _CSUM = 0x1, 0x10, 0x200, 0x400
_READ_ONLY = 0x7F | 0x100 | _BIGALLOC | _CSUM | 0x2000 | 0x8000 | 0x10000
"""Sparse copies, large and huge files, trees, checksums of descriptors, many folders, large inodes,
quotas, clusters, checksums, projects, verity, orphans in their file. Not snapshots (0x80), replicas
(0x800), and blocks that files share (0x4000)."""
_BLOCK_UNINIT = 0x2
_CRC32C = 1
_AT_ONCE = 64
"""Groups whose bitmaps are looked at together: 2 million blocks."""
_MAX_GROUPS = 1 << 20
"""128 TiB in blocks of 4 KiB: the map of more takes too long."""
_TRIES = 3
"""Of what a mounted file system is just writing."""


def kind_of(head: bytes) -> str:
    """Which one begins with that, by its features: "ext2", "ext3" or "ext4"."""
    compatible, incompatible, read_only = struct.unpack_from("<III", head, _SUPER_BLOCK + 92)
    if incompatible & ~(0x2 | _RECOVER | _META_BG) or read_only & ~0x7:
        return "ext4"
    return "ext3" if compatible & _JOURNAL else "ext2"


def free_of_unmounted(read: Read, size: int) -> Ranges:
    """What is free in a file system that nobody has mounted.

    Args:
        read: reads the volume.
        size: of the volume, in bytes.

    Raises Unreadable where that is not sure, as where its journal has to be replayed.
    """
    ext = _Ext.read(read, size)
    if ext.incompatible & _RECOVER:
        raise Unreadable(
            tr("its journal has not been replayed: it is in use, or was not unmounted")
        )
    if ext.state != _VALID:
        raise Unreadable(tr("it was not unmounted cleanly, or has errors"))
    groups = _Groups(ext, read)
    if not groups.sure.all():
        raise Unreadable(tr("its maps of free blocks are damaged"))
    return groups.free()


def free_of_mounted(read: Read, size: int) -> Ranges:
    """What is free in one that is mounted, and was frozen since its changes are being marked.

    What was written before is as the bitmaps have said since then, each bit of them in the state of
    some later moment. So a bit that says "free" is right for the moment at which that was written,
    and whatever is put there later is marked. Groups whose bitmap and descriptor are of different
    moments, even when they are read again, have nothing free.

    Args and errors are those of `free_of_unmounted`.
    """
    ext = _Ext.read(read, size)
    if ext.state & ~_VALID:
        raise Unreadable(tr("it has errors"))
    groups = _Groups(ext, read)
    for _ in range(_TRIES):
        if groups.sure.all():
            break
        groups = _Groups(ext, read)
    return groups.free()


@dataclass(frozen=True)
class _Ext:
    """What the super block says; sizes in bytes where nothing else is said.

    Attributes:
        blocks: of the file system.
        first: the number of its first block that is counted in groups.
        per_cluster: blocks that one bit of a bitmap stands for.
        clusters: bits of a group's bitmap.
        copies: the groups that hold copies of the super block, if it names them (sparse_super2).
    """

    state: int
    compatible: int
    incompatible: int
    read_only: int
    block: int
    blocks: int
    first: int
    per_cluster: int
    clusters: int
    inodes: int
    inode_size: int
    descriptor: int
    reserved: int
    first_meta_group: int
    copies: tuple[int, int]
    uuid: bytes
    seed: int

    @classmethod
    def read(cls, read: Read, size: int) -> _Ext:
        """From a volume; raises Unreadable where anything in it is unknown, or does not fit."""
        data = read(_SUPER_BLOCK, _SUPER_SIZE)
        if len(data) < _SUPER_SIZE or data[56:58] != b"\x53\xef":
            raise Unreadable(tr("its super block is damaged"))

        def number(at: int, layout: str = "<I") -> int:
            return int(struct.unpack_from(layout, data, at)[0])

        compatible, incompatible, read_only = (number(at) for at in (92, 96, 100))
        if number(76) != 1:
            raise Unreadable(tr("it is of a version that vdbackup does not know"))
        unknown = (
            compatible & ~_COMPATIBLE, incompatible & ~_INCOMPATIBLE, read_only & ~_READ_ONLY,
        )  # fmt: skip
        if any(unknown):
            bits = " ".join(f"{each:#x}" for each in unknown)
            raise Unreadable(tr("it has features that vdbackup does not know ({bits})", bits=bits))
        has_sums = bool(read_only & _CSUM)
        if has_sums:
            if number(0x175, "<B") != _CRC32C:
                raise Unreadable(tr("it has checksums that vdbackup does not know"))
            if number(0x3FC) != _crc32c(0xFFFF_FFFF, data[:0x3FC]):
                raise Unreadable(tr("the checksum of its super block is wrong"))
        large = bool(incompatible & _64BIT)
        block = 1024 << min(number(24), 16)
        uuid = data[104:120]
        ext = cls(
            state=number(58, "<H"),
            compatible=compatible,
            incompatible=incompatible,
            read_only=read_only,
            block=block,
            blocks=number(4) | (number(0x150) << 32 if large else 0),
            first=number(20),
            per_cluster=1 << (min(number(28) - number(24), 16) if read_only & _BIGALLOC else 0),
            clusters=number(36 if read_only & _BIGALLOC else 32),
            inodes=number(40),
            inode_size=number(88, "<H"),
            descriptor=number(0xFE, "<H") if large else 32,
            reserved=number(0xCE, "<H") if compatible & 0x10 else 0,
            first_meta_group=number(0x104) if incompatible & _META_BG else 0,
            copies=struct.unpack_from("<II", data, 0x24C),
            uuid=uuid,
            seed=number(0x270) if incompatible & _SEED else _crc32c(0xFFFF_FFFF, uuid),
        )
        ext._check(size, number(32))
        return ext

    def _check(self, size: int, blocks_per_group: int) -> None:
        sane = (
            1024 <= self.block <= 65536
            and 0 < self.clusters <= self.block * 8
            and self.clusters % 8 == 0
            and self.clusters * self.per_cluster == blocks_per_group
            and self.first in (0, 1)
            and self.first < self.blocks
            and self.blocks * self.block <= size
            and self.descriptor in (32, 64)
            and self.inode_size >= 128
            and self.inodes > 0
            and self.count <= _MAX_GROUPS
        )
        if not sane:
            raise Unreadable(tr("its super block is damaged, or the volume was cut off"))

    @property
    def per_group(self) -> int:
        """Blocks of a group."""
        return self.clusters * self.per_cluster

    @property
    def count(self) -> int:
        """Groups."""
        return -(-(self.blocks - self.first) // self.per_group)

    @property
    def per_descriptor_block(self) -> int:
        """Descriptors in a block."""
        return self.block // self.descriptor

    @property
    def has_checksums(self) -> bool:
        """Whether descriptors have checksums; only then may a group be without its bitmap."""
        return bool(self.read_only & (_CSUM | _GDT_CSUM))

    @property
    def descriptor_blocks(self) -> int:
        """Blocks of descriptors, all together."""
        return -(-self.count // self.per_descriptor_block)

    @property
    def in_the_beginning(self) -> int:
        """How many of those lie together behind the super block."""
        if self.incompatible & _META_BG:
            return min(self.first_meta_group, self.descriptor_blocks)
        return self.descriptor_blocks

    def has_copy(self, group: int) -> bool:
        """Whether a group begins with a super block."""
        if group == 0:
            return True
        if self.compatible & _SPARSE_2:
            return group in self.copies
        if group == 1 or not self.read_only & _SPARSE:
            return True
        return any(_is_power(group, of) for of in (3, 5, 7))

    def place_of(self, descriptors: int) -> int:
        """The block in which that block of descriptors lies."""
        if descriptors < self.in_the_beginning:
            return _SUPER_BLOCK // self.block + 1 + descriptors
        group = descriptors * self.per_descriptor_block
        shifted = group == 0 and self._is_shifted
        return self.first + group * self.per_group + self.has_copy(group) + shifted

    @property
    def _is_shifted(self) -> bool:
        """Whether the super block is the second block of its group."""
        return self.block == 1024 and self.first == 0

    def own_blocks(self, group: int) -> int:
        """How many blocks a group begins with that hold the super block and descriptors."""
        has_copy = self.has_copy(group)
        meta = group // self.per_descriptor_block
        if self.incompatible & _META_BG and meta >= self.in_the_beginning:
            nth = group % self.per_descriptor_block
            return has_copy + (nth in (0, 1, self.per_descriptor_block - 1))
        if not has_copy:
            return 0
        return 1 + self._is_shifted + self.in_the_beginning + self.reserved


class _Groups:
    """The groups' descriptors and bitmaps, as they were read.

    Attributes:
        sure: bool[groups], of which groups the descriptor and the bitmap are right.
    """

    def __init__(self, ext: _Ext, read: Read) -> None:
        self._ext, self._read = ext, read
        self._rows = self._descriptors()
        self.sure = self._right_descriptors()
        self._bitmaps = self._column(0, 0x20)
        self._check_places()
        self._is_uninit = self._has_flag(_BLOCK_UNINIT)
        self._found = [
            self._free_in(first, min(first + _AT_ONCE, ext.count))
            for first in range(0, ext.count, _AT_ONCE)
        ]

    def free(self) -> Ranges:
        """What is free of the volume, in bytes."""
        if not self._found:
            return np.empty((0, 2), np.int64)
        blocks = union(np.concatenate(self._found), np.empty((0, 2), np.int64))
        return without(blocks, self._own) * self._ext.block

    # ------------------------------------------------------------------------- descriptors

    def _descriptors(self) -> _Bytes:
        """uint8[groups, size of a descriptor]."""
        ext = self._ext
        if ext.in_the_beginning == ext.descriptor_blocks:
            data = self._blocks_at(ext.place_of(0), ext.descriptor_blocks)
        else:
            places = map(ext.place_of, range(ext.descriptor_blocks))
            data = b"".join(self._blocks_at(place, 1) for place in places)
        found = np.frombuffer(data, np.uint8)
        per_block = ext.per_descriptor_block * ext.descriptor
        rows = found.reshape(-1, ext.block)[:, :per_block].reshape(-1, ext.descriptor)
        return rows[: ext.count]

    def _blocks_at(self, block: int, count: int) -> bytes:
        data = self._read(block * self._ext.block, count * self._ext.block)
        if len(data) < count * self._ext.block:
            raise Unreadable(tr("the disk ends before a part of it"))
        return data

    def _column(self, low: int, high: int, size: int = 4) -> Int64s:
        """Numbers of all descriptors whose lower and upper half stand there."""
        layout = f"<u{size}"
        found = np.ascontiguousarray(self._rows[:, low : low + size]).view(layout)[:, 0]
        numbers = found.astype(np.int64)
        if self._ext.descriptor >= 64:
            upper = np.ascontiguousarray(self._rows[:, high : high + size]).view(layout)[:, 0]
            numbers |= upper.astype(np.int64) << (8 * size)
        return numbers

    def _short(self, at: int) -> Int64s:
        return np.ascontiguousarray(self._rows[:, at : at + 2]).view("<u2")[:, 0].astype(np.int64)

    def _has_flag(self, flag: int) -> _Flags:
        if not self._ext.has_checksums:
            return np.zeros(self._ext.count, np.bool_)
        return np.asarray(self._short(0x12) & flag != 0, np.bool_)

    def _right_descriptors(self) -> _Flags:
        """Those whose checksum is right; all, where there are none."""
        ext = self._ext
        if not ext.has_checksums:
            return np.ones(ext.count, np.bool_)
        wanted = self._short(0x1E)
        rows = self._rows
        found = np.empty(ext.count, np.int64)
        for group in range(ext.count):
            row, name = rows[group].tobytes(), struct.pack("<I", group)
            if ext.read_only & _CSUM:
                blank = row[:0x1E] + b"\0\0" + row[0x20:]
                found[group] = _crc32c(_crc32c(ext.seed, name), blank) & 0xFFFF
            else:
                found[group] = _crc16(ext.uuid + name + row[:0x1E] + row[0x20:])
        return np.asarray(found == wanted, np.bool_)

    def _check_places(self) -> None:
        """What lies where no block is makes a descriptor wrong; the rest is in use."""
        ext = self._ext
        bitmaps, inode_bitmaps = self._bitmaps, self._column(4, 0x24)
        tables = self._column(8, 0x28)
        length = -(-ext.inodes * ext.inode_size // ext.block)
        for places, blocks in ((bitmaps, 1), (inode_bitmaps, 1), (tables, length)):
            self.sure &= (places >= ext.first) & (places + blocks <= ext.blocks)
        ones, groups = np.ones(ext.count, np.int64), np.arange(ext.count)
        heads = np.array([ext.own_blocks(group) for group in range(ext.count)], np.int64)
        stretches = [
            np.stack([bitmaps, ones], axis=1),
            np.stack([inode_bitmaps, ones], axis=1),
            np.stack([tables, ones * length], axis=1),
            np.stack([ext.first + groups * ext.per_group, heads], axis=1)[heads > 0],
        ]
        own = union(np.concatenate(stretches), np.empty((0, 2), np.int64))
        # where a bit stands for several blocks, all of them are in use
        starts = (own[:, 0] - ext.first) // ext.per_cluster * ext.per_cluster
        ends = -(-(own.sum(1) - ext.first) // ext.per_cluster) * ext.per_cluster
        whole = np.stack([starts + ext.first, ends - starts], axis=1)
        self._own = union(whole, np.empty((0, 2), np.int64))

    # ------------------------------------------------------------------------- bitmaps

    def _free_in(self, first: int, end: int) -> Ranges:
        """Free blocks in some groups: number and count; notes which groups are not sure."""
        ext = self._ext
        with_bitmap = np.flatnonzero(self.sure[first:end] & ~self._is_uninit[first:end]) + first
        used = np.full((end - first, ext.clusters // 8), 0xFF, np.uint8)
        for group, bitmap in self._bitmaps_of(with_bitmap).items():
            if self._is_right(group, bitmap):
                used[group - first] = np.frombuffer(bitmap, np.uint8)
            else:
                self.sure[group] = False
        used[self.sure[first:end] & self._is_uninit[first:end]] = 0
        clusters = clear_bits(used.reshape(-1), used.size * 8)
        starts = ext.first + first * ext.per_group + clusters[:, 0] * ext.per_cluster
        ends = np.minimum(starts + clusters[:, 1] * ext.per_cluster, ext.blocks)
        ranges = np.stack([starts, ends - starts], axis=1)
        return ranges[ranges[:, 1] > 0]

    def _clusters_of(self, group: int) -> int:
        """How many bits of a group's bitmap stand for anything."""
        ext = self._ext
        left = ext.blocks - ext.first - group * ext.per_group
        return min(ext.clusters, -(-left // ext.per_cluster))

    def _bitmaps_of(self, groups: Int64s) -> dict[int, bytes]:
        """By group, cut to what counts; those that lie together are read together."""
        found: dict[int, bytes] = {}
        order = groups[np.argsort(self._bitmaps[groups], kind="stable")]
        places = self._bitmaps[order]
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        for part in np.split(np.arange(len(order)), cuts):
            if not len(part):
                continue
            data = self._blocks_at(int(places[part[0]]), len(part))
            for nth, at in enumerate(part.tolist()):
                start = nth * self._ext.block
                found[int(order[at])] = data[start : start + self._ext.clusters // 8]
        return found

    def _is_right(self, group: int, bitmap: bytes) -> bool:
        """Whether a bitmap is as the descriptor says: its checksum, and how many are free."""
        own = self._clusters_of(group)
        bits = int.from_bytes(bitmap, "little") & (1 << own) - 1
        if own - bits.bit_count() != self._counts[group]:
            return False
        if not self._ext.read_only & _CSUM:
            return True
        found = _crc32c(self._ext.seed, bitmap)
        if self._ext.descriptor < 64:
            found &= 0xFFFF
        return found == int(self._sums[group])

    @cached_property
    def _counts(self) -> Int64s:
        return self._column(0xC, 0x2C, 2)

    @cached_property
    def _sums(self) -> Int64s:
        return self._column(0x18, 0x38, 2)


def _is_power(number: int, of: int) -> bool:
    while number % of == 0:
        number //= of
    return number == 1


def _crc32c(state: int, data: bytes) -> int:
    """The kernel's crc32c(), which inverts neither the state that it gets nor that it gives."""
    return int(google_crc32c.extend(state ^ 0xFFFF_FFFF, data)) ^ 0xFFFF_FFFF


def _table_of_crc16() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


_CRC16 = _table_of_crc16()


def _crc16(data: bytes) -> int:
    """The kernel's crc16() of all ones (lib/crc16.c)."""
    state = 0xFFFF
    for byte in data:
        state = state >> 8 ^ _CRC16[(state ^ byte) & 0xFF]
    return state
