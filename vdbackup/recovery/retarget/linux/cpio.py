"""Archives of the kind "newc", which the kernel unpacks into its first root: written here.

The kernel takes several one after the other, each compressed or not, with zeros in between, and
what a later one holds replaces what an earlier one held (the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 512
"""Bytes; the kernel wants 4, and cpio(1) writes whole records of 512."""
_TRAILER = "TRAILER!!!"
_FILE, _FOLDER = 0o100000, 0o040000


@dataclass(frozen=True)
class Member:
    """A file; a folder where `content` is None. The name is without a leading slash."""

    name: str
    content: bytes | None
    mode: int = 0o644


def archive(members: Iterable[Member]) -> bytes:
    """The archive, a whole number of records long.

    Name no folder that is there already: if a link has its name ("lib" of a merged /usr), the
    kernel replaces the link, and all that was behind it is gone.
    """
    packed = [_packed(number, each) for number, each in enumerate(members, 1)]
    return padded(b"".join([*packed, _packed(0, Member(_TRAILER, b"", 0))]))


def padded(data: bytes) -> bytes:
    """`data`, and zeros up to where another archive may begin."""
    return data + bytes(-len(data) % ALIGNMENT)


def _packed(number: int, member: Member) -> bytes:
    folder = member.content is None
    kind = _FOLDER if folder else _FILE
    mode = kind | (0o755 if folder else member.mode) if member.name != _TRAILER else 0
    content = member.content or b""
    name = member.name.encode(errors="surrogateescape") + b"\0"
    links = 2 if folder else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _filled(head) + _filled(content)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
