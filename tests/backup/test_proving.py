"""After how many backups by a tracker everything is read: counted from the points themselves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_record_texts import FULL
from vdbackup.backup.proving import nth, unproven, why_all
from vdbackup.consistency import Consistency, How
from vdbackup.errors import UsageError
from vdbackup.repository.model import ChangesFrom, Reading
from vdbackup.repository.policy import Policy

TRACKED = Reading(Consistency(How.FROZEN), ChangesFrom.TRACKER)


def made(reading: Reading | None) -> Any:
    """A set whose newest point was read so."""
    point = replace(FULL, reading=reading)
    return SimpleNamespace(latest_captured=lambda: point)


def test_each_point_by_a_tracker_counts_on_from_the_one_before() -> None:
    assert unproven(None) == unproven(FULL) == 0
    assert unproven(replace(FULL, reading=replace(TRACKED, unproven=7))) == 7
    scan = replace(TRACKED, changes_from=ChangesFrom.SCAN)
    assert unproven(replace(FULL, reading=scan)) == 0


def test_one_that_an_earlier_version_made_counts_for_one() -> None:
    assert unproven(replace(FULL, reading=TRACKED)) == 1


@pytest.mark.parametrize(("before", "reads_all"), [(0, False), (8, False), (9, True), (50, True)])
def test_the_tenth_reads_everything(before: int, reads_all: bool) -> None:
    latest = made(replace(TRACKED, unproven=before) if before else None)
    why = why_all(latest, Policy(), asked=False)
    assert why == ("every 10th backup reads everything, as a proof" if reads_all else "")


def test_each_does_or_none_where_the_policy_says_so() -> None:
    assert why_all(made(None), Policy(read_all_every=1), asked=False).startswith("each backup")
    many = made(replace(TRACKED, unproven=1000))
    assert why_all(many, Policy(read_all_every=None), asked=False) == ""
    assert why_all(many, Policy(read_all_every=None), asked=True) == "it was asked for"


def test_a_policy_of_every_0th_is_none() -> None:
    with pytest.raises(UsageError, match="Of 0 backups"):
        Policy(read_all_every=0)


def test_numbers_are_said_as_english_does() -> None:
    said = [nth(each).removeprefix("every ") for each in (1, 2, 3, 4, 11, 12, 13, 21, 112, 1003)]
    assert said == ["each", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th", "1,003rd"]
