"""What of a disk need not be read: what its file systems call free, and space for swapping.

Only where that is sure: see ext_free.py. All else is kept, and so is whatever lies in no volume:
boot areas, partition tables, gaps. What is left out are whole units (disk.UNIT), and no stretch
that is shorter than it takes to go there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Ranges, as_ranges, overlap, total, union, without
from vdbackup.errors import RecoveryError, Unreadable
from vdbackup.jobs import readable_size
from vdbackup.translation import tr
from vdbackup.volumes import places, signatures
from vdbackup.volumes.filesystems import btrfs_free, ext_free, free_clusters, node, xfs_free
from vdbackup.volumes.partitions import has_table
from vdbackup.volumes.places import Disk, Place, Window, on_disk

SHORTEST = 4 * UNIT
"""Bytes; what is shorter is read: to go on behind it takes a disk as long."""
MAX_RANGES = 4096
"""Stretches that are left out, the longest: each point lists them."""

NOTHING: Ranges = np.empty((0, 2), np.int64)
_NAMES = {
    "ext": "ext",
    "xfs": "XFS",
    "btrfs": "Btrfs",
    "ntfs": "NTFS",
    "fat": "FAT",
    "swap": "swap",
}
_SWAP, _HIBERNATED = b"SWAPSPACE2", b"S1SUSPEND\0"
_PAGES = (4096, 8192, 16384, 65536)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What of a disk need not be read.

    Attributes:
        ranges: all of that, in whole units.
        swap: which part of it is space for swapping: what is written there is never needed.
        sentences: what that is, and what is kept whole and why, a sentence each.
    """

    ranges: Ranges = field(default_factory=lambda: NOTHING)
    swap: Ranges = field(default_factory=lambda: NOTHING)
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found out about one volume: free ranges of the disk, in bytes, or why none."""

    place: Place
    name: str
    free: Ranges = field(default_factory=lambda: NOTHING)
    kept: str = ""
    is_swap: bool = False


@dataclass(frozen=True, eq=False)
class MountedAreas:
    """Where on a disk, in bytes, file systems lie that are mounted and may be written to.

    Attributes:
        frozen: those that were frozen after one had begun to mark what changes there, each by
            itself; of ext and Btrfs.
        all: all of them, and perhaps more around them.
        told: what those say themselves is free that have begun to mark what changes, by where each
            lies (offset, length); in bytes of the file system.
        built_on: what the kernel has made other devices of: what is in it may be newer elsewhere
            (a cache), or look like something else (a cipher without a header).
    """

    frozen: Ranges = field(default_factory=lambda: NOTHING)
    all: Ranges = field(default_factory=lambda: NOTHING)
    told: Mapping[tuple[int, int], Ranges] = field(default_factory=dict)
    built_on: Ranges = field(default_factory=lambda: NOTHING)


def left_out(disk: Disk, in_use: MountedAreas) -> LeftOut:
    """What of a disk need not be read.

    Args:
        disk: with whatever its volumes hold.
        in_use: what of it is mounted.

    Raises what reading the disk raises, but for places that cannot be read.
    """
    try:
        _, volumes = places.find(disk)
        contested = union(_contested(disk), NOTHING)
    except (RecoveryError, Unreadable):
        return LeftOut()
    found = [
        _uncontested(each, contested) for place in volumes for each in _look(disk, place, in_use)
    ]
    pieces = [(each, _apart(each, volumes, disk.size)) for each in found]
    ranges = _longest(_all(free for _, free in pieces))
    swap = _all(overlap(ranges, free) for each, free in pieces if each.is_swap)
    sentences = (_sentence(each, total(overlap(ranges, free))) for each, free in pieces)
    return LeftOut(ranges, swap, tuple(dict.fromkeys(filter(None, sentences))))


def _contested(disk: Disk) -> Ranges:
    """What two tables, or a table and a volume, say different things of; of an array's, nothing."""
    try:
        return places.contested(disk)
    except RecoveryError:
        return NOTHING


def _uncontested(found: _Found, contested: Ranges) -> _Found:
    """What was found out, or that nothing is sure where something else could lie."""
    if found.kept or not len(overlap(_all([as_ranges(found.place.runs)]), contested)):
        return found
    kept = tr("by another mark on the disk, something else lies there")
    return _Found(found.place, found.name, kept=kept)


def _look(disk: Disk, place: Place, in_use: MountedAreas) -> Iterator[_Found]:
    """What is to be said of a volume; nothing where it is not known what lies there."""
    if place.problem or any(offset + length > disk.size for offset, length in place.runs):
        return
    try:
        head = signatures.whole_head(Window.opened(disk, place.runs))
    except Unreadable:
        return
    kind, kept = _what(head)
    if kept:
        yield _Found(place, _NAMES[kind], kept=kept)
        return
    if kind == "swap":
        yield _swap(place, head)
    if kind in ("", "swap"):
        return
    stream = Window.opened(disk, place.runs)
    name = ext_free.kind_of(head) if kind == "ext" else _NAMES[kind]
    try:
        with node.reading(tr("What it says about its blocks")):
            free = _free(kind, stream, place, in_use)
    except RecoveryError as error:
        yield _Found(place, name, kept=_reason(error))
        return
    except Unreadable:
        yield _Found(place, name, kept=tr("its maps of free blocks cannot be read"))
        return
    yield _Found(place, name, on_disk(free, place.runs))
    if kind == "ntfs":
        yield from _paging(stream, place)


def _paging(stream: io.BufferedReader, place: Place) -> Iterator[_Found]:
    """What Windows swaps to in files; nothing where that is not sure."""
    paging = NOTHING
    with suppress(RecoveryError, Unreadable), node.reading(tr("What it says about its files")):
        paging = free_clusters.paging_of_ntfs(stream)
    yield _Found(place, "NTFS", on_disk(paging, place.runs), is_swap=True)


def _what(head: bytes) -> tuple[str, str]:
    """What begins so, by name, or ""; and why that is not sure, where it may be what was before."""
    marks = signatures.marks(head)
    kind = next((mark for mark in marks if mark in _NAMES), "")
    if not kind:
        return "", ""
    marks.remove(kind)
    if marks:
        other = _NAMES.get(marks[0], marks[0]) or tr("a partition table")
        return kind, tr("it bears the mark of {other}, too", other=other)
    return kind, tr("it has a partition table, too") if has_table(head) else ""


def _reason(error: RecoveryError) -> str:
    """Why something cannot be read: what a reader of a file system says itself, or in general."""
    cause = error.__cause__
    return str(cause) if isinstance(cause, node.Unreadable) else tr("its structures are damaged")


def _free(kind: str, stream: io.BufferedReader, place: Place, in_use: MountedAreas) -> Ranges:
    """What is free of a volume, in its bytes; anything may be raised, Unreadable in doubt."""
    if place.is_member:
        raise node.Unreadable(tr("it lies on one disk of an array"))
    if place.has_snapshot:
        raise node.Unreadable(tr("it has a snapshot, which needs what was deleted since"))
    runs = _all([as_ranges(place.runs)])
    if not place.logical and len(overlap(runs, in_use.built_on)):
        raise node.Unreadable(tr("another device has been made of it"))
    if kind == "xfs" and place.runs[0] in in_use.told and len(place.runs) == 1:
        return in_use.told[place.runs[0]]
    if kind in _FROZEN and _is_in(place, in_use.frozen):
        return _by_reads(stream, place, _FROZEN[kind])
    # of what is mounted from a logical volume it is known only on which disks that lies
    knows = kind == "ext" and place.logical
    if not knows and len(overlap(runs, _all([in_use.all]))):
        raise node.Unreadable(tr("it is in use"))
    if kind in _UNMOUNTED:
        return _by_reads(stream, place, _UNMOUNTED[kind])
    return _UNMOUNTED_STREAMS[kind](stream)


_FROZEN = {"ext": ext_free.free_of_mounted, "btrfs": btrfs_free.free_of_mounted}
"""What finds the free space of those that are in use, and were frozen."""
_UNMOUNTED = {"ext": ext_free.free_of_unmounted, "btrfs": btrfs_free.free_of_unmounted}
_UNMOUNTED_STREAMS: dict[str, Callable[[io.BufferedReader], Ranges]] = {
    "ntfs": free_clusters.free_of_ntfs,
    "fat": free_clusters.free_of_fat,
    "xfs": xfs_free.free,
}
"""What finds the free space of each kind as long as nobody has it mounted."""


def _by_reads(
    stream: io.BufferedReader, place: Place, look: Callable[[ext_free.Read, int], Ranges]
) -> Ranges:
    def read(offset: int, length: int) -> bytes:
        stream.seek(offset)
        return stream.read(length)

    return look(read, place.size)


def _swap(place: Place, head: bytes) -> _Found:
    """All but the first page of space for swapping, as long as its header says.

    That of a hibernated system is what it goes on from.
    """
    for page in _PAGES:
        mark = head[page - 10 : page]
        if mark == _HIBERNATED:
            return _Found(place, "swap", kept=tr("a hibernated system lies in it"))
        if mark == _SWAP:
            version, last = struct.unpack_from("<II", head, 1024)
            end = (last + 1) * page
            if version != 1 or not page < end <= place.size:
                break
            free = np.array([[page, end - page]], np.int64)
            return _Found(place, "swap", on_disk(free, place.runs), is_swap=True)
    return _Found(place, "swap", kept=tr("its header is not one that vdbackup knows"))


def _is_in(place: Place, frozen: Ranges) -> bool:
    """Whether exactly that is a frozen file system's: it could be one in another."""
    return any(place.runs == ((offset, length),) for offset, length in frozen.tolist())


def _apart(found: _Found, volumes: list[Place], size: int) -> Ranges:
    """What of that is free in whole units, and lies in no other volume, whose it could be, too.

    But for one that this one lies in as a whole, as a logical volume does in its partition.
    """
    others = [
        as_ranges(other.runs)
        for other in volumes
        if other is not found.place and not _is_physical(other, found.place)
    ]
    free = without(found.free, _all(others))
    starts = -(-free[:, 0] // UNIT) * UNIT
    ends = free.sum(1) // UNIT * UNIT
    ends = np.where(free.sum(1) == size, size, ends)
    whole = np.stack([starts, ends - starts], axis=1)
    return whole[whole[:, 1] > 0]


def _is_physical(outer: Place, logical: Place) -> bool:
    if not logical.logical or outer.logical:
        return False
    (start, length), *_ = outer.runs
    return any(start <= offset and offset + n <= start + length for offset, n in logical.runs)


def _longest(ranges: Ranges) -> Ranges:
    """Those that are worth it: long ones, and not too many."""
    ranges = ranges[ranges[:, 1] >= SHORTEST]
    if len(ranges) <= MAX_RANGES:
        return ranges
    chosen = np.argsort(ranges[:, 1], kind="stable")[-MAX_RANGES:]
    return ranges[np.sort(chosen)]


def _all(several: Iterator[Ranges] | list[Ranges]) -> Ranges:
    return union(np.concatenate([NOTHING, *several]), NOTHING)


def _sentence(found: _Found, size: int) -> str:
    place = found.place
    on = tr(" on partition {place}", place=place.number) if place.number else ""
    on = (
        tr(" on {group_and_name}", group_and_name=place.group_and_name)
        if place.group_and_name
        else on
    )
    if found.kept:
        return tr("{found}{on} is kept whole: {kept}.", found=found.name, on=on, kept=found.kept)
    if not size:
        return ""
    if found.is_swap:
        return tr("Space for swapping{on} is not read: {size}.", on=on, size=readable_size(size))
    return tr(
        "Free space of {found}{on} is not read: {size}.",
        found=found.name,
        on=on,
        size=readable_size(size),
    )
