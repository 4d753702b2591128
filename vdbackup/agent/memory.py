"""Memory that is there already: what is read into it while file systems are frozen needs no page.

A page that must be found first may be one that has to be written out before, to a file system that
is just frozen.

What others are to read, who ask for it over a socket, they get by a descriptor of such memory.
It is a file of its own (memfd_create(2)), sealed: its size stays, so that no access to it
ever fails, and nobody but who has it in memory already writes to it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Self

from vdbackup.errors import NotFrozen
from vdbackup.translation import grouped, tr

_SEAL, _SHRINK, _GROW, _WRITE, _FUTURE_WRITE = 1, 2, 4, 8, 16
"""Of F_ADD_SEALS (linux/fcntl.h); Python has the last since 3.13 only."""
NEVER_LARGER = _SEAL | _SHRINK | _GROW
NEVER_OTHER = NEVER_LARGER | _WRITE
_libc = ctypes.CDLL(None, use_errno=True)


class LockedMemory:
    """So many bytes of memory, each of them there and kept from being swapped. A context manager.

    A guardian (guardian.py) does not get it: it would have to lock all of it, too.

    Attributes:
        view: the bytes, from a page's start on.
        descriptor: of them, for who may read them.

    Raises NotFrozen where this process may not lock so much.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("vdbackup", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.truncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
            seals = NEVER_LARGER | _FUTURE_WRITE
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            self._lock(size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.view = memoryview(self._map)

    def _lock(self, size: int) -> None:
        self._map.madvise(mmap.MADV_DONTFORK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            reason = os.strerror(ctypes.get_errno())
            self._map.close()
            raise NotFrozen(
                tr(
                    "{size} MiB of memory could not be locked: {reason}.",
                    size=size >> 20,
                    reason=reason,
                ),
                tr("Give this program the right to lock memory (CAP_IPC_LOCK)."),
            )

    def close(self) -> None:
        """Give it back."""
        self.view.release()
        self._map.close()
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sealed(data: bytes) -> int:
    """A descriptor of memory that holds just that, and that nobody can change."""
    fd = os.memfd_create("vdbackup", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, NEVER_OTHER)
    except BaseException:
        os.close(fd)
        raise
    return fd


def held_in(fd: int, most: int) -> bytes:
    """What `sealed` memory holds; closes the descriptor.

    Raises ValueError where it is none, or more than `most` bytes.
    """
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & NEVER_OTHER != NEVER_OTHER:
            raise ValueError(tr("it can still be changed"))
        size = os.fstat(fd).st_size
        if size > most:
            raise ValueError(tr("it holds {size} bytes", size=grouped(size)))
        return os.pread(fd, size, 0)
    except OSError as error:
        raise ValueError(tr("it is no memory")) from error
    finally:
        os.close(fd)


class SeenMemory:
    """What `LockedMemory` of another process holds. A context manager.

    Attributes:
        view: the bytes; not to be written to.
    """

    def __init__(self, fd: int) -> None:
        """Of its descriptor, which is closed; raises ValueError or OSError where it is none."""
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & NEVER_LARGER != NEVER_LARGER:
                raise ValueError(tr("it can still become smaller"))
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give it back."""
        self.view.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
