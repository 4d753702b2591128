"""What can go wrong with a file of this computer between being looked at and being read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager


class Unread(Exception):
    """A file of this computer cannot be read; what the disk's trouble is goes its own way."""

    def __init__(self, why: OSError) -> None:
        super().__init__(str(why))
        self.why = why


class Replaced(Exception):
    """A name means another file than it did a moment ago: as where an editor saves one."""


def check_same(seen: os.stat_result, there: os.stat_result, *, has_number: bool) -> None:
    """Raise Replaced unless what is open is what was seen under its name.

    Where numbers mean nothing, what is open counts: all that is kept of the file is of that.
    """
    kinds = stat.S_IFMT(seen.st_mode), stat.S_IFMT(there.st_mode)
    numbers = (seen.st_ino, there.st_ino) if has_number else (0, 0)
    if (seen.st_dev, numbers[0], kinds[0]) != (there.st_dev, numbers[1], kinds[1]):
        raise Replaced


@contextmanager
def reading() -> Iterator[None]:
    """What is done with a file of this computer: the system's trouble with it is no disk's."""
    try:
        yield
    except OSError as error:
        raise Unread(error) from error
