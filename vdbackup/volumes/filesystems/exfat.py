"""exFAT: cards of cameras, and sticks that several systems share.

The entries of a file say by a checksum whether they are whole, and so do the first sectors of the
volume: neither is passed over. What was reserved for a file and not written reads as zeros. Times
are local ones with their distance to UTC; without that they are given as if they were UTC.

It is read here, and not by dissect.fat, because that (3.13) reads every folder as it opens a
volume, of one without a chain only the first cluster, follows a chain that is a circle for ever,
and takes what was reserved for data.

Specification: Microsoft, "exFAT file system specification", by whose names the fields are called.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice

from dissect.util.stream import RunlistStream

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.fat import moment
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
)

_BOOT = struct.Struct("<64x8xQIIIII4xHHBBB")
"""VolumeLength to NumberOfFats."""
_SECTORS = 11
"""Of the boot region, that the checksum in the one behind them is of."""
_NOT_SUMMED = (106, 107, 112)
"""VolumeFlags and PercentInUse, which are written without it."""
_ENTRY = 32
_FILE, _STREAM, _NAME = 0x85, 0xC0, 0xC1
_IN_USE = 0x80
_READ_ONLY, _FOLDER = 0x01, 0x10
_NO_FAT_CHAIN = 0x02
_FIRST = 2
"""The number of the first cluster of the heap."""
_END = 0xFFFF_FFF8
_MAX_FOLDER = 256 << 20
"""Bytes that a folder may have."""
_MAX_SET = 19
"""Entries of a set that are read: of a file, its stream and 255 letters of its name."""
_PAGE = 64 << 10
_QUARTER = 15 * 60 * 10**9


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    volume = _Volume.read(stream)
    return "exFAT", ExfatNode(volume, _Entry("", _FOLDER, volume.root), "")


@dataclass(eq=False)
class _Volume:
    """What the boot region says: sectors and clusters in bytes, places in bytes from its start."""

    stream: io.BufferedReader
    fat: int
    heap: int
    clusters: int
    root: int
    cluster_size: int
    _page: tuple[int, bytes] = (-1, b"")

    @classmethod
    def read(cls, stream: io.BufferedReader) -> _Volume:
        """Raises Unreadable where it makes no sense, or is damaged."""
        stream.seek(0)
        head = stream.read(512)
        length, fat, fat_length, heap, clusters, root, _, flags, sector, per_cluster, fats = (
            _BOOT.unpack_from(head)
        )
        if not 9 <= sector <= 12 or sector + per_cluster > 25 or fats not in (1, 2):
            raise Unreadable(tr("its first sector makes no sense"))
        _check_boot_region(stream, 1 << sector)
        active = fat_length if fats == 2 and flags & 1 else 0
        if heap + (clusters << per_cluster) > length or (fat_length << sector) < 4 * clusters:
            raise Unreadable(tr("its first sector makes no sense"))
        return cls(
            stream, (fat + active) << sector, heap << sector, clusters, root,
            1 << (sector + per_cluster),
        )  # fmt: skip

    def chain(self, first: int) -> Iterator[int]:
        """The clusters of a chain; raises Unreadable where it leads nowhere, or in a circle."""
        seen: set[int] = set()
        number = first
        while number < _END:
            if not _FIRST <= number < _FIRST + self.clusters or number in seen:
                raise Unreadable(tr("its chain of clusters is damaged"))
            seen.add(number)
            yield number
            number = self._next(number)

    def _next(self, number: int) -> int:
        page, at = divmod(4 * number, _PAGE)
        if self._page[0] != page:
            self.stream.seek(self.fat + page * _PAGE)
            self._page = page, self.stream.read(_PAGE)
        if at + 4 > len(self._page[1]):
            raise Unreadable(tr("the disk ends before a part of it"))
        return int.from_bytes(self._page[1][at : at + 4], "little")


def _check_boot_region(stream: io.BufferedReader, sector: int) -> None:
    stream.seek(0)
    region = stream.read(_SECTORS * sector)
    stored = stream.read(4)
    found = 0
    for at, byte in enumerate(region):
        if at not in _NOT_SUMMED:
            found = ((found << 31 | found >> 1) + byte) & 0xFFFF_FFFF
    if len(stored) < 4 or found != int.from_bytes(stored, "little"):
        raise Unreadable(tr("its first sectors are damaged"))


@dataclass(frozen=True)
class _Entry:
    """What a folder says of a file or folder.

    Attributes:
        first: its first cluster; 0 where it has none.
        size: in bytes; None of the topmost folder, which ends with its chain.
        valid: bytes of it that were written.
        follow: its clusters follow each other: no table says so.
        is_whole: whether the checksum of its set is right.
    """

    name: str
    attributes: int
    first: int
    size: int | None = None
    valid: int = 0
    follow: bool = False
    modified: int | None = None
    accessed: int | None = None
    is_whole: bool = True


class ExfatNode(Node):
    """A file or folder."""

    __slots__ = ("_entry", "_volume")

    def __init__(self, volume: _Volume, entry: _Entry, name: str) -> None:
        super().__init__(name)
        self._volume, self._entry = volume, entry

    @property
    def identity(self) -> Hashable:
        """The first cluster; a folder without one has nothing in it."""
        return self._entry.first or self

    def stat(self) -> Stat:
        """From the entry; raises Unreadable where that is damaged."""
        entry = self._entry
        if not entry.is_whole:
            raise Unreadable(tr("its entry is damaged"))
        if self._is_folder:
            return Stat(Kind.FOLDER, 0, entry.modified, 0o777, accessed=entry.accessed)
        mode = 0o444 if entry.attributes & _READ_ONLY else 0o666
        return Stat(Kind.FILE, entry.size or 0, entry.modified, mode, accessed=entry.accessed)

    def children(self) -> Iterator[Node]:
        """In the order in which the folder holds them."""
        self.stat()
        for entry in _entries(self._raw_entries()):
            yield ExfatNode(self._volume, entry, entry.name)

    def content(self) -> Content:
        """The file's clusters."""
        self.stat()
        size, cluster = self._entry.size or 0, self._volume.cluster_size
        runs = self._runs()
        if sum(count for _, count in runs) * cluster < size:
            raise Unreadable(tr("its end is missing"))
        heap = _Heap(self._volume)
        stream = RunlistStream(heap, runs, size, cluster)
        return Content(stream, size, data_ranges(runs, cluster, min(size, self._entry.valid)))

    def blocks(self) -> list[Range]:
        """By its clusters."""
        self.stat()
        return blocks_of(self._runs(), self._volume.cluster_size, self._volume.heap)

    def _target(self) -> str:
        raise Unreadable(tr("exFAT has no links"))

    @property
    def _is_folder(self) -> bool:
        return bool(self._entry.attributes & _FOLDER)

    def _runs(self) -> list[Run]:
        entry, cluster = self._entry, self._volume.cluster_size
        limit = -(-(_MAX_FOLDER if entry.size is None else entry.size) // cluster)
        if self._is_folder:
            limit = min(limit, -(-_MAX_FOLDER // cluster))
        if not entry.first or not limit:
            return []
        if not entry.follow:
            clusters = self._volume.chain(entry.first)
            return merged(((number - _FIRST, 1) for number in clusters), limit)
        first = entry.first - _FIRST
        if not 0 <= first < self._volume.clusters or limit > self._volume.clusters - first:
            raise Unreadable(tr("it lies beyond the end of its file system"))
        return [(first, limit)]

    def _raw_entries(self) -> Iterator[bytes]:
        """Up to the end of the folder."""
        for start, end in self.blocks():
            for at in range(start, end, _PAGE):
                self._volume.stream.seek(at)
                length = min(_PAGE, end - at)
                piece = self._volume.stream.read(length)
                if len(piece) < length:
                    raise Unreadable(tr("the disk ends before a part of it"))
                for offset in range(0, length, _ENTRY):
                    if not piece[offset]:
                        return
                    yield piece[offset : offset + _ENTRY]


class _Heap(io.RawIOBase):
    """The clusters of a volume, as a stream."""

    def __init__(self, volume: _Volume) -> None:
        super().__init__()
        self._volume, self._at = volume, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """From the first cluster on."""
        self._at = offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At the place that was sought last."""
        self._volume.stream.seek(self._volume.heap + self._at)
        data = self._volume.stream.read(size)
        self._at += len(data)
        return data


def _entries(raw: Iterator[bytes]) -> Iterator[_Entry]:
    """Files and folders; what is a volume's own, or not in use, is passed by."""
    for first in raw:
        if first[0] != _FILE:
            continue
        count = min(first[1], _MAX_SET - 1)
        yield _entry(first, list(islice(raw, count)))


def _entry(first: bytes, rest: list[bytes]) -> _Entry:
    stream = next((each for each in rest if each[0] == _STREAM), bytes(_ENTRY))
    letters = b"".join(each[2:] for each in rest if each[0] == _NAME)
    name = letters[: 2 * stream[3]].decode("utf-16-le", "surrogatepass")
    attributes, _, modified, accessed, _, tenths, _, to_utc, to_utc_accessed = struct.unpack_from(
        "<HxxIIIBBBBB", first, 4
    )
    valid, start, size = struct.unpack_from("<Q4xIQ", stream, 8)
    whole = _sum(first, rest) == int.from_bytes(first[2:4], "little") and bool(name)
    return _Entry(
        name, attributes, start, size, valid, bool(stream[1] & _NO_FAT_CHAIN),
        _time(modified, tenths, to_utc), _time(accessed, 0, to_utc_accessed),
        whole and valid <= size,
    )  # fmt: skip


def _sum(first: bytes, rest: list[bytes]) -> int:
    found = 0
    for byte in (*first[:2], *first[4:], *b"".join(rest)):
        found = ((found << 15 | found >> 1) + byte) & 0xFFFF
    return found


def _time(stamp: int, hundredths: int, to_utc: int) -> int | None:
    """In ns since 1970; None where none was stored."""
    local = moment(stamp >> 16, stamp & 0xFFFF)
    if local is None:
        return None
    local += min(hundredths, 199) * 10**7
    if not to_utc & 0x80:
        return local
    quarters = (to_utc & 0x7F) - (0x80 if to_utc & 0x40 else 0)
    return local - quarters * _QUARTER
