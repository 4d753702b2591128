"""Merge: a point goes into its parent, and other programs' machines learn what that renamed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import merge
from vdbackup.backup.merge import MergePlan, Way, plan
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

__all__ = ["MergePlan", "MergeResult", "Way", "plan", "run"]


@dataclass(frozen=True)
class MergeResult:
    """What a merge did.

    Attributes:
        point: stands for both.
        way: how it was done.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    repository: Repository
    set_name: str
    point: RecoveryPoint
    way: Way
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def run(plan: MergePlan, sessions_folder: Path, task: Task) -> MergeResult:
    """Merge. Once the copying into the parent has begun, a cancelled merge is finished later.

    Raises what `backup.merge.run` does.
    """
    repository, name = plan.repository, plan.set_name
    merged = merge.run(plan, task)
    trouble = relink(repository.path, sessions_folder)
    return MergeResult(repository, name, merged.point, merged.way, Changed.only(name), trouble)
