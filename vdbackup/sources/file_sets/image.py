"""The disk that chosen files are kept in: a GPT with one partition, and an ext4 without a journal.

The file system is made by mke2fs (blank.py), and written by libext2fs (library.py) right into a
disk in the making (delta.py): nothing is mounted, and nobody need be root. What content lies where
the library decides; the content itself goes past it, in large pieces. New content lies in one
place, so that a backup, which keeps blocks of 64 KiB, keeps little beside it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_uint, c_void_p
from typing import Self

from vdbackup.errors import FileSystemNotMade
from vdbackup.sources.file_sets import library
from vdbackup.sources.file_sets.blank import START
from vdbackup.sources.file_sets.content import Content
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.sources.file_sets.folder import Folder
from vdbackup.sources.file_sets.inode import BLOCK, LONGEST_EXTENT, MOST_EXTENTS, Inode
from vdbackup.sources.file_sets.library import Channel, Extent, Failed
from vdbackup.sources.file_sets.pieces import Piece, blocks_of, common, less
from vdbackup.translation import tr

ROOT, LOST_AND_FOUND = 2, b"lost+found"
_IN_PLACE = 256 << 10
"""Bytes from which a file that has changed stays where it is: most of it may be as it was."""
_PIECE = 1 << 20
"""Bytes of content that are read at once."""
_COMPARED = 64 << 10
"""Bytes that are written together where any of them differ."""
_HOLE = 2048
"""Free blocks in a row (8 MiB) that new content goes into, if there are any."""
_FORCE_INIT = 2
"""For `fallocate`: what is allocated counts as written (EXT2_FALLOCATE_FORCE_INIT)."""
_WHOLE = 2
"""For `new_range`: so much in a row, or nothing (EXT2_NEWRANGE_MIN_LENGTH)."""
_END = 0xFFFFFFFFFFFFFFFF
_ROOT_NODE, _NEXT_LEAF, _IS_LEAF = 1, 7, 1
"""EXT2_EXTENT_ROOT, EXT2_EXTENT_NEXT_LEAF, EXT2_EXTENT_FLAGS_LEAF."""


class Image:
    """The file system on such a disk, open for writing. A context manager: `finish` writes it.

    Inodes are named by their numbers. Methods raise what the disk raises, and FileSystemNotMade
    where the file system is full or damaged.
    """

    def __init__(self, delta: Delta) -> None:
        self._delta = delta
        self._channel = Channel(delta, START, BLOCK)
        self._goal = 0
        self._buffer = memoryview(bytearray(_PIECE))
        self._before = memoryview(bytearray(_COMPARED))

    def __enter__(self) -> Self:
        self._channel.open()
        self._goal = self._first_hole()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.let_go()

    def finish(self) -> None:
        """Write what is left to be written of the file system itself."""
        self._call("close_free", byref(self._channel.fs))

    def read(self, number: int) -> Inode:
        """An inode."""
        raw = ctypes.create_string_buffer(256)
        self._call("read_inode_full", self._fs, number, raw, len(raw))
        return Inode(raw.raw)

    def write(self, number: int, inode: Inode) -> None:
        """Write an inode."""
        raw = inode.packed()
        buffer = (ctypes.c_char * len(raw)).from_buffer(raw)
        self._call("write_inode_full", self._fs, number, buffer, len(raw))

    def new(self, mode: int) -> tuple[int, Inode]:
        """A new inode, which nothing names yet and which is not written yet."""
        number = c_uint()
        self._call("new_inode", self._fs, ROOT, mode, None, byref(number))
        self._channel.lib.ext2fs_inode_alloc_stats2(
            self._fs, number.value, 1, int(stat.S_ISDIR(mode))
        )
        inode = Inode()
        inode.begin(mode)
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            inode.use_extents()
        return number.value, inode

    def free(self, number: int) -> None:
        """Give up an inode and all that it holds."""
        inode = self.read(number)
        if inode.has_attributes:
            raw = ctypes.create_string_buffer(bytes(inode.packed()), 256)
            self._call("free_ext_attr", self._fs, number, raw)
            inode = Inode(raw.raw)
            self.write(number, inode)
        if inode.has_blocks:
            self._punch(number, 0, _END)
            inode = self.read(number)
        inode.delete(int(time.time()))
        self.write(number, inode)
        is_folder = int(stat.S_ISDIR(inode.mode))
        self._channel.lib.ext2fs_inode_alloc_stats2(self._fs, number, -1, is_folder)

    def folder(self, number: int) -> Folder:
        """A folder's entries."""
        try:
            blocks = [
                bytes(self._read_blocks(disk + each, 1))
                for _, disk, count in self._extents(number)
                for each in range(count)
            ]
            return Folder.read(blocks)
        except ValueError as error:
            raise _damaged(tr("folder {number}: {error}", number=number, error=error)) from error

    def write_folder(self, number: int, inode: Inode, folder: Folder) -> Inode:
        """Write a folder's entries where they have changed; its inode as it is then."""
        if not folder.changed:
            return inode
        blocks = folder.blocks()
        had = sum(count for _, _, count in self._extents(number))
        if len(blocks) > had:
            inode.size = len(blocks) * BLOCK
            inode.drop_index()
            self.write(number, inode)
            self._allocate(number, had, len(blocks) - had)
            inode = self.read(number)
        for first, disk, count in self._extents(number):
            for each in range(count):
                block = blocks[first + each]
                if first + each < had and self._read_blocks(disk + each, 1)[:-12] == block[:-12]:
                    continue
                buffer = ctypes.create_string_buffer(block, BLOCK)
                self._call("write_dir_block4", self._fs, disk + each, buffer, 0, number)
        folder.changed = False
        return inode

    def write_link(self, number: int, inode: Inode, target: bytes) -> Inode:
        """Have a new inode be a symbolic link; it as it is then."""
        inode.size = len(target)
        if len(target) < len(inode.block):
            inode.block = target
            return inode
        inode.use_extents()
        self.write(number, inode)
        self._allocate(number, 0, 1)
        [(_, disk, _)] = self._extents(number)
        self._write_blocks(disk, memoryview(target.ljust(BLOCK, b"\0")))
        return self.read(number)

    def target(self, number: int, inode: Inode) -> bytes:
        """Where a symbolic link leads."""
        if inode.size < len(inode.block):
            return inode.block[: inode.size]
        [(_, disk, _)] = self._extents(number)
        return bytes(self._read_blocks(disk, 1)[: inode.size])

    def write_content(self, number: int, inode: Inode, content: Content) -> Inode:
        """Have a file hold that; its inode as it is then, still to be written.

        What is the same already is not written again.

        Args:
            number: of the file's inode.
            inode: that, as it is.
            content: what it is to hold.
        """
        size = content.size
        had = self._extents(number) if inode.has_blocks else []
        if had and size < _IN_PLACE:
            if size == inode.size and self._holds_the_same(had, content):
                return inode
            self._punch(number, 0, _END)
            inode, had = self.read(number), []
        inode.size = size
        wanted = blocks_of(content.data())
        if not inode.has_blocks and (laid := self._laid_out(wanted)) is not None:
            inode.lay_out(laid)
            for first, disk, count in laid:
                self._copy(content, first, disk, count)
            return inode
        self.write(number, inode)
        self._rewrite(number, content, [(first, count) for first, _, count in had], wanted)
        return self.read(number)

    def _rewrite(
        self, number: int, content: Content, there: Sequence[Piece], wanted: Sequence[Piece]
    ) -> None:
        """Write content to a file where it is, as far as that has blocks, and give it the others.

        Args:
            number: of the file's inode, written.
            content: what it is to hold.
            there: the blocks that it has.
            wanted: the blocks that it is to have.
        """
        for first, count in less(there, wanted):
            self._punch(number, first, first + count - 1)
        missing = less(wanted, there)
        for first, count in missing:
            self._allocate(number, first, count)
        for first, disk, count in self._extents(number):
            for start, length in common([(first, count)], missing):
                self._copy(content, start, disk + start - first, length)
            for start, length in less([(first, count)], missing):
                self._copy_changed(content, start, disk + start - first, length)

    def set_attributes(self, number: int, wanted: Mapping[str, bytes]) -> tuple[str, ...]:
        """Have a file those extended attributes and no others; the names of what has no room.

        Args:
            number: of its inode, written.
            wanted: as the kernel has them.
        """
        handle = c_void_p()
        self._call("xattrs_open", self._fs, number, byref(handle))
        no_room = []
        try:
            self._call("xattrs_read", handle)
            for name in self._attribute_names(handle):
                if os.fsdecode(name) not in wanted:
                    self._call("xattr_remove", handle, name)
            for key, value in wanted.items():
                try:
                    self._call("xattr_set", handle, os.fsencode(key), value, len(value))
                except FileSystemNotMade as error:
                    if not isinstance(error.__cause__, Failed):
                        raise
                    no_room.append(key)
        finally:
            self._channel.lib.ext2fs_xattrs_close(byref(handle))
        return tuple(no_room)

    def attributes(self, number: int) -> dict[str, bytes]:
        """A file's extended attributes, as the kernel has them."""
        handle = c_void_p()
        found: dict[str, bytes] = {}
        self._call("xattrs_open", self._fs, number, byref(handle))
        try:
            self._call("xattrs_read", handle)
            for name in self._attribute_names(handle):
                value, length = c_void_p(), ctypes.c_size_t()
                self._call("xattr_get", handle, name, byref(value), byref(length))
                found[os.fsdecode(name)] = ctypes.string_at(value, length.value)
                self._channel.lib.ext2fs_free_mem(byref(value))
        finally:
            self._channel.lib.ext2fs_xattrs_close(byref(handle))
        return found

    def content(self, number: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """What a file of `size` bytes holds: where, and the bytes; all else of it is zeros."""
        for first, disk, count in self._extents(number):
            for offset in range(0, count * BLOCK, _PIECE):
                place = first * BLOCK + offset
                length = min(_PIECE, count * BLOCK - offset, size - place)
                if length <= 0:
                    break
                view = self._buffer[:length]
                self._delta.readinto(START + disk * BLOCK + offset, view)
                yield place, view

    def _attribute_names(self, handle: c_void_p) -> list[bytes]:
        names: list[bytes] = []

        def note(name: bytes, *_: object) -> int:
            names.append(name)
            return 0

        self._call("xattrs_iterate", handle, library.Visit(note), None)
        return names

    @property
    def _fs(self) -> object:
        return self._channel.fs

    def _call(self, name: str, *arguments: object) -> None:
        try:
            self._channel.call(name, *arguments)
        except Failed as error:
            if error.number in (library.NO_BLOCK, library.NO_INODE):
                raise FileSystemNotMade(
                    tr(
                        "The chosen files need more room than their disk has: they have grown "
                        "since they were counted."
                    ),
                    tr("Start the backup again."),
                ) from error
            raise _damaged(str(error)) from error

    def _punch(self, number: int, first: int, last: int) -> None:
        self._call("punch", self._fs, number, None, None, first, last)

    def _allocate(self, number: int, first: int, count: int) -> None:
        """Have blocks of a file lie somewhere; what comes next goes behind them."""
        self._call("fallocate", self._fs, _FORCE_INIT, number, None, self._goal, first, count)
        for start, disk, length in self._extents(number):
            if start + length == first + count:
                self._goal = disk + length

    def _laid_out(self, wanted: Sequence[Piece]) -> list[tuple[int, int, int]] | None:
        """Places for so many blocks of a new file, allocated; None where an inode holds no so many.

        The library would write the inode five times meanwhile, which took half of all time.
        """
        laid: list[tuple[int, int, int]] = []
        goal = self._goal
        allocate = self._channel.lib.ext2fs_block_alloc_stats_range
        for begin, length in wanted:
            first, end = begin, begin + length
            while first < end and len(laid) <= MOST_EXTENTS:
                disk, count = ctypes.c_ulonglong(), ctypes.c_ulonglong()
                most = min(end - first, LONGEST_EXTENT)
                where = (byref(disk), byref(count))
                self._call("new_range", self._fs, 0, self._goal, most, None, *where)
                allocate(self._fs, disk, count.value, 1)
                laid.append((first, disk.value, count.value))
                first += count.value
                self._goal = disk.value + count.value
        if len(laid) <= MOST_EXTENTS:
            return laid
        for _, start, blocks in laid:
            allocate(self._fs, start, blocks, -1)
        self._goal = goal
        return None

    def _extents(self, number: int) -> list[tuple[int, int, int]]:
        """Block in the file, block on the disk, how many; of all that an inode holds."""
        own = self.read(number).own_extents()
        if own is not None:
            return own
        found: list[tuple[int, int, int]] = []
        handle, extent = c_void_p(), Extent()
        self._call("extent_open", self._fs, number, byref(handle))
        try:
            step = _ROOT_NODE
            while True:
                try:
                    self._channel.call("extent_get", handle, step, byref(extent))
                except Failed as error:
                    if error.number in (library.NO_NEXT, library.NO_CURRENT):
                        return found
                    raise _damaged(str(error)) from error
                if extent.flags & _IS_LEAF:
                    found.append((int(extent.file), int(extent.disk), int(extent.count)))
                step = _NEXT_LEAF
        finally:
            self._channel.lib.ext2fs_extent_free(handle)

    def _read_blocks(self, disk: int, count: int) -> memoryview:
        view = memoryview(bytearray(count * BLOCK))
        self._delta.readinto(START + disk * BLOCK, view)
        return view

    def _write_blocks(self, disk: int, view: memoryview) -> None:
        self._delta.write(START + disk * BLOCK, view)

    def _holds_the_same(self, had: Sequence[tuple[int, int, int]], content: Content) -> bool:
        """Whether a small file's content is that."""
        length = -(-content.size // BLOCK) * BLOCK
        whole, now = memoryview(bytearray(length)), memoryview(bytearray(length))
        for first, disk, count in had:
            part = whole[first * BLOCK : (first + count) * BLOCK]
            part[:] = self._read_blocks(disk, count)[: len(part)]
        content.readinto(0, now)
        return whole == now

    def _copy(self, content: Content, first: int, disk: int, count: int) -> None:
        for offset, view in self._pieces(content, first, count):
            self._write_blocks(disk + offset // BLOCK, view)

    def _copy_changed(self, content: Content, first: int, disk: int, count: int) -> None:
        for offset, view in self._pieces(content, first, count):
            for at in range(0, len(view), _COMPARED):
                now = view[at : at + _COMPARED]
                before = self._before[: len(now)]
                place = disk + (offset + at) // BLOCK
                self._delta.readinto(START + place * BLOCK, before)
                if now != before:
                    self._write_blocks(place, now)

    def _pieces(self, content: Content, first: int, count: int) -> Iterator[tuple[int, memoryview]]:
        """So many blocks of it from one on: where behind that, in bytes, and what is there."""
        length = count * BLOCK
        for offset in range(0, length, _PIECE):
            view = self._buffer[: min(_PIECE, length - offset)]
            content.readinto(first * BLOCK + offset, view)
            yield offset, view

    def _first_hole(self) -> int:
        """Where so much is free in a row that new content goes there."""
        blocks = (self._delta.size - 2 * START) // BLOCK
        start, length = ctypes.c_ulonglong(), ctypes.c_ulonglong()
        lib, fs = self._channel.lib, self._fs
        number = lib.ext2fs_new_range(
            fs, _WHOLE, 0, min(_HOLE, blocks), None, byref(start), byref(length)
        )
        return 0 if number else int(start.value)


def _damaged(what: str) -> FileSystemNotMade:
    return FileSystemNotMade(
        tr(
            "The file system that the chosen files are kept in cannot be written ({what}).",
            what=what,
        ),
        tr("Verify the point before; a full backup makes a new file system."),
    )
