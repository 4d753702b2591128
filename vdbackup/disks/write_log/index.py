"""When which entries were seen in a log of writes: entries carry no time of their own.

Whoever looks after a log looks into it each second, and notes beside it what has come:

    magic, 8 bytes
    each note: `since` and `until` (ns since 1970), number of entries, CRC-32C of all else in the
               note; then the entries' headers, as they stand in the log (structs.py)

All that a note names came after `since` and no later than `until`. Times never go back: where the
clock was set back, a note has the newest time so far as both, until the clock has got there again.
Of what has that time, and of what was noted before as if it came later than it did, nobody knows
the true time: all up to there is in doubt (`set_back`). The headers are there so that a
log need not be walked to be read at a moment: of a million writes that took seconds, or minutes
where the storage has to look for each. A note that was cut off, and whatever is behind it, is as if
it were not there: the log itself tells what it told, but for the time.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import google_crc32c
import numpy as np

from vdbackup.disks.extents import Int64s
from vdbackup.disks.write_log.structs import ENTRY

MAGIC = b"vdbwidx1"
_NOTE = struct.Struct("<QQQ")
_SUM = struct.Struct("<I")
_EXACT = 1_000_000_000
"""Nanoseconds to which times are exact: by less a clock may be set back, and none are in doubt."""
_MOST = 1 << 26
"""Entries that a note names at most: what says more, and is as long, would take all memory."""


@dataclass(frozen=True)
class Index:
    """What the notes beside a log say.

    Attributes:
        headers: of all entries that they name, from the first on, as bytes.
        since, until: int64[notes], the times of each note, ns since 1970.
        ends: int64[notes], how many entries this note and those before it name.
        length: bytes of the file that make sense.
        damaged: it does not begin as one does, or is not there, or whole notes stand behind one
            that is not: no power cut makes that of it, so that more was noted than can be read.
    """

    headers: bytes = b""
    since: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    until: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    ends: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    length: int = 0
    damaged: bool = False

    @classmethod
    def read(cls, path: Path) -> Self:
        """The notes as far as they are whole; none where there is no such file. Raises OSError."""
        try:
            with path.open("rb") as file:
                return cls._of(file, os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return cls(damaged=True)

    @classmethod
    def _of(cls, file: BinaryIO, size: int) -> Self:
        if file.read(len(MAGIC)) != MAGIC:
            return cls(damaged=True)
        at, count, newest = len(MAGIC), 0, 0
        headers: list[bytes] = []
        notes: list[tuple[int, int, int]] = []
        while (note := _next(file, at, size)) is not None:
            if not note.is_whole or note.since < newest:
                break
            headers.append(note.headers)
            count += note.entries
            notes.append((note.since, note.until, count))
            at, newest = note.end, note.until
        behind = _next(file, note.end, size) if note is not None else None
        times = np.array(notes, np.int64).reshape(-1, 3)
        damaged = behind is not None and behind.is_whole
        return cls(b"".join(headers), times[:, 0], times[:, 1], times[:, 2], at, damaged)

    @property
    def count(self) -> int:
        """How many entries are noted."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def set_back(self) -> int:
        """Up to when times are in doubt because the clock was set back, ns since 1970; 0: none."""
        doubtful = self.until[(self.since == self.until) & (self.until > 0)]
        return int(doubtful.max()) if len(doubtful) else 0

    def first(self, count: int) -> Index:
        """What is noted of the first `count` entries alone."""
        if count >= self.count:
            return self
        notes = int(np.searchsorted(self.ends, count)) + (1 if count else 0)
        ends = np.minimum(self.ends[:notes], count)
        headers = self.headers[: count * ENTRY.itemsize]
        times = self.since[:notes], self.until[:notes]
        return Index(headers, *times, ends, self.length, self.damaged)

    def times(self, entries: Int64s) -> tuple[Int64s, Int64s]:
        """After when and until when some entries came, ns since 1970; 0 and 0 where nobody knows.

        Args:
            entries: int64[n], their numbers from 0, ascending.
        """
        if not len(self.ends):
            return np.zeros(len(entries), np.int64), np.zeros(len(entries), np.int64)
        note = np.searchsorted(self.ends, entries, "right")
        known = note < len(self.ends)
        note = np.minimum(note, len(self.ends) - 1)
        return np.where(known, self.since[note], 0), np.where(known, self.until[note], 0)


@dataclass(frozen=True)
class _Note:
    """One note, as it stands there; `headers` of the entries that it names."""

    since: int
    until: int
    entries: int
    headers: bytes
    end: int
    is_whole: bool


def _next(file: BinaryIO, at: int, size: int) -> _Note | None:
    """The note that begins `at` bytes in a file; None where there is no space for one."""
    file.seek(at)
    head = file.read(_NOTE.size + _SUM.size)
    if len(head) < _NOTE.size + _SUM.size:
        return None
    since, until, entries = _NOTE.unpack_from(head)
    end = at + len(head) + entries * ENTRY.itemsize
    if end > size or entries > _MOST:
        return None
    headers = file.read(end - at - len(head))
    total = google_crc32c.value(head[: _NOTE.size] + headers)
    whole = _SUM.unpack_from(head, _NOTE.size)[0] == total and since <= until < 1 << 63
    return _Note(since, until, entries, headers, end, whole)


class IndexWriter:
    """Adds notes to the file beside a log, which one process at a time does.

    Attributes:
        headers: what had been noted when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Go on behind the last whole note; raises OSError."""
        index = Index.read(path)
        self.headers = index.headers
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        os.ftruncate(self._fd, index.length)
        self._newest = int(index.until[-1]) if len(index.until) else 0
        self._end = index.length
        if not self._end:
            self._append(MAGIC)

    def is_at(self, path: Path) -> bool:
        """Whether the file still has that name; another one cannot be taken for it."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(path))
        except FileNotFoundError:
            return False

    def note(self, headers: bytes, since: int, until: int) -> None:
        """Note entries that have come between two looks, times in ns since 1970; raises OSError."""
        if not headers:
            return
        since = max(since, self._newest)  # clocks may be set back
        if since - _EXACT < until < since:  # by less than times are exact to
            until = since + 1
        until = max(until, since)
        head = _NOTE.pack(since, until, len(headers) // ENTRY.itemsize)
        self._append(head + _SUM.pack(google_crc32c.value(head + headers)) + headers)
        self._newest = until

    def _append(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], self._end + done)
        self._end += len(data)

    def sync(self) -> None:
        """Make all notes durable; raises OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
