"""The last of what has changed, read into memory while nobody writes, and stored afterwards."""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Self

from vdbackup.agent.freezing import Freeze
from vdbackup.agent.memory import LockedMemory
from vdbackup.agent.stretches import Stretch

MAX_SIZE = 128 << 20
"""Bytes that are read at most while file systems are frozen. Where writers were at full load some
60 MB were left (measured), which a fast disk reads in 0.1 s."""
_AT_ONCE = 1 << 20
"""Bytes between two looks at the time."""
_OF_THE_TIME = 0.5
"""Of the time that is left when the reading begins: what takes longer is not the last."""
_BAD_MEDIUM = {errno.EIO, errno.ENODATA, errno.EILSEQ, errno.ETIMEDOUT}
"""What a disk says of sectors that it cannot read (block/blk-core.c, blk_errors)."""

Read = Callable[[int, memoryview], None]


class Layout:
    """Where in memory lies what was read of some stretches: one after the other.

    Attributes:
        places: of each, in bytes of the memory.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._starts = [start for start, _ in stretches]
        self._lengths = [length for _, length in stretches]
        self.places = list(accumulate(self._lengths, initial=0))[:-1]

    def readinto(self, memory: memoryview, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held there; raises ValueError where that is not here."""
        number = bisect_right(self._starts, offset) - 1
        within = offset - self._starts[number] if number >= 0 else 0
        if number < 0 or within + len(view) > self._lengths[number]:
            raise ValueError(f"{len(view)} bytes from {offset} on were not read while nobody wrote")
        place = self.places[number] + within
        view[:] = memory[place : place + len(view)]


class LastSet:
    """What some ranges of a source held at one moment. A context manager.

    Raises NotFrozen where there is no memory for it.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._memory = self._undo.enter_context(LockedMemory(min(MAX_SIZE, _available() // 8)))
        self._layout = Layout(())

    @property
    def descriptor(self) -> int:
        """Of the memory, for who is to read it."""
        return self._memory.descriptor

    @property
    def room(self) -> int:
        """How many bytes it can hold."""
        return len(self._memory.view)

    def fill(self, stretches: Sequence[Stretch], read: Read, freeze: Freeze) -> bool:
        """Read them; False where that cannot be done in time, or something cannot be read.

        It is called within the freeze, so it writes nothing, and what it needs is there already.

        Args:
            stretches: of the device, in bytes, ascending and apart.
            read: fills a view from a byte of the device on; raises OSError.
            freeze: that has to last until all is read.
        """
        if sum(length for _, length in stretches) > self.room:
            return False
        until = freeze.remaining * (1 - _OF_THE_TIME)
        layout = Layout(stretches)
        for (start, length), place in zip(stretches, layout.places, strict=True):
            for at in range(0, length, _AT_ONCE):
                if freeze.remaining < until:
                    return False
                view = self._memory.view[place + at : place + min(at + _AT_ONCE, length)]
                try:
                    read(start + at, view)
                except OSError as error:
                    if error.errno in _BAD_MEDIUM:  # smaller pieces may be had, without such haste
                        return False
                    raise
        self._layout = layout
        return True

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held there; raises ValueError where that is not here."""
        self._layout.readinto(self._memory.view, offset, view)

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
