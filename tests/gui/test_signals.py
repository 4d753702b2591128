"""Signals that end the window: nohup(1) has one ignored, and it stays so."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from vdbackup.gui.app import stop_at_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_signal_that_ends_a_program_stops_the_window():
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    asked: list[bool] = []
    stop_at_signals(lambda: asked.append(True))
    for number in NUMBERS:
        signal.raise_signal(number)
    assert len(asked) == len(NUMBERS)


def test_a_signal_that_was_ignored_when_it_started_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked: list[bool] = []
    stop_at_signals(lambda: asked.append(True))
    signal.raise_signal(signal.SIGHUP)
    assert asked == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
