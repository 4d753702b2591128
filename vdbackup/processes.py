"""Processes by number and start: a number alone is given to another one day. And our own ones."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """Of a Python that runs a part of this package: where it lies, if nobody has installed it.

    Names are UTF-8, as here.
    """
    package = str(Path(__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}


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
