"""How long a machine is waited for: not while it waits itself, for a processor of this computer.

Where QEMU only translates, and others want the processors, too, a boot takes forty seconds or forty
minutes. What differs is how long its threads stand in the kernel's queue, which that counts
(/proc/PID/task/TID/schedstat): without it a boot takes about the same each time, and one that has
nothing to do is found out as soon as on an idle computer. Long before its limit a machine is given
up that neither says anything nor reads or writes its disks: it is stuck, and said to be so, with
where.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vdbackup.errors import MachineFailed
from vdbackup.qemu.monitor import tell

_STUCK = 600.0
"""Seconds without a sign of life, as a `Clock` counts them."""
_LOOKS_AGAIN = 5.0
_NANOSECONDS = 1e9
_PROCESSORS = re.compile(r"CPU#(\d+)|[ER]IP=([0-9a-f]+)|HLT=(\d)")


class Clock:
    """Goes with a machine, and stands while what runs it waits for a processor."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began, self._then = time.monotonic(), _queued(pid)
        self._longest = 0.0

    @property
    def on_the_wall(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    @property
    def seconds(self) -> float:
        """Those without the ones in which the machine could not go on: what limits are of."""
        now = _queued(self._pid)
        waited = [each - self._then.get(thread, 0.0) for thread, each in now.items()]
        self._longest = max([self._longest, *waited])
        return max(self.on_the_wall - self._longest, 0.0)

    def __str__(self) -> str:
        return f"{self.seconds:.0f} seconds, and {self._longest:.0f} without a processor"


class Patience:
    """With one thing that a machine is to do.

    Args:
        pid: of QEMU.
        monitor: a socket at which it listens for a monitor (QMP).
        limit: how long it may take, as a `Clock` counts.
    """

    def __init__(self, pid: int, monitor: Path, limit: float) -> None:
        self._pid, self._monitor, self._limit = pid, monitor, limit
        self.clock, self._idle = Clock(pid), Clock(pid)
        self._looked, self._moved = time.monotonic(), -1

    def sign_of_life(self) -> None:
        """It has said something."""
        self._idle = Clock(self._pid)

    def check(self, what: str) -> None:
        """Raise AssertionError once it has taken too long, or is stuck; says where it is then."""
        if time.monotonic() < self._looked + _LOOKS_AGAIN:
            return
        self._looked = time.monotonic()
        moved = _moved(self._monitor)
        if moved != self._moved:
            self._moved = moved
            self.sign_of_life()
        idle = self._idle.seconds > _STUCK
        assert not idle, f"{what}: the machine is stuck, for {self._idle}. {self.where()}"
        late = self.clock.seconds > self._limit
        assert not late, f"{what}: not within {self.clock}. {self.where()}"

    def where(self) -> str:
        """What its processors do, and what it has had of the computer; its screen is kept."""
        screen = self._monitor.with_name("screen.png")
        try:
            line: dict[str, object] = {"command-line": "info registers -a"}
            said = ask(self._monitor, "human-monitor-command", line)
            ask(self._monitor, "screendump", {"filename": str(screen), "format": "png"})
        except MachineFailed as error:
            return f"{error} (load: {os.getloadavg()})"
        facts = [_fact(*found) for found in _PROCESSORS.findall(said)]
        moved = f"{_moved(self._monitor)} bytes moved; load {os.getloadavg()}; {screen}"
        return f"{', '.join(facts)}; {moved}"


def _fact(processor: str, place: str, halted: str) -> str:
    if processor or place:
        return f"CPU {processor}" if processor else f"at {place}"
    return "halted" if halted == "1" else "runs"


def _queued(pid: int) -> dict[str, float]:
    """How long each thread of a process has waited for a processor, in seconds; {} once it ended.

    Two that run a machine's processors wait at once: the longest counts, and not their sum.
    """
    found: dict[str, float] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[path.parent.name] = int(path.read_text().split()[1]) / _NANOSECONDS
    return found


def _moved(monitor: Path) -> int:
    """Bytes that a machine has read from its disks, and written to them."""
    try:
        disks = ask(monitor, "query-blockstats")
    except MachineFailed:  # it is about to end, or is not there yet
        return -1
    return sum(each["stats"]["rd_bytes"] + each["stats"]["wr_bytes"] for each in disks)


def ask(monitor: Path, command: str, arguments: dict[str, object] | None = None) -> Any:
    """What QEMU answers to a command of its monitor; raises MachineFailed where it refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(monitor))
        except OSError as error:
            raise MachineFailed(f"{monitor}: {error}", "") from error
        return tell(connection, command, arguments=arguments)
