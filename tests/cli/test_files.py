"""Chosen files: backed up again and again, listed, looked into, merged, verified, restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.sources.file_sets.kept import check
from vdbackup.sources.file_sets import blank, sync


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "inner").mkdir(parents=True)
    (folder / "letter.txt").write_text("Dear all")
    (folder / "inner" / "large").write_bytes(os.urandom(900_000))
    (folder / "draft~").write_text("not this")
    return folder


def source_of(vdbackup: Vdbackup, repository: Path) -> object:
    return vdbackup("list", "-r", repository, "--json").json["sets"][0]["source"]


def test_chosen_files_are_kept_in_any_format_and_read_by_everything(
    vdbackup: Vdbackup, folder: Path, repository: Path, tmp_path: Path, disk_format: str
):
    said = vdbackup("backup", "--files", folder, "--exclude", "*~", "-r", repository,
                    "--format", disk_format)  # fmt: skip
    assert said.status == 0, said.err
    for number in (2, 3):
        (folder / "letter.txt").write_text(f"Dear all, this is number {number}")
        again = vdbackup("backup", "--set", "docs", "-r", repository, "--json")
        assert again.status == 0, again.err
        assert (again.json["type"], again.json["changes_from"]) == ("incremental", "files")
        assert again.json["stored_bytes"] < 512 << 10
    assert source_of(vdbackup, repository) == {
        "kind": "files",
        "paths": [str(folder)],
        "exclude": ["*~"],
        "cross_file_systems": False,
        "caches": False,
        "exclude_larger": None,
    }
    assert vdbackup("verify", "-r", repository).status == 0
    inside = f"/p1{folder}"
    listed = vdbackup("files", "-r", repository, "latest", inside, "--json").json
    assert {each["name"] for each in listed} == {"letter.txt", "inner"}
    got = vdbackup("extract", "-r", repository, "2", f"{inside}/letter.txt", tmp_path / "got")
    assert got.status == 0, got.err
    assert (tmp_path / "got" / "letter.txt").read_text() == "Dear all, this is number 2"
    assert vdbackup("merge", "-r", repository, "2", "--json").status == 0
    assert vdbackup("verify", "-r", repository).status == 0
    raw = tmp_path / "restored.img"
    assert vdbackup("restore", "-r", repository, "latest", raw).status == 0
    check(raw)


def test_the_set_of_the_same_files_is_found_and_other_files_get_their_own(
    vdbackup: Vdbackup, folder: Path, repository: Path
):
    for exclude in ((), ("--exclude", "*~")):
        assert vdbackup("backup", "--files", folder, *exclude, "-r", repository).status == 0
    other = vdbackup("backup", "--files", folder / "inner", "-r", repository, "--json")
    assert (other.status, other.json["set"]) == (0, "inner")
    sets = vdbackup("list", "-r", repository, "--json").json["sets"]
    assert {each["name"]: len(each["points"]) for each in sets} == {"docs": 2, "inner": 1}
    refused = vdbackup("backup", "--files", folder / "inner", "--set", "docs", "-r", repository)
    assert refused.status == 1
    assert "--same-source" in refused.err


def test_what_cannot_be_read_is_named_and_the_status_says_so(
    vdbackup: Vdbackup, folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(fd: int) -> dict[str, bytes]:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/large"):
            raise PermissionError(13, "Permission denied")
        return {}

    monkeypatch.setattr(sync, "attributes_of", refused)
    said = vdbackup("backup", "--files", folder, "-r", repository)
    assert said.status == 3
    assert f"{folder}/inner/large" in said.err


def test_large_files_are_left_out_where_that_is_wanted(
    vdbackup: Vdbackup, folder: Path, repository: Path
):
    """The set keeps it in mind; what is no size is refused."""
    assert vdbackup("backup", "--files", folder, "--exclude-larger", "x").status == 2
    options = ("--exclude-larger", "1K", "-r", repository)
    assert vdbackup("backup", "--files", folder, *options).status == 0
    (listed,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    assert listed["source"]["exclude_larger"] == 1024
    said = vdbackup("find", "l*", "-r", repository).out
    assert ("inner/large" in said, "letter" in said) == (False, True)


def test_what_it_would_be_is_said_before(vdbackup: Vdbackup, folder: Path, repository: Path):
    plan = vdbackup("backup", "--files", folder, "-r", repository, "--dry-run", "--json").json
    assert plan["event"] == "plan"
    assert "files and folders, " in plan["summary"]


def test_a_source_that_is_named_by_its_set_alone_is_backed_up_again(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    assert vdbackup("backup", disk, "-r", repository).status == 0
    again = vdbackup("backup", "--set", "laptop", "-r", repository, "--json")
    assert (again.status, again.json["sequence"]) == (0, 2)


def test_the_files_are_compared_with_a_point(vdbackup: Vdbackup, folder: Path, repository: Path):
    assert vdbackup("backup", "--files", folder, "-r", repository).status == 0
    (folder / "letter.txt").write_text("Dear nobody")
    said = vdbackup("verify", "--against-source", "-r", repository, "--json")
    assert said.status == 0, said.err
    assert 0 < said.json["differing_bytes"] < 1 << 20


def test_a_set_that_has_lost_its_settings_knows_its_files_again(
    vdbackup: Vdbackup, folder: Path, repository: Path
):
    assert vdbackup("backup", "--files", folder, "-r", repository).status == 0
    for name in ("set.json", "set.json.copy"):
        (repository / "docs" / name).unlink(missing_ok=True)
    for left in (repository / "docs").glob("set*json*"):
        left.unlink()
    assert vdbackup("repair", "-r", repository).status in (0, 3)
    again = vdbackup("backup", "--set", "docs", "-r", repository, "--json")
    assert (again.status, again.json["type"]) == (0, "incremental")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("disk.img", "--files", "/etc"),
        ("disk.img", "--exclude", "*~"),
        ("--exclude", "*~", "--set", "docs"),
        ("--files",),
    ],
)
def test_what_makes_no_sense_is_refused(
    vdbackup: Vdbackup, repository: Path, arguments: tuple[str, ...]
):
    assert vdbackup("backup", *arguments, "-r", repository).status == 2


@pytest.mark.parametrize("wanted", ["frozen", "as-is"])
def test_of_files_no_single_moment_can_be_had(
    vdbackup: Vdbackup, folder: Path, repository: Path, wanted: str
):
    said = vdbackup("backup", "--files", folder, "-r", repository, "--consistency", wanted)
    assert said.status == (1 if wanted == "frozen" else 0)
    assert ("cannot be backed up as of one moment" in said.err) is (wanted == "frozen")


def test_files_that_outgrow_their_disk_get_a_larger_one_with_a_full(
    vdbackup: Vdbackup, folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blank, "LEAST", 96 << 20)
    assert vdbackup("backup", "--files", folder, "-r", repository).status == 0
    (folder / "video").write_bytes(bytes(range(256)) * (160 << 10))
    again = vdbackup("backup", "--set", "docs", "-r", repository, "--json")
    assert (again.status, again.json["type"]) == (0, "full")
    assert any("It has to be a full: the source has now 192 MiB" in n for n in again.json["notes"])
    (folder / "letter.txt").write_text("Dear all, again")
    third = vdbackup("backup", "--set", "docs", "-r", repository, "--json")
    assert (third.status, third.json["type"]) == (0, "incremental")


def test_files_are_found_in_all_points_and_points_are_compared_by_them(
    vdbackup: Vdbackup, folder: Path, repository: Path
):
    assert vdbackup("backup", "--files", folder, "-r", repository).status == 0
    (folder / "letter.txt").write_text("Dear all, this is another length")
    (folder / "new").touch()
    assert vdbackup("backup", "--set", "docs", "-r", repository).status == 0
    inside = f"/p1{folder}"
    assert f"{inside}/letter.txt" in vdbackup("find", "-r", repository, "letter.*").out
    versions = vdbackup("versions", "-r", repository, f"{inside}/letter.txt").out
    assert ("8 bytes" in versions, "32 bytes" in versions) == (True, True)
    differences = vdbackup("diff", "-r", repository, "1", "2").out
    assert f"{inside}/letter.txt" in differences
    assert f"{inside}/new" in differences
    assert f"{inside}/inner/large" not in differences


def test_of_small_files_a_later_backup_keeps_little_beside_what_changed(
    vdbackup: Vdbackup, folder: Path, repository: Path, disk_format: str
):
    """Two inodes, those of the file and its folder, and a block of content: 8 KiB for each."""
    for number in range(400):
        (folder / f"{number}").write_text(f"small file {number}")
    options = ("-r", repository, "--format", disk_format)
    assert vdbackup("backup", "--files", folder, *options).status == 0
    (folder / "200").write_text("another")
    again = vdbackup("backup", "--set", "docs", "-r", repository, "--json")
    assert again.status == 0, again.err
    assert again.json["stored_bytes"] <= 12 * 8192
    assert vdbackup("verify", "-r", repository).status == 0
