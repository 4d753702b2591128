"""`vdbackup policy`: what a set does by itself, shown and changed without a backup."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import fingerprint
from tests.cli.conftest import Vdbackup
from tests.repository.computers import running

SLOW_BACKUP = """
import sys
from vdbackup import cli
from vdbackup.backup import capture
copying = capture.copying
def when_told(*arguments):
    print("locked", flush=True)
    sys.stdin.readline()
    return copying(*arguments)
capture.copying = when_told
cli.main(["backup", sys.argv[2], "-r", sys.argv[1], "--json"])
"""
USUAL = {
    "set": "laptop",
    "keep": None,
    "keep_within_hours": None,
    "daily": None,
    "weekly": None,
    "monthly": None,
    "yearly": None,
    "at_most": None,
    "retarget": True,
    "boot_test": "off",
    "read_all_every": 10,
    "at_most_bytes": None,
    "keep_writes_seconds": None,
    "moments_every_seconds": None,
    "forget_moments_seconds": None,
    "index": False,
}


@pytest.fixture
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        yield


@pytest.fixture
def three_points(backed_up: list[Path], repository: Path) -> Path:
    """A repository of three points, each on the one before."""
    return repository


def sequences(vdbackup: Vdbackup, repository: Path) -> list[int]:
    listed = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    return [point["sequence"] for point in listed]


def test_the_policy_of_each_set_is_shown(vdbackup: Vdbackup, three_points: Path):
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]
    said = vdbackup("policy", "-r", three_points)
    assert said.status == 0
    shown = re.split(" {2,}", said.out.splitlines()[1])
    assert shown == ["laptop", "all points", "each new point", "no", "every 10th", "no"]


def test_how_often_everything_is_read_can_be_changed(vdbackup: Vdbackup, three_points: Path):
    said = vdbackup("policy", "-r", three_points, "--read-all-every", 3)
    assert said.out.splitlines()[-1] == (
        "Every 3rd backup of laptop reads everything as a proof, where its changes are tracked."
    )
    never = vdbackup("policy", "-r", three_points, "--read-all-every", "never")
    assert never.out.startswith("No backup of laptop reads everything as a proof")
    shown = vdbackup("policy", "-r", three_points, "--json").json["sets"]
    assert shown == [{**USUAL, "read_all_every": None}]
    assert vdbackup("policy", "-r", three_points).out.split()[-2:] == ["never", "no"]
    for each in (0, -1, "always"):
        assert vdbackup("policy", "-r", three_points, "--read-all-every", each).status == 2


def test_a_set_that_cannot_be_read_is_shown_and_stops_no_other(
    vdbackup: Vdbackup, three_points: Path
):
    (three_points / "lost").mkdir()
    (three_points / "lost" / "set.json").write_text("{")
    said = vdbackup("policy", "-r", three_points)
    assert said.status == 3
    assert "laptop" in said.out
    assert "lost: DAMAGED" in said.out


def test_a_policy_that_takes_no_point_asks_nothing(
    vdbackup: Vdbackup, three_points: Path, nobody_to_ask: None
):
    changes = ("--keep", 4, "--boot-test", "each", "--retarget", "off", "--index", "each")
    said = vdbackup("policy", "-r", three_points, *changes, "--json")
    assert said.status == 0
    expected = {**USUAL, "keep": 4, "retarget": False, "boot_test": "each", "index": True}
    assert said.json == {"event": "result", **expected}
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [expected]
    said = vdbackup("policy", "-r", three_points, "--keep", "all")
    assert (said.status, said.err) == (0, "")
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"][0]["keep"] is None


def test_without_a_terminal_nothing_is_changed_that_takes_points_unless_it_is_said(
    vdbackup: Vdbackup, three_points: Path, disk: Path, nobody_to_ask: None
):
    said = vdbackup("policy", "-r", three_points, "--keep", 2)
    assert said.status == 1
    assert "The next backup of laptop would take point 1, point 2." in said.err
    assert "--yes" in said.err
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]
    assert vdbackup("policy", "-r", three_points, "--keep", 2, "--yes").status == 0
    assert sequences(vdbackup, three_points) == [1, 2, 3]
    assert vdbackup("backup", disk, "-r", three_points).status == 0
    assert sequences(vdbackup, three_points) == [3, 4]


@pytest.mark.parametrize(("typed", "status", "keep"), [("y", 0, 1), ("n", 130, None)])
def test_on_a_terminal_a_policy_that_takes_points_is_asked_about(
    vdbackup: Vdbackup, three_points: Path, answer: int, typed: str, status: int, keep: int | None
):
    os.write(answer, typed.encode() + b"\n")
    said = vdbackup("policy", "-r", three_points, "--keep", 1)
    assert "The next backup of laptop takes point 1, point 2, point 3. Is that meant?" in said.err
    assert said.status == status
    shown = vdbackup("policy", "-r", three_points, "--json").json["sets"]
    assert shown == [{**USUAL, "keep": keep}]


def test_a_dry_run_shows_what_would_go_and_changes_nothing(
    vdbackup: Vdbackup, three_points: Path, nobody_to_ask: None
):
    before = fingerprint(three_points)
    said = vdbackup("policy", "-r", three_points, "--keep", 1, "--dry-run", "--json")
    assert said.status == 0
    assert said.json["event"] == "plan"
    assert said.json["invalidates"] == ["point 1", "point 2", "point 3"]
    said = vdbackup("policy", "-r", three_points, "--keep", 1, "--dry-run")
    assert "gone afterwards: point 3" in said.out
    assert fingerprint(three_points) == before


@pytest.mark.parametrize("keep", ["0", "-1", "some", str(1 << 63)])
def test_what_cannot_be_kept_is_wrong_usage(
    vdbackup: Vdbackup, three_points: Path, disk: Path, keep: str
):
    for command in (["policy"], ["backup", disk]):
        said = vdbackup(*command, "-r", three_points, f"--keep={keep}")
        assert said.status == 2
        assert "points_kept" not in said.err
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]


def test_where_there_are_several_sets_the_one_to_change_is_named(
    vdbackup: Vdbackup, three_points: Path, disk: Path
):
    assert vdbackup("backup", disk, "-r", three_points, "--set", "other").status == 0
    said = vdbackup("policy", "-r", three_points, "--keep", 5)
    assert said.status == 1
    assert "--set" in said.err
    assert vdbackup("policy", "-r", three_points, "--set", "other", "--keep", 5).status == 0
    kept = {
        each["set"]: each["keep"]
        for each in json.loads(vdbackup("policy", "-r", three_points, "--json").out)["sets"]
    }
    assert kept == {"laptop": None, "other": 5}


def test_yes_and_a_wait_for_a_backup_take_the_point_of_that_backup_too(
    vdbackup: Vdbackup, three_points: Path, disk: Path
):
    waits = ["policy", "-r", str(three_points), "--keep", "2", "--yes", "--wait", "--json"]
    with (
        running(SLOW_BACKUP, three_points, str(disk)) as backup,
        subprocess.Popen(
            [sys.executable, "-m", "vdbackup", *waits], stdout=subprocess.PIPE, text=True
        ) as waiting,
    ):
        assert backup.stdin is not None
        assert waiting.stdout is not None
        assert json.loads(waiting.stdout.readline())["event"] == "waiting"
        backup.stdin.write("\n")
        backup.stdin.flush()
        out, _ = waiting.communicate(timeout=200)
        assert (waiting.returncode, json.loads(out.splitlines()[-1])["keep"]) == (0, 2)
    assert sequences(vdbackup, three_points) == [1, 2, 3, 4]


def test_a_backup_keeps_no_other_number_while_a_manifest_is_damaged_and_says_so(
    vdbackup: Vdbackup, three_points: Path, disk: Path
):
    """It never asks, so nobody would have been shown what goes when the point is known again."""
    manifest = three_points / "laptop" / "0002-incremental.json"
    manifest.write_text("{")
    options = ("--keep", 1, "--boot-test", "off", "--retarget", "off")
    planned = vdbackup("backup", disk, "-r", three_points, *options, "--dry-run")
    assert "how many it keeps stays as it is" in planned.out
    said = vdbackup("backup", disk, "-r", three_points, *options)
    assert said.status == 3
    assert "how many it keeps stays as it was" in said.err
    assert manifest.name in said.err
    changed = {**USUAL, "retarget": False}
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [changed]
    assert vdbackup("repair", "-r", three_points).status == 0
    assert sequences(vdbackup, three_points) == [1, 2, 3, 4]


def test_a_dry_run_says_of_each_point_whether_it_stays_and_why(
    vdbackup: Vdbackup, three_points: Path
):
    before = fingerprint(three_points)
    rules = ("--daily", 7, "--keep", 2, "--dry-run")
    said = vdbackup("policy", "-r", three_points, *rules, "--json").json
    assert [each["outcome"] for each in said["points"]] == ["goes", "goes", "stays"]
    assert [each["into"] for each in said["points"]] == [2, 3, None]
    assert said["points"][2]["rules"] == ["newest"]
    assert (said["keep"], said["daily"]) == (2, 7)
    lines = vdbackup("policy", "-r", three_points, *rules).out.splitlines()
    assert re.split(" {2,}", lines[-3])[2:] == [
        "goes",
        "point 4 is newer and stays for the same time",
    ]
    assert re.split(" {2,}", lines[-1])[2:] == ["stays", "among the newest"]
    assert fingerprint(three_points) == before


def test_the_policy_that_holds_now_is_foretold_without_a_change(
    vdbackup: Vdbackup, three_points: Path
):
    said = vdbackup("policy", "-r", three_points, "--dry-run", "--json").json
    assert [each["why"] for each in said["points"]] == ["all stay"] * 3


def test_rules_are_set_shown_and_ended_each_by_itself(vdbackup: Vdbackup, three_points: Path):
    rules = ("--keep-within", "36h", "--weekly", 8, "--at-most", 100)
    said = vdbackup("policy", "-r", three_points, *rules)
    assert said.out.splitlines()[-1] == (
        "laptop keeps all points of the last 36 hours and the newest of each of 8 weeks, "
        "100 points at most, from its next backup on."
    )
    vdbackup("policy", "-r", three_points, "--keep-within", "off", "--yearly", 3, "--yes")
    shown = vdbackup("policy", "-r", three_points, "--json").json["sets"]
    assert shown == [{**USUAL, "weekly": 8, "at_most": 100, "yearly": 3}]
    assert "8 weeks and 3 years, 100 points at most" in vdbackup("policy", "-r", three_points).out
    assert vdbackup("policy", "-r", three_points, "--keep", "all").status == 0
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]


def test_points_and_bytes_are_limited_each_by_itself_and_ended_together(
    vdbackup: Vdbackup, three_points: Path
):
    both = ("--at-most", 40, "--at-most", "500G")
    said = vdbackup("policy", "-r", three_points, *both)
    assert said.out.splitlines()[-1] == (
        "laptop keeps all points, 40 points at most, 500 GiB together at most, from its next "
        "backup on."
    )
    shown = vdbackup("policy", "-r", three_points, "--json").json["sets"]
    assert shown == [{**USUAL, "at_most": 40, "at_most_bytes": 500 << 30}]
    vdbackup("policy", "-r", three_points, "--at-most", "1.5T")
    shown = vdbackup("policy", "-r", three_points, "--json").json["sets"]
    assert shown == [{**USUAL, "at_most": 40, "at_most_bytes": 1536 << 30}]
    assert vdbackup("policy", "-r", three_points, "--at-most", "off").status == 0
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]
    for wrong in ("5GB5", "-1", "0", "100K", "much"):
        assert vdbackup("policy", "-r", three_points, f"--at-most={wrong}").status == 2


@pytest.mark.parametrize("rule", ["--keep-within=2", "--keep-within=0d", "--daily=0", "--yearly=x"])
def test_a_rule_that_makes_no_sense_is_wrong_usage(
    vdbackup: Vdbackup, three_points: Path, rule: str
):
    assert vdbackup("policy", "-r", three_points, rule).status == 2
    assert vdbackup("policy", "-r", three_points, "--json").json["sets"] == [USUAL]


def test_a_pinned_point_stays_and_is_neither_deleted_nor_merged(
    vdbackup: Vdbackup, three_points: Path, disk: Path
):
    pinned = vdbackup("policy", "-r", three_points, "--pin", 2, "--note", "before the upgrade")
    assert (pinned.status, pinned.out.startswith("Point 2 is pinned")) == (0, True)
    assert "Point 2 is pinned: before the upgrade" in vdbackup("list", "-r", three_points).out
    listed = vdbackup("list", "-r", three_points, "--json").json["sets"][0]["points"]
    assert [(each["pinned"] or {}).get("note") for each in listed] == [
        None,
        "before the upgrade",
        None,
    ]
    for command in (["delete", 2], ["merge", 3]):
        refused = vdbackup(command[0], "-r", three_points, command[1], "--json")
        assert refused.status == 1
        assert json.loads(refused.err.splitlines()[-1])["code"] == "point-pinned"
    assert vdbackup("policy", "-r", three_points, "--keep", 1, "--yes").status == 0
    assert vdbackup("backup", disk, "-r", three_points).status == 0
    assert sequences(vdbackup, three_points) == [2, 4]
    assert vdbackup("verify", "-r", three_points).status == 0
    assert vdbackup("policy", "-r", three_points, "--unpin", 2).status == 0
    assert vdbackup("delete", "-r", three_points, 2).status == 0


@pytest.mark.parametrize(
    "options", [["--note", "why"], ["--pin", "1", "--keep", "3"], ["--pin", "1", "--unpin", "1"]]
)
def test_a_pin_that_is_not_clear_is_wrong_usage(
    vdbackup: Vdbackup, three_points: Path, options: list[str]
):
    before = fingerprint(three_points)
    assert vdbackup("policy", "-r", three_points, *options).status == 2
    assert fingerprint(three_points) == before
