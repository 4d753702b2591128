"""A folder of ext4 as its blocks: entries one behind the other, and a checksum at each block's end.

What is there stays where it is, so that a changed folder of many blocks differs in few of them.
Specification: Linux, Documentation/filesystems/ext4/directory.rst (linear directories).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vdbackup.sources.file_sets.inode import BLOCK
from vdbackup.translation import tr

_ENTRY = struct.Struct("<IHBB")
"""Inode, length of the entry, length of the name, kind."""
_TAIL = _ENTRY.pack(0, 12, 0, 0xDE) + bytes(4)
_ROOM = BLOCK - len(_TAIL)
_KINDS = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_USUAL = 64
"""Bytes of an entry; a block that has no room for such a one is not looked at again."""
_SELF, _UP = b".", b".."
_FOLDER = _KINDS[stat.S_IFDIR]


@dataclass(frozen=True)
class Entry:
    """A name in a folder: of which inode, of which kind (as ext4 numbers them)."""

    inode: int
    kind: int

    @property
    def is_folder(self) -> bool:
        """Whether it is of a folder."""
        return self.kind == _FOLDER


class Folder:
    """A folder's entries, in the blocks that they lie in."""

    def __init__(self, blocks: list[dict[bytes, Entry]]) -> None:
        self._blocks = blocks
        self._free = [_ROOM - sum(map(_length, block)) for block in blocks]
        self._place = {name: number for number, block in enumerate(blocks) for name in block}
        self._first_free = 0
        self.changed = False

    @classmethod
    def new(cls, own: int, parent: int) -> Folder:
        """One with nothing in it, of these inodes."""
        folder = cls([{_SELF: Entry(own, _FOLDER), _UP: Entry(parent, _FOLDER)}])
        folder.changed = True
        return folder

    @classmethod
    def read(cls, blocks: list[bytes]) -> Folder:
        """One that was kept; raises ValueError where its blocks make no sense."""
        return cls([dict(_entries(block)) for block in blocks])

    @property
    def entries(self) -> dict[bytes, Entry]:
        """All of them by name, but itself and its parent."""
        return {
            name: entry
            for block in self._blocks
            for name, entry in block.items()
            if name not in (_SELF, _UP)
        }

    def set(self, name: bytes, inode: int, mode: int) -> None:
        """Have `name` mean an inode."""
        entry = Entry(inode, _KINDS[stat.S_IFMT(mode)])
        if (place := self._place.get(name)) is not None:
            if self._blocks[place][name] != entry:
                self._blocks[place][name] = entry
                self.changed = True
            return
        length = _length(name)
        place = self._first_free
        while place < len(self._blocks) and self._free[place] < length:
            place += 1
            if length <= _USUAL:
                self._first_free = place
        if place == len(self._blocks):
            self._blocks.append({})
            self._free.append(_ROOM)
        self._blocks[place][name] = entry
        self._free[place] -= length
        self._place[name] = place
        self.changed = True

    def set_parent(self, inode: int) -> None:
        """Lie in another folder."""
        self.set(_UP, inode, stat.S_IFDIR)

    def remove(self, name: bytes) -> None:
        """Have `name` mean nothing."""
        place = self._place.pop(name)
        del self._blocks[place][name]
        self._free[place] += _length(name)
        self._first_free = min(self._first_free, place)
        self.changed = True

    def blocks(self) -> list[bytes]:
        """The folder's content."""
        return [_packed(block) for block in self._blocks]


def _length(name: bytes) -> int:
    return (_ENTRY.size + len(name) + 3) // 4 * 4


def _packed(entries: dict[bytes, Entry]) -> bytes:
    parts: list[bytes] = []
    at = 0
    if not entries:
        parts.append(_ENTRY.pack(0, _ROOM, 0, 0).ljust(_ROOM, b"\0"))
    for number, (name, entry) in enumerate(entries.items(), 1):
        length = _ROOM - at if number == len(entries) else _length(name)
        head = _ENTRY.pack(entry.inode, length, len(name), entry.kind)
        parts.append((head + name).ljust(length, b"\0"))
        at += length
    return b"".join(parts) + _TAIL


def _entries(block: bytes) -> Iterator[tuple[bytes, Entry]]:
    at = 0
    while at + _ENTRY.size <= len(block):
        inode, length, name_length, kind = _ENTRY.unpack_from(block, at)
        if length < _ENTRY.size + name_length or length % 4 or at + length > len(block):
            raise ValueError(tr("an entry at byte {at} that ends nowhere", at=at))
        if inode:
            yield block[at + _ENTRY.size : at + _ENTRY.size + name_length], Entry(inode, kind)
        at += length
