"""Storage that shares extents, and how much of a file is shared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources.loops import unmount

MIB = 1 << 20
SHARING = ("xfs", "btrfs")


@contextmanager
def sharing_storage(kind: str, folder: Path, size: int = 4096 * MIB) -> Iterator[Path]:
    """A file system of that kind and size; a user who may not mount one has what there is."""
    if os.geteuid():
        yield folder
        return
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(size)  # of holes: many tests put their disks there
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    mounted = folder / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        unmount(mounted)


def shared_bytes(path: Path) -> int:
    """How much of a file's data it shares with others, as `filefrag` sees it."""
    done = subprocess.run(["filefrag", "-v", path], check=True, capture_output=True, text=True)
    rows = [line.split(":") for line in done.stdout.splitlines() if "shared" in line]
    return sum(int(row[3].strip().split()[0]) * 4096 for row in rows)
