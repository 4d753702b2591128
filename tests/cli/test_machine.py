"""A machine of several disks on the command line, and in JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.noise import noise


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    disks = [tmp_path / "root.img", tmp_path / "home.img"]
    for seed, each in enumerate(disks):
        each.write_bytes(noise(1 << 20, seed))
    return disks


@pytest.fixture
def backups(vdbackup: Vdbackup, disks: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    assert vdbackup("backup", *disks, "--machine", "web", "-r", folder).status == 0
    assert vdbackup("backup", "--machine", "web", "-r", folder).status == 0
    return folder


def test_list_shows_machines_and_their_moments(vdbackup, backups):
    said = vdbackup("list", "-r", backups)
    assert "The machine web: root, home" in said.out
    assert "root #2, home #2" in said.out
    listed = vdbackup("list", "-r", backups, "--json").json
    (machine,) = listed["machines"]
    assert (machine["name"], machine["sets"]) == ("web", ["root", "home"])
    first, second = machine["moments"]
    assert (first["number"], first["whole"], first["missing"]) == (1, True, [])
    assert [(each["set"], each["sequence"]) for each in second["points"]] == [
        ("root", 2),
        ("home", 2),
    ]
    of_points = {
        (each["name"], point["moment"]["id"]) for each in listed["sets"] for point in each["points"]
    }
    assert of_points == {
        (name, moment["id"]) for name in ("root", "home") for moment in (first, second)
    }


def test_a_backup_of_a_machine_says_what_was_made_of_each_disk(vdbackup, backups):
    said = vdbackup("backup", "--machine", "web", "-r", backups, "--json")
    assert said.status == 0
    assert (said.json["machine"], said.json["number"], said.json["whole"]) == ("web", 3, True)
    assert [each["set"] for each in said.json["points"]] == ["root", "home"]
    assert said.json["points"][0]["consistency"]["how"] == "unmounted"


def test_a_dry_run_makes_no_machine(vdbackup, disks, tmp_path):
    folder = tmp_path / "backups"
    said = vdbackup("backup", *disks, "--machine", "web", "-r", folder, "--dry-run")
    assert said.status == 0
    assert "become the machine web" in said.out
    assert not list(folder.glob("machine-*"))


def test_a_moment_is_named_by_its_number_where_there_is_nothing_but_the_machine(vdbackup, backups):
    said = vdbackup("delete", "-r", backups, "1", "--json")
    assert said.status == 0
    listed = vdbackup("list", "-r", backups, "--json").json
    assert [each["number"] for each in listed["machines"][0]["moments"]] == [2]
    assert [len(each["points"]) for each in listed["sets"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["backup"], 2, "wrong-usage"),
        (["backup", "root.img", "home.img"], 2, "wrong-usage"),
        (["backup", "root.img", "--machine", "web", "--set", "root"], 2, "wrong-usage"),
        (["backup", "root.img", "--machine", "web"], 1, "not-one-machine"),
        (["backup", "root.img"], 1, "not-one-machine"),
        (["backup", "--machine", "other"], 1, "machine-not-found"),
        (["delete", "7", "--machine", "web"], 1, "point-not-found"),
        (["delete", "1", "--machine", "web", "--set", "root"], 2, "wrong-usage"),
        (["restore", "1", "out.img", "--machine", "web"], 2, "wrong-usage"),
        (["restore", "1", "a", "b", "--set", "root"], 2, "wrong-usage"),
        (["restore", "1", "out", "--machine", "web", "--files"], 2, "wrong-usage"),
        (["restore", "1", "out", "--machine", "web", "--partition", "1"], 2, "wrong-usage"),
        (["restore", "1", "out", "--machine", "web", "--grow", "1"], 2, "wrong-usage"),
        (["restore", "1", "out", "--files", "--partition", "1"], 2, "wrong-usage"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_code(
    vdbackup, backups, tmp_path, monkeypatch, arguments, status, code
):
    import json

    monkeypatch.chdir(tmp_path)
    said = vdbackup(*arguments, "-r", backups, "--json")
    assert said.status == status
    line = next(line for line in said.err.splitlines() if line.startswith("{"))
    assert json.loads(line)["code"] == code
