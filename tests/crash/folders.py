"""Copies of folders with their holes, and files that several folders share until one changes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backup import sparse
from tests.crash.record import Bytes
from vdbackup.disks import holders
from vdbackup.repository import lock


def write_sparse(path: Path, array: Bytes) -> None:
    """Write a new file; pages of zeros become holes."""
    with open(path, "xb", buffering=0) as file:
        file.truncate(len(array))
        for first, end in sparse.used_pages(array):
            file.seek(first)
            file.write(memoryview(array[first:end]))


def copy_tree(source: Path, target: Path) -> None:
    """A copy with holes, modes and times."""
    target.mkdir()
    for path in source.iterdir():
        copy = target / path.name
        if path.is_dir():
            copy_tree(path, copy)
        else:
            sparse.copy(path, copy)


@contextmanager
def shared_files_kept() -> Iterator[None]:
    """Whoever changes a file that states share changes a copy of it.

    And nothing is waited for: no disk, nobody who is about to write a lease down. No other program
    has one of the files open, so that not all processes are looked through in each state.
    """
    original_open, original_chmod, original_utime = os.open, os.chmod, os.utime

    def own(path: Any) -> None:
        status = os.stat(path)
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            other = Path(f"{os.fspath(path)}.own")
            sparse.copy(path, other)
            os.rename(other, path)

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not while a state is looked at")
        if flags & (os.O_WRONLY | os.O_RDWR) and os.path.exists(path):
            own(path)
        return original_open(path, flags, *rest, **named)

    def changed(original: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *rest: Any, **named: Any) -> None:
            own(path)
            original(path, *rest, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(os, "chmod", changed(original_chmod))
        patch.setattr(os, "utime", changed(original_utime))
        patch.setattr(os, "fsync", lambda fd: None)
        patch.setattr(lock, "_WRITING", 0.01)
        patch.setattr(holders, "_processes", lambda wanted: iter(()))
        yield
