"""The index files by which modprobe finds a driver: modules.dep.bin and modules.alias.bin.

kmod looks nothing up in the text files of the same names, so whoever adds a driver to an initramfs
has to write these. The format is a trie, its numbers big-endian (kmod's
libkmod/libkmod-index.c and tools/depmod.c):

    magic, version, place of the root
    a node:  prefix, ends in NUL               if bit 31 of the place that leads here is set
             first, last; place of each child  if bit 29 is
             count; priority, text with NUL    if bit 30 is
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, takewhile

_MAGIC, _VERSION = 0xB007F457, 0x00020001
_PREFIX, _VALUES, _CHILDREN = 0x80000000, 0x40000000, 0x20000000

Entry = tuple[bytes, Sequence[bytes]]


def dependencies(lines: Mapping[str, str]) -> bytes:
    """modules.dep.bin.

    Args:
        lines: of modules.dep ("kernel/fs/ext4.ko: kernel/fs/jbd2.ko"), by the module's name.
    """
    return _index((name.encode(), [line.encode()]) for name, line in lines.items())


def aliases(pairs: Iterable[tuple[str, str]]) -> bytes:
    """modules.alias.bin from (alias, module), as modules.alias holds them."""
    found: dict[bytes, list[bytes]] = {}
    for alias, module in pairs:
        found.setdefault(_normalized(alias).encode(), []).append(module.encode())
    return _index(found.items())


def _normalized(alias: str) -> str:
    """As kmod asks for it: "_" for "-", except where that means a range of characters."""
    inside, letters = False, []
    for letter in alias:
        inside = letter == "[" or (inside and letter != "]")
        letters.append("_" if letter == "-" and not inside else letter)
    return "".join(letters)


def _index(entries: Iterable[Entry]) -> bytes:
    out = bytearray(12)
    root = _node(out, sorted(entries), 0)
    struct.pack_into(">III", out, 0, _MAGIC, _VERSION, root)
    return bytes(out)


def _node(out: bytearray, entries: Sequence[Entry], depth: int) -> int:
    """Write the node of keys that agree up to `depth`, its children first; returns its place."""
    if not entries:
        return 0
    prefix = _agreeing(entries[0][0], entries[-1][0])[depth:]
    depth += len(prefix)
    values = entries[0][1] if len(entries[0][0]) == depth else ()
    longer = entries[1:] if values else entries
    places = {
        letter: _node(out, list(group), depth + 1)
        for letter, group in groupby(longer, key=lambda entry: entry[0][depth])
    }
    place = len(out)
    if prefix:
        out += prefix + b"\0"
        place |= _PREFIX
    if places:
        first, last = min(places), max(places)
        out += bytes((first, last))
        out += b"".join(struct.pack(">I", places.get(n, 0)) for n in range(first, last + 1))
        place |= _CHILDREN
    if values:
        out += struct.pack(">I", len(values))
        out += b"".join(struct.pack(">I", n) + text + b"\0" for n, text in enumerate(values))
        place |= _VALUES
    return place


def _agreeing(first: bytes, last: bytes) -> bytes:
    """What both begin with."""
    return bytes(
        a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    )
