"""Which moments a log still has that was thinned: its own marks say so.

A log that was thinned begins with a mark, which says how many moments stayed, and behind each of
them comes another one with the number of the write that it is after: what changed since the moment
before lies between. Behind the last of them the log is as it was, write by write.

The numbers stand where an entry's header has its place on the disk, which means nothing of a mark:
headers are noted beside the log, and so what is damaged of them is seen. The texts are for people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.structs import HEADER, Flag

_TAG_AT = np.uint64(48)
_BEGIN, _STATION = 0x7662, 0x7677
"""In the upper bits of that number, so that it is no other program's."""
_NUMBER = (1 << 48) - 1


@dataclass(frozen=True)
class Stations:
    """The moments that stayed of a log, as far as it holds them.

    Attributes:
        found: of each how many of the log's writes make it, and the number of the write that it
            is after; both ascend.
        complete: all that stayed are there, so that the writes behind the last follow on it.
    """

    found: tuple[tuple[int, int], ...]
    complete: bool


def begin(count: int) -> tuple[bytes, bytes]:
    """Header and text of the mark that a log begins with of which so many moments stayed."""
    return _mark(_BEGIN, count, b"vdbackup: thinned, moments that stay: %d" % count)


def station(number: int) -> tuple[bytes, bytes]:
    """Header and text of the mark behind a moment that stays."""
    return _mark(_STATION, number, b"vdbackup: write %d" % number)


def _mark(tag: int, number: int, text: bytes) -> tuple[bytes, bytes]:
    return HEADER.pack((tag << int(_TAG_AT)) | number, 0, Flag.MARK, len(text)), text


def are_ours(entries: Entries) -> NDArray[np.bool_]:
    """bool[n]: which entries are such marks, and nobody's own."""
    tags = entries.headers["sector"] >> _TAG_AT
    return np.asarray(entries.having(Flag.MARK) & ((tags == _BEGIN) | (tags == _STATION)))


def stations(entries: Entries, sound: int) -> Stations | None:
    """What the marks of a log say; None of one that was not thinned.

    What makes no sense is not there, nor what comes behind.

    Args:
        entries: of the log.
        sound: so many of them may be what was written: the mark behind a moment may be damaged,
            though all that makes it is whole.
    """
    marks = np.flatnonzero(are_ours(entries))
    if not len(marks):
        return None
    marks = marks[marks < sound]
    if not len(marks):
        return Stations((), complete=False)
    sectors = [int(each) for each in entries.headers["sector"][marks]]
    if marks[0] != 0 or sectors[0] >> int(_TAG_AT) != _BEGIN:
        return Stations((), complete=False)
    places = np.searchsorted(np.flatnonzero(entries.changing), marks).tolist()
    count, found = sectors[0] & _NUMBER, list[tuple[int, int]]()
    for place, sector in zip(places[1:], sectors[1:], strict=True):
        if len(found) == count or sector >> int(_TAG_AT) != _STATION:
            break
        number, last = sector & _NUMBER, found[-1] if found else (-1, -1)
        if place <= last[0] or number <= last[1]:
            break
        found.append((place, number))
    return Stations(tuple(found), complete=0 < len(found) == count)
