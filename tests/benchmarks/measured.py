"""What one command took: time, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What a command took, with all that it waited for.

    Attributes:
        wall, processor: seconds.
        memory: the largest resident size, in bytes.
    """

    wall: float
    processor: float
    memory: int

    def figures(self) -> dict[str, float]:
        """For a table: rounded, memory in MiB."""
        return {
            "wall": round(self.wall, 2),
            "processor": round(self.processor, 2),
            "mib": self.memory >> 20,
        }


def measured(command: list[str]) -> Measured:
    """Run it; fails on an exit status that is not 0."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall = time.perf_counter() - started
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)
