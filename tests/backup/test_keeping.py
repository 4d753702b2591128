"""Which points stay by a policy: over years of them, as a plain model says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.backup.keeping import Layer, Moment, Rule, Verdict, decide
from vdbackup.repository.policy import Policy

START = datetime(2022, 1, 1, tzinfo=UTC)
# one that puts the clock on in winter, one with another date at most hours, one by half an hour
ZONES = ("Europe/Berlin", "America/Santiago", "Pacific/Kiritimati", "Australia/Lord_Howe")
NUMBERS = st.one_of(st.none(), st.integers(1, 30))
POLICIES = st.builds(
    Policy,
    keep=NUMBERS,
    keep_within=st.one_of(st.none(), st.integers(1, 24 * 90)),
    daily=NUMBERS,
    weekly=NUMBERS,
    monthly=NUMBERS,
    yearly=st.one_of(st.none(), st.integers(1, 3)),
    at_most=NUMBERS,
)
GAPS = st.lists(
    st.one_of(st.integers(1, 180), st.integers(60, 60 * 36), st.sampled_from([1440, 60 * 24 * 45])),
    min_size=1,
    max_size=300,
)
"""Minutes from point to point: many in a day, one a day, and months without any."""


def moments_after(gaps: Sequence[int], pinned: Iterable[int] = ()) -> list[Moment]:
    moments, at = [], START
    for number, gap in enumerate(gaps, start=1):
        at += timedelta(minutes=gap)
        moments.append(Moment(number, at, pinned=number in set(pinned)))
    return moments


def staying(verdicts: Iterable[Verdict]) -> set[int]:
    return {each.moment.number for each in verdicts if each.stays}


def model(moments: Sequence[Moment], policy: Policy, now: datetime, zone: ZoneInfo) -> set[int]:
    """The same for clocks that are right: sets, and no order but that of numbers."""
    if not moments:
        return set()
    numbers = sorted((each.number for each in moments), reverse=True)
    keys: list[tuple[int | None, Callable[[date], object]]] = [
        (policy.daily, lambda day: day),
        (policy.weekly, lambda day: day - timedelta(days=day.weekday())),
        (policy.monthly, lambda day: day.replace(day=1)),
        (policy.yearly, lambda day: day.replace(month=1, day=1)),
    ]
    kept: set[int] = set() if policy.chooses else set(numbers)
    kept |= set(numbers[: policy.keep or 0])
    if policy.keep_within is not None:
        last = min(now, moments[-1].at)
        kept |= {m.number for m in moments if last - m.at <= timedelta(hours=policy.keep_within)}
    pinned = {each.number for each in moments if each.pinned}
    for most, key in keys:
        newest: dict[object, int] = {}
        for each in moments:
            newest[key(each.at.astimezone(zone).date())] = each.number
        kept |= set(sorted(newest.values(), reverse=True)[: most or 0])
    counted = sorted(kept - pinned, reverse=True)
    return set(counted if policy.at_most is None else counted[: policy.at_most]) | pinned


@given(GAPS, POLICIES, st.sets(st.integers(1, 300), max_size=4), st.sampled_from(ZONES))
def test_what_stays_of_years_of_points_is_what_the_model_says(
    gaps: list[int], policy: Policy, pinned: set[int], name: str
) -> None:
    moments, zone = moments_after(gaps, pinned), ZoneInfo(name)
    crowd = policy.at_most is not None and bool(pinned)
    now = moments[-1].at + timedelta(hours=1)
    found = staying(decide(moments, policy, now, zone))
    expected = model(moments, policy, now, zone)
    if crowd:  # a pinned point stands for its periods, so that no older one does
        assert found <= expected | {each.number for each in moments if each.pinned}
    else:
        assert found == expected


@given(GAPS, POLICIES, st.sampled_from(ZONES))
def test_the_newest_always_stays_and_nothing_is_said_of_a_point_twice(
    gaps: list[int], policy: Policy, name: str
) -> None:
    moments = moments_after(gaps)
    verdicts = decide(moments, policy, moments[-1].at, ZoneInfo(name))
    assert verdicts[0].moment == moments[-1]
    assert verdicts[0].stays
    assert sorted(each.moment.number for each in verdicts) == list(range(1, len(moments) + 1))
    for each in verdicts:
        assert not (each.stays and (each.instead or each.crowded))
        if each.instead:
            assert each.instead in staying(verdicts)
            assert each.instead > each.moment.number


@given(GAPS, POLICIES.filter(lambda policy: policy.at_most is None), st.sampled_from(ZONES))
def test_what_goes_backup_by_backup_is_what_would_go_at_once_at_the_end(
    gaps: list[int], policy: Policy, name: str
) -> None:
    """No point goes today that would have to be there tomorrow."""
    moments, zone = moments_after(gaps[:80]), ZoneInfo(name)
    there: list[Moment] = []
    for moment in moments:
        there.append(moment)
        kept = staying(decide(there, policy, moment.at, zone))
        there = [each for each in there if each.number in kept]
    assert {each.number for each in there} == staying(decide(moments, policy, there[-1].at, zone))


@given(GAPS, POLICIES, st.data())
def test_a_damaged_point_pushes_out_no_whole_one(
    gaps: list[int], policy: Policy, data: st.DataObject
) -> None:
    moments = moments_after(gaps)
    damaged = data.draw(st.sets(st.sampled_from(range(1, len(moments) + 1))))
    marked = [Moment(m.number, m.at, counts=m.number not in damaged) for m in moments]
    whole = [each for each in marked if each.counts]
    now = moments[-1].at + timedelta(days=1)
    with_them = staying(decide(marked, policy, now, UTC)) - damaged
    assert with_them == staying(decide(whole, policy, now, UTC))


@given(GAPS, POLICIES, st.integers(1, 300), st.integers(-3650, 3650))
def test_a_clock_that_was_wrong_once_loses_the_newest_points_by_number_nothing(
    gaps: list[int], policy: Policy, which: int, days: int
) -> None:
    """Which point is newer is said by its number, whatever its clock said."""
    moments = moments_after(gaps)
    place = which % len(moments)
    wrong = moments[place]
    moments[place] = Moment(wrong.number, wrong.at + timedelta(days=days))
    kept = staying(decide(moments, policy, moments[-1].at, UTC))
    numbers = range(len(moments), 0, -1)
    most = min(policy.keep or 1, policy.at_most or len(moments))
    assert set(numbers[:most]) <= kept


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_the_day_on_which_the_clock_is_changed_is_one_day(day: date, hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = datetime.combine(day, time(), zone).astimezone(UTC)
    moments = [Moment(hour + 1, first + timedelta(hours=hour)) for hour in range(hours + 1)]
    verdicts = decide(moments, Policy(daily=10), moments[-1].at, zone)
    assert staying(verdicts) == {hours, hours + 1}
    assert {each.instead for each in verdicts if not each.stays} == {hours}


def test_a_week_goes_over_the_end_of_a_year() -> None:
    days = [datetime(2026, 12, 31, 12, tzinfo=UTC), datetime(2027, 1, 1, 12, tzinfo=UTC)]
    moments = [Moment(number, at) for number, at in enumerate(days, start=1)]
    (second, first) = decide(moments, Policy(weekly=5), days[-1], UTC)
    assert (second.by, first.instead) == ((Rule.WEEKLY,), 2)


def test_a_month_without_the_computer_costs_no_daily_point() -> None:
    moments = [Moment(number, START + timedelta(days=number)) for number in range(1, 8)]
    later = Moment(8, START + timedelta(days=60))
    assert staying(decide([*moments, later], Policy(daily=8), later.at, UTC)) == set(range(1, 9))


SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=60)


def row(sizes: Sequence[int], hours: int = 1, pinned: Iterable[int] = ()) -> list[Moment]:
    """Points on one chain."""
    return [
        Moment(
            number,
            START + timedelta(hours=hours * number),
            pinned=number in set(pinned),
            layers=(Layer(str(number), str(number - 1) if number > 1 else "", size),),
        )
        for number, size in enumerate(sizes, start=1)
    ]


def space(moments: Sequence[Moment], kept: set[int]) -> int:
    """What is left holds at least, done one by one as retention does it.

    The oldest that is to go and can is deleted, or what reads through it rolled into it.
    """
    numbers = {layer.name: each.number for each in moments for layer in each.layers}
    size = {layer.name: layer.size for each in moments for layer in each.layers}
    below = {layer.name: layer.below for each in moments for layer in each.layers}
    going = [name for name in size if numbers[name] not in kept]
    while True:
        able = (name for name in going if list(below.values()).count(name) <= 1)
        if (name := next(able, None)) is None:
            return sum(size.values())
        going.remove(name)
        for child in [child for child, on in below.items() if on == name]:
            below[child], size[child] = below[name], max(size[child], size[name])
        del below[name], size[name]


@given(SIZES, POLICIES, st.integers(1, 300), st.sets(st.integers(1, 60), max_size=3))
def test_as_many_of_the_newest_stay_as_hold_so_much_together(
    sizes: list[int], policy: Policy, limit: int, pinned: set[int]
) -> None:
    check_kept_of(row(sizes, 11, pinned), policy, limit)


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=2), min_size=1, max_size=25),
    POLICIES,
    st.integers(1, 300),
    st.sets(st.integers(1, 25), max_size=3),
    st.data(),
)
def test_what_lies_on_other_chains_takes_no_space_once_it_has_gone(
    sizes: list[list[int]], policy: Policy, limit: int, pinned: set[int], data: st.DataObject
) -> None:
    """Fulls, differentials and increments in any order, of one disk or of a machine's."""
    moments: list[Moment] = []
    for number, each in enumerate(sizes, start=1):
        layers = []
        for disk, size in enumerate(each):
            below = data.draw(st.integers(0, number - 1))
            layers.append(Layer(f"{disk} {number}", f"{disk} {below}" if below else "", size))
        at = START + timedelta(hours=11 * number)
        moments.append(Moment(number, at, pinned=number in pinned, layers=tuple(layers)))
    check_kept_of(moments, policy, limit)


def check_kept_of(moments: Sequence[Moment], policy: Policy, limit: int) -> None:
    """No more goes than the limit needs, and no less."""
    now, last = moments[-1].at, moments[-1].number
    usual = staying(decide(moments, policy, now, UTC))
    found = staying(decide(moments, replace(policy, at_most_bytes=limit), now, UTC))
    always = {each.number for each in moments if each.pinned} | {last}
    choices = [
        always | {number for number in usual if number >= oldest} for oldest in range(1, last + 2)
    ]
    fitting = [kept for kept in choices if space(moments, kept) <= limit]
    assert found == max([*fitting, always], key=len)


@given(SIZES, st.integers(1, 300), st.data())
def test_a_damaged_point_takes_no_space_of_a_whole_one(
    sizes: list[int], limit: int, data: st.DataObject
) -> None:
    moments = row(sizes)
    bad = data.draw(st.sets(st.integers(1, len(sizes) - 1), max_size=3)) if sizes[1:] else set()
    now, policy = moments[-1].at, Policy(at_most_bytes=limit)
    damaged = [replace(each, counts=each.number not in bad) for each in moments]
    empty = [
        replace(each, layers=tuple(replace(layer, size=0) for layer in each.layers))
        if each.number in bad
        else each
        for each in moments
    ]
    less = staying(decide(empty, policy, now, UTC))
    assert staying(decide(damaged, policy, now, UTC)) - bad == less - bad


def test_why_a_point_has_no_room_is_said_and_older_ones_stay_for_nothing_that_goes() -> None:
    moments = row([10] * 6, 9)
    verdicts = decide(moments, Policy(keep=2, daily=9, at_most_bytes=25), moments[-1].at, UTC)
    assert [each.stays for each in verdicts] == [True, True, False, False, False, False]
    assert any(each.too_large for each in verdicts)
    assert all(each.instead in (None, 5, 6) for each in verdicts)


def test_a_pinned_point_stays_beside_as_many_as_there_may_be() -> None:
    moments = [Moment(n, START + timedelta(days=n), pinned=n == 1) for n in range(1, 6)]
    verdicts = decide(moments, Policy(at_most=2), moments[-1].at, UTC)
    assert staying(verdicts) == {1, 4, 5}
    assert [each.crowded for each in verdicts] == [False, False, True, True, False]


def test_moments_of_every_century_can_be_compared() -> None:
    ends = [datetime(2, 1, 1, tzinfo=UTC), datetime(9997, 12, 30, tzinfo=UTC)]
    moments = [Moment(number, at) for number, at in enumerate(ends, start=1)]
    for now in ends:
        decide(moments, Policy(keep_within=1_000_000, weekly=1), now)
