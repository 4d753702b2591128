"""Trouble at the n-th change of a file: an error of the storage, or the end of the process."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import pytest

from vdbackup.disks import at_once

CHANGES = (
    "chmod", "fsync", "ftruncate", "ioctl", "mkdir", "pwrite", "pwritev", "rename", "unlink",
    "utime",
)  # fmt: skip
"""Every call into the system with which the engine changes what is stored, or makes it durable."""
ALL = (*CHANGES, "open", "rmdir")
"""With those that only make, open or remove; of "open" those that are for writing."""


class PowerCut(BaseException):
    """Nothing runs after this: not even what cleans up."""


class Faults:
    """Counts the changes, and makes trouble at one of them.

    Attributes:
        calls: the names of the calls so far.
        before: what is to happen before which call.
        each: what is to happen before every call.
    """

    def __init__(self, at: int | None, error: BaseException, *, for_good: bool) -> None:
        self.calls: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}
        self.each: Callable[[str], None] | None = None
        self._at, self._error, self._for_good = at, error, for_good
        self._lock = threading.Lock()

    def look(self, name: str) -> None:
        """Count a call; raise if it is its turn, or if all has ended already."""
        with self._lock:
            number = len(self.calls)
            if self.each:
                self.each(self.calls[-1] if self.calls else "")
            self.calls.append(name)
        if number in self.before:
            self.before[number]()
        if self._at is not None and (number == self._at or (self._for_good and number > self._at)):
            raise self._error


@contextmanager
def counted() -> Iterator[Faults]:
    """No trouble: how many changes there are."""
    with _patched(Faults(None, PowerCut(), for_good=False)) as faults:
        yield faults


@contextmanager
def watched(each: Callable[[str], None]) -> Iterator[Faults]:
    """No trouble: before every change `each` is called, with the name of the change before it."""
    with counted() as faults:
        faults.each = each
        yield faults


@contextmanager
def power_cut(at: int) -> Iterator[Faults]:
    """The process ends before its change number `at`: that one and all later ones do not happen.

    If there are not as many changes, nothing happens.
    """
    with _patched(Faults(at, PowerCut(), for_good=True)) as faults, suppress(PowerCut):
        yield faults


@contextmanager
def storage_error(
    at: int | None, number: int = errno.ENOSPC, calls: Sequence[str] = CHANGES
) -> Iterator[Faults]:
    """Change number `at` fails, and no other; None at all for None."""
    error = OSError(number, os.strerror(number))
    with _patched(Faults(at, error, for_good=False), calls) as faults:
        yield faults


@contextmanager
def happening(at: int, act: Callable[[], None], calls: Sequence[str] = ALL) -> Iterator[Faults]:
    """Before change number `at` something happens to the storage itself; the calls go on."""
    faults = Faults(None, PowerCut(), for_good=False)
    faults.before = {at: act}
    with _patched(faults, calls):
        yield faults


def one_by_one(patch: pytest.MonkeyPatch) -> None:
    """Let no writes be under way together: those go past `os`, and so past who watches that.

    They are the same writes, and in front of the same fsync: what a power cut can leave of them is
    the same. `kills` ends the program while it makes them.
    """
    patch.setattr(at_once, "_own_queue", lambda: None)


@contextmanager
def _patched(faults: Faults, calls: Sequence[str] = CHANGES) -> Iterator[Faults]:
    def replacement(name: str) -> object:
        original = getattr(_module(name), name)

        def call(*arguments: Any, **named: Any) -> object:
            if name != "open" or int(arguments[1]) & (os.O_WRONLY | os.O_RDWR):
                faults.look(name)
            return original(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        one_by_one(patch)
        for name in calls:
            patch.setattr(_module(name), name, replacement(name))
        yield faults


def _module(name: str) -> ModuleType:
    """Where the call is: extents are shared by ioctl."""
    return fcntl if name == "ioctl" else os
