"""Retarget: a point's machine gets other hardware, and what it needs for that on its overlay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.jobs import Task
from vdbackup.operations.changed import Changed
from vdbackup.repository.repository import Repository

if TYPE_CHECKING:
    from vdbackup.recovery.retarget.report import RetargetReport
    from vdbackup.recovery.retarget.retarget import RetargetPlan


@dataclass(frozen=True)
class RetargetResult:
    """What was done.

    Attributes:
        report: what the machine boots on now, and why; None where the overlay is empty again.
        changed: what is to be read again.
    """

    report: RetargetReport | None
    changed: Changed


def plan(
    repository: Repository, set_name: str, point_id: str, wish: str, drivers: Path | None = None
) -> RetargetPlan:
    """What would be done to the point's overlay; raises what `recovery.retarget` does."""
    from vdbackup.recovery.retarget import retarget  # late: it takes long to import

    return retarget.plan(repository, set_name, point_id, wish, drivers)


def run(plan: RetargetPlan, sessions_folder: Path, task: Task) -> RetargetResult:
    """Do what was planned; the overlay is as it was where that fails."""
    from vdbackup.recovery.retarget import retarget  # late: it takes long to import

    report = retarget.run(plan, sessions_folder, task)
    return RetargetResult(report, Changed.only(*plan.sets))
