"""The QEMU that works in a session's folder: known by its command line, ended, waited for."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_qemu_of(pid: int | None, folder: Path) -> bool:
    """Whether process `pid` works in `folder`: by its command line, since pids are used again."""
    if pid is None:
        return False
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, folder: Path) -> None:
    """Kill the QEMU of `folder`, if `pid` still is that; returns when it is gone."""
    with _process(pid, folder) as process:
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])


def gone(pid: int, folder: Path, seconds: float) -> bool:
    """Wait for the end of the QEMU of `folder`; whether it came in time."""
    with _process(pid, folder) as process:
        return process is None or bool(select.select([process], [], [], seconds)[0])


@contextmanager
def _process(pid: int, folder: Path) -> Iterator[int | None]:
    """A descriptor of the process, if it is the QEMU of `folder`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield process if is_qemu_of(pid, folder) else None
    finally:
        os.close(process)
