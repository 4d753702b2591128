"""`vdbackup schedule`: sets that are backed up automatically, by systemd or by a line for cron."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.notified import desktop
from tests.sources.loops import loop
from vdbackup import durable
from vdbackup.agent import connection
from vdbackup.errors import PointNotFound
from vdbackup.locations import Locations
from vdbackup.operations.schedules import systemd
from vdbackup.recovery import verify
from vdbackup.settings import Settings

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$0.asked"
case "$*" in *enable*) [ ! -e "$0.fails" ] || { echo "No such bus." >&2; exit 1; } ;; esac
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"VDBACKUP_{name}_DIR", str(tmp_path / "own" / name.lower()))
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "no-systemd")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemd that runs, notes what it is asked, and finds units in a folder of the test's."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    loginctl = program.with_name("loginctl")  # which who is not root has asked, too
    loginctl.write_text("#!/bin/sh\n")
    loginctl.chmod(0o755)
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    (tmp_path / "run" / "systemd" / "private").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(systemd, "_RUNS", tmp_path)
    monkeypatch.setattr(systemd, "folder", lambda: tmp_path / "units")
    return program


def asked(systemctl: Path) -> list[str]:
    lines = Path(f"{systemctl}.asked").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines]


def last_as_old(vdbackup: Vdbackup, repository: Path) -> None:
    """Let the newest point be of last week."""
    manifest = max(repository.glob("*/*-incremental.json"))
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "created": "2026-01-01T00:00:00+00:00"}))


def test_the_units_are_shown_and_nothing_is_written(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, systemctl: Path, tmp_path: Path
):
    options = ("-r", repository, "--every", "daily", "--at", "02:30", "--on-mains", "--dry-run")
    said = vdbackup("schedule", "set", *options)
    assert said.status == 0
    assert "laptop is backed up daily at 02:30, automatically" in said.out
    assert "OnCalendar=*-*-* 02:30:00" in said.out
    assert "ConditionACPower=true" in said.out
    assert "\\n" not in said.out
    assert f'"-r" "{repository}" "--set=laptop" "--json"' in said.out
    units = vdbackup("schedule", "set", *options, "--json").json["units"]
    assert [Path(each).suffix for each in units] == [".service", ".timer"]
    assert not (tmp_path / "units").exists()
    assert not (tmp_path / "own").exists()
    assert not Path(f"{systemctl}.asked").exists()


def test_a_schedule_is_set_shown_run_changed_and_removed(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, systemctl: Path, tmp_path: Path
):
    where = ("-r", repository, "--set", "laptop")
    assert vdbackup("schedule", "set", *where, "--every", "15m").status == 0
    units = sorted(path.name for path in (tmp_path / "units").iterdir())
    assert [name.rpartition(".")[2] for name in units] == ["service", "timer"]
    assert asked(systemctl) == ["daemon-reload", f"enable --now {units[1]}"]
    (listed,) = vdbackup("schedule", "list", "--json").json["schedules"]
    assert (listed["set"], listed["every"], listed["last_run"]) == ("laptop", "15m", None)
    last_as_old(vdbackup, repository)
    ran = vdbackup("schedule", "run", *where, "--json")
    assert (ran.status, ran.json["event"]) == (0, "result")
    assert (ran.json["outcome"], ran.json["point"]) == ("done", 4)
    assert vdbackup("schedule", "run", *where, "--json").json["outcome"] == "skipped"
    assert "every 15 minutes" in vdbackup("schedule", "list").out
    shown = vdbackup("schedule", "show", *where, "--json").json
    assert [run["outcome"] for run in shown["runs"]] == ["done", "skipped"]
    assert "Point 4 was made." in vdbackup("schedule", "show", *where).out
    assert vdbackup("schedule", "set", *where, "--every", "weekly").status == 0
    assert "Mon *-*-* 12:30:00" in (tmp_path / "units" / units[1]).read_text()
    assert vdbackup("schedule", "remove", *where).status == 0
    assert list((tmp_path / "units").iterdir()) == []
    assert asked(systemctl)[-2:] == [f"disable --now {units[1]} {units[0]}", "daemon-reload"]
    assert vdbackup("schedule", "list", "--json").json == {"schedules": []}
    gone = vdbackup("schedule", "remove", *where, "--json")
    assert json.loads(gone.err)["code"] == "schedule-not-found"


def test_what_systemd_does_not_take_is_a_warning(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, systemctl: Path
):
    Path(f"{systemctl}.fails").touch()
    said = vdbackup("schedule", "set", "-r", repository, "--every", "hourly")
    assert said.status == 3
    assert "systemd did not take it: No such bus." in said.err


def test_a_damaged_schedule_is_said_and_can_be_removed(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, systemctl: Path, tmp_path: Path
):
    where = ("-r", repository, "--set", "laptop")
    assert vdbackup("schedule", "set", *where, "--every", "15m").status == 0
    (record,) = tmp_path.glob("**/schedules/*.json")
    record.write_text("{")
    listed = vdbackup("schedule", "list", "--json")
    assert listed.json == {"schedules": [], "damaged": [str(record)]}
    assert f"{record} makes no sense any more" in listed.err
    assert vdbackup("schedule", "list").out == ""
    assert "Set it again, or remove it." in vdbackup("schedule", "show", *where).err
    assert vdbackup("schedule", "remove", *where).status == 0
    assert not record.exists()
    assert list((tmp_path / "units").iterdir()) == []
    assert vdbackup("schedule", "remove", *where, "--json").status == 1


def test_a_damaged_history_is_no_schedule_that_has_never_run(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, systemctl: Path, tmp_path: Path
):
    where = ("-r", repository, "--set", "laptop")
    assert vdbackup("schedule", "set", *where, "--every", "15m").status == 0
    assert vdbackup("schedule", "run", *where).status == 0
    record, runs = sorted(
        tmp_path.glob("**/schedules/*.json"), key=lambda each: "runs" in each.read_text()
    )
    runs.write_text("{")
    assert "not known any more" in vdbackup("schedule", "list").out
    assert vdbackup("schedule", "list", "--json").json["schedules"][0]["runs_damaged"] is True
    assert "its last runs makes no sense" in vdbackup("schedule", "show", *where).err
    assert vdbackup("status", "-r", repository).status == 3
    assert record.exists()


def test_without_systemd_a_line_for_cron_is_said_and_does_what_it_says(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    said = vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--at", "02:30")
    line = said.out.splitlines()[-1]
    assert line.startswith("30 2 * * * ")
    last_as_old(vdbackup, repository)
    command = line.removeprefix("30 2 * * * ").replace("\\%", "%")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["point"] == 4
    again = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout.splitlines()[-1])["outcome"] == "skipped"


def test_a_failure_is_json_and_stands_in_the_list(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path
):
    assert vdbackup("schedule", "set", "-r", repository, "--every", "daily").status == 0
    last_as_old(vdbackup, repository)
    disk.unlink()
    failed = vdbackup("schedule", "run", "-r", repository, "--set", "laptop", "--json")
    assert failed.status == 1
    assert json.loads(failed.err.splitlines()[-1])["code"] == "source-not-found"
    (listed,) = vdbackup("schedule", "list", "--json").json["schedules"]
    assert (listed["last_run"]["outcome"], listed["last_run"]["code"]) == (
        "failed",
        "source-not-found",
    )


def test_people_are_told_of_a_failure_once_and_that_it_is_over_without_a_window(
    vdbackup: Vdbackup,
    backed_up: list[Path],
    repository: Path,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    said = tmp_path / "said"
    alarm = f'/bin/sh -c \'printf "%s\\n" "$2" >> {said}\' alarm'
    locations = Locations.from_environment()
    Settings(trouble_command=alarm).save(locations.settings_file)
    assert vdbackup("schedule", "set", "-r", repository, "--every", "daily").status == 0
    last_as_old(vdbackup, repository)
    away = disk.rename(tmp_path / "away.img")
    run = ("schedule", "run", "-r", repository, "--set", "laptop")
    with desktop(tmp_path) as (address, shown):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        assert vdbackup(*run).status == 1
        assert vdbackup(*run).status == 1
        told = said.read_text().splitlines()
        assert len(told) == 2  # it failed, and it is late: each once
        assert told == shown.texts()
        assert any("laptop.img" in each for each in told)
        away.rename(disk)
        window = durable.hold_lock(os.open(locations.window_lock, os.O_RDWR | os.O_CREAT))
        assert vdbackup(*run).status == 0
        os.close(window)
        assert set(said.read_text().splitlines()[2:]) == {
            "It is backed up again: the trouble is over.",
            "There is a new backup: the trouble is over.",
        }
        assert len(shown.told) == 2  # who has the window open is told by that


def test_people_are_told_of_a_merge_that_failed(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path
):
    """The next backup may go well, and then nobody would ever hear of it."""
    said = tmp_path / "said"
    alarm = f'/bin/sh -c \'printf "%s\\n" "$2" >> {said}\' alarm'
    Settings(trouble_command=alarm).save(Locations.from_environment().settings_file)
    where = ("-r", repository, "--set", "laptop")
    assert vdbackup("schedule", "set", *where, "--every", "15m", "--merge-at", "03:00").status == 0
    (repository / "vdbackup.json").rename(tmp_path / "away")
    assert vdbackup("schedule", "merge", *where).status == 1
    assert vdbackup("schedule", "merge", *where).status == 1
    (told,) = said.read_text().splitlines()
    assert str(repository) in told


def test_people_are_told_once_of_a_merge_that_left_something_and_once_that_it_is_over(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path
):
    """A service that ends with 3 is seen by nobody, and no backup makes up for it."""
    said = tmp_path / "said"
    alarm = f'/bin/sh -c \'printf "%s\\n" "$2" >> {said}\' alarm'
    Settings(trouble_command=alarm).save(Locations.from_environment().settings_file)
    where = ("-r", repository, "--set", "laptop")
    merge = ("schedule", "merge", *where)
    assert vdbackup("schedule", "set", *where, "--every", "15m", "--merge-at", "03:00").status == 0
    assert vdbackup("policy", *where, "--keep", 1, "--yes").status == 0
    (manifest,) = (repository / "laptop").glob("0002-incremental.json")
    whole = manifest.read_bytes()
    manifest.write_text("{")
    assert vdbackup(*merge).status == 3
    assert vdbackup(*merge).status == 3
    told = said.read_text().splitlines()
    assert len(told) == 2  # the manifest cannot be read, and so nothing is merged: each once
    (merged,) = [each for each in told if "no older points are merged" in each]
    assert "damaged manifests" in merged
    (found,) = vdbackup("status", "-r", repository, "--json").json["repositories"][0]["sets"]
    (finding,) = [each for each in found["findings"] if each["about"] == "not-merged"]
    assert finding["sentence"] == f"The last scheduled merge met trouble: {merged}"
    last_as_old(vdbackup, repository)
    assert vdbackup("schedule", "run", *where).status in (0, 1, 3)
    assert "merged again" not in said.read_text()
    manifest.write_bytes(whole)
    assert vdbackup(*merge).status == 0
    over = said.read_text().splitlines()[len(told) :]
    assert over.count("Older points are merged again: the trouble is over.") == 1
    (listed,) = vdbackup("schedule", "list", "--json").json["schedules"]
    assert listed["last_merge"]["outcome"] == "done"
    before = said.read_text()
    assert vdbackup(*merge).status == 0
    assert said.read_text() == before


def test_a_mistake_in_the_settings_costs_no_backup(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    Settings(mail_to="-X").save(Locations.from_environment().settings_file)
    assert vdbackup("schedule", "set", "-r", repository, "--every", "daily").status == 0
    last_as_old(vdbackup, repository)
    ran = vdbackup("schedule", "run", "-r", repository, "--set", "laptop")
    assert ran.status == 0
    assert "Nobody could be told of trouble: '-X' is no address for mail" in ran.err


def test_a_schedule_is_shown_while_its_backups_are_away(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    assert vdbackup("schedule", "set", "-r", repository, "--every", "daily").status == 0
    repository.rename(repository.with_name("unplugged"))
    failed = vdbackup("schedule", "run", "-r", repository, "--set", "laptop")
    assert failed.status == 1
    shown = vdbackup("schedule", "show", "-r", repository, "--set", "laptop")
    assert shown.status == 0
    assert "failed" in shown.out
    assert vdbackup("schedule", "remove", "-r", repository, "--set", "laptop").status == 0


@pytest.mark.parametrize(
    "options", [["--every", "7m"], ["--every", "15m", "--at", "02:30"], ["--every", "plug"], []]
)
def test_what_makes_no_sense_is_wrong_usage(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, options: list[str]
):
    if os.path.ismount(repository.parent):
        pytest.skip("the test's folder is a drive")
    said = vdbackup("schedule", "set", "-r", repository, *options)
    assert said.status == 2
    assert vdbackup("schedule", "list", "--json").json == {"schedules": []}


def test_a_source_that_the_user_may_not_read_is_no_users_schedule(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--json")
    assert said.status == 1
    assert json.loads(said.err.splitlines()[-1])["code"] == "source-not-permitted"


@pytest.mark.usefixtures("as_root")
def test_a_disk_that_is_read_for_a_user_by_whom_polkit_allows_it_has_one(
    vdbackup: Vdbackup, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image = tmp_path / "system.img"
    image.write_bytes(bytes(1 << 20))
    with loop(image) as device:
        assert vdbackup("backup", device, "-r", repository).status == 0
        monkeypatch.setattr(os, "access", lambda *_: False)
        asked = ("schedule", "set", "-r", repository, "--every", "daily")
        assert vdbackup(*asked).status == 1
        monkeypatch.setattr(connection, "SOCKET", tmp_path)  # somebody listens there
        said = vdbackup(*asked)
        assert said.status == 0
        assert "an administrator has to have allowed it by a rule" in said.out


def test_where_a_clock_is_put_forward_over_its_time_the_point_of_the_day_is_made_once(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    """02:30 does not come in Berlin that day; the timer elapses at 03:30, too, on every day."""
    assert (
        vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--at", "02:30").status
        == 0
    )
    outcomes = []
    for clock in ("27 01:30", "27 02:30", "28 01:30", "28 03:30", "29 02:30", "29 03:30"):
        command = [sys.executable, "-m", "vdbackup", "schedule", "run", "-r", str(repository)]
        done = subprocess.run(
            ["faketime", f"2027-03-{clock}:00", *command, "--set", "laptop", "--json"],
            env={**os.environ, "TZ": "Europe/Berlin", "DONT_FAKE_MONOTONIC": "1"},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        outcomes.append(json.loads(done.stdout.splitlines()[-1])["outcome"])
    assert outcomes == ["done", "done", "skipped", "done", "done", "skipped"]


def test_a_users_timers_run_whether_they_are_logged_in_or_not(
    vdbackup: Vdbackup,
    backed_up: list[Path],
    repository: Path,
    systemctl: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Also where who sets them has come by su(1), which says nothing of their systemd."""
    loginctl = systemctl.with_name("loginctl")
    loginctl.write_text(f'#!/bin/sh\necho "- $*" >> {systemctl}.asked\n')
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    where = ("-r", repository, "--set", "laptop")
    said = vdbackup("schedule", "set", *where, "--every", "15m")
    assert "laptop is backed up every 15 minutes, automatically, whether you are" in said.out
    assert asked(systemctl)[:2] == ["enable-linger 1234", "daemon-reload"]
    Path(f"{systemctl}.asked").unlink()
    said = vdbackup("schedule", "set", *where, "--every", "login")
    assert "whether" not in said.out
    assert asked(systemctl)[0] == "daemon-reload"


def test_a_scheduled_run_verifies_what_was_verified_the_longest_ago(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    """Once a backup is made, so many points each time: all of them come up in their turn."""
    said = vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--verify", "2")
    assert said.status == 0
    assert "Each time the 2 points are verified whose last verification is" in said.out
    assert vdbackup("schedule", "list", "--json").json["schedules"][0]["verify"] == 2
    assert vdbackup("verify", "-r", repository, "2").status == 0
    last_as_old(vdbackup, repository)
    said = vdbackup("schedule", "run", "-r", repository, "--json")
    assert said.status == 0
    events = [json.loads(line) for line in said.out.splitlines()]
    (event,) = [each for each in events if each.get("event") == "verified"]
    assert [each["sequence"] for each in event["points"]] == [4, 3]
    last_as_old(vdbackup, repository)
    said = vdbackup("schedule", "run", "-r", repository)
    assert "Verified: points 5, 1." in said.out
    (listed,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    assert all(point["verified"]["ok"] for point in listed["points"])


def test_damage_that_a_scheduled_run_finds_is_said_and_costs_not_the_backup(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--verify", "9")
    last_as_old(vdbackup, repository)
    (listed,) = vdbackup("list", "-r", repository, "--json").json["sets"]
    layer = repository / listed["points"][0]["disk"]
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.seek(layer.stat().st_size // 2)
        file.write(b"damaged")
    said = vdbackup("schedule", "run", "-r", repository)
    assert (said.status, "Point 4 was made." in said.out) == (3, True)
    assert "Damaged: point" in said.err


def test_what_keeps_points_from_being_verified_is_no_failure_of_the_backup(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, monkeypatch: pytest.MonkeyPatch
):
    """The storage goes away between the two: it cannot be had to do so just then."""

    def gone(*_: object) -> None:
        raise PointNotFound("There is no such point any more.", "")

    monkeypatch.setattr(verify, "run", gone)
    vdbackup("schedule", "set", "-r", repository, "--every", "daily", "--verify", "2")
    last_as_old(vdbackup, repository)
    said = vdbackup("schedule", "run", "-r", repository)
    assert (said.status, "Point 4 was made." in said.out) == (3, True)
    assert "Nothing was verified: There is no such point any more." in said.err
