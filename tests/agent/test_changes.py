"""Marks become stretches of a device, and a moment is written down and read again."""

from __future__ import annotations

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st

from vdbackup import records
from vdbackup.agent.changes import BLOCK, PAGE, Changes, Harvest, Token
from vdbackup.sources.live_rounds import ranges_of

PAGES = 2
BLOCKS = 8 * PAGE * PAGES
SECTOR = 512


def changes(blocks: set[int], start: int, end: int) -> Changes:
    marks = bytearray(PAGE * PAGES)
    for block in blocks:
        marks[block // 8] |= 1 << block % 8
    return Changes(bytes(marks), start, end - start)


places = st.sets(
    st.one_of(
        st.integers(0, 70), st.integers(8 * PAGE - 40, 8 * PAGE + 40), st.integers(0, BLOCKS - 1)
    )
)
sectors = st.integers(0, BLOCKS * BLOCK // SECTOR)


@given(places, sectors, sectors)
def test_stretches_hold_what_is_marked_in_the_device_and_nothing_else(blocks, one, other):
    start, end = sorted((one * SECTOR, other * SECTOR))
    assume(start < end)
    ranges = ranges_of(changes(blocks, start, end)).tolist()
    runs = [(start + at, start + at + length) for at, length in ranges]
    told = {block for low, high in runs for block in range(low // BLOCK, -(-high // BLOCK))}
    assert told == {each for each in blocks if each * BLOCK < end and (each + 1) * BLOCK > start}
    for low, high in runs:  # whole blocks, but for the device's own ends
        assert low == start or (low > start and low % BLOCK == 0)
        assert high == end or (high < end and high % BLOCK == 0)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(runs))


@given(places, places)
def test_what_changed_before_and_after_a_moment_is_all_that_changed(before, after):
    earlier = Harvest(None, changes(before, 0, BLOCKS * BLOCK), "")
    told = Harvest(None, changes(after, 0, BLOCKS * BLOCK), "").after(earlier)
    assert told.changes == changes(before | after, 0, BLOCKS * BLOCK)


def test_what_is_not_known_of_either_part_is_not_known_of_both():
    known, unknown = Harvest(None, changes({1}, 0, BLOCK * 8), ""), Harvest(None, None, "it slept")
    for told in (known.after(unknown), unknown.after(known)):
        assert (told.changes, told.reason) == (None, "it slept")


def test_a_moment_can_stand_in_a_record():
    token = Token("0123456789abcdef0123456789abcdef", 7, 1 << 20, 5 << 40)
    assert records.exact(Token, records.to_json(token)) == token
