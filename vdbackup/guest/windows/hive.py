"""A hive of Windows' registry: keys, values, and where in the file a value's data lie.

The structures are read by dissect.regf. It trusts what it reads, so its file is metered here: a
hive in which everything refers to everything comes to an end. Names are looked up here, too:
dissect (3.14) stops at a name that is not ASCII, and finds some only in the right case.

Specification: https://github.com/msuhanov/regf
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable

BASE_BLOCK = 4096
"""Bytes before the first bin; what the hive calls an offset begins behind them."""

_WORDS = struct.Struct("<127I")
_BUDGET = 64 << 20
"""Bytes that are read of a hive at most; what Windows needs to start is a small part of it."""
_CELL_COST = 256
"""What a cell costs besides its bytes, so that many small ones end, too."""
_IN_VALUE = 0x8000_0000
_DWORD = 4
_TEXT = (1, 2)
"""REG_SZ and REG_EXPAND_SZ."""


@dataclass(frozen=True)
class Value:
    """A value of a key.

    Attributes:
        name: as it is spelt there; "" is the key's default.
        kind: REG_SZ is 1, REG_DWORD 4, ...
        data: its bytes.
        place: the byte of the file at which they begin; None where they lie in several pieces.
    """

    name: str
    kind: int
    data: bytes
    place: int | None

    @property
    def number(self) -> int | None:
        """A REG_DWORD's; None if it is none."""
        if self.kind != _DWORD or len(self.data) != 4:
            return None
        return int.from_bytes(self.data, "little")

    @property
    def text(self) -> str:
        """A string's, up to its first NUL; "" if it is none."""
        if self.kind not in _TEXT:
            return ""
        return self.data.decode("utf-16-le", "replace").partition("\0")[0]


class Key:
    """A key. Any method may raise anything: use it under `node.reading`."""

    def __init__(self, hive: Any, node: Any) -> None:
        self._hive = hive
        self._node = node
        self.name: str = node.name

    def children(self) -> Iterator[Key]:
        """The keys below it, in the order of their list."""
        for node in self._node.subkeys():
            yield Key(self._hive, node)

    def child(self, name: str) -> Key | None:
        """The key of that name below it; case does not matter."""
        wanted = name.casefold()
        return next((key for key in self.children() if key.name.casefold() == wanted), None)

    def values(self) -> dict[str, Value]:
        """Its values, by their names in lower case."""
        found = self._node.cell.ValueList
        if not found.Count:
            return {}
        places = self._hive.cell_data(found.List)
        count = min(found.Count, len(places) // 4)
        values = [self._value(place) for (place,) in struct.iter_unpack("<I", places[: count * 4])]
        return {value.name.lower(): value for value in values}

    def value(self, name: str) -> Value | None:
        """The value of that name; case does not matter."""
        return self.values().get(name.lower())

    def _value(self, offset: int) -> Value:
        from dissect.regf import regf

        value = regf.KeyValue(self._hive, self._hive.cell_data(offset))
        place: int | None
        if value.cell.DataLength & _IN_VALUE:
            place = BASE_BLOCK + offset + 4 + 8  # behind the cell's length; Data is the third field
        else:
            place = None if value.is_big_value else BASE_BLOCK + value.cell.Data + 4
        name = value.name if value.cell.NameLength else ""
        return Value(name, int(value.type), value.data, place)


class Hive:
    """A hive, open for reading.

    Attributes:
        root: the topmost key.
        dirty: Windows has written to it and not come to the end: what is newer lies in its logs,
            which Windows applies when it starts. A clean hive's logs hold nothing that counts.
    """

    def __init__(self, stream: Any, size: int) -> None:
        """Read what it says of itself.

        Args:
            stream: the file.
            size: how much of the file was written, in bytes.

        Raises:
            Unreadable: it is not a hive.
        """
        from dissect.regf import regf  # a tenth of a second, which no other system is to cost

        stream.seek(0)
        head = stream.read(BASE_BLOCK)
        if len(head) != BASE_BLOCK or head[:4] != b"regf":
            raise Unreadable(tr("it is not a part of the registry"))
        first, second = struct.unpack_from("<II", head, 4)
        self.dirty = first != second or _checksum(head) != int.from_bytes(head[508:512], "little")
        hive = regf.RegistryHive(_Metered(stream, size))
        # Without its cache: a cell that was read costs nothing there, and may name itself.
        hive.cell = functools.partial(regf.RegistryHive.cell, hive)
        self.root = Key(hive, hive.root())

    def find(self, path: str) -> Key | None:
        r"""The key at a path ("Select", "ControlSet001\Services"), None if there is none."""
        key: Key | None = self.root
        for name in path.split("\\"):
            key = key.child(name) if key is not None else None
        return key


def _checksum(head: bytes) -> int:
    """All words before the checksum, exclusively or'd; two results stand for others."""
    found = 0
    for word in _WORDS.unpack_from(head):
        found ^= word
    return {0: 1, 0xFFFF_FFFF: 0xFFFF_FFFE}.get(found, found)


class _Metered:
    """A file of which no more can be read than a sound hive needs."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self._size = size
        self._left = _BUDGET

    def seek(self, offset: int) -> None:
        if offset > self._size:
            raise Unreadable(tr("it refers to what lies beyond its end"))
        self._stream.seek(offset)

    def tell(self) -> int:
        return int(self._stream.tell())

    def read(self, length: int) -> bytes:
        self._left -= length + _CELL_COST
        if length < 0 or self._left < 0:
            raise Unreadable(tr("its structures refer to each other without end"))
        return bytes(self._stream.read(length))
