"""A log of writes as it is read: its entries, when they came, and the disk at any of them."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from vdbackup.disks.disk import SECTOR, DiskInfo
from vdbackup.disks.extents import BlockMap, Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.read_only import ReadOnlyDisk
from vdbackup.disks.write_log.entries import Entries, found
from vdbackup.disks.write_log.fold import fold
from vdbackup.disks.write_log.index import Index
from vdbackup.disks.write_log.stations import Stations, are_ours, stations
from vdbackup.disks.write_log.structs import ENTRY, Flag, SuperBlock
from vdbackup.errors import ChangedWhileRead
from vdbackup.translation import tr

_NONE = -1
_NOTHING = np.empty(0, np.int64)
_LOOKED_AT = 64
"""Entries of which it is seen whether a log and the notes beside it belong together."""


@dataclass(frozen=True, eq=False)
class WriteLog:
    """What a log holds, as of when it was read: others may go on writing to it.

    Writes are counted from 1; the state after write 0 is that before the first of them. A discard
    counts as one, a flush and a mark do not. Where a log was thinned (stations.py), what is left
    keeps its numbers.

    Attributes:
        path: of the log.
        entries: all that were found.
        index: when they came.
        disk_size: of the disk that was written to, in bytes.
        named: how many of the entries the super block names: those were written out with a flush.
        lost: how many entries were noted and are not there any more, or not as they were.
        stations: of one that was thinned, which moments stayed.
    """

    path: Path
    entries: Entries
    index: Index
    disk_size: int
    named: int
    lost: int = 0
    stations: Stations | None = None
    _folded: dict[int, BlockMap] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, disk_size: int, index: Path | None = None) -> Self:
        """Read a log, and the notes beside it; its data are not read.

        The super block's number of entries is not gone by: QEMU writes it at a flush.

        Raises DiskFormatError where it is none, OSError.
        """
        with closing(HostFile.open(path)) as file:
            known = Index.read(index) if index is not None else Index()
            head = SuperBlock.unpack(file.read(0, max(SECTOR, 32)), path)
            with file.descriptor() as fd:
                noted = known.count
                known = known.first(_agreeing(known, fd, head.sector_size, file.size, disk_size))
                entries = found(fd, known.headers, head.sector_size, file.size, disk_size)
        named = min(head.entries, len(entries))
        lost = noted - known.count
        stayed = stations(entries, known.count if lost else len(entries))
        return cls(path, entries, known, disk_size, named, lost, stayed)

    @property
    def proven(self) -> int:
        """How many of the entries were on the storage before they were noted.

        What is behind them may have headers that make sense, and after a power cut of this computer
        nothing else: storage writes in any order.
        """
        return min(self.index.count, len(self.entries))

    @property
    def writes(self) -> int:
        """The number of the last there is."""
        return self.number_after(len(self.entries))

    @property
    def sound_writes(self) -> int:
        """That of the last which may be what was written.

        Behind what is lost of the entries that had been noted, nothing is.
        """
        return self.number_after(self.proven) if self.lost else self.writes

    def number_after(self, count: int) -> int:
        """The number of the newest state that the first `count` entries hold."""
        numbers = self._numbers[: int(np.searchsorted(self._writes, count)) + 1]
        there = numbers[numbers != _NONE]
        return int(there[-1]) if len(there) else 0

    @property
    def thinned_until(self) -> int:
        """The number of the last moment before which it was thinned; -1 where it was not."""
        return self.stations.found[-1][1] if self.stations and self.stations.found else _NONE

    def is_as(self, other: WriteLog) -> bool:
        """Whether it has the same entries."""
        mine, its = self.entries, other.entries
        return mine.end == its.end and bool(np.array_equal(mine.headers, its.headers))

    def end_of(self, write: int) -> int:
        """How many entries make the state after a write, the flush behind it among them.

        Raises ValueError where that is not there.
        """
        place = self._place_of(write)
        if place is None:
            raise ValueError(tr("{path} does not hold write {write}", path=self.path, write=write))
        count = int(self._writes[place - 1]) + 1 if place else 0
        flush = int(np.searchsorted(self._flushes[0], place))
        if flush < len(self._flushes[0]) and int(self._flushes[0][flush]) == place:
            return int(self._flushes[1][flush]) + 1
        return count

    def newest_at_or_before(self, write: int) -> int | None:
        """The last number at or before that of a write whose state is there."""
        kept = self._numbers[(self._numbers != _NONE) & (self._numbers <= write)]
        return int(kept[-1]) if len(kept) else None

    def oldest_at_or_behind(self, write: int) -> int | None:
        """The first number at or behind that of a write whose state is there."""
        kept = self._numbers[self._numbers >= max(write, 0)]
        return int(kept[0]) if len(kept) else None

    def holds(self, write: int) -> bool:
        """Whether the state after a write is there: of a log that was thinned not each is."""
        return self._place_of(write) is not None

    def _place_of(self, write: int) -> int | None:
        """How many of the log's writes make the state after one; None where none do."""
        at = np.flatnonzero(self._numbers == write)
        return int(at[0]) if write >= 0 and len(at) else None

    @cached_property
    def _writes(self) -> Int64s:
        return np.flatnonzero(self.entries.changing)

    @cached_property
    def _numbers(self) -> Int64s:
        """int64[n + 1]: which write's the state is after so many of those that are in the log."""
        places = np.arange(len(self._writes) + 1, dtype=np.int64)
        if self.stations is None:
            return places
        numbers = np.full(len(places), _NONE, np.int64)
        for place, number in self.stations.found:
            numbers[place] = number
        if self.stations.complete:
            last, number = self.stations.found[-1]
            numbers[last:] = number + places[last:] - last
        return numbers

    @cached_property
    def flushes(self) -> Int64s:
        """int64[n]: after which writes a flush came, ascending, each once."""
        return self._numbers[self._flushes[0]]

    @cached_property
    def flushed(self) -> Int64s:
        """int64[n]: by when that flush had come for certain, ns since 1970; 0: nobody knows."""
        return self.index.times(self._flushes[1])[1]

    @property
    def flush_entries(self) -> Int64s:
        """int64[n]: which of the log's entries those flushes are."""
        return self._flushes[1]

    @cached_property
    def _flushes(self) -> tuple[Int64s, Int64s]:
        """After how many writes the first flush came, and which entries those flushes are."""
        entries = np.flatnonzero(self.entries.having(Flag.FLUSH))
        after = np.searchsorted(self._writes, entries)  # its own data may not have been written out
        first = np.append(True, after[1:] != after[:-1])[: len(after)]
        first &= self._numbers[after] != _NONE
        return after[first], entries[first]

    def marks(self) -> list[tuple[int, str]]:
        """After which write each mark came, and what it says, external text; raises OSError."""
        marks = np.flatnonzero(self.entries.having(Flag.MARK) & ~are_ours(self.entries))
        with closing(HostFile.open(self.path)) as file, file.descriptor() as fd:
            texts = [self.entries.text(each, fd) for each in marks.tolist()]
        numbers = self._numbers[np.searchsorted(self._writes, marks)].tolist()
        found = zip(numbers, texts, strict=True)
        return [(number, text) for number, text in found if number != _NONE]

    def time_of(self, write: int) -> tuple[int, int]:
        """After when and until when a write came, ns since 1970; 0 and 0 where nobody knows."""
        place = self._place_of(write) or 0
        since, until = self.index.times(self._writes[place - 1 : place] if place else _NOTHING)
        return (int(since[0]), int(until[0])) if len(since) else (0, 0)

    def noted(self) -> tuple[Int64s, Int64s, Int64s]:
        """Of each note: the number of the last write then, after when and until when they came.

        int64[notes] each, times in ns since 1970. Where moments were thinned, it is that of the
        last one whose state is there.
        """
        counts = np.searchsorted(self._writes, self.index.ends)
        numbers = np.maximum.accumulate(self._numbers)[counts]
        return np.maximum(numbers, 0), self.index.since, self.index.until

    def newest_flush(self, until: int) -> int | None:
        """The last write after which a flush had come for certain by then, ns since 1970."""
        known = (self.flushed > 0) & (self.flushed <= until)
        return int(self.flushes[known][-1]) if known.any() else None

    def is_flushed(self, write: int) -> bool:
        """Whether a flush came between that write and the next."""
        at = int(np.searchsorted(self.flushes, write))
        return at < len(self.flushes) and int(self.flushes[at]) == write

    def is_proven(self, write: int) -> bool:
        """Whether a flush came between that write and the next, and is surely on the storage."""
        at = int(np.searchsorted(self.flushes, write))
        found = at < len(self.flushes) and int(self.flushes[at]) == write
        return found and int(self._flushes[1][at]) < self.proven

    def folded(self, count: int) -> BlockMap:
        """The map of the first `count` entries; that asked for last is kept."""
        if count not in self._folded:
            self._folded.clear()
            self._folded[count] = fold(self.entries, count, self.disk_size)
        return self._folded[count]

    def disk(self, write: int) -> LoggedDisk:
        """What the disk had been given after a write, as a child of what it was before the first.

        Raises ValueError where there are fewer; ChangedWhileRead where another log has its name by
        now, OSError.
        """
        place = self._place_of(write)
        if place is None:
            raise ValueError(
                tr(
                    "{path} holds {writes} writes, and {write} were asked for",
                    path=self.path,
                    writes=self.writes,
                    write=write,
                )
            )
        count = int(self._writes[place - 1]) + 1 if place else 0
        with HostFile.open(self.path).closed_on_error() as file:
            with file.descriptor() as fd:
                is_it = self.entries.stand_in(fd)
            if not is_it:
                raise other_log(self.path)
        return LoggedDisk(file, self, count)


def other_log(path: Path) -> ChangedWhileRead:
    """The error that a log was replaced since it was read."""
    return ChangedWhileRead(
        tr("{path} was written to, moved or replaced while it was read.", path=path),
        tr("Begin again; if it happens again, find out which program does that."),
    )


def _agreeing(
    index: Index, descriptor: int, sector_size: int, log_size: int, disk_size: int
) -> int:
    """How many of the entries that were noted a log still holds, from its first on.

    Some are looked at, and the last; where one is not what was noted, each. Raises OSError.
    """
    noted = Entries.of(index.headers, sector_size, log_size, disk_size)
    count = len(noted)
    some = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int))
    places, size = noted.places.tolist(), ENTRY.itemsize

    def is_there(entry: int) -> bool:
        stands = os.pread(descriptor, size, places[entry])
        return stands == index.headers[entry * size : (entry + 1) * size]

    if all(map(is_there, some.tolist())):
        return count
    return next((entry for entry in range(count) if not is_there(entry)), count)


class LoggedDisk(ReadOnlyDisk):
    """The first entries of a log as a layer: the data stay where the log has them."""

    def __init__(self, file: HostFile, log: WriteLog, count: int) -> None:
        super().__init__(file)
        self._log, self._count = log, count
        size = log.disk_size
        self.info = DiskInfo(DiskFormat.RAW, size, SECTOR, log.entries.sector_size, None, "", None)

    def block_map(self) -> BlockMap:
        """Where the newest data lie; what nobody wrote to is the parent's."""
        return self._log.folded(self._count)
