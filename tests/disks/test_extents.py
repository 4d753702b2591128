"""The algebra of block maps against plain arrays: one entry for each byte of a small disk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.disks import extents
from vdbackup.disks.extents import (
    UNALLOCATED,
    ZERO,
    BlockMap,
    Extent,
    Ranges,
    State,
    aligned,
    flatten,
    overlap,
    runs_of,
    total,
    union,
    without,
)

SIZES = st.integers(1, 60)
STATES = st.sampled_from([ZERO, UNALLOCATED])
OWN = st.just(0) | STATES

Plain = list[tuple[int, int]]
"""Of each byte: its layer (or ZERO, UNALLOCATED), and its place in that layer's file (or 0)."""


def plain(block_map: BlockMap) -> Plain:
    found: Plain = []
    runs = zip(block_map.lengths, block_map.layers, block_map.hosts, strict=True)
    for length, layer, host in runs:
        found += [(int(layer), int(host) + i if layer >= 0 else 0) for i in range(length)]
    return found


def assert_is_a_tiling(block_map: BlockMap) -> None:
    """No gap, no empty run, and no two neighbours that are one."""
    assert block_map.starts[0] == 0
    assert (block_map.lengths > 0).all()
    assert block_map.lengths.sum() == block_map.size
    for first in range(len(block_map.starts) - 1):
        same = block_map.layers[first] == block_map.layers[first + 1]
        onward = block_map.hosts[first] + block_map.lengths[first] == block_map.hosts[first + 1]
        assert not (same and (block_map.layers[first] < 0 or onward))


@st.composite
def run_lists(draw, layers):
    """(offset, length, layer, host) of runs that ascend and do not overlap, and a size."""
    size = draw(SIZES)
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=12)))
    runs = []
    for start, end in pairwise(cuts):
        if draw(st.booleans()):
            layer = draw(layers)
            host = draw(st.integers(0, 500)) if layer >= 0 else 0
            runs.append((start, end - start, layer, host))
    return size, runs


def from_runs(size: int, runs: list[tuple[int, int, int, int]], fill: int) -> BlockMap:
    columns = np.array(runs, np.int64).reshape(-1, 4).T
    return BlockMap.from_runs(
        size, columns[0], columns[1], columns[2].astype(np.int32), columns[3], fill
    )


@st.composite
def block_maps(draw):
    size, runs = draw(run_lists(OWN))
    return from_runs(size, runs, draw(STATES))


def plain_over(child: Plain, parent: Plain) -> Plain:
    longer = parent + [(ZERO, 0)] * (len(child) - len(parent))
    return [
        under if mine[0] == UNALLOCATED else mine
        for mine, under in zip(child, longer, strict=False)
    ]


@given(run_lists(st.integers(0, 2) | STATES), STATES)
def test_runs_are_painted_over_what_fills_the_rest(size_and_runs, fill):
    size, runs = size_and_runs
    wanted: Plain = [(fill, 0)] * size
    for offset, length, layer, host in runs:
        for i in range(length):
            wanted[offset + i] = (layer, host + i if layer >= 0 else 0)
    found = from_runs(size, runs, fill)
    assert plain(found) == wanted
    assert_is_a_tiling(found)


@given(st.data(), st.integers(1, 60), st.integers(1, 9), STATES)
def test_blocks_are_painted_over_what_fills_the_rest(data, size, block_size, fill):
    count = -(-size // block_size)
    blocks = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    # places that often continue each other, as they do in a file
    host = st.integers(1, 6).map(lambda place: place * block_size) | st.just(ZERO)
    hosts = data.draw(st.lists(host, min_size=len(blocks), max_size=len(blocks)))
    wanted: Plain = [(fill, 0)] * size
    for block, where in zip(blocks, hosts, strict=True):
        for i in range(block * block_size, min((block + 1) * block_size, size)):
            wanted[i] = (ZERO, 0) if where == ZERO else (0, where + i - block * block_size)
    found = BlockMap.from_blocks(
        size, block_size, np.array(blocks, np.int64), np.array(hosts, np.int64), fill
    )
    assert plain(found) == wanted
    assert_is_a_tiling(found)


@given(block_maps(), block_maps())
def test_only_what_a_child_does_not_have_falls_through_to_its_parent(child, parent):
    found = child.over(parent.of_layer(1))
    assert plain(found) == plain_over(plain(child), plain(parent.of_layer(1)))
    assert_is_a_tiling(found)


@given(block_maps(), block_maps(), block_maps())
def test_over_is_associative(top, middle, base):
    middle, base = middle.of_layer(1), base.of_layer(2)
    assert plain(top.over(middle).over(base)) == plain(top.over(middle.over(base)))


@given(st.lists(block_maps(), min_size=1, max_size=9))
def test_a_chain_is_flattened_as_if_each_layer_were_put_over_the_one_before(maps):
    wanted = plain(maps[0].of_layer(0))
    for number, block_map in enumerate(maps[1:], start=1):
        wanted = plain_over(plain(block_map.of_layer(number)), wanted)
    wanted = [(ZERO, 0) if layer == UNALLOCATED else (layer, host) for layer, host in wanted]
    found = flatten(maps)
    assert plain(found) == wanted
    assert_is_a_tiling(found)


@given(
    st.lists(block_maps(), min_size=1, max_size=5),
    run_lists(OWN),
    st.lists(st.integers(0, 6) | st.just(ZERO), max_size=20),
    STATES,
    st.integers(1, 4),
)
def test_a_map_of_many_runs_is_made_in_pieces_and_is_the_same(maps, runs, hosts, fill, at_once):
    numbers, places = np.arange(len(hosts)) * 3 // 2, np.array(hosts, np.int64)

    def made() -> list[BlockMap]:
        blocks = BlockMap.from_blocks(29, 1, numbers, places, fill)
        return [flatten(maps), from_runs(*runs, fill), blocks]

    whole = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extents, "_AT_ONCE", at_once)
        in_pieces = made()
    for one, other in zip(whole, in_pieces, strict=True):
        assert plain(one) == plain(other)
        assert_is_a_tiling(other)


@given(block_maps(), SIZES)
def test_a_resized_disk_is_cut_or_continued_by_zeros(block_map, size):
    found = block_map.resized(size)
    assert plain(found) == (plain(block_map) + [(ZERO, 0)] * size)[:size]
    assert_is_a_tiling(found)


@given(block_maps())
def test_ranges_are_the_longest_stretches_of_what_is_wanted(block_map):
    data, own = set(), set()
    for at, (layer, _) in enumerate(plain(block_map)):
        data |= {at} if layer >= 0 else set()
        own |= {at} if layer != UNALLOCATED else set()
    assert covered(block_map.data_ranges()) == data
    assert covered(block_map.own_ranges()) == own
    assert_apart(block_map.data_ranges())
    assert_apart(block_map.own_ranges())


@given(block_maps(), st.data())
def test_the_run_at_an_offset_holds_that_byte(block_map, data):
    offset = data.draw(st.integers(0, block_map.size - 1))
    run = block_map.run_at(offset)
    assert block_map.starts[run] <= offset < block_map.starts[run] + block_map.lengths[run]


@given(block_maps())
def test_extents_are_the_runs_in_words(block_map):
    names = {ZERO: State.ZERO, UNALLOCATED: State.UNALLOCATED}
    found = list(block_map.extents())
    assert [e.state for e in found for _ in range(e.length)] == [
        names.get(layer, State.DATA) for layer, _ in plain(block_map)
    ]
    assert found[0] == Extent(0, int(block_map.lengths[0]), found[0].state)


@st.composite
def range_sets(draw):
    pairs = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=8))
    return union(np.array(sorted(pairs), np.int64).reshape(-1, 2), np.empty((0, 2), np.int64))


def covered(ranges: Ranges) -> set[int]:
    return {at for offset, length in ranges.tolist() for at in range(offset, offset + length)}


def assert_apart(ranges: Ranges) -> None:
    """Ascending, none empty, none touching the next."""
    assert (ranges[:, 1] > 0).all()
    assert (ranges[1:, 0] > ranges[:-1, 0] + ranges[:-1, 1]).all()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=8), range_sets())
def test_a_union_is_what_lies_in_either(pairs, other):
    mine = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    both = union(mine, other)
    assert covered(both) == covered(mine) | covered(other)
    assert_apart(both)
    assert total(both) == len(covered(both))


@given(range_sets(), range_sets())
def test_without_is_what_lies_in_the_one_and_not_in_the_other(one, other):
    left = without(one, other)
    assert covered(left) == covered(one) - covered(other)
    assert_apart(left)


@given(range_sets(), range_sets())
def test_an_overlap_is_what_lies_in_both(mine, other):
    both = overlap(mine, other)
    assert covered(both) == covered(mine) & covered(other)
    assert (both[:, 1] > 0).all()
    assert (both[1:, 0] >= both[:-1].sum(1)).all()


@given(range_sets(), st.integers(1, 16), st.integers(72, 80))
def test_aligned_ranges_are_the_blocks_that_are_touched_up_to_the_end_of_the_disk(
    ranges, block_size, size
):
    found = aligned(ranges, block_size, size)
    blocks = {at // block_size for at in covered(ranges)}
    assert covered(found) == {at for at in range(size) if at // block_size in blocks}
    assert_apart(found)


@given(st.lists(st.booleans(), max_size=30))
def test_runs_of_flags_are_first_and_end_of_each_stretch(flags):
    found = runs_of(np.array(flags, np.bool_))
    assert [i for first, end in found for i in range(first, end)] == [
        i for i, flag in enumerate(flags) if flag
    ]
    assert all(end < first for (_, end), (first, _) in pairwise(found))


def test_two_tebibytes_of_single_blocks_stay_arrays():
    """A map of every second block of 64 KiB: 33 million blocks would not fit into objects."""
    blocks = np.arange(0, 2 << 20, 2, dtype=np.int64)  # of 128 GiB, to keep the test small
    block_map = BlockMap.from_blocks(128 << 30, 64 << 10, blocks, blocks << 16, UNALLOCATED)
    flat = flatten([BlockMap.uniform(128 << 30, 0), block_map])
    assert len(flat.starts) == 2 << 20
    assert total(flat.data_ranges()) == 128 << 30
