"""Volumes that say that they go on behind their end: in an image that was cut off, for example.

Each file system says in its superblock how many bytes it has. A copy that ended early, or a
partition that was made smaller than what is in it, looks whole in its first sectors, and no kernel
mounts it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from vdbackup.errors import RecoveryError, Unreadable
from vdbackup.volumes import places, signatures
from vdbackup.volumes.filesystems import ext_free
from vdbackup.volumes.places import Disk, Place, Window


@dataclass(frozen=True)
class CutOff:
    """A volume that is longer than the place in which it lies.

    Attributes:
        place: where.
        name: what lies there: "ext4", "LVM".
        says: the bytes that it should have.
        has: those that there are.
    """

    place: Place
    name: str
    says: int
    has: int


def cut_off(disk: Disk) -> list[CutOff]:
    """The volumes of a disk that are longer than their places; none that cannot be told.

    Of a partition that itself goes beyond the disk's end its table tells.
    """
    try:
        _, volumes = places.find(disk)
    except (RecoveryError, Unreadable):
        return []
    found = []
    for place in volumes:
        has = sum(max(0, min(length, disk.size - offset)) for offset, length in place.runs)
        if place.logical and has < place.size:
            found.append(CutOff(place, "LVM", place.size, has))
        if place.problem or has < place.size:
            continue
        with suppress(RecoveryError, Unreadable):
            head = signatures.whole_head(Window.opened(disk, place.runs))
            found += [CutOff(place, *each, has) for each in _lengths(head) if each[1] > has]
    return found


def _lengths(head: bytes) -> Iterator[tuple[str, int]]:
    """What begins so, and how many bytes it says that it has; nothing where two marks disagree."""
    marks = signatures.marks(head)
    if len(set(marks)) != 1 or marks[0] not in _LENGTHS:
        return
    kind = marks[0]
    name = ext_free.kind_of(head) if kind == "ext" else _NAMES.get(kind, kind)
    with suppress(struct.error):
        yield name, _LENGTHS[kind](head)


def _ext(head: bytes) -> int:
    """Linux, fs/ext4/ext4.h: struct ext4_super_block. 0 where its mark stands there by chance."""
    (low, shift, per_group) = struct.unpack_from("<4xI16xI4xI", head, 1024)
    (incompatible,) = struct.unpack_from("<I", head, 1024 + 96)
    (high,) = struct.unpack_from("<I", head, 1024 + 336)
    block = 1024 << shift if shift <= 6 else 0
    if not 0 < per_group <= 8 * block:
        return 0
    return int(low | (high << 32 if incompatible & 0x80 else 0)) * block


def _xfs(head: bytes) -> int:
    """Linux, fs/xfs/libxfs/xfs_format.h: struct xfs_dsb."""
    size, blocks = struct.unpack_from(">4xIQ", head)
    return int(size) * int(blocks)


def _btrfs(head: bytes) -> int:
    """Of this one of its devices: struct btrfs_super_block, dev_item.total_bytes."""
    return int(struct.unpack_from("<Q", head, 0x10000 + 0xD1)[0])


def _ntfs(head: bytes) -> int:
    """Without its last sector, a copy of the first, which it does not count."""
    (sector,) = struct.unpack_from("<H", head, 11)
    return int(sector) * int(struct.unpack_from("<Q", head, 40)[0])


def _exfat(head: bytes) -> int:
    """The specification of exFAT, 3.1.5 and 3.1.14."""
    return int(struct.unpack_from("<Q", head, 72)[0]) << min(head[108], 12)


def _fat(head: bytes) -> int:
    sector, few = struct.unpack_from("<H6xH", head, 11)
    return int(sector) * int(few or struct.unpack_from("<I", head, 32)[0])


def _lvm(head: bytes) -> int:
    """LVM2, lib/format_text/layout.h: struct pv_header, behind the label."""
    at = next(at for at in range(0, 2048, 512) if head.startswith(b"LABELONE", at))
    (behind,) = struct.unpack_from("<I", head, at + 20)
    return int(struct.unpack_from("<Q", head, at + behind + 32)[0])


_LENGTHS: dict[str, Callable[[bytes], int]] = {
    "ext": _ext,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "ntfs": _ntfs,
    "exfat": _exfat,
    "fat": _fat,
    "LVM": _lvm,
}
_NAMES = {"xfs": "XFS", "btrfs": "Btrfs", "ntfs": "NTFS", "exfat": "exFAT", "fat": "FAT"}
