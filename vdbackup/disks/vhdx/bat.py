"""The block allocation table of a VHDX and its sector bitmaps, as they stand in the file.

Source: [MS-VHDX] 2.4 and 2.5. Everything is checked before it is believed: all that the table names
lies inside the file, and no two things in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.bitmaps import runs_of_bits
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s
from vdbackup.disks.vhdx.log import Contents
from vdbackup.disks.vhdx.metadata import BITMAP_BYTES, Geometry
from vdbackup.disks.vhdx.structs import MIB, Region
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

NOT_PRESENT, UNDEFINED, ZEROS, UNMAPPED, OLD_UNMAPPED, PRESENT, PARTIAL = 0, 1, 2, 3, 5, 6, 7
"""States (2.5.1.1); 5 was UNMAPPED in version 0.95. A bitmap is NOT_PRESENT or PRESENT."""
_STATE = np.uint64(7)
_MIB_SHIFT = np.uint64(20)
_PIECE = 4 << 20
"""Bytes of the table that are read at once."""


@dataclass(frozen=True)
class Blocks:
    """Some blocks of a kind.

    Attributes:
        numbers: int64[n], ascending.
        states: uint8[n].
        hosts: int64[n], places in the file in bytes; -1 where that is far outside.
    """

    numbers: Int64s
    states: NDArray[np.uint8]
    hosts: Int64s

    @classmethod
    def parse(cls, numbers: Int64s, entries: NDArray[np.uint64], file_size: int) -> Blocks:
        """The blocks that the entries stand for."""
        places = (entries >> _MIB_SHIFT).astype(np.int64)  # at most 2^44, so bytes may overflow
        inside = places <= file_size // MIB
        return cls(numbers, (entries & _STATE).astype(np.uint8), np.where(inside, places, -1) * MIB)

    def of(self, wanted: NDArray[np.bool_]) -> Blocks:
        """Those for which `wanted` (bool[n]) holds."""
        return Blocks(self.numbers[wanted], self.states[wanted], self.hosts[wanted])


class Table:
    """The table as it is in the file now.

    Attributes:
        entries: uint64[n], those that are not 0.
        places: int64[n], where in the table they stand.
        blocks: the payload blocks that are not NOT_PRESENT.
        bitmaps: the sector bitmaps that are there; none without a parent.
    """

    def __init__(
        self, contents: Contents, region: Region, geometry: Geometry, occupied: Sequence[Region]
    ) -> None:
        """Read and check it.

        Args:
            contents: the file.
            region: where in it the table lies.
            geometry: of the disk.
            occupied: where no block may lie: inside the file, not touching each other.

        Raises:
            DiskFormatError: it names what is not there, or one place twice.
        """
        self.path: Path = contents.path
        self._contents, self._region, self._geometry = contents, region, geometry
        self.places, self.entries = self._stored_entries()
        file_size = contents.size
        chunks, within = np.divmod(self.places, geometry.chunk_ratio + 1)
        numbers = self.places - chunks
        is_bitmap = within == geometry.chunk_ratio
        is_block = ~is_bitmap & (numbers < geometry.blocks)
        blocks = Blocks.parse(numbers[is_block], self.entries[is_block], file_size)
        self.blocks = blocks.of(blocks.states != NOT_PRESENT)
        bitmaps = Blocks.parse(chunks[is_bitmap], self.entries[is_bitmap], file_size)
        self.bitmaps = bitmaps.of((bitmaps.states == PRESENT) & geometry.has_parent)
        self._check_states()
        self._check_places(occupied)

    def _stored_entries(self) -> tuple[Int64s, NDArray[np.uint64]]:
        """All entries that are not 0.

        Holes of the file are passed over: they are most of it. But a child's table has an entry for
        a bitmap every 16 KiB, and reading 1 TiB's (4 MiB) costs less than looking for its holes.
        """
        start, count = self._region.offset, self._geometry.bat_entries
        end = start + 8 * count
        if 8 * count > self._region.length or end > self._contents.size:
            problem = tr("the block allocation table has no space for {count} entries", count=count)
            raise DiskFormatError(self.path, start, problem)
        found = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
        for at, length in self._pieces(start, end):
            data = bytearray(length)
            self._contents.readinto(at, memoryview(data))
            entries = np.frombuffer(data, "<u8")
            here = np.flatnonzero(entries != 0)
            found.append((here + (at - start) // 8, entries[here].astype(np.uint64)))
        return (
            np.concatenate([places for places, _ in found]),
            np.concatenate([entries for _, entries in found]),
        )

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the table to be read, in whole entries: (offset, length)."""
        segments = [(start, end - start)]
        if not self._geometry.has_parent:
            segments = self._contents.data_segments(start, end)
        for offset, length in segments:
            first, last = offset // 8 * 8, -(-(offset + length) // 8) * 8
            for at in range(first, last, _PIECE):
                yield at, min(last - at, _PIECE)

    def _check_states(self) -> None:
        states = self.blocks.states
        known = [UNDEFINED, ZEROS, UNMAPPED, OLD_UNMAPPED, PRESENT]
        if self._geometry.has_parent:
            known.append(PARTIAL)
        self._refuse_any(~np.isin(states, known), tr("is in a state that it cannot be in"))
        chunks = self.blocks.numbers // self._geometry.chunk_ratio
        lacking = (states == PARTIAL) & ~np.isin(chunks, self.bitmaps.numbers)
        self._refuse_any(lacking, tr("is here in parts, and no bitmap says which"))

    def _check_places(self, occupied: Sequence[Region]) -> None:
        """Else a small file could name one block a million times, and the map fill the memory."""
        file_size = self._contents.size
        stored = self.blocks.of(self.blocks.states >= PRESENT)
        lengths = self._geometry.length_of_block(self.blocks.numbers)
        outside = (self.blocks.hosts < MIB) | (self.blocks.hosts > file_size - lengths)
        outside &= self.blocks.states >= PRESENT
        self._refuse_any(outside, tr("is said to lie outside the file, or in its header"))
        bitmaps = self.bitmaps.hosts
        if ((bitmaps < MIB) | (bitmaps > file_size - BITMAP_BYTES)).any():
            problem = tr("a sector bitmap is said to lie outside the file, or in its header")
            raise DiskFormatError(self.path, self._region.offset, problem)
        starts = np.concatenate([[each.offset for each in occupied], stored.hosts, bitmaps])
        ends = starts + np.concatenate(
            [
                [each.length for each in occupied],
                self._geometry.length_of_block(stored.numbers),
                np.full(len(bitmaps), BITMAP_BYTES),
            ]
        )
        order = np.argsort(starts, kind="stable")
        if (starts[order][1:] < ends[order][:-1]).any():
            problem = tr("two blocks share a place, or one lies in the tables")
            raise DiskFormatError(self.path, self._region.offset, problem)

    def _refuse_any(self, wrong: NDArray[np.bool_], problem: str) -> None:
        if wrong.any():
            block = self.blocks.numbers[wrong][:1]
            at = self._region.offset + 8 * int(self._geometry.entry_of_block(block)[0])
            raise DiskFormatError(
                self.path, at, tr("block {block} {problem}", block=block[0], problem=problem)
            )

    def block_map(self) -> BlockMap:
        """The disk's own blocks."""
        geometry = self._geometry
        partial = self.blocks.states == PARTIAL
        whole = self.blocks.of(~partial)
        hosts = np.where(whole.states == PRESENT, whole.hosts, ZERO)
        # without a parent there is nothing to fall through to: what is not here reads as zeros
        fill = UNALLOCATED if geometry.has_parent else ZERO
        if not partial.any():
            return BlockMap.from_blocks(
                geometry.virtual_size, geometry.block_size, whole.numbers, hosts, fill
            )
        lengths = np.full(len(hosts), geometry.block_size)
        runs = [np.stack([whole.numbers * geometry.block_size, lengths, hosts])]
        runs += self._partial_runs(self.blocks.of(partial))
        joined = np.concatenate(runs, axis=1)
        offsets, lengths, hosts = joined[:, np.argsort(joined[0], kind="stable")]
        layers = np.where(hosts == ZERO, np.int32(ZERO), np.int32(0)).astype(np.int32)
        hosts = np.maximum(hosts, 0)
        return BlockMap.from_runs(geometry.virtual_size, offsets, lengths, layers, hosts, fill)

    def _partial_runs(self, blocks: Blocks) -> list[Int64s]:
        """Sectors of such blocks that are here, a chunk at a time: offsets, lengths, hosts."""
        geometry = self._geometry
        bitmaps = dict(zip(self.bitmaps.numbers.tolist(), self.bitmaps.hosts.tolist(), strict=True))
        chunks = blocks.numbers // geometry.chunk_ratio
        bounds = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(chunks)]
        runs = []
        for first, end in pairwise(bounds):
            numbers, hosts = blocks.numbers[first:end], blocks.hosts[first:end]
            rows = numbers - numbers[0]
            data = bytearray((int(rows[-1]) + 1) * geometry.bitmap_bytes)
            start = int(numbers[0]) % geometry.chunk_ratio * geometry.bitmap_bytes
            self._contents.readinto(bitmaps[int(chunks[first])] + start, memoryview(data))
            bitmap = np.frombuffer(data, np.uint8).reshape(-1, geometry.bitmap_bytes)[rows]
            row, sectors, counts = runs_of_bits(bitmap, 8 * geometry.bitmap_bytes, "little")
            within = sectors * geometry.sector_size
            offsets = numbers[row] * geometry.block_size + within
            runs.append(np.stack([offsets, counts * geometry.sector_size, hosts[row] + within]))
        return runs
