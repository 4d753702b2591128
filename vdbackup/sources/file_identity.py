"""Which file a path means, so that it is known again after it was moved or renamed."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_FDCWD = -100
"""A path is as seen from the working folder (linux/fcntl.h)."""


class _FileHandle(ctypes.Structure):
    """struct file_handle (linux/fcntl.h, MAX_HANDLE_SZ)."""

    _fields_ = (
        ("size", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("handle", ctypes.c_ubyte * 128),
    )


def file_identity(path: Path) -> str:
    """Which file this is, wherever it is moved to on its file system; "" where that is not known.

    An inode's number alone is given to the next file once its own is deleted. The handle by which
    file servers know a file holds the inode's generation, too: see name_to_handle_at(2).
    """
    handle = _FileHandle(size=128)
    mount = ctypes.c_int()
    call = getattr(ctypes.CDLL(None, use_errno=True), "name_to_handle_at", None)
    try:
        system = os.statvfs(path).f_fsid
    except OSError:
        return ""
    refused = call is None or call(
        _AT_FDCWD, os.fsencode(path.resolve()), ctypes.byref(handle), ctypes.byref(mount), 0
    )
    if refused or not system:  # a file system that has none: some network mounts, overlays
        return ""
    return f"{system:x}:{handle.type:x}:{bytes(handle.handle[: handle.size]).hex()}"
