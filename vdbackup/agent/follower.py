"""What has changed for one follower: a set that backs a tracked disk up. All in kernel memory.

Two bitmaps, each with the generation that it begins with (its base): what changed in a generation
not older than that is marked in it. One, *kept*, begins with what the last point holds; the other,
*fresh*, with the follower's last harvest. A backup that is cut off leaves the first as it was, so
that the next one misses nothing; only when its point is durable does the fresh one take its place.

A base of 0 says that a bitmap means nothing. It is so while a bitmap is changed in any way but by
marks that are added, and each number is one store of eight bytes: whoever is killed, at whatever
moment, leaves bitmaps that mean what their bases say, or too much is marked, never too little.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from vdbackup.agent import bpf
from vdbackup.agent.changes import CLEAN, PAGE
from vdbackup.translation import tr

_KEPT, _BASES = 0, (1, 2)
"""Places of the header's numbers: which bitmap is kept, and the two bases."""


class Bitmaps:
    """The two bitmaps of a follower, open. Whoever changes them has the tracker to themselves.

    Attributes:
        number: of the map that they lie in; no other has the same before the next boot.
    """

    def __init__(self, fd: int, half: int) -> None:
        """Of a map's descriptor, which is closed; raises OSError or, for another map, ValueError.

        Args:
            fd: of the map.
            half: bytes of a bitmap.
        """
        try:
            if bpf.map_bytes(fd) != PAGE + 2 * half:
                raise ValueError(tr("it is of another size"))
            self.number = bpf.map_number(fd)
            self._memory: mmap.mmap = bpf.in_memory(fd)
        finally:
            os.close(fd)
        self._half = half
        self._numbers = memoryview(self._memory).cast("B")[:PAGE].cast("Q")

    @classmethod
    def create(cls, path: Path, half: int) -> Bitmaps:
        """A new follower's, pinned there: nothing is known of what has changed."""
        fd = bpf.create_array(b"vdbackup_of", (PAGE + 2 * half) // 8, 8)
        bpf.pin(fd, path)
        return cls(fd, half)

    @classmethod
    def open(cls, path: Path, half: int) -> Bitmaps:
        """What is pinned there; raises OSError or ValueError."""
        return cls(bpf.open_pin(path), half)

    def close(self) -> None:
        """Let go of the memory; the kernel keeps what is pinned."""
        self._numbers.release()
        self._memory.close()

    def add(self, at: int, marks: int) -> None:
        """Mark in both what `marks` has in the page that begins with byte `at` of a bitmap."""
        for start in self._starts:
            page = slice(start + at, start + at + PAGE)
            both = int.from_bytes(self._memory[page], "little") | marks
            self._memory[page] = both.to_bytes(PAGE, "little")

    def since(self, generation: int) -> bytes | None:
        """What changed in that generation or later, perhaps more; None where that is not known."""
        known = [(base, which) for which, base in enumerate(self._known) if 0 < base <= generation]
        if not known:
            return None
        return self._bitmap(max(known)[1])

    def begin(self, generation: int) -> None:
        """Let the fresh one begin with that generation."""
        fresh = 1 - self._kept
        self._numbers[_BASES[fresh]] = 0
        start = self._starts[fresh]
        for at in range(start, start + self._half, PAGE):
            if self._memory[at : at + PAGE] != CLEAN:
                self._memory[at : at + PAGE] = CLEAN
        self._numbers[_BASES[fresh]] = generation

    def keep(self, generation: int) -> None:
        """Let the fresh one be the one that is kept, if it begins with that generation."""
        kept, fresh = self._kept, 1 - self._kept
        if self._known[fresh] == generation:
            self._numbers[_KEPT] = fresh
            self._numbers[_BASES[kept]] = 0

    def furthest_back(self) -> bytes | None:
        """What changed since the last point, else since the last harvest; None where unknown."""
        for which in (self._kept, 1 - self._kept):
            if self._known[which]:
                return self._bitmap(which)
        return None

    @property
    def _starts(self) -> tuple[int, int]:
        return PAGE, PAGE + self._half

    @property
    def _kept(self) -> int:
        return self._numbers[_KEPT] & 1

    @property
    def _known(self) -> tuple[int, int]:
        return self._numbers[_BASES[0]], self._numbers[_BASES[1]]

    def _bitmap(self, which: int) -> bytes:
        start = self._starts[which]
        return self._memory[start : start + self._half]
