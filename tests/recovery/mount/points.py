"""A point of an image, and the folder that shows it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NotMounted
from vdbackup.jobs import Task
from vdbackup.processes import start_of
from vdbackup.recovery.mount import background, mounting, table
from vdbackup.recovery.mount.mounting import Mounted
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

SET = "disk"


def back_up(
    image: Path, folder: Path, disk_format: str = "qcow2"
) -> tuple[Repository, RecoveryPoint]:
    """The next point of an image; the repository is made with the first."""
    is_there = (folder / "vdbackup.json").exists()
    repository = Repository.open(folder) if is_there else Repository.create(folder)
    with open_path(image) as source:
        plan = capture.plan(
            repository, source, set_name=SET, kind="auto", disk_format=DiskFormat(disk_format)
        )
        return repository, capture.run(plan, Task()).point


@contextmanager
def shown(
    repository: Repository, point: RecoveryPoint, where: Path, set_name: str = SET
) -> Iterator[Mounted]:
    """The point as a folder, which is made."""
    where.mkdir()
    mounted = background.start(repository.path, set_name, point.id, where)
    try:
        yield mounted
    finally:
        if table.shown_at(where) is not None:
            with suppress(NotMounted):  # libfuse's helper has cleared it meanwhile
                mounting.unmount(where)


def process_behind(where: Path) -> int:
    """The process that shows a folder's point."""
    found = table.shown_at(where)
    assert found is not None
    return found.process


def kill_all_behind(where: Path) -> None:
    """Kill what shows a folder, and libfuse's helper, which would unmount it."""
    process = process_behind(where)
    for each in Path("/proc").iterdir():
        with suppress(OSError):
            words = (each / "cmdline").read_bytes().split(b"\0")
            if b"fusermount3" in words[0] and os.fsencode(where) in words:
                os.kill(int(each.name), signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    while start_of(process) is not None:
        os.sched_yield()
    while _answers_otherwise(where):
        os.sched_yield()


def _answers_otherwise(where: Path) -> bool:
    try:
        (where / "not there").stat()  # what is there the kernel may still know
    except OSError as error:
        return error.errno != errno.ENOTCONN
    return True
