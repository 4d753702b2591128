"""What device-mapper has made a device of: logical volumes, ciphers and the like.

A device of it that is read and written through itself alone holds what was written to it, wherever
that lies. So its changes can be seen where requests are handed in to it, as long as its table is
the one that it had: another one may lead to other data, without any request.

Source: the kernel's linux/dm-ioctl.h, Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vdbackup.translation import tr

KINDS = {"linear", "striped", "crypt", "thin", "snapshot-origin"}
"""Targets whose data change by nothing but requests to the device. Not those that copy or repair
(mirror, raid, cache, era, clone, snapshot-merge), nor paths to a disk that others have, too."""

_CONTROL = Path("/dev/mapper/control")
_HEAD = struct.Struct("=3I II I i I I I Q 128s 129s 7x")
_TARGET = struct.Struct("=QQ i I 16s")
_TABLE_STATUS = 0xC138_FD0C
"""DM_TABLE_STATUS; its size is _HEAD's."""
_VERSION = (4, 0, 0)
_AS_TABLE, _BUFFER_FULL, _NO_FLUSH = 1 << 4, 1 << 8, 1 << 11
_SIZES = (16 << 10, 1 << 20, 16 << 20)
"""Bytes for the answer, the next if it does not fit."""


class Target(NamedTuple):
    """One line of a table.

    Attributes:
        start, length: which sectors of the device (of 512 bytes) it is about.
        kind: "linear".
        parameters: where those lie, in the words of its kind.
    """

    start: int
    length: int
    kind: str
    parameters: str


def table(number: int) -> list[Target]:
    """The one that a device works by now.

    Args:
        number: of the device (st_rdev).

    Raises OSError: it is none of device-mapper's, or this user may not ask (CAP_SYS_ADMIN).
    """
    with _CONTROL.open("rb") as control:
        for size in _SIZES:
            flags, place = _AS_TABLE | _NO_FLUSH, _HEAD.size
            head = _HEAD.pack(*_VERSION, size, place, 0, 0, flags, 0, 0, number, b"", b"")
            answer = bytearray(head.ljust(size, b"\0"))
            fcntl.ioctl(control, _TABLE_STATUS, answer)
            _, _, _, _, start, count, _, flags, *_ = _HEAD.unpack_from(answer)
            if not flags & _BUFFER_FULL:
                return list(_targets(answer[start:], count))
    raise OSError(errno.EMSGSIZE, tr("its table is too long"))


def _targets(answer: bytearray, count: int) -> Iterator[Target]:
    at = 0
    for _ in range(count):
        start, length, _, following, kind = _TARGET.unpack_from(answer, at)
        parameters = bytes(answer[at + _TARGET.size : following]).partition(b"\0")[0]
        yield Target(start, length, kind.rstrip(b"\0").decode(), os.fsdecode(parameters))
        at = following


def digest(targets: list[Target]) -> str:
    """A name of a table; a cipher's key, which may stand in it, is not part of that."""
    lines = (f"{each.start} {each.length} {each.kind} {_told(each)}" for each in targets)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _told(target: Target) -> str:
    if target.kind != "crypt":
        return target.parameters
    cipher, _, rest = target.parameters.partition(" ")
    return f"{cipher} {rest.partition(' ')[2]}"


def hindrance(targets: list[Target]) -> str:
    """What keeps its changes from being seen, as a sentence without its end; "" if nothing."""
    others = sorted({each.kind for each in targets} - KINDS)
    if not targets:
        return tr("it has no table")
    if others:
        return tr(
            "what is below it may change it ({others} of device-mapper)", others=", ".join(others)
        )
    return ""
