"""Retention: after a capture the newest points stay, and what they need."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.crash.storage import MIB, storage
from tests.noise import noise
from vdbackup.backup import forecast, merge, retention
from vdbackup.backup.forecast import Outlook
from vdbackup.disks import formats
from vdbackup.disks.disk import VirtualDisk
from vdbackup.errors import BackupError, Damaged, UsageError
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import Check, PointType, Promotion
from vdbackup.repository.policy import Policy


def sequences(lab: Lab) -> list[int]:
    return [point.sequence for point in lab.set.points]


def now() -> datetime:
    return datetime.now(UTC)


def changed(lab: Lab, number: int) -> None:
    lab.poke(number * BLOCK, noise(2 * BLOCK, number))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_points_are_kept_and_older_ones_rolled_together(lab, keep):
    for number in range(6):
        changed(lab, number)
        lab.backup(policy=Policy(keep) if not number else None)
        lab.check_all()
    assert sequences(lab) == list(range(7 - keep, 7))
    assert lab.set.points[0].type == PointType.FULL


def test_without_a_policy_everything_is_kept(lab):
    for number in range(4):
        changed(lab, number)
        lab.backup()
    assert sequences(lab) == [1, 2, 3, 4]


def test_what_was_merged_is_told(lab):
    lab.backup(policy=Policy(1))
    changed(lab, 1)
    assert lab.capture().notes == ("Point 2 was rolled into point 1.",)


def test_the_result_of_the_capture_is_the_point_as_it_is_after_the_merge(lab):
    lab.backup(policy=Policy(1))
    changed(lab, 1)
    result = lab.capture()
    assert result.point == lab.set.points[0]
    assert result.point.type == PointType.FULL


def test_an_old_full_that_nothing_needs_is_deleted_with_its_chain(lab):
    lab.backup(policy=Policy(2))
    changed(lab, 1)
    lab.backup()
    changed(lab, 2)
    lab.backup("full")
    changed(lab, 3)
    lab.backup()
    assert sequences(lab) == [3, 4]
    lab.check_all()


def test_a_full_that_several_read_through_stays_until_they_are_gone(lab):
    lab.backup(policy=Policy(2))
    for number in range(4):
        changed(lab, number)
        lab.backup("differential")
        lab.check_all()
    assert sequences(lab) == [1, 4, 5]
    lab.backup()
    lab.check_all()


@pytest.mark.parametrize("keep", [0, -3])
def test_a_policy_that_would_keep_nothing_is_refused(keep):
    with pytest.raises(UsageError) as refusal:
        Policy(keep)
    assert refusal.value.advice


def test_a_policy_can_be_set_for_a_set_that_is_there(lab):
    for number in range(4):
        changed(lab, number)
        lab.backup()
    lab.repository.set_policy("disk", Policy(2))
    assert sequences(lab) == [1, 2, 3, 4]
    changed(lab, 5)
    lab.backup()
    assert sequences(lab) == [4, 5]
    lab.check_all()


def test_a_policy_that_fails_leaves_the_new_point_with_a_warning(lab):
    lab.backup(policy=Policy(1))
    changed(lab, 1)
    # a layer that goes missing while the next capture runs cannot be merged into
    first = lab.set.points[0]
    result = lab.capture(report=lambda _: lab.layer(first).unlink(missing_ok=True))
    (warning,) = result.warnings
    assert warning.startswith("Points 1, 2 are damaged and do not count among those that are kept")
    assert first.disk in warning
    assert sequences(lab) == [1, 2]


def test_each_backup_says_that_a_damaged_manifest_keeps_all_even_where_nothing_is_due(lab):
    first = lab.backup(policy=Policy(5))
    manifest_path(lab.set_folder, first).write_text("{")
    (warning,) = lab.capture("full").warnings
    assert warning.startswith("disk has damaged manifests: 0001-full.json. Until a repair")


def test_a_damaged_point_pushes_out_no_whole_one(lab):
    lab.backup(policy=Policy(2))
    changed(lab, 1)
    lab.backup("full")
    changed(lab, 2)
    lab.backup("full")
    third = lab.set.points[-1]
    lab.layer(third).unlink()
    result = lab.capture("full")
    assert sequences(lab) == [2, 3, 4]
    (warning,) = [each for each in result.warnings if "does not count" in each]
    assert "Point 3 is damaged" in warning
    assert third.disk in warning


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])  # a kind that has no class, too
def test_a_layer_that_cannot_be_read_stops_the_policy_of_no_other_chain(lab, monkeypatch, number):
    for place in range(3):
        changed(lab, place)
        lab.backup("full" if place == 2 else "auto")
    lab.repository.set_policy("disk", Policy(2))
    bad = lab.layer(lab.set.points[-1])
    opened = formats.open_disk

    def fails(path: Path, *options: object) -> VirtualDisk:
        if path == bad:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *options)

    monkeypatch.setattr(formats, "open_disk", fails)
    result = lab.capture("full")
    assert sequences(lab) == [2, 3, 4]
    (warning,) = result.warnings
    assert warning.startswith("Point 3 is damaged and does not count")
    assert bad.name in warning
    result = lab.capture("full")
    assert sequences(lab) == [3, 4, 5]
    (warning,) = result.warnings
    assert warning.startswith("Point 3 is due to go and stays")
    assert bad.name in warning


def test_a_point_that_a_verification_found_damaged_does_not_count(lab):
    lab.backup(policy=Policy(1))
    changed(lab, 1)
    lab.backup("full")
    second = lab.set.points[-1]
    lab.repository.save_point("disk", replace(second, verified=Check("2026-01-01", ok=False)))
    lab.repository.set_policy("disk", Policy(2))
    lab.backup("full")
    lab.backup("full")
    assert sequences(lab) == [2, 3, 4]


@pytest.mark.parametrize("error", [BackupError("A virtual machine runs."), Damaged("It is torn.")])
def test_a_policys_warning_holds_what_the_merge_said(lab, monkeypatch, error):
    lab.backup(policy=Policy(1))
    changed(lab, 1)

    def refuses(*_: object) -> None:
        raise error

    monkeypatch.setattr(merge, "merge_locked", refuses)
    result = lab.capture()
    assert error.title in result.warnings[0]
    assert sequences(lab) == [1, 2]
    lab.check_all()


def test_full_storage_during_the_merge_leaves_the_new_point_with_a_warning(lab, monkeypatch):
    lab.backup(policy=Policy(1))
    changed(lab, 1)

    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge, "merge_locked", is_full)
    result = lab.capture()
    assert "full" in result.warnings[0]
    assert sequences(lab) == [1, 2]


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_the_points_that_a_policy_takes_are_foretold(lab, keep):
    for number, kind in enumerate(("auto", "auto", "differential", "full", "auto")):
        changed(lab, number)
        lab.backup(kind)
    before = sequences(lab)
    foretold = [
        point.sequence for point in forecast.taken(Outlook(lab.set).fates(Policy(keep), now()))
    ]
    changed(lab, 7)
    lab.backup(policy=Policy(keep))
    assert [number for number in before if number not in sequences(lab)] == foretold


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("damage", ["layer", "verdict"])
def test_the_points_that_a_policy_takes_are_foretold_where_some_are_damaged(lab, keep, damage):
    for number, kind in enumerate(("auto", "auto", "full", "auto", "full")):
        changed(lab, number)
        lab.backup(kind)
    third = lab.set.points[2]
    if damage == "layer":
        lab.layer(third).unlink()
    else:
        lab.repository.save_point("disk", replace(third, verified=Check("2026-01-01", ok=False)))
    before = sequences(lab)
    foretold = [
        point.sequence for point in forecast.taken(Outlook(lab.set).fates(Policy(keep), now()))
    ]
    changed(lab, 7)
    lab.backup(policy=Policy(keep))
    assert [number for number in before if number not in sequences(lab)] == foretold


def test_a_point_that_a_promoted_one_was_made_on_is_not_foretold_to_go(lab):
    lab.backup()
    changed(lab, 1)
    lab.backup()
    first, second = lab.set.points
    promoted = replace(second, promoted_from=Promotion("s", "a machine", second.created))
    assert forecast.taken(Outlook(lab.set).fates(Policy(1), now())) == (first, second)
    assert (
        forecast.taken(Outlook(replace(lab.set, points=(first, promoted))).fates(Policy(1), now()))
        == ()
    )


def test_without_a_number_nothing_is_foretold_to_go(lab):
    lab.backup()
    assert forecast.taken(Outlook(lab.set).fates(Policy(), now())) == ()


@pytest.mark.usefixtures("as_root")
def test_a_whole_chain_that_is_not_kept_goes_without_space_and_without_a_copy(tmp_path):
    """What nothing reads through is deleted first: rolled into others it is copied in vain."""
    with storage(tmp_path / "small", "ext4") as small:
        lab = Lab(tmp_path, repository=small.folder / "repository")
        for number in range(3):
            lab.poke(number * BLOCK, noise(3 * BLOCK, number))
            lab.backup()
        lab.backup(kind="full")
        with lab.repository.lock("a test"):
            lab.repository.set_policy("disk", Policy(keep=1))
            fill(small.folder)
            applied = retention.apply(lab.repository, "disk", Task())
        assert applied.done == tuple(f"Point {each} was deleted." for each in (3, 2, 1))
        assert [point.sequence for point in lab.set.points] == [4]
        lab.check_all()


def fill(folder: Path) -> None:
    """Leave nothing free."""
    with suppress(OSError), (folder / "rest").open("wb", buffering=0) as rest:
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while True:
                    rest.write(bytes(size))
