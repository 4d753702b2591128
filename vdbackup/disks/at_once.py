"""Many reads or writes past the page cache, under way at once, begun and ended by one thread.

That is Linux's asynchronous I/O (io_submit(2), io_getevents(2)). Without it each that is under way
needs a thread, which wakes up for it and waits for Python's lock. Of 820 scattered blocks of 64 KiB
each took 25 to 40 us of the processors to be read by a call of its own, and 6 in calls for 64 of
them; to be written through the page cache and synced 23 to 34, and 7 to 11 so, in half the time.

The C library has no functions for these calls. Where the system does not let us have them, as some
containers do not, or this processor's numbers are not known, that is said, and they go one by one.
"""

from __future__ import annotations

import errno
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s

Part = tuple[int, int, int]
"""A place in a file, and from where to where in a view its bytes are, or belong."""

READ, WRITE = 0, 1
"""IOCB_CMD_PREAD and IOCB_CMD_PWRITE (linux/aio_abi.h)."""
DEPTH = 64
"""How many are under way at once, of one thread."""
_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit (asm/unistd_64.h, asm-generic/unistd.h)."""
_REQUEST = np.dtype(
    [
        *(("data", "<u8"), ("key", "<u4"), ("flags", "<u4"), ("opcode", "<u2")),
        *(("priority", "<i2"), ("fd", "<u4"), ("buffer", "<u8"), ("length", "<u8")),
        *(("offset", "<i8"), ("rest", "<u8", 2)),
    ]
)
"""struct iocb (linux/aio_abi.h), on processors with the lowest byte first."""
_EVENT = np.dtype([("data", "<u8"), ("request", "<u8"), ("result", "<i8"), ("result2", "<i8")])
"""struct io_event."""
_of_thread = threading.local()


def possible() -> bool:
    """Whether the system lets this thread have many under way."""
    return _own_queue() is not None


def move(
    opcode: int, fd: int, parts: Sequence[Part], view: memoryview, alignment: int
) -> list[Part]:
    """Read, or write, many parts of `view`; those that have still to be, one by one.

    That is what does not lie as O_DIRECT wants it, what failed or ended too early, and all where
    the system cannot do many at once. All have ended when it returns.

    Args:
        opcode: READ or WRITE.
        fd: a file that was opened with O_DIRECT.
        parts: where in the file, and which of the view.
        view: where their bytes are to be, or are.
        alignment: bytes of which places and lengths in the file are to be multiples.
    """
    if len(parts) < 2 or (queue := _own_queue()) is None:
        return list(parts)
    table = np.array(parts, np.int64)
    offsets, addresses = table[:, 0], _address(np.frombuffer(view, np.uint8)) + table[:, 1]
    lengths = table[:, 2] - table[:, 1]
    # pages: no device wants more of an address than that
    fit = (offsets % alignment == 0) & (lengths % alignment == 0) & (addresses % PAGESIZE == 0)
    moved = np.zeros(len(parts), np.bool_)
    results = queue.move(opcode, fd, offsets[fit], addresses[fit], lengths[fit])
    moved[fit] = results == lengths[fit]
    return [parts[at] for at in np.flatnonzero(~moved).tolist()]


def _own_queue() -> _Queue | None:
    """This thread's, which lasts as long as the thread does."""
    if not hasattr(_of_thread, "queue"):
        _of_thread.queue = _new_queue()
    queue: _Queue | None = _of_thread.queue
    return queue


def _new_queue() -> _Queue | None:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        return None
    import ctypes  # late: of what every command loads, only this needs it

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long

    def call(number: int, *arguments: int) -> int:
        found: int = syscall(ctypes.c_long(number), *map(ctypes.c_void_p, arguments))
        return -ctypes.get_errno() if found < 0 else found

    context = ctypes.c_ulong(0)
    if call(numbers[0], DEPTH, ctypes.addressof(context)):
        return None
    return _Queue(_Calls(call, *numbers[1:]), context.value)


@dataclass(frozen=True)
class _Calls:
    """The system's: what makes one, below 0 an error's number, and the numbers that they have."""

    call: Callable[..., int]
    destroy: int
    getevents: int
    submit: int


class _Queue:
    """What one thread's reads and writes wait in."""

    def __init__(self, system: _Calls, context: int) -> None:
        self._system, self._context = system, context

    def move(
        self, opcode: int, fd: int, offsets: Int64s, addresses: Int64s, lengths: Int64s
    ) -> Int64s:
        """How many bytes of each were moved: 0 where it was not begun, below 0 an error's number.

        The memory is the caller's, and nobody is at it any more on return.
        """
        requests = np.zeros(len(offsets), _REQUEST)
        requests["data"] = np.arange(len(offsets))
        requests["opcode"], requests["fd"] = opcode, fd
        requests["buffer"], requests["length"] = addresses, lengths
        requests["offset"] = offsets
        results = np.zeros(len(offsets), np.int64)
        try:
            for first in range(0, len(offsets), DEPTH):
                self._move_some(requests[first : first + DEPTH], results)
        except BaseException:  # a Ctrl-C, too
            self.close()
            del _of_thread.queue
            raise
        return results

    def _move_some(self, requests: NDArray[np.void], results: Int64s) -> None:
        call, context = self._system.call, self._context
        each = _address(requests) + np.arange(len(requests)) * _REQUEST.itemsize
        begun = max(0, call(self._system.submit, context, len(each), _address(each)))
        events, ended = np.zeros(begun, _EVENT), 0
        while ended < begun:
            rest, where = begun - ended, _address(events[ended:])
            got = call(self._system.getevents, context, rest, rest, where, 0)
            if got < 0 and got != -errno.EINTR:
                raise OSError(-got, "io_getevents")
            ended += max(0, got)
        results[events["data"].astype(np.int64)] = events["result"]

    def close(self) -> None:
        """End; waits for what is under way (io_destroy(2))."""
        context, self._context = self._context, 0
        if context:
            self._system.call(self._system.destroy, context)

    def __del__(self) -> None:
        self.close()


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
