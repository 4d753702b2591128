"""Two commands at once on one repository: each works after the other, or refuses and says for whom.

All are real processes. Who waits says once for whom.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.oracles import qemu
from tests.repository.computers import held
from vdbackup.jobs import Task
from vdbackup.recovery import verify

COMMANDS = {
    "backup": ["backup", "{image}", "--set", "disk"],
    "merge": ["merge", "3", "--set", "disk"],
    "delete": ["delete", "2", "--set", "disk"],
    "repair": ["repair"],
    "convert": ["convert", "--set", "disk", "--format", "qcow2"],
}


PAIRS = [
    # the short form has each beside a backup, and beside itself
    pytest.param(one, two, marks=() if one in ("backup", two) else pytest.mark.long)
    for one, two in combinations_with_replacement(COMMANDS, 2)
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """1 <- 2 <- 3 <- 4, and a disk that has changed since."""
    lab = Lab(tmp_path_factory.mktemp("prepared"), 8 << 20)
    for number in range(4):
        lab.poke(number << 20, noise(1 << 20, number))
        lab.backup()
    lab.poke(2 << 20, noise(1 << 20, 9))
    return lab


@pytest.fixture
def repository(prepared: Lab, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.repository.path, tmp_path / "repository"))


@contextmanager
def started(
    name: str, prepared: Lab, repository: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """One of the commands, in a process of its own."""
    words = [word.format(image=prepared.image) for word in COMMANDS[name]]
    with subprocess.Popen(
        [sys.executable, "-m", "vdbackup", *words, "-r", str(repository), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def check(prepared: Lab, repository: Path) -> None:
    """All points of all sets are as they were captured, and nothing waits to be finished."""
    opened = type(prepared.repository).open(repository)
    wanted = [copy.read_bytes() for copy in (*prepared.moments.values(), prepared.image)]
    for backup_set in opened.sets():
        assert backup_set.journal is None
        plan = verify.plan(opened, backup_set.name)
        assert all(verdict.ok for verdict in verify.run(plan, Task()))
        for point in backup_set.points:
            data = bytearray(point.virtual_size)
            with backup_set.open_chain(point) as chain:
                chain.readinto(0, memoryview(data))
            assert data in wanted
    assert not (repository / ".lock.json").exists()
    assert list(repository.rglob("*.partial")) == []


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_of_two_at_once_each_works_after_the_other_or_says_why_not(
    prepared, repository, one, other
):
    with (
        started(one, prepared, repository, "--wait") as first,
        started(other, prepared, repository) as second,
    ):
        ends = [(each.communicate(timeout=120), each.returncode) for each in (first, second)]
    for (_, said), status in ends:
        assert "Traceback" not in said
        assert status in (0, 3) or said.count("\n") >= 2, said
    (_, said_by_first), status_of_first = ends[0]
    refusal = [line for line in said_by_first.splitlines() if "waiting: " not in line]
    assert status_of_first in (0, 3) or "is in use" not in "".join(refusal)
    assert any(status in (0, 3) for _, status in ends)
    check(prepared, repository)


@pytest.mark.parametrize("name", COMMANDS)
def test_who_waits_says_once_for_whom_and_goes_on(prepared, repository, name):
    with (
        held(repository, "backing up sdx") as holder,
        started(name, prepared, repository, "--wait", "--json") as waiting,
    ):
        assert waiting.stdout is not None
        said = json.loads(waiting.stdout.readline())
        assert said["event"] == "waiting"
        assert f"process {holder.pid} on " in said["for"]
        assert "backing up sdx" in said["for"]
        holder.kill()
        out, error = waiting.communicate(timeout=120)
    assert (waiting.returncode, error) == (0, "")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert "waiting" not in events
    assert events[-1] == "result"
    check(prepared, repository)


def test_a_wait_that_is_over_refuses_as_without_waiting(prepared, repository):
    with held(repository, "backing up sdx"):
        said = []
        for options in ((), ("--wait", "0.1")):
            with started("merge", prepared, repository, *options) as refused:
                said.append(refused.communicate(timeout=120)[1].splitlines())
                assert refused.returncode == 1
    assert "is in use: process" in said[0][0]
    assert [line for line in said[1] if "waiting: " not in line] == said[0]
    assert sum("vdbackup: waiting: " in line for line in said[1]) == 1


def test_a_wait_can_be_cancelled(prepared, repository):
    with (
        held(repository, "backing up sdx"),
        started("backup", prepared, repository, "--wait") as waiting,
    ):
        assert waiting.stderr is not None
        assert "waiting" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=120)
        assert waiting.returncode == 130


def test_what_is_backed_up_after_waiting_is_the_disk_as_it_is_then(prepared, repository, tmp_path):
    """Not by the map that was read before: the source may have grown data in its holes."""
    image = tmp_path / "other.img"
    image.touch()
    os.truncate(image, 8 << 20)
    command = [sys.executable, "-m", "vdbackup", "backup", str(image), "--set", "other", "--wait"]
    with (
        held(repository, "backing up sdx") as holder,
        subprocess.Popen(
            [*command, "-r", str(repository)], stderr=subprocess.PIPE, text=True
        ) as waiting,
    ):
        assert waiting.stderr is not None
        assert "waiting" in waiting.stderr.readline()
        with image.open("r+b") as file:
            file.seek(5 << 20)
            file.write(noise(1 << 20, 77))
        holder.kill()
        assert waiting.communicate(timeout=120)[1] == ""
        assert waiting.returncode == 0
    backup_set = type(prepared.repository).open(repository).set("other")
    data = bytearray(8 << 20)
    with backup_set.open_chain(backup_set.points[0]) as chain:
        chain.readinto(0, memoryview(data))
    assert data == image.read_bytes()


@pytest.mark.parametrize(("name", "sequence"), [("merge", 4), ("delete", 2)])
def test_a_merge_waits_for_the_virtual_machine_that_runs_from_its_points(
    prepared, repository, name, sequence
):
    backup_set = type(prepared.repository).open(repository).set("disk")
    overlay = backup_set.overlay_path(backup_set.points[sequence - 1])
    with started(name, prepared, repository, "--wait") as waiting:
        with qemu.opened(overlay, "-r"):
            assert waiting.stderr is not None
            said = waiting.stderr.readline()
            with started("backup", prepared, repository) as backup:  # nothing is held meanwhile
                backup.communicate(timeout=120)
                assert backup.returncode == 0
        assert waiting.communicate(timeout=120)[1] == ""
        assert waiting.returncode == 0
    assert "waiting: Point" in said
    assert "is in use: a virtual machine is running from it or from a later one" in said
    check(prepared, repository)
