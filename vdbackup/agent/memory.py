"""Memory that is there already: what is read into it while file systems are frozen needs no page.

A page that must be found first may be one that has to be written out before, to a file system that
is just frozen.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Self

from vdbackup.errors import NotFrozen

_libc = ctypes.CDLL(None, use_errno=True)


class LockedMemory:
    """So many bytes of memory, each of them there and kept from being swapped. A context manager.

    A guardian (guardian.py) does not get it: it would have to lock all of it, too.

    Attributes:
        view: the bytes, from a page's start on.

    Raises NotFrozen where this process may not lock so much.
    """

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size)
        self._map.madvise(mmap.MADV_DONTFORK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            reason = os.strerror(ctypes.get_errno())
            self._map.close()
            raise NotFrozen(
                f"{size >> 20} MiB of memory could not be locked: {reason}.",
                "Give this program the right to lock memory (CAP_IPC_LOCK).",
            )
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give it back."""
        self.view.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
