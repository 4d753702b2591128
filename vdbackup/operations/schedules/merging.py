"""A schedule's merges: what its set's policy keeps no more goes at a time of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import machine_retention, merge, retention, unmerged
from vdbackup.backup.retention import Applied
from vdbackup.errors import RepositoryLocked, VdbackupError, from_os
from vdbackup.jobs import Task, retry_when_cleared
from vdbackup.operations import following_up, writes_policy
from vdbackup.operations.relinking import relink
from vdbackup.operations.schedules.run import PATIENCE, failed, noted
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store
from vdbackup.operations.writes_policy import Thinned
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """What was merged or deleted.

    Attributes:
        done: a sentence each.
        warnings: what had to stay, and why.
        trouble: what went wrong after it, and costs no point.
    """

    done: tuple[str, ...]
    warnings: tuple[str, ...]
    trouble: tuple[VdbackupError, ...]


def run(store: Store, schedule: Schedule, sessions_folder: Path, task: Task) -> Merged:
    """Apply the policy of a schedule's set; who writes to the repository meanwhile is waited for.

    How it ended is noted beside the schedule's runs. Raises what a merge does, once that is.
    """
    began = datetime.now(UTC)
    work = retry_when_cleared(lambda task: _applied(schedule, task), PATIENCE, of=RepositoryLocked)
    try:
        applied = work(task)
        thinned = _thinned(schedule, sessions_folder, began, task)
    except (VdbackupError, OSError) as error:
        problem = from_os(error) if isinstance(error, OSError) else error
        store.note_merge(schedule.id, failed(began, problem))
        raise
    trouble = (*thinned.trouble, *relink(schedule.repository, sessions_folder))
    merged = Merged((*applied.done, *thinned.done), applied.damaged, trouble)
    store.note_merge(schedule.id, _ended(began, merged))
    _forget_trouble(schedule)
    return merged


def _forget_trouble(schedule: Schedule) -> None:
    """What went wrong after a backup was tried again now: how that ended the run says itself."""
    try:
        repository = Repository.open(schedule.repository)
        following_up.note(repository, _sets(repository, schedule), ())
    except (VdbackupError, OSError):  # the storage has just gone: what was done is noted
        log.warning("what followed the last backup is not forgotten", exc_info=True)


def _sets(repository: Repository, schedule: Schedule) -> Sequence[str]:
    """The set, or those of its machine."""
    machine = KnownMachines.of(repository).with_set(repository.set(schedule.set_name))
    return machine.sets if machine else (schedule.set_name,)


def _ended(began: datetime, merged: Merged) -> Run:
    warnings = [*merged.warnings, *(f"{each.title} {each.advice}" for each in merged.trouble)]
    outcome = Outcome.WARNED if warnings else Outcome.DONE
    return noted(began, outcome, " ".join(warnings or words(merged)))


def _thinned(schedule: Schedule, sessions_folder: Path, at: datetime, task: Task) -> Thinned:
    """Do with the kept writes of the sets what their policy says."""
    repository = Repository.open(schedule.repository)
    names = _sets(repository, schedule)
    return writes_policy.after_backup(repository, names, sessions_folder, at, task)


def _applied(schedule: Schedule, task: Task) -> Applied:
    repository = Repository.open(schedule.repository)
    backup_set = repository.set(schedule.set_name)
    what = tr("merging in {set_name}", set_name=schedule.set_name)
    with repository.lock(what, task.cancel):
        machine = KnownMachines.of(repository).with_set(backup_set)
        names = machine.sets if machine else (schedule.set_name,)
        for name in names:
            merge.finish_interrupted(repository, name, task)
        if machine is not None:
            applied = machine_retention.apply(repository, machine, task)
        else:
            applied = retention.apply(repository, schedule.set_name, task)
        unmerged.note(repository, names, applied.damaged)
        return applied


def words(merged: Merged) -> Sequence[str]:
    """What was done, for a person."""
    return merged.done or (tr("Nothing was to be merged."),)
