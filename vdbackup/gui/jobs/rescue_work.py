"""The work behind a rescue medium's buttons: to make one, and to end a restore on one.

As `work.py`, which holds what is done to repositories.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task
from vdbackup.translation import tr

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.bootable.making import BootablePlan
    from vdbackup.rescue.making import RescueMedium, RescuePlan


def plan_medium(image: Path, *, window: bool, overwrite: bool) -> RescuePlan:
    """What making a rescue medium would do."""
    from vdbackup.rescue import making

    return making.plan(image, window=window, overwrite=overwrite)


def make_medium(plan: RescuePlan, task: Task) -> Outcome[RescueMedium]:
    """Make it."""
    from vdbackup.rescue import making

    made = making.run(plan, task)
    return Outcome(
        tr(
            "{image} is made: {size}. Copy it to a stick as it is, or burn it.",
            image=made.image,
            size=words.size(made.size),
        ),
        (plan.summary,),
        value=made,
    )


def plan_bootable(disk: Path) -> BootablePlan:
    """What it takes for a restored disk to start on this computer."""
    from vdbackup.recovery.bootable import making

    return making.plan(disk)


def make_bootable(plan: BootablePlan, task: Task) -> Outcome[Path]:
    """Do that."""
    from vdbackup.recovery.bootable import making

    made = making.run(plan, task)
    return Outcome(
        tr("{disk} is ready to start on this computer.", disk=plan.disk),
        (plan.summary, *made.done),
        made.warnings,
        value=plan.disk,
    )
