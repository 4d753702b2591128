"""Who else has a disk's file open, as far as QEMU's own locks tell: asked, never taken.

QEMU (and its tools, and whatever embeds its block layer) holds record locks on single bytes of each
image that it has open: byte 100 + n for a permission n that it uses, byte 200 + n for one that it
lets nobody else use (block/file-posix.c, RAW_LOCK_PERM_BASE; the permissions are in
include/block/block-common.h). They say nothing about the bytes that lie there.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_USED = 100
_ALL = 200
"""Bytes from _USED on that hold locks of either kind."""
_WRITE, _RESIZE = 1, 3
"""Permissions, as the numbers of their bits (BLK_PERM_WRITE, BLK_PERM_RESIZE)."""
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, pid (fcntl(2))."""


def is_open(path: Path) -> bool:
    """Whether a QEMU has the file open, in whatever way; raises OSError."""
    return _locked(path, [(_USED, _ALL)])


def is_open_for_writing(path: Path) -> bool:
    """Whether a QEMU may change the file at any moment; raises OSError."""
    return _locked(path, [(_USED + _WRITE, 1), (_USED + _RESIZE, 1)])


def _locked(path: Path, places: list[tuple[int, int]]) -> bool:
    """Whether anybody else has a lock on one of the bytes, each given as (first, how many)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except BlockingIOError:  # a server here, or who looks for holders, has a lease, and lets go
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return any(_is_locked(fd, first, length) for first, length in places)
    finally:
        os.close(fd)


def _is_locked(fd: int, first: int, length: int) -> bool:
    # asked as if we wanted to write there: that is at odds with a shared lock, too
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, length, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question))[0]
    return kind != fcntl.F_UNLCK
