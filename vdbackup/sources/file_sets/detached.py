"""A mount that stands nowhere: nobody sees it, and it is gone with its descriptor.

A process that is killed leaves nothing mounted, and nobody can put anything over it. Nothing is run
from it and no device in it opened; names of other file systems are not followed into it.

Source: Linux 5.2 and on, fsopen(2), fsconfig(2), fsmount(2); include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""Numbers of the calls, on every processor but Alpha."""
_CLOSE_ON_EXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_READ_ONLY, _NO_SET_UID, _NO_DEVICES, _NO_PROGRAMS, _NO_ATIME = 1, 2, 4, 8, 16
_ATTRIBUTES = _READ_ONLY | _NO_SET_UID | _NO_DEVICES | _NO_PROGRAMS | _NO_ATIME
_FLAGS = {"xfs": ("norecovery", "nouuid")}
"""XFS writes all out where it is frozen, and leaves a log all the same, which cannot be replayed on
what is read only; and it mounts no UUID twice. An ext that would need its log is refused."""


def mounted(device: Path, kind: str) -> int:
    """Mount a block device, read only; a descriptor of its root. Raises OSError.

    Args:
        device: what is mounted.
        kind: of its file system, as the kernel calls it.
    """
    context = _call(_FSOPEN, kind.encode(), _CLOSE_ON_EXEC)
    try:
        _call(_FSCONFIG, context, _SET_STRING, b"source", os.fsencode(device), 0)
        for flag in ("ro", *_FLAGS.get(kind, ())):
            _call(_FSCONFIG, context, _SET_FLAG, flag.encode(), None, 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOSE_ON_EXEC, _ATTRIBUTES)
    finally:
        os.close(context)
    try:  # the mount's own descriptor is one that names alone are asked of
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    passed = [
        ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each)
        for each in arguments
    ]
    result: int = library.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
