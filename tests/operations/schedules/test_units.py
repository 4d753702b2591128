"""What systemd and cron read is what was meant, whatever bytes a folder's name has."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdbackup.operations.schedules.store import Schedule
from vdbackup.operations.schedules.units import (
    command_line,
    crontab_line,
    escaped_path,
    units,
)

NAMES = (
    st.binary(min_size=1, max_size=30).map(lambda data: data.replace(b"\0", b"")).map(os.fsdecode)
)
ODD = 'back ups/100 %/$HOME/"it\'s"/\\x41\n\udcff;#'


def daily(folder: str = "/mnt/backups", name: str = "laptop") -> Schedule:
    return Schedule(Path(folder), name, "daily", "02:30")


def as_read(line: str) -> list[str]:
    """A command line as systemd.service(5) and systemd.syntax(7) say that it is taken apart."""
    words = []
    for place, word in enumerate(re.findall(r'"([^"]*)"', line)):
        data = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), word.encode())
        text = data.replace(b"%%", b"%")
        words.append(os.fsdecode(text.replace(b"$$", b"$") if place else text))
    return words


@given(st.lists(NAMES.filter(bool), min_size=1, max_size=4))
@example([ODD, ODD])
def test_each_argument_is_read_as_it_was_meant(command: list[str]) -> None:
    line = command_line(command)
    assert line.isascii()
    assert line.isprintable()
    read = as_read(line)
    assert read[-len(command) :] == command
    assert read[: -len(command)] in ([], ["/usr/bin/env"])


def test_systemd_finds_a_program_of_whatever_name(tmp_path: Path) -> None:
    """Its own parser is the oracle: it says where there is no such program."""
    program = tmp_path / "100 % of it;\udcff" / "prog$ram"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    verify(tmp_path, {"a.service": service([str(program), ODD])}, "")
    program.unlink()
    verify(tmp_path, {"a.service": service([str(program), ODD])}, "is not executable")


def service(command: list[str]) -> str:
    return f"[Service]\nType=oneshot\nExecStart={command_line(command)}\n"


def verify(folder: Path, texts: dict[str, str], said: str) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)
    paths = [str(folder / name) for name in texts]
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "--recursive-errors=no", "verify", *paths],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if said:
        assert said in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_what_systemd_calls_no_program_is_started_by_another_one(tmp_path: Path) -> None:
    line = command_line(["/opt/it's/python", "-m", "vdbackup"])
    assert line == '"/usr/bin/env" "/opt/it\'s/python" "-m" "vdbackup"'
    verify(tmp_path, {"a.service": service(["/opt/it's/python"])}, "")


@pytest.mark.parametrize(
    "every", ["1m", "15m", "hourly", "120m", "daily", "weekly", "monthly", "login"]
)
@pytest.mark.parametrize("name", ["laptop", ODD.replace("/", "_")])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, every: str, name: str) -> None:
    schedule = Schedule(Path("/" + ODD), name, every, on_mains=True, random_delay=600)
    made = units(schedule, ["/bin/true", "-r", str(schedule.repository), f"--set={name}"])
    assert made.wanted[0].endswith(".timer")
    verify(tmp_path, made.texts, "")
    (timer,) = [text for unit, text in made.texts.items() if unit.endswith(".timer")]
    assert ("Persistent=true" in timer) == (every != "login")
    assert "RandomizedDelaySec=600s" in timer


def test_a_drive_that_is_plugged_in_starts_the_service_by_its_mount(tmp_path: Path) -> None:
    drive = "/media/me/My Disk"
    schedule = Schedule(Path(drive, "backups"), "laptop", "plug", mount_point=drive)
    made = units(schedule, ["/bin/true"])
    (text,) = made.texts.values()
    assert "WantedBy=media-me-My\\x20Disk.mount" in text
    assert made.wanted[0].endswith(".service")
    verify(tmp_path, made.texts, "")


@settings(max_examples=60)
@given(NAMES.filter(lambda name: name.strip("/.") != ""))
@example("./.hidden//a b/")
@example("-")
@example("a-b\\x2d")
def test_a_path_is_called_as_systemd_calls_it(name: str) -> None:
    if ".." in name.split("/"):
        return
    theirs = subprocess.run(
        [b"systemd-escape", b"--path", b"--", os.fsencode("/" + name)],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert escaped_path("/" + name).encode() == theirs.rstrip(b"\n")


@given(NAMES.filter(lambda name: "\n" not in name))
@example("100 %/it's")
def test_a_line_for_cron_is_read_as_it_was_meant(name: str) -> None:
    line = crontab_line(daily(), ["/usr/bin/vdbackup", "-r", name])
    assert not re.search(r"(?<!\\)%", line)
    when, _, rest = line.partition(" /")
    assert when == "30 2 * * *"
    assert shlex.split("/" + rest.replace("\\%", "%")) == ["/usr/bin/vdbackup", "-r", name]


def test_what_cron_cannot_do_is_no_line() -> None:
    assert crontab_line(daily(), ["vdbackup", "a\nb"]) == ""
    assert crontab_line(Schedule(Path("/b"), "laptop", "plug"), ["vdbackup"]) == ""


def test_the_units_say_what_they_are_for() -> None:
    made = units(daily(), ["/usr/bin/vdbackup", "schedule", "run"])
    (service_text, timer) = made.texts.values()
    assert "Description=Backup of laptop by vdbackup, daily at 02:30" in service_text
    assert "ConditionACPower" not in service_text
    assert "OnCalendar=*-*-* 02:30:00\nOnCalendar=*-*-* 03:30:00\nPersistent=true" in timer
