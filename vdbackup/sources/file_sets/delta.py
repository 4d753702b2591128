"""A disk in the making: what is written to it lies in a file of its own, the rest is its parent's.

It is kept in blocks of the file system (4 KiB): whoever writes a part of one has the rest of it
copied from the parent first, so that a block is either here or there.
"""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from typing import Protocol, Self

import numpy as np

from vdbackup.disks.extents import Ranges, as_ranges, edges_of, runs_of
from vdbackup.translation import tr

BLOCK = 4 << 10
"""Bytes."""

_FOLDER = "/var/tmp"  # noqa: S108 - the files have no names there
"""What is in /tmp may be in memory (file-hierarchy(7))."""


def folder_of_deltas() -> str:
    """Where they lie: where the user says (TMPDIR), else where what is large may."""
    return os.environ.get("TMPDIR", _FOLDER)


class Reads(Protocol):
    """A disk that is read: a chain."""

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk's bytes from `offset` on."""


class Delta:
    """What is written to a disk of `size` bytes, whole blocks, over its parent; a context manager.

    One thread writes; once that is done any may read. Where there is no parent, all of it is zeros.
    What is written lies in a file without a name, which is gone with its last user, whatever comes.

    Attributes:
        size: in bytes.
        fd: of the file; in it lies what is here, at its place on the disk.
    """

    def __init__(self, size: int, parent: Reads | None = None) -> None:
        self.size = size
        self._parent = parent
        self._here = np.zeros(-(-size // BLOCK), np.bool_)
        self._file = tempfile.TemporaryFile(dir=folder_of_deltas())  # noqa: SIM115 - kept
        self.fd = self._file.fileno()
        os.ftruncate(self.fd, size)

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` of the disk on.

        Raises ValueError beyond the end, OSError, and what the parent's chain raises.
        """
        end = self._end(offset, len(view))
        first, last = offset // BLOCK, -(-end // BLOCK)
        cuts = [first, *(edges_of(self._here[first:last]).ravel() + first).tolist(), last]
        for begin, until in pairwise(cuts):
            if begin == until:
                continue
            start, stop = max(begin * BLOCK, offset), min(until * BLOCK, end)
            part = view[start - offset : stop - offset]
            if self._here[begin]:
                self._read_own(start, part)
            elif self._parent is None:
                part[:] = bytes(len(part))
            else:
                self._parent.readinto(start, part)

    def write(self, offset: int, view: memoryview) -> None:
        """Write `view` at byte `offset` of the disk; raises as `readinto` does."""
        end = self._end(offset, len(view))
        first, last = offset // BLOCK, -(-end // BLOCK)
        if offset % BLOCK:
            self._take(first)
        if end % BLOCK:
            self._take(last - 1)
        done = 0
        while done < len(view):
            done += os.pwrite(self.fd, view[done:], offset + done)
        self._here[first:last] = True

    def note_written(self) -> None:
        """Take what another program has written into the file for what is here."""
        at = 0
        while at < self.size:
            try:
                data = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # nothing more but a hole (ENXIO)
                return
            at = os.lseek(self.fd, data, os.SEEK_HOLE)
            self._here[data // BLOCK : -(-at // BLOCK)] = True

    def written(self) -> Ranges:
        """What was written, in bytes, whole blocks but at the disk's end."""
        runs = [
            (first * BLOCK, min(end * BLOCK, self.size) - first * BLOCK)
            for first, end in runs_of(self._here)
        ]
        return as_ranges(runs)

    def _take(self, block: int) -> None:
        """Have a block here that is to be written to in part."""
        if self._here[block] or self._parent is None:
            return
        start = block * BLOCK
        view = memoryview(bytearray(min(BLOCK, self.size - start)))
        self._parent.readinto(start, view)
        os.pwrite(self.fd, view, start)
        self._here[block] = True

    def _read_own(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = os.preadv(self.fd, [view[done:]], offset + done)
            if not got:
                raise OSError(tr("the delta ends at byte {offset}", offset=offset + done))
            done += got

    def _end(self, offset: int, length: int) -> int:
        if offset < 0 or offset + length > self.size:
            raise ValueError(
                tr(
                    "bytes {offset}+{length} lie beyond the end at {size}",
                    offset=offset,
                    length=length,
                    size=self.size,
                )
            )
        return offset + length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
