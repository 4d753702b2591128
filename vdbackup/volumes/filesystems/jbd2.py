"""ext's journal: what a file system reads as once it is replayed, without a byte being written.

A file system that was in use when it was captured has its newest folders, inodes and bitmaps in its
journal alone. `replay` finds what the kernel would copy from there to their places (fs/jbd2/
recovery.c: scan, revoke, replay), and `Replayed` shows the volume as if it had been done.

Specification: https://docs.kernel.org/filesystems/ext4/journal.html
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable

if TYPE_CHECKING:
    from collections.abc import Buffer

_MAGIC = 0xC03B3998
_DESCRIPTOR, _COMMIT, _SUPER_BLOCK_V1, _SUPER_BLOCK_V2, _REVOKE = 1, 2, 3, 4, 5
"""Types of the journal's own blocks."""
_64_BIT, _CHECKSUM_V2, _CHECKSUM_V3, _FAST_COMMIT = 0x02, 0x08, 0x10, 0x20
_READ = 0x01 | _64_BIT | _CHECKSUM_V2 | _CHECKSUM_V3 | _FAST_COMMIT
"""Incompatible features that are read; 0x01 is that blocks can be revoked. The one that is not,
asynchronous commits (0x04), leaves it to checksums of data which transactions are whole."""
_ESCAPED, _SAME_UUID, _LAST_TAG = 1, 2, 8
_HEADER = struct.Struct(">III")
"""Magic, type, number of the transaction."""
_FAST_COMMIT_HEAD = 9
_FAST_COMMIT_BLOCKS = 256
"""Blocks of the area of fast commits where the super block says none (jbd2.h)."""

ReadBlock = Callable[[int], bytes]
Patches = dict[int, tuple[int, bool]]
"""Block of the volume to the journal's block that belongs there, and whether its first four bytes
are the magic, which must not stand at the beginning of such a block."""


@dataclass(frozen=True)
class _Transaction:
    number: int
    blocks: dict[int, tuple[int, bool]]
    revoked: frozenset[int]


def replay(read: ReadBlock, length: int, block_size: int) -> Patches:
    """What belongs where before the file system is read; as many entries as the journal has blocks.

    Args:
        read: gives a block of the journal by its number.
        length: of the journal, in blocks.
        block_size: in bytes.

    Raises:
        Unreadable: the journal is damaged, or of a kind that is not read here.
    """
    journal = _Journal(read, length, block_size)
    transactions = list(journal.transactions())
    revoked: dict[int, int] = {}
    for index, transaction in enumerate(transactions):
        revoked |= dict.fromkeys(transaction.revoked, index)
    patches: Patches = {}
    for index, transaction in enumerate(transactions):
        for block, place in transaction.blocks.items():
            if revoked.get(block, -1) < index:  # else a later one freed the block
                patches[block] = place
    return patches


class _Journal:
    """The blocks of a journal, which is a ring."""

    def __init__(self, read: ReadBlock, length: int, block_size: int) -> None:
        self._read, self._block_size = read, block_size
        head = read(0)
        magic, kind, _ = _HEADER.unpack_from(head)
        size, end, first, number, start = struct.unpack_from(">IIIII", head, 12)
        if magic != _MAGIC or kind not in (_SUPER_BLOCK_V1, _SUPER_BLOCK_V2):
            raise Unreadable(tr("its journal is damaged"))
        self._features = struct.unpack_from(">I", head, 40)[0] if kind == _SUPER_BLOCK_V2 else 0
        if self._features & ~_READ:
            raise Unreadable(tr("its journal is of a kind that vdbackup does not know"))
        self._fast = 0
        if self._features & _FAST_COMMIT:
            self._fast = struct.unpack_from(">I", head, 84)[0] or _FAST_COMMIT_BLOCKS
        self._first, self._end = first, end - self._fast
        if size != block_size or not 0 < first < self._end <= end <= length or start >= self._end:
            raise Unreadable(tr("its journal is damaged"))
        self._start, self._number = start, number
        self._seed = _crc(0xFFFF_FFFF, head[48:64])

    def transactions(self) -> Iterator[_Transaction]:
        """Those that were committed, the oldest first."""
        block, number = self._start, self._number
        blocks: dict[int, tuple[int, bool]] = {}
        revoked: set[int] = set()
        left = self._end - self._first if block else 0
        while left > 0:
            data = self._read(block)
            magic, kind, found = _HEADER.unpack_from(data)
            if (magic, found) != (_MAGIC, number) or not self._is_whole(data, kind):
                break
            used = 1
            if kind == _DESCRIPTOR:
                places = self._places(data, block, number)
                blocks |= places
                used += len(places)
            elif kind == _REVOKE:
                revoked |= self._revoked(data)
            elif kind == _COMMIT:
                yield _Transaction(number, blocks, frozenset(revoked))
                blocks, revoked, number = {}, set(), (number + 1) & 0xFFFF_FFFF
            else:
                break
            block, left = self._after(block, used), left - used
        self._check_no_fast_commits(number)

    def _after(self, block: int, count: int) -> int:
        block += count
        return block if block < self._end else self._first + block - self._end

    def _is_whole(self, data: bytes, kind: int) -> bool:
        """Whether one of the journal's own blocks has the checksum that it says, if it says one."""
        if not self._features & (_CHECKSUM_V2 | _CHECKSUM_V3):
            return True
        place = 16 if kind == _COMMIT else self._block_size - 4
        (stored,) = struct.unpack_from(">I", data, place)
        return bool(_crc(self._seed, data[:place] + bytes(4) + data[place + 4 :]) == stored)

    def _places(self, data: bytes, block: int, number: int) -> dict[int, tuple[int, bool]]:
        """Where the blocks that follow a descriptor belong."""
        places: dict[int, tuple[int, bool]] = {}
        for target, flags, checksum in self._tags(data):
            block = self._after(block, 1)
            self._check_data(block, number, checksum)
            # one block twice under one descriptor would shift all that follow
            if target in places:
                raise Unreadable(tr("its journal is damaged"))
            places[target] = block, bool(flags & _ESCAPED)
        return places

    def _tags(self, data: bytes) -> Iterator[tuple[int, int, int | None]]:
        """Block of the volume, flags, checksum of the data or None."""
        wide, third = self._features & _64_BIT, self._features & _CHECKSUM_V3
        second = self._features & _CHECKSUM_V2
        size = 16 if third else (12 if wide else 8) + (2 if second else 0)
        position, end = 12, self._block_size - (4 if second or third else 0)
        flags = 0
        while not flags & _LAST_TAG and position + size <= end:
            checksum: int | None
            if third:
                low, flags, high, checksum = struct.unpack_from(">IIII", data, position)
            else:
                low, checksum, flags = struct.unpack_from(">IHH", data, position)
                high = struct.unpack_from(">I", data, position + 8)[0] if wide else 0
                checksum = checksum if second else None
            yield (high << 32 | low if wide else low), flags, checksum
            position += size + (0 if flags & _SAME_UUID else 16)

    def _check_data(self, block: int, number: int, checksum: int | None) -> None:
        if checksum is None:
            return
        found = _crc(_crc(self._seed, struct.pack(">I", number)), self._read(block))
        if checksum != (found if self._features & _CHECKSUM_V3 else found & 0xFFFF):
            raise Unreadable(tr("its journal is damaged"))

    def _revoked(self, data: bytes) -> set[int]:
        (end,) = struct.unpack_from(">I", data, 12)
        layout = ">Q" if self._features & _64_BIT else ">I"
        if not 16 <= end <= len(data):
            raise Unreadable(tr("its journal is damaged"))
        whole = (end - 16) // struct.calcsize(layout) * struct.calcsize(layout)
        return {block for (block,) in struct.iter_unpack(layout, data[16 : 16 + whole])}

    def _check_no_fast_commits(self, number: int) -> None:
        """Raise Unreadable where there are: they say what was done to files, not which blocks.

        Their area begins one block behind the ring (fs/jbd2/journal.c: j_fc_first = j_last + 1).
        """
        if self._fast > 1:
            data = self._read(self._end + 1)
            tag, _, _, transaction = struct.unpack_from("<HHII", data)
            if tag == _FAST_COMMIT_HEAD and transaction == number:
                raise Unreadable(tr("its journal has fast commits, which are not read here"))


def _crc(state: int, data: bytes) -> int:
    """The kernel's crc32c(), which inverts neither the state that it gets nor that it gives."""
    return int(google_crc32c.extend(state ^ 0xFFFF_FFFF, data)) ^ 0xFFFF_FFFF


class Replayed(io.RawIOBase):
    """A volume as it is once the journal is replayed."""

    def __init__(
        self, volume: io.BufferedReader, patches: Patches, read: ReadBlock, block_size: int
    ) -> None:
        super().__init__()
        self._volume, self._patches, self._read = volume, patches, read
        self._block_size = block_size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The byte that is read next."""
        return self._volume.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read from there on."""
        return self._volume.seek(offset, whence)

    def readinto(self, buffer: Buffer, /) -> int:
        """Bytes of the volume, and of the journal where its blocks belong there."""
        place, size = self._volume.tell(), self._block_size
        with memoryview(buffer).cast("B") as view:
            length = self._volume.readinto(view)
            after = self._volume.tell()
            for block in range(place // size, -(-(place + length) // size)):
                if block in self._patches:
                    start = block * size
                    first, end = max(place, start), min(place + length, start + size)
                    data = self._block(block)
                    view[first - place : end - place] = data[first - start : end - start]
            self._volume.seek(after)
        return length

    def _block(self, block: int) -> bytes:
        place, escaped = self._patches[block]
        data = self._read(place)
        return _MAGIC.to_bytes(4, "big") + data[4:] if escaped else data
