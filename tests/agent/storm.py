"""Writes to a folder in every way that there is, until it is killed: run as a program.

    python storm.py FOLDER SEED

After each piece of work it prints a line. It is a process of its own, because a thread that writes
through mmap would keep Python's lock while its file system is frozen. It trims nothing: that goes
on while a file system is frozen, so that what is discarded then is seen now, and is marked in the
next generation only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_PAGE = 4096
_LONGEST = 1 << 20
_FILES = 12

_libc = ctypes.CDLL(None, use_errno=True)


class Storm:
    """A folder that is written to, and the chance by which that happens."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._name = f"storm{seed}"
        self._buffer = mmap.mmap(-1, _LONGEST)

    def blow(self) -> None:
        """One piece of work; a full file system and the like are part of it."""
        with suppress(OSError):
            self._chance.choice(self._works())()

    def _works(self) -> list[Callable[[], None]]:
        return [
            self._buffered, self._buffered, self._direct, self._direct, self._mapped, self._fsynced,
            self._punched, self._zeroed, self._truncated, self._renamed, self._removed,
        ]  # fmt: skip

    def _file(self) -> Path:
        return self._folder / f"{self._name}-{self._chance.randrange(_FILES)}"

    def _data(self) -> bytes:
        return self._chance.randbytes(self._chance.choice([17, _PAGE, 70_000, 300_000]))

    def _place(self) -> int:
        return self._chance.randrange(0, 4 << 20, _PAGE)

    def _buffered(self) -> None:
        self._write(self._data(), 0)

    def _fsynced(self) -> None:
        self._write(self._data(), os.O_DSYNC)

    def _write(self, data: bytes, flags: int) -> None:
        fd = os.open(self._file(), os.O_RDWR | os.O_CREAT | flags, 0o600)
        try:
            os.pwrite(fd, data, self._place())
        finally:
            os.close(fd)

    def _direct(self) -> None:
        length = self._chance.choice([_PAGE, 16 * _PAGE, 64 * _PAGE, _LONGEST])
        self._buffer[:length] = self._chance.randbytes(length)
        fd = os.open(self._file(), os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        try:
            os.pwrite(fd, memoryview(self._buffer)[:length], self._place())
        finally:
            os.close(fd)

    def _mapped(self) -> None:
        fd = os.open(self._file(), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = os.fstat(fd).st_size // _PAGE * _PAGE
            with mmap.mmap(fd, size) if size else mmap.mmap(-1, _PAGE) as memory:
                at = self._chance.randrange(0, max(size, _PAGE), _PAGE)
                memory[at : at + 100] = self._chance.randbytes(100)
        finally:
            os.close(fd)

    def _punched(self) -> None:
        self._fallocate(_PUNCH_HOLE | _KEEP_SIZE)

    def _zeroed(self) -> None:
        self._fallocate(_ZERO_RANGE)

    def _fallocate(self, mode: int) -> None:
        fd = os.open(self._file(), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _libc.fallocate(
                fd,
                mode,
                ctypes.c_long(self._place()),
                ctypes.c_long(self._chance.choice([_PAGE, _LONGEST])),
            )
        finally:
            os.close(fd)

    def _truncated(self) -> None:
        os.truncate(self._file(), self._place())

    def _renamed(self) -> None:
        self._file().rename(self._file())

    def _removed(self) -> None:
        self._file().unlink()


if __name__ == "__main__":
    storm = Storm(Path(sys.argv[1]), int(sys.argv[2]))
    while True:
        storm.blow()
        sys.stdout.write("\n")
        sys.stdout.flush()
