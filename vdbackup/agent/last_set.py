"""The last of what has changed, read into memory while nobody writes, and stored afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Self

from vdbackup.agent.freezing import Freeze
from vdbackup.agent.memory import LockedMemory
from vdbackup.agent.stretches import Stretch
from vdbackup.errors import UNREADABLE, Unreadable
from vdbackup.translation import tr

MAX_SIZE = 128 << 20
"""Bytes that are read at most while file systems are frozen. Where writers were at full load some
60 MB were left (measured), which a fast disk reads in 0.1 s."""
_PIECES = (1 << 20, 64 << 10, 4 << 10)
"""Bytes that are read between two looks at the time; the smaller ones, where those before fail.
Last come single sectors."""
_OF_THE_TIME = 0.5
"""Of the time that is left when the reading begins: what takes longer is not the last."""
MAX_LOST = 500
"""Pieces that may be lost: more are a disk that fails as a whole, which rounds do not help."""

Read = Callable[[int, memoryview], None]


class Layout:
    """Where in memory lies what was read of some stretches: one after the other.

    Attributes:
        places: of each, in bytes of the memory.
    """

    def __init__(self, stretches: Sequence[Stretch], lost: Sequence[Stretch] = ()) -> None:
        """The stretches, and what of them could not be read, both in bytes of the device."""
        self._lost = lost
        self._starts = [start for start, _ in stretches]
        self._lengths = [length for _, length in stretches]
        self.places = list(accumulate(self._lengths, initial=0))[:-1]

    @property
    def lost(self) -> tuple[Stretch, ...]:
        """What could not be read."""
        return tuple(self._lost)

    def readinto(self, memory: memoryview, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held there.

        Raises ValueError where that is not here, and Unreadable where some of it could not be read.
        """
        number = bisect_right(self._starts, offset) - 1
        within = offset - self._starts[number] if number >= 0 else 0
        if number < 0 or within + len(view) > self._lengths[number]:
            raise ValueError(
                tr(
                    "{count} bytes from {offset} on were not read while nobody wrote",
                    count=len(view),
                    offset=offset,
                )
            )
        if any(at < offset + len(view) and offset < at + length for at, length in self._lost):
            raise Unreadable(
                tr(
                    "The device could not be read at byte {offset} while nobody wrote to it.",
                    offset=offset,
                ),
                tr("Check the disk (its kernel log, its SMART values)."),
            )
        place = self.places[number] + within
        view[:] = memory[place : place + len(view)]


class LastSet:
    """What some ranges of a source held at one moment. A context manager.

    Raises NotFrozen where there is no memory for it.
    """

    def __init__(self, sector: int) -> None:
        """Have memory for them; `sector` is what the device can read at least, in bytes."""
        self._smaller = (*(piece for piece in _PIECES[1:] if piece > sector), sector)
        self._undo = ExitStack()
        self._memory = self._undo.enter_context(LockedMemory(min(MAX_SIZE, _available() // 8)))
        self._layout = Layout(())

    @property
    def descriptor(self) -> int:
        """Of the memory, for who is to read it."""
        return self._memory.descriptor

    @property
    def lost(self) -> tuple[Stretch, ...]:
        """What of it the medium did not give."""
        return self._layout.lost

    @property
    def room(self) -> int:
        """How many bytes it can hold."""
        return len(self._memory.view)

    def fill(self, stretches: Sequence[Stretch], read: Read, freeze: Freeze) -> bool:
        """Read them; False where that cannot be done in time.

        What the medium does not give is noted: `readinto` says of it what the device would.

        It is called within the freeze, so it writes nothing, and what it needs is there already.

        Args:
            stretches: of the device, in bytes, ascending and apart.
            read: fills a view from a byte of the device on; raises OSError.
            freeze: that has to last until all is read.
        """
        if sum(length for _, length in stretches) > self.room:
            return False
        until = freeze.remaining * (1 - _OF_THE_TIME)
        lost: list[Stretch] = []
        layout = Layout(stretches, lost)
        for (start, length), place in zip(stretches, layout.places, strict=True):
            for at in range(0, length, _PIECES[0]):
                view = self._memory.view[place + at : place + min(at + _PIECES[0], length)]
                for _ in self._pieces(start + at, view, read, lost):
                    if freeze.remaining < until or len(lost) > MAX_LOST:
                        return False
        self._layout = layout
        return True

    def _pieces(
        self, start: int, view: memoryview, read: Read, lost: list[Stretch], depth: int = 0
    ) -> Iterator[None]:
        """Read that at once, or else in smaller pieces; what fails in the smallest is lost.

        It goes on after each that is tried, so that there may be a look at the time.
        """
        try:
            read(start, view)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            if depth == len(self._smaller):
                lost.append((start, len(view)))
            else:
                size = self._smaller[depth]
                for at in range(0, len(view), size):
                    piece = view[at : at + size]
                    yield from self._pieces(start + at, piece, read, lost, depth + 1)
        yield

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held there; raises what Layout does."""
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
