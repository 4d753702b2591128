"""A machine is waited for as long as it can work, and one that is stuck is said to be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests import patience
from tests.guests.patience import Clock, Patience

_BUSY = "while True: pass"
_ON_ONE = min(os.sched_getaffinity(0))
_WHILE = 1.5


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that does nothing: it was not begun."""
    monitor = f"unix:{tmp_path / 'monitor'},server=on,wait=off"
    options = ("-S", "-nodefaults", "-display", "none", "-vga", "std", "-accel", "tcg")
    with subprocess.Popen(["qemu-system-x86_64", *options, "-qmp", monitor]) as process:
        try:
            while not (tmp_path / "monitor").exists():
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def test_a_clock_stands_while_others_have_the_processor() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(5)]
    try:
        for each in busy:
            os.sched_setaffinity(each.pid, {_ON_ONE})
        clock = Clock(busy[0].pid)
        time.sleep(_WHILE)
        assert clock.seconds < 0.7 * clock.on_the_wall
    finally:
        for each in busy:
            each.kill()
            each.wait()


def test_a_clock_goes_on_where_there_is_nothing_to_do() -> None:
    with subprocess.Popen(["sleep", "60"]) as idle:
        clock = Clock(idle.pid)
        time.sleep(_WHILE)
        assert clock.seconds > 0.5 * clock.on_the_wall
        idle.kill()


def test_what_takes_too_long_says_where_the_machine_is(
    machine: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LOOKS_AGAIN", 0)
    waiting = Patience(machine.pid, tmp_path / "monitor", _WHILE)
    waiting.check("to come up")
    time.sleep(2 * _WHILE)
    with pytest.raises(AssertionError, match=r"to come up: not within .* CPU 0, at [0-9a-f]+"):
        waiting.check("to come up")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")


def test_a_machine_without_a_sign_of_life_is_stuck_before_its_time(
    machine: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LOOKS_AGAIN", 0)
    monkeypatch.setattr(patience, "_STUCK", _WHILE)
    waiting = Patience(machine.pid, tmp_path / "monitor", 600)
    waiting.check("to come up")
    waiting.sign_of_life()
    time.sleep(2 * _WHILE)
    with pytest.raises(AssertionError, match="to come up: the machine is stuck"):
        waiting.check("to come up")
