"""Which bytes of a disk differ between two points, by their maps and by what is stored.

What two chains read from the same place of the same file is the same: that is most of it, and costs
no reading. The rest is read from both and compared in units as small as a file system's blocks.
"""

from __future__ import annotations

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import ZERO, Int64s, Ranges, aligned, as_ranges, overlap, total, union
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.translation import tr
from vdbackup.volumes.places import Disk

UNIT = 4096
"""Bytes that are compared as one: blocks of most file systems."""
_AT_ONCE = 4 << 20
NOTHING: Ranges = np.empty((0, 2), np.int64)


class Traced:
    """A disk that notes what of it is read.

    What is found out by reading is the same wherever the same bytes lie in the same places: so it
    holds of another point, too, if that differs in nothing that was read.

    Attributes:
        size, sector_size: the disk's, in bytes.
        is_whole: whether all could be read that was asked for.
    """

    def __init__(self, disk: Disk) -> None:
        self.is_whole = True
        self._disk = disk
        self.size, self.sector_size = disk.size, disk.sector_size
        self._read: list[tuple[int, int]] = []
        self._known = NOTHING

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on."""
        self._read.append((offset, len(view)))
        if len(self._read) >= 1 << 16:
            self._known = self.ranges
        try:
            self._disk.readinto(offset, view)
        except (VdbackupError, OSError):
            self.is_whole = False
            raise

    @property
    def ranges(self) -> Ranges:
        """What was read, in bytes."""
        fresh, self._read = as_ranges(sorted(self._read)), []
        self._known = union(self._known, fresh)
        return self._known


def touches(some: Ranges, others: Ranges) -> bool:
    """Whether any byte lies in both."""
    return bool(len(some) and len(others) and len(overlap(some, others)))


def not_shared(before: Chain, after: Chain) -> Ranges:
    """What two chains do not read from the same place of the same file, in bytes.

    Where one disk is larger that is all of what it has more.
    """
    size = min(before.size, after.size)
    edges = np.union1d(before.map.starts, after.map.starts)
    edges = edges[edges < size]
    files = {layer.path: number for number, layer in enumerate(before.layers)}
    others = iter(range(len(files), len(files) + len(after.layers)))
    numbers = np.array([files.get(layer.path, next(others)) for layer in after.layers], np.int64)
    row = np.searchsorted(before.map.starts, edges, "right") - 1
    old, old_at = before.map.layers[row].astype(np.int64), before.map.hosts[row]
    old_at = old_at + edges - before.map.starts[row]
    row = np.searchsorted(after.map.starts, edges, "right") - 1
    new, new_at = after.map.layers[row].astype(np.int64), after.map.hosts[row]
    new_at = new_at + edges - after.map.starts[row]
    new = np.where(new >= 0, numbers[np.maximum(new, 0)], new)
    same = (old == new) & ((old == ZERO) | (old_at == new_at))
    ends = np.append(edges[1:], size)
    found = np.stack([edges, ends - edges], axis=1)[~same]
    larger = max(before.size, after.size) - size
    rest = [(size, larger)] if larger else []
    return union(found, as_ranges(rest))


def differing(before: Chain, after: Chain, maybe: Ranges, task: Task) -> Ranges:
    """What of some ranges really differs, in whole units; raises Cancelled, DiskError or OSError.

    Beyond the end of the smaller disk everything does.
    """
    size = min(before.size, after.size)
    inside = overlap(aligned(maybe, UNIT, max(before.size, after.size)), as_ranges([(0, size)]))
    beyond = overlap(maybe, as_ranges([(size, 1 << 62)]))
    one, other = memoryview(bytearray(_AT_ONCE)), memoryview(bytearray(_AT_ONCE))
    found: list[tuple[int, int]] = []
    done, of = 0, total(inside)
    for start, length in inside.tolist():
        for offset in range(start, start + length, _AT_ONCE):
            task.check()
            count = min(_AT_ONCE, start + length - offset)
            before.readinto(offset, one[:count])
            after.readinto(offset, other[:count])
            found += _units_that_differ(offset, one[:count], other[:count])
            done += count
            task.phase(tr("Comparing"), done, of)
    return union(as_ranges(found), beyond)


def _units_that_differ(offset: int, one: memoryview, other: memoryview) -> list[tuple[int, int]]:
    old, new = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    whole = len(old) // UNIT * UNIT
    differ = (old[:whole] != new[:whole]).reshape(-1, UNIT).any(axis=1)
    found = [(offset + int(unit) * UNIT, UNIT) for unit in np.flatnonzero(differ)]
    if whole < len(old) and (old[whole:] != new[whole:]).any():
        found.append((offset + whole, len(old) - whole))
    return found


class Counter:
    """Says how much of any stretch of a disk lies in given ranges, by two searches for each."""

    def __init__(self, ranges: Ranges) -> None:
        """`ranges` ascend, and do not touch each other."""
        self._starts, self._lengths = ranges[:, 0], ranges[:, 1]
        self._before = np.cumsum(self._lengths) - self._lengths

    def bytes_in(self, starts: Int64s, ends: Int64s) -> Int64s:
        """Of each stretch, from its start to its end: the bytes in the ranges."""
        return self._up_to(ends) - self._up_to(starts)

    def _up_to(self, places: Int64s) -> Int64s:
        if not len(self._starts):
            return np.zeros(len(places), np.int64)
        row = np.maximum(np.searchsorted(self._starts, places, "right") - 1, 0)
        inside = np.clip(places - self._starts[row], 0, self._lengths[row])
        found: Int64s = self._before[row] + inside
        return found
