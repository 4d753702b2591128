"""`vdbackup status`: how the backups are, for a person and for a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from vdbackup.operations.schedules import systemd


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"VDBACKUP_{name}_DIR", str(tmp_path / "own" / name.lower()))
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "no-systemd")


def dated(repository: Path, moment: str) -> None:
    for manifest in repository.glob("laptop/*.json"):
        record = json.loads(manifest.read_text())
        if "created" in record:
            manifest.write_text(json.dumps({**record, "created": moment}))


def test_backups_that_are_as_they_should_be_need_nobody(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    said = vdbackup("status", "-r", repository, "--json")
    assert said.status == 0
    (found,) = said.json["repositories"]
    assert found["path"] == str(repository)
    assert found["free_bytes"] > 0
    (laptop,) = found["sets"]
    assert (laptop["name"], laptop["points"], laptop["layers"]) == ("laptop", 3, 3)
    assert (laptop["last_good"]["sequence"], laptop["schedule"]) == (3, None)
    assert (laptop["needs_somebody"], laptop["findings"]) == (False, [])
    said = vdbackup("status", "-r", repository)
    assert (said.status, said.err) == (0, "")
    assert "laptop" in said.out


def test_what_needs_somebody_ends_with_three(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path
):
    assert vdbackup("schedule", "set", "-r", repository, "--every", "daily").status == 0
    dated(repository, "2026-01-01T00:00:00+00:00")
    disk.unlink()
    assert vdbackup("schedule", "run", "-r", repository, "--set", "laptop").status == 1
    said = vdbackup("status")  # a schedule's repository is known
    assert said.status == 3
    assert "! laptop: The last good point, 3, is" in said.out
    assert "! laptop: The last scheduled backup failed: There is no" in said.out
    assert "- laptop: Nothing has been proven of it" in said.out
    (found,) = vdbackup("status", "--json").json["repositories"]
    laptop = found["sets"][0]
    assert [each["about"] for each in laptop["findings"]] == ["failed", "late", "unproven"]
    assert laptop["last_run"]["code"] == "source-not-found"
    assert laptop["schedule"] == {"every": "daily", "at": None}


def test_a_repository_that_is_not_there_is_said_and_stops_no_other(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path
):
    said = vdbackup("status", "-r", tmp_path / "nowhere", "-r", repository, "--json")
    assert said.status == 3
    gone, there = said.json["repositories"]
    assert gone["problem"]["title"]
    assert gone["sets"] == []
    assert there["sets"]
