"""What has changed between points, found out in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.history.differences import Differences
    from vdbackup.recovery.history.owners import Sizes


def sizes(folder: Path, set_name: str, point_id: str, task: Task) -> Sizes:
    """Whose the bytes are that a point holds itself."""
    from vdbackup.recovery.history import owners

    return owners.sizes(Repository.open(folder), set_name, point_id, "/", task)


def differences(folder: Path, set_name: str, ids: tuple[str, str], task: Task) -> Differences:
    """Which files differ between two points."""
    from vdbackup.recovery.history import differences

    return differences.differences(Repository.open(folder), set_name, ids, "/", task)
