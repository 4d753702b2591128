"""Merge: a point goes into its parent, and other programs' machines learn what that renamed.

A point that belongs to a moment of a machine goes with all of that moment's points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import merge, moments
from vdbackup.backup.merge import MergePlan, Way
from vdbackup.backup.moments import MergeMomentPlan
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink
from vdbackup.repository.machine import moment_of
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

__all__ = ["MergeMomentPlan", "MergePlan", "MergeResult", "Way", "plan", "run"]


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


def plan(repository: Repository, set_name: str, point_id: str) -> MergePlan | MergeMomentPlan:
    """What rolling the point into its parent would do; raises what `backup.merge.plan` does."""
    backup_set = repository.set(set_name)
    moment = moment_of(repository, backup_set, backup_set.point(point_id))
    if moment is None:
        return merge.plan(repository, set_name, point_id)
    return moments.plan_merge(repository, moment, set_name)


def run(plan: MergePlan | MergeMomentPlan, sessions_folder: Path, task: Task) -> MergeResult:
    """Merge. Once the copying into the parent has begun, a cancelled merge is finished later.

    Raises what `backup.merge.run` does.
    """
    repository, name = plan.repository, plan.set_name
    if isinstance(plan, MergeMomentPlan):
        merged = moments.run_merge(plan, task)
        changed = Changed.only(*plan.moment.points)
    else:
        merged = merge.run(plan, task)
        changed = Changed.only(name)
    trouble = relink(repository.path, sessions_folder)
    return MergeResult(repository, name, merged.point, merged.way, changed, trouble)
