"""A point of an image, and the folder that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.disks.names import DiskFormat
from vdbackup.jobs import Task
from vdbackup.recovery.mount import background, mounting
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
def shown(repository: Repository, point: RecoveryPoint, where: Path) -> Iterator[Mounted]:
    """The point as a folder, which is made."""
    where.mkdir()
    mounted = background.start(repository.path, SET, point.id, where)
    try:
        yield mounted
    finally:
        if mounting.is_mounted(where):
            mounting.unmount(where)
