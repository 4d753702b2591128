"""What lies on a disk only in part, with the rest on other devices: file systems, volume groups.

A copy of such a disk is whole, and may still give back nothing of what it holds.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vdbackup.errors import RecoveryError, SourceError
from vdbackup.translation import tr
from vdbackup.volumes import lvm, places, signatures
from vdbackup.volumes.places import Disk, Place, Window

_BTRFS_SUPER_BLOCK, _EXT_SUPER_BLOCK = 0x10000, 0x400
_EXT_HAS_JOURNAL = 0x4


@dataclass(frozen=True)
class Part:
    """What a disk holds of something that lies on several devices.

    Attributes:
        what: that, for a sentence.
        whole: what tells it from others; "" where nothing on this disk does.
        here: which parts of it these are.
        count: how many it has, where `whole` is known.
    """

    what: str
    whole: str = ""
    here: frozenset[str] = frozenset()
    count: int = 0


def sentences(disk: Disk, beside: Sequence[Disk]) -> tuple[str, ...]:
    """What of a disk lies on devices that are neither it nor those beside it, a sentence each.

    What does not say on which devices it lies is taken to be on those beside, if there are any. A
    disk that cannot be read is passed over: who reads it whole will see.
    """
    own = _parts(disk)
    if not own:
        return ()
    others = [part for other in beside for part in _parts(other)]
    missing = [part for part in own if not _is_whole(part, others, alone=not beside)]
    return tuple(
        tr(
            "{what} lies on other devices, too, which this backup does not have, and cannot be "
            "put together without them. Back them all up together, as one machine.",
            what=part.what,
        )
        for part in missing
    )


def _is_whole(part: Part, others: Sequence[Part], *, alone: bool) -> bool:
    if not part.whole:
        return not alone
    found = part.here.union(*(other.here for other in others if other.whole == part.whole))
    return len(found) >= part.count


def _parts(disk: Disk) -> list[Part]:
    try:
        _, volumes = places.find(disk)
        stream = Window.opened(disk, ((0, disk.size),))
        partitions = {place.runs[0][0]: place for place in volumes if not place.logical}
        groups = lvm.spread(stream, sorted({0, *partitions}))
    except (RecoveryError, SourceError):
        return []
    found = [
        Part(tr("The volume group {name}", name=each.name), each.id, each.here, each.count)
        for each in groups
    ]
    for place in volumes:
        try:
            found += _of_volume(disk, place)
        except (SourceError, struct.error):  # its end is missing, or it cannot be read
            continue
    return found


def _of_volume(disk: Disk, place: Place) -> Iterator[Part]:
    if place.kind == "RAID":
        yield Part(_named(tr("An array"), place))
    if place.problem:
        return
    stream = Window.opened(disk, place.runs)
    match signatures.readable(signatures.whole_head(stream)):
        case "btrfs":
            yield from _of_btrfs(stream, place)
        case "ext":
            yield from _of_ext(stream, place)
        case "xfs":
            yield from _of_xfs(stream, place)


def _of_btrfs(stream: io.BufferedReader, place: Place) -> Iterator[Part]:
    """By its super block: the whole's id, and how many devices it has; then this one's item."""
    stream.seek(_BTRFS_SUPER_BLOCK)
    data = stream.read(4096)
    (devices,) = struct.unpack_from("<Q", data, 136)
    if devices > 1:
        (number,) = struct.unpack_from("<Q", data, 201)
        here = frozenset((str(number),))
        yield Part(_named("Btrfs", place), f"btrfs {data[32:48].hex()}", here, devices)


def _of_ext(stream: io.BufferedReader, place: Place) -> Iterator[Part]:
    """By its super block: a journal that is no inode of it (s_journal_inum, s_journal_dev)."""
    stream.seek(_EXT_SUPER_BLOCK)
    data = stream.read(1024)
    (compatible,) = struct.unpack_from("<I", data, 92)
    inode, device = struct.unpack_from("<II", data, 224)
    if compatible & _EXT_HAS_JOURNAL and (device or not inode):
        yield Part(_named("ext", place))


def _of_xfs(stream: io.BufferedReader, place: Place) -> Iterator[Part]:
    """By its super block: blocks of a real-time section, or a log that begins nowhere in it."""
    stream.seek(0)
    data = stream.read(512)
    (real_time,) = struct.unpack_from(">Q", data, 16)
    (log_start,) = struct.unpack_from(">Q", data, 48)
    if real_time or not log_start:
        yield Part(_named("XFS", place))


def _named(what: str, place: Place) -> str:
    if place.group_and_name:
        return tr("{what} on {volume}", what=what, volume=place.group_and_name)
    if place.number:
        return tr("{what} on partition {number}", what=what, number=place.number)
    return what
