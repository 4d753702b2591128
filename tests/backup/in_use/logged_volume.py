"""A stand-in for the kernel's log of a volume's writes: that of these tests knows no device-mapper.

It logs what the test says. It is real in test_every_write_of_a_volume.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry
from tests.noise import noise
from vdbackup.agent import logged, write_log
from vdbackup.agent.write_log import Logged

FLUSH = Entry(flags=1)
PLACE = 40_000
"""A sector of the device that no file system needs."""


def block(seed: int, sector: int = PLACE) -> Entry:
    return Entry(sector, 8, 0, noise(4096, seed))


class Volume:
    """In the place of the kernel: writes to a log what it is told, and how that is.

    Attributes:
        marks: whether a freeze is noted in it.
        before: what is logged from before the point.
    """

    def __init__(self) -> None:
        self.marks, self.before, self.goes_on = True, [block(1), FLUSH], True
        self._file = -1
        self._entries: list[Entry] = []
        self.ended = 0

    def begin(self, _: Path, file: int) -> None:
        self._file, self._entries = os.dup(file), []
        self.log(*self.before)

    def log(self, *entries: Entry) -> None:
        """All of them, and that they are there."""
        place = self._end
        made = logs.make(Path(f"/proc/self/fd/{self._scratch()}"), entries).read_bytes()[512:]
        os.pwrite(self._file, made, place)
        self._entries += entries
        os.pwrite(self._file, logs.super_block(len(self._entries)), 0)

    @staticmethod
    def _scratch() -> int:
        return os.memfd_create("entries")

    @property
    def _end(self) -> int:
        sizes = (512 + (0 if each.flags & 12 else len(each.data)) for each in self._entries)
        return 512 + sum(sizes)

    def mark_frozen(self, _: int, at: str) -> None:
        if self.marks and self._file >= 0:
            self.log(FLUSH, logs.mark(f"{write_log.FROZEN}{at}".encode()))

    def state(self, _: Path) -> Logged | None:
        if self._file < 0:
            return None
        return Logged(len(self._entries), self._end, self.goes_on)

    def end(self, _: Path) -> bool:
        was, self.ended = self._file >= 0, self.ended + 1
        if was:
            os.close(self._file)
        self._file = -1
        return was

    def take_the_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of what asks the kernel, or the agent."""
        for name in ("begin", "state", "end"):
            monkeypatch.setattr(logged, name, getattr(self, name))
        monkeypatch.setattr(logged, "state_of_any", self.state)
        monkeypatch.setattr(write_log, "mark_frozen", self.mark_frozen)
