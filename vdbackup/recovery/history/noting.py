"""The names of files in new points, noted for searches by a process that gives way to all others.

A process of its own, because whoever has just backed up goes on meanwhile: a window stays quick,
and a file system that was made to be hard to read costs that process and nobody else. It ends as
soon as somebody writes to the repository. What is not noted the next search reads itself, so
nothing has failed then.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from vdbackup.errors import Cancelled, VdbackupError
from vdbackup.jobs import CancelToken, Task
from vdbackup.pace import give_way
from vdbackup.processes import environment
from vdbackup.recovery.history.find import note_names
from vdbackup.repository.lock import being_written
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_PROGRAM = "vdbackup.recovery.history"
_LOOK = 0.5
"""Seconds between two looks whether somebody writes."""
_GRACE = 2.0
"""Seconds that it has to end then: it keeps what it has found out, and a merge waits no longer than
for others who are short (claims.GIVE_WAY)."""


def note(repository: Path, set_name: str, index_file: Path, task: Task) -> bool:
    """Note the names in a set's points that are not noted yet.

    Returns:
        Whether all are.

    Raises Cancelled: by `cancel`; what was found out until then need not be kept.
    """
    task.phase(tr("Noting the names of files"), 0, 0)
    words = (str(repository.absolute()), set_name, str(index_file.absolute()))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", env=environment(),
        )  # fmt: skip
    except OSError as error:
        log.info("the names in %s are not noted: %s", set_name, error)
        return False
    with process:
        try:
            _wait(process, repository, task)
        finally:
            process.terminate()
    return process.returncode == 0


def _wait(process: subprocess.Popen[bytes], repository: Path, task: Task) -> None:
    """Until it ends by itself, or gives way too slowly."""
    writing: float | None = None
    while process.poll() is None:
        task.cancel.wait(_LOOK / 5)
        if not being_written(repository):
            writing = None
        elif writing is None:
            writing = time.monotonic()
        elif time.monotonic() > writing + _GRACE:
            return


class _WhileNobodyWrites:
    """Called at each check: raises Cancelled as soon as somebody writes to the repository."""

    def __init__(self, repository: Path) -> None:
        self._repository, self._due = repository, 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _LOOK
        if being_written(self._repository):
            raise Cancelled


def main(repository: str, set_name: str, index_file: str) -> int:
    """Note them; 0 where all are."""
    give_way()
    cancel = CancelToken()
    try:
        with cancel.also(_WhileNobodyWrites(Path(repository))):
            task = Task(cancel=cancel)
            note_names(Repository.open(Path(repository)), set_name, Path(index_file), task)
    except (VdbackupError, OSError):
        return 1
    return 0
