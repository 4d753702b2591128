"""Make a recovery point of what a virtual machine wrote: the session goes, the point is retargeted.

The order is what keeps it safe: the session is ours (nobody opens it again meanwhile), the point is
made and read back, the machine is looked at once more, and only then the session is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdbackup.backup import promote
from vdbackup.errors import NotPromotable, PlanOutdated, VdbackupError
from vdbackup.jobs import Plan, Task
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink
from vdbackup.recovery.sessions.elsewhere import name_of
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class PromotionPlan(Plan):
    """What making a point of a session would do.

    Attributes:
        saved: the session.
        not_running: the user says that its machine does not run, where nobody else can.
        promotion: the point's part of it.
    """

    saved: SavedSession
    not_running: bool
    promotion: promote.PromotePlan


@dataclass(frozen=True)
class PromotionResult:
    """What came of a session, which is gone.

    Attributes:
        point: holds what the machine wrote.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    repository: Repository
    set_name: str
    point: RecoveryPoint
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def plan(saved: SavedSession, *, not_running: bool = False) -> PromotionPlan:
    """What making a recovery point of the session would do.

    Args:
        saved: the session.
        not_running: the user says that its machine does not run, or will be asked whether it does.

    Raises:
        RecoveryError: it runs, or may run (MachineRunning, MayRun); what it lies on is not known.
        PointInUse, BackupError: as `backup.promote.plan` does.
    """
    origin = saved.origin
    if saved.record.others:  # half of what the machine wrote would be no moment of it
        raise NotPromotable(
            tr(
                "{saved} has {value} disks, and a recovery point can be made of a session of one.",
                saved=saved.title,
                value=1 + len(saved.record.others),
            ),
            tr("Keep the session; it can be opened again."),
        )
    repository, backup_set, _ = origin.find()
    own, *above = saved.ended_machine(not_running=not_running).disks
    session = promote.EndedSession(
        saved.id, saved.title, own, origin.overlay_contents, saved.disk_start, tuple(above)
    )
    promotion = promote.plan(repository, backup_set.name, origin.point, session)
    summary = promotion.summary
    if saved.program is not None:
        summary += tr(
            " Its machine must be shut down in {program}.", program=name_of(saved.program)
        )
    return PromotionPlan(
        summary=summary,
        bytes_to_copy=promotion.bytes_to_copy,
        creates=promotion.creates,
        replaces=promotion.replaces,
        saved=saved,
        not_running=not_running,
        promotion=promotion,
    )


def run(plan: PromotionPlan, task: Task) -> PromotionResult:
    """Make the point, let the session go, and make the point ready to boot.

    If it fails or is cancelled before the session goes, that stays as it is.
    """
    from vdbackup.recovery.retarget.policy import for_new_point  # late: it takes long to import

    saved, promotion = plan.saved, plan.promotion
    with SessionFolder.reopen(saved.folder) as folder:
        machine = saved.ended_machine(not_running=plan.not_running)
        if machine.disks != promotion.session.disks:
            raise PlanOutdated(
                tr("The machine of {saved} is on other disks than it was.", saved=saved.title),
                tr("Look at what would be done now, and decide again."),
            )
        point = promote.run(promotion, task)
        machine.check_still()
        kept = _let_go(folder)
    repository, name = promotion.repository, promotion.set_name
    sessions_folder = saved.folder.parent
    unready = for_new_point(repository, name, point.id, sessions_folder, task)
    trouble = (*kept, *unready, *relink(repository.path, sessions_folder))
    return PromotionResult(repository, name, point, Changed.only(name), trouble)


def _let_go(folder: SessionFolder) -> tuple[VdbackupError, ...]:
    """Delete the session; why it stays, where it does: the point is there all the same."""
    try:
        folder.remove()
    except VdbackupError as error:
        return (error,)
    return ()
