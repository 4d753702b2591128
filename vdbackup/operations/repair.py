"""Repair: what was interrupted is finished, a merge among it, and what is missing is rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import repair
from vdbackup.errors import NotRepaired, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import ANY, Changed
from vdbackup.operations.relinking import relink


@dataclass(frozen=True)
class RepairResult:
    """What a repair did.

    Attributes:
        done: what was repaired, a sentence each.
        undone: why the rest could not be.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    done: tuple[str, ...]
    undone: tuple[NotRepaired, ...]
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def run(repository: Path, sessions_folder: Path, task: Task) -> RepairResult:
    """Repair the repository in a folder; raises what `backup.repair.run` does."""
    repaired = repair.run(repository, task)
    trouble = relink(repository, sessions_folder)
    return RepairResult(tuple(repaired.done), tuple(repaired.undone), ANY, trouble)
