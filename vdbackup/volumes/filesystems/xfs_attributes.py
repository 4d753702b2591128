"""XFS's extended attributes: those in an inode, and those in blocks of their own.

Specification: XFS Algorithms & Data Structures, 3rd edition, "Extended Attributes".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable, posix_acl

_NAMESPACES = {0x00: "user.", 0x02: "trusted.", 0x04: "security."}
_IS_HERE, _IS_INCOMPLETE = 0x01, 0x80
_LISTS = {
    "trusted.SGI_ACL_FILE": "system.posix_acl_access",
    "trusted.SGI_ACL_DEFAULT": "system.posix_acl_default",
}
"""What access control lists are kept as: Linux shows both, and sets one with the other."""
_NAMED_USER, _NAMED_GROUP = 0x02, 0x08
_LEAF, _LEAF_5 = 0xFBEE, 0x3BEE
_HEADER, _HEADER_5 = 32, 80
"""Bytes before a leaf's entries, by the version of the file system."""
_REMOTE_5 = 56
"""Bytes before each block of a value that lies elsewhere; none before version 5."""
_MAX_VALUE = 65_536
_MOST = 16 << 20
"""Bytes of all attributes of a file: leaves that name one value again and again would never end."""
_MAX_BLOCKS = 65_536
"""Blocks of a fork that are looked through."""

Found = tuple[int, bytes, bytes]
"""Flags, name, value."""


def named(found: Iterator[Found]) -> dict[str, bytes]:
    """Attributes as Linux calls them, without those that it keeps to itself."""
    named = {}
    size = 0
    for flags, encoded, value in found:
        size += len(encoded) + len(value)
        if size > _MOST:
            raise Unreadable(tr("it has more attributes than vdbackup reads"))
        prefix = _NAMESPACES.get(flags & ~_IS_HERE)
        if prefix is None or flags & _IS_INCOMPLETE:
            continue
        name = prefix + os.fsdecode(encoded)
        named[_LISTS.get(name, name)] = _acl(value) if name in _LISTS else value
    return named


def in_inode(fork: bytes) -> Iterator[Found]:
    """Those that a fork in the inode holds."""
    size, count = struct.unpack_from(">HB", fork)
    at = 4
    for _ in range(count):
        length, value_length, flags = struct.unpack_from("BBB", fork, at)
        end = at + 3 + length + value_length
        if end > min(size, len(fork)):
            raise Unreadable(tr("its attributes are damaged"))
        yield flags, fork[at + 3 : at + 3 + length], fork[at + 3 + length : end]
        at = end


def in_blocks(numbers: list[int], read: Callable[[int], bytes]) -> Iterator[Found]:
    """Those in a fork's leaves.

    Args:
        numbers: of the fork's blocks that are there.
        read: gives a block of the fork.
    """
    if len(numbers) > _MAX_BLOCKS:
        raise Unreadable(tr("it has too many attributes"))
    for number in numbers:
        block = read(number)
        (magic,) = struct.unpack_from(">H", block, 8)
        if magic in (_LEAF, _LEAF_5):  # others are parts of the tree, or of a long value
            yield from _in_leaf(block, magic == _LEAF_5, read)


def _in_leaf(block: bytes, is_5: bool, read: Callable[[int], bytes]) -> Iterator[Found]:
    start = _HEADER_5 if is_5 else _HEADER
    (count,) = struct.unpack_from(">H", block, 56 if is_5 else 12)
    if start + 8 * count > len(block):
        raise Unreadable(tr("its attributes are damaged"))
    for _, place, flags in struct.iter_unpack(">IHBx", block[start : start + 8 * count]):
        if flags & _IS_HERE:
            size, length = struct.unpack_from(">HB", block, place)
            begin = place + 3 + length
            yield flags, block[place + 3 : begin], block[begin : begin + size]
        else:
            first, size, length = struct.unpack_from(">IIB", block, place)
            name = block[place + 9 : place + 9 + length]
            yield flags, name, _elsewhere(first, size, is_5, read)


def _elsewhere(first: int, size: int, is_5: bool, read: Callable[[int], bytes]) -> bytes:
    if size > _MAX_VALUE:
        raise Unreadable(tr("its attributes are damaged"))
    value = b""
    number = first
    while len(value) < size:
        value += read(number)[_REMOTE_5 if is_5 else 0 :]
        number += 1
    return value[:size]


def _acl(value: bytes) -> bytes:
    """An access control list: how many entries, then tag, user or group and permissions of each."""
    (count,) = struct.unpack_from(">I", value)
    entries = struct.iter_unpack(">IIH2x", value[4 : 4 + 12 * count])
    return posix_acl(
        (tag, allowed, who if tag in (_NAMED_USER, _NAMED_GROUP) else None)
        for tag, who, allowed in entries
    )
