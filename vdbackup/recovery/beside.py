"""A folder of ours beside what is to be replaced, in a folder that may be anybody's.

Who owns that one may give any name in it to anything, at any time, also to folders of root's that
he could not delete. So nothing is deleted by its name: what is in ours goes through the descriptor
that we hold, and what a kill has left is known by permissions that no folder has otherwise.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vdbackup.durable import PARTIAL
from vdbackup.errors import UnfitTarget
from vdbackup.recovery.metadata import give_mode
from vdbackup.translation import tr

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened, never through a link."""
_OURS = re.compile(rf"\.vdbackup-[0-9a-f]{{16}}{re.escape(PARTIAL)}")
_MARKED = 0o1700
"""Permissions of ours: nobody has a folder that is his alone, and where none but he may delete."""


@contextmanager
def folder_beside(parent: int) -> Iterator[int]:
    """A folder of ours in an open one, gone afterwards; those that a kill has left go, too.

    Raises UnfitTarget: something else has taken its name before it could be opened. OSError.
    """
    name = f".vdbackup-{secrets.token_hex(8)}{PARTIAL}"
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, FOLDER, dir_fd=parent)
    try:
        with suppress(OSError):  # says that it is not left behind; not all storage can
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        keeps_modes = _mark(fd)
        try:
            for left in filter(_OURS.fullmatch, os.listdir(parent)):
                if left != name:
                    _sweep(left, parent, keeps_modes=keeps_modes)
            yield fd
        finally:
            _empty(fd)
            _remove(name, fd, parent)
    finally:
        os.close(fd)


def _mark(fd: int) -> bool:
    """Have it known as ours; whether it can be, as on FAT it cannot. Raises UnfitTarget."""
    if os.listdir(fd):
        raise _taken()
    give_mode(fd, _MARKED)
    found = os.fstat(fd)
    if stat.S_IMODE(found.st_mode) != _MARKED:  # permissions and owners are made up there
        return False
    if found.st_uid != os.geteuid():
        raise _taken()
    return True


def _taken() -> UnfitTarget:
    return UnfitTarget(
        tr("Something has taken the place of a folder that was made to put files back."),
        tr("See who changes what is there, then put them back again."),
    )


def _sweep(name: str, parent: int, *, keeps_modes: bool) -> None:
    """Remove what was left there, unless somebody is at work in it."""
    with suppress(OSError):
        fd = os.open(name, FOLDER, dir_fd=parent)
        try:
            found = os.fstat(fd)
            if keeps_modes and stat.S_IMODE(found.st_mode) != _MARKED:
                return
            if found.st_uid == os.geteuid() or not keeps_modes:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(fd)
                _remove(name, fd, parent)
        finally:
            os.close(fd)


def _empty(fd: int) -> None:
    """Delete what is in an open folder, as far as can be."""
    # Opened anew: Btrfs lists of a folder what was in it when it was opened (Linux 6.5 and on).
    listed = os.open(b".", FOLDER, dir_fd=fd)
    try:
        for name in os.listdir(listed):
            try:
                os.unlink(name, dir_fd=fd)
            except OSError:  # a folder
                shutil.rmtree(name, dir_fd=fd, ignore_errors=True)
    finally:
        os.close(listed)


def _remove(name: str, fd: int, parent: int) -> None:
    """Delete an open folder that is empty, if it still has its name."""
    with suppress(OSError):
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        ours = os.fstat(fd)
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            os.rmdir(name, dir_fd=parent)
