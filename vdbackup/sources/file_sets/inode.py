"""An inode of ext4, as its 256 bytes: what of a file is kept there, and what is read of it again.

Two fields mean something of our own, which no reader of ext4 minds: `i_version`, which counts what
NFS clients see, is the inode's number on the file's own file system (0: not to be believed), and
`i_crtime` is when it changed last. Specification: Linux, Documentation/filesystems/ext4/inodes.rst.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

SIZE = 256
"""Bytes of an inode: what mke2fs makes if nothing else is said."""
BLOCK = 4096
"""Bytes of a block of the file system."""
EXTENTS = 0x80000
"""Flag: what lies where is said in extents (EXT4_EXTENTS_FL)."""
_HAS_INDEX = 0x1000
_EXTRA = 32
"""Bytes of fields behind the first 128 (i_extra_isize)."""
_HEAD = struct.Struct("<HHIIIIIHHIII")
"""Mode, uid, size, atime, ctime, mtime, dtime, gid, links, blocks, flags, version."""
_TAIL = struct.Struct("<IIIIHHHHHH")
"""Generation, ACL's block, size and fragment; blocks, ACL's block, uid and gid, their high parts;
checksum, unused. From byte 100 on."""
_MORE = struct.Struct("<HHIIIIIII")
"""Size, checksum; what ctime, mtime and atime have more; crtime and what that has more; version's
high part, project. From byte 128 on."""
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_MAGIC_EXTENTS = 0xF30A
_MAGIC_ATTRIBUTES = 0xEA020000
MOST_EXTENTS = 4
"""That have room in an inode; of more the library makes a tree."""
LONGEST_EXTENT = 32768
"""Blocks of one. A greater number means that it reads as zeros."""
_OLDEST, _NEWEST = -(1 << 31), (1 << 34) - (1 << 31) - 1
"""Seconds since 1970: 1901 to 2446."""
NO_EXTENTS = _EXTENT_HEADER.pack(_MAGIC_EXTENTS, 0, MOST_EXTENTS, 0, 0) + bytes(48)
"""Of an inode that holds nothing yet (i_block)."""


@dataclass(frozen=True)
class Known:
    """What tells whether a file has changed since it was kept; times in ns since 1970."""

    mode: int
    size: int
    modified: int
    changed: int
    number: int

    @classmethod
    def of_file(cls, found: os.stat_result, number: int | None = None) -> Known:
        """Of a file, as it is now; `number` stands for its own where that means nothing."""
        times = (_clamped(found.st_mtime_ns), _clamped(found.st_ctime_ns))
        number = found.st_ino & 0xFFFFFFFFFFFFFFFF if number is None else number
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        return cls(found.st_mode, size, *times, number)


class Inode:
    """An inode's bytes; what is not set here stays as it is."""

    def __init__(self, raw: bytes | bytearray | None = None) -> None:
        self.raw = bytearray(raw) if raw is not None else bytearray(SIZE)
        self._head = list(_HEAD.unpack_from(self.raw, 0))
        self._tail = list(_TAIL.unpack_from(self.raw, 100))
        self._more = list(_MORE.unpack_from(self.raw, 128))

    @property
    def mode(self) -> int:
        """Kind and permissions (stat.st_mode)."""
        return int(self._head[0])

    @property
    def links(self) -> int:
        """How many names it has."""
        return int(self._head[8])

    @links.setter
    def links(self, count: int) -> None:
        self._head[8] = count

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self._head[2] | self._tail[2] << 32)

    @size.setter
    def size(self, size: int) -> None:
        self._head[2], self._tail[2] = size & 0xFFFFFFFF, size >> 32

    @property
    def owner(self) -> tuple[int, int]:
        """Numbers of its user and its group."""
        head, tail = self._head, self._tail
        return int(head[1] | tail[6] << 16), int(head[7] | tail[7] << 16)

    @property
    def accessed(self) -> int:
        """When it was read, in ns since 1970."""
        return _moment(self._head[3], self._more[4])

    @property
    def has_blocks(self) -> bool:
        """Whether it has any, be it of content or of extended attributes."""
        return bool(self._head[9] or self._tail[4])

    @property
    def has_attributes(self) -> bool:
        """Whether extended attributes are kept of it."""
        at = 128 + self._more[0]
        inside = at + 4 <= SIZE and struct.unpack_from("<I", self.raw, at)[0] == _MAGIC_ATTRIBUTES
        return bool(self._tail[1] or self._tail[5]) or inside

    @property
    def known(self) -> Known:
        """What it was when it was kept."""
        return Known(
            self.mode,
            self.size if stat.S_ISREG(self.mode) else 0,
            _moment(self._head[5], self._more[3]),
            _moment(self._head[4], self._more[2]),
            int(self._head[11] | self._more[7] << 32),
        )

    @property
    def device(self) -> int:
        """Which device it stands for (stat.st_rdev)."""
        old, new = struct.unpack_from("<II", self.raw, 40)
        if old:
            return os.makedev(old >> 8 & 0xFF, old & 0xFF)
        return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)

    @property
    def block(self) -> bytes:
        """The 60 bytes that say where its content lies, or are it (i_block)."""
        return bytes(self.raw[40:100])

    @block.setter
    def block(self, value: bytes) -> None:
        self.raw[40:100] = value.ljust(60, b"\0")

    def begin(self, mode: int) -> None:
        """Make it one of that kind, with nothing in it."""
        self.raw[:] = bytes(SIZE)
        self._head, self._tail = [0] * len(self._head), [0] * len(self._tail)
        self._more = [0] * len(self._more)
        self._head[0], self._more[0] = mode, _EXTRA

    def use_extents(self) -> None:
        """Have content, which lies nowhere yet."""
        self._head[10] |= EXTENTS
        self.block = NO_EXTENTS

    def lay_out(self, extents: Sequence[tuple[int, int, int]]) -> None:
        """Have content in these places, MOST_EXTENTS at most: as `own_extents` has them."""
        header = _EXTENT_HEADER.pack(_MAGIC_EXTENTS, len(extents), MOST_EXTENTS, 0, 0)
        self.block = header + b"".join(
            _EXTENT.pack(first, count, disk >> 32, disk & 0xFFFFFFFF)
            for first, disk, count in extents
        )
        sectors = sum(count for _, _, count in extents) * (BLOCK // 512)
        self._head[9], self._tail[4] = sectors & 0xFFFFFFFF, sectors >> 32

    def be_device(self, device: int) -> None:
        """Stand for a device (fs/ext4/ext4.h, and include/linux/kdev_t.h for both ways)."""
        major, minor = os.major(device), os.minor(device)
        if major < 256 and minor < 256:
            self.block = struct.pack("<I", major << 8 | minor)
        else:
            code = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
            self.block = struct.pack("<II", 0, code)

    def take_of(self, found: os.stat_result, known: Known, *, believed: bool) -> None:
        """Owner, permissions and times of a file.

        Args:
            found: of the file.
            known: by what of that it is seen whether it has changed.
            believed: whether, should it look the same next time, it is.
        """
        head, more = self._head, self._more
        head[0] = found.st_mode
        head[1], self._tail[6] = found.st_uid & 0xFFFF, found.st_uid >> 16
        head[7], self._tail[7] = found.st_gid & 0xFFFF, found.st_gid >> 16
        head[3], more[4] = _time(_clamped(found.st_atime_ns))
        head[4], more[2] = _time(known.changed)
        head[5], more[3] = _time(known.modified)
        if not more[5]:
            more[5], more[6] = head[4], more[2]
        number = known.number if believed else 0
        head[11], more[7] = number & 0xFFFFFFFF, number >> 32

    def delete(self, now: int) -> None:
        """Be nobody's; `now` in seconds since 1970 (a small number would mean another inode)."""
        self._head[6], self._head[8] = now & 0xFFFFFFFF, 0

    def drop_index(self) -> None:
        """As a folder: be read entry by entry."""
        self._head[10] &= ~_HAS_INDEX

    def packed(self) -> bytearray:
        """All its bytes."""
        _HEAD.pack_into(self.raw, 0, *self._head)
        _TAIL.pack_into(self.raw, 100, *self._tail)
        _MORE.pack_into(self.raw, 128, *self._more)
        return self.raw

    def own_extents(self) -> list[tuple[int, int, int]] | None:
        """Block in the file, block on the disk, and how many; None where others list them."""
        magic, count, _, depth, _ = _EXTENT_HEADER.unpack_from(self.raw, 40)
        if magic != _MAGIC_EXTENTS or depth or count > MOST_EXTENTS:
            return None
        found = []
        for number in range(count):
            logical, length, high, low = _EXTENT.unpack_from(self.raw, 52 + 12 * number)
            if length > LONGEST_EXTENT:
                return None
            found.append((logical, high << 32 | low, length))
        return found


def _clamped(moment: int) -> int:
    """A time as it can be kept, in ns since 1970."""
    seconds, rest = divmod(moment, 1_000_000_000)
    return min(max(seconds, _OLDEST), _NEWEST) * 1_000_000_000 + rest


def _time(moment: int) -> tuple[int, int]:
    """A time's two fields: 32 bits of seconds; two bits more of them, and the ns."""
    seconds, rest = divmod(moment, 1_000_000_000)
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return low, (seconds - signed) >> 32 & 3 | rest << 2


def _moment(low: int, extra: int) -> int:
    signed = low - (1 << 32) if low >> 31 else low
    return (signed + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)
