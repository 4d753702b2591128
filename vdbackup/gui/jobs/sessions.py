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
from vdbackup.translation import tr

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    pass


def plan_discard(saved: SavedSession, written: int) -> Plan:
    """What discarding a session would take; nothing of a recovery point is."""
    started = words.when(saved.record.started.isoformat())
    machines = elsewhere.registered_in(saved.folder)
    losing = "".join(
        tr(" Its disk goes, and {which} stays without it.", which=each) for each in machines
    )
    return Plan(
        tr(
            "The virtual machine was started from {saved}, {started}. What it wrote since then is "
            "deleted and cannot be brought back; the recovery point stays as it is.{losing}",
            saved=saved.title,
            started=started,
            losing=losing,
        ),
        invalidates=(tr("{size} in {folder}", size=words.size(written), folder=saved.folder),),
    )


def promote_session(
    plan: PromotionPlan | None, saved: SavedSession, task: Task
) -> Outcome[PromotionResult]:
    """Make a recovery point of a session, which then goes.

    Who agrees to the plan, or is asked when the machine ends, says that it does not run.
    """
    result = promote.run(plan or promote.plan(saved, not_running=True), task)
    made = tr("Point #{point} made of {saved}.", point=result.point.sequence, saved=saved.title)
    warnings = said_of(result.trouble)
    return Outcome(made, facts(result.point), warnings, value=result, changed=result.changed)
