"""Descriptors of files that are read: a chain may have more files than a process may have open.

A file that is only read lends its descriptor for each reading (`with file as fd`). The pool keeps
those open that were used last, and closes the others: they are opened again when they are needed,
and it is looked then whether they are still the same file. Nobody may rely on a lock that hangs on
such a descriptor, or on the process having the file open at all: closing any drops both.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from vdbackup.disks.granted import open_or_granted
from vdbackup.errors import ChangedWhileRead, DiskError
from vdbackup.translation import tr

log = logging.getLogger(__name__)

MAX_OPEN = 256
"""Descriptors that are kept: a quarter of what Linux lets a process have by itself (1,024)..."""
_SHARE = 4
"""... and where it may have less, a quarter of that; the rest is Qt's, QEMU's, and everybody's."""
_HEADS = (0, 64 << 10)
"""Where a file is looked at to know it again: there every format has its identity (VHDX's headers
lie at the second place), and a file of digests the checksum of all that it holds."""
_HEAD = 4096


class Descriptor(Protocol):
    """An open file, whose descriptor is valid inside `with`."""

    def __enter__(self) -> int: ...
    def __exit__(self, *_error: object) -> None: ...
    def close(self) -> None:
        """Close the file, if it is not closed yet."""


class Held:
    """A descriptor that stays open until `close`: of what is written to, and of devices."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_error: object) -> None:
        """It stays open."""

    def close(self) -> None:
        """Close it, if it is not closed yet; raises OSError, and is closed then, too (close(2))."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Lent:
    """A file that is read, open only as long as the pool has space for it.

    May be used by several threads at once. Raises DiskError where the file is another one when it
    is opened again, or is gone; OSError as open(2) does.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Take over the descriptor of a regular file."""
        self._path = os.path.abspath(path)  # the process may go to another folder meanwhile
        self._fd = fd
        self._users = 0
        self._is_tired = False  # whether it closes once nobody uses it
        self._is_closed = False
        self._looks = _looks(fd)
        self._heads: tuple[bytes, ...] = ()  # read before it closes for the first time
        self._lock = threading.Lock()
        POOL.note(self)

    def __enter__(self) -> int:
        with self._lock:
            if self._is_closed:
                raise ValueError(tr("{path} is closed", path=self._path))
            if self._fd < 0:
                self._fd = self._opened_again()
            self._users += 1
            self._is_tired = False
        POOL.note(self)
        return self._fd

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._is_tired and not self._users:
                self._shut()

    def rest(self) -> None:
        """Close the descriptor until it is needed, at once or when its users have done with it."""
        with self._lock:
            self._is_tired = True
            if not self._users:
                self._shut()

    def close(self) -> None:
        """Close the file, if it is not closed yet."""
        POOL.forget(self)
        self._is_closed = True
        self.rest()

    def _shut(self) -> None:
        if self._fd < 0:
            return
        try:
            if not self._heads and not self._is_closed:
                self._heads = _heads(self._fd)
        except OSError as error:  # another file's turn must not fail for that: this one's will
            log.warning("%s cannot be read: %s", self._path, error)
        # forgotten first: also where close(2) fails, as FUSE lets it when the storage is gone, the
        # number is free, and closing it again would close another thread's file
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
        except OSError as error:  # nothing was written that could be lost
            log.warning("%s could not be closed: %s", self._path, error)

    def _opened_again(self) -> int:
        # somebody may have used it between being chosen to rest and resting: it would be asked to
        # rest while it opens, by ourselves if no descriptor is left, and wait for itself
        POOL.forget(self)
        try:
            fd = _open(self._path)
        except FileNotFoundError as error:
            raise self._other() from error
        try:
            # no inode's number: sshfs and exFAT give a file another one when it is opened again
            if _looks(fd) != self._looks or _heads(fd) != self._heads:
                raise self._other()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _other(self) -> DiskError:
        return ChangedWhileRead(
            tr("{path} was written to, moved or replaced while it was read.", path=self._path),
            tr("Begin again; if it happens again, find out which program does that."),
        )


class Pool:
    """Keeps those files open that were used last."""

    def __init__(self) -> None:
        self._open: OrderedDict[Lent, None] = OrderedDict()  # longest unused first
        self._lock = threading.Lock()

    def note(self, file: Lent) -> None:
        """That file is open, and is used now."""
        too_many: list[Lent] = []
        with self._lock:
            is_new = file not in self._open
            self._open[file] = None
            self._open.move_to_end(file)
            if is_new:
                most = _most()
                while len(self._open) > most:
                    too_many.append(self._open.popitem(last=False)[0])
        for each in too_many:
            each.rest()

    def forget(self, file: Lent) -> None:
        """That file is closed for good."""
        with self._lock:
            self._open.pop(file, None)

    def shed(self) -> None:
        """Close all that nobody uses: the process has no descriptors left."""
        with self._lock:
            files = list(self._open)
            self._open.clear()
        for each in files:
            each.rest()


POOL = Pool()
"""Of the process: what is limited are its descriptors."""


def open_to_read(path: Path) -> int:
    """A descriptor of a file or device for reading; raises OSError."""
    return _open(os.fspath(path))


def _open(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return open_or_granted(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    POOL.shed()
    return open_or_granted(path, flags)


def _most() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN if soft == resource.RLIM_INFINITY else min(MAX_OPEN, max(1, soft // _SHARE))


def _looks(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


def _heads(fd: int) -> tuple[bytes, ...]:
    return tuple(os.pread(fd, _HEAD, place) for place in _HEADS)
