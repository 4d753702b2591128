"""Keep every write of a machine, end that, see which moments there are, make points of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.backup import keep_moment
from vdbackup.errors import NotProtected, PointInUse, Remedy, VdbackupError
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.operations.changed import Changed
from vdbackup.recovery.sessions import protection
from vdbackup.recovery.sessions.saved import SavedSession, saved_session
from vdbackup.repository import claims, holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import (
    Cause,
    KeptLog,
    UnreadLog,
    kept_log,
    since,
    survey,
)
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import damage
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:  # late: it brings numpy
    from vdbackup.disks.write_log.log import WriteLog


def protect(saved: SavedSession, limit: int = protection.LIMIT) -> tuple[KeptLog, str]:
    """Keep every write of a running machine from now on.

    Args:
        saved: its session.
        limit: bytes that the log may take; when it has them, no more are kept, and that is said.

    Returns:
        Its log, and what there is to be said of one that goes on.

    Raises NotProtected where that cannot be, RecoveryError where the machine does not run.
    """
    protection.check_can_be(saved.record)
    if not saved.running:
        raise NotProtected(
            tr("The machine of the session {id} does not run.", id=saved.id),
            tr("Have it protected as it starts."),
        )
    protection.check_owned(owned=saved.owned, title=saved.title)
    return protection.protect(_telling(saved), saved.id, saved.folder, saved.record, limit)


def unprotect(saved: SavedSession) -> KeptLog:
    """Keep no more writes of a running machine; those that are kept stay. Raises NotProtected."""
    _, backup_set, _ = saved.origin.find()
    kept = kept_log(backup_set.folder, saved.id)
    if kept.protection.ended is not None:
        raise NotProtected(
            tr(
                "No more writes of {saved} are kept: {why}",
                saved=saved.title,
                why=kept.protection.why,
            ),
            tr("Those that are kept can be forgotten."),
            remedy=Remedy.FORGET_WRITES,
            about=saved.id,
        )
    if saved.running:
        protection.take_out(_telling(saved))
    protection.end(kept, Cause.ASKED, tr("That was asked for."))
    return kept_log(backup_set.folder, saved.id)


@dataclass(frozen=True, kw_only=True)
class ForgetPlan(Plan):
    """What deleting the writes that are kept of `session` would do."""

    repository: Repository
    set_name: str
    session: str


def plan_forget(
    repository: Repository, set_name: str, session: str, sessions_folder: Path
) -> ForgetPlan:
    """What deleting the writes that are kept of a session's machine would do; raises NotWritten."""
    backup_set = repository.set(set_name)
    kept = _log_of(backup_set, session)
    logs = moments(repository, set_name, None, None)
    found = next(each for each in logs if each.kept.session == session)
    hindrance = ""
    try:
        check_may_go(backup_set, kept, sessions_folder)
    except PointInUse as error:
        hindrance = f"{error.title} {error.advice}"
    return ForgetPlan(
        summary=tr(
            "The kept writes of {title}, {size}, are deleted, and with them {count} moments of "
            "point {point}.",
            title=title_of(kept),
            size=readable_size(found.stored),
            count=grouped(len(found.moments)),
            point=found.point or "?",
        ),
        bytes_to_copy=0,
        replaces=tuple(each.name for each in (kept.record, kept.path, kept.index)),
        invalidates=(tr("all moments in its kept writes"),),
        hindrance=hindrance,
        repository=repository,
        set_name=set_name,
        session=session,
    )


def forget(repository: Repository, set_name: str, session: str, sessions_folder: Path) -> int:
    """Delete the writes that are kept of a session's machine; the bytes that they took.

    Raises NotWritten, and PointInUse where somebody reads them, or they still come; Obstructed
    where something else bears the name of one of their files.
    """
    backup_set = repository.set(set_name)
    kept = _log_of(backup_set, session)
    with kept.alone():
        check_may_go(backup_set, kept, sessions_folder)
        taken = kept.stored
        kept.remove(lambda: holds.check_not_read(backup_set, kept))
    return taken


def _log_of(backup_set: BackupSet, session: str) -> KeptLog | UnreadLog:
    """A session's log, whether it can be read or not; raises NotWritten."""
    found = next((e for e in survey(backup_set.folder) if e.session == session), None)
    return found if found is not None else kept_log(backup_set.folder, session)


def check_may_go(
    backup_set: BackupSet, kept: KeptLog | UnreadLog, sessions_folder: Path | None
) -> None:
    """Raise PointInUse where somebody reads a log, or it still goes on.

    Without a folder of sessions a machine of this computer that runs is seen by its log alone,
    which QEMU has open.
    """
    _check_at_its_end(backup_set, kept, sessions_folder)
    holds.check_not_read(backup_set, kept)
    if who := claims.who_has(kept.path):
        raise PointInUse(
            tr("The writes of {protection} are in use: {who}.", protection=title_of(kept), who=who),
            tr("End that."),
        )


def _check_at_its_end(
    backup_set: BackupSet, kept: KeptLog | UnreadLog, sessions_folder: Path | None
) -> None:
    """Raise PointInUse where writes may still be added, here or elsewhere."""
    if isinstance(kept, KeptLog) and (kept.protection.ended is not None or kept.was_cut_off):
        return
    if isinstance(kept, KeptLog) and kept.protection.source:
        raise PointInUse(
            tr("Writes of {saved} are still added.", saved=title_of(kept)), tr("End that first.")
        )
    saved = saved_session(sessions_folder / kept.session) if sessions_folder else None
    if saved is not None and saved.running:
        raise PointInUse(
            tr("Writes of {saved} are still added.", saved=saved.title), tr("End that first.")
        )
    for hold in holds.of(backup_set):
        if hold.session == kept.session and not hold.is_ours:
            raise PointInUse(
                tr(
                    "Writes of {hold} of {user} on {host} may still be added.",
                    hold=hold.title,
                    user=hold.user,
                    host=hold.host,
                ),
                tr("End that machine there first."),
                remedy=Remedy.END_SESSION_ELSEWHERE,
                about=hold.session,
            )


def title_of(kept: KeptLog | UnreadLog) -> str:
    """Whose writes a log holds, for a person."""
    if isinstance(kept, KeptLog) and kept.protection.title:
        return kept.protection.title
    return tr("the session {session}", session=kept.session)


def find_kept(repository: Repository, reference: str) -> tuple[str, KeptLog | UnreadLog]:
    """The set and the log that a session's id means, its start or its end; raises NotProtected."""
    found = [
        (each.name, kept)
        for each in repository.sets()
        for kept in survey(each.folder)
        if kept.session.startswith(reference) or kept.session.endswith(reference)
    ]
    if len(found) != 1:
        problem = tr("more than one session") if found else tr("no session")
        raise NotProtected(
            tr(
                "{reference!r} matches {problem} whose writes are kept there.",
                reference=reference,
                problem=problem,
            ),
            tr("Check the id."),
            remedy=Remedy.LIST_MOMENTS,
        )
    return found[0]


@dataclass(frozen=True)
class KeptMoment:
    """A moment at a flush.

    Attributes:
        write: after which write of its log.
        time: by when it had come for certain, ns since 1970; 0: nobody knows.
    """

    write: int
    time: int


@dataclass(frozen=True)
class KeptMoments:
    """A log, and the moments in it.

    Attributes:
        set_name: of the set that it lies beside.
        point: the sequence number of the point that its machine was started from; 0: it is not
            known, or not there.
        kept: the log.
        writes: that it holds.
        stored: bytes of storage that it takes.
        moments: by time.
        marks: after which write somebody has set a mark, and its text, external.
        trouble: why it cannot be read, and then it has no moments; or what of it is lost; "" where
            all is well.
        set_back: up to when times are in doubt because the clock was set back, ns since 1970; 0:
            none are.
    """

    set_name: str
    point: int
    kept: KeptLog | UnreadLog
    writes: int
    stored: int
    moments: tuple[KeptMoment, ...]
    marks: tuple[tuple[int, str], ...]
    trouble: str = ""
    set_back: int = 0


def moments(
    repository: Repository, set_name: str | None, first: int | None, last: int | None
) -> Iterator[KeptMoments]:
    """The logs of a set, or of all, with their moments between two times in ns since 1970.

    Of one that is damaged it is said; the others are there. Raises OSError.
    """
    for backup_set in [repository.set(set_name)] if set_name is not None else repository.sets():
        by_id = {point.id: point.sequence for point in backup_set.points}
        for kept in survey(backup_set.folder):
            if isinstance(kept, UnreadLog):
                trouble = f"{kept.problem} {kept.advice}"
                yield KeptMoments(backup_set.name, 0, kept, 0, kept.stored, (), (), trouble)
                continue
            point = by_id.get(kept.protection.point, 0)
            nothing = KeptMoments(backup_set.name, point, kept, 0, 0, (), ())
            if not point:
                yield replace(nothing, stored=kept.stored, trouble=_lost_point(kept))
                continue
            try:
                found = _with_moments(nothing, kept, first, last)
            except (VdbackupError, OSError) as error:
                trouble = tr("{path} cannot be read: {error}", path=kept.path, error=error)
                found = replace(nothing, trouble=trouble)
            yield found


def _with_moments(
    nothing: KeptMoments, kept: KeptLog, first: int | None, last: int | None
) -> KeptMoments:
    """A log with what is in it; raises as `KeptLog.read`."""
    log, before = kept.read(), kept.protection.before
    sure = log.flushed > 0  # what nobody has noted may not be on the storage (WriteLog.proven)
    times = [since(kept), *log.flushed[sure].tolist()]
    found = zip([before, *log.flushes[sure].tolist()], times, strict=True)
    wanted = {
        write - before: time
        for write, time in found
        if write >= before and (first is None or time >= first) and (last is None or time <= last)
    }
    marks = tuple((write - before, text) for write, text in log.marks())
    moments = tuple(KeptMoment(*each) for each in sorted(wanted.items()))
    return replace(
        nothing,
        writes=max(0, log.sound_writes - before),
        stored=kept.stored,
        moments=moments,
        marks=marks,
        trouble=_trouble(kept, log),
        set_back=log.index.set_back,
    )


def _lost_point(kept: KeptLog) -> str:
    return tr(
        "The point that {title} was started from is not there, so the moments in its kept writes "
        "cannot be read. Put its files back and have the set repaired, or let these writes be "
        "forgotten.",
        title=title_of(kept),
    )


def _trouble(kept: KeptLog, log: WriteLog) -> str:
    """What is lost of a log that can be read, or that it ended too early; "" where all is well."""
    if log.lost:
        return damage(kept, max(0, log.sound_writes - kept.protection.before))
    if log.index.damaged or (kept.is_written_out and log.proven < len(log.entries)):
        return tr(
            "{path} is damaged or missing, so of {count} of {writes} writes nobody knows any more "
            "when they came: they are found by their number alone.",
            path=kept.index,
            count=grouped(log.writes - log.number_after(log.proven)),
            writes=grouped(log.writes - kept.protection.before),
        )
    if kept.was_cut_off:
        return tr(
            "No more writes of {title} are kept since this computer was started anew.",
            title=kept.protection.title,
        )
    if kept.protection.ended_early:
        return tr(
            "No more writes of {title} were kept, though nobody had asked for that: {why}",
            title=kept.protection.title,
            why=kept.protection.why,
        )
    return ""


@dataclass(frozen=True)
class KeptMomentResult:
    """What came of a moment.

    Attributes:
        point: holds it.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    set_name: str
    point: RecoveryPoint
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def plan_point(
    repository: Repository, set_name: str, moment_id: str
) -> keep_moment.MomentPlan:  # fmt: skip
    """What making a recovery point of a moment would do; raises as `keep_moment.plan`."""
    return keep_moment.plan(repository, set_name, moment_id)


def make_point(plan: keep_moment.MomentPlan, sessions_folder: Path, task: Task) -> KeptMomentResult:
    """Make the point, and make it ready to boot."""
    from vdbackup.recovery.retarget.policy import for_new_point  # late: it takes long to import

    point = keep_moment.run(plan, task)
    unready = for_new_point(plan.repository, plan.set_name, point.id, sessions_folder, task)
    return KeptMomentResult(plan.set_name, point, Changed.only(plan.set_name), unready)


def _telling(saved: SavedSession) -> protection.Tell:
    from vdbackup.qemu.monitor import tell  # late: asyncio, which no backup needs

    def say(command: str, **arguments: object) -> object:
        return tell(saved.files.connect(), command, arguments=arguments or None)

    return say
