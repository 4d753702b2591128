"""Delete a point: what reads through it is merged, and other programs' machines learn its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import delete
from vdbackup.backup.delete import DeletePlan, plan
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink

__all__ = ["DeletePlan", "DeleteResult", "plan", "run"]


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


def run(plan: DeletePlan, sessions_folder: Path, task: Task) -> DeleteResult:
    """Delete the point; raises what `backup.delete.run` does."""
    delete.run(plan, task)
    trouble = relink(plan.repository.path, sessions_folder)
    return DeleteResult(plan.point_id, Changed.only(plan.set_name), trouble)
