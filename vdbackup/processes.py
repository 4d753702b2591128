"""Processes by number and start: a number alone is given to another one day."""

from __future__ import annotations

from pathlib import Path


def start_of(pid: int) -> int | None:
    """When a process started, in ticks since the boot (proc(5), stat); None if it has ended.

    One that has ended and that its parent has not looked after yet is still listed, as a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in b"ZX" else int(fields[19])
