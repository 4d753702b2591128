"""A merge is cut off and its journal is damaged: repair finds out by the disks how far it came."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.lab import Lab
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
from vdbackup.backup import repair
from vdbackup.jobs import CancelToken, silent
from vdbackup.repository.journal import JOURNAL_NAME

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
            said = repair.run(lab.repository.path, silent, CancelToken())
            assert said.done, f"change {number}"
            assert not said.undone, f"change {number}: {said.undone}"
            kept = lab.set_folder / repair.QUARANTINE
            assert any(each.name.startswith(JOURNAL_NAME) for each in kept.iterdir())
            shutil.rmtree(kept)
            assert_finished(lab, sequence)
        load()
    assert seen > 1
