"""A file as a block device that nobody else takes an interest in, for as long as it is open.

systemd's udev looks into each block device that comes, and has LVM make active what lies on it: a
backup's volumes would appear on this computer, perhaps by the names of its own. It leaves alone
what somebody holds a lock of. losetup(8) locks nothing, so the kernel is asked here. It also lets
go of the device when its last user ends, however that happens.

Sources: linux/loop.h; systemd, "Locking Block Device Access"; loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_CONTROL = Path("/dev/loop-control")
_GET_FREE, _CONFIGURE, _CLEAR = 0x4C82, 0x4C0A, 0x4C01
_CONFIG = struct.Struct("=II 24x QQ 12x I 240x")
"""struct loop_config: the file, bytes of a sector, and of what follows lo_offset, lo_sizelimit and
lo_flags."""
_AUTOCLEAR = 4
_ATTEMPTS = 50
"""How often somebody else may take the device that the kernel has just called free."""


class Loop(NamedTuple):
    """A device: a descriptor of it, and its number (st_rdev)."""

    descriptor: int
    number: int

    @property
    def path(self) -> str:
        """Its name in /dev."""
        return os.readlink(f"/proc/self/fd/{self.descriptor}")

    def let_go(self) -> None:
        """Take the file out now, and not some time after it is closed; raises OSError."""
        fcntl.ioctl(self.descriptor, _CLEAR)


@contextmanager
def over(file: int, sector_size: int = 0, offset: int = 0, size: int = 0) -> Iterator[Loop]:
    """A device over a file, which goes when nobody has it open any more.

    Writes go into the file's cache, one after the other in the order in which they are handed in:
    nothing is read of the file's end before what was written in front of it.

    Args:
        file: a descriptor of it, open for reading and writing.
        sector_size: of the device, in bytes; 0 for the usual one.
        offset: where in the file it begins, in bytes.
        size: in bytes; 0 is up to the file's end.

    Raises OSError.
    """
    device = _taken(_CONFIG.pack(file, sector_size, offset, size, _AUTOCLEAR))
    try:
        yield Loop(device, os.fstat(device).st_rdev)
    finally:
        os.close(device)


def _taken(config: bytes) -> int:
    with _CONTROL.open("rb") as control:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before it holds anything
                fcntl.ioctl(device, _CONFIGURE, config)
                return device
            except OSError as error:
                os.close(device)
                if error.errno not in (errno.EBUSY, errno.EAGAIN):
                    raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
