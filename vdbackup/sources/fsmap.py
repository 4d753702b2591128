"""What a mounted file system itself says is free, as the kernel has it at this moment.

XFS answers so (ext4 does, too, but has its maps where they can be read under a freeze). What it
calls free may still be another's on the device, until its log is written: at the next freeze it is.

Source: ioctl_getfsmap(2), linux/fsmap.h.
"""

from __future__ import annotations

import fcntl
import os

import numpy as np

from vdbackup.disks.extents import Ranges

_GETFSMAP = 0xC0C0583B
_HEAD = np.dtype([("in", "=u4"), ("out", "=u4"), ("room", "=u4"), ("given", "=u4"), ("", "=u8", 6)])
_RECORD = np.dtype(
    [
        *(("device", "=u4"), ("flags", "=u4"), ("physical", "=u8"), ("owner", "=u8")),
        *(("offset", "=u8"), ("length", "=u8"), ("reserved", "=u8", 3)),
    ]
)
_ROOM = 1 << 14
"""Records that are asked for at once: 1 MiB."""
_SPECIAL_OWNER, _LAST = 0x10, 0x20
"""Flags of a record."""
_FREE = 1
"""A special owner."""


def free(fd: int, number: str, shortest: int) -> Ranges:
    """The free ranges of a device, in bytes, ascending; raises OSError where it is not said.

    Args:
        fd: of anything in the file system.
        number: of the device, "259:1": a file system may lie on several.
        shortest: bytes; what is shorter is left out.
    """
    device = _encoded(*map(int, number.split(":")))
    # the head, two keys (from where, to where), and the records
    buffer = bytearray(_HEAD.itemsize + (2 + _ROOM) * _RECORD.itemsize)
    head = np.frombuffer(buffer, _HEAD, 1)
    keys = np.frombuffer(buffer, _RECORD, 2, _HEAD.itemsize)
    records = np.frombuffer(buffer, _RECORD, _ROOM, _HEAD.itemsize + 2 * _RECORD.itemsize)
    for name in ("device", "flags", "physical", "owner", "offset"):
        keys[name][1] = np.iinfo(keys[name].dtype).max
    found = [np.empty((0, 2), np.int64)]
    while True:
        head["room"] = _ROOM
        fcntl.ioctl(fd, _GETFSMAP, buffer)
        given = records[: int(head["given"][0])]
        is_free = (given["flags"] & _SPECIAL_OWNER > 0) & (given["owner"] == _FREE)
        wanted = given[is_free & (given["device"] == device) & (given["length"] >= shortest)]
        found.append(np.stack([wanted["physical"], wanted["length"]], axis=1).astype(np.int64))
        if not len(given) or given["flags"][-1] & _LAST or _place(given[-1]) <= _place(keys[0]):
            return np.concatenate(found)
        keys[0] = given[-1]  # the kernel goes on behind that


def _place(record: np.void) -> tuple[int, int]:
    return int(record["device"]), int(record["physical"] + record["length"])


def _encoded(major: int, minor: int) -> int:
    """A device as records name it: as stat(2) does, in 32 bits."""
    return os.makedev(major, minor) & 0xFFFF_FFFF
