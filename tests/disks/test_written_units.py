"""Which units were written since the last flush: against a plain set of numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.disks.disk import UNIT
from vdbackup.disks.written_units import WrittenUnits

UNITS, PER_GROUP = 70, 16
SIZE = UNITS * UNIT - 512  # the last unit is short, and so is the last group

writes = st.lists(
    st.tuples(st.integers(0, UNITS - 1), st.integers(0, 40)).map(
        lambda each: (each[0] * UNIT, min(each[1] * UNIT, SIZE - each[0] * UNIT))
    )
)


def units_of(offset: int, length: int) -> set[int]:
    return set(range(offset // UNIT, -(-(offset + length) // UNIT))) if length else set()


@given(writes)
def test_a_unit_counts_as_written_when_some_of_its_bytes_were(marked):
    written, expected = WrittenUnits(SIZE, PER_GROUP * UNIT, UNIT), set()
    for offset, length in marked:
        written.mark(offset, length)
        expected |= units_of(offset, length)
    assert set(np.flatnonzero(written.between(0, SIZE)).tolist()) == expected
    assert written.groups() == sorted({unit // PER_GROUP for unit in expected})
    for group in range(-(-UNITS // PER_GROUP)):
        here = np.flatnonzero(written.in_group(group)) + group * PER_GROUP
        assert set(here.tolist()) == {unit for unit in expected if unit // PER_GROUP == group}
    written.clear()
    assert written.groups() == []
    assert not written.between(0, SIZE).any()


def test_a_group_can_be_marked_of_which_nothing_was_written():
    written = WrittenUnits(SIZE, PER_GROUP * UNIT, UNIT)
    written.mark_group(3)
    assert written.groups() == [3]
    assert not written.in_group(3).any()
    written.clear()
    assert written.groups() == []


def test_a_write_of_nothing_marks_nothing():
    written = WrittenUnits(SIZE, PER_GROUP * UNIT, UNIT)
    written.mark(3 * UNIT, 0)
    assert written.groups() == []
