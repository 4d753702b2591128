"""Processes that run now, of whoever started them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def naming(file: Path) -> list[Path]:
    """The folders in /proc of those whose command line names the file."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            if os.fsencode(file) in (process / "cmdline").read_bytes():
                found.append(process)
    return found
