"""The table of a merge's steps: each tells by what lies there whether it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.merge_cut_off import cut_off_before
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import merge, merge_steps
from vdbackup.backup.merge_steps import STEPS, Merging
from vdbackup.errors import Damaged
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import JOURNAL_NAME, Journal
from vdbackup.repository.model import RecoveryPoint

NAMES = [step.name for step in STEPS]
INTO_AN_INCREMENTAL = [name for name in NAMES if name != "relink"]
"""There the result takes the child's name, by which the grandchild knows it already."""


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return four_points(Lab(tmp_path, disk_format=disk_format))


@pytest.fixture
def one_format(tmp_path: Path) -> Lab:
    return four_points(Lab(tmp_path))


@once
def four_points(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4; 3 holds what 2 lacks and the other way round."""
    for number in range(1, 5):
        lab.poke(number * BLOCK, noise(2 * BLOCK, number))
        lab.poke(10 * BLOCK + number, noise(512, number))
        lab.backup()


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def cut_off(lab: Lab, sequence: int, step: str) -> None:
    """A merge into its parent that ends before that step."""
    with pytest.MonkeyPatch.context() as patch:
        cut_off_before(patch, step)
        with pytest.raises(KeyboardInterrupt):
            lab.merge(point(lab, sequence))
    assert lab.set.journal is not None


@contextmanager
def going_on(lab: Lab) -> Iterator[Merging]:
    with lab.repository.lock("merging"):
        backup_set = lab.repository.set("disk")
        assert backup_set.journal is not None
        yield Merging(lab.repository, backup_set, backup_set.journal, Task())


def assert_finished(lab: Lab) -> None:
    (sentence,) = merge.recover(lab.repository, Task()).done
    assert "was finished" in sentence
    lab.check_all()


@pytest.mark.parametrize("sequence", [2, 3, 4])
def test_a_step_is_done_once_it_has_been_and_may_be_done_again(lab, sequence):
    """The result gets a new name or the child's; there is a grandchild, or none."""
    cut_off(lab, sequence, "copy")
    may_say_otherwise = {
        "copy",  # says so only once the journal does, after the digests were joined
        "relink",  # is never done in a VHD or VHDX, and needless where the name stays
    }
    with going_on(lab) as merging:
        for number, step in enumerate(STEPS):
            done = {each.name for each in STEPS[:number] if each.is_done(merging)}
            assert done | may_say_otherwise >= set(NAMES[:number])
            assert not step.is_done(merging) or step.name in may_say_otherwise
            step.run(merging)
            if step.name != "take over":  # its file is not there any more
                step.run(merging)
        assert merge_steps.go_on(merging).sequence == sequence
    lab.check_all()


@pytest.mark.parametrize("step", NAMES)
def test_a_merge_that_was_cut_off_before_any_of_its_steps_is_finished(one_format, step):
    cut_off(one_format, 2, step)
    assert_finished(one_format)


# ------------------------------------------------------------------------- what has gone meanwhile


@pytest.mark.parametrize("step", ["publish", "take over"])
def test_a_parent_that_is_lost_meanwhile_is_missed_before_the_childs_file_passes_for_the_result(
    one_format, step
):
    """Both have that name: 0003-incremental into 0002-incremental leaves 0003-incremental."""
    lab = one_format
    parent = lab.layer(point(lab, 2))
    cut_off(lab, 3, step)
    parent.rename(lab.folder / "elsewhere")
    (error,) = merge.recover(lab.repository, Task()).undone
    assert "0002-incremental.vmdk is missing" in error.title
    assert lab.set.journal is not None
    (lab.folder / "elsewhere").rename(parent)
    assert_finished(lab)


@pytest.mark.parametrize(("sequence", "step"), [(2, "relink"), (2, "delete"), (3, "manifest")])
def test_a_copy_of_the_parent_that_is_put_back_does_not_take_the_results_place(
    one_format, sequence, step
):
    lab = one_format
    parent = lab.layer(point(lab, sequence - 1))
    copy = parent.read_bytes()
    cut_off(lab, sequence, step)
    parent.write_bytes(copy)
    assert_finished(lab)
    assert not parent.exists()


@pytest.mark.parametrize("sequence", [2, 3])
def test_digests_in_flight_that_somebody_throws_away_are_joined_again(one_format, sequence):
    lab = one_format
    cut_off(lab, sequence, "publish")
    for path in lab.set_folder.glob("*.digests.partial"):
        path.unlink()
    assert_finished(lab)


def test_a_parent_that_no_longer_holds_the_childs_blocks_is_noticed_before_the_child_goes(
    one_format,
):
    lab = one_format
    parent = lab.layer(point(lab, 2))
    copy = parent.read_bytes()
    cut_off(lab, 3, "publish")
    parent.chmod(0o600)
    parent.write_bytes(copy)  # as it was before the merge
    with going_on(lab) as merging, pytest.raises(Damaged):
        merge_steps.check_before_going_on(merging)


def test_what_a_killed_merge_did_is_durable_before_what_follows(one_format, monkeypatch):
    """It is seen, but no fsync may have covered it; the next step takes it for durable."""
    lab = one_format
    cut_off(lab, 2, "manifest")
    synced: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def checked(source: Path, target: Path) -> None:
        if Path(target).name == "0002-full.json":
            assert {"0002-full.vmdk", "0003-incremental.vmdk", "0002-overlay.vmdk"} <= set(synced)
            assert "disk" in synced
            synced.append("checked")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", checked)
    assert_finished(lab)
    assert "checked" in synced


# ----------------------------------------------------------------------- journals of other versions

POINT = """{{
    "id": "{id}",
    "sequence": {sequence},
    "created": "{created}",
    "type": "{type}",
    "parent": {parent},
    "disk": "{disk}",
    "overlay": "{overlay}",
    "digests": "{digests}",
    "disk_size": {disk_size},
    "virtual_size": {virtual_size},
    "sector_size": 512,
    "stored_bytes": {stored_bytes},
    "verified": null,
    "boot_tested": null,
    "merged": {merged},
    "merged_before": 0,
    "warnings": [],
    "unreadable": [],
    "promoted_from": null,
    "captured_from": {captured_from},
    "exact_size": null
  }}"""
JOURNAL = """{{
  "operation": "merge",
  "phase": "{phase}",
  "parent": {parent},
  "child": {child},
  "result": {result}
}}
"""
"""What 56020f8 wrote (28 November 2026), the version before the table of steps."""


def as_written_then(journal: Journal) -> str:
    result = said(journal.result) if journal.result else "null"
    return JOURNAL.format(
        phase=journal.phase, parent=said(journal.parent), child=said(journal.child), result=result
    )


def said(point: RecoveryPoint) -> str:
    values = point.to_json()
    for name in ("parent", "merged", "captured_from"):
        values[name] = json.dumps(values[name])
    return POINT.format(**values)


@pytest.mark.parametrize("step", INTO_AN_INCREMENTAL)
def test_a_journal_of_the_version_before_is_finished(one_format, step):
    lab = one_format
    cut_off(lab, 3, step)
    journal = lab.set.journal
    text = as_written_then(journal)
    now = json.loads((lab.set_folder / JOURNAL_NAME).read_text())
    for point in filter(None, (now["parent"], now["child"], now["result"])):
        del point["reading"], point["moment"]  # which that version did not write
    assert json.loads(text) == now
    (lab.set_folder / JOURNAL_NAME).write_text(text)
    assert as_written_then(lab.set.journal) == text
    assert_finished(lab)
