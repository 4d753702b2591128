"""A log of writes folded into one map: of each place of the disk the last write that went there.

Writes overlap as they like, so they are painted over each other. The places where writes begin and
end cut the disk into cells, and a write covers a row of them; of each cell the newest that covers
it is wanted. A row is covered by two overlapping ones whose lengths are a power of two, so what is
noted are those alone, and then handed down from each power to the next smaller one: for n writes
that is n log n, whatever they look like. One map for each write, laid over the others, took as long
for a thousand writes as this does for a million.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s
from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.structs import Flag

_NONE = -1


def fold(entries: Entries, count: int, disk_size: int) -> BlockMap:
    """The map of what the first `count` entries wrote, all data in layer 0, the log's file.

    What was discarded reads as zeros, as replaying a log makes it; what nobody wrote to is
    UNALLOCATED.
    """
    chosen = np.flatnonzero(entries.changing[:count])
    if not len(chosen):
        return BlockMap.uniform(disk_size, UNALLOCATED)
    headers, sector = entries.headers[chosen], entries.sector_size
    starts = headers["sector"].astype(np.int64) * sector
    ends = starts + headers["sectors"].astype(np.int64) * sector
    hosts = entries.places[chosen] + sector
    edges, rank = _ranked(np.concatenate([starts, ends]))
    firsts, lasts = rank[: len(starts)], rank[len(starts) :]
    newest = _newest(firsts, lasts, len(edges) - 1)
    written = newest != _NONE
    of = newest[written]
    places = np.zeros(len(newest), np.int64)
    places[written] = hosts[of] + edges[:-1][written] - starts[of]
    layers = np.full(len(newest), UNALLOCATED, np.int32)
    layers[written] = np.where(_discards(headers)[of], ZERO, 0)
    places[layers < 0] = 0
    return _tiled(disk_size, edges, layers, places)


def _discards(headers: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.asarray(headers["flags"] & np.uint64(Flag.DISCARD) != 0, np.bool_)


def _tiled(
    disk_size: int, edges: Int64s, layers: NDArray[np.int32], hosts: Int64s
) -> BlockMap:  # fmt: skip
    """The map of cells between edges, with what lies before the first and behind the last."""
    before, after = int(edges[0] > 0), int(edges[-1] < disk_size)
    starts = np.concatenate([np.zeros(before, np.int64), edges[: len(edges) - 1 + after]])
    around = (before, after)
    layers = np.pad(layers, around, constant_values=UNALLOCATED)
    return BlockMap(disk_size, starts, layers, np.pad(hosts, around)).coalesced()


def _ranked(numbers: Int64s) -> tuple[Int64s, Int64s]:
    """Each number once, ascending, and of each of `numbers` which of those it is.

    A search for each of a million in a million others takes five times as long.
    """
    order = np.argsort(numbers)
    ordered = numbers[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    rank = np.empty(len(numbers), np.int64)
    rank[order] = np.cumsum(new) - 1
    return ordered[new], rank


def _newest(firsts: Int64s, lasts: Int64s, cells: int) -> Int64s:
    """int64[cells]: which of some writes, in their order, covers each last; _NONE where none does.

    Args:
        firsts: the cell that each begins with.
        lasts: the one behind its last.
        cells: how many there are.
    """
    spans = lasts - firsts
    powers = np.frexp(spans.astype(np.float64))[1] - 1  # of two, the largest that a span holds
    order = np.argsort(powers, kind="stable")  # within a power they stay in their order
    bounds = np.searchsorted(powers[order], np.arange(int(powers.max()) + 2))
    newest = np.full(cells, _NONE, np.int64)
    for power in range(int(powers.max()), -1, -1):
        width = 1 << power
        writes = order[bounds[power] : bounds[power + 1]]
        for begin in (firsts[writes], lasts[writes] - width):
            _raise_to(newest, begin, writes)
        if power:  # what covers `width` cells covers two halves of it
            half = width >> 1
            newest[half:] = np.maximum(newest[half:], newest[:-half].copy())
    return newest


def _raise_to(newest: Int64s, cells: Int64s, writes: Int64s) -> None:
    """Note at each of some cells the write beside it, where it is newer; the writes ascend.

    Of a cell that is named twice the last value stays (numpy: "Indexing on ndarrays").
    """
    newest[cells] = np.maximum(newest[cells], writes)
