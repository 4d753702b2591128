"""What was there when a restore was planned: only that may be replaced.

A number is kept of each file, not its path: a million of them take 8 MB.
"""

from __future__ import annotations

import os
import stat
from array import array

import numpy as np


class Seen:
    """Files as they were; first all are noted, then it is asked for them."""

    def __init__(self) -> None:
        self._noted = array("q")
        self._sorted = np.zeros(0, np.int64)

    def note(self, path: bytes, status: os.stat_result) -> None:
        """Keep in mind that this file is there."""
        self._noted.append(_number(path, status))

    def close(self) -> None:
        """Nothing more is noted."""
        self._sorted = np.sort(np.frombuffer(self._noted, np.int64))

    def knows(self, path: bytes, status: os.stat_result) -> bool:
        """Whether that file was there, as it is now."""
        number = _number(path, status)
        at = int(np.searchsorted(self._sorted, number))
        return at < len(self._sorted) and int(self._sorted[at]) == number


def _number(path: bytes, status: os.stat_result) -> int:
    """What a file has as long as nobody touches it.

    Not the time of its change: that moves for all names of a file of which one is replaced.
    """
    kind = stat.S_IFMT(status.st_mode)
    size = status.st_size if kind == stat.S_IFREG else 0
    return hash((path, status.st_dev, status.st_ino, kind, size, status.st_mtime_ns))
