"""What the command line adds to a restore: what it says before and afterwards, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.sources.loops import loop


@pytest.fixture
def older(vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path) -> Path:
    """A file that holds the first of three states."""
    target = tmp_path / "older.img"
    assert vdbackup("restore", "-r", repository, "1", target).status == 0
    return target


def test_a_delta_says_how_much_it_compared_and_wrote(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], older: Path
) -> None:
    said = vdbackup("restore", "-r", repository, "3", older, "--delta", "--overwrite", "--json")
    assert said.status == 0
    result = said.json
    assert (result["event"], result["target"], result["warnings"]) == ("result", str(older), [])
    assert 0 < result["written_bytes"] == result["verified_bytes"] < result["compared_bytes"]
    assert result["resumed_bytes"] == 0
    assert older.read_bytes() == backed_up[2].read_bytes()
    again = vdbackup("restore", "-r", repository, "3", older, "--delta", "--overwrite")
    assert "0 bytes written, 0 bytes read back and verified." in again.out


def test_a_delta_replaces_nothing_unasked(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], older: Path
) -> None:
    said = vdbackup("restore", "-r", repository, "3", older, "--delta")
    assert said.status == 1
    assert "exists already.\nGive another name. --overwrite replaces what is there." in said.err
    assert older.read_bytes() == backed_up[0].read_bytes()


@pytest.mark.usefixtures("as_root", "backed_up")
def test_a_plan_for_a_device_says_what_would_be_lost_and_loses_nothing(
    vdbackup: Vdbackup, repository: Path, older: Path
) -> None:
    before = older.read_bytes()
    with loop(older) as device:
        where = ("restore", "-r", repository, "latest", device, "--overwrite", "--dry-run")
        plan = json.loads(vdbackup(*where, "--json").out)
        assert "partition 1 (fat, " in vdbackup(*where).out
    (piece,) = plan["pieces"]
    assert (piece["partition"], piece["start"], piece["size"]) == (0, 0, len(before))
    assert (piece["device"]["path"], piece["device"]["size"]) == (str(device), len(before))
    (content,) = piece["device"]["contents"]
    assert (content["number"], content["filesystem"], content["mountpoints"]) == (1, "fat", [])
    assert (plan["delta"], plan["resumed_bytes"]) == (False, 0)
    assert older.read_bytes() == before


@pytest.mark.usefixtures("backed_up")
@pytest.mark.parametrize("numbers", ["0", "x", "1,", "1-3", "-1"])
def test_partitions_are_numbers(vdbackup: Vdbackup, repository: Path, numbers: str) -> None:
    said = vdbackup("restore", "-r", repository, "1", "out.img", f"--partition={numbers}")
    assert said.status == 2
    assert "--partition" in said.err


def test_a_partition_alone_is_restored(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "part.img"
    where = ("restore", "-r", repository, "2", target, "--partition", "1")
    (piece,) = vdbackup(*where, "--dry-run", "--json").json["pieces"]
    assert vdbackup(*where).status == 0
    end = piece["start"] + piece["size"]
    assert target.read_bytes() == backed_up[1].read_bytes()[piece["start"] : end]


@pytest.mark.parametrize("ending", ["qcow2", "vmdk", "vhd", "VHDX", "ova"])
def test_a_raw_disk_under_the_name_of_another_format_is_told(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, ending: str
) -> None:
    """What `info` and `backup` would refuse afterwards as not what its name says."""
    target = tmp_path / f"again.{ending}"
    said = vdbackup("restore", "-r", repository, "2", target)
    assert said.status == 3
    assert f"{target} holds a raw disk, though its name ends in .{ending}" in said.err
    assert target.read_bytes() == backed_up[1].read_bytes()


@pytest.mark.usefixtures("backed_up")
def test_so_is_an_export_in_another_format_than_its_name_asks_for(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
) -> None:
    where = ("export", "-r", repository, "2")
    for ending, disk_format, status in (
        ("vmdk", "qcow2", 3),
        ("vmdk", "vmdk-stream", 0),
        ("vhd", "vhd-fixed", 0),
        ("disk", "qcow2", 0),
    ):
        target = tmp_path / f"{disk_format}.{ending}"
        assert vdbackup(*where, target, "--format", disk_format).status == status


@pytest.mark.usefixtures("backed_up")
def test_a_partition_alone_is_not_fitted(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
) -> None:
    where = ("restore", "-r", repository, "1", tmp_path / "out.img", "--partition", "1")
    said = vdbackup(*where, "--resize", "auto")
    assert said.status == 2
    assert "Single partitions keep their size." in said.err


@pytest.mark.usefixtures("backed_up")
def test_a_plan_for_another_size_says_how_each_partition_changes(
    vdbackup: Vdbackup, repository: Path, older: Path
) -> None:
    where = ("restore", "-r", repository, "1", older, "--resize", "auto", "--overwrite")
    plan = vdbackup(*where, "--dry-run", "--json").json
    assert plan["moves"] is None  # it is as large as the disk
    smaller = older.with_name("smaller.img")
    smaller.write_bytes(bytes(1 << 20))
    refused = vdbackup("restore", "-r", repository, "1", smaller, *where[5:], "--json")
    assert json.loads(refused.err.splitlines()[-1])["code"] == "not-resized"
