"""Salvage: read past what a failing disk no longer gives, and note where that was.

A read error says only that something in what was asked for cannot be read. It is asked for again in
smaller and smaller pieces, down to one sector; what then still fails reads as zeros. Each step of
the pieces costs one more failing read, which may take a disk many seconds, so there are few.

Through the page cache the kernel reads at least 4 KiB of most disks: a lost sector of 512 bytes
may take its neighbours with it.
"""

from __future__ import annotations

import threading

import numpy as np

from vdbackup.disks.extents import Ranges
from vdbackup.errors import SourceLost, Unreadable
from vdbackup.jobs import CancelToken
from vdbackup.sources.source import Rounds, Source
from vdbackup.translation import tr

MAX_SECTORS = 10_000
"""A disk with more sectors that cannot be read is failing as a whole: waiting makes it worse.

It bounds the list in the manifest, too.
"""
_PIECES = (64 << 10, 4 << 10)


class Salvage:
    """Reads a source as far as it can be read. `readinto` may be called from several threads.

    Args:
        source: open.
        rounds: through which it is read.
        cancel: looked at before each piece is tried again.
    """

    def __init__(self, source: Source, rounds: Rounds, cancel: CancelToken) -> None:
        self._source, self._rounds, self._cancel = source, rounds, cancel
        self._lock = threading.Lock()
        self._lost: list[tuple[int, int]] = []
        self._anything_read = False

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` of the source on, with zeros where it cannot be read.

        Raises:
            SourceError: the source is gone or shorter than it was, or too much of it is lost.
            Cancelled: on request, between two attempts.
        """
        sector = self._source.sector_size
        self._read(offset, view, (*(piece for piece in _PIECES if piece > sector), sector))

    def _read(self, offset: int, view: memoryview, pieces: tuple[int, ...]) -> None:
        """Read all at once, or else in pieces of the first size, and those in the next."""
        try:
            self._rounds.readinto(offset, view)
            self._anything_read = True
            return
        except Unreadable as error:
            self._cancel.check()
            if not pieces:
                view[:] = bytes(len(view))
                self._note(offset, len(view), error)
                return
        self._source.check_present()
        for at in range(0, len(view), pieces[0]):
            self._read(offset + at, view[at : at + pieces[0]], pieces[1:])

    def _note(self, offset: int, length: int, error: Unreadable) -> None:
        with self._lock:
            self._lost.append((offset, length))
            if len(self._lost) > MAX_SECTORS:
                raise SourceLost(
                    tr(
                        "More than {max_sectors} sectors of {source} cannot be read: it is "
                        "failing as a whole.",
                        max_sectors=MAX_SECTORS,
                        source=self._source.title,
                    ),
                    tr("Copy what can be had to an image with `ddrescue`, and back that up."),
                ) from error

    def forget(self, ranges: Ranges) -> None:
        """What was lost in these will be read again: it may be there by now, in whole or in part.

        Args:
            ranges: whole units of the source, so that what was lost lies in one or in none.
        """
        ends = ranges[:, 0] + ranges[:, 1]

        def is_read_again(offset: int) -> bool:
            at = int(np.searchsorted(ends, offset, "right"))
            return at < len(ranges) and int(ranges[at, 0]) <= offset

        self._lost = [each for each in self._lost if not is_read_again(each[0])]

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        """What was filled with zeros, as (offset, length) in bytes, joined and in order.

        Raises SourceError where nothing at all could be read, or the source is not all there.
        """
        self._source.check_present()
        if not self._lost:
            return ()
        if not self._anything_read:
            raise SourceLost(
                tr("Nothing of {source} can be read.", source=self._source.title),
                tr("Check the disk and its cable (the kernel's log, its SMART values)."),
            )
        return _joined(self._lost)


def _joined(lost: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """In order, neighbours made one."""
    ranges: list[tuple[int, int]] = []
    for offset, length in sorted(lost):
        if ranges and sum(ranges[-1]) == offset:
            start, before = ranges.pop()
            ranges.append((start, before + length))
        else:
            ranges.append((offset, length))
    return tuple(ranges)
