"""What follows a backup, once its points are safe: kept writes are thinned, machines linked anew.

It costs no point where it fails, and the next backup tries again. At night nobody hears of it: so
it is noted in `set.json` until it could be done, and who looks at the set later is told, as of what
was not merged (`backup/unmerged.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import unmerged
from vdbackup.errors import PlanOutdated, PointInUse, RepositoryLocked, VdbackupError
from vdbackup.jobs import Task, retry_when_cleared
from vdbackup.operations import writes_policy
from vdbackup.operations.relinking import relink
from vdbackup.operations.writes_policy import Thinned
from vdbackup.repository.repository import Repository
from vdbackup.translation import original, tr

log = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds to wait for whoever has the repository."""
_PASSING = (PlanOutdated, PointInUse, RepositoryLocked)
"""What is no trouble of the set's, and over with the next backup."""


def follow_up(
    repository: Repository,
    set_names: Sequence[str],
    sessions_folder: Path,
    task: Task,
    *,
    thins: bool,
) -> Thinned:
    """Do it after a backup of these sets, and note what went wrong. Never raises.

    Args:
        repository: where they are.
        set_names: one, or those of a machine.
        sessions_folder: where machines write.
        task: a cancel leaves the rest for the next time.
        thins: whether their policy is applied now; else at another time.
    """
    names = set_names if thins else ()
    thinned = writes_policy.after_backup(
        repository, names, sessions_folder, datetime.now(UTC), task
    )
    trouble = (*thinned.trouble, *relink(repository.path, sessions_folder))
    lasting = [each for each in trouble if not _passes(each)]
    is_all = thins and not task.cancel.cancelled and len(lasting) == len(trouble)
    if lasting or is_all:  # what was not tried may still be as it was noted
        note(repository, set_names, lasting)
    return replace(thinned, trouble=trouble)


def note(
    repository: Repository, set_names: Iterable[str], trouble: Iterable[VdbackupError]
) -> None:
    """Note in sets what went wrong after their last backup; nothing clears what was noted.

    Costs nothing that was done: what cannot be noted stands in the log.
    """
    said = unmerged.sentences([f"{each.title} {each.advice}".strip() for each in trouble])
    for name in set_names:
        try:
            if _noted(repository, name) != said:
                retry_when_cleared(
                    lambda task, name=name: _save(repository, name, said, task),  # type: ignore[misc]
                    _PATIENCE,
                    of=RepositoryLocked,
                )(Task())
        except (VdbackupError, OSError):
            log.warning("what followed the backup of %s is not noted", name, exc_info=True)


def _passes(error: VdbackupError) -> bool:
    return isinstance(error, _PASSING) or isinstance(error.__cause__, _PASSING)


def _noted(repository: Repository, name: str) -> tuple[str, ...]:
    return tuple(map(original, repository.settings(name).unfollowed or ()))


def _save(repository: Repository, name: str, said: tuple[str, ...], task: Task) -> None:
    with repository.lock(tr("noting what followed a backup of {name}", name=name), task.cancel):
        settings = repository.settings(name)
        repository.save_settings(name, replace(settings, unfollowed=said or None))
