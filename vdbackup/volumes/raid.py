"""Member disks of a RAID: what one of them alone can be read as.

A mirror's member holds all of its array, from a place on that its superblock names. Of any other
array it holds pieces, which look like a file system where the first piece begins one: so a member
must be known before anything on it is read. Its superblock may lie at its end, where nothing on
the volume's first bytes tells of it.

Structures: include/uapi/linux/raid/md_p.h; where they lie: super_90_load and super_1_load in
drivers/md/md.c. Intel's and DDF: libblkid's superblocks/isw_raid.c and ddf_raid.c, super-intel.c
of mdadm. Of other firmware only the marks are known: libblkid's superblocks/*_raid.c.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np

from vdbackup.translation import tr

_SECTOR = 512
_MAGIC = 0xA92B4EFC
_RESERVED_090 = 64 << 10
_SUPERBLOCK_1 = struct.Struct("<IIII16s32sQiIQIIIIQIIIIQQQQ")
_MIRROR = 1
_RECOVERING, _RESHAPING = 2, 4
"""Feature flags: the member is being rebuilt; the array is getting another shape."""
_SPARE = 0xFFFE
"""A role from here on is none: faulty, or a spare."""
_ACTIVE_IN_SYNC = 0b110
_NAMES = {-4: "multipath", -1: "linear", 0: "0", 4: "4", 5: "5", 6: "6", 10: "10"}
_INTEL = b"Intel Raid ISM Cfg Sig. "
_DDF = (b"\xde\x11\xde\x11", b"\x11\xde\x11\xde")
_VIA = b"\x55\xaa"
_ADAPTEC = b"\x37\xfc\x4d\x1e"
_SILICON = 0x2F000000
_HIGHPOINT_37, _HIGHPOINT_45 = (0x5A7816F0, 0x5A7816FD), (0x5A7816F3, 0x5A7816FD)
_PROMISE = b"Promise Technology, Inc."
_PROMISE_AT = (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)
"""Sectors before the end."""


@dataclass(frozen=True)
class Member:
    """A member of an array.

    Attributes:
        start, size: of a mirror's member: where in it lies what the array holds, in bytes.
        problem: a sentence, without its full stop, that says why it cannot be read alone; "" if it
            can.
    """

    start: int = 0
    size: int = 0
    problem: str = ""


def member(device: io.BufferedReader, size: int) -> Member | None:
    """What a device of `size` bytes is a member of, as Linux would see it; None: of nothing."""
    for offset in (_offset_of_1_0(size), 0, 4096):
        if found := _version_1(_read(device, offset, 4096), offset, size):
            return found
    return _version_0(_read(device, size // _RESERVED_090 * _RESERVED_090 - _RESERVED_090, 4096))


def of_firmware(disk: io.BufferedReader, size: int) -> Member | None:
    """The same for arrays that a PC's firmware puts together of whole disks."""
    tail = _read(disk, size - 2 * _SECTOR, 2 * _SECTOR)
    if tail.startswith(_INTEL):
        return _of_intel(_read(disk, size - 2 * _SECTOR, _SECTOR))
    if tail[_SECTOR:].startswith(_DDF):
        return Member(problem=_built(tr("It is a part of a RAID of the kind DDF")))
    if maker := _maker(disk, size, tail):
        return Member(
            problem=_built(tr("It is a part of a RAID of {maker}'s firmware", maker=maker))
        )
    return None


def _maker(disk: io.BufferedReader, size: int, tail: bytes) -> str:
    """Who made the firmware that joins this disk to others; "" where there is no mark of any.

    Whether such a member could be read alone, as one of a mirror could, is known of none of them.
    """
    last = tail[_SECTOR:]
    (silicon,) = struct.unpack_from("<I", last, 0x60)
    (highpoint,) = struct.unpack_from("<I", _read(disk, 9 * _SECTOR + 32, 4))
    (highpoint_45,) = struct.unpack_from("<I", _read(disk, size - 11 * _SECTOR, 4))
    has_mark = {
        "NVIDIA": tail.startswith(b"NVIDIA"),
        "LSI": last.startswith(b"$XIDE$"),
        "Adaptec": last.startswith(_ADAPTEC),
        "Silicon Image": silicon == _SILICON and _adds_up(last[:0x140]),
        "VIA": last.startswith(_VIA) and last[2] <= 2 and sum(last[:50]) & 0xFF == last[50],
        "HighPoint": highpoint in _HIGHPOINT_37 or highpoint_45 in _HIGHPOINT_45,
        "Promise": any(
            _read(disk, size - sector * _SECTOR, len(_PROMISE)) == _PROMISE
            for sector in _PROMISE_AT
        ),
    }
    return next((maker for maker, is_there in has_mark.items() if is_there), "")


def _adds_up(data: bytes) -> bool:
    """Whether words of 16 bits give 0 with the checksum that the last one is."""
    return int(np.frombuffer(data, "<u2").sum(dtype=np.uint16)) == 0


def _offset_of_1_0(size: int) -> int:
    """Of a superblock of version 1.0: 8 KiB before the end, at a multiple of 4 KiB."""
    return ((size // _SECTOR - 16) & ~7) * _SECTOR


def _version_1(block: bytes, offset: int, size: int) -> Member | None:
    (magic, major, features, _, _, _, _, level, _, used, _, disks, _, _, _, _, _, _, _, start,
     length, here, recovered) = _SUPERBLOCK_1.unpack_from(block)  # fmt: skip
    if magic != _MAGIC or major != 1 or here * _SECTOR != offset:
        return None
    number, _, _ = struct.unpack_from("<III", block, 160)
    (roles,) = struct.unpack_from("<I", block, 220)
    role = _SPARE
    if number < min(roles, (len(block) - 256) // 2):
        (role,) = struct.unpack_from("<H", block, 256 + 2 * number)
    if role >= _SPARE or role >= disks:
        return Member(problem=tr("It is a spare of a Linux software RAID, or was dropped from it"))
    if features & _RESHAPING or (features & _RECOVERING and recovered < used):
        return Member(problem=tr("It is a part of a Linux software RAID that was being rebuilt"))
    within = start * _SECTOR < size and length > 0
    return _of_level(level, start * _SECTOR, min(used or length, length) * _SECTOR, within)


def _version_0(block: bytes) -> Member | None:
    for order in "<>":
        words = struct.unpack(f"{order}1024I", block)
        if words[:2] != (_MAGIC, 0):
            continue
        level = words[7] - (1 << 32 if words[7] >> 31 else 0)
        if words[995] >= words[10] or words[996] & 0b111 != _ACTIVE_IN_SYNC:
            return Member(
                problem=tr("It is a spare of a Linux software RAID, or was dropped from it")
            )
        return _of_level(level, 0, words[8] << 10, bool(words[8]))
    return None


def _of_level(level: int, start: int, size: int, within: bool) -> Member:
    if level == _MIRROR and within:
        return Member(start, size)
    name = _NAMES.get(level)
    what = (
        tr("a Linux software RAID (level {name})", name=name)
        if name
        else tr("a Linux software RAID")
    )
    return Member(problem=_built(f"It is a part of {what}"))


def _of_intel(block: bytes) -> Member:
    """The first array of a disk; a mirror of two that begins with the disk is read as it lies.

    Behind the header stand the disks, 48 bytes each, then the arrays: the map of one begins 112
    bytes into it, with the first block on the disk and, 15 bytes on, level and number of members.
    """
    at = 216 + 48 * block[56] + 112
    if block[57] == 1 and at + 17 <= len(block):
        (first,) = struct.unpack_from("<I", block, at)
        if (first, block[at + 15], block[at + 16]) == (0, _MIRROR, 2):
            return Member(0, struct.unpack_from("<I", block, at + 4)[0] * _SECTOR)
    return Member(problem=_built(tr("It is a part of a RAID of {maker}'s firmware", maker="Intel")))


def _built(what: str) -> str:
    return tr("{what} and can be put together only by a running system", what=what)


def _read(device: io.BufferedReader, offset: int, length: int) -> bytes:
    """Bytes of the device; zeros outside of it."""
    if offset < 0:
        return bytes(length)
    device.seek(offset)
    return device.read(length).ljust(length, b"\0")
