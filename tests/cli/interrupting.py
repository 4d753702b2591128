"""The real program, stopped at a gate in the midst of its work, so that a signal meets it there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LIMIT = 240
"""Seconds that a command may take to end on a busy machine."""

_GATED = """
import importlib, os, sys

def wait_at(place):
    module, name, function = place.split(":")
    owner = getattr(importlib.import_module(module), name)
    usual = getattr(owner, function)

    def gated(*arguments, **named):
        result = usual(*arguments, **named)
        os.write({said}, b"x")
        os.read({gate}, 1)
        return result

    setattr(owner, function, gated)

wait_at("{place}")
from vdbackup.__main__ import main
sys.exit(main())
"""

MOVED = "vdbackup.disks.transfer:_Work:_moved"
"""After a chunk of capture, merge, restore, export, convert, adopt, verify."""
WRITTEN = "vdbackup.recovery.extract:_Writer:_reach"
"""After a piece of a file that is extracted."""


class Gated:
    """The program, which waits at the gate after each piece of work until the gate is opened."""

    def __init__(self, process: subprocess.Popen[str], said: int, gate: int) -> None:
        self.process = process
        self._said, self._gate = said, gate

    def wait_until_at_work(self) -> None:
        """Return when it waits at the gate."""
        assert os.read(self._said, 1), self.process.communicate()

    def step(self) -> None:
        """Let it do one piece more."""
        os.write(self._gate, b"x")
        self.wait_until_at_work()

    def interrupt(self, *signals: signal.Signals) -> tuple[int, str, str]:
        """Send signals to all its group, as a terminal does, open the gate; how it ended."""
        for number in signals:
            os.killpg(self.process.pid, number)
        self.open_gate()
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, err

    def open_gate(self) -> None:
        """Let it go on."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1


@contextmanager
def gated(place: str, arguments: Sequence[object]) -> Iterator[Gated]:
    """`vdbackup ARGUMENTS` with a gate at "module:class:method"."""
    said, says = os.pipe()
    gate, opens = os.pipe()
    code = _GATED.format(place=place, said=says, gate=gate)
    process = subprocess.Popen(
        # where the tests run in the background of a script, or of nohup, these would be ignored
        ["env", "--default-signal=INT,HUP", sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(says, gate),
        start_new_session=True,
    )
    os.close(says)
    os.close(gate)
    running = Gated(process, said, opens)
    try:
        yield running
    finally:
        running.open_gate()
        os.close(said)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def started(
    arguments: Sequence[object], until: Callable[[dict[str, object]], bool]
) -> Iterator[subprocess.Popen[str]]:
    """`vdbackup ARGUMENTS --json` of which an event has been seen."""
    process = subprocess.Popen(
        ["env", "--default-signal=INT,HUP", sys.executable, "-m", "vdbackup", *map(str, arguments),
         "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if until(json.loads(line)):
                break
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
