"""A file of this computer as it is read: its content."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Self

from vdbackup.sources.file_sets.inode import BLOCK, Known
from vdbackup.sources.file_sets.places import Place, open_quietly


class Content:
    """An open file. A context manager.

    Attributes:
        fd: of it.
        found: what it was like when it was opened, or last looked at.
        lost: whether something in it could not be read.
    """

    def __init__(self, folder: Place, name: bytes, moved: Callable[[int], None]) -> None:
        """Open it; raises OSError.

        Args:
            folder: in which it lies.
            name: of a regular file there; no link is followed, and no pipe is waited for.
            moved: called with how many bytes are read; what it raises ends the reading.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.fd = open_quietly(name, flags, folder.fd)
        self.found = os.fstat(self.fd)
        self.lost = False
        self._moved = moved

    @property
    def size(self) -> int:
        """In bytes."""
        return self.found.st_size

    def has_changed(self) -> bool:
        """Whether it has since it was looked at; looks at it anew."""
        before, self.found = Known.of_file(self.found, 0), os.fstat(self.fd)
        return Known.of_file(self.found, 0) != before

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; with zeros behind the end and where it is lost."""
        self._moved(len(view))
        wanted = max(0, min(len(view), self.size - offset))
        view[wanted:] = bytes(len(view) - wanted)
        try:
            self._fill(offset, view[:wanted])
        except OSError:
            for at in range(0, wanted, BLOCK):
                part = view[at : min(at + BLOCK, wanted)]
                try:
                    self._fill(offset + at, part)
                except OSError:
                    self.lost = True
                    part[:] = bytes(len(part))

    def _fill(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = os.preadv(self.fd, [view[done:]], offset + done)
            if not got:  # it was cut
                view[done:] = bytes(len(view) - done)
                return
            done += got

    def data(self) -> list[tuple[int, int]]:
        """Where it holds data: first byte and end of each stretch; all else is a hole."""
        found: list[tuple[int, int]] = []
        at = 0
        while at < self.size:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
                at = min(os.lseek(self.fd, start, os.SEEK_HOLE), self.size)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing more but a hole
                    return found
                return [(0, self.size)]  # its file system knows no holes
            if start < at:
                found.append((start, at))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
