"""How the backups are: what needs a person, and what is worth knowing, for each set.

Never an alarm about nothing: what is only old because the computer was off, or has not been proven
for a while, is no trouble.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vdbackup.backup.due import moment_of
from vdbackup.errors import RepositoryError, VdbackupError, from_os
from vdbackup.jobs import readable_size
from vdbackup.operations.schedules.store import Outcome, Run, Schedule, Store, schedule_id
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import free_space
from vdbackup.repository.kept_logs import RESTARTED, KeptLog, UnreadLog, survey
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import Check, RecoveryPoint, Rehearsal
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import DamagedSet, Repository
from vdbackup.translation import grouped, tr, trn

_GRACE = 2
"""Intervals without a point until it is late: one may be missed, and is made up."""
_UNPROVEN = timedelta(days=30)
_SOON_FULL = timedelta(days=14)
_SEEN = timedelta(days=30)
_SEEN_AT_LEAST = timedelta(days=7)
"""Over which it is looked how a set grows: neither a day's work nor what was long ago."""
_FEWEST = 3


class Concern(enum.StrEnum):
    """What a finding is about; a program goes by these."""

    UNREADABLE = "unreadable"
    NO_POINTS = "no-points"
    LATE = "late"
    FAILED = "failed"
    UNREAD = "source-unreadable"
    DAMAGED = "damaged"
    NOT_BOOTING = "not-booting"
    SOON_FULL = "soon-full"
    NOT_MERGED = "not-merged"
    NOT_FOLLOWED_UP = "not-followed-up"
    WRITES_ENDED = "writes-ended"
    UNPROVEN = "unproven"
    LONG_CHAIN = "long-chain"


QUIET = frozenset({Concern.UNPROVEN, Concern.LONG_CHAIN})
"""What needs nobody now."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, a sentence or two."""

    about: Concern
    sentence: str

    @property
    def needs_somebody(self) -> bool:
        """Whether a person has to do something."""
        return self.about not in QUIET


@dataclass(frozen=True)
class SetHealth:
    """How a set is.

    Attributes:
        last_good: the newest point that was captured and is not known to be damaged.
        age: of that, in seconds.
        points: how many there are.
        layers: that the next backup goes on from.
        verified, boot_tested, proven: when that last held for a point (UTC, ISO 8601); "" for
            never. Proven is one that is verified and boots.
        full_in: seconds until the storage is full, if it goes on as it did; None where that cannot
            be said honestly.
        schedule: by which it is backed up on this computer; None where there is none.
        last_run: how that ended last.
        findings: what needs a person first.
        rehearsed: the last restore that was rehearsed and came up; None for never.
    """

    name: str
    last_good: RecoveryPoint | None = None
    age: float | None = None
    points: int = 0
    layers: int = 0
    verified: str = ""
    boot_tested: str = ""
    full_in: float | None = None
    schedule: Schedule | None = None
    last_run: Run | None = None
    findings: tuple[Finding, ...] = ()
    rehearsed: Rehearsal | None = None
    proven: str = ""

    @property
    def needs_somebody(self) -> bool:
        """Whether a person has to do something."""
        return any(each.needs_somebody for each in self.findings)


@dataclass(frozen=True)
class RepositoryHealth:
    """How a repository is.

    Attributes:
        problem: why it cannot be read; None where it can.
        free: bytes on its storage; None where that does not say.
    """

    path: Path
    sets: tuple[SetHealth, ...] = ()
    problem: VdbackupError | None = None
    free: int | None = None

    @property
    def needs_somebody(self) -> bool:
        """Whether a person has to do something."""
        return self.problem is not None or any(each.needs_somebody for each in self.sets)


@dataclass(frozen=True)
class Moment:
    """When it is looked.

    Attributes:
        now: with a time zone.
        awake: seconds that this computer has been at work since its start, without what it slept.
        remind_after: without a schedule, after that a backup is late.
    """

    now: datetime
    awake: float
    remind_after: timedelta

    @classmethod
    def at_present(cls, remind_after_days: int) -> Moment:
        """Now."""
        return cls(datetime.now(UTC), time.monotonic(), timedelta(days=remind_after_days))


def look(path: Path, store: Store, moment: Moment) -> RepositoryHealth:
    """How a repository and its sets are; nothing is changed, and no data are read."""
    try:
        repository = Repository.open(path)
        sets, damaged = repository.survey()
        free = free_space(path)
        machines = KnownMachines.of(repository)
    except (VdbackupError, OSError) as error:
        problem = from_os(error) if isinstance(error, OSError) else error
        return RepositoryHealth(path, problem=problem)
    found = [_with(of_set(each, store, free, moment), _machine(each, machines)) for each in sets]
    found += [_of_damaged(each) for each in damaged]
    there = {each.name for each in found}
    found += [
        _of_gone(name, path, store, machines)
        for name in sorted(_wanted(path, store, machines) - there)
    ]
    return RepositoryHealth(path, tuple(found), free=free)


def of_set(backup_set: BackupSet, store: Store, free: int | None, moment: Moment) -> SetHealth:
    """How a set is."""
    folder = backup_set.folder.parent
    schedule = store.find(folder.absolute(), backup_set.name)
    last_run = store.history_of(schedule.id).last if schedule else None
    captured = [point for point in backup_set.points if point.promoted_from is None]
    good = [point for point in captured if point.verified is None or point.verified.ok]
    last = good[-1] if good else None
    age = (moment.now - moment_of(last)).total_seconds() if last else None
    full_in = _full_in(backup_set, free, moment.now)
    verified = _last_held(point.verified for point in backup_set.points)
    boot_tested = _last_held(point.boot_tested for point in backup_set.points)
    rehearsals = [each.rehearsed for each in backup_set.points if each.rehearsed]
    held = [each for each in rehearsals if each.ok]
    findings = [
        *_broken(backup_set),
        *_logs(backup_set.folder, last),
        *_schedule(backup_set, store),
        *_run(last_run, last),  # before what comes of that
        *_age(backup_set, last, age, schedule, moment),
        *_unread(captured),
        *_checks(backup_set),
        *_merge(backup_set, schedule, store),
        *_not_followed_up(backup_set),
        *_space(full_in, free),
        *_unproven(backup_set, moment.now),
        *_long(backup_set),
    ]
    return SetHealth(
        backup_set.name,
        last,
        age,
        len(backup_set.points),
        _layers(backup_set),
        verified,
        boot_tested,
        full_in,
        schedule,
        last_run,
        tuple(sorted(findings, key=lambda finding: not finding.needs_somebody)),
        max(held, key=lambda each: each.at, default=None),
        max((each.proven for each in backup_set.points if each.proven), key=_parsed, default=""),
    )


def _of_damaged(damaged: DamagedSet) -> SetHealth:
    problem = damaged.problem
    sentence = tr(
        "It cannot be read: {problem} {advice}", problem=problem.title, advice=problem.advice
    ).rstrip()
    return SetHealth(damaged.name, findings=(Finding(Concern.UNREADABLE, sentence),))


def _broken(backup_set: BackupSet) -> list[Finding]:
    if not backup_set.broken:
        return []
    names = ", ".join(each.name for each in backup_set.broken)
    return [
        Finding(
            Concern.UNREADABLE,
            tr("What describes these points cannot be read: {names}.", names=names),
        )
    ]


def _logs(set_folder: Path, last: RecoveryPoint | None) -> list[Finding]:
    """Kept writes that nobody can read, which hold their points, or that ended too early."""
    try:
        logs = list(survey(set_folder))
    except OSError as error:
        problem = from_os(error)
        return [Finding(Concern.UNREADABLE, f"{problem.title} {problem.advice}".rstrip())]
    unread = [
        Finding(Concern.UNREADABLE, f"{each.problem} {each.advice}")
        for each in logs
        if isinstance(each, UnreadLog) and not each.left
    ]
    of_volume = [each for each in logs if isinstance(each, KeptLog) and each.protection.source]
    return [*unread, *(_ended_early(of_volume[-1], last) if of_volume else ())]


def _ended_early(newest: KeptLog, last: RecoveryPoint | None) -> list[Finding]:
    """That writes to a volume were to be kept on, and none are, since when no point was made."""
    record = newest.protection
    cut_off = newest.was_cut_off
    if not (record.ended_early or cut_off):
        return []
    since = _parsed(record.ended or record.since)
    made_since = last is not None and last.id != record.point and moment_of(last) >= since
    if made_since:
        return []
    why = RESTARTED if cut_off else record.why
    said = tr("Writes to {source} are no longer kept: {why}", source=record.source, why=why)
    return [Finding(Concern.WRITES_ENDED, said)]


def _age(
    backup_set: BackupSet,
    last: RecoveryPoint | None,
    age: float | None,
    schedule: Schedule | None,
    moment: Moment,
) -> list[Finding]:
    if last is None or age is None:
        what = tr("has no whole point") if backup_set.points else tr("has never been backed up")
        return [Finding(Concern.NO_POINTS, f"{backup_set.name} {what}.")]
    interval = schedule.timing.interval if schedule else None
    late_after = moment.remind_after
    if interval is not None:
        late_after = max(_GRACE * interval, late_after)
        # that the computer was off is no fault of anybody's
        overdue = min(age, moment.awake) > (_GRACE * interval).total_seconds()
    else:
        overdue = False
    if not overdue and age <= late_after.total_seconds():
        return []
    due = tr(", and is due {words}", words=schedule.timing.words) if schedule else ""
    sentence = tr(
        "The last good point, {last}, is {age} old{due}.",
        last=last.sequence,
        age=_in_words(age),
        due=due,
    )
    return [Finding(Concern.LATE, sentence)]


def _with(found: SetHealth, more: list[Finding]) -> SetHealth:
    return replace(found, findings=(*more, *found.findings))


def _of_gone(name: str, path: Path, store: Store, machines: KnownMachines) -> SetHealth:
    """Of a set that is to be there, and is not."""
    schedule = store.find(path.absolute(), name)
    last_run = store.history_of(schedule.id).last if schedule else None
    machine = machines.claiming(name)
    of_what = tr("It is a disk's of the machine {machine}", machine=machine.name) if machine else ""
    when = tr("It is backed up {words}", words=schedule.timing.words) if schedule else ""
    finding = Finding(
        Concern.NO_POINTS, tr("{of_what}, and there is no such set.", of_what=of_what or when)
    )
    return SetHealth(
        name, schedule=schedule, last_run=last_run, findings=(finding, *_run(last_run, None))
    )


def _wanted(path: Path, store: Store, machines: KnownMachines) -> set[str]:
    """The sets that machines and schedules back up."""
    scheduled = {each.set_name for each in store.schedules() if each.repository == path.absolute()}
    return scheduled.union(*(each.sets for each in machines.all))


def _machine(backup_set: BackupSet, machines: KnownMachines) -> list[Finding]:
    """A machine whose record is damaged is not backed up any more."""
    try:
        machines.with_set(backup_set)
    except RepositoryError as error:
        return [Finding(Concern.UNREADABLE, f"{error.title} {error.advice}".rstrip())]
    return []


def _schedule(backup_set: BackupSet, store: Store) -> list[Finding]:
    where = (backup_set.folder.parent.absolute(), backup_set.name)
    if store.is_damaged(*where):
        sentence = tr("Its schedule on this computer makes no sense any more: set it again.")
        return [Finding(Concern.UNREADABLE, sentence)]
    if store.history_is_damaged(schedule_id(*where)):
        sentence = tr(
            "How its last scheduled backups ended is not known any more: the record of that is "
            "damaged. The next is noted anew."
        )
        return [Finding(Concern.UNREADABLE, sentence)]
    return []


def _run(last: Run | None, good: RecoveryPoint | None) -> list[Finding]:
    """That the last one failed, unless a good point was made since: by hand, or elsewhere."""
    if last is None or last.outcome is not Outcome.FAILED:
        return []
    # a run notes whole seconds: a point of the same one may have been there before it
    if good is not None and moment_of(good) >= _parsed(last.ended) + timedelta(seconds=1):
        return []
    return [
        Finding(
            Concern.FAILED,
            tr("The last scheduled backup failed: {sentence}", sentence=last.sentence),
        )
    ]


def _merge(backup_set: BackupSet, schedule: Schedule | None, store: Store) -> list[Finding]:
    """That the last merge failed or had to leave something: after a backup, or at its own time."""
    last = store.last_merge(schedule.id) if schedule and schedule.merge_at else None
    if last is None or last.outcome not in (Outcome.FAILED, Outcome.WARNED):
        return _left(backup_set)
    if last.outcome is Outcome.FAILED:
        said = tr("The last scheduled merge failed: {sentence}", sentence=last.sentence)
    else:
        said = tr("The last scheduled merge met trouble: {sentence}", sentence=last.sentence)
    return [Finding(Concern.NOT_MERGED, said)]


def _left(backup_set: BackupSet) -> list[Finding]:
    """What the policy had to leave after the last backup; unknown points are said already."""
    left = backup_set.settings.unmerged
    if not left or backup_set.broken:
        return []
    said = tr("Not all that its policy lets go went: {left}", left=" ".join(left))
    return [Finding(Concern.NOT_MERGED, said)]


def _not_followed_up(backup_set: BackupSet) -> list[Finding]:
    """What went wrong after the last backup, and costs no point."""
    trouble = backup_set.settings.unfollowed
    if not trouble:
        return []
    said = tr("Not all could be done after the last backup: {trouble}", trouble=" ".join(trouble))
    return [Finding(Concern.NOT_FOLLOWED_UP, said)]


def _unread(captured: Sequence[RecoveryPoint]) -> list[Finding]:
    """That the source did not give all that was asked of it, when it was read last."""
    if not captured or not (ranges := captured[-1].unreadable):
        return []
    said = tr(
        "{size} of the source could not be read for point {point}: its disk may be failing.",
        size=readable_size(sum(length for _, length in ranges)),
        point=captured[-1].sequence,
    )
    return [Finding(Concern.UNREAD, said)]


def _checks(backup_set: BackupSet) -> list[Finding]:
    damaged = [each for each in backup_set.points if each.verified and not each.verified.ok]
    found = []
    if damaged:
        numbers = ", ".join(str(point.sequence) for point in damaged)
        points = tr("Point") if len(damaged) == 1 else tr("Points")
        found.append(
            Finding(
                Concern.DAMAGED,
                tr("{points} {numbers}: the data are damaged.", points=points, numbers=numbers),
            )
        )
    tested = [each for each in backup_set.points if each.boot_tested]
    if tested and (last := tested[-1]).boot_tested and not last.boot_tested.ok:
        sentence = tr(
            "Point {last}, the last one that was tested, does not boot.", last=last.sequence
        )
        found.append(Finding(Concern.NOT_BOOTING, sentence))
    return found


def _space(full_in: float | None, free: int | None) -> list[Finding]:
    if full_in is None or free is None or full_in > _SOON_FULL.total_seconds():
        return []
    sentence = tr(
        "If it goes on like this, the storage is full in {full_in}: {size} are free.",
        full_in=_in_words(full_in),
        size=readable_size(free),
    )
    return [Finding(Concern.SOON_FULL, sentence)]


def _unproven(backup_set: BackupSet, now: datetime) -> list[Finding]:
    """No point proven for long; a young set has time until then.

    Where none was ever boot-tested, there may be no system on it: a verification is all that is
    asked for.
    """
    points = backup_set.points
    if not points:
        return []
    if any(point.boot_tested for point in points):
        proofs = [point.proven for point in points if point.proven]
    else:
        proofs = [point.verified.at for point in points if point.verified and point.verified.ok]
    since = max(map(_parsed, proofs), default=moment_of(points[0]))
    if now - since <= _UNPROVEN:
        return []
    days = (now - since).days
    return [
        Finding(
            Concern.UNPROVEN,
            tr("Nothing has been proven of it for {days} days.", days=grouped(days)),
        )
    ]


def _long(backup_set: BackupSet) -> list[Finding]:
    sentence = long_chains.sentence(backup_set)
    return [Finding(Concern.LONG_CHAIN, sentence)] if sentence else []


def _full_in(backup_set: BackupSet, free: int | None, now: datetime) -> float | None:
    """Seconds until the storage is full by this set alone; None where nobody can say that.

    Where a policy merges points, what is stored does not add up; a full backup is made seldom, and
    says nothing of the next weeks.
    """
    if free is None or backup_set.settings.policy.takes:
        return None
    seen = [
        point
        for point in backup_set.points
        if point.promoted_from is None
        and point.type is not PointType.FULL
        and timedelta() <= now - moment_of(point) <= _SEEN
    ]
    if len(seen) < _FEWEST:
        return None
    time_seen = now - moment_of(seen[0])
    stored = sum(point.stored_bytes for point in seen)
    if time_seen < _SEEN_AT_LEAST or not stored:
        return None
    return free / stored * time_seen.total_seconds()


def _layers(backup_set: BackupSet) -> int:
    latest = backup_set.latest_captured()
    try:
        return len(backup_set.chain(latest)) if latest else 0
    except VdbackupError:
        return 0


def _last_held(checks: Iterable[Check | None]) -> str:
    held = [check.at for check in checks if check is not None and check.ok]
    return max(held, key=_parsed, default="")


def _parsed(moment: str) -> datetime:
    at = datetime.fromisoformat(moment)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _in_words(seconds: float) -> str:
    """A time for a person: "2 hours", "9 days"."""
    hours = int(seconds // 3600)
    if hours >= 48:
        return trn("{count} day", "{count} days", hours // 24)
    return trn("{count} hour", "{count} hours", hours)
