"""How long a machine is waited for: by what it was given to work with, not by the clock alone.

Where QEMU only translates, and others want the processors, too, a boot takes forty seconds or forty
minutes. What it costs of processor time stays about the same, so that is what a limit is of. One
that does nothing at all takes none: there the clock goes on, slower. Long before its limit a
machine is given up that neither says anything nor reads or writes its disks: it is stuck, and said
to be so, with where.
"""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from vdbackup.errors import MachineFailed
from vdbackup.qemu.monitor import tell

_SHARE = 6.0
"""A machine has this part of a processor at the least, where it wants one."""
_STUCK = 600.0
"""Seconds without a sign of life, as a `Clock` counts them."""
_LOOKS_AGAIN = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PROCESSORS = re.compile(r"CPU#(\d+)|RIP=([0-9a-f]+)|HLT=(\d)")


class Clock:
    """Goes with a machine: as fast as QEMU has processor time, or a sixth as fast as others."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began, self._had = time.monotonic(), _processor_time(pid)

    @property
    def on_the_wall(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    @property
    def of_processor(self) -> float:
        """Those that QEMU has had since then, on all processors."""
        return _processor_time(self._pid) - self._had

    @property
    def seconds(self) -> float:
        """What limits are compared with."""
        return max(self.of_processor, self.on_the_wall / _SHARE)

    def __str__(self) -> str:
        return f"{self.on_the_wall:.0f} seconds, {self.of_processor:.0f} of them of a processor"


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


def _processor_time(pid: int) -> float:
    """Seconds of a process and of all its threads; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


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
