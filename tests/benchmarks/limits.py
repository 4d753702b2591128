"""What this machine allows at most: how fast its storage writes, its memory is read and hashed."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

MIB = 1 << 20
CHUNK = 4 * MIB
BLOCK = 64 << 10
SAMPLE = 1024 * MIB
"""Bytes that are moved to measure a rate."""


@dataclass(frozen=True)
class Moved:
    """What a piece of work has to move at least, in bytes.

    Attributes:
        read: of files that are in the page cache, or of the storage where they are not.
        hashed: by BLAKE3, in blocks of 64 KiB.
        written: durably.
        read_back: of what was just written, past the page cache.
    """

    read: int = 0
    hashed: int = 0
    written: int = 0
    read_back: int = 0


@dataclass(frozen=True)
class Limits:
    """Rates of this machine, in bytes a second; by all its cores at once where it is theirs."""

    cached_read: float
    storage_read: float
    storage_write: float
    blake3: float

    @classmethod
    def of(cls, folder: Path) -> Limits:
        """Measure them, with a file in `folder` that is removed again."""
        sample = folder / "sample"
        block = memoryview(mmap.mmap(-1, CHUNK))
        block[:] = os.urandom(CHUNK)
        try:
            written = _rate(SAMPLE, lambda: _write(sample, block))
            stored = _rate(SAMPLE, lambda: _read(sample, os.O_DIRECT))
            _read(sample, 0)
            cached = _rate(SAMPLE, lambda: _on_all_cores(lambda part: _read(sample, 0, part)))
        finally:
            sample.unlink(missing_ok=True)
        hashed = _rate(SAMPLE, lambda: _on_all_cores(lambda part: _hash(block, SAMPLE * part)))
        return cls(cached, stored, written, hashed)

    def seconds(self, moved: Moved, cold: bool) -> float:
        """What the work takes at least, where all of this is done at the same time."""
        storage = moved.read_back / self.storage_read + moved.written / self.storage_write
        reading = moved.read / (self.storage_read if cold else self.cached_read)
        if cold:
            storage, reading = storage + reading, 0.0
        return max(storage, reading, moved.hashed / self.blake3)

    def words(self) -> str:
        """For the table's head."""
        rates = {
            "read from the page cache": self.cached_read,
            "read from storage": self.storage_read,
            "written durably": self.storage_write,
            "BLAKE3 of 64 KiB": self.blake3,
        }
        return ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items())


def _rate(amount: int, work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return amount / (time.perf_counter() - started)


def _write(path: Path, block: memoryview) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
    try:
        for _ in range(SAMPLE // CHUNK):
            os.write(fd, block)
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path, flags: int, part: float = 1.0) -> None:
    view = memoryview(mmap.mmap(-1, CHUNK))
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        for at in range(0, int(SAMPLE * part), CHUNK):
            os.preadv(fd, [view], at)
    finally:
        os.close(fd)


def _hash(block: memoryview, amount: float) -> None:
    for _ in range(int(amount) // CHUNK):
        for at in range(0, CHUNK, BLOCK):
            blake3(block[at : at + BLOCK]).digest()


def _on_all_cores(work: Callable[[float], None]) -> None:
    """The work in so many parts, each in a thread."""
    count = os.cpu_count() or 1
    threads = [threading.Thread(target=work, args=(1 / count,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
