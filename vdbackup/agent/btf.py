"""Where the kernel that runs has the members of its structures, by what it says itself (BTF).

Source: the kernel's Documentation/bpf/btf.rst. /sys/kernel/btf/vmlinux is readable by everybody and
holds some 130,000 types in 5 MB; to find all of them takes 0.1 s. What does not fit together ends
in TrackingNotSupported, and in nothing else.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

from vdbackup.errors import TrackingNotSupported
from vdbackup.translation import tr

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_MAX_BYTES = 256 << 20
_MAGIC, _VERSION = 0xEB9F, 1
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_INT, _PTR, _STRUCT, _UNION, _TYPEDEF, _FUNC_PROTO = 1, 2, 4, 5, 8, 13
_SAME_AS = {_TYPEDEF, 9, 10, 11, 18}
"""typedef, volatile, const, restrict and a type tag: what they are of is what counts."""
_EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes behind the three numbers that every type has: int, array, var, declaration tag."""
_EXTRA_EACH = {_STRUCT: 12, _UNION: 12, 6: 8, _FUNC_PROTO: 8, 15: 12, 19: 12}
"""The same for each member, value, parameter or variable."""
_KINDS = 20
_MAX_DEPTH = 16
"""Of typedefs of typedefs, and of unnamed structures in each other."""


class Types:
    """The types of one kernel. A type is known by its number; 0 is none (void)."""

    def __init__(self, data: bytes) -> None:
        """Find all types; raises TrackingNotSupported."""
        try:
            magic, version, _, header, types, types_length, names, names_length = (
                _HEADER.unpack_from(data)
            )
        except struct.error:
            raise _senseless(tr("it is too short")) from None
        if magic != _MAGIC or version != _VERSION:
            raise _senseless(tr("it is of an unknown kind"))
        self._types = data[header + types : header + types + types_length]
        self._names = data[header + names : header + names + names_length]
        if len(self._types) != types_length or len(self._names) != names_length:
            raise _senseless(tr("it is too short"))
        self._offsets = self._find_all()

    @classmethod
    def of_this_kernel(cls) -> Types:
        """What the kernel that runs says of itself; raises TrackingNotSupported."""
        try:
            with VMLINUX.open("rb") as file:
                return cls(file.read(_MAX_BYTES))
        except OSError as error:
            raise TrackingNotSupported(
                tr(
                    "This kernel does not describe its structures: {reason} ({vmlinux}).",
                    reason=error.strerror,
                    vmlinux=VMLINUX,
                ),
                tr(
                    "Changes can be tracked by kernels that are built with BTF, as distributions' "
                    "are."
                ),
            ) from error

    def _find_all(self) -> array[int]:
        """Where each type begins."""
        offsets, at, end = array("I", [0]), 0, len(self._types)
        words = memoryview(self._types[: end // 4 * 4]).cast("I")
        while at < end:
            if at % 4 or at + _TYPE.size > end:
                raise _senseless(tr("a type is cut off"))
            info = words[at // 4 + 1]
            kind = info >> 24 & 0x1F
            if not 0 < kind < _KINDS:
                raise _senseless(tr("it has types of the unknown kind {kind}", kind=kind))
            offsets.append(at)
            at += _TYPE.size + _EXTRA.get(kind, 0) + (info & 0xFFFF) * _EXTRA_EACH.get(kind, 0)
        if at != end:
            raise _senseless(tr("a type is cut off"))
        return offsets

    def _at(self, number: int) -> tuple[int, int, int, int]:
        """A type's name, info and size (or type), and where what follows begins."""
        if not 0 < number < len(self._offsets):
            raise _senseless(tr("there is no type {number}", number=number))
        at = self._offsets[number]
        name, info, size = _TYPE.unpack_from(self._types, at)
        return name, info, size, at + _TYPE.size

    def _named(self, offset: int) -> str:
        end = self._names.find(b"\0", offset)
        if end < 0:
            raise _senseless(tr("a name is cut off"))
        return self._names[offset:end].decode("ascii", "replace")

    def typedef(self, name: str) -> int:
        """The number of the type definition of that name; raises TrackingNotSupported."""
        for number in range(1, len(self._offsets)):
            at = self._offsets[number]
            info = int.from_bytes(self._types[at + 4 : at + 8], "little")
            if info >> 24 & 0x1F == _TYPEDEF and self._named(self._at(number)[0]) == name:
                return number
        raise _senseless(tr("there is no {name}", name=name))

    def parameters(self, number: int) -> list[int]:
        """The types of the parameters of the function that a type is a pointer to."""
        number = self.target(number)
        _, info, _, at = self._at(number)
        if info >> 24 & 0x1F != _FUNC_PROTO:
            raise _senseless(tr("type {number} is no function", number=number))
        pairs = struct.iter_unpack("<II", self._types[at : at + 8 * (info & 0xFFFF)])
        return [kind for _, kind in pairs]

    def target(self, number: int) -> int:
        """What a type points to; raises TrackingNotSupported where it is no pointer."""
        _, info, target, _ = self._at(self._itself(number))
        if info >> 24 & 0x1F != _PTR:
            raise _senseless(tr("type {number} is no pointer", number=number))
        return self._itself(target)

    def size(self, number: int) -> int:
        """Of a number, in bytes; raises TrackingNotSupported where a type is no number."""
        _, info, size, _ = self._at(self._itself(number))
        if info >> 24 & 0x1F != _INT:
            raise _senseless(tr("type {number} is no number", number=number))
        return size

    def _itself(self, number: int) -> int:
        for _ in range(_MAX_DEPTH):
            _, info, target, _ = self._at(number)
            if info >> 24 & 0x1F not in _SAME_AS:
                return number
            number = target
        raise _senseless(tr("what type {number} is cannot be told", number=number))

    def member(self, number: int, name: str) -> tuple[int, int]:
        """Where a structure has a member, in bytes, and its type; raises TrackingNotSupported."""
        found = self._member(self._itself(number), name, _MAX_DEPTH)
        if found is None:
            raise _senseless(tr("there is no {name} where it was until now", name=name))
        return found

    def _member(self, number: int, name: str, depth: int) -> tuple[int, int] | None:
        """The same of unnamed structures and unions in it."""
        _, info, _, at = self._at(number)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION) or not depth:
            return None
        members = self._types[at : at + 12 * (info & 0xFFFF)]
        for name_offset, kind, place in struct.iter_unpack("<III", members):
            bits = place & 0xFFFFFF if info >> 31 else place
            width = place >> 24 if info >> 31 else 0
            member_name = self._named(name_offset)
            if member_name == name:
                if bits % 8 or width:
                    raise _senseless(tr("{name} is a part of a byte", name=name))
                return bits // 8, kind
            inner = None if member_name else self._member(self._itself(kind), name, depth - 1)
            if inner is not None:
                return bits // 8 + inner[0], inner[1]
        return None


def _senseless(why: str) -> TrackingNotSupported:
    return TrackingNotSupported(
        tr("The kernel's description of itself (BTF) is not as expected: {why}.", why=why),
        tr("Everything is read at each backup instead. A newer version may know this kernel."),
    )
