"""Where each stretch of a disk lies: maps of extents, and their algebra on numpy arrays.

A map tiles a disk from 0 to its size without gaps. Each run is DATA (some layer's file holds it
from a host offset on), ZERO (it reads as zeros), or UNALLOCATED (the parent answers). Only
UNALLOCATED falls through to a parent: a zeroed block in a child must hide the parent's data.

Runs are numpy arrays, never an object per block: 2 TiB are 33 million blocks of 64 KiB.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Ranges = NDArray[np.int64]
"""Shape (n, 2): offset and length in bytes, ascending, not touching each other."""

ZERO = -1
UNALLOCATED = -2
"""In `BlockMap.layers`: the two states that are no layer's number."""

_AT_ONCE = 1 << 20
"""Runs that are worked on together."""


class State(enum.Enum):
    """What an extent is."""

    DATA = "data"
    ZERO = "zero"
    UNALLOCATED = "unallocated"


@dataclass(frozen=True)
class Extent:
    """`length` bytes from `offset` on, all in one state."""

    offset: int
    length: int
    state: State


@dataclass(frozen=True, eq=False)
class BlockMap:
    """A disk's tiling into runs.

    Attributes:
        size: of the disk, in bytes.
        starts: int64[n], where each run starts, in bytes; starts[0] == 0, strictly ascending.
        layers: int32[n], the layer that holds the run's data, or ZERO, or UNALLOCATED.
        hosts: int64[n], where in that layer's file the run starts, in bytes; 0 where no data.
    """

    size: int
    starts: Int64s
    layers: NDArray[np.int32]
    hosts: Int64s

    @classmethod
    def uniform(cls, size: int, layer: int) -> BlockMap:
        """A disk that is a single run: ZERO, UNALLOCATED, or data of `layer` from host 0 on."""
        return cls(size, np.zeros(1, np.int64), np.full(1, layer, np.int32), np.zeros(1, np.int64))

    @classmethod
    def from_runs(
        cls,
        size: int,
        offsets: Int64s,
        lengths: Int64s,
        layers: NDArray[np.int32],
        hosts: Int64s,
        fill: int,
    ) -> BlockMap:
        """A map of the given runs (ascending, not overlapping), with `fill` in between."""
        tiling = _Tiling(size, fill, len(offsets))
        for part in _pieces(len(offsets)):
            tiling.add(offsets[part], lengths[part], layers[part], hosts[part])
        return tiling.whole()

    @classmethod
    def from_blocks(
        cls, size: int, block_size: int, blocks: Int64s, hosts: Int64s, fill: int
    ) -> BlockMap:
        """A map of single blocks, all of layer 0.

        Args:
            size: of the disk, in bytes.
            block_size: in bytes.
            blocks: ascending block numbers.
            hosts: each block's place in the file in bytes, or ZERO where it reads as zeros.
            fill: ZERO or UNALLOCATED, for all other blocks.
        """
        tiling = _Tiling(size, fill, len(blocks))
        for part in _pieces(len(blocks)):
            tiling.add(*_runs_of_blocks(block_size, blocks[part], hosts[part]))
        return tiling.whole()

    def coalesced(self) -> BlockMap:
        """The same map with neighbours joined that continue each other."""
        if not any(self._continue(part).any() for part in _pieces(len(self.starts))):
            return self
        tiling = _Tiling(self.size, UNALLOCATED, len(self.starts))
        for part in _pieces(len(self.starts)):
            tiling.take(self.starts[part], self.layers[part], self.hosts[part])
        return tiling.map()

    def _continue(self, part: slice) -> NDArray[np.bool_]:
        """Which of some runs go on in the next one."""
        part = slice(part.start, part.stop + 1)
        starts, layers, hosts = self.starts[part], self.layers[part], self.hosts[part]
        goes_on = (layers[1:] < 0) | (_steps(hosts) == _steps(starts))
        return np.asarray(goes_on & (layers[1:] == layers[:-1]), np.bool_)

    @property
    def lengths(self) -> Int64s:
        """int64[n], each run's length in bytes."""
        return np.diff(self.starts, append=self.size)

    def extents(self) -> Iterator[Extent]:
        """The runs, one object each: for people and tests, not for loops over data."""
        names = {ZERO: State.ZERO, UNALLOCATED: State.UNALLOCATED}
        for start, length, layer in zip(self.starts, self.lengths, self.layers, strict=True):
            yield Extent(int(start), int(length), names.get(int(layer), State.DATA))

    def of_layer(self, layer: int) -> BlockMap:
        """The same map with all data said to be in `layer`."""
        if layer == 0 and not (self.layers > 0).any():
            return self
        layers = np.where(self.layers >= 0, np.int32(layer), self.layers).astype(np.int32)
        return BlockMap(self.size, self.starts, layers, self.hosts)

    def resized(self, size: int) -> BlockMap:
        """The same disk cut to `size` bytes, or continued by zeros up to there."""
        if size == self.size:
            return self
        if size > self.size:
            starts = np.append(self.starts, self.size)
            layers = np.append(self.layers, np.int32(ZERO)).astype(np.int32)
            return BlockMap(size, starts, layers, np.append(self.hosts, 0)).coalesced()
        kept = self.starts < size
        return BlockMap(size, self.starts[kept], self.layers[kept], self.hosts[kept])

    def part(self, offset: int, size: int) -> BlockMap:
        """The map of `size` bytes from byte `offset` on, as a disk of its own."""
        first = self.run_at(offset)
        end = int(np.searchsorted(self.starts, offset + size))
        starts = np.maximum(self.starts[first:end] - offset, 0)
        layers, hosts = self.layers[first:end], self.hosts[first:end].copy()
        if layers[0] >= 0:
            hosts[0] += offset - self.starts[first]
        return BlockMap(size, starts, layers, hosts)

    def over(self, parent: BlockMap) -> BlockMap:
        """The map of this disk as a child of `parent`, which answers what is UNALLOCATED here."""
        parent = parent.resized(self.size)
        if len(self.starts) == 1 and self.layers[0] == UNALLOCATED:
            return parent
        if len(parent.starts) == 1 and parent.layers[0] < 0:
            return self._filled(parent.layers[0])
        tiling = _Tiling(self.size, UNALLOCATED, len(self.starts) + len(parent.starts))
        bounds = _merged(self.starts[::_AT_ONCE], parent.starts[::_AT_ONCE]).tolist()
        for first, end in pairwise([*bounds, self.size]):
            tiling.take(*self._within(first, end)._over_at_once(parent._within(first, end)))
        return tiling.map()

    def _filled(self, layer: np.int32) -> BlockMap:
        """The same map with ZERO, or UNALLOCATED, for what is UNALLOCATED."""
        if layer == UNALLOCATED:
            return self
        layers = np.where(self.layers == UNALLOCATED, layer, self.layers)
        return BlockMap(self.size, self.starts, layers, self.hosts).coalesced()

    def _within(self, first: int, end: int) -> BlockMap:
        """The runs that lie between two places of the disk, cut at the first."""
        part = slice(self.run_at(first), int(np.searchsorted(self.starts, end)))
        starts = np.maximum(self.starts[part], first)
        hosts = np.asarray(self.hosts[part] + starts - self.starts[part], np.int64)
        return BlockMap(end, starts, self.layers[part], hosts)

    def _over_at_once(self, parent: BlockMap) -> tuple[Int64s, NDArray[np.int32], Int64s]:
        """Starts, layers and hosts of both, which begin at the same place; neighbours not joined.

        That takes space for several times their runs.
        """
        starts = _merged(self.starts, parent.starts)
        mine = np.searchsorted(self.starts, starts, "right") - 1
        theirs = np.searchsorted(parent.starts, starts, "right") - 1
        own = self.layers[mine] != UNALLOCATED
        layers = np.where(own, self.layers[mine], parent.layers[theirs]).astype(np.int32)
        hosts = np.where(
            own,
            self.hosts[mine] + starts - self.starts[mine],
            parent.hosts[theirs] + starts - parent.starts[theirs],
        )
        hosts[layers < 0] = 0
        return starts, layers, hosts

    def ranges(self, wanted: NDArray[np.bool_]) -> Ranges:
        """The stretches of runs for which `wanted` (bool[n]) holds, neighbours joined."""
        count = int(np.count_nonzero(wanted[1:] & ~wanted[:-1])) + int(wanted[0])
        found: Ranges = np.empty((count, 2), np.int64)  # in pieces: see `_Tiling`
        begun = ended = 0
        for part in _pieces(len(wanted)):
            before = np.int8(part.start > 0 and wanted[part.start - 1])
            edges = np.diff(wanted[part].view(np.int8), prepend=before)
            starts = self.starts[part]
            firsts, ends = starts[edges == 1], starts[edges == -1]
            found[begun : begun + len(firsts), 0] = firsts
            found[ended : ended + len(ends), 1] = ends
            begun, ended = begun + len(firsts), ended + len(ends)
        found[ended:, 1] = self.size  # the last run ends where the disk does
        found[:, 1] -= found[:, 0]
        return found

    def cut(self, ranges: Ranges) -> tuple[Int64s, Int64s, Int64s]:
        """Some ranges cut where runs meet: each part's run, where it begins, and its length."""
        starts, ends = ranges[:, 0], ranges[:, 0] + ranges[:, 1]
        first = np.searchsorted(self.starts, starts, "right") - 1
        count = np.searchsorted(self.starts, ends) - first
        run = counted(first, count)
        of = np.repeat(np.arange(len(ranges)), count)
        begins = np.maximum(self.starts[run], starts[of])
        return run, begins, np.minimum(self.ends_of(run), ends[of]) - begins

    def data_ranges(self) -> Ranges:
        """The stretches that some layer's file holds."""
        return self.ranges(self.layers >= 0)

    def own_ranges(self) -> Ranges:
        """The stretches that do not fall through to a parent."""
        return self.ranges(self.layers != UNALLOCATED)

    def run_at(self, offset: int) -> int:
        """The index of the run that holds byte `offset`."""
        return int(np.searchsorted(self.starts, offset, "right")) - 1

    def end_of(self, run: int) -> int:
        """Where a run ends, in bytes."""
        return int(self.starts[run + 1]) if run + 1 < len(self.starts) else self.size

    def ends_of(self, runs: Int64s) -> Int64s:
        """Where each of some runs ends, in bytes."""
        last = len(self.starts) - 1
        return np.where(runs < last, self.starts[np.minimum(runs + 1, last)], self.size)


class _Tiling:
    """A map while it is made, run by run from the disk's start on, in pieces.

    Of very many runs what a piece takes besides is little; what is made at once for all of them
    took four times the space of the map itself.

    Attributes:
        count: of runs.
    """

    def __init__(self, size: int, fill: int, most: int) -> None:
        """Of a disk of `size` bytes; `fill` lies between runs, of which there are `most`."""
        space = 2 * most + 1  # what is never written to takes no memory
        self._starts, self._hosts = np.empty(space, np.int64), np.empty(space, np.int64)
        self._layers = np.empty(space, np.int32)
        self._size, self._fill, self._end = size, fill, 0
        self.count = 0

    def add(
        self, offsets: Int64s, lengths: Int64s, layers: NDArray[np.int32], hosts: Int64s
    ) -> None:
        """Go on with runs, ascending, and a gap before each that does not follow at once."""
        offsets = np.minimum(offsets, self._size)
        starts = np.empty(2 * len(offsets), np.int64)
        all_layers = np.full(len(starts), self._fill, np.int32)
        all_hosts = np.zeros(len(starts), np.int64)
        ends = np.minimum(offsets + lengths, self._size)
        starts[0], starts[2::2], starts[1::2] = self._end, ends[:-1], offsets
        all_layers[1::2], all_hosts[1::2] = layers, hosts
        self._end = int(ends[-1])
        filled = np.append(_steps(starts), self._end - starts[-1]) > 0
        self.take(starts[filled], all_layers[filled], all_hosts[filled])

    def take(self, starts: Int64s, layers: NDArray[np.int32], hosts: Int64s) -> None:
        """Go on with runs that leave no gap; those that continue each other become one."""
        if not len(starts):
            return
        new = np.empty(len(starts), np.bool_)
        new[0] = not self._goes_on(int(starts[0]), int(layers[0]), int(hosts[0]))
        new[1:] = layers[1:] != layers[:-1]
        new[1:] |= (layers[1:] >= 0) & (_steps(hosts) != _steps(starts))
        count = self.count + int(np.count_nonzero(new))
        at = slice(self.count, count)
        self._starts[at], self._layers[at], self._hosts[at] = starts[new], layers[new], hosts[new]
        self.count = count

    def _goes_on(self, start: int, layer: int, host: int) -> bool:
        """Whether a run is of one with the last."""
        last = self.count - 1
        if last < 0 or self._layers[last] != layer:
            return False
        return layer < 0 or bool(host - self._hosts[last] == start - self._starts[last])

    def whole(self) -> BlockMap:
        """The map, with a gap behind the last run that was added."""
        if self._end < self._size:
            end, none = np.full(1, self._end, np.int64), np.zeros(1, np.int64)
            self.take(end, np.full(1, self._fill, np.int32), none)
        return self.map()

    def map(self) -> BlockMap:
        """All that was taken, which leaves no gap."""
        made = slice(self.count)
        return BlockMap(self._size, self._starts[made], self._layers[made], self._hosts[made])


def _runs_of_blocks(
    block_size: int, blocks: Int64s, hosts: Int64s
) -> tuple[Int64s, Int64s, NDArray[np.int32], Int64s]:
    """Offsets, lengths, layers and hosts of blocks; neighbours that continue each other are one."""
    zero = hosts == ZERO
    follows = (_steps(blocks) == 1) & (zero[1:] == zero[:-1])
    follows &= zero[1:] | (_steps(hosts) == block_size)
    first = np.flatnonzero(np.concatenate(([True], ~follows)))
    last = np.append(first[1:], len(blocks)) - 1
    offsets = blocks[first] * block_size
    layers = np.where(zero[first], np.int32(ZERO), np.int32(0)).astype(np.int32)
    lengths = (blocks[last] + 1) * block_size - offsets
    return offsets, lengths, layers, np.maximum(hosts[first], 0)


def _steps(numbers: Int64s) -> Int64s:
    """int64[n - 1], from each number to the next.

    `np.diff` takes ten times as long of few: a chain of 2,000 layers has a small map for each.
    """
    return numbers[1:] - numbers[:-1]


def _pieces(count: int) -> Iterator[slice]:
    return (slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE))


def flatten(maps: Iterable[BlockMap]) -> BlockMap:
    """One map from a chain's maps, the base first; layer numbers are positions in `maps`.

    What no layer holds reads as zeros. `over` is associative, so the chain is folded as a tree:
    100 layers cost log2(100) passes over the runs instead of 100, and no more maps are there at
    once.
    """
    folded: list[tuple[int, BlockMap]] = []  # of 1, 2, 4, ... maps each; the largest first
    for number, layer_map in enumerate(maps):
        height, top = 0, layer_map.of_layer(number)
        while folded and folded[-1][0] == height:
            top = top.over(folded.pop()[1])
            height += 1
        folded.append((height, top))
    top = folded.pop()[1]
    while folded:
        top = top.over(folded.pop()[1])
    return top.over(BlockMap.uniform(top.size, ZERO))


def _merged(a: Int64s, b: Int64s) -> Int64s:
    """What is in either, ascending, each once; both are ascending already.

    A stable sort of two sorted runs is one pass. `np.union1d` hashes since numpy 2.3, which took
    5.7 of the 8.2 s in which a map of 4 million runs was made.
    """
    both = np.sort(np.concatenate([a, b]), kind="stable")
    return both[np.concatenate(([True], both[1:] != both[:-1]))]


def distinct(numbers: Int64s) -> Int64s:
    """Each number once, ascending.

    `np.unique` loads all of numpy.ma, a tenth of the time that a short command takes to start.
    """
    ordered = np.sort(numbers)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]]


def as_ranges(pairs: Sequence[tuple[int, int]]) -> Ranges:
    """Offsets and lengths as an array, in the order that they have."""
    return np.array(pairs, np.int64).reshape(-1, 2)


def union(a: Ranges, b: Ranges) -> Ranges:
    """What lies in either set, joined where they touch; each may overlap and need not ascend."""
    if np.array_equal(a, b) and _are_apart(a):
        return a
    both = np.concatenate([a, b])
    if not len(both):
        return both
    both = both[np.argsort(both[:, 0], kind="stable")]
    reach = np.maximum.accumulate(both[:, 0] + both[:, 1])
    first = np.flatnonzero(np.concatenate(([True], both[1:, 0] > reach[:-1])))
    ends = reach[np.append(first[1:], len(both)) - 1]
    return np.stack([both[first, 0], ends - both[first, 0]], axis=1)


def without(a: Ranges, b: Ranges) -> Ranges:
    """What lies in `a` and not in `b`; both ascend, and neither touches itself."""
    if not len(a) or not len(b):
        return a
    edges = np.concatenate([a[:, 0], a.sum(1), b[:, 0], b.sum(1)])
    steps = np.repeat(np.array([1, -1, -2, 2], np.int8), [len(a), len(a), len(b), len(b)])
    order = np.argsort(edges, kind="stable")
    edges = edges[order]
    inside = np.cumsum(steps[order], dtype=np.int8)[:-1] == 1  # 1: in `a` alone
    kept = inside & (edges[1:] > edges[:-1])
    return np.stack([edges[:-1][kept], np.diff(edges)[kept]], axis=1)


def overlap(a: Ranges, b: Ranges) -> Ranges:
    """What lies in both sets, each of which ascends and touches itself nowhere."""
    edges = np.concatenate([a[:, 0], b[:, 0], a.sum(1), b.sum(1)])
    steps = np.repeat([1, -1], len(a) + len(b))
    order = np.lexsort((steps, edges))  # where one ends and another begins, the end comes first
    edges, within = edges[order], np.cumsum(steps[order])
    first = np.flatnonzero(within == 2)
    return np.stack([edges[first], edges[first + 1] - edges[first]], axis=1)


def aligned(ranges: Ranges, block_size: int, size: int) -> Ranges:
    """The ranges grown outward to whole blocks, but not beyond the disk's `size` bytes."""
    pieces = [ranges[part] for part in _pieces(len(ranges))]
    if all(_are_aligned(each, block_size, size) for each in pieces) and _are_apart(ranges):
        return ranges
    starts = ranges[:, 0] // block_size * block_size
    ends = -(-(ranges[:, 0] + ranges[:, 1]) // block_size) * block_size
    whole = np.stack([starts, np.minimum(ends, size) - starts], axis=1)
    return union(whole, np.empty((0, 2), np.int64))


def _are_aligned(ranges: Ranges, block_size: int, size: int) -> bool:
    ends = ranges[:, 0] + ranges[:, 1]
    whole = (ranges[:, 0] % block_size == 0) & ((ends % block_size == 0) | (ends == size))
    return bool(whole.all() and (ends <= size).all())


def _are_apart(ranges: Ranges) -> bool:
    """Whether they ascend and do not touch each other."""
    return all(
        (after[: len(each), 0] > each[: len(after)].sum(1)).all()
        for part in _pieces(len(ranges))
        for each, after in [(ranges[part], ranges[part.start + 1 : part.stop + 1])]
    )


def counted(firsts: Int64s, counts: Int64s) -> Int64s:
    """Each number of `firsts`, and so many that follow it as `counts` says, itself among them."""
    before = np.cumsum(counts) - counts
    numbers = np.repeat(firsts - before, counts)
    return numbers + np.arange(len(numbers))


def blocks_of(ranges: Ranges, block_size: int) -> Int64s:
    """The numbers of the blocks that ranges of whole blocks are; the disk's last may be short."""
    return counted(ranges[:, 0] // block_size, -(-ranges[:, 1] // block_size))


def total(ranges: Ranges) -> int:
    """Bytes in all ranges together."""
    return int(ranges[:, 1].sum())


def runs_of(wanted: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Neighbours for which `wanted` holds: (first, end) each."""
    return [(first, end) for first, end in edges_of(wanted).tolist()]


def edges_of(wanted: NDArray[np.bool_]) -> Int64s:
    """The same as int64[n, 2], where there may be millions."""
    none = np.zeros(1, np.int8)  # a plain 0 would make eight bytes of each flag
    edges = np.flatnonzero(np.diff(np.concatenate((none, wanted.view(np.int8), none))))
    return edges.reshape(-1, 2)
