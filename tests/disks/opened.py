"""Programs that have a file open and take no lock on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources.loops import detach


@contextmanager
def opened(path: Path, mode: str = "<", program: str = "cat") -> Iterator[subprocess.Popen[str]]:
    """A process that has the file open, and takes no lock."""
    command = ["sh", "-c", f'exec 7{mode}"$0"; exec "$1"', str(path), program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("open\n")
        process.stdin.flush()
        assert process.stdout.readline() == "open\n"  # the shell has become `cat`
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def on_loop(path: Path) -> Iterator[str]:
    made = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(path)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    try:
        yield made.stdout.strip()
    finally:
        detach(Path(made.stdout.strip()))
