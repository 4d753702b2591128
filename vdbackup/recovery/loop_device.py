"""A file as a loop device that nobody else takes an interest in, and that goes with this process.

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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vdbackup.errors import NotResized
from vdbackup.translation import tr

_CONTROL = Path("/dev/loop-control")
_GET_FREE, _CONFIGURE, _CLEAR = 0x4C82, 0x4C0A, 0x4C01
_CONFIG = struct.Struct("=II QQQQQ IIII 64s 64s 32s 16x 64x")
"""struct loop_config: descriptor and block size, then loop_info64."""
_AUTOCLEAR = 4
_ATTEMPTS = 50
"""How often somebody else may take the device that the kernel has just called free."""


@contextmanager
def loop_device(file: Path, offset: int = 0, size: int = 0) -> Iterator[str]:
    """A file, or a stretch of it in bytes, as a device; `size` 0 is up to the end.

    Raises NotResized where the kernel makes none, or could not write all of it.
    """
    with ExitStack() as stack:
        try:
            backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, backing)
            device, fd = _taken(backing, file, offset, size)
        except OSError as error:
            raise _failed(error) from error
        stack.callback(os.close, fd)
        yield device
        try:
            os.fsync(fd)
            fcntl.ioctl(fd, _CLEAR)  # now, and not some time after it is closed
        except OSError as error:
            raise _failed(error) from error


def _failed(error: OSError) -> NotResized:
    return NotResized(
        tr("A partition could not be worked on as a loop device."),
        tr("It says: {line}", line=error.strerror or str(error)),
    )


def _taken(backing: int, file: Path, offset: int, size: int) -> tuple[str, int]:
    """A free device that is given the file, and a descriptor of it that has it locked."""
    name = os.fsencode(file)[:63]
    config = _CONFIG.pack(backing, 0, 0, 0, 0, offset, size, 0, 0, 0, _AUTOCLEAR, name, b"", b"")
    with _CONTROL.open("rb") as control:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before there is anything in it
                fcntl.ioctl(fd, _CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno not in (errno.EBUSY, errno.EAGAIN):
                    raise
            else:
                return device, fd
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
