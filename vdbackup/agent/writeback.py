"""What is still in memory is written out before a device is read past its page cache.

Never by sync(1) where it can be helped: that waits for every file system, and a share whose server
is gone keeps it for ever.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from vdbackup.agent.block_devices import node_of
from vdbackup.agent.stacking import mounts_of, numbers_on

log = logging.getLogger(__name__)

_SEEN_BY_NOBODY_HERE = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_libc = ctypes.CDLL(None, use_errno=True)


def write_out(path: Path) -> None:
    """Write out what is held back for a device or image: by file systems on it, by its own caches.

    Raises OSError where a file system cannot be written to: then what is on the device is older
    than what its users see, and nobody knows by how much.
    """
    mounts = mounts_of(path)
    unreached = [where for where in mounts if not _sync_file_system(where)]
    if unreached or (not mounts and _is_used_by_the_kernel(path)):
        os.sync()
    write_out_caches(path)


def write_out_caches(path: Path) -> None:
    """Write out what programs wrote to a device itself, or to a part of it, through its cache.

    Each partition has a cache of its own. Nothing is dropped from any.
    """
    for device in _devices(numbers_on(path)):
        try:
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:  # whoever may read the disk need not be let at its parts
            log.debug("%s is not written out: %s", device, error)
            continue
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _devices(numbers: Iterable[str]) -> list[Path]:
    return [device for number in sorted(numbers) if (device := node_of(number)) is not None]


def _sync_file_system(where: str) -> bool:
    """syncfs(2) of what is mounted there; False where this user cannot get there."""
    try:
        fd = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _SEEN_BY_NOBODY_HERE:
            raise
        return False
    try:
        sync_file_system(fd)
    finally:
        os.close(fd)
    return True


def sync_file_system(fd: int) -> None:
    """syncfs(2) of what a descriptor lies on; raises OSError."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.readlink(f"/proc/self/fd/{fd}"))


def _is_used_by_the_kernel(path: Path) -> bool:
    """Whether a device is mounted where it cannot be seen: in a container, or as Btrfs' second."""
    if not path.is_block_device():
        return False
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
