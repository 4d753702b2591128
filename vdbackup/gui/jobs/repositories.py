"""Jobs that are about a repository as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui.jobs.outcome import Outcome, said_of
from vdbackup.jobs import Task
from vdbackup.operations import (
    opening,
    repair,
)
from vdbackup.operations.opening import Finished
from vdbackup.operations.repair import RepairResult
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr, trn

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    pass


def open_backups(folder: Path, _task: Task) -> Path:
    """The folder, if it holds backups."""
    return Repository.open(folder).path


def finish_merges(folder: Path, sessions_folder: Path, task: Task) -> Outcome[Finished]:
    """Finish what a crash, or a cancel, has left in a repository."""
    done = opening.finish(Repository.open(folder), sessions_folder, task)
    warnings = (*done.done, *said_of((*done.undone, *done.trouble)))
    sentence = tr("What was begun has been looked after.")
    return Outcome(sentence, (), warnings, value=done, changed=done.changed)


def repair_all(folder: Path, sessions_folder: Path, task: Task) -> Outcome[RepairResult]:
    """Finish what was interrupted, and rebuild metadata; what was done is said in the details."""
    repaired = repair.run(folder, sessions_folder, task)
    sentence = trn(
        "Repaired: {count} thing done.", "Repaired: {count} things done.", len(repaired.done)
    )
    if not repaired.done:
        sentence = (
            tr("Nothing was repaired.") if repaired.undone else tr("Nothing had to be repaired.")
        )
    warnings = said_of((*repaired.undone, *repaired.trouble))
    return Outcome(sentence, repaired.done, warnings, value=repaired, changed=repaired.changed)
