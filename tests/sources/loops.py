"""Loop devices over images, and what is mounted from them; gone when their block ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a command; what it says, without the end of its last line."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, input=stdin)
    return done.stdout.strip()


@contextmanager
def loop(image: Path, *options: str) -> Iterator[Path]:
    device = run("losetup", "--find", "--show", *options, image)
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def two_partitions(image: Path) -> Iterator[tuple[Path, Path]]:
    """Two partitions, of the two halves of a disk; no table is needed for that."""
    with loop(image) as disk:
        half = image.stat().st_size // 512 // 2
        run("addpart", disk, "1", "0", str(half))
        run("addpart", disk, "2", str(half), str(half))
        try:
            yield Path(f"{disk}p1"), Path(f"{disk}p2")
        finally:
            run("delpart", disk, "1")
            run("delpart", disk, "2")


@contextmanager
def mounted(device: Path | str, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run("mount", *options, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)
