"""A file as a block device (loop(4)), for as long as somebody has that open.

Source: the kernel's linux/loop.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONTROL = Path("/dev/loop-control")
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II 52x I 176x 64x")
"""struct loop_config: the file, bytes of a sector, and of what follows lo_flags alone."""
_TRIES = 16
"""Others may take the number that was free."""


@contextmanager
def over(file: int, sector_size: int) -> Iterator[int]:
    """The number (st_rdev) of a device over a file; it goes when nobody has it open any more.

    Writes go into the file's cache, one after the other in the order in which they are handed in:
    nothing is read of the file's end before what was written in front of it.

    Args:
        file: a descriptor of it, open for reading and writing.
        sector_size: of the device, in bytes.

    Raises OSError.
    """
    device = _configured(file, sector_size)
    try:
        yield os.fstat(device).st_rdev
    finally:
        os.close(device)


def _configured(file: int, sector_size: int) -> int:
    config = _CONFIG.pack(file, sector_size, _AUTOCLEAR)
    with _CONTROL.open("rb") as control:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
                return device
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
