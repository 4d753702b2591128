"""Delete a point: what reads through it is merged, and other programs' machines learn its name.

A point that belongs to a moment of a machine goes with all of that moment's points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import delete, moments
from vdbackup.backup.delete import DeletePlan
from vdbackup.backup.moments import DeleteMomentPlan
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink
from vdbackup.repository.machine import moment_of
from vdbackup.repository.repository import Repository

__all__ = ["DeleteMomentPlan", "DeletePlan", "DeleteResult", "plan", "run"]


@dataclass(frozen=True)
class DeleteResult:
    """What a deletion did.

    Attributes:
        point_id: of the point that is gone.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    point_id: str
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def plan(repository: Repository, set_name: str, point_id: str) -> DeletePlan | DeleteMomentPlan:
    """What deleting the point would do, and what goes with it; raises what `backup.delete` does."""
    backup_set = repository.set(set_name)
    moment = moment_of(repository, backup_set, backup_set.point(point_id))
    if moment is None:
        return delete.plan(repository, set_name, point_id)
    return moments.plan_delete(repository, moment, set_name)


def run(plan: DeletePlan | DeleteMomentPlan, sessions_folder: Path, task: Task) -> DeleteResult:
    """Delete the point; raises what `backup.delete.run` does."""
    if isinstance(plan, DeleteMomentPlan):
        moments.run_delete(plan, task)
        changed = Changed.only(*plan.moment.points)
    else:
        delete.run(plan, task)
        changed = Changed.only(plan.set_name)
    trouble = relink(plan.repository.path, sessions_folder)
    return DeleteResult(plan.point_id, changed, trouble)
