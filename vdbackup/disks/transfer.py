"""The one loop that moves extents: capture, merge, restore, export and verify are all this.

Ranges are cut, or gathered, into chunks; each thread takes the next chunk, reads it into a buffer
of its own that it keeps, and hands it on. Of many small ranges a chunk holds as many as have room
in its buffer, one behind the other: what is done with them is done for all at once. Reads, numpy
and BLAKE3 leave the interpreter's lock, so two threads keep two cores and the storage busy. New
buffers would cost four times the read itself (measured: preadv into a kept mmap 7.5 GB/s, pread
into new bytes 1.8 GB/s).
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Int64s, Ranges, total
from vdbackup.jobs import Progress, Task
from vdbackup.pace import give_way

CHUNK = 4 << 20
"""Bytes that are read at once; a multiple of every format's block size below 4 MiB."""
THREADS = min(4, len(os.sched_getaffinity(0)) + 1)
"""One for each core, and one that waits for the storage meanwhile. More only take turns at the
interpreter's lock, which is let go of for each block that is hashed: on two cores 2 GiB were
verified from the page cache in 0.58 s by two threads, 0.67 by three, 0.74 by four, and from the
storage in 1.4, 1.1 and 1.3."""
_AT_ONCE = 1 << 14
"""Ranges that are made Python's numbers together."""

Flags = NDArray[np.bool_]
Read = Callable[[Ranges, memoryview], None]
Consume = Callable[[Ranges, memoryview], None]


def chunks(ranges: Ranges, size: int) -> Iterator[Ranges]:
    """The ranges in portions of `size` bytes at most, each whole `pieces`."""
    gathered: list[tuple[int, int]] = []
    room = size
    for piece in pieces(ranges, size):
        if piece[1] > room:
            yield np.array(gathered, np.int64)
            gathered, room = [], size
        gathered.append(piece)
        room -= piece[1]
    if gathered:
        yield np.array(gathered, np.int64)


def pieces(ranges: Ranges, size: int) -> Iterator[tuple[int, int]]:
    """The ranges cut at multiples of `size`: (offset, length) in bytes."""
    for first in range(
        0, len(ranges), _AT_ONCE
    ):  # as Python's numbers they take ten times the space
        for start, length in ranges[first : first + _AT_ONCE].tolist():
            at = start
            while at < start + length:
                end = min(start + length, (at // size + 1) * size)
                yield at, end - at
                at = end


def each(one: Callable[[int, memoryview], None]) -> Consume:
    """What reads, or takes, a chunk's pieces by a call for each, of its offset and its bytes."""

    def every(pieces: Ranges, view: memoryview) -> None:
        at = 0
        for offset, length in pieces.tolist():
            one(offset, view[at : at + length])
            at += length

    return every


@dataclass(frozen=True)
class Width:
    """How much is under way at once.

    Attributes:
        chunk: bytes that each thread reads before it hands them on.
        threads: how many.
    """

    chunk: int
    threads: int


WIDE = Width(1 << 20, 16)
"""For scattered blocks that come from the storage: it is asked for one by each thread, and answers
many in the time of a few. 3,000 of 64 KiB took some 1.1 s by one thread, 0.6 by four, 0.4 to 0.6
by 16 (a busy machine)."""

AT_ONCE = Width(CHUNK, 2)
"""The same where one thread can ask for many at once (at_once.py), and 16 would but wait for each
other: 820 of 64 KiB took 37 ms of the processors so, and 74 by 16 threads."""


def transfer(
    ranges: Ranges,
    read: Read,
    consume: Consume,
    *,
    phase: str,
    task: Task,
    width: Width | None = None,
) -> None:
    """Read every range and hand it on, in several threads, in no fixed order.

    However it ends, none of its threads reads or hands on anything after it has returned: callers
    close and remove then what they were at.

    Args:
        ranges: what to move, in bytes.
        read: `read(pieces, view)` fills the view with the bytes of each of the pieces (offset and
            length), one behind the other; called from several threads.
        consume: `consume(pieces, view)` uses the view until it returns; from several threads, too.
            What lies behind the view's end in its buffer is no one's.
        phase: what this is called in progress reports.
        task: what it reports to, and what stops it.
        width: how much is under way at once; CHUNK in each of THREADS if nothing is said.

    Raises:
        Cancelled: on request. KeyboardInterrupt: by Ctrl-C, where nobody turns that into a cancel.
        Otherwise whatever `read` or `consume` raised first.
    """
    width = width or Width(CHUNK, THREADS)
    work = _Work(ranges, read, consume, phase, task, width.chunk)
    threads = max(1, min(width.threads, -(-total(ranges) // width.chunk)))
    gives_way = task.pace.gives_way
    # who gives way does so until its thread ends, and this one has other things to do afterwards
    own = 0 if gives_way else 1
    helpers = [threading.Thread(target=work.begin, name="transfer") for _ in range(threads - own)]
    with _interrupts_stop(work):
        try:
            for thread in helpers:
                thread.start()
            if own:
                work.run()
        except BaseException as error:  # noqa: BLE001 - raised below, when the threads have ended
            work.stop(error)
        for thread in helpers:
            if thread.is_alive():  # one that never started has seen `stop` before anything else
                thread.join()
    if work.error is not None:
        raise work.error


def transfer_in_order(
    ranges: Ranges, read: Read, consume: Consume, *, phase: str, task: Task
) -> None:
    """Do what `transfer` does from the first range to the last, in the caller's thread."""
    work = _Work(ranges, read, consume, phase, task, CHUNK)
    with _interrupts_stop(work):
        work.run()
    if work.error is not None:
        raise work.error


def new_buffer(size: int) -> memoryview:
    """Memory that begins with a page, as what goes past the page cache has to.

    Never closed, but dropped: an error's traceback still holds views of it, and closing would raise
    BufferError in its stead.
    """
    return memoryview(mmap.mmap(-1, size))


@contextmanager
def _interrupts_stop(work: _Work) -> Iterator[None]:
    """Ctrl-C meanwhile is the work's error, and not an exception in the midst of waiting for it.

    Where another handler is in place Ctrl-C is a cancel already (the command line), and in other
    threads than the main one there is none (signal).
    """
    default = signal.default_int_handler
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not default
    ):
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: work.stop(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)


class Target(Protocol):
    """What units can be written to; see VirtualDisk."""

    @property
    def unit(self) -> int:
        """Bytes of one."""

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Take whole units."""

    def zero(self, offset: int, length: int) -> None:
        """Read as zeros there from now on."""


def write_blocks(
    disk: Target,
    blocks: Int64s,
    view: memoryview,
    wanted: Flags,
    zero: Flags,
    block: int = UNIT,
) -> None:
    """Write some of the blocks that `view` holds, all at once.

    Args:
        disk: where to.
        blocks: int64[blocks], their numbers, ascending.
        view: the blocks, one behind the other; the last one may be short.
        wanted: bool[blocks], which to write.
        zero: bool[blocks], which of them are all zeros.
        block: bytes of one: whole units of the disk.
    """
    at = np.flatnonzero(wanted & ~zero)
    if len(at):
        units, places = blocks[at], at
        if block != disk.unit:
            units, places = (_divided(each, block // disk.unit) for each in (units, places))
            inside = places * disk.unit < len(view)
            units, places = units[inside], places[inside]
        disk.write_units(units, view, places)
    for first, end in neighbours(blocks, wanted & zero):
        length = min(end * block, len(view)) - first * block
        disk.zero(int(blocks[first]) * block, length)


def _divided(blocks: Int64s, parts: int) -> Int64s:
    """The numbers of the parts of blocks, each of which has so many."""
    return (blocks[:, None] * parts + np.arange(parts)).ravel()


def neighbours(blocks: Int64s, wanted: Flags) -> list[tuple[int, int]]:
    """Positions (first, end) of blocks that are wanted and follow each other in the disk."""
    at = np.flatnonzero(wanted)
    cuts = np.flatnonzero((np.diff(at) != 1) | (np.diff(blocks[at]) != 1)) + 1
    bounds = [0, *cuts.tolist(), len(at)] if len(at) else []
    places = at.tolist()
    return [(places[first], places[end - 1] + 1) for first, end in pairwise(bounds)]


class _Work:
    """What the threads of one transfer share."""

    def __init__(
        self,
        ranges: Ranges,
        read: Read,
        consume: Consume,
        phase: str,
        task: Task,
        chunk: int,
    ) -> None:
        self._chunks, self._chunk = chunks(ranges, chunk), chunk
        self._read, self._consume = read, consume
        self._phase, self._report, self._cancel = phase, task.report, task.cancel
        self._pace = task.pace
        self._lock = threading.Lock()
        self._done, self._total = 0, total(ranges)
        self.error: BaseException | None = None

    def begin(self) -> None:
        """In a thread of its own."""
        try:
            if self._pace.gives_way:
                give_way()
        except BaseException as error:  # noqa: BLE001 - else all threads end, and all seems moved
            self.stop(error)
        self.run()

    def run(self) -> None:
        try:
            view = new_buffer(self._chunk)
            while (chunk := self._next()) is not None:
                length = total(chunk)
                self._read(chunk, view[:length])
                self._consume(chunk, view[:length])
                self._moved(length)
        except BaseException as error:  # noqa: BLE001 - `transfer` raises it in the caller's thread
            self.stop(error)

    def stop(self, error: BaseException) -> None:
        """Let no thread begin another chunk.

        Without the lock: a signal's handler runs in a thread that may have it.
        """
        self.error = self.error or error

    def _next(self) -> Ranges | None:
        with self._lock:
            if self.error is not None:
                return None
            self._cancel.checkpoint(self._report)
            return next(self._chunks, None)

    def _moved(self, length: int) -> None:
        with self._lock:
            self._done += length
            self._report(Progress(self._phase, self._done, self._total))
        if self._pace.limit is not None:
            self._pace.limit.hold(length, self)

    def check(self) -> None:
        """Raise what ends the work: a cancel, or what went wrong in another thread."""
        if self.error is not None:
            raise self.error
        self._cancel.check()

    def wait(self, seconds: float) -> None:
        """Do nothing for that long; raises Cancelled."""
        self._cancel.wait(seconds)
