"""Block devices that this user may not open, but was given a descriptor of to read by.

Whoever got it (from the agent: sources/opening.py) notes it here as long as the source is open;
whoever opens a device to read, by its path as ever, gets the same once more where the system
refuses.

All descriptors of one such device share how they read, past any cache, and where they are: nobody
reads from where they are, only from a place that is said (pread).
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_lock = threading.Lock()
_granted: dict[int, list[int]] = {}
"""Descriptors by the number of the device."""


@contextmanager
def granted(fd: int) -> Iterator[None]:
    """Let a device be read by that descriptor, which is closed afterwards."""
    number = os.fstat(fd).st_rdev
    with _lock:
        _granted.setdefault(number, []).append(fd)
    try:
        yield
    finally:
        with _lock:
            _granted[number].remove(fd)
            if not _granted[number]:
                del _granted[number]
        os.close(fd)


def open_or_granted(path: Path | str, flags: int) -> int:
    """A descriptor by open(2), or that of a device that was granted; raises OSError."""
    try:
        return os.open(path, flags)
    except PermissionError:
        found = _of(path)
        if found is None:
            raise
        return found


def _of(path: Path | str) -> int | None:
    try:
        device = os.stat(path)
    except OSError:
        return None
    with _lock:
        fds = _granted.get(device.st_rdev) if stat.S_ISBLK(device.st_mode) else None
        return os.dup(fds[0]) if fds else None
