"""What device-mapper has made a device of: logical volumes, ciphers and the like.

A device of it that is read and written through itself alone holds what was written to it, wherever
that lies. So its changes can be seen where requests are handed in to it, as long as its table is
the one that it had: another one may lead to other data, without any request.

Its ioctls are spoken as they are, rather than through dmsetup(8): the agent runs no programs, and
whatever it started would have none of its rights (privileges.py).

Source: the kernel's linux/dm-ioctl.h, Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vdbackup.translation import tr

KINDS = {"linear", "striped", "crypt", "thin", "snapshot-origin"}
"""Targets whose data change by nothing but requests to the device. Not those that copy or repair
(mirror, raid, cache, era, clone, snapshot-merge), nor paths to a disk that others have, too."""
KIND_LOGGED = "log-writes"
"""The target of a device of ours, whose data are those of the one below it (write_log.py)."""
BELOW = "vdbackup-below"
"""What the id of that one begins with."""

_CONTROL = Path("/dev/mapper/control")
_HEAD = struct.Struct("=3I II I i I I I Q 128s 129s 7x")
_TARGET = struct.Struct("=QQ i I 16s")
_TABLE_STATUS, _MESSAGE = 0xC138_FD0C, 0xC138_FD0E
_CREATE, _REMOVE, _RESUME = 0xC138_FD03, 0xC138_FD04, 0xC138_FD06
_LOAD, _CLEAR = 0xC138_FD09, 0xC138_FD0A
"""DM_TABLE_STATUS, DM_TARGET_MSG, and DM_DEV_CREATE and the like; the size in them is _HEAD's.
DM_DEV_SUSPEND without its flag is what resumes."""
_VERSION = (4, 0, 0)
_AS_TABLE, _BUFFER_FULL, _NO_FLUSH, _LOADED, _WHEN_CLOSED = (
    1 << 4,
    1 << 8,
    1 << 11,
    1 << 12,
    1 << 17,
)
_SIZES = (16 << 10, 1 << 20, 16 << 20)
"""Bytes for the answer, the next if it does not fit."""
_MAGIC, _UNSEEN = 0x0D4D, 0x6F
"""What libdevmapper numbers its requests with for udev, and its flags (DM_UDEV_...) for a device
that nobody but its maker is to see: no links to it in /dev, nothing looked for on it."""


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
    return _asked(number, _AS_TABLE)


def own_table(number: int) -> list[Target]:
    """The same of what a device is made of, whether its writes are logged meanwhile or not."""
    targets = table(number)
    if (below := below_log(targets)) is not None:
        return table(below)
    return targets


def below_log(targets: Sequence[Target]) -> int | None:
    """The number of the device that has the data of one with such a table, which is logged.

    None where it is not.
    """
    if len(targets) != 1 or targets[0].kind != KIND_LOGGED:
        return None
    major, _, minor = targets[0].parameters.partition(" ")[0].partition(":")
    return os.makedev(int(major), int(minor))


def loaded(number: int) -> list[Target]:
    """The table that was loaded for a device, and is not the one that it works by yet."""
    return _asked(number, _AS_TABLE | _LOADED)


def status(number: int) -> list[Target]:
    """The same with what each target says of how it is, in place of its parameters."""
    return _asked(number, 0)


def _asked(number: int, flags: int) -> list[Target]:
    for size in _SIZES:
        answer = _answer(_TABLE_STATUS, number, flags=flags | _NO_FLUSH, size=size)
        _, _, _, _, start, count, _, flags_then, *_ = _HEAD.unpack_from(answer)
        if not flags_then & _BUFFER_FULL:
            return list(_targets(answer[start:], count))
    raise OSError(errno.EMSGSIZE, tr("its table is too long"))


def _targets(answer: bytearray, count: int) -> Iterator[Target]:
    at = 0
    for _ in range(count):
        start, length, _, following, kind = _TARGET.unpack_from(answer, at)
        parameters = bytes(answer[at + _TARGET.size : following]).partition(b"\0")[0]
        yield Target(start, length, kind.rstrip(b"\0").decode(), os.fsdecode(parameters))
        at = following


def create(name: str) -> int:
    """Make a device without a table, whose id is its name, too: its number; raises OSError."""
    answer = _answer(_CREATE, 0, name=name)
    number: int = _HEAD.unpack_from(answer)[-3]
    return number


def load(number: int, targets: Sequence[Target]) -> None:
    """Have a device work by another table, once it resumes; raises OSError."""
    lines = b"".join(map(_packed, targets))
    _answer(_LOAD, number, count=len(targets), lines=lines)


def clear(number: int) -> None:
    """Forget the table that was loaded for a device; raises OSError."""
    _answer(_CLEAR, number)


def resume(number: int, *, unseen: bool = False) -> None:
    """Have a device work by the table that was loaded.

    It is one call: the kernel suspends the device, with the file system on it frozen and all
    requests done, changes the tables and lets it go on. Whoever calls may be killed meanwhile, and
    no device stays suspended.

    Args:
        number: of the device.
        unseen: it is not for others: udev makes nothing of it.

    Raises OSError: it works by the table that it had.
    """
    _answer(_RESUME, number, event=(_UNSEEN << 16 | _MAGIC) if unseen else 0)


def remove(number: int) -> None:
    """Take a device away, as soon as nobody has it open; raises OSError."""
    _answer(_REMOVE, number, flags=_WHEN_CLOSED, event=_UNSEEN << 16 | _MAGIC)


def tell(number: int, words: str) -> None:
    """Say something to a device's first target; raises OSError."""
    _answer(_MESSAGE, number, lines=bytes(8) + words.encode() + b"\0")


def _packed(target: Target) -> bytes:
    parameters = os.fsencode(target.parameters) + b"\0"
    size = (_TARGET.size + len(parameters) + 7) // 8 * 8
    head = _TARGET.pack(target.start, target.length, 0, size, target.kind.encode())
    return (head + parameters).ljust(size, b"\0")


def _answer(
    request: int,
    number: int,
    *,
    name: str = "",
    flags: int = 0,
    event: int = 0,
    count: int = 0,
    lines: bytes = b"",
    size: int = 0,
) -> bytearray:
    """What the kernel answers to a request, after its head and what goes with it."""
    size = max(size, _HEAD.size + len(lines))
    named = name.encode(), name.encode()  # its id, too
    head = _HEAD.pack(*_VERSION, size, _HEAD.size, count, 0, flags, event, 0, number, *named)
    answer = bytearray((head + lines).ljust(size, b"\0"))
    with _CONTROL.open("rb") as control:
        fcntl.ioctl(control, request, answer)
    return answer


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
