"""How a source is named on the command line: by a path, or by its kind and what that knows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup

COMMANDS = (("info",), ("backup", "-r", "b"), ("adopt", "-r", "b"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is worked in, with a disk image in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.raw").write_bytes(bytes(512) + b"\x01" * 512)
    return tmp_path


@pytest.mark.parametrize("path", ["disk.raw", "./disk.raw", "{here}/disk.raw"])
def test_each_command_takes_a_path_with_and_without_its_kind(
    vdbackup: Vdbackup, here: Path, path: str
):
    path = path.format(here=here)
    said = [vdbackup("info", text, "--json") for text in (path, f"file:{path}")]
    assert said[0].json == said[1].json
    assert said[0].json["path"] == str(Path(path))
    plans = [
        vdbackup(command, "--dry-run", "-r", here / f"b{number}", "--json", text).json
        for number, command in enumerate(("backup", "adopt"))
        for text in (path, f"file:{path}")
    ]
    assert plans[0] == plans[1]
    assert plans[2] == plans[3]


def test_however_a_source_is_named_it_is_one_source_and_kept_by_its_path(
    vdbackup: Vdbackup, here: Path
):
    names = ("file:disk.raw", "disk.raw", f"file:{here}/disk.raw", f"file://{here}/disk.raw")
    for name in names:
        assert vdbackup("backup", name, "-r", "b").status == 0
    (backup_set,) = vdbackup("list", "-r", "b", "--json").json["sets"]
    assert len(backup_set["points"]) == len(names)
    assert backup_set["source"] == str(here / "disk.raw")
    kept = json.loads((here / "b/disk/set.json").read_text())["source"]
    assert kept["path"] == str(here / "disk.raw")
    assert kept["facts"]["paths"] == [str(here / "disk.raw")]


def test_a_name_of_another_kind_is_refused_with_the_kinds_that_there_are(
    vdbackup: Vdbackup, here: Path
):
    for command in COMMANDS:
        said = vdbackup(*command, "lvm:vg/lv")
        assert said.status == 1
        assert said.err.splitlines()[0] == (
            "vdbackup: There is no file lvm:vg/lv, and no kind of source called lvm "
            "(known: file, files)."
        )
    said = vdbackup("backup", "-r", "b", "--json", "lvm:vg/lv")
    assert json.loads(said.err)["code"] == "source-not-found"
    assert not (here / "b").exists()


@pytest.mark.parametrize("name", ["lvm:vg.raw", "file:disk.raw", "a:b.raw"])
def test_a_file_of_such_a_name_is_that_file(vdbackup: Vdbackup, here: Path, name: str):
    Path(name).write_bytes(b"\x02" * 1024)
    for command in COMMANDS[:2]:
        assert vdbackup(*command, name).status == 0
    (backup_set,) = vdbackup("list", "-r", "b", "--json").json["sets"]
    assert backup_set["source"] == str(here / name)


def test_a_name_that_is_no_text_is_kept_as_it_is(vdbackup: Vdbackup, here: Path):
    disk = (here / "disk.raw").rename(here / os.fsdecode(b"d\xefsk.raw"))
    for text in (f"file:{disk}", disk.name):
        assert vdbackup("backup", text, "-r", "b").status == 0
    (kept,) = here.glob("b/*/set.json")
    assert json.loads(kept.read_text())["source"]["path"] == str(disk)
    (backup_set,) = vdbackup("list", "-r", "b", "--json").json["sets"]
    assert len(backup_set["points"]) == 2
