"""A merge is cut off and its journal is damaged: repair finds out by the disks how far it came."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.merge_cut_off import cut_off_before
from tests.crash.faults import power_cut
from tests.crash.test_interrupted_merge import (
    INTO_AN_INCREMENTAL,
    MERGES,
    assert_finished,
    changes_of_the_merge,
    lab,
    point,
    sharing_lab,
    xfs,
)
from tests.noise import noise
from vdbackup.backup import merge, repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.disks.chain import Chain
from vdbackup.errors import PointInUse, RepositoryError
from vdbackup.jobs import Task
from vdbackup.repository import holds
from vdbackup.repository.backup_set import BackupSet, point_files
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.manifests import read_manifests
from vdbackup.repository.model import RecoveryPoint

SESSION = "20260301-120000-abcdef"

__all__ = ["lab", "sharing_lab", "xfs"]


def cut_off(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-20])


def another_word(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().replace(b'"parent"', b'"qarent"'))


def link(journal: Path) -> None:
    journal.unlink()
    journal.symlink_to("set.json")


def pipe(journal: Path) -> None:
    journal.unlink()
    os.mkfifo(journal)


def folder(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()


FIRST = {"vmdk": 0, "vhd": 1, "vhdx": 2, "qcow2": 3}
"""Each format and merge is cut off at other changes: all of them in every one took half an hour."""
DAMAGES = [cut_off, another_word, link, pipe, folder]


@pytest.mark.parametrize("sequence", MERGES)
def test_a_merge_whose_journal_is_damaged_is_finished_or_was_never_begun(
    lab, tmp_path_factory, sequence
):
    damaged_at_any_change(lab, tmp_path_factory, sequence, DAMAGES)


def test_so_it_is_where_extents_are_shared(sharing_lab, tmp_path_factory):
    damaged_at_any_change(sharing_lab, tmp_path_factory, INTO_AN_INCREMENTAL, DAMAGES[:1])


def damaged_at_any_change(
    lab: Lab,
    tmp_path_factory: pytest.TempPathFactory,
    sequence: int,
    damages: list[Callable[[Path], None]],
) -> None:
    load = lab.save(tmp_path_factory.mktemp("saved"))
    seen = 0
    first, step = FIRST[lab.disk_format] + 4 * MERGES.index(sequence), 4 * len(MERGES)
    for number in changes_of_the_merge(lab, sequence, load)[first::step]:
        with power_cut(number):
            lab.merge(point(lab, sequence))
        journal = lab.set_folder / JOURNAL_NAME
        if journal.exists():
            seen += 1
            damages[number % len(damages)](journal)
            said = repair.run(lab.repository.path, Task())
            assert said.done, f"change {number}"
            assert not said.undone, f"change {number}: {said.undone}"
            kept = lab.set_folder / QUARANTINE
            assert any(each.name.startswith(JOURNAL_NAME) for each in kept.iterdir())
            shutil.rmtree(kept)
            assert_finished(lab, sequence)
        load()
    assert seen > 1


@pytest.fixture
def torn(tmp_path: Path, disk_format: str, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """1 <- 2 <- 3, which hides a block of 1 by zeros, and was copied into 2; a damaged journal."""
    lab = Lab(tmp_path, disk_format=disk_format)
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.backup()
    lab.poke(5 * BLOCK, BLOCK)
    lab.backup()

    with monkeypatch.context() as patch:
        cut_off_before(patch, "join")
        with pytest.raises(KeyboardInterrupt):
            lab.merge(point(lab, 3))
    cut_off(lab.set_folder / JOURNAL_NAME)
    return lab


@pytest.mark.parametrize("named", [True, False])
def test_a_backup_that_was_cut_off_beside_a_merge_that_waits_keeps_what_its_manifest_alone_says(
    tmp_path, disk_format, monkeypatch, named
):
    """What of the source could not be read, for one: an older point may be the only copy of it."""
    lab = Lab(tmp_path, disk_format=disk_format)
    for number in range(3):
        lab.poke(number * BLOCK, noise(2 * BLOCK, number))
        lab.backup()

    def waits(*_: object) -> None:
        raise PointInUse("Somebody reads it.")

    with monkeypatch.context() as patch:
        cut_off_before(patch, "join")
        with pytest.raises(KeyboardInterrupt):
            lab.merge(point(lab, 2))
        patch.setattr(merge, "finish_interrupted", waits)
        made = replace(lab.backup(), unreadable=((0, 512),), warnings=("Not all was read.",))
    lab.repository.save_point("disk", made)
    for path in point_files(lab.set_folder, made)[: 1 if named else None]:
        if path.exists():
            path.rename(f"{path}.partial")
    cut_off(lab.set_folder / JOURNAL_NAME)
    assert "disk: an interrupted backup was finished: point 4." in repaired(lab).done
    assert [each.sequence for each in lab.set.points] == [2, 3, 4]
    assert lab.set.points[-1] == made
    shutil.rmtree(lab.set_folder / QUARANTINE)
    lab.check_without_processes()


def repaired(lab: Lab) -> repair.Repaired:
    return repair.run(lab.repository.path, Task())


def assert_all_stays(lab: Lab) -> None:
    """The parent is offered by nobody, and a repair can still find out what it is."""
    (error,) = repaired(lab).undone
    assert "all stays as it is" in error.title
    with pytest.raises(RepositoryError, match=JOURNAL_NAME):
        lab.repository.set("disk")


def test_a_parent_into_which_nothing_but_zeros_was_copied_is_known_by_them(torn):
    said = repaired(torn)
    assert not said.undone
    assert [each.sequence for each in torn.set.points] == [1, 3]
    shutil.rmtree(torn.set_folder / QUARANTINE)
    torn.check_without_processes()


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_parent_that_storage_does_not_give_now_is_waited_for(torn, monkeypatch):
    alone = Chain.alone

    def failing(path: Path, disk_format: str) -> Chain:
        if path.name.startswith("0002"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return alone(path, disk_format)

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "alone", failing)
        assert_all_stays(torn)
    assert not repaired(torn).undone
    assert [each.sequence for each in torn.set.points] == [1, 3]


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_no_digests_are_made_of_what_may_be_torn(torn):
    for suffix in ("json", "digests"):
        cut_off(torn.set_folder / f"0002-incremental.{suffix}")
    before = torn.files
    assert_all_stays(torn)
    assert torn.files == before


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_parent_that_is_damaged_elsewhere_too_stays_as_it_is(torn):
    layer = torn.set_folder / "0002-incremental.vmdk"
    layer.write_bytes(layer.read_bytes().replace(noise(2 * BLOCK, 2)[:512], bytes(512)))
    assert_all_stays(torn)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_point_on_which_a_session_lies_is_not_what_is_merged_into(torn, tmp_path):
    """No merge would have begun: what differs in its layer has another reason."""
    parent = next(p for p in manifests(torn) if p.sequence == 2)
    assert holds.place(picture(torn), parent, SESSION, "laptop", tmp_path)
    before = torn.files
    with pytest.raises(PointInUse, match=f"Point 2 is in use: the session {SESSION}"):
        repaired(torn)
    assert torn.files == before
    holds.release(torn.set_folder, SESSION)
    assert not repaired(torn).undone
    assert [each.sequence for each in torn.set.points] == [1, 3]


def picture(lab: Lab) -> BackupSet:
    """The set, whose journal keeps it from being read."""
    return BackupSet("disk", lab.set_folder, lab.repository.settings("disk"), ())


def manifests(lab: Lab) -> list[RecoveryPoint]:
    return read_manifests(lab.set_folder)[0]


THEIR_OWN = (
    "2024-x.jpg", "0001-notes.txt", "0002-incremental.jpg", "0002-incremental.vmdk.md5",
    "2024-boot.png", "film.partial", "0001-full.txt.partial",
)  # fmt: skip


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_persons_own_files_beside_the_layers_stay_and_nothing_is_said_of_them(torn):
    for name in THEIR_OWN:
        (torn.set_folder / name).write_text(name)
    for _ in ("a merge that had begun", "none"):
        (torn.set_folder / JOURNAL_NAME).write_text("{")
        said = repaired(torn)
        assert not said.undone
        assert not [each for each in said.done if any(name in each for name in THEIR_OWN)]
    torn.backup()
    assert {n: (torn.set_folder / n).read_text() for n in THEIR_OWN} == {n: n for n in THEIR_OWN}
