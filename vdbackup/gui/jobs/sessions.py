"""What becomes of what a virtual machine wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Plan, Task
from vdbackup.operations import (
    promote,
)
from vdbackup.operations.promote import PromotionPlan, PromotionResult
from vdbackup.recovery.sessions import elsewhere
from vdbackup.recovery.sessions.saved import SavedSession

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    pass


def plan_discard(saved: SavedSession, written: int) -> Plan:
    """What discarding a session would take; nothing of a recovery point is."""
    started = words.when(saved.record.started.isoformat())
    machines = elsewhere.registered_in(saved.folder)
    losing = "".join(f" Its disk goes, and {each} stays without it." for each in machines)
    return Plan(
        f"The virtual machine was started from {saved.title}, {started}. What it wrote since then "
        f"is deleted and cannot be brought back; the recovery point stays as it is.{losing}",
        invalidates=(f"{words.size(written)} in {saved.folder}",),
    )


def promote_session(
    plan: PromotionPlan | None, saved: SavedSession, task: Task
) -> Outcome[PromotionResult]:
    """Make a recovery point of a session, which then goes.

    Who agrees to the plan, or is asked when the machine ends, says that it does not run.
    """
    result = promote.run(plan or promote.plan(saved, not_running=True), task)
    made = f"Point #{result.point.sequence} made of {saved.title}."
    warnings = said_of(result.trouble)
    return Outcome(made, facts(result.point), warnings, value=result, changed=result.changed)
