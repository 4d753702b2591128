"""FAT12, FAT16 and FAT32: boot sector and table by dissect; folders and chains of clusters here.

dissect (3.13) reads a cluster's neighbour where a chain goes back by one, does not end where a
chain is a circle, fails at a folder in which a file has no date, and does not know names that are
small letters without being long.

FAT keeps local times without saying where: they are given as if they were UTC.

Specification: Microsoft, FAT32 File System Specification, 1.03.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Hashable, Iterator
from datetime import UTC, datetime

from dissect.fat.c_fat import Fattype
from dissect.fat.fat import FATFS
from dissect.util.stream import AlignedStream, RunlistStream

from vdbackup.translation import tr
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

_ENTRY = 32
_MAX_FOLDER = 65_536 * _ENTRY
"""Bytes."""
_READ_ONLY, _HIDDEN, _SYSTEM, _LABEL, _FOLDER, _LONG_NAME = 0x01, 0x02, 0x04, 0x08, 0x10, 0x0F
_LAST, _DELETED = 0x40, 0xE5
_SMALL_BASE, _SMALL_EXTENSION = 0x08, 0x10
_ENCODING, _OTHER_ENCODING = "cp437", "cp850"


def open_root(stream: io.BufferedReader) -> tuple[str, Node]:
    """The name of the file system that lies in `stream`, and its topmost folder."""
    fs = FATFS(stream)
    name: str = fs.type.name
    return name, _Root(fs)


class FatNode(Node):
    """A file or folder: its entry in a folder."""

    __slots__ = ("_fs", "_raw")

    def __init__(self, fs: FATFS, raw: bytes, name: str) -> None:
        super().__init__(name)
        self._fs = fs
        self._raw = raw

    @property
    def identity(self) -> Hashable:
        """The first cluster."""
        return self._cluster

    def stat(self) -> Stat:
        """From the entry."""
        time, date = struct.unpack_from("<HH", self._raw, 22)
        modified = moment(date, time)
        mode = 0o444 if self._raw[11] & _READ_ONLY else 0o666
        if self._raw[11] & _FOLDER:
            return Stat(Kind.FOLDER, 0, modified, 0o777)
        return Stat(Kind.FILE, self._size, modified, mode)

    @property
    def flags(self) -> int:
        """Those bits that say who may write, or see, it: read-only, hidden, system."""
        return self._raw[11] & (_READ_ONLY | _HIDDEN | _SYSTEM)

    @property
    def depends_on_code_page(self) -> bool:
        """Whether its name is stored in letters alone that not all programs read alike."""
        short = _short(self._raw)
        if self.name != short or short.isascii():
            return False
        same = self._raw[:11].decode(_ENCODING) == self._raw[:11].decode(_OTHER_ENCODING)
        return not same or bool(self._raw[12] & (_SMALL_BASE | _SMALL_EXTENSION))

    def label(self) -> bytes:
        """The volume's label as the topmost folder has it, 11 bytes; b"" where there is none."""
        folder = self._folder()
        for at in range(0, len(folder) - _ENTRY + 1, _ENTRY):
            raw = folder[at : at + _ENTRY]
            if not raw[0]:
                break
            if raw[0] != _DELETED and raw[11] & 0x3F != _LONG_NAME and raw[11] & _LABEL:
                return raw[:11]
        return b""

    def children(self) -> Iterator[Node]:
        """In the order in which the folder holds them, without labels."""
        for index, (name, raw) in enumerate(_parse(self._folder())):
            if index >= 2 or raw[:11] not in (b".          ", b"..         "):
                yield FatNode(self._fs, raw, name)

    def content(self) -> Content:
        """The file's clusters."""
        size, cluster_size = self._size, self._fs.cluster_size
        runs = self._chain(self._cluster, -(-size // cluster_size))
        if sum(count for _, count in runs) * cluster_size < size:
            raise Unreadable(tr("its end is missing"))
        stream = RunlistStream(self._fs.data_stream, runs, size, cluster_size)
        return Content(stream, size, data_ranges(runs, cluster_size, size))

    def blocks(self) -> list[Range]:
        """By its chain of clusters."""
        size = self._fs.cluster_size
        limit = _MAX_FOLDER // size + 1 if self._raw[11] & _FOLDER else -(-self._size // size)
        return blocks_of(self._chain(self._cluster, limit), size, self._base)

    @property
    def _base(self) -> int:
        """Where in the volume the clusters begin, in bytes."""
        return int(self._fs.first_data_sector) * int(self._fs.sector_size)

    def _target(self) -> str:
        raise Unreadable(tr("FAT has no links"))

    @property
    def _cluster(self) -> int:
        high, low = struct.unpack_from("<H4xH", self._raw, 20)
        return int(high << 16 | low if self._fs.type == Fattype.FAT32 else low)

    @property
    def _size(self) -> int:
        return int.from_bytes(self._raw[28:32], "little")

    def _folder(self) -> bytes:
        """The clusters of a folder, which has no size but that of its chain."""
        runs = self._chain(self._cluster, _MAX_FOLDER // self._fs.cluster_size + 1)
        size = sum(count for _, count in runs) * self._fs.cluster_size
        if size > _MAX_FOLDER:
            raise Unreadable(tr("the folder is larger than FAT allows"))
        stream = RunlistStream(self._fs.data_stream, runs, size, self._fs.cluster_size)
        return _whole(stream, size)

    def _chain(self, cluster: int, limit: int) -> list[Run]:
        return merged(((number - 2, 1) for number in self._clusters(cluster)), limit)

    def _clusters(self, cluster: int) -> Iterator[int]:
        """The clusters of a chain; endless where the chain is a circle."""
        table = self._fs.fat
        end = (1 << min(28, table.bits_per_entry)) - 8
        if not cluster:  # an empty file has none
            return
        while cluster < end:
            if not 2 <= cluster < table.entry_count:
                raise Unreadable(tr("its chain of clusters is damaged"))
            yield cluster
            cluster = table.get(cluster)


class _Root(FatNode):
    """The topmost folder, which has no entry."""

    __slots__ = ()

    def __init__(self, fs: FATFS) -> None:
        cluster = fs.bpb_ext.BPB_RootClus if fs.type == Fattype.FAT32 else 0
        high, low = cluster >> 16, cluster & 0xFFFF
        super().__init__(fs, struct.pack("<11xB8xH4xH4x", _FOLDER, high, low), "")

    def _folder(self) -> bytes:
        """FAT12 and FAT16 have a place of its own for it."""
        if self._cluster:
            return super()._folder()
        return _whole(self._fs.root.open(), self._fs.root.size)


def _whole(stream: AlignedStream, size: int) -> bytes:
    data: bytes = stream.read()
    if len(data) < size:
        raise Unreadable(tr("the disk ends before a part of it"))
    return data


def _parse(folder: bytes) -> Iterator[tuple[str, bytes]]:
    """A folder's entries: name, and the 32 bytes."""
    parts: list[bytes] = []
    checksum = -1
    for offset in range(0, len(folder) - _ENTRY + 1, _ENTRY):
        raw = folder[offset : offset + _ENTRY]
        if not raw[0]:
            return
        if raw[0] == _DELETED:
            parts = []
        elif raw[11] & 0x3F == _LONG_NAME:
            if raw[0] & _LAST:  # which comes first
                parts = []
            parts.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
            checksum = raw[13]
        else:
            long_name = b"".join(parts) if checksum == _checksum(raw) else b""
            parts = []
            if not raw[11] & _LABEL:
                yield _long(long_name) or _short(raw), raw


def _long(name: bytes) -> str:
    return name.decode("utf-16-le", "surrogatepass").partition("\0")[0]


def _short(raw: bytes) -> str:
    """Eight characters and three; flags of Windows NT's say that they stand for small letters."""
    first = b"\xe5" if raw[0] == 0x05 else raw[:1]
    base = (first + raw[1:8]).decode(_ENCODING).rstrip(" ")
    extension = raw[8:11].decode(_ENCODING).rstrip(" ")
    if raw[12] & _SMALL_BASE:
        base = base.lower()
    if raw[12] & _SMALL_EXTENSION:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


def _checksum(raw: bytes) -> int:
    """Of a short name; the parts of the long name that belongs to it carry it."""
    total = 0
    for byte in raw[:11]:
        total = ((total >> 1) + ((total & 1) << 7) + byte) & 0xFF
    return total


def moment(date: int, time: int) -> int | None:
    """Nanoseconds since 1970 of a date and a time as DOS has them; None where none was stored."""
    try:
        moment = datetime(
            1980 + (date >> 9),
            date >> 5 & 15,
            date & 31,
            time >> 11,
            time >> 5 & 63,
            (time & 31) * 2,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(moment.timestamp()) * 10**9
