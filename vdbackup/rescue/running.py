"""Runs the programs that make a medium, so that they can be stopped, and say why they failed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vdbackup.errors import RescueMediumFailed
from vdbackup.jobs import Task
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.2
_PATIENCE = 60.0
"""Seconds in which a program that is told to stop has to undo what it has begun."""
_SAID = 4000
"""Bytes at the end of what a program said that go to the log."""


def run(
    commands: Sequence[Sequence[str]],
    task: Task,
    said: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run programs, each of which reads what the one before it writes.

    They are in a process group of their own: what stops them is the task, not Ctrl-C itself.

    Args:
        commands: their argument lists.
        task: is asked meanwhile whether to stop.
        said: a folder in which a file of each program's name gets what it says.
        environment: what is different for them.

    Raises:
        RescueMediumFailed: one of them failed. Cancelled: once all of them have ended.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            last = len(running) == len(commands) - 1
            running.append(_start(command, running, said, environment, last=last))
        while any(each.poll() is None for each in running):
            if any(each.returncode for each in running):
                break  # the others wait for it, or fail because it did
            task.cancel.check()
            task.cancel.wait(_LOOK_AGAIN)
        failed = next((each for each in running if each.returncode), None)
    finally:
        _stop(running)
    if failed is not None:
        program = commands[running.index(failed)][0]
        _fail(program, failed.returncode, said / program)


def _start(
    command: Sequence[str],
    before: Sequence[subprocess.Popen[bytes]],
    said: Path,
    environment: Mapping[str, str] | None,
    *,
    last: bool,
) -> subprocess.Popen[bytes]:
    source = before[-1].stdout if before else None
    with (said / command[0]).open("ab") as heard:
        try:
            return subprocess.Popen(
                command,
                stdin=source or subprocess.DEVNULL,
                stdout=heard if last else subprocess.PIPE,
                stderr=heard,
                env=os.environ | {"LC_ALL": "C.UTF-8"} | dict(environment or {}),
                start_new_session=True,
            )
        finally:
            if source is not None:
                source.close()  # else the one before would not hear that its reader has gone


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let programs undo what they have begun, and wait until all of them have ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)


def _fail(program: str, status: int, said: Path) -> None:
    end = said.read_bytes()[-_SAID:].decode(errors="replace")
    log.warning("%s ended with %s: %s", program, status, end)
    lines = [line.strip() for line in end.splitlines() if line.strip()]
    complaints = [
        line for line in lines if line.startswith(("E:", "FATAL", "grub-mkrescue: error"))
    ]
    why = (
        (complaints or lines or [tr("it ended with {status}", status=status)])[-1]
        .removeprefix("E:")
        .strip(" .")
    )
    raise RescueMediumFailed(
        tr("The rescue medium could not be made; {program} says: {why}.", program=program, why=why),
        tr("The log says more; no file was left."),
    )
