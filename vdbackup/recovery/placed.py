"""A stretch of a point's disk where it lies, or is to lie, on a target that is written in place.

Everything is told in the blocks of the point's disk, which its digests are of. A partition need not
begin or end at one: what of its first and last block lies outside is read from the point, and never
written.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s, Ranges, aligned, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.transfer import Flags, neighbours
from vdbackup.repository.digests import BLOCK


@dataclass(frozen=True)
class Stretch:
    """What of a disk goes where; all in bytes.

    Attributes:
        start, size: in the point's disk.
        at: where on the target it begins.
    """

    start: int
    size: int
    at: int = 0

    @property
    def end(self) -> int:
        """Where in the point's disk it ends."""
        return self.start + self.size


class Placed:
    """A target, read and written by the blocks of the point's disk. For several threads at once."""

    def __init__(self, file: HostFile, chain: Chain, stretch: Stretch, *, holes: bool) -> None:
        """A device or file that is at least as large; zeros become holes where that is wanted."""
        self._file, self._chain, self._stretch, self._holes = file, chain, stretch, holes

    @property
    def ranges(self) -> Ranges:
        """All of it, in whole blocks of the disk."""
        own = as_ranges([(self._stretch.start, self._stretch.size)])
        return aligned(own, BLOCK, self._chain.size)

    def stored(self) -> Ranges:
        """What of that is no hole of the target, in whole blocks."""
        at, start, size = self._stretch.at, self._stretch.start, self._stretch.size
        found = self._file.data_segments(at, min(at + size, self._file.size))
        return aligned(
            as_ranges([(start + place - at, length) for place, length in found]),
            BLOCK,
            self._chain.size,
        )

    def read(self, pieces: Ranges, view: memoryview) -> None:
        """Fill `view` with what the target holds of several ranges; raises OSError."""
        done = 0
        for offset, length in pieces.tolist():
            part = view[done : done + length]
            first, end = self._inside(offset, length)
            if first > offset:
                self._chain.readinto(offset, part[: first - offset])
            if end < offset + length:
                self._chain.readinto(end, part[end - offset :])
            self._file.readinto(self._on_target(first), part[first - offset : end - offset])
            done += length

    def write(self, blocks: Int64s, view: memoryview, zero: Flags) -> None:
        """Write blocks; durable after `sync`.

        Args:
            blocks: int64[n], their numbers in the disk, ascending.
            view: the blocks, one behind the other; the disk's last may be short.
            zero: bool[n], which of them are all zeros.
        """
        for first, end in neighbours(blocks, ~zero):
            self._write(int(blocks[first]) * BLOCK, view[first * BLOCK : end * BLOCK])
        for first, end in neighbours(blocks, zero):
            length = min(end * BLOCK, len(view)) - first * BLOCK
            self._zero(int(blocks[first]) * BLOCK, length)

    def _write(self, offset: int, part: memoryview) -> None:
        first, end = self._inside(offset, len(part))
        self._file.write(self._on_target(first), part[first - offset : end - offset])

    def _zero(self, offset: int, length: int) -> None:
        first, end = self._inside(offset, length)
        make = self._file.punch if self._holes else self._file.zero
        make(self._on_target(first), end - first)

    def sync(self) -> None:
        """Make all that was written durable; raises OSError."""
        self._file.sync()

    def read_past_cache(self) -> None:
        """From now on, read what the storage holds; a device is read so in any case."""
        with suppress(OSError):  # a file system that knows no such way
            self._file.read_past_cache()

    def _inside(self, offset: int, length: int) -> tuple[int, int]:
        """What of a range belongs to the stretch: from where to where in the disk."""
        return max(offset, self._stretch.start), min(offset + length, self._stretch.end)

    def _on_target(self, offset: int) -> int:
        return self._stretch.at + offset - self._stretch.start
