"""What whoever opens a repository does first: it finishes what a crash, or a cancel, has left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import NotFinished, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import NOTHING, Changed
from vdbackup.operations.relinking import relink
from vdbackup.repository.repository import Repository


@dataclass(frozen=True)
class Finished:
    """What was finished.

    Attributes:
        done: which merges and publications were, a sentence each.
        undone: why others could not be.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    done: tuple[str, ...]
    undone: tuple[NotFinished, ...]
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def finish(repository: Repository, sessions_folder: Path, task: Task) -> Finished:
    """Finish what was cut off, if nobody else is at it; see `backup.merge.recover`.

    Other programs' machines that an earlier merge left behind are tried again. It may take an hour.
    """
    waiting = repository.unfinished_sets()
    if not waiting:
        return Finished((), (), NOTHING, relink(repository.path, sessions_folder))
    from vdbackup.backup import merge  # late: with all that disks need it takes 0.2 s to import

    recovered = merge.recover(repository, task)
    trouble = relink(repository.path, sessions_folder)
    return Finished(recovered.done, recovered.undone, Changed.only(*waiting), trouble)
