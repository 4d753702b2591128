"""Mount points on which nothing is mounted: what is written there lands on the disk below.

A drive that is not plugged in, or a share that is not there, leaves an empty folder behind. A
backup into it would begin anew, on the very disk that is backed up, and nobody would see it before
the drive is needed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FSTAB = Path("/etc/fstab")
_MOUNTED = Path("/proc/self/mounts")


def waiting_mount_point(path: Path) -> Path | None:
    """The mount point of fstab(5) that `path` is, or lies below, if nothing is mounted on it."""
    path = path.resolve()
    mounted = set(_points(_MOUNTED))
    for point in _points(FSTAB):
        named = Path(point)
        where = named.resolve()
        below = named.is_absolute() and where != Path("/") and path.is_relative_to(where)
        if below and str(where) not in mounted:
            return named
    return None


def _points(table: Path) -> list[str]:
    """The mount points in a table as fstab(5) and proc(5) have it; none where it is missing."""
    try:
        lines = table.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = [line.split() for line in lines if not line.lstrip().startswith(b"#")]
    return [unescaped(fields[1]) for fields in found if len(fields) > 1]


def unescaped(name: bytes) -> str:
    """A name in such a table, where blanks and backslashes are written as octal numbers."""
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda code: bytes([int(code[1], 8)]), name))
