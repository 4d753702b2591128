"""What a tracker keeps in the page that its programs and all who use it share."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from vdbackup import records
from vdbackup.agent import bpf
from vdbackup.agent.changes import PAGE
from vdbackup.agent.marking import COPIES, COUNTED, FLAGS, GENERATION, PROGRAMS
from vdbackup.records import LATER
from vdbackup.translation import tr

_READY, _MEASURED, _LASTING, _AHEAD, _MISSED = 2, 3, 4, 32, 40
"""Places of our own numbers, in units of eight bytes; the program's are in marking.py."""
_DESCRIPTION, _DOUBT = slice(1024, 3072), slice(3072, PAGE)


@dataclass(frozen=True)
class Description:
    """What a tracker was begun with; whatever is otherwise later means that it missed something.

    Attributes:
        nonce: 32 hex digits of its own.
        since: when it began.
        size: of the disk, in bytes.
        medium: the disk's diskseq.
        slept: seconds that the computer has slept since it was started.
        programs: numbers of the copies of the program.
        links: numbers of what lets them run.
        instead_of: why the one before was not believed any more, in whose place it came; "" if
            there was none.
        mapping: what device-mapper had made the disk of (Disk.mapping).
    """

    nonce: str
    since: datetime
    size: int
    medium: int
    slept: float
    programs: tuple[int, ...]
    links: tuple[int, ...]
    instead_of: str = field(default="", metadata=LATER)
    mapping: str = field(default="", metadata=LATER)


class State:
    """The page, open."""

    def __init__(self, fd: int) -> None:
        """Of a map's descriptor, which is closed; raises OSError or ValueError if it is no such."""
        try:
            if bpf.map_bytes(fd) != PAGE:
                raise ValueError(tr("it is of another size"))
            self._memory: mmap.mmap = bpf.in_memory(fd)
        finally:
            os.close(fd)
        self._numbers = memoryview(self._memory).cast("B").cast("Q")

    @classmethod
    def open(cls, path: Path) -> State:
        """What is pinned there; raises OSError or ValueError."""
        return cls(bpf.open_pin(path))

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()

    @property
    def generation(self) -> int:
        """In which changes are marked now; its lowest bit says in which half of the bitmap."""
        return self._numbers[GENERATION // 8]

    @generation.setter
    def generation(self, number: int) -> None:
        self._numbers[GENERATION // 8] = number  # one store of eight bytes

    @property
    def flags(self) -> int:
        """What a program found that it cannot mark."""
        return self._numbers[FLAGS // 8]

    @property
    def counted(self) -> list[int]:
        """How many sectors each copy has seen."""
        return [self._numbers[place // 8] for place in COUNTED]

    @property
    def ready(self) -> bool:
        """Whether all of the tracker is there, and tracking has not ended."""
        return bool(self._numbers[_READY])

    @ready.setter
    def ready(self, is_so: bool) -> None:
        self._numbers[_READY] = int(is_so)

    @property
    def lasting(self) -> bool:
        """Whether tracking goes on when nobody follows the disk any more."""
        return bool(self._numbers[_LASTING])

    @lasting.setter
    def lasting(self, is_so: bool) -> None:
        self._numbers[_LASTING] = int(is_so)

    @property
    def is_measured(self) -> bool:
        """Whether `measure` was called."""
        return bool(self._numbers[_MEASURED])

    def measure(self, ahead: list[int], missed: list[int]) -> None:
        """Keep by how much each copy's count is ahead of the kernel's, and each one's missed runs.

        Args:
            ahead: of each copy, in sectors; negative where the kernel began to count earlier.
            missed: of each program, the copies first.
        """
        for copy, number in enumerate(ahead):
            self._numbers[_AHEAD + copy] = number % (1 << 64)
        for which, number in enumerate(missed):
            self._numbers[_MISSED + which] = number
        self._numbers[_MEASURED] = 1

    @property
    def ahead(self) -> list[int]:
        """The first of what was measured."""
        numbers = self._numbers[_AHEAD : _AHEAD + COPIES].tolist()
        return [number - (1 << 64) if number >> 63 else number for number in numbers]

    @property
    def missed(self) -> list[int]:
        """The second."""
        return self._numbers[_MISSED : _MISSED + PROGRAMS].tolist()

    @property
    def description(self) -> Description:
        """Raises TypeError or ValueError where there is none."""
        return records.exact(Description, json.loads(self._memory[_DESCRIPTION].rstrip(b"\0")))

    @description.setter
    def description(self, description: Description) -> None:
        self._put(_DESCRIPTION, json.dumps(records.to_json(description)))

    @property
    def doubt(self) -> str:
        """Why the tracker cannot be trusted any more, as it was found once; "" if it was not."""
        return self._memory[_DOUBT].rstrip(b"\0").decode(errors="replace")

    @doubt.setter
    def doubt(self, words: str) -> None:
        self._put(_DOUBT, words)

    def _put(self, place: slice, text: str) -> None:
        room = place.stop - place.start
        data = text.encode()[:room]
        self._memory[place] = data.ljust(room, b"\0")
