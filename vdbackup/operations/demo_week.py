"""A week of backups of the demo disk, made in seconds: something to look at in the window.

The points are real, and boot; their dates alone are set back. Of one day two backups were made, and
the later one is merged into the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vdbackup.jobs import Task
from vdbackup.operations import backup, merge
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

_KIB = 1024
_LINE = b"What has changed on this day.\r\n"


@dataclass(frozen=True)
class Day:
    """A backup of the week.

    Attributes:
        ago: hours before now.
        kind: of the point.
        size: KiB of the file that was new by then.
        merged: the point is rolled into the one before.
    """

    ago: int
    kind: PointType
    size: int
    merged: bool = False


WEEK = (
    Day(147, PointType.FULL, 600),
    Day(123, PointType.INCREMENTAL, 220),
    Day(121, PointType.INCREMENTAL, 90, merged=True),
    Day(75, PointType.DIFFERENTIAL, 400),
    Day(51, PointType.INCREMENTAL, 60),
    Day(27, PointType.INCREMENTAL, 310),
    Day(2, PointType.INCREMENTAL, 30),
)


def make(image: Path, folder: Path, machines: Machines, task: Task) -> tuple[RecoveryPoint, ...]:
    """Make the disk and its backups, where there are none yet; the points.

    Args:
        image: of the disk.
        folder: of the repository.
        machines: what may be used to make points ready to boot.
        task: what to report to; cancelled, what is there by then stays, and is whole.

    Raises SourceError, BackupError, RepositoryError, OSError.
    """
    if folder.exists() and (there := Repository.open(folder).sets()):
        return there[0].points
    now = datetime.now(UTC)
    for number, day in enumerate(WEEK, start=1):
        task.check()
        _change(image, number, day)
        request = BackupRequest(SourceRef.of_path(image), folder, kind=day.kind)
        made = backup.back_up(request, machines, task)
        _set_back(made.repository, made.set_name, made.point, now - timedelta(hours=day.ago))
        if day.merged:
            plan = merge.plan(made.repository, made.set_name, made.point.id)
            merge.run(plan, machines.sessions_folder, task)
    return Repository.open(folder).set().points


def _change(image: Path, number: int, day: Day) -> None:
    message = f"Hello from the vdbackup demo disk, backup {number}."
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        demo_disk.create(image, message)
    text = _LINE * (day.size * _KIB // len(_LINE))
    demo_disk.change(image, message, {f"DAY{number}.TXT": text})


def _set_back(repository: Repository, set_name: str, point: RecoveryPoint, at: datetime) -> None:
    with repository.lock(tr("setting dates back")):
        dated = replace(point, created=at.isoformat(timespec="seconds"))
        repository.save_point(set_name, dated)
