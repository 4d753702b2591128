"""Make a recovery point of what a virtual machine wrote: the session goes, the point is retargeted.

The order is what keeps it safe: the session is ours (nobody opens it again meanwhile), the point is
made and read back, the machine is looked at once more, and only then the session is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import promote
from vdbackup.errors import NotPromotable, PlanOutdated, VdbackupError, from_os
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.operations import folding, protection, thinning
from vdbackup.operations.changed import Changed
from vdbackup.operations.relinking import relink
from vdbackup.operations.thinning import ThinPlan
from vdbackup.recovery.sessions.elsewhere import name_of
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.kept_logs import KeptLog, kept_log
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr


@dataclass(frozen=True, kw_only=True)
class PromotionPlan(Plan):
    """What making a point of a session would do.

    Attributes:
        saved: the session.
        not_running: the user says that its machine does not run, where nobody else can.
        promotion: the point's part of it.
        forgets: the log of its writes that goes with it, and how long its file is, in bytes; None:
            none does.
        thins: how the log is thinned once the point is made; None: it is not.
    """

    saved: SavedSession
    not_running: bool
    promotion: promote.PromotePlan
    forgets: tuple[KeptLog, int] | None = None
    thins: ThinPlan | None = None


@dataclass(frozen=True)
class PromotionResult:
    """What came of a session, which is gone.

    Attributes:
        point: holds what the machine wrote.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
        forgotten: bytes of storage that its kept writes took, which went with it, or that they
            take less.
    """

    repository: Repository
    set_name: str
    point: RecoveryPoint
    changed: Changed
    trouble: tuple[VdbackupError, ...]
    forgotten: int = 0


def plan(
    saved: SavedSession,
    *,
    not_running: bool = False,
    forget_writes: bool = False,
    thin_writes: bool = False,
) -> PromotionPlan:
    """What making a recovery point of the session would do.

    Args:
        saved: the session.
        not_running: the user says that its machine does not run, or will be asked whether it does.
        forget_writes: its log of every write goes with it, and the moments in that; else they stay.
        thin_writes: of that log one moment stays of what lies close together (folding.py).

    Raises:
        NotWritten: its writes were to be forgotten or thinned, and none are kept.
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
    if saved.record.attached:
        summary += tr(
            " What it wrote to the disks that were attached to it goes: {names}.",
            names=", ".join(each.set_name for each in saved.record.attached),
        )
    kept = kept_log(backup_set.folder, saved.id) if forget_writes else None
    said = _of_its_writes(repository, backup_set.name, saved.id, goes=kept is not None)
    gone = tuple(each.name for each in (kept.record, kept.path, kept.index)) if kept else ()
    thins = None
    if thin_writes:
        thins = folding.plan(repository, backup_set.name, saved.id, saved.folder.parent)
        said, gone = f"{said} {thins.summary}", thins.replaces
    moments = (tr("all moments in its kept writes"),) if kept else ()
    return PromotionPlan(
        summary=f"{summary} {said}".rstrip(),
        bytes_to_copy=promotion.bytes_to_copy,
        creates=promotion.creates,
        replaces=(*promotion.replaces, *gone),
        invalidates=thins.invalidates if thins else moments,
        saved=saved,
        not_running=not_running,
        promotion=promotion,
        forgets=(kept, kept.path.stat().st_size) if kept else None,
        thins=thins,
    )


def _of_its_writes(repository: Repository, set_name: str, session: str, *, goes: bool) -> str:
    """What becomes of the log of a session's writes, in words; "" where there is none."""
    logs = protection.moments(repository, set_name, None, None)
    found = next((each for each in logs if each.kept.session == session), None)
    if found is None:
        return ""
    told = {
        "count": grouped(len(found.moments)),
        "size": readable_size(found.stored),
        "point": found.point or "?",
    }
    if goes:
        return tr(
            "Its kept writes, {size}, go with it, and the {count} moments of point {point} in "
            "them.",
            **told,
        )
    return tr(
        "Its kept writes, {size}, stay, with {count} moments of point {point}, which they hold "
        "until they are forgotten.",
        **told,
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
        _check_same_log(plan)
        point = promote.run(promotion, task)
        machine.check_still()
        kept = _let_go(folder)
    repository, name = promotion.repository, promotion.set_name
    sessions_folder = saved.folder.parent
    unready = for_new_point(repository, name, point.id, sessions_folder, task)
    trouble = (*kept, *unready, *relink(repository.path, sessions_folder))
    forgotten, stays = _forgotten(plan, sessions_folder)
    folded = folding.after(plan.thins, sessions_folder, task)
    return PromotionResult(
        repository,
        name,
        point,
        Changed.only(name),
        (*trouble, *stays, *folded.trouble),
        forgotten + folded.freed,
    )


def _check_same_log(plan: PromotionPlan) -> None:
    """Raise PlanOutdated where the log that is to go holds other writes than were shown."""
    if plan.thins is not None:
        thinning.check_holds(plan.thins, plan.saved.folder.parent)
    if plan.forgets is None:
        return
    planned, length = plan.forgets
    now = kept_log(planned.folder, planned.session)
    if now != planned or now.path.stat().st_size != length:
        raise PlanOutdated(
            tr("The kept writes of {saved} are others than they were.", saved=plan.saved.title),
            tr("Look at what would be done now, and decide again."),
        )


def _forgotten(plan: PromotionPlan, sessions_folder: Path) -> tuple[int, tuple[VdbackupError, ...]]:
    """Delete the log that the point stands for now; what that took, or why it stays."""
    if plan.forgets is None:
        return 0, ()
    kept, promotion = plan.forgets[0], plan.promotion
    try:
        return protection.forget(
            promotion.repository, promotion.set_name, kept.session, sessions_folder
        ), ()
    except VdbackupError as error:
        return 0, (error,)
    except OSError as error:
        return 0, (from_os(error),)


def _let_go(folder: SessionFolder) -> tuple[VdbackupError, ...]:
    """Delete the session; why it stays, where it does: the point is there all the same."""
    try:
        folder.remove()
    except VdbackupError as error:
        return (error,)
    return ()
