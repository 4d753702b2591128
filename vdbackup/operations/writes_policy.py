"""What a set's policy makes of the writes that are kept of its machines: foretold, and done.

Of a log whose machine has ended less is kept as time goes by: all of its last time write by write,
then a moment each some seconds, then nothing. A log that is in use stays as it is, and so does what
somebody has pinned: the writes behind a pinned point.

To write a log anew takes as long as to copy it, so that is done where it gives back a tenth of it.
Its session may be opened again as long as it lies there, and then the log goes on: until then the
newest moment stays, however old it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.backup.forecast import Outcome
from vdbackup.backup.moments_kept import MomentRules
from vdbackup.errors import (
    Cancelled,
    NotThinned,
    PlanOutdated,
    PointInUse,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import Task, readable_size, retry_when_cleared
from vdbackup.operations import protection, thinning
from vdbackup.operations.protection import title_of
from vdbackup.operations.thinning import ThinPlan
from vdbackup.repository import holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.holds import LogHold
from vdbackup.repository.kept_logs import NS, KeptLog, kept_log, kept_logs, since
from vdbackup.repository.policy import Policy, WritesPolicy
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr, trn

if TYPE_CHECKING:  # late: it brings numpy
    from vdbackup.disks.write_log.log import WriteLog

logger = logging.getLogger(__name__)

LEAST = 0.1
"""Part of a log that has to be given back, so that it is written anew."""
PATIENCE = 60.0
"""Seconds to wait for whoever took the repository when the capture gave it back."""


@dataclass(frozen=True)
class LogFate:
    """What becomes of a log with the next backup.

    Attributes:
        set_name: beside which set it lies.
        kept: the log.
        outcome: whether moments of it go.
        moments: how many consistent ones it has.
        going: the numbers of those that go.
        frees: bytes that it becomes shorter by, at least.
        whole: all of it goes.
        why: in words that stand behind a colon.
        thinning: how; None where nothing goes, or all.
    """

    set_name: str
    kept: KeptLog
    outcome: Outcome
    moments: int = 0
    going: frozenset[int] = frozenset()
    frees: int = 0
    whole: bool = False
    why: str = ""
    thinning: ThinPlan | None = None

    @property
    def name(self) -> str:
        """What of it goes, for a person."""
        if self.whole:
            return tr("all kept writes of {title}", title=title_of(self.kept))
        return tr(
            "{going} of {every} consistent moments of {title}", going=grouped(len(self.going)),
            every=grouped(self.moments), title=title_of(self.kept),
        )  # fmt: skip


def foretold(repository: Repository, set_name: str, policy: Policy, at: datetime) -> list[LogFate]:
    """What becomes of each log of a set with a backup that is made then; none of what is damaged.

    Raises OSError.
    """
    backup_set = repository.set(set_name)
    return [
        _fate(repository, backup_set, kept, policy.writes, at) for kept in _readable(backup_set)
    ]


def in_words(rules: WritesPolicy) -> str:
    """Which moments stay, for a person."""
    parts = []
    if rules.within is not None:
        parts.append(
            tr(
                "every write of the last {within} before its log ends, before that one moment of "
                "each {every}",
                within=_time(rules.within),
                every=_time(rules.every),
            )
        )
    if rules.forgotten is not None:
        parts.append(tr("nothing older than {time}", time=_time(rules.forgotten)))
    return "; ".join(parts) or tr("all moments")


def _time(seconds: int) -> str:
    """In the largest unit of which it is a whole number."""
    if not seconds % 86400:
        return trn("{count} day", "{count} days", seconds // 86400)
    if not seconds % 3600:
        return trn("{count} hour", "{count} hours", seconds // 3600)
    if not seconds % 60:
        return trn("{count} minute", "{count} minutes", seconds // 60)
    return trn("{count} second", "{count} seconds", seconds)


def ids(fates: Iterable[LogFate]) -> set[tuple[str, str, int]]:
    """Each moment that goes, and each log of which nothing stays (-1), by set and session."""
    return {
        (fate.set_name, fate.kept.session, number)
        for fate in fates
        for number in (*fate.going, *((-1,) if fate.whole else ()))
    }


def _readable(backup_set: BackupSet) -> Iterable[KeptLog]:
    """The logs of which there is a point, and that are not damaged."""
    ids = {point.id for point in backup_set.points}
    return [each for each in kept_logs(backup_set.folder) if each.protection.point in ids]


def _fate(
    repository: Repository, backup_set: BackupSet, kept: KeptLog, rules: WritesPolicy, at: datetime
) -> LogFate:
    stays = LogFate(backup_set.name, kept, Outcome.STAYS)
    if not rules.takes:
        return replace(stays, why=tr("all moments stay"))
    if backup_set.pin(backup_set.point(kept.protection.point)) is not None:
        return replace(stays, why=tr("its point is pinned"))
    try:
        return _by_rules(repository, backup_set, stays, rules, at)
    except PointInUse as error:
        return replace(stays, outcome=Outcome.LATER, why=error.title)
    except (VdbackupError, OSError) as error:
        problem = from_os(error) if isinstance(error, OSError) else error
        return replace(stays, why=problem.title)


def _by_rules(
    repository: Repository, backup_set: BackupSet, stays: LogFate, rules: WritesPolicy, at: datetime
) -> LogFate:
    """What becomes of a log by the rules alone; raises as `thinning.plan`."""
    kept = stays.kept
    protection.check_may_go(backup_set, kept, None)
    log = kept.read()
    moments = thinning.consistent(log, kept.protection.before)
    if log.lost:
        return replace(stays, why=tr("it is damaged, and left as it is"))
    until = _forgotten(rules, at)
    found = replace(stays, moments=len(moments) + 1)
    if _end(kept, log, moments) <= until and not _is_of_a_session(backup_set, kept):
        every = frozenset(number for number, _ in moments)
        return replace(
            found, outcome=Outcome.GOES, going=every, frees=kept.stored, whole=True,
            why=tr("older than moments stay"),
        )  # fmt: skip
    wanted = MomentRules(rules.within, rules.every, until)
    plan = thinning.plan_by(repository, backup_set.name, kept, None, wanted, LEAST)
    if plan.thinning is None:
        return replace(found, why=tr("nothing is to go, or too little to write it anew"))
    return replace(
        found, outcome=Outcome.GOES, going=plan.going, frees=plan.frees, thinning=plan,
        why=tr("what is old, or lies close together, goes"),
    )  # fmt: skip


def _is_of_a_session(backup_set: BackupSet, kept: KeptLog) -> bool:
    """Whether the session lies there still, which may be opened again."""
    there = (each for each in holds.of(backup_set) if not isinstance(each, LogHold))
    return any(each.session == kept.session for each in there)


def _forgotten(rules: WritesPolicy, at: datetime) -> int:
    """What came by then goes, ns since 1970."""
    return 0 if rules.forgotten is None else round((at.timestamp() - rules.forgotten) * NS)


def _end(kept: KeptLog, log: WriteLog, moments: list[tuple[int, int]]) -> int:
    """When the newest of a log came, at the latest, ns since 1970."""
    ended = kept.protection.ended
    last = [datetime.fromisoformat(ended).timestamp() * NS] if ended else []
    if not ended and log.index.count < len(log.entries):  # nobody has noted when the newest came
        last.append(kept.path.stat().st_mtime_ns)
    return round(max([since(kept), *last, *(time for _, time in moments[-1:])]))


@dataclass(frozen=True)
class Thinned:
    """What was done with the kept writes of a set, a sentence each, and what went wrong."""

    done: tuple[str, ...] = ()
    trouble: tuple[VdbackupError, ...] = ()


def after_backup(
    repository: Repository,
    set_names: Iterable[str],
    sessions_folder: Path,
    at: datetime,
    task: Task,
) -> Thinned:
    """Do what the policy of some sets makes of their kept writes, once it was applied to points.

    The new points are there and safe: nothing that happens here fails what made them. What is in
    use is left for the next time.
    """
    done: list[str] = []
    trouble: list[VdbackupError] = []
    for name in set_names:
        try:
            policy = repository.set(name).settings.policy
            fates = foretold(repository, name, policy, at) if policy.writes.takes else []
        except (VdbackupError, OSError) as error:
            trouble.append(_trouble(error))
            continue
        for fate in fates:
            if fate.outcome is not Outcome.GOES or task.cancel.cancelled:
                continue
            try:
                done.append(_do(repository, fate, sessions_folder, task))
            except Cancelled:
                break
            except (PointInUse, PlanOutdated) as error:
                logger.info("the writes of session %s stay: %s", fate.kept.session, error)
            except (VdbackupError, OSError) as error:
                logger.warning(
                    "the writes of %s were not thinned", fate.kept.session, exc_info=True
                )
                trouble.append(_trouble(error))
    return Thinned(tuple(done), tuple(trouble))


def _do(repository: Repository, fate: LogFate, sessions_folder: Path, task: Task) -> str:
    """Thin or forget a log; a sentence of it."""
    title = title_of(fate.kept)
    _check_not_wanted(repository, fate)
    if fate.thinning is None:
        if kept_log(fate.kept.folder, fate.kept.session) != fate.kept:
            raise PlanOutdated(
                tr("The kept writes of {title} are others now.", title=title),
                tr("Look at what would be done now, and decide again."),
            )
        freed = protection.forget(repository, fate.set_name, fate.kept.session, sessions_folder)
        return tr(
            "The kept writes of {title} were older than moments stay and are deleted, {size}.",
            title=title,
            size=readable_size(freed),
        )
    plan = fate.thinning

    def do(task: Task) -> int:
        return thinning.run(plan, sessions_folder, task)

    freed = retry_when_cleared(do, PATIENCE)(task)
    return tr(
        "Of the kept writes of {title} {going} of {every} consistent moments went; they take "
        "{size} less.",
        title=title,
        going=grouped(len(fate.going)),
        every=grouped(fate.moments),
        size=readable_size(freed),
    )


def _check_not_wanted(repository: Repository, fate: LogFate) -> None:
    """Raise PlanOutdated where somebody pinned its point since: of several logs each takes time."""
    backup_set = repository.set(fate.set_name)
    if backup_set.pin(backup_set.point(fate.kept.protection.point)) is not None:
        raise PlanOutdated(
            tr("The point of the kept writes of {title} is pinned.", title=title_of(fate.kept)),
            tr("They stay as they are."),
        )


def _trouble(error: VdbackupError | OSError) -> NotThinned:
    why = from_os(error) if isinstance(error, OSError) else error
    title = tr("The point is safe, but kept writes were not thinned: {why}", why=why.title)
    trouble = NotThinned(title, why.advice, remedy=why.remedy, about=why.about)
    trouble.__cause__ = why  # who notes it asks whether that passes by itself
    return trouble
