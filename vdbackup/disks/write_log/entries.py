"""The entries of a log of writes: found one after the other, checked together.

Where an entry begins is known from those before it alone, so a log is walked, one small read for
each. What was found is kept as arrays: 40 bytes an entry, however much was written. Nothing of a
log is believed: at the first entry that cannot be one, or whose data are not all there, it ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s
from vdbackup.disks.write_log.structs import ENTRY, HEADER, KNOWN, Flag

_NOTHING = bytes(HEADER.size)


@dataclass(frozen=True, eq=False)
class Entries:
    """The first entries of a log, in the order in which the writes were done.

    Attributes:
        headers: ENTRY[n], as they stand in the log.
        places: int64[n + 1], where in the log's file each begins, and where the next one would.
        sector_size: of the log, in bytes.
    """

    headers: NDArray[np.void]
    places: Int64s
    sector_size: int

    @classmethod
    def of(cls, raw: bytes, sector_size: int, log_size: int, disk_size: int) -> Self:
        """Headers that were found one after the other, as far as they make sense.

        Args:
            raw: the headers, from the log's first entry on.
            sector_size: of the log, in bytes.
            log_size: of its file, in bytes: an entry that is not all there is none.
            disk_size: of the disk that was written to, in bytes.
        """
        headers = np.frombuffer(raw, ENTRY, len(raw) // ENTRY.itemsize)
        sane = _sane(headers, sector_size, log_size, disk_size)
        count = len(headers) if sane.all() else int(np.argmin(sane))
        headers = headers[:count]
        # no step is longer than the file, so the first place beyond its end is no overflown one
        places = np.cumsum(np.append(np.int64(sector_size), _lengths(headers, sector_size)))
        inside = places <= log_size
        count = count if inside.all() else max(0, int(np.argmin(inside)) - 1)
        return cls(headers[:count], places[: count + 1], sector_size)

    def __len__(self) -> int:
        return len(self.headers)

    @property
    def end(self) -> int:
        """Where the next entry would begin in the log's file, in bytes."""
        return int(self.places[-1])

    @property
    def changing(self) -> NDArray[np.bool_]:
        """bool[n]: which of them change the disk. A flush may, a mark never does."""
        no_mark = self.headers["flags"] & np.uint64(Flag.MARK) == 0
        return np.asarray((self.headers["sectors"] > 0) & no_mark, np.bool_)

    def having(self, flag: Flag) -> NDArray[np.bool_]:
        """bool[n]: which of them have a flag."""
        return np.asarray(self.headers["flags"] & np.uint64(flag) != 0, np.bool_)

    def stand_in(self, descriptor: int) -> bool:
        """Whether the first and the last are where they were in a log; raises OSError.

        Another log may have its name by now, one that was thinned: that is shorter. No more are
        looked at: what is damaged between them was seen as the log was read, or does no harm.
        """
        return all(
            os.pread(descriptor, HEADER.size, int(self.places[each]))
            == self.headers[each].tobytes()
            for each in {0, len(self) - 1}
            if len(self)
        )

    def text(self, entry: int, descriptor: int) -> str:
        """What a mark says, external text; the log is open as `descriptor`."""
        length = int(self.headers["length"][entry])
        place = int(self.places[entry]) + HEADER.size
        return os.pread(descriptor, length, place).decode(errors="replace").rstrip("\0")


def found(
    descriptor: int, known: bytes, sector_size: int, log_size: int, disk_size: int
) -> Entries:
    """The entries of a log; raises OSError.

    Args:
        descriptor: of the log.
        known: the first headers, where they are known already: the walk goes on behind them.
        sector_size: of the log, in bytes.
        log_size: of its file, in bytes.
        disk_size: of the disk that was written to, in bytes.
    """
    entries = Entries.of(known, sector_size, log_size, disk_size)
    new, _ = walked(descriptor, entries.end, sector_size, log_size)
    if not new:
        return entries
    return Entries.of(entries.headers.tobytes() + new, sector_size, log_size, disk_size)


def walked(
    descriptor: int, place: int, sector_size: int, log_size: int, most: int | None = None
) -> tuple[bytes, int]:
    """The headers from `place` on, as they stand there, and where the next would begin.

    Whether they make sense is for `Entries.of` to say. Raises OSError.

    Args:
        descriptor: of the log.
        place: in its file, in bytes.
        sector_size: of the log, in bytes.
        log_size: of its file, in bytes.
        most: headers after which the walk ends; None: at the log's end.
    """
    headers: list[bytes] = []
    shift, last = sector_size.bit_length() - 1, log_size - sector_size
    while place <= last and (most is None or len(headers) < most):
        header = os.pread(descriptor, HEADER.size, place)
        if header == _NOTHING or len(header) < HEADER.size:
            break  # not written, or not yet
        _, sectors, flags, _ = HEADER.unpack(header)
        headers.append(header)
        place += sector_size if flags & Flag.DISCARD else sector_size + (sectors << shift)
    return b"".join(headers), place


def _lengths(headers: NDArray[np.void], sector_size: int) -> Int64s:
    """Bytes that each takes in the log, with its data."""
    stored = headers["flags"] & np.uint64(Flag.DISCARD) == 0
    data = np.where(stored, headers["sectors"], np.uint64(0))
    return np.asarray((data.astype(np.int64) + 1) * sector_size, np.int64)


def _sane(
    headers: NDArray[np.void], sector_size: int, log_size: int, disk_size: int
) -> NDArray[np.bool_]:
    """Which of them can be entries of such a log of such a disk."""
    size = np.uint64(disk_size // sector_size)
    mark = headers["flags"] & np.uint64(Flag.MARK) != 0
    discard = headers["flags"] & np.uint64(Flag.DISCARD) != 0
    sane = headers["flags"] & ~np.uint64(KNOWN) == 0
    sane &= discard | (headers["sectors"] <= np.uint64(log_size // sector_size))
    sane &= mark | (headers["sectors"] == 0) | (headers["sector"] <= size)
    # the sum of two sane numbers is none that overflows; what is insane is out already
    ends = np.minimum(headers["sector"], size) + np.minimum(headers["sectors"], size + np.uint64(1))
    sane &= mark | (headers["sectors"] == 0) | (ends <= size)
    sane &= ~mark | (headers["length"] <= np.uint64(sector_size - HEADER.size))
    empty = (headers["sector"] == 0) & (headers["sectors"] == 0) & (headers["flags"] == 0)
    return np.asarray(sane & ~empty, np.bool_)
