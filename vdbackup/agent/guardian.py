"""The guardian: a process that thaws what its parent has frozen, should the parent fail to.

A freeze belongs to the file system and outlives the process that asked for it; whoever writes there
waits for ever, and not even SIGKILL ends that wait. So nobody freezes anything before a process
stands by that needs nothing but its own memory to undo it: it is forked before the freeze, runs no
other program, has all its pages locked, is the last that the kernel kills when memory is short,
hears no signal, and leaves its parent's control group, all of which may be killed at once (a
service that is stopped, a user who is logged out). It waits for a pipe whose other end only its
parent has. Measured: 4 ms after the parent was killed all was thawed.

Parent and guardian share one byte for each file system, which says whether the parent has asked for
the freeze: what somebody else has frozen must not be thawed here.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import gc
import mmap
import os
import select
import signal
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from vdbackup.errors import NotFrozen
from vdbackup.translation import tr

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
"""ioctl on any descriptor of a mounted file system; the argument is 0 (linux/fs.h)."""

_BEGIN, _END, _READY = b"b", b"e", b"r"
_LAST_KILLED = "-1000"
"""For /proc/self/oom_score_adj: never (proc(5))."""
_LOCK_ALL = 3
"""MCL_CURRENT | MCL_FUTURE of mlockall(2)."""
_STARTS_WITHIN = 30.0
"""Seconds in which a guardian has to stand by: to lock its memory takes some 50 ms, on a machine
that swaps longer."""
_AGAIN = 0.02
"""Seconds after which what could not be thawed is tried again, past the limit."""
_libc = ctypes.CDLL(None, use_errno=True)


class Held(enum.IntEnum):
    """What the parent has done to a file system, a byte in the memory that both share."""

    NOT = 0
    ASKED = 1  # the call has begun: should the parent die in it, the file system may be frozen
    FROZEN = 2
    THAWED = 3


class End(enum.IntEnum):
    """How a guardian ends: its exit status."""

    TOLD = 0
    PARENT_GONE = 1
    NEVER_STOOD_BY = 2
    LIMIT = 3


class Guardian:
    """A guardian that stands by. A context manager: it has ended when the block has.

    Args:
        descriptors: one of each file system, in the order in which they are frozen.
        limit: seconds from `begin` on after which it thaws them, whatever the parent does.

    Raises NotFrozen where no guardian can be had: then nothing may be frozen.
    """

    def __init__(self, descriptors: Sequence[int], limit: float) -> None:
        self._board = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the child
        orders, self._tell = os.pipe()
        heard, ready = os.pipe()
        ward = _Ward(descriptors, self._board, limit)
        try:
            self._pid = _fork(ward, orders, ready)
        finally:
            os.close(orders)
            os.close(ready)
        try:
            if not (select.select([heard], [], [], _STARTS_WITHIN)[0] and os.read(heard, 1)):
                self._give_up()
        finally:
            os.close(heard)

    def _give_up(self) -> NoReturn:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.end()
        raise NotFrozen(
            tr("No process could be started that would undo a freeze, should this one end early."),
            tr("Give this program the right to lock memory (CAP_IPC_LOCK)."),
        )

    def note(self, number: int, held: Held) -> None:
        """Say what was done to the file system of that number."""
        self._board[number] = held

    def begin(self) -> None:
        """The first freeze follows: its time runs from now on."""
        os.write(self._tell, _BEGIN)

    def end(self) -> int | None:
        """Let it end, once; its exit status, None where it was killed or cannot be asked.

        What the parent has not thawed it thaws.
        """
        if self._pid == 0:
            return None
        pid, self._pid = self._pid, 0
        with suppress(BrokenPipeError):  # it has ended: by whose hand, its status says
            os.write(self._tell, _END)
        os.close(self._tell)
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:  # this program ignores its children
            return None
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def thaw(descriptor: int) -> bool:
    """Thaw a file system; False where it is not frozen, or not wholly yet, or cannot be thawed."""
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError:
        return False
    return True


def _fork(ward: _Ward, orders: int, ready: int) -> int:
    """Start the child with all signals held back for good; its number.

    The threads that the parent may have are not in the child, which waits for nothing that they may
    hold: Python makes its locks anew, and the C library those of its memory.
    """
    everything = set(signal.Signals)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
            pid = os.fork()
        if pid == 0:
            ward.stand_by(orders, ready)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


class _Ward:
    """What the child does; nothing here may write, log, or import."""

    def __init__(self, descriptors: Sequence[int], board: mmap.mmap, limit: float) -> None:
        self._descriptors = tuple(descriptors)
        self._board, self._limit = board, limit
        self._thawed: set[int] = set()

    def stand_by(self, orders: int, ready: int) -> NoReturn:
        """Be the guardian, to the end of this process."""
        status = End.NEVER_STOOD_BY
        try:
            gc.disable()
            os.setsid()
            _close_all_but((orders, ready, *self._descriptors))
            _last_killed()
            _leave_control_group()
            if _libc.mlockall(_LOCK_ALL) == 0:
                os.write(ready, _READY)
                os.close(ready)
                status = self._guard(orders)
        finally:
            os._exit(status)

    def _guard(self, orders: int) -> End:
        if not os.read(orders, 1):
            return End.PARENT_GONE
        until = time.monotonic() + self._limit
        if select.select([orders], [], [], max(0.0, until - time.monotonic()))[0]:
            told = os.read(orders, 1)
            self._thaw()
            return End.TOLD if told else End.PARENT_GONE
        # The parent may be in the midst of a freeze, which then ends after this limit: until it has
        # said that it is done, or is gone, there may be something new to thaw.
        self._thaw()
        while not select.select([orders], [], [], _AGAIN)[0]:
            self._thaw()
        self._thaw()
        return End.LIMIT

    def _thaw(self) -> None:
        """Thaw what the parent has frozen or may have, the last first, each once."""
        for number in reversed(range(len(self._descriptors))):
            asked = self._board[number] in (Held.ASKED, Held.FROZEN)
            if asked and number not in self._thawed and thaw(self._descriptors[number]):
                self._thawed.add(number)


def _close_all_but(wanted: Sequence[int]) -> None:
    """A lock, or the end of a pipe that somebody waits for, must not stay open with the child."""
    for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - set(wanted):
        with suppress(OSError):  # the one that listed them
            os.close(descriptor)


def _leave_control_group() -> None:
    """Go to the root of all (cgroups(7), version 2), as far as this process may."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    for mount, _, file_system in (line.partition(b" - ") for line in lines):
        if file_system.startswith(b"cgroup2 "):
            with suppress(OSError):
                Path(os.fsdecode(mount.split()[4]), "cgroup.procs").write_text("0")


def _last_killed() -> None:
    """Root in a container may lack the right to that (CAP_SYS_RESOURCE).

    Should the kernel then take the guardian, and not its parent, that one thaws: see `frozen`.
    """
    with suppress(PermissionError):
        Path("/proc/self/oom_score_adj").write_text(_LAST_KILLED)
