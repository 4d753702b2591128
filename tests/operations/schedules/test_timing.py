"""When a scheduled backup is due: once in each slot, whatever clocks do."""

from __future__ import annotations

import itertools
import os
import subprocess
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.errors import UsageError
from vdbackup.operations.schedules.timing import Timing

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("Europe/Berlin", "America/Santiago", "America/New_York", "Asia/Kathmandu", "UTC")
TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
TIMINGS = st.one_of(
    st.sampled_from(["1m", "5m", "15m", "30m", "60m", "120m", "360m", "hourly"]).map(Timing),
    st.builds(Timing, st.sampled_from(["daily", "weekly", "monthly"]), TIMES),
)
MOMENTS = st.integers(0, 4 * 366 * 24 * 60).map(
    lambda minutes: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@given(TIMINGS, MOMENTS, st.sampled_from(ZONES))
def test_a_slot_has_begun_and_none_that_is_later_has(
    timing: Timing, now: datetime, name: str
) -> None:
    zone = ZoneInfo(name)
    slot = timing.slot(now, zone)
    interval = timing.interval
    assert interval is not None
    assert slot <= now
    assert now - slot < interval + timedelta(hours=1)  # and a clock that is put back
    assert timing.slot(slot, zone) == slot
    before = timing.slot(slot - timedelta(seconds=1), zone)
    assert before < slot


@given(TIMINGS, MOMENTS, st.sampled_from(ZONES))
def test_time_goes_on_and_slots_do(timing: Timing, now: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    steps = [timing.slot(now + timedelta(minutes=7 * step), zone) for step in range(40)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("at", ["02:00", "02:30", "02:59", "03:00", "00:00", "12:30"])
@pytest.mark.parametrize("first", [datetime(2026, 3, 26), datetime(2026, 10, 22)])  # noqa: DTZ001
def test_where_the_clock_is_changed_each_day_has_one_slot(at: str, first: datetime) -> None:
    begin = first.replace(tzinfo=BERLIN).astimezone(UTC)
    timing = Timing("daily", at)
    moments = [begin + timedelta(minutes=5 * step) for step in range(12 * 24 * 7)]
    slots = sorted({timing.slot(moment, BERLIN) for moment in moments})[1:]
    days = [slot.astimezone(BERLIN).date() for slot in slots]
    assert days == sorted(set(days))
    assert [(later - day).days for day, later in itertools.pairwise(days)] == [1] * (len(days) - 1)


@pytest.mark.parametrize(
    ("every", "at"),
    [
        ("7m", ""), ("0m", ""), ("90m", ""), ("1441m", ""), ("yearly", ""), ("", ""),
        ("daily", "2:30"), ("daily", "24:00"), ("15m", "02:30"), ("login", "02:30"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(every: str, at: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Timing(every, at)
    assert refusal.value.advice


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Timing("15m"), "every 15 minutes"),
        (Timing("hourly"), "hourly"),
        (Timing("daily", "02:30"), "daily at 02:30"),
        (Timing("weekly"), "weekly on Mondays at 12:30"),
        (Timing("monthly"), "monthly on the 1st at 12:30"),
        (Timing("plug"), "when the drive is plugged in"),
    ],
)
def test_it_is_said_in_words(timing: Timing, words: str) -> None:
    assert timing.words == words


def elapses(expression: str, zone: str, base: str, count: int) -> list[datetime]:
    """When systemd itself says that it elapses."""
    said = subprocess.run(
        [
            "systemd-analyze", "calendar", f"--base-time={base}", f"--iterations={count}",
            expression,
        ],
        env={**os.environ, "TZ": zone, "LC_ALL": "C.UTF-8"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    lines = [line.strip() for line in said.splitlines()]
    moments = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("Next elapse:", "Iter. #", "Iteration #")):  # the last from 257 on
            local = line.partition(": ")[2].split()[1:3]
            universal = following.partition(": ")[2].split()[1:3]
            text = " ".join(universal if following.startswith("(in UTC)") else local)
            moments.append(datetime.fromisoformat(text).replace(tzinfo=UTC))
    return moments


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("base", ["2027-03-10 12:00:00", "2027-10-28 12:00:00"])
@pytest.mark.parametrize(
    "timing", [Timing("15m"), Timing("120m"), Timing("daily", "02:30"), Timing("daily", "12:30")]
)
def test_systemd_elapses_in_each_slot_where_the_clock_is_changed(
    timing: Timing, base: str, zone: str
) -> None:
    """The oracle is systemd: it passes over 02:30 where a clock goes from 02:00 to 03:00."""
    count = {"15m": 600, "120m": 80}.get(timing.every, 30)
    lists = [elapses(each, zone, base, count) for each in timing.calendar]
    end = min(each[-1] for each in lists)
    moments = sorted({moment for each in lists for moment in each if moment <= end})
    assert len(moments) > 20
    slots = [timing.slot(moment, ZoneInfo(zone)) for moment in moments]
    interval = timing.interval
    assert interval is not None
    longest = max(b - a for a, b in itertools.pairwise(slots))
    assert longest <= interval + timedelta(hours=1)
    days = {slot.astimezone(ZoneInfo(zone)).date() for slot in slots}
    assert (max(days) - min(days)).days + 1 == len(days)
