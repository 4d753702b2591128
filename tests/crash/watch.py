"""Tells what changes in a folder while it does, so that a process can be killed in the middle."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import time
from pathlib import Path
from typing import Self

_CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200
"""IN_MODIFY, IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE (inotify(7))."""
_CREATE, _IS_FOLDER = 0x100, 0x40000000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Counts the changes below a folder, those of hidden files (locks) left out.

    A context manager. Changes of one file that follow each other at once may be counted as one.

    Attributes:
        count: of changes so far.
        first: when the first one was seen, by time.monotonic; None before.
    """

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.first: float | None = None
        self._folders: dict[int, Path] = {}
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            self._add(each)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _add(self, folder: Path) -> None:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _CHANGES)
        if number >= 0:  # else it is gone already
            self._folders[number] = folder

    def read(self) -> None:
        """Count what has happened by now."""
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, kind, _, length = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            if not name or name.startswith("."):
                continue
            self.count += 1
            self.first = self.first or time.monotonic()
            if kind & _CREATE and kind & _IS_FOLDER:
                self._add(self._folders[number] / name)

    def wait(self, process: subprocess.Popen[bytes], count: int, until: float | None) -> None:
        """Return after that many changes, at that time, or when the process has ended."""
        pidfd = os.pidfd_open(process.pid)
        try:
            while self.count < count:
                left = None if until is None else max(until - time.monotonic(), 0)
                ready, _, _ = select.select([self._fd, pidfd], [], [], left)
                self.read()
                if pidfd in ready or not ready:
                    return
        finally:
            os.close(pidfd)
