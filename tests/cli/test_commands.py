"""The contract of the command line: what each command does, prints, and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.guests.lilo import LILO
from tests.oracles import qemu
from vdbackup.cli.console import JsonLines
from vdbackup.sources import demo_disk


def test_three_backups_are_a_full_and_two_incrementals_each_on_the_one_before(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    listing = vdbackup("list", "-r", repository, "--json").json
    assert uuid.UUID(listing["repository"])
    (backup_set,) = listing["sets"]
    assert {"name", "source", "virtual_size", "format", "points"} <= set(backup_set)
    points = backup_set["points"]
    assert [point["sequence"] for point in points] == [1, 2, 3]
    assert [point["type"] for point in points] == ["full", "incremental", "incremental"]
    assert [point["parent"] for point in points] == [None, points[0]["id"], points[1]["id"]]
    for point, state in zip(points, backed_up, strict=True):
        assert datetime.fromisoformat(point["created"]).utcoffset() == datetime.now(UTC).utcoffset()
        assert point["stored_bytes"] > 0
        assert point["verified"] is None
        assert point["boot_tested"] is None
        for name in ("disk", "overlay"):
            qemu.assert_holds(repository / point[name], state)


def test_each_kind_of_backup_can_be_asked_for(vdbackup: Vdbackup, disk: Path, repository: Path):
    kinds = ["full", "incremental", "differential", "full", "auto"]
    made = [
        vdbackup("backup", disk, "-r", repository, "--type", kind, "--json").json["type"]
        for kind in kinds
    ]
    assert made == ["full", "incremental", "differential", "full", "incremental"]


def test_an_incremental_without_a_full_becomes_one_and_warns(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    said = vdbackup("backup", disk, "-r", repository, "--type", "incremental")
    assert said.status == 3
    assert "It has to be a full" in said.err


def test_a_source_that_changed_its_size_gets_a_new_full_and_says_why(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path]
):
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size + 512 * 1001)
    said = vdbackup("backup", disk, "-r", repository, "--json")
    assert said.status == 0
    assert said.json["type"] == "full"
    assert "bytes" in said.json["notes"][0]
    qemu.assert_holds(repository / said.json["disk"], disk)


def test_a_disk_that_was_cut_off_is_backed_up_with_a_warning_that_its_point_keeps(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    os.truncate(disk, disk.stat().st_size // 2)
    said = vdbackup("backup", disk, "-r", repository)
    assert said.status == 3
    assert f"{disk} ends before its partitions do" in said.err
    (point,) = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert any("ends before its partitions do" in each for each in point["warnings"])


def test_progress_comes_as_json_lines_and_ends_at_its_total(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    lines = [
        json.loads(line)
        for line in vdbackup("backup", disk, "-r", repository, "--json").out.splitlines()
    ]
    progress = [line for line in lines if line["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert lines[-1]["event"] == "result"


def test_a_backup_that_is_limited_says_so_in_its_progress(
    vdbackup: Vdbackup, disk: Path, repository: Path
):
    said = vdbackup("backup", disk, "-r", repository, "--json", "--limit", "1G")
    lines = [json.loads(line) for line in said.out.splitlines()]
    limits = {line["limit"] for line in lines if line["event"] == "progress" and line["total"]}
    assert limits == {1 << 30}
    assert vdbackup("backup", disk, "-r", repository, "--limit", "fast").status == 2


def test_a_dry_run_says_what_would_happen_and_does_nothing(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    before = sorted(path.name for path in (repository / "laptop").iterdir())
    for command in (["merge"], ["delete"]):
        said = vdbackup(*command, "3", "-r", repository, "--dry-run")
        assert said.status == 0
        assert "3" in said.out
    assert sorted(path.name for path in (repository / "laptop").iterdir()) == before


def test_merging_both_children_leaves_one_full_of_the_last_moment(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    assert vdbackup("merge", "3", "-r", repository).status == 0  # incremental into incremental
    assert vdbackup("merge", "3", "-r", repository).status == 0  # then into the full
    (point,) = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert (point["type"], point["parent"], point["sequence"]) == ("full", None, 3)
    qemu.assert_holds(repository / point["disk"], backed_up[2])
    qemu.assert_holds(repository / point["overlay"], backed_up[2])
    left = {path.suffix for path in (repository / "laptop").iterdir()}
    assert left == {".vmdk", ".json", ".digests"}
    # the point's five, set.json and its copy
    assert len(list((repository / "laptop").iterdir())) == 7


def test_a_set_that_keeps_two_points_merges_the_older_ones_after_each_backup(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path]
):
    demo_disk.change(disk, "state 4", {})
    said = vdbackup("backup", disk, "-r", repository, "--keep", "2", "--json")
    assert said.status == 0
    assert any("rolled into" in note for note in said.json["notes"])
    points = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert [(point["sequence"], point["type"]) for point in points] == [
        (3, "full"),
        (4, "incremental"),
    ]
    qemu.assert_holds(repository / points[0]["disk"], backed_up[2])
    qemu.assert_holds(repository / points[1]["disk"], disk)


def test_deleting_a_point_keeps_the_one_that_reads_through_it(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    assert vdbackup("delete", "2", "-r", repository).status == 0
    points = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert [point["sequence"] for point in points] == [1, 3]
    for point, state in zip(points, (backed_up[0], backed_up[2]), strict=True):
        qemu.assert_holds(repository / point["disk"], state)


@pytest.mark.parametrize("reference", ["1", "2", "latest", "id", "start of id"])
def test_a_point_is_restored_by_whatever_names_it(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, reference: str
):
    points = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    number = {"1": 0, "2": 1}.get(reference, 2)
    if "id" in reference:
        reference = points[2]["id"][: 13 if "start" in reference else None]
    target = tmp_path / "restored.raw"
    assert vdbackup("restore", "-r", repository, reference, target).status == 0
    assert target.read_bytes() == backed_up[number].read_bytes()


@pytest.mark.parametrize("ending", ["raw", "vmdk"])
def test_an_exported_disk_stands_alone(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, ending: str
):
    target = tmp_path / f"alone.{ending}"
    assert vdbackup("export", "-r", repository, "3", target).status == 0
    described = vdbackup("info", target, "--json").json
    assert described["format"] == ending
    assert len(described["chain"]) == 1
    qemu.assert_holds(target, backed_up[2], ending)


def test_a_set_in_the_making_is_named_and_nobodys_backup(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path]
):
    (repository / "server-qcow2.partial").mkdir()
    said = vdbackup("list", "-r", repository)
    assert (said.status, "server-qcow2.partial: a set that is being made" in said.out) == (0, True)
    assert vdbackup("list", "-r", repository, "--json").json["in_the_making"] == [
        "server-qcow2.partial"
    ]


def test_verify_marks_points_as_whole(vdbackup: Vdbackup, repository: Path, backed_up: list[Path]):
    assert vdbackup("verify", "-r", repository).status == 0
    points = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert [point["verified"]["ok"] for point in points] == [True, True, True]


def test_files_are_listed_and_extracted(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    names = [e["name"] for e in vdbackup("files", "-r", repository, "3", "/p1", "--json").json]
    assert {"README.TXT", "DIARY.TXT"} <= set(names)
    out = tmp_path / "out"
    out.mkdir()
    assert vdbackup("extract", "-r", repository, "2", "/p1/DIARY.TXT", out).status == 0
    assert (out / "DIARY.TXT").read_text() == "day 2"


def test_info_describes_a_chain_that_another_program_made(vdbackup: Vdbackup, tmp_path: Path):
    create = ["qemu-img", "create", "-q", "-f", "vmdk"]
    subprocess.run([*create, "base.vmdk", "10M"], cwd=tmp_path, check=True)
    child = [*create, "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"]
    subprocess.run(child, cwd=tmp_path, check=True)
    described = vdbackup("info", tmp_path / "child.vmdk", "--json").json
    assert [Path(layer["path"]).name for layer in described["chain"]] == ["child.vmdk", "base.vmdk"]
    assert described["virtual_size"] == 10 << 20


def test_info_names_what_a_bios_would_start(vdbackup: Vdbackup, tmp_path: Path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    assert vdbackup("info", disk, "--json").json["bios_loader"] is None
    disk.write_bytes((LILO.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    assert vdbackup("info", disk, "--json").json["bios_loader"] == "lilo"
    assert "a BIOS starts: lilo" in vdbackup("info", disk).out


def test_a_child_of_another_programs_chain_is_a_source(vdbackup: Vdbackup, tmp_path: Path):
    create = ["qemu-img", "create", "-q", "-f", "vmdk"]
    subprocess.run([*create, "base.vmdk", "10M"], cwd=tmp_path, check=True)
    write = ["qemu-io", "-f", "vmdk", "-c", "write -P 7 1M 100k"]
    subprocess.run([*write, "base.vmdk"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    child = [*create, "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"]
    subprocess.run(child, cwd=tmp_path, check=True)
    said = vdbackup("backup", tmp_path / "child.vmdk", "-r", tmp_path / "backups", "--json")
    assert said.status == 0
    raw = tmp_path / "child.raw"
    convert = ["qemu-img", "convert", "-O", "raw", str(tmp_path / "child.vmdk"), str(raw)]
    subprocess.run(convert, check=True)
    qemu.assert_holds(tmp_path / "backups" / said.json["disk"], raw)


def test_metadata_that_was_lost_is_rebuilt_from_the_disks(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
):
    before = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    (repository / "vdbackup.json").unlink()
    for path in [
        *(repository / "laptop").glob("*.json"),
        *(repository / "laptop").glob("*.digests"),
    ]:
        path.unlink()
    (repository / "laptop/0002-overlay.vmdk").unlink()
    said = vdbackup("repair", "-r", repository)
    assert said.status == 0
    assert "manifest of point 2" in said.out
    after = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    for point in (*before, *after):
        point.pop("warnings")
        point.pop("retargeted")  # only looking at the system again would tell
        for how_it_was_read in (
            "consistency", "changes_from", "scan_reason", "read_bytes", "all_blocks", "not_read",
            "about_free",
        ):  # fmt: skip
            point.pop(how_it_was_read)
    assert after == before
    assert vdbackup("verify", "-r", repository).status == 0
    qemu.assert_holds(repository / "laptop/0002-overlay.vmdk", backed_up[1])
    assert "Nothing had to be repaired" in vdbackup("repair", "-r", repository).out


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["export", "--help"]], ids=str)
def test_the_program_says_what_it_is_and_loads_nothing_else_for_that(arguments: list[str]):
    """Each of these takes longer to load than to say it."""
    code = (
        "import sys, vdbackup.__main__, vdbackup.locations; from vdbackup import cli\n"
        f"cli.main({arguments})\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    first, *_, loaded = result.stdout.splitlines()
    assert "vdbackup " in first
    needless = {
        "numpy", "PySide6", "vdbackup.settings", "vdbackup.records", "datetime", "tempfile",
    }  # fmt: skip
    assert needless.isdisjoint(loaded.split())


def test_ctrl_c_cancels_a_backup_and_leaves_everything_as_it_was(
    vdbackup: Vdbackup,
    repository: Path,
    backed_up: list[Path],
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    demo_disk.change(disk, "state 4", {})
    before = {path: path.read_bytes() for path in (repository / "laptop").iterdir()}
    monkeypatch.setattr(JsonLines, "report", lambda *_: signal.raise_signal(signal.SIGINT))
    said = vdbackup("backup", disk, "-r", repository, "--json")
    assert said.status == 130
    assert "cancelled" in said.err
    assert {path: path.read_bytes() for path in (repository / "laptop").iterdir()} == before
