"""Several points in one command: deleted, or rolled into one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.backup.machines import Disks
from tests.cli.conftest import Vdbackup
from vdbackup.repository.repository import Repository


def sequences(repository: Path) -> list[int]:
    (backup_set,) = Repository.open(repository).sets()
    return [point.sequence for point in backup_set.points]


def holds(vdbackup: Vdbackup, repository: Path, point: int, state: Path, to: Path) -> bool:
    assert vdbackup("restore", point, to, "-r", repository).status == 0
    return to.read_bytes() == state.read_bytes()


def test_several_are_planned_and_deleted_and_the_rest_is_as_it_was(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path
):
    planned = vdbackup("delete", "1", "2", "-r", repository, "--dry-run", "--json")
    assert planned.status == 0
    assert planned.json["event"] == "plan"
    assert planned.json["invalidates"] == ["point 1", "point 2"]
    assert sequences(repository) == [1, 2, 3]
    ids = [point.id for point in Repository.open(repository).set(None).points[:2]]
    said = vdbackup("delete", "2", "1", "2", "-r", repository, "--json")
    assert said.status == 0
    assert set(said.json["points"]) == set(ids)
    assert sequences(repository) == [3]
    assert holds(vdbackup, repository, 3, backed_up[2], tmp_path / "there.raw")
    assert vdbackup("verify", "-r", repository).status == 0


def test_the_last_points_are_asked_for(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, monkeypatch: pytest.MonkeyPatch
):
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        said = vdbackup("delete", "1", "2", "3", "-r", repository)
        assert said.status == 1
        assert "They are the last points of laptop: no backup" in said.err
        assert sequences(repository) == [1, 2, 3]
        assert vdbackup("delete", "1", "2", "3", "-r", repository, "--yes").status == 0
    assert sequences(repository) == []


@pytest.mark.parametrize("named", [["1..3"], ["1", "3"], ["3..1"], ["1", "2", "3"], ["1..latest"]])
def test_a_range_is_rolled_into_its_newest_moment(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path, named: list[str]
):
    planned = vdbackup("merge", *named, "-r", repository, "--dry-run")
    assert planned.out.startswith("Points 1 to 3, 3 of them, are rolled into one")
    said = vdbackup("merge", *named, "-r", repository, "--json")
    assert said.status == 0
    assert (said.json["event"], said.json["sequence"]) == ("result", 3)
    assert sequences(repository) == [3]
    assert holds(vdbackup, repository, 3, backed_up[2], tmp_path / "there.raw")


@pytest.mark.parametrize("named", [["1.."], ["..3"], [".."], ["1..1"]])
def test_a_range_of_one_end_is_wrong_usage(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, named: list[str]
):
    said = vdbackup("merge", *named, "-r", repository, "--json")
    assert said.status == 2
    assert json.loads(said.err)["code"] == "wrong-usage"
    assert sequences(repository) == [1, 2, 3]


def test_moments_of_a_machine_go_together(vdbackup: Vdbackup, tmp_path: Path):
    disks = Disks(tmp_path)
    for _ in range(3):
        disks.back_up()
    assert vdbackup("delete", "1", "2", "-r", disks.repository.path, "--machine", "web").status == 0
    disks.check(3)
