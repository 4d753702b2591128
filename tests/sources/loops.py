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
def mounted(device: Path | str, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run("mount", *options, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)
