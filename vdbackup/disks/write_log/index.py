"""When which entries were seen in a log of writes: entries carry no time of their own.

Whoever looks after a log looks into it each second, and notes beside it what has come:

    magic, 8 bytes
    each note: `since` and `until` (ns since 1970), number of entries, CRC-32C of all else in the
               note; then the entries' headers, as they stand in the log (structs.py)

All that a note names came after `since` and no later than `until`. The headers are there so that a
log need not be walked to be read at a moment: of a million writes that took seconds, or minutes
where the storage has to look for each. A note that was cut off, and whatever is behind it, is as if
it were not there: the log itself tells what it told, but for the time.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import google_crc32c
import numpy as np

from vdbackup.disks.extents import Int64s
from vdbackup.disks.write_log.structs import ENTRY

MAGIC = b"vdbwidx1"
_NOTE = struct.Struct("<QQQ")
_SUM = struct.Struct("<I")


@dataclass(frozen=True)
class Index:
    """What the notes beside a log say.

    Attributes:
        headers: of all entries that they name, from the first on, as bytes.
        since, until: int64[notes], the times of each note, ns since 1970.
        ends: int64[notes], how many entries this note and those before it name.
        length: bytes of the file that make sense.
    """

    headers: bytes = b""
    since: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    until: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    ends: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    length: int = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        """The notes as far as they are whole; none where there is no such file. Raises OSError."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        if not data.startswith(MAGIC):
            return cls()
        at, count, newest = len(MAGIC), 0, 0
        headers: list[bytes] = []
        notes: list[tuple[int, int, int]] = []
        while at + _NOTE.size + _SUM.size <= len(data):
            head = data[at : at + _NOTE.size]
            since, until, entries = _NOTE.unpack(head)
            begin = at + _NOTE.size + _SUM.size
            end = begin + entries * ENTRY.itemsize
            if end > len(data) or not newest <= since <= until < 1 << 63:
                break
            own = data[begin:end]
            if _SUM.unpack_from(data, begin - _SUM.size)[0] != google_crc32c.value(head + own):
                break
            headers.append(own)
            count += entries
            notes.append((since, until, count))
            at, newest = end, until
        times = np.array(notes, np.int64).reshape(-1, 3)
        return cls(b"".join(headers), times[:, 0], times[:, 1], times[:, 2], at)

    @property
    def count(self) -> int:
        """How many entries are noted."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def first(self, count: int) -> Index:
        """What is noted of the first `count` entries alone."""
        if count >= self.count:
            return self
        notes = int(np.searchsorted(self.ends, count)) + (1 if count else 0)
        ends = np.minimum(self.ends[:notes], count)
        headers = self.headers[: count * ENTRY.itemsize]
        return Index(headers, self.since[:notes], self.until[:notes], ends, self.length)

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
