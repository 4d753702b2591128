"""Work goes no faster than it is told, and leaves to others what they want."""

from __future__ import annotations

import argparse
import os
import subprocess
import threading

import numpy as np
import pytest

from vdbackup import pace
from vdbackup.cli.values import (
    LEAST_RATE,
    rate,
)
from vdbackup.disks import transfer as transfers
from vdbackup.disks.transfer import CHUNK, THREADS, transfer
from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.pace import Limit, Pace

MIB = 1 << 20


class Clock(CancelToken):
    """Time that passes only while somebody waits, and a token by which they do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.check()
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_work_takes_as_long_as_its_limit_says_and_says_the_limit(clock: Clock):
    reports: list[Progress] = []
    task = Task(reports.append, clock).at(Pace(Limit(8 * MIB)))
    ranges = np.array([[0, 6 * CHUNK], [7 * CHUNK, 512]])
    transfer(ranges, lambda *_: None, lambda *_: None, phase="Test", task=task)
    assert clock.now - 1000 == pytest.approx((6 * CHUNK + 512) / (8 * MIB))
    assert {progress.limit for progress in reports} == {8 * MIB}


def test_time_in_which_nothing_was_moved_is_not_made_up_for(clock: Clock):
    limit = Limit(MIB)
    limit.hold(MIB, clock)
    clock.now += 100
    for _ in range(5):
        limit.hold(MIB, clock)
    assert clock.now - 1000 == pytest.approx(1 + 100 + 5)


def test_work_that_waits_for_its_limit_can_be_cancelled(clock: Clock):
    clock.cancel()
    with pytest.raises(Cancelled):
        Limit(1).hold(1 << 30, clock)
    assert clock.now == 1000


def test_work_that_gives_way_does_so_in_its_own_threads_and_its_caller_does_not():
    priorities: set[tuple[int, str]] = set()
    threads: set[threading.Thread] = set()

    def look(*_: object) -> None:
        thread = threading.get_native_id()
        said = subprocess.run(
            ["ionice", "-p", str(thread)], capture_output=True, text=True, check=True
        )
        priorities.add((os.getpriority(os.PRIO_PROCESS, thread), said.stdout.strip()))
        threads.add(threading.current_thread())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    for length in (CHUNK, THREADS * CHUNK):  # in one thread, and in several
        ranges, task = np.array([[0, length]]), Task(pace=Pace(gives_way=True))
        transfer(ranges, lambda *_: None, look, phase="Test", task=task)
    assert priorities == {(max(before, 10), "idle")}
    assert threading.main_thread() not in threads
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_goes_wrong_ends_at_once_what_waits_for_its_limit():
    waits = threading.Event()

    class Looks(CancelToken):
        """Time that does not pass, and is waited for so often at most."""

        left = 1000

        def wait(self, _seconds: float) -> None:
            waits.set()
            self.left -= 1
            if not self.left:
                raise AssertionError("went on waiting")
            super().wait(0.001)

    def fails(pieces: np.ndarray, _view: memoryview) -> None:
        if pieces[0, 0]:
            waits.wait(20)
            raise ValueError("of the second chunk")

    looks = Looks()
    task = Task(cancel=looks).at(Pace(Limit(1)))
    with pytest.raises(ValueError, match="second chunk"):
        transfer(np.array([[0, 2 * CHUNK]]), lambda *_: None, fails, phase="Test", task=task)
    assert looks.left


@pytest.mark.parametrize("gives_way", [MemoryError("no way"), ImportError("no ctypes")])
def test_a_thread_that_fails_before_its_first_chunk_has_not_moved_all(
    monkeypatch: pytest.MonkeyPatch, gives_way: Exception
):
    def fails() -> None:
        raise gives_way

    monkeypatch.setattr(transfers, "give_way", fails)
    task = Task(pace=Pace(gives_way=True))
    with pytest.raises(type(gives_way)):
        transfer(
            np.array([[0, 2 * CHUNK]]), lambda *_: None, lambda *_: None, phase="Test", task=task
        )


def test_who_was_started_with_a_still_lower_priority_keeps_it():
    found: list[int] = []

    def work() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, 19)
        pace.give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [19]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("100M", 100 * MIB), ("1.5g", 3 << 29), ("800k", 800 << 10),
     ("64KiB/s", 64 << 10), ("2MB", 2 * MIB), ("1048576", MIB)],
)  # fmt: skip
def test_a_rate_is_a_number_and_its_unit(text: str, wanted: int):
    assert rate(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "0", "-5M", "M", "100T", "1e9", "100 M", "nan", "9" * 400, str(LEAST_RATE - 1)]
)
def test_what_is_no_rate_is_refused(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="no rate"):
        rate(text)
