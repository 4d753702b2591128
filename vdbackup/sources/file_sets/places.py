"""Folders of this computer, each opened in the one that it lies in.

Who owns a folder may put a link in its place at any time, also while root reads it: by its path all
that is in it would then be another one's. So no path is followed but the first byte of it: each
name is asked of the folder that was opened before, and a link is never gone through. It costs less,
too: the kernel looks up one name, not ten.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from vdbackup.translation import tr

_ONLY_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = _ONLY_NAMED | os.O_DIRECTORY
_NEAR = 64
"""How many folders stay open: what is visited next mostly lies in the last one, or beside it."""
_KEPT_ATTRIBUTES = ("user.", "trusted.", "security.", "system.posix_acl_")
"""What ext4 has a place for; other file systems have more, which mean nothing elsewhere."""
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENOSYS)


class Place:
    """A folder that is open: what lies in it is asked for by its name alone.

    Attributes:
        path: that it was reached by, for sentences.
        fd: of it; it can be searched by it, not listed.
        found: what it is like.
    """

    def __init__(self, path: bytes, fd: int) -> None:
        self.path, self.fd = path, fd
        self.found = os.fstat(fd)

    def names(self) -> list[bytes]:
        """What lies in it; raises OSError."""
        fd = open_quietly(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, self.fd)
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def look(self, name: bytes) -> os.stat_result:
        """What a name in it means, be it a link; raises OSError."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    @contextmanager
    def opened(self, name: bytes) -> Iterator[int]:
        """Hold on to what a name in it means, whatever that is, without opening it (O_PATH)."""
        fd = os.open(name, _ONLY_NAMED, dir_fd=self.fd)
        try:
            yield fd
        finally:
            os.close(fd)


class Places:
    """The ways to folders, the last ones open. A context manager.

    Nobody but who asked last may use what was given: it is closed when others have been asked for.

    Args:
        top: the folder that stands for "/", itself no link.
        instead: open folders that stand for others, by the path of those.
    """

    def __init__(self, top: bytes = b"/", instead: Mapping[bytes, int] | None = None) -> None:
        self._top, self._instead = top, instead or {}
        self._open: dict[bytes, int] = {}

    def to(self, path: bytes) -> Place:
        """Open a folder; raises OSError: NotADirectoryError, too, where a link is on the way.

        Args:
            path: of it, absolute, as long as it may be.
        """
        names = []
        above = path
        while above != b"/" and above not in self._open and above not in self._instead:
            above, _, name = above.rpartition(b"/")
            above = above or b"/"
            names.append(name)
        fd = self._open.pop(above, None)
        if fd is None:
            fd = os.dup(self._instead[above]) if above in self._instead else self._begin()
        self._open[above] = fd
        for name in reversed(names):
            fd = os.open(name, _FOLDER, dir_fd=fd)
            above = joined(above, name)
            self._open[above] = fd
            if len(self._open) > _NEAR:
                os.close(self._open.pop(next(iter(self._open))))
        return Place(path, fd)

    def _begin(self) -> int:
        return os.open(self._top, _FOLDER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def joined(folder: bytes, name: bytes) -> bytes:
    """The path of what lies in a folder."""
    return folder.rstrip(b"/") + b"/" + name


def open_quietly(name: bytes, flags: int, folder: int) -> int:
    """Open what lies in a folder so that its time of access stays, where that is allowed."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:  # it is somebody else's: reading it is noted there
        return os.open(name, flags, dir_fd=folder)


def attributes_of(fd: int) -> dict[str, bytes]:
    """A file's extended attributes, as far as they are kept; raises OSError.

    Args:
        fd: of it, which may only name it: the calls that take descriptors refuse such a one, so
            that it is said through /proc.
    """
    path = b"/proc/self/fd/%d" % fd
    found: dict[str, bytes] = {}
    try:
        names = os.listxattr(path)
    except FileNotFoundError as error:  # what is open is there; it must not pass for gone
        raise OSError(errno.EIO, tr("/proc is not mounted")) from error
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return found
        raise
    for name in names:
        if name.startswith(_KEPT_ATTRIBUTES):
            try:
                found[name] = os.getxattr(path, name)
            except OSError as error:
                if error.errno not in (*_NO_ATTRIBUTES, errno.ENODATA):
                    raise
    return found
