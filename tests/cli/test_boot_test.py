"""Boot tests by command: chosen points, all new ones, and each new one after its backup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Vdbackup
from tests.guests import boot_sector
from vdbackup.sources import demo_disk

SIGN = "text:the first state"


@pytest.fixture
def repository(tmp_path: Path, disk: Path, vdbackup: Vdbackup) -> Path:
    """A point of a disk that boots, and one of the same disk without its boot code."""
    assert vdbackup("backup", disk, "-r", tmp_path / "backups").status == 0
    with disk.open("rb+") as file:
        file.write(bytes(512))
    assert vdbackup("backup", disk, "-r", tmp_path / "backups").status == 0
    return tmp_path / "backups"


def points(vdbackup: Vdbackup, repository: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = vdbackup("list", "-r", repository, "--json").json["sets"][0][
        "points"
    ]
    return found


def test_a_point_is_tested_and_the_list_says_what_came_of_it(
    vdbackup: Vdbackup, repository: Path
) -> None:
    said = vdbackup("boot-test", 1, "-r", repository, "--sign", SIGN)
    assert said.status == 0, said.err
    assert "#1 boots, in" in said.out
    tested = points(vdbackup, repository)[0]["boot_tested"]
    assert tested["ok"] is True
    assert tested["stage"] == "login"
    assert tested["seconds"] > 0
    assert (repository / tested["picture"]).read_bytes().startswith(b"\x89PNG")


def test_new_points_are_tested_once_and_one_that_fails_fails_the_command(
    vdbackup: Vdbackup, repository: Path
) -> None:
    said = vdbackup("boot-test", "--new", "-r", repository, "--sign", SIGN, "--json")
    assert said.status == 1
    results = [json.loads(line) for line in said.out.splitlines() if '"result"' in line]
    assert [(each["sequence"], each["ok"]) for each in results] == [(2, False), (1, True)]
    assert results[0]["stage"] == "firmware"
    assert "it stopped at the stage firmware" in said.err
    again = vdbackup("boot-test", "--new", "-r", repository)
    assert again.status == 0
    assert again.out == "All points have been tested.\n"


def test_each_new_point_is_tested_after_its_backup_if_its_set_wants_that(
    vdbackup: Vdbackup, tmp_path: Path
) -> None:
    disk = boot_sector.make(tmp_path / "crash.img", boot_sector.CRASH)
    where = ("-r", tmp_path / "backups")
    said = vdbackup("backup", disk, *where, "--boot-test", "each", "--keep", 5)
    assert said.status == 3, "a point that does not boot is a warning of its backup"
    assert "Point 1 (full)" in said.out
    assert "has crashed" in said.err
    demo_disk.create(tmp_path / "demo.img", "the first state")
    disk.write_bytes((tmp_path / "demo.img").read_bytes())
    policy = json.loads((tmp_path / "backups" / "crash" / "set.json").read_text())["policy"]
    assert (policy["keep"], policy["retarget"], policy["boot_test"]) == (5, True, "each")
    assert vdbackup("backup", disk, *where, "--boot-test", "off").status == 0
    tested = [point["boot_tested"] for point in points(vdbackup, tmp_path / "backups")]
    assert [each and each["ok"] for each in tested] == [False, None]
    policy = json.loads((tmp_path / "backups" / "crash" / "set.json").read_text())["policy"]
    assert (policy["keep"], policy["retarget"], policy["boot_test"]) == (5, True, "off")


def test_a_disk_of_data_fails_neither_a_round_nor_its_backup(
    vdbackup: Vdbackup, tmp_path: Path
) -> None:
    (tmp_path / "data.img").write_bytes(bytes(1 << 20) + b"data" * 4096)
    where = ("-r", tmp_path / "backups")
    said = vdbackup("backup", tmp_path / "data.img", *where, "--boot-test", "each")
    assert said.status == 0, said.err
    assert "no system to boot" in said.out
    said = vdbackup("boot-test", "--new", *where, "--json")
    assert said.status == 0
    assert json.loads(said.out.splitlines()[-1])["ok"] is None
    said = vdbackup("boot-test", 1, *where)
    assert said.status == 1, "who asks whether it boots hears that it does not"
    assert points(vdbackup, tmp_path / "backups")[0]["boot_tested"] is None


def test_wishes_that_contradict_each_other_are_refused(
    vdbackup: Vdbackup, repository: Path
) -> None:
    assert vdbackup("boot-test", 1, "--new", "-r", repository).status == 2
    assert vdbackup("boot-test", 1, "-r", repository, "--sign", "smoke").status == 2
