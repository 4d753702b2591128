"""The last of what has changed, read into memory while nobody writes, and stored afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from vdbackup.agent.freezing import Freeze
from vdbackup.agent.memory import LockedMemory
from vdbackup.disks.extents import Ranges, total
from vdbackup.errors import Unreadable

MAX_SIZE = 128 << 20
"""Bytes that are read at most while file systems are frozen. Where writers were at full load some
60 MB were left (measured), which a fast disk reads in 0.1 s."""
_AT_ONCE = 1 << 20
"""Bytes between two looks at the time."""
_OF_THE_TIME = 0.5
"""Of the time that is left when the reading begins: what takes longer is not the last."""

Read = Callable[[int, memoryview], None]


class LastSet:
    """What some ranges of a source held at one moment. A context manager.

    Raises NotFrozen where there is no memory for it.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._memory = self._undo.enter_context(LockedMemory(min(MAX_SIZE, _available() // 8)))
        self._starts = self._places = np.empty(0, np.int64)
        self._ends = np.empty(0, np.int64)

    def holds_as_much(self, ranges: Ranges) -> bool:
        """Whether there is memory for them."""
        return total(ranges) <= len(self._memory.view)

    def fill(self, ranges: Ranges, read: Read, freeze: Freeze) -> bool:
        """Read them; False where that cannot be done in time, or something cannot be read.

        It is called within the freeze, so it writes nothing, and what it needs is there already.

        Args:
            ranges: ascending and apart, no more than `holds_as_much`.
            read: fills a view from a byte of the source on.
            freeze: that has to last until all is read.
        """
        until = freeze.remaining * (1 - _OF_THE_TIME)
        place = 0
        for start, length in ranges.tolist():
            for at in range(0, length, _AT_ONCE):
                if freeze.remaining < until:
                    return False
                view = self._memory.view[place + at : place + min(at + _AT_ONCE, length)]
                try:
                    read(start + at, view)
                except Unreadable:  # smaller pieces may be had, in a round without such haste
                    return False
            place += length
        self._starts, self._ends = ranges[:, 0], ranges.sum(1)
        self._places = np.cumsum(ranges[:, 1]) - ranges[:, 1]
        return True

    def readinto(self, offset: int, view: memoryview) -> bool:
        """Fill `view` with what the source held from `offset` on; False where that is not here."""
        run = int(np.searchsorted(self._ends, offset, "right"))
        if run == len(self._ends) or offset < self._starts[run]:
            return False
        if offset + len(view) > self._ends[run]:
            return False
        place = int(self._places[run]) + offset - int(self._starts[run])
        view[:] = self._memory.view[place : place + len(view)]
        return True

    def close(self) -> None:
        """Give the memory back."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _available() -> int:
    """Bytes of memory that can be had without harm to others (proc(5), meminfo)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
