"""An initramfs, as a list of the files in it: which drivers a kernel has before its root.

It is one or more cpio archives ("newc"), one after the other, each of them plain or packed; the
first is often plain and holds microcode. Between them may stand zeros. What is hostile in it is
bounded: bytes unpacked, members, and a member's name.

Specification: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

from __future__ import annotations

import bz2
import io
import logging
import lzma
import re
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zstandard

from vdbackup.guest.model import Generator
from vdbackup.translation import tr

log = logging.getLogger(__name__)

MAX_PACKED = 512 << 20
"""Bytes of the largest initramfs that is read; a whole one of Ubuntu has 150 MiB."""
MAX_UNPACKED = 2 << 30
"""Bytes that are unpacked of one at most."""
MAX_MEMBERS = 200_000
MAX_SECONDS = 60.0
"""A whole one of Ubuntu takes two; what bzip2 packs well takes a minute for each GiB."""
_MAX_NAME = 4096
_MAX_KEPT = 8 << 20
"""Bytes of a member whose content is wanted."""
_CHUNK = 1 << 20
_HEAD = 110
_DRIVER = re.compile(r"(?:.*/)?([^/]+)\.ko(?:\.(?:gz|xz|zst))?")
_BUILT_IN = re.compile(r"(?:usr/)?lib/modules/[^/]+/modules\.builtin")
_INDEX = re.compile(r"(?:usr/)?lib/modules/[^/]+/modules\.(?:dep|alias|softdep)")
_MARKS = (
    ("lib/dracut/", Generator.DRACUT),
    ("scripts/functions", Generator.INITRAMFS_TOOLS),
    ("hooks/", Generator.MKINITCPIO),
)


@dataclass
class Initramfs:
    """What is in an initramfs.

    Attributes:
        drivers: the modules' names, with underscores.
        built_in: what its list of built-in modules names, likewise.
        generator: what made it, by the files that it leaves in it.
        indexes: the text indexes of its modules (dep, alias, softdep), by their names in it.
        members: how many files it has.
        whole: it could be read to its end.
    """

    drivers: set[str] = field(default_factory=set)
    built_in: set[str] = field(default_factory=set)
    generator: Generator = Generator.UNKNOWN
    indexes: dict[str, bytes] = field(default_factory=dict)
    members: int = 0
    whole: bool = True


class Broken(ValueError):
    """It is no initramfs, or larger than any."""


def read(data: bytes) -> Initramfs:
    """List an initramfs. What cannot be read ends it: `whole` is False then."""
    found = Initramfs()
    at, left, deadline = 0, MAX_UNPACKED, time.monotonic() + MAX_SECONDS
    try:
        while (at := _next(data, at)) < len(data):
            source = _opened(data, at)
            left -= _archives(source, found, left, deadline)
            at = source.end()
    except (Broken, ValueError, struct.error, EOFError, OSError, zlib.error, lzma.LZMAError,
            zstandard.ZstdError) as error:  # fmt: skip
        log.info("an initramfs cannot be read from byte %d on: %s", at, error)
        found.whole = False
    return found


def module_name(path: str) -> str:
    """The name of a module by its file's: "kernel/drivers/ata/ahci.ko.xz" is "ahci"."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _next(data: bytes, at: int) -> int:
    """Where the next archive begins: zeros may stand before it."""
    while at < len(data) and data[at] == 0:
        match = re.compile(rb"\0+").match(data, at)
        at = match.end() if match else len(data)
    return at


class _Source:
    """The bytes of one archive, packed or not, as they come.

    Attributes:
        total: bytes given so far.
    """

    def __init__(self, unpacked: Callable[[int], bytes], end: Callable[[], int]) -> None:
        self._unpacked = unpacked
        self.end = end
        self._buffer = b""
        self._most, self._deadline = 0, 0.0
        self.total = 0

    def bound(self, most: int, deadline: float) -> None:
        """Let it give no more than `most` bytes, and none after the monotonic time `deadline`."""
        self._most, self._deadline = most, deadline

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer at the end."""
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(parts[0])
        while missing > 0 and (more := self._unpacked(_CHUNK)):
            parts.append(more[:missing])
            self._buffer = more[missing:]
            missing -= len(parts[-1])
        data = b"".join(parts)
        self.total += len(data)
        if self.total > self._most or time.monotonic() > self._deadline:
            raise Broken(tr("it is larger than any initramfs"))
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        while size > 0 and (got := len(self.read(min(size, _CHUNK)))):
            size -= got


def _archives(source: _Source, found: Initramfs, most: int, deadline: float) -> int:
    """List the members of the archives in `source`; returns how many bytes those have."""
    source.bound(most, deadline)
    while magic := source.read(1):
        if magic == b"\0":
            continue
        _member(magic + source.read(_HEAD - 1), source, found)
        if found.members > MAX_MEMBERS:
            raise Broken(tr("it has more files than any initramfs"))
    return source.total


def _sizes(head: bytes) -> tuple[int, int]:
    """Bytes of a member's content and of its name, by its head."""
    if len(head) < _HEAD or head[:6] not in (b"070701", b"070702"):
        raise Broken(tr("it is no cpio archive"))
    size, name_size = (
        int.from_bytes(bytes.fromhex(head[at : at + 8].decode("ascii"))) for at in (54, 94)
    )
    if not 0 < name_size <= _MAX_NAME:
        raise Broken(tr("a name is too long"))
    return size, name_size


def _member(head: bytes, source: _Source, found: Initramfs) -> None:
    """Read one member."""
    size, name_size = _sizes(head)
    padded = -(-(_HEAD + name_size) // 4) * 4 - _HEAD
    name = source.read(padded)[: name_size - 1].decode(errors="replace").lstrip("./")
    if name == "TRAILER!!!":
        return
    found.members += 1
    listed = _BUILT_IN.fullmatch(name) or _INDEX.fullmatch(name)
    wanted = listed is not None and size <= _MAX_KEPT
    content = source.read(size) if wanted else b""
    source.skip(-(-size // 4) * 4 - len(content))
    _note(name, content, found)


def _note(name: str, content: bytes, found: Initramfs) -> None:
    if match := _DRIVER.fullmatch(name):
        found.drivers.add(match[1].replace("-", "_"))
    elif content and _INDEX.fullmatch(name):
        found.indexes[name] = content
    elif content:
        found.built_in |= {
            module_name(line) for line in content.decode(errors="replace").splitlines()
        }
    elif found.generator is Generator.UNKNOWN:
        for mark, generator in _MARKS:
            if mark in f"{name}/":
                found.generator = generator


# ------------------------------------------------------------------------------- what packs it


def _opened(data: bytes, at: int) -> _Source:
    """The archive at byte `at`, by the first bytes of it."""
    head = data[at : at + 6]
    if head[:5] == b"07070":
        return _plain(data, at)
    for magic, make in _PACKED.items():
        if head.startswith(magic):
            return make(data, at)
    raise Broken(tr("it is packed in a way that is not known"))


def _plain(data: bytes, at: int) -> _Source:
    """Plain archives end where something that is neither zero nor an archive begins."""
    end = _plain_end(data, at)
    stream = io.BytesIO(data[at:end])
    return _Source(stream.read, lambda: end)


def _plain_end(data: bytes, at: int) -> int:
    while data[at : at + 5] == b"07070":
        size, name_size = _sizes(data[at : at + _HEAD])
        name = data[at + _HEAD : at + _HEAD + name_size]
        body = -(-(_HEAD + name_size) // 4) * 4
        at += body + -(-size // 4) * 4
        if name == b"TRAILER!!!\0":
            return min(at, len(data))
    raise Broken(tr("an archive does not end"))


def _stream(make: Callable[[], Any]) -> Callable[[bytes, int], _Source]:
    """A packed archive, by one of Python's decompressor objects."""

    def opened(data: bytes, at: int) -> _Source:
        decompressor = make()
        most = getattr(decompressor, "chunk", _CHUNK)
        position = at

        def unpacked(size: int) -> bytes:
            nonlocal position
            while not decompressor.eof:
                needs = decompressor.needs_input
                chunk = data[position : position + most] if needs else b""
                if needs and not chunk:
                    raise EOFError(tr("it ends too early"))
                position += len(chunk)
                if out := decompressor.decompress(chunk, size):
                    return bytes(out)
            return b""

        return _Source(unpacked, lambda: position - len(decompressor.unused_data))

    return opened


class _Gzip:
    """zlib's decompressor with the attributes that those of bz2 and lzma have."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, size)


class _Zstandard:
    """zstandard's decompressor likewise. It knows no limit, so it gets little at a time."""

    needs_input = True
    chunk = 4096

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, _size: int) -> bytes:
        return self._inner.decompress(data)


def _lz4(data: bytes, at: int) -> _Source:
    """The old framing that the kernel reads: blocks of 8 MiB, each with its packed size."""
    from dissect.util.compression import lz4

    position = at + 4

    def unpacked(_: int) -> bytes:
        nonlocal position
        size = int.from_bytes(data[position : position + 4], "little")
        if position + 4 > len(data) or not 0 < size <= len(data) - position - 4:
            return b""
        block = data[position + 4 : position + 4 + size]
        position += 4 + size
        return bytes(lz4.decompress(block, 8 << 20))

    return _Source(unpacked, lambda: position)


_PACKED: dict[bytes, Callable[[bytes, int], _Source]] = {
    b"\x1f\x8b": _stream(_Gzip),
    b"\xfd7zXZ\0": _stream(lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
    b"\x5d\0\0": _stream(
        lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=256 << 20)
    ),
    b"BZh": _stream(bz2.BZ2Decompressor),
    b"\x28\xb5\x2f\xfd": _stream(_Zstandard),
    b"\x02\x21\x4c\x18": _lz4,
}
