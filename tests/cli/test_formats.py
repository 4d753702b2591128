"""The command line over all formats, and over chains that other programs made."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.oracles import qemu, readers
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import create_disk
from vdbackup.sources import demo_disk

MIB = 1 << 20


def test_a_set_in_any_format_from_its_first_backup_to_its_last_merge(
    vdbackup: Vdbackup, disk: Path, repository: Path, disk_format: str, tmp_path: Path
):
    states = []
    for number in (1, 2, 3):
        demo_disk.change(disk, f"state {number}", {})
        states.append(tmp_path / f"{number}.raw")
        states[-1].write_bytes(disk.read_bytes())
        assert vdbackup("backup", disk, "-r", repository, "--format", disk_format).status == 0
    (backup_set,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    assert backup_set["format"] == disk_format
    for point, state in zip(backup_set["points"], states, strict=True):
        assert point["disk"].endswith(f".{disk_format}")
        for name in ("disk", "overlay"):
            readers.assert_holds(repository / point[name], state, disk_format)
    assert vdbackup("verify", "-r", repository).status == 0
    assert vdbackup("restore", "-r", repository, "2", tmp_path / "restored").status == 0
    assert (tmp_path / "restored").read_bytes() == states[1].read_bytes()
    assert vdbackup("merge", "-r", repository, "3").status == 0
    assert vdbackup("merge", "-r", repository, "3").status == 0
    (point,) = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    readers.assert_holds(repository / point["disk"], states[2], disk_format)


def test_a_point_is_exported_to_any_format(
    vdbackup: Vdbackup, repository: Path, backed_up: list[Path], tmp_path: Path, disk_format: str
):
    target = tmp_path / f"alone.{disk_format}"
    assert vdbackup("export", "-r", repository, "3", target).status == 0
    described = vdbackup("info", target, "--json").json
    assert (described["format"], len(described["chain"])) == (disk_format, 1)
    readers.assert_holds(target, backed_up[2], disk_format)


def test_a_set_is_converted_and_goes_on(
    vdbackup: Vdbackup, disk: Path, repository: Path, backed_up: list[Path]
):
    planned = vdbackup("convert", "-r", repository, "--format", "qcow2", "--dry-run")
    assert planned.status == 0
    assert "laptop-qcow2" in planned.out
    said = vdbackup("convert", "-r", repository, "--format", "qcow2", "--json")
    assert said.status == 0
    assert said.json["name"] == "laptop-qcow2"
    for point, state in zip(said.json["points"], backed_up, strict=True):
        readers.assert_holds(repository / point["disk"], state, "qcow2")
    assert vdbackup("backup", disk, "-r", repository, "--json").json["set"] == "laptop-qcow2"


def test_a_foreign_chain_is_described_backed_up_and_adopted_where_its_folders_are_named(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, elsewhere / "base.qcow2", "1M"], check=True)
    qemu.io(elsewhere / "base.qcow2", "write -P 7 100k 50k", disk_format="qcow2")
    tip, raw = tmp_path / "tip.qcow2", tmp_path / "tip.raw"
    child = ["-b", "elsewhere/base.qcow2", "-F", "qcow2", tip.name]
    subprocess.run([*create, *child], check=True, cwd=tmp_path)
    subprocess.run(["qemu-img", "convert", "-O", "raw", tip, raw], check=True)
    for command in (("info", tip), ("backup", tip, "-r", repository)):
        refused = vdbackup(*command)
        assert refused.status == 1
        assert "outside its own folder" in refused.err
        assert "--parents-in" in refused.err
    described = vdbackup("info", tip, "--parents-in", elsewhere, "--json").json
    assert [Path(each["path"]).name for each in described["chain"]] == ["tip.qcow2", "base.qcow2"]
    said = vdbackup("adopt", tip, "-r", repository, "--parents-in", elsewhere, "--json")
    assert [point["type"] for point in said.json["points"]] == ["full", "incremental"]
    readers.assert_holds(repository / said.json["points"][1]["disk"], raw, "qcow2")
    made = vdbackup("backup", tip, "-r", repository, "--parents-in", elsewhere, "--json")
    assert made.json["type"] == "incremental"


def test_snapshots_inside_what_is_adopted_are_told_for_they_are_in_no_point(
    vdbackup: Vdbackup, tmp_path: Path
) -> None:
    """Whoever deletes the old disk afterwards would lose them."""
    disk = tmp_path / "vm.qcow2"
    qemu.make(disk, MIB, "qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", disk], check=True)
    where = ("adopt", disk, "-r", tmp_path / "backups")
    assert "keeps snapshots inside itself (1)" in vdbackup(*where, "--dry-run").out
    said = vdbackup(*where)
    assert said.status == 3
    assert "keeps snapshots inside itself (1)" in said.err
    said = vdbackup("adopt", disk, "-r", tmp_path / "others", "--json")
    assert said.status == 3
    assert "keeps snapshots" in said.json["warnings"][0]


def test_what_is_always_wrong_with_a_chain_is_told_before_all_of_it_is_copied(
    vdbackup: Vdbackup, tmp_path: Path
) -> None:
    disk = tmp_path / "cut.raw"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    os.truncate(disk, 6 * MIB)
    said = vdbackup("adopt", disk, "-r", tmp_path / "backups", "--json")
    assert said.status == 1
    error = json.loads(said.err)
    assert error["code"] == "source-damaged"
    assert "is cut off" in error["title"]
    assert not said.out  # no progress


@pytest.mark.parametrize("command", ["adopt", "backup"])
def test_a_disk_that_claims_a_parent_it_may_not_read_makes_no_repository(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path, command: str
):
    create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"]
    subprocess.run([*create, tmp_path / "spy.qcow2", "1M"], check=True)
    said = vdbackup(command, tmp_path / "spy.qcow2", "-r", repository)
    assert said.status == 1
    assert not repository.exists()


def test_a_disk_that_a_format_cannot_hold_is_refused_with_those_that_can(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
):
    huge = tmp_path / "huge.img"
    with huge.open("wb") as file:
        file.truncate(3 << 40)
    said = vdbackup("backup", huge, "-r", repository, "--format", "vhd")
    assert said.status == 1
    assert "too large for VHD, which ends at 2 TiB" in said.err
    assert "vhdx or qcow2" in said.err
    made = vdbackup("backup", huge, "-r", repository, "--json")
    assert made.status == 0
    assert "kept in VHDX" in made.json["notes"][0]


def test_the_help_names_every_format(vdbackup: Vdbackup, disk_format: str):
    for command in ("backup", "export", "convert", "adopt"):
        assert disk_format in vdbackup(command, "--help").out


def test_a_disk_with_sectors_of_4096_bytes_is_kept_in_a_format_that_has_them(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path
):
    disk, raw = tmp_path / "large-sectors.vhdx", tmp_path / "wanted.raw"
    raw.write_bytes(b"\1" * UNIT + bytes(MIB - UNIT))
    made = create_disk(disk, "vhdx", MIB, sector_size=4096)
    made.write(0, memoryview(b"\1" * UNIT))
    made.flush()
    made.close()
    for disk_format in ("vmdk", "vhd"):
        refused = vdbackup("backup", disk, "-r", repository, "--format", disk_format)
        assert refused.status == 1
        assert "Choose vhdx or qcow2." in refused.err
    said = vdbackup("backup", disk, "-r", repository, "--json")
    assert said.status == 0
    assert "kept in VHDX: the source has sectors too large for VMDK" in said.json["notes"][0]
    assert vdbackup("info", repository / said.json["disk"], "--json").json["sector_size"] == 4096
    readers.assert_holds(repository / said.json["overlay"], raw, "vhdx")
