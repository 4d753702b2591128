"""A log made shorter: of some moments what changed since the one before, then the rest as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import SECTOR, DiskInfo
from vdbackup.disks.extents import ZERO, BlockMap
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.read_only import ReadOnlyDisk
from vdbackup.disks.transfer import pieces
from vdbackup.disks.write_log import stations
from vdbackup.disks.write_log.begin import AT_ONCE
from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.fold import fold
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.disks.write_log.structs import HEADER, Flag, SuperBlock
from vdbackup.jobs import Task
from vdbackup.translation import tr


@dataclass(frozen=True, eq=False)
class Thinning:
    """What becomes of a log.

    Attributes:
        log: as it is.
        ends: of each moment that stays how many of the log's entries are before it, ascending.
        numbers: of each the number of the write that it is after.
        maps: of each what changed since the one before; the places are the log's.
        length: bytes of the file that it becomes, at most.
    """

    log: WriteLog
    ends: tuple[int, ...]
    numbers: tuple[int, ...]
    maps: tuple[BlockMap, ...]
    length: int

    @classmethod
    def of(cls, log: WriteLog, numbers: Sequence[int]) -> Thinning:
        """That by which these moments stay, and all that came behind the last.

        Args:
            log: all of it that is read is noted.
            numbers: of the writes that they are after, ascending, the first the log's first moment.
        """
        ends = tuple(log.end_of(each) for each in numbers)
        maps = tuple(
            fold(part := _part(log.entries, begin, end), len(part), log.disk_size)
            for begin, end in zip((0, *ends[:-1]), ends, strict=True)
        )
        sector = log.entries.sector_size
        runs = sum(
            sum(-(-length // AT_ONCE) for length in each.lengths[each.layers >= ZERO].tolist())
            for each in maps
        )
        data = sum(int(each.lengths[each.layers == 0].sum()) for each in maps)
        rest = log.entries.end - int(log.entries.places[ends[-1]])
        length = sector * (2 + runs + 2 * len(maps)) + data + rest
        return cls(log, ends, tuple(numbers), maps, length)

    def write(self, path: Path, index: Path, task: Task) -> None:
        """Make the new log, and its notes, durable; raises OSError, FileExistsError, Cancelled."""
        log, sector = self.log, self.log.entries.sector_size
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        notes: list[tuple[bytes, int, int]] = []
        begin = since = 0
        with (
            closing(HostFile.open(log.path)) as old,
            os.fdopen(os.open(path, flags, 0o600), "w+b") as file,
        ):
            file.write(SuperBlock(0, sector).pack())
            count = _put(
                file, sector, [(*stations.begin(len(self.numbers)), b"")], own := bytearray()
            )
            for end, number, each in zip(self.ends, self.numbers, self.maps, strict=True):
                count += _put(file, sector, _asked(_net(old, each, sector), task), own)
                mark = (*stations.station(number), b"")
                count += _put(file, sector, [_FLUSH, mark], own)
                until = int(log.index.times(np.array([end - 1], np.int64))[1][0]) if end else 0
                doubt = _in_doubt(log, begin, end)
                until = max(until, since if doubt or not until else since + 1)
                notes.append((bytes(own), until if doubt else since, until))
                begin, since, own = end, until, bytearray()
                task.phase(tr("Thin"), file.tell(), self.length)
            first = self.ends[-1]
            for done in _copied(old, int(log.entries.places[first]), log.entries.end, file):
                task.check()
                task.phase(tr("Thin"), done, self.length)
            count += len(log.entries) - first
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            file.write(SuperBlock(count, sector).pack())
            file.flush()
            os.fsync(file.fileno())
        notes += _rest_of_notes(log, first)
        with closing(IndexWriter(index)) as writer:
            newest = 0
            for headers, begun, ended in notes:
                # two moments may be of one time, and no clock was set back for that
                in_doubt = begun == ended
                newest = max(ended, newest if in_doubt else newest + 1)
                writer.note(headers, newest if in_doubt else begun, newest)
            writer.sync()

    def is_kept_by(self, path: Path, index: Path, task: Task) -> bool:
        """Whether a new log holds each moment that stays, and all behind the last.

        Both are read: what changed from each moment to the next, then the rest. Raises OSError,
        Cancelled.
        """
        old, new = self.log, WriteLog.read(path, self.log.disk_size, index)
        if new.lost or not all(map(new.holds, self.numbers)) or new.writes != old.writes:
            return False
        before = 0
        for number, changed in zip(self.numbers, self.maps, strict=True):
            end = new.end_of(number)
            part = _part(new.entries, before, end)
            now = fold(part, len(part), old.disk_size)
            if not _reads_the_same(old, changed, new, now, task):
                return False
            before = end
            task.phase(tr("Check"), int(new.entries.places[end]), new.entries.end)
        first, behind = int(old.entries.places[self.ends[-1]]), int(new.entries.places[before + 1])
        rest = old.entries.end - first
        if rest != new.entries.end - behind:
            return False
        return _equal(old.path, first, path, behind, rest, task)


class _Changes(ReadOnlyDisk):
    """Some of a log's entries as a layer."""

    def __init__(self, log: WriteLog, own: BlockMap) -> None:
        super().__init__(HostFile.open(log.path))
        self._own = own
        size = log.disk_size
        self.info = DiskInfo(DiskFormat.RAW, size, SECTOR, log.entries.sector_size, None, "", None)

    def block_map(self) -> BlockMap:
        """What they changed."""
        return self._own


def _reads_the_same(old: WriteLog, was: BlockMap, new: WriteLog, now: BlockMap, task: Task) -> bool:
    if not np.array_equal(was.own_ranges(), now.own_ranges()):
        return False
    with Chain([_Changes(old, was)]) as one, Chain([_Changes(new, now)]) as other:
        for offset, length in pieces(was.own_ranges(), AT_ONCE):
            views = memoryview(bytearray(length)), memoryview(bytearray(length))
            task.check()
            one.readinto(offset, views[0])
            other.readinto(offset, views[1])
            if views[0] != views[1]:
                return False
    return True


def _equal(one: Path, at: int, other: Path, there: int, length: int, task: Task) -> bool:
    with closing(HostFile.open(one)) as first, closing(HostFile.open(other)) as second:
        for done in range(0, length, AT_ONCE):
            task.check()
            part = min(AT_ONCE, length - done)
            if first.read(at + done, part) != second.read(there + done, part):
                return False
            task.phase(tr("Check"), there + done + part, there + length)
        return True


_Piece = tuple[bytes, bytes, bytes]
"""An entry: its header, what follows that in its sector, and its data."""
_FLUSH: _Piece = (HEADER.pack(0, 0, Flag.FLUSH, 0), b"", b"")


def _part(entries: Entries, begin: int, end: int) -> Entries:
    return Entries(entries.headers[begin:end], entries.places[begin : end + 1], entries.sector_size)


def _net(old: HostFile, changed: BlockMap, sector: int) -> Iterator[_Piece]:
    """What changed, read from where the old log has it."""
    runs = (changed.starts, changed.lengths, changed.layers, changed.hosts)
    for start, length, layer, host in zip(*(each.tolist() for each in runs), strict=True):
        for at in range(0, length if layer >= 0 or layer == ZERO else 0, AT_ONCE):
            part = min(AT_ONCE, length - at)
            data = b"" if layer == ZERO else bytes(old.read(host + at, part))
            flag = Flag.DISCARD if layer == ZERO else 0
            yield HEADER.pack((start + at) // sector, part // sector, flag, 0), b"", data


def _put(file: BinaryIO, sector: int, entries: Iterable[_Piece], to: bytearray) -> int:
    """Add entries to a log, and their headers to what is to be noted; how many."""
    count = 0
    for header, text, data in entries:
        file.write((header + text).ljust(sector, b"\0") + data)
        to += header
        count += 1
    return count


def _in_doubt(log: WriteLog, begin: int, end: int) -> bool:
    """Whether of some of these entries the time is in doubt (`Index.set_back`)."""
    since, until = log.index.times(np.arange(begin, end, dtype=np.int64))
    return bool(((since == until) & (until > 0)).any())


def _asked(entries: Iterable[_Piece], task: Task) -> Iterator[_Piece]:
    """The same, as long as nobody wants it to end; raises Cancelled."""
    for each in entries:
        task.check()
        yield each


def _copied(old: HostFile, begin: int, end: int, file: BinaryIO) -> Iterator[int]:
    """Copies a part of the old log, and says how long the new one is after each piece."""
    for at in range(begin, end, AT_ONCE):
        file.write(old.read(at, min(AT_ONCE, end - at)))
        yield file.tell()


def _rest_of_notes(log: WriteLog, first: int) -> Iterator[tuple[bytes, int, int]]:
    """What was noted of the entries from `first` on."""
    index, begin = log.index, first
    for since, until, end in zip(
        index.since.tolist(), index.until.tolist(), index.ends.tolist(), strict=True
    ):
        if end > begin:
            yield index.headers[begin * HEADER.size : end * HEADER.size], since, until
            begin = end
