"""What work takes of the machine: so many bytes a second at most, and only what others leave.

Linux has priorities by thread, not only by process (setpriority(2), ioprio_set(2)), and who lowers
its own may not raise it again: so it is done in threads that end with the work.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

_NICE = 10
"""Of the 19 steps down: other programs get nine times as much of a core (sched(7), weights)."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
"""The number of the system call, which the C library has no function for (asm/unistd.h)."""
_WHO_PROCESS, _CLASS_IDLE, _CLASS_SHIFT = 1, 3, 13
"""Of ioprio_set(2): a thread, and the class that is served when nobody else wants the storage."""
_SLICE = 0.5
"""Seconds between two looks whether the work is to stop."""


class Stoppable(Protocol):
    """Somebody may ask the work to stop."""

    def check(self) -> None:
        """Raise what ends the work."""

    def wait(self, seconds: float) -> None:
        """Do nothing for that long; raises where the work is to stop."""


class Limit:
    """Holds work to so many bytes a second; all its threads together.

    Attributes:
        rate: bytes a second.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._due = time.monotonic()

    def hold(self, moved: int, cancel: Stoppable) -> None:
        """Wait until what was moved so far, `moved` bytes more now, may have been moved.

        Time in which less was moved is not made up for: the storage is not to be flooded after it.
        """
        with self._lock:
            self._due = max(self._due, time.monotonic()) + moved / self.rate
            due = self._due
        while (left := due - time.monotonic()) > 0:
            cancel.check()
            cancel.wait(min(left, _SLICE))


@dataclass(frozen=True)
class Pace:
    """How fast work goes, if not as fast as it can.

    Attributes:
        limit: None for none.
        gives_way: to all other programs, with their computing and their storage.
    """

    limit: Limit | None = None
    gives_way: bool = False


def give_way() -> None:
    """This thread gets of the processors and the storage what others leave, as long as it lives.

    Who started us may have lowered us further, and stays so: root could raise it again. Where the
    kernel does not want that, all goes on as it was.
    """
    import ctypes  # late: of what every command loads, only a backup needs them
    import platform

    thread = threading.get_native_id()
    try:
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(before, _NICE))
    except OSError as error:
        log.debug("no lower priority: %s", error)
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return
    idle = _CLASS_IDLE << _CLASS_SHIFT
    if ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, thread, idle):
        log.debug("no lower priority on the storage: %s", os.strerror(ctypes.get_errno()))
