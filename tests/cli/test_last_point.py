"""What cannot be had again is asked for: the last point of a set, another disk in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup


@pytest.fixture
def one_point(vdbackup: Vdbackup, disk: Path, repository: Path) -> Path:
    assert vdbackup("backup", disk, "-r", repository).status == 0
    return repository


def points(vdbackup: Vdbackup, repository: Path) -> int:
    return len(vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"])


def test_without_a_terminal_the_last_point_is_not_deleted_unless_it_is_said(
    vdbackup: Vdbackup, one_point: Path, monkeypatch: pytest.MonkeyPatch
):
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        said = vdbackup("delete", "1", "-r", one_point)
        assert said.status == 1
        assert "It is the last point of laptop" in said.err
        assert "--yes" in said.err
        assert points(vdbackup, one_point) == 1
        assert vdbackup("delete", "1", "-r", one_point, "--yes").status == 0
    assert points(vdbackup, one_point) == 0


@pytest.mark.parametrize(("typed", "status", "left"), [("y", 0, 0), ("n", 130, 1), ("", 130, 1)])
def test_on_a_terminal_the_last_point_is_asked_for(
    vdbackup: Vdbackup, one_point: Path, answer: int, typed: str, status: int, left: int
):
    os.write(answer, typed.encode() + b"\n")
    said = vdbackup("delete", "1", "-r", one_point)
    assert "Delete the last point of laptop?" in said.err
    assert said.status == status
    assert points(vdbackup, one_point) == left


def test_another_disk_in_a_named_set_is_refused_unless_it_is_meant(
    vdbackup: Vdbackup, one_point: Path, tmp_path: Path
):
    other = tmp_path / "other.img"
    other.write_bytes(b"another disk".ljust(1 << 20, b"."))
    said = vdbackup("backup", other, "-r", one_point, "--set", "laptop", "--keep", "1")
    assert said.status == 1
    assert "laptop.img" in said.err
    assert "other.img" in said.err
    assert "--same-source" in said.err
    meant = ("--set", "laptop", "--keep", "1", "--same-source")
    assert vdbackup("backup", other, "-r", one_point, *meant).status == 0
    assert points(vdbackup, one_point) == 2


def test_to_say_that_it_is_the_same_source_names_the_set(
    vdbackup: Vdbackup, disk: Path, one_point: Path
):
    said = vdbackup("backup", disk, "-r", one_point, "--same-source")
    assert said.status == 2
    assert "--set" in said.err


def test_where_it_may_be_the_same_disk_it_is_said_before_anything_is_copied(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path
):
    disk, copy = tmp_path / "disk.img", tmp_path / "copy.img"
    disk.write_bytes(bytes(1 << 20))
    sfdisk = ["sfdisk", "--quiet", disk]
    subprocess.run(sfdisk, input="label: dos\n64,1024\n", check=True, text=True)
    shutil.copy(disk, copy)
    assert vdbackup("backup", disk, "-r", repository).status == 0
    planned = vdbackup("backup", copy, "-r", repository, "--dry-run")
    assert "go on there with --set 'disk' --same-source" in planned.err
