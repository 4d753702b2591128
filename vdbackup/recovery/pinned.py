"""A link, pipe or device that was just made, pinned: what is said of it reaches nothing else.

It cannot be opened as a file is (a pipe would wait, a device would act), and its name may mean
another thing a moment later to who may write to its folder: a link to a file of root's, whose owner
or permissions would be changed then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def pinned(name: str | bytes, folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """A path that means what the name in an open folder means now, and its status.

    Descriptors of that kind can be neither chowned nor given attributes; their entry in /proc can
    (proc_pid_fd(5)), and does not lead on where it is a symbolic link. Raises OSError.
    """
    fd = os.open(name, _PINNED, dir_fd=folder)
    try:
        yield f"/proc/self/fd/{fd}", os.fstat(fd)
    finally:
        os.close(fd)
