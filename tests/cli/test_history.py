"""versions, find, diff and size, as a shell and a program use them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from vdbackup.sources import demo_disk

pytestmark = pytest.mark.usefixtures("backed_up")


def test_the_versions_of_a_file_are_listed(vdbackup: Vdbackup, repository: Path):
    said = vdbackup("versions", "-r", repository, "/p1/DIARY.TXT")
    assert said.status == 0
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == ["1", "2", "3"]
    found = vdbackup("versions", "-r", repository, "p1/README.TXT", "--json").json
    (only,) = found["versions"]
    assert [each["sequence"] for each in only["points"]] == [1, 2, 3]
    assert only["kind"] == "file"


def test_a_name_is_found_in_every_set(vdbackup: Vdbackup, repository: Path, tmp_path: Path):
    other = tmp_path / "other.img"
    demo_disk.create(other, "another disk")
    assert vdbackup("backup", other, "-r", repository).status == 0
    said = vdbackup("find", "-r", repository, "-i", "readme*")
    assert said.status == 0
    assert [line for line in said.out.splitlines() if line.endswith(":")] == ["laptop:", "other:"]
    one = vdbackup("find", "-r", repository, "--set", "laptop", "DIARY.TXT", "--json").json
    assert [p["sequence"] for each in one["found"] for p in each["points"]] == [1, 2, 3]


def test_each_new_point_is_noted_after_its_backup_if_its_set_wants_that(
    vdbackup: Vdbackup, repository: Path, disk: Path
):
    read = ("find", "-r", repository, "--set", "laptop", "DIARY.TXT", "--json")
    assert vdbackup("policy", "-r", repository, "--index", "each").status == 0
    said = vdbackup("backup", disk, "-r", repository)
    assert said.status == 0
    found = vdbackup(*read).json
    assert found["points_read"] == 0
    assert [p["sequence"] for each in found["found"] for p in each["points"]] == [1, 2, 3, 4]
    assert vdbackup("policy", "-r", repository, "--index", "off").status == 0
    demo_disk.change(disk, "state 5", {"DIARY.TXT": b"day 5, and it rained"})
    assert vdbackup("backup", disk, "-r", repository).status == 0
    assert vdbackup(*read).json["points_read"] == 1


def test_a_backup_is_as_good_where_no_names_can_be_noted(
    vdbackup: Vdbackup, repository: Path, disk: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    (tmp_path / "a file").touch()
    monkeypatch.setenv("VDBACKUP_CACHE_DIR", str(tmp_path / "a file"))
    said = vdbackup("backup", disk, "-r", repository, "--index", "each")
    assert (said.status, said.err) == (0, "")


def test_a_name_that_no_file_has_is_said(vdbackup: Vdbackup, repository: Path):
    said = vdbackup("find", "-r", repository, "nothing-like-this", "--no-index")
    assert said.status == 1
    assert "No file in the points" in said.err


def test_differences_are_listed(vdbackup: Vdbackup, repository: Path):
    said = vdbackup("diff", "-r", repository, "1", "3")
    assert said.status == 0
    assert "content" in said.out
    found = vdbackup("diff", "-r", repository, "1", "3", "--json").json
    assert "/p1/DIARY.TXT" in {each["path"] for each in found["files"]}
    same = vdbackup("diff", "-r", repository, "2", "2", "--json").json
    assert (same["files"], same["changed_bytes"]) == ([], 0)


def test_a_points_size_is_explained(vdbackup: Vdbackup, repository: Path):
    said = vdbackup("size", "-r", repository, "1", "--top", "2")
    assert said.status == 0
    assert "outside of all volumes" in said.out
    assert "more have less each" in said.out
    found = vdbackup("size", "-r", repository, "3", "--json").json
    whose = sum(each["changed_bytes"] for each in found["others"])
    files = sum(each["changed_bytes"] for each in found["files"] if each["path"].count("/") == 1)
    assert whose + files == found["changed_bytes"]


def test_what_need_not_be_kept_is_proposed_with_the_command_that_leaves_it_out(
    vdbackup: Vdbackup, tmp_path: Path
):
    folder, other = tmp_path / "my home", tmp_path / "other backups"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "pages").write_bytes(os.urandom(3 << 20))
    (folder / "letter").write_text("Dear all")
    assert vdbackup("backup", "--files", folder, "-r", other).status == 0
    said = vdbackup("size", "-r", other, "latest")
    (command,) = (line.partition("is left out by: ")[2] for line in said.out.splitlines()
                  if "is left out by: " in line)  # fmt: skip
    (proposed,) = vdbackup("size", "-r", other, "latest", "--json").json["needless"]
    assert proposed["exclude"] == f"{folder}/.cache"
    assert (proposed["why"], proposed["hint"]) == ("cache", False)
    assert proposed["changed_bytes"] >= 3 << 20
    assert vdbackup(*shlex.split(command)[1:], "--type", "full").status == 0
    assert vdbackup("size", "-r", other, "latest", "--json").json["needless"] == []
    assert "letter" in vdbackup("files", "-r", other, "latest", f"/p1{folder}").out
    assert ".cache" not in vdbackup("files", "-r", other, "latest", f"/p1{folder}").out


def test_no_command_is_shown_that_a_terminal_cannot_show_as_it_is(
    vdbackup: Vdbackup, tmp_path: Path
):
    folder, other = tmp_path / "of two\nlines", tmp_path / "other backups"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "pages").write_bytes(os.urandom(2 << 20))
    assert vdbackup("backup", "--files", folder, "-r", other).status == 0
    said = vdbackup("size", "-r", other, "latest").out
    assert "of two\\nlines/.cache" in said
    assert "is left out by" not in said


def test_of_a_disk_it_is_said_what_can_be_done_instead(
    vdbackup: Vdbackup, repository: Path, disk: Path
):
    demo_disk.change(disk, "state 4", {"PAGEFILE.SYS": os.urandom(2 << 20)})
    assert vdbackup("backup", disk, "-r", repository).status == 0
    said = vdbackup("size", "-r", repository, "latest", "--top", "1")
    assert "memory that was swapped out" in said.out
    assert "A disk is backed up as a whole." in said.out
    (proposed,) = vdbackup("size", "-r", repository, "latest", "--json").json["needless"]
    assert (proposed["path"], proposed["exclude"]) == ("/p1/PAGEFILE.SYS", None)
