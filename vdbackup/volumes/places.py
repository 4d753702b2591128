"""Where the volumes of a disk lie: partitions, logical volumes, mirrors, or the disk itself."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vdbackup.disks.extents import Ranges, as_ranges, overlap, union
from vdbackup.errors import RecoveryError
from vdbackup.translation import tr
from vdbackup.volumes import lvm, raid
from vdbackup.volumes.partitions import Partition, Table, contradicting, read_table

if TYPE_CHECKING:
    from collections.abc import Buffer

_BUFFER = 64 << 10
"""Bytes read at once where a file system asks for an inode or an entry."""
_SPREAD = {
    "42": tr("a dynamic disk of Windows"),
    "af9b60a0-1431-4f62-bc68-3311714a69ad": tr("a dynamic disk of Windows"),
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": tr("a dynamic disk of Windows"),
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": tr("Windows' Storage Spaces"),
}
"""Types of partitions in which volumes lie by a map of their own, perhaps in stripes."""

Runs = tuple[tuple[int, int], ...]
"""Stretches of the disk: offset and length in bytes."""


class Disk(Protocol):
    """Whatever is read as a disk: a chain of layers, or a source."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def sector_size(self) -> int:
        """In bytes."""

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on."""


@dataclass(frozen=True)
class Place:
    """Where a volume lies.

    Attributes:
        number: as in Linux (the 2 of /dev/sda2); 0 if it is no partition.
        runs: several only for a logical volume.
        logical: a logical volume's name in /dev/mapper; "" if it is none.
        problem: why it cannot be put together, in a sentence without its full stop.
        group_and_name: what LVM calls a logical volume, "vg/root".
        kind: what it is a part of, where there is a problem: "LVM", "RAID".
        is_member: of an array.
        has_snapshot: whether a snapshot of LVM reads from it what it held before.
    """

    number: int
    runs: Runs
    logical: str = ""
    problem: str = ""
    group_and_name: str = ""
    kind: str = ""
    is_member: bool = False
    has_snapshot: bool = False

    @property
    def name(self) -> str:
        """The folder that shows its files: "p2", "vg-root"; "" if it is the whole disk."""
        return self.logical or (f"p{self.number}" if self.number else "")

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(length for _, length in self.runs)


def find(chain: Disk) -> tuple[int, list[Place]]:
    """The sector size that a disk's tables count in, in bytes, and its volumes.

    The partitions or, where there are none, the disk; then the logical volumes that lie in them.
    A disk that is all LVM is not listed beside those: it has nothing else to show.

    Raises:
        RecoveryError: the disk's partition table is damaged.
    """
    whole = Place(0, ((0, chain.size),))
    disk = Window.opened(chain, whole.runs)
    array = raid.member(disk, chain.size) or raid.of_firmware(disk, chain.size)
    table = _table(disk, chain, array)
    found = [_partition(chain, 0, part) for part in table.partitions]
    if array and not table.whole and not any(place.is_member for place in found):
        if array.problem:
            return chain.sector_size, [_of_array(whole, array)]
        inside = Window.opened(chain, ((array.start, array.size),))
        table = read_table(inside, array.size, chain.sector_size)
        found = [_partition(chain, array.start, part) for part in table.partitions]
        whole = _of_array(whole, array)
    found = found or [whole]
    members = [place for place in found if _is_physical_volume(disk, chain.size, place)]
    logical = _logical(disk, [place.runs[0][0] for place in members])
    if logical and members == [whole]:
        return table.sector_size, logical
    if not logical:
        found = [_without_volumes(place) if place in members else place for place in found]
    return table.sector_size, [*found, *logical]


def contested(chain: Disk) -> Ranges:
    """Stretches of the disk, in bytes, that are something else by marks which `find` passes over.

    Raises what `find` raises.
    """
    disk = Window.opened(chain, ((0, chain.size),))
    table = read_table(disk, chain.size, chain.sector_size)
    others = contradicting(disk, chain.size, table)
    return as_ranges([(each.offset, each.size) for each in others if each.offset < chain.size])


def _table(disk: io.BufferedReader, chain: Disk, array: raid.Member | None) -> Table:
    """A disk's own table. A piece of one is nothing damaged where the disk is one of an array."""
    try:
        return read_table(disk, chain.size, chain.sector_size)
    except RecoveryError:
        if array is None:
            raise
        return Table(chain.sector_size)


def _partition(chain: Disk, base: int, part: Partition) -> Place:
    """Where a partition lies that is counted from byte `base` on; of a mirror, what it holds."""
    place = Place(part.number, ((base + part.offset, part.size),))
    if part.kind in _SPREAD:
        problem = tr(
            "It is a part of {spread} and can be put together only by that",
            spread=_SPREAD[part.kind],
        )
        return replace(place, kind="LDM", problem=problem)
    size = min(part.size, chain.size - base - part.offset)
    array = raid.member(Window.opened(chain, place.runs), size) if size > 0 else None
    return _of_array(place, array) if array else place


def _of_array(place: Place, array: raid.Member) -> Place:
    if array.problem:
        return replace(place, kind="RAID", problem=array.problem, is_member=True)
    offset, _ = place.runs[0]
    return replace(place, runs=((offset + array.start, array.size),), is_member=True)


def _is_physical_volume(disk: io.BufferedReader, size: int, place: Place) -> bool:
    offset, _ = place.runs[0]
    if place.problem or offset >= size:  # a table may say anything
        return False
    disk.seek(offset)
    return lvm.is_physical_volume(disk.read(4 * lvm.SECTOR))


def _without_volumes(place: Place) -> Place:
    problem = tr("It is a part of LVM, and no logical volume is described on this disk")
    return replace(place, kind="LVM", problem=problem)


def _logical(disk: io.BufferedReader, offsets: Sequence[int]) -> list[Place]:
    return [
        Place(
            0,
            volume.runs,
            volume.mapper_name,
            volume.problem,
            f"{volume.group}/{volume.name}",
            "LVM" if volume.problem else "",
            has_snapshot=volume.has_snapshot,
        )
        for volume in lvm.logical_volumes(disk, offsets)
    ]


class Window(io.RawIOBase):
    """Stretches of a disk, one after the other, as a file."""

    def __init__(self, chain: Disk, runs: Runs) -> None:
        super().__init__()
        self._chain = chain
        self._hosts = [offset for offset, _ in runs]
        self._ends = list(accumulate(max(0, min(n, chain.size - at)) for at, n in runs))
        self._size = self._ends[-1] if self._ends else 0
        self._position = 0

    @classmethod
    def opened(cls, chain: Disk, runs: Runs) -> io.BufferedReader:
        """Stretches of the disk, read through a buffer."""
        return io.BufferedReader(cls(chain, runs), _BUFFER)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The byte that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read from there on; beyond the end there is nothing."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(tr("there is no byte {start}", start=start + offset))
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """Bytes up to the end of a stretch; 0 at the end of all."""
        if self._position >= self._size:
            return 0
        run = bisect_right(self._ends, self._position)
        begin = self._ends[run - 1] if run else 0
        with memoryview(buffer).cast("B") as view:
            length = min(len(view), self._ends[run] - self._position)
            host = self._hosts[run] + self._position - begin
            self._chain.readinto(host, view[:length])
        self._position += length
        return length


def on_disk(ranges: Ranges, runs: Runs) -> Ranges:
    """Where on the disk stretches of a volume lie, which itself lies in stretches of it.

    The ranges ascend, and touch each other nowhere.
    """
    found = np.empty((0, 2), np.int64)
    ends = list(accumulate(length for _, length in runs))
    for (offset, length), end in zip(runs, ends, strict=True):
        start = end - length
        inside = overlap(ranges, np.array([[start, length]], np.int64))
        found = union(found, inside + np.array([offset - start, 0], np.int64))
    return found


def part_of(runs: Runs, start: int, size: int) -> Runs:
    """Where on the disk a part of a volume lies, in its order; `start` and `size` in bytes."""
    found = []
    end = start + size
    at = 0
    for offset, length in runs:
        first, last = max(start, at), min(end, at + length)
        if first < last:
            found.append((offset + first - at, last - first))
        at += length
    return tuple(found)
