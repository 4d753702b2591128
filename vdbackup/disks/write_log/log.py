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
from vdbackup.disks.write_log.structs import ENTRY, Flag, SuperBlock
from vdbackup.translation import tr

_LOOKED_AT = 64
"""Entries of which it is seen whether a log and the notes beside it belong together."""


@dataclass(frozen=True, eq=False)
class WriteLog:
    """What a log holds, as of when it was read: others may go on writing to it.

    Writes are counted from 1; the state after write 0 is that before the first of them. A discard
    counts as one, a flush and a mark do not.

    Attributes:
        path: of the log.
        entries: all that were found.
        index: when they came.
        disk_size: of the disk that was written to, in bytes.
        named: how many of the entries the super block names: those were written out with a flush.
        lost: how many entries were noted and are not there any more, or not as they were.
    """

    path: Path
    entries: Entries
    index: Index
    disk_size: int
    named: int
    lost: int = 0
    _folded: dict[int, BlockMap] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, disk_size: int, index: Path | None = None) -> Self:
        """Read a log, and the notes beside it; its data are not read.

        The super block's number of entries is not gone by: QEMU writes it at a flush.

        Raises DiskFormatError where it is none, OSError.
        """
        known = Index.read(index) if index is not None else Index()
        with closing(HostFile.open(path)) as file:
            head = SuperBlock.unpack(file.read(0, max(SECTOR, 32)), path)
            with file.descriptor() as fd:
                noted = known.count
                known = known.first(_agreeing(known, fd, head.sector_size, file.size, disk_size))
                entries = found(fd, known.headers, head.sector_size, file.size, disk_size)
        named = min(head.entries, len(entries))
        return cls(path, entries, known, disk_size, named, noted - known.count)

    @property
    def proven(self) -> int:
        """How many of the entries were on the storage before they were noted.

        What is behind them may have headers that make sense, and after a power cut of this computer
        nothing else: storage writes in any order.
        """
        return min(self.index.count, len(self.entries))

    @property
    def writes(self) -> int:
        """How many there are."""
        return len(self._writes)

    @property
    def sound_writes(self) -> int:
        """How many of them, from the first on, may be what was written.

        Behind what is lost of the entries that had been noted, nothing is.
        """
        return int(np.searchsorted(self._writes, self.proven)) if self.lost else self.writes

    @cached_property
    def _writes(self) -> Int64s:
        return np.flatnonzero(self.entries.changing)

    @cached_property
    def flushes(self) -> Int64s:
        """int64[n]: after which writes a flush came, ascending, each once."""
        return self._flushes[0]

    @cached_property
    def flushed(self) -> Int64s:
        """int64[n]: by when that flush had come for certain, ns since 1970; 0: nobody knows."""
        return self.index.times(self._flushes[1])[1]

    @cached_property
    def _flushes(self) -> tuple[Int64s, Int64s]:
        """After which writes the first flush came, and which entries those flushes are."""
        entries = np.flatnonzero(self.entries.having(Flag.FLUSH))
        after = np.searchsorted(self._writes, entries)  # its own data may not have been written out
        first = np.append(True, after[1:] != after[:-1])[: len(after)]
        return after[first], entries[first]

    def marks(self) -> list[tuple[int, str]]:
        """After which write each mark came, and what it says, external text; raises OSError."""
        entries = np.flatnonzero(self.entries.having(Flag.MARK)).tolist()
        with closing(HostFile.open(self.path)) as file, file.descriptor() as fd:
            texts = [self.entries.text(each, fd) for each in entries]
        return list(zip(np.searchsorted(self._writes, entries).tolist(), texts, strict=True))

    def time_of(self, write: int) -> tuple[int, int]:
        """After when and until when a write came, ns since 1970; 0 and 0 where nobody knows."""
        since, until = self.index.times(self._writes[write - 1 : write])
        return (int(since[0]), int(until[0])) if len(since) else (0, 0)

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
        after, entries = self._flushes
        at = int(np.searchsorted(after, write))
        return at < len(after) and int(after[at]) == write and int(entries[at]) < self.proven

    def folded(self, count: int) -> BlockMap:
        """The map of the first `count` entries; that asked for last is kept."""
        if count not in self._folded:
            self._folded.clear()
            self._folded[count] = fold(self.entries, count, self.disk_size)
        return self._folded[count]

    def disk(self, write: int) -> LoggedDisk:
        """What the disk had been given after a write, as a child of what it was before the first.

        Raises ValueError where there are fewer, OSError.
        """
        if not 0 <= write <= self.writes:
            raise ValueError(
                tr(
                    "{path} holds {writes} writes, and {write} were asked for",
                    path=self.path,
                    writes=self.writes,
                    write=write,
                )
            )
        count = int(self._writes[write - 1]) + 1 if write else 0
        return LoggedDisk(HostFile.open(self.path), self, count)


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
