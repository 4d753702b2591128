"""A disk's partitions on one of another size: what is planned fits, whatever they were."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.volumes.layout import UNIT, DoesNotFit, Place, Volume, fitted

MIB = 1 << 20
SECTOR = 512


@st.composite
def tables(draw: st.DrawFn) -> list[Volume]:
    """Up to eight partitions with gaps between them, numbered in any order, aligned or not."""
    count = draw(st.integers(1, 8))
    numbers = draw(st.permutations(range(1, count + 1)))
    at, found = draw(st.integers(1, 4096)) * SECTOR, []
    for number in numbers:
        size = draw(st.integers(1, 64 * MIB // SECTOR)) * SECTOR
        least = draw(st.one_of(st.just(size), st.integers(SECTOR, size)))
        found.append(Volume(number, at, size, least, draw(st.booleans()), draw(st.booleans())))
        at += size + draw(st.sampled_from([0, 0, SECTOR, MIB, 3 * MIB + SECTOR]))
    return draw(st.permutations(found))


def tried(
    volumes: list[Volume], end: int, grown: int | None = None
) -> Mapping[int, Place] | DoesNotFit:
    try:
        return fitted(volumes, end, grown)
    except DoesNotFit as refusal:
        return refusal


def ordered(volumes: list[Volume]) -> list[Volume]:
    return sorted(volumes, key=lambda each: each.start)


@given(tables(), st.integers(0, 600 * MIB), st.one_of(st.none(), st.integers(1, 9)))
def test_what_is_planned_fits(volumes: list[Volume], end: int, grown: int | None) -> None:
    before = ordered(volumes)
    places = tried(volumes, end, grown)
    if isinstance(places, DoesNotFit):
        assert before[-1].end > end
        assert places.needed > end - UNIT  # sizes change by whole units
        return
    assert places.keys() == {each.number for each in volumes}
    last = 0
    for each in before:
        place = places[each.number]
        assert place.start >= last  # in the same order, not overlapping
        assert (place.start - each.start) % UNIT == 0  # aligned as before
        assert place.size >= each.least
        assert place.size <= each.size or each.grows
        if not each.moves:
            assert place.start == each.start
        last = place.start + place.size
    assert last <= end


@given(tables(), st.integers(0, 600 * MIB))
def test_gaps_stay_as_they_were(volumes: list[Volume], end: int) -> None:
    places = tried(volumes, end)
    if isinstance(places, DoesNotFit):
        return
    for one, other in itertools.pairwise(ordered(volumes)):
        here, there = places[one.number], places[other.number]
        assert there.start - (here.start + here.size) == other.start - one.end


@given(tables())
def test_on_a_disk_of_the_same_size_nothing_changes(volumes: list[Volume]) -> None:
    places = fitted(volumes, ordered(volumes)[-1].end)
    assert places == {each.number: Place(each.start, each.size) for each in volumes}


@given(tables())
def test_what_is_refused_fits_a_disk_of_the_size_that_is_named(volumes: list[Volume]) -> None:
    refusal = tried(volumes, 0)
    if isinstance(refusal, DoesNotFit):
        places = fitted(volumes, refusal.needed)
        assert max(each.start + each.size for each in places.values()) <= refusal.needed
        with pytest.raises(DoesNotFit):
            fitted(volumes, refusal.needed - UNIT)


@given(tables(), st.integers(1, 500))
def test_one_partition_takes_all_that_is_new(volumes: list[Volume], more: int) -> None:
    end = ordered(volumes)[-1].end + more * UNIT
    places = fitted(volumes, end)
    changed = [each for each in volumes if places[each.number].size != each.size]
    candidates = [
        each
        for at, each in enumerate(ordered(volumes))
        if each.grows and all(other.moves for other in ordered(volumes)[at + 1 :])
    ]
    assert changed == candidates[-1:]
    assert all(places[each.number].size == each.size + more * UNIT for each in changed)


ESP, ROOT, SWAP = (
    Volume(1, MIB, 64 * MIB, 64 * MIB),
    Volume(2, 65 * MIB, 3400 * MIB, 1400 * MIB, grows=True),
    Volume(3, 3465 * MIB, 600 * MIB, 600 * MIB),
)


def test_the_root_grows_and_swap_behind_it_moves() -> None:
    assert fitted([ESP, ROOT, SWAP], 8000 * MIB) == {
        1: Place(MIB, 64 * MIB),
        2: Place(65 * MIB, (3400 + 3935) * MIB),
        3: Place((3465 + 3935) * MIB, 600 * MIB),
    }


def test_the_root_gets_smaller_and_swap_behind_it_moves() -> None:
    assert fitted([ESP, ROOT, SWAP], 2100 * MIB) == {
        1: Place(MIB, 64 * MIB),
        2: Place(65 * MIB, 1435 * MIB),
        3: Place(1500 * MIB, 600 * MIB),
    }
    with pytest.raises(DoesNotFit) as refused:
        fitted([ESP, ROOT, SWAP], 2000 * MIB)
    assert refused.value.needed == 2065 * MIB


def test_what_can_spare_most_gives_first() -> None:
    home = Volume(4, 4065 * MIB, 1000 * MIB, 900 * MIB, grows=True)
    places = fitted([ESP, ROOT, SWAP, home], 3065 * MIB)
    assert (places[2].size, places[4].size) == (1400 * MIB, 1000 * MIB)
    places = fitted([ESP, ROOT, SWAP, home], 3000 * MIB)
    assert (places[2].size, places[4].size) == (1400 * MIB, 935 * MIB)
