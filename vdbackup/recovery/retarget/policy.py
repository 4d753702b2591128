"""What a set's policy does for a new point: its overlay is made ready to boot, at backup time."""

from __future__ import annotations

import logging
from pathlib import Path

from vdbackup.errors import Cancelled, NotRetargeted, Remedy, VdbackupError, from_os
from vdbackup.jobs import Task, retry_when_cleared
from vdbackup.recovery.retarget.retarget import AUTO, retarget
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for whoever took the repository when the capture gave it back."""

_UNREADY = tr("The point is safe, but it was not made ready to boot")


def for_new_point(
    repository: Repository,
    set_name: str,
    point_id: str,
    sessions_folder: Path,
    task: Task,
) -> tuple[NotRetargeted, ...]:
    """Retarget a captured or promoted point if its set's policy says so; what went wrong.

    The point is there and safe: nothing that happens here fails what made it. A disk that holds no
    system, or one that boots as it is, is only looked at.
    """

    def do(task: Task) -> None:
        retarget(repository, set_name, point_id, AUTO, sessions_folder, task)

    try:
        if repository.set(set_name).settings.policy.retarget:
            retry_when_cleared(do, PATIENCE)(task)
    except Cancelled:
        return (
            NotRetargeted(
                tr("{unready}, because you cancelled.", unready=_UNREADY), remedy=Remedy.RETARGET
            ),
        )
    except (VdbackupError, OSError) as error:
        log.warning("point %s was not retargeted", point_id, exc_info=True)
        why = from_os(error) if isinstance(error, OSError) else error
        remedy = why.remedy or Remedy.RETARGET
        title = f"{_UNREADY}: {why.title}"
        return (NotRetargeted(title, why.advice, remedy=remedy, about=why.about),)
    return ()
