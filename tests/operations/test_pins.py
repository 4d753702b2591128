"""A pinned point stays whatever is done, and its note with it: merges, repairs, conversions."""

from __future__ import annotations

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.backup import convert, repair
from vdbackup.errors import PointNotFound, PointPinned, UsageError
from vdbackup.jobs import Task
from vdbackup.operations import pins
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import MAX_PINS, Pin, RecoveryPoint


def back_up(lab: Lab, times: int) -> tuple[RecoveryPoint, ...]:
    for number in range(times):
        lab.poke(number * 65536, noise(65536, number))
        lab.backup()
    return lab.set.points


def pin(lab: Lab, point: RecoveryPoint, note: str | None = "kept") -> Pin | None:
    return pins.run(pins.plan(lab.repository, "disk", point.id, note), Task()).pin


def test_a_pinned_point_is_not_merged_away_and_one_can_be_merged_into_it_no_more(lab: Lab) -> None:
    first, second, third = back_up(lab, 3)
    pin(lab, second)
    with pytest.raises(PointPinned, match=r"Point 2 is pinned \(kept\)"):
        lab.merge(third)
    with pytest.raises(PointPinned):
        lab.delete(second)
    assert lab.merge(second).sequence == 2  # its moment is the one that stays
    assert [(each.sequence, each.note) for each in lab.set.settings.pins] == [(2, "kept")]
    assert lab.set.pin(lab.set.points[0]) is not None
    with pytest.raises(PointPinned):
        lab.merge(lab.set.points[1])
    lab.check_all()
    assert first.id in lab.set.points[0].merged


def test_an_unpinned_point_is_like_any_other(lab: Lab) -> None:
    first, _ = back_up(lab, 2)
    pin(lab, first)
    assert pin(lab, first, None) is None
    lab.delete(first)
    assert [point.sequence for point in lab.set.points] == [2]


def test_a_note_can_be_changed_and_may_be_empty(lab: Lab) -> None:
    (first,) = back_up(lab, 1)
    for note in ("once", "", "übermorgen\n\udcff"):
        pin(lab, first, note)
        assert [each.note for each in lab.set.settings.pins] == [note]


def test_pins_outlive_a_lost_manifest_and_a_lost_record_of_the_set(lab: Lab) -> None:
    first, _ = back_up(lab, 2)
    pin(lab, first)
    manifest_path(lab.set_folder, first).write_text("{")
    repair.run(lab.repository.path, Task())
    (lab.set_folder / "set.json").unlink()
    repair.run(lab.repository.path, Task())
    assert lab.set.pin(lab.set.points[0]) is not None
    with pytest.raises(PointPinned):
        lab.delete(lab.set.points[0])


def test_a_converted_set_has_the_same_pins(lab: Lab) -> None:
    _, second = back_up(lab, 2)
    pin(lab, second)
    other = "vhd" if lab.disk_format != "vhd" else "qcow2"
    made = convert.run(convert.plan(lab.repository, "disk", other), Task())
    assert [made.pin(point) is not None for point in made.points] == [False, True]


def test_a_point_that_is_gone_cannot_be_pinned(lab: Lab) -> None:
    first, second = back_up(lab, 2)
    plan = pins.plan(lab.repository, "disk", first.id, "too late")
    lab.delete(first)
    with pytest.raises(PointNotFound):
        pins.run(plan, Task())
    assert lab.set.settings.pins == ()
    assert lab.set.points[0].id == second.id


def test_there_is_an_end_to_pins_and_to_notes(lab: Lab) -> None:
    (first,) = back_up(lab, 1)
    with pytest.raises(UsageError, match="1,001 characters"):
        pins.plan(lab.repository, "disk", first.id, "a" * 1001)
    many = tuple(Pin(number, "", "2026-11-28") for number in range(2, MAX_PINS + 2))
    settings = lab.set.settings
    lab.repository.save_settings("disk", type(settings)(**{**vars(settings), "pins": many}))
    with pytest.raises(UsageError, match="1,000 pinned"):
        pins.plan(lab.repository, "disk", first.id, "")
