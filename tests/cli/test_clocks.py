"""Clocks that are set, and daylight saving: the order is by sequence, whatever the clock says.

libfaketime gives each command a clock of its own. (The lease's times are the kernel's: see
tests/repository/test_lease.py for those.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.gui.points import point
from tests.noise import noise
from vdbackup.gui.timeline.layout import arrange

CLOCKS = [
    "2026-10-25 00:59:50",  # UTC: 02:59:50 in Berlin, ten seconds before the hour comes again
    "2026-10-25 01:00:10",  # 02:00:10
    "2036-01-01 00:00:00",  # a battery is empty, or somebody erred
    "2026-10-25 01:00:20",
    "1999-12-31 23:50:00",
    "2027-03-28 00:59:59",  # 01:59:59
    "2027-03-28 01:00:01",  # 03:00:01
]


def vdbackup(clock: str, *words: object) -> str:
    command = [sys.executable, "-m", "vdbackup", *map(str, words)]
    environment = os.environ | {"TZ": "UTC", "DONT_FAKE_MONOTONIC": "1"}
    ran = subprocess.run(
        ["faketime", clock, *command], env=environment, check=True, capture_output=True, text=True
    )
    return ran.stdout


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A point by each of the clocks, which are set between the commands of one process."""
    lab = Lab(tmp_path)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    command = ["backup", str(lab.image), "-r", str(lab.repository.path), "--set", "disk"]
    with subprocess.Popen(
        [sys.executable, "-c", ON_EACH_LINE, str(clock), *command],
        env=os.environ | faked(clock) | {"TZ": "UTC"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, now in enumerate(CLOCKS):
            lab.poke(number << 16, noise(1 << 16, number))
            print(f"@{now}", file=process.stdin, flush=True)
            assert process.stdout.readline() == "0\n"
            newest = lab.set.points[-1]
            lab.moments[newest.id] = lab.folder / f"{number}.raw"
            lab.moments[newest.id].write_bytes(lab.image.read_bytes())
        process.stdin.close()
    return lab


ON_EACH_LINE = """
import contextlib, pathlib, sys
from vdbackup import cli
clock = pathlib.Path(sys.argv[1])
for now in sys.stdin:
    new = clock.with_name("new clock")
    new.write_text(now.strip())
    new.replace(clock)
    with contextlib.redirect_stdout(sys.stderr):
        status = cli.main(sys.argv[2:])
    print(status, flush=True)
"""


def faked(clock: Path) -> dict[str, str]:
    """What has a process look at the file for the time, whenever it asks for that.

    The file is replaced: a libfaketime since 0.9.10 of 2024 ends a program that finds it empty.
    """
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def test_points_are_in_their_order_whatever_the_clock_said(lab):
    for point_, clock in zip(lab.set.points, CLOCKS, strict=True):
        assert point_.created.startswith(clock[:10])
    listed = json.loads(vdbackup(CLOCKS[0], "list", "-r", lab.repository.path, "--json"))
    points = listed["sets"][0]["points"]
    assert [each["sequence"] for each in points] == list(range(1, len(CLOCKS) + 1))
    assert [each["parent"] for each in points[1:]] == [each["id"] for each in points[:-1]]
    for clock in CLOCKS[2], CLOCKS[4]:
        assert len(vdbackup(clock, "list", "-r", lab.repository.path).splitlines()) == 9
    assert all(later > earlier for earlier, later in pairwise(arrange(lab.set.points).x))
    lab.check_without_processes()
    lab.merge(lab.set.points[3])
    lab.backup()
    assert [each.sequence for each in lab.set.points] == [1, 2, 4, 5, 6, 7, 8]
    lab.check_without_processes()


@pytest.mark.parametrize("offset", ["+0 x0.0001", "+3650d", "-3650d"])
def test_a_clock_that_is_set_while_a_capture_runs_does_not_harm_it(tmp_path, offset):
    """Of two captures, a full and one that finds nothing new.

    libfaketime looks at the clock's file whenever a module is imported, too: both are one process.
    """
    lab = Lab(tmp_path, 8 << 20)
    lab.poke(0, noise(8 << 20, 1))
    clock = tmp_path / "clock"
    clock.write_text("+0")
    script = (
        "import sys, pathlib, threading\n"
        "from vdbackup.disks import transfer\n"
        "from vdbackup import cli\n"
        "moved = transfer._Work._moved\n"
        "def jump(self, length):\n"
        f"    new = pathlib.Path({str(clock)!r} + str(threading.get_ident()))\n"
        f"    new.write_text({offset!r})\n"
        f"    new.replace({str(clock)!r})\n"
        "    moved(self, length)\n"
        "transfer._Work._moved = jump\n"
        "sys.exit(cli.main(sys.argv[1:]) or cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "backup", str(lab.image), "--set", "disk"]
    subprocess.run(
        [*command, "-r", str(lab.repository.path)],
        env=os.environ | faked(clock),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    lab.moments = {point_.id: lab.image for point_ in lab.set.points}
    assert [each.sequence for each in lab.set.points] == [1, 2]
    lab.check_without_processes()


def test_the_last_day_does_not_begin_at_a_point_that_a_wrong_clock_put_there() -> None:
    hours = [10_000, 1, 2, 90_000, 30, 31]  # the first by a clock that was set back afterwards
    layout = arrange([point(i, hours=at) for i, at in enumerate(hours, start=1)])
    assert layout.since(24 * 3600) == 3
