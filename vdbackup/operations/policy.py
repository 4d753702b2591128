"""A set's policy: changed without a backup, once it has been seen what that takes.

A change takes nothing itself. What goes does so after the set's next backup (backup/retention.py),
and after every one that follows. All sets of a machine have one policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from vdbackup.backup import forecast, machine_retention, proving, retention
from vdbackup.backup.forecast import Fate, Outcome, Outlook
from vdbackup.backup.machine_retention import Group
from vdbackup.errors import ChangedMeanwhile, PointsUnknown, Remedy
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.operations import writes_policy
from vdbackup.operations.changed import Changed
from vdbackup.operations.writes_policy import LogFate
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.repository.repository import Repository
from vdbackup.translation import grouped, tr, trn

ALL: Final = "all"
NEVER: Final = "never"
OFF: Final = "off"
Number = int | Literal["off"] | None
"""Of a rule: so much from now on, the rule no more, or as it is."""


@dataclass(frozen=True)
class Change:
    """What is to be another way from now on; None leaves it as it is.

    Attributes:
        keep: how many of the newest points, or ALL: then whatever the other rules were, they end.
        retarget: whether each new point is made ready to boot.
        boot_test: which new points are boot-tested.
        read_all_every: of how many backups of a tracked source one reads everything, or NEVER.
        index: whether the names of files in each new point are noted.
        keep_within, daily, weekly, monthly, yearly, at_most, at_most_bytes, keep_writes,
            moments_every, forget_moments: as `Policy` has them, or OFF.
    """

    keep: int | Literal["all"] | None = None
    retarget: bool | None = None
    boot_test: BootTests | None = None
    read_all_every: int | Literal["never"] | None = None
    index: bool | None = None

    keep_within: Number = None
    daily: Number = None
    weekly: Number = None
    monthly: Number = None
    yearly: Number = None
    at_most: Number = None
    at_most_bytes: Number = None
    keep_writes: Number = None
    moments_every: Number = None
    forget_moments: Number = None

    def of(self, policy: Policy) -> Policy:
        """The policy with this change; raises UsageError where not even one point is kept."""
        before = Policy() if self.keep == ALL else policy
        return Policy(
            keep=self.keep if isinstance(self.keep, int) else before.keep,
            retarget=policy.retarget if self.retarget is None else self.retarget,
            boot_test=policy.boot_test if self.boot_test is None else self.boot_test,
            read_all_every=self._read_all_every(policy.read_all_every),
            keep_within=_number(self.keep_within, before.keep_within),
            daily=_number(self.daily, before.daily),
            weekly=_number(self.weekly, before.weekly),
            monthly=_number(self.monthly, before.monthly),
            yearly=_number(self.yearly, before.yearly),
            at_most=_number(self.at_most, before.at_most),
            at_most_bytes=_number(self.at_most_bytes, before.at_most_bytes),
            keep_writes=_number(self.keep_writes, policy.keep_writes),
            moments_every=_number(self.moments_every, policy.moments_every),
            forget_moments=_number(self.forget_moments, policy.forget_moments),
            index=policy.index if self.index is None else self.index,
        )

    def _read_all_every(self, now: int | None) -> int | None:
        if self.read_all_every is None:
            return now
        return None if self.read_all_every == NEVER else self.read_all_every


def _number(wanted: Number, before: int | None) -> int | None:
    if wanted is None:
        return before
    return None if wanted == OFF else wanted


@dataclass(frozen=True, kw_only=True)
class PolicyPlan(Plan):
    """What a change of a set's policy would mean.

    Attributes:
        now: the policy as it is.
        wanted: as it would be.
        goes: what goes with the next backup because of the change: points, and of a machine's set
            moments and points of any of its disks.
        takes: the points of this set among that, by sequence.
        at: the moment as of which that was found out.
        fates: what becomes of each point with the next backup, by the policy as it would be.
        logs: what becomes of each log of kept writes then.
    """

    repository: Repository
    set_name: str
    change: Change
    now: Policy
    wanted: Policy
    goes: tuple[Group, ...]
    takes: tuple[RecoveryPoint, ...]
    at: datetime
    fates: tuple[Fate, ...]
    logs: tuple[LogFate, ...] = ()

    @property
    def thinned(self) -> tuple[LogFate, ...]:
        """The logs of which moments go with the next backup because of the change."""
        if self.wanted.writes == self.now.writes:
            return ()
        return tuple(each for each in self.logs if each.outcome is Outcome.GOES)


@dataclass(frozen=True)
class PolicyResult:
    """What a set does from now on.

    Attributes:
        sentences: what has been changed, a sentence each.
        changed: what is to be read again.
    """

    set_name: str
    policy: Policy
    sentences: tuple[str, ...]
    changed: Changed


def plan(repository: Repository, set_name: str | None, change: Change) -> PolicyPlan:
    """What a change would mean; for the only set there is where none is named.

    Raises:
        UsageError: not even one point would be kept.
        PointNotFound: there is no such set, or there are several.
        BackupError: it cannot be told what it would take.
    """
    backup_set = repository.set(set_name)
    now = backup_set.settings.policy
    wanted = change.of(now)
    sets = _sets_with(repository, backup_set)
    _check_told(sets, wanted)
    at = datetime.now(UTC)
    fates = foretold(repository, Outlook(backup_set), wanted, at)
    goes = _goes(repository, backup_set, wanted, at)
    takes = _points_of(backup_set, goes)
    summary = _changes(backup_set.name, now, wanted)
    if wanted.takes and _differs(sets, wanted):
        kept = f"{_kept_after_each(backup_set.name, wanted)} {_next_backup(backup_set, goes)}"
        summary = (kept, *summary[1:])
    logs = _logs(repository, sets, wanted, at)
    made = PolicyPlan(
        summary=" ".join(summary)
        or tr("The policy of {backup_set} stays as it is.", backup_set=backup_set.name),
        invalidates=tuple(group.name for group in goes),
        repository=repository,
        set_name=backup_set.name,
        change=change,
        now=now,
        wanted=wanted,
        goes=goes,
        takes=takes,
        at=at,
        fates=fates,
        logs=logs,
    )
    if not made.thinned:
        return made
    names = tuple(each.name for each in made.thinned)
    said = tr("The next backup takes {names}.", names=_listed(names))
    return replace(made, summary=f"{made.summary} {said}", invalidates=(*made.invalidates, *names))


def _logs(
    repository: Repository, sets: Iterable[str], wanted: Policy, at: datetime
) -> tuple[LogFate, ...]:
    """What becomes of the kept writes of some sets with a backup that is made then."""
    found = (writes_policy.foretold(repository, name, wanted, at) for name in sets)
    return tuple(each for fates in found for each in fates)


def run(plan: PolicyPlan, task: Task) -> PolicyResult:
    """Change the policy. What others have changed of it meanwhile stays.

    Raises BackupError where more would go by now than was shown, or that cannot be told.
    """
    repository, name = plan.repository, plan.set_name
    with repository.lock(tr("changing the policy of {name}", name=name), task.cancel):
        backup_set = repository.set(name)
        now = backup_set.settings.policy
        wanted = plan.change.of(now)
        sets = _sets_with(repository, backup_set)
        _check_told(sets, wanted)
        by_now = _goes(repository, backup_set, wanted, plan.at)
        if not _ids(by_now) <= _ids(plan.goes):
            raise ChangedMeanwhile(
                tr(
                    "{name} has changed meanwhile: more points would go than you were shown.",
                    name=name,
                ),
                tr("Look at what it means now, and decide again."),
            )
        if wanted.writes != now.writes:
            logs = _logs(repository, sets, wanted, plan.at)
            if not writes_policy.ids(logs) <= writes_policy.ids(plan.thinned):
                raise ChangedMeanwhile(
                    tr(
                        "The kept writes of {name} have changed meanwhile: more moments would go "
                        "than you were shown.",
                        name=name,
                    ),
                    tr("Look at what it means now, and decide again."),
                )
        for each in sets.values():
            if each.settings.policy != wanted:
                repository.set_policy(each.name, wanted)
    return PolicyResult(name, wanted, _changes(name, now, wanted), Changed.only(*sets))


def foretold(
    repository: Repository, outlook: Outlook, wanted: Policy, at: datetime
) -> tuple[Fate, ...]:
    """What becomes of each point of a set with the next backup by a policy, made then.

    Of a machine's set that is what becomes of its moments.
    """
    backup_set = outlook.backup_set
    fates = outlook.fates(wanted, at)
    machine = KnownMachines.of(repository).with_set(backup_set)
    if machine is None:
        return fates
    sets = {name: repository.set(name) for name in machine.sets}
    going = _ids(machine_retention.preview(machine, sets, wanted, at))
    return tuple(_with_others(fate, goes=fate.point.id in going) for fate in fates)


def _with_others(fate: Fate, *, goes: bool) -> Fate:
    """What becomes of a point that goes, or stays, with those of a machine's other disks."""
    if goes and fate.outcome is Outcome.STAYS:
        return replace(
            fate, outcome=Outcome.GOES, rules=(), why=tr("its moment goes, on all disks")
        )
    if not goes and fate.outcome is not Outcome.STAYS:
        why = tr("its moment stays, for another disk of the machine")
        return replace(fate, outcome=Outcome.STAYS, why=why, into=None)
    return fate


def _sets_with(repository: Repository, backup_set: BackupSet) -> dict[str, BackupSet]:
    """The sets whose policy that is, by name: those of a machine, or this one alone."""
    machine = KnownMachines.of(repository).with_set(backup_set)
    names = machine.sets if machine else (backup_set.name,)
    return {name: repository.set(name) for name in names}


def _differs(sets: Mapping[str, BackupSet], wanted: Policy) -> bool:
    """Whether any of these keeps other points now."""
    return any(each.settings.policy.retention != wanted.retention for each in sets.values())


def taken(
    repository: Repository, backup_set: BackupSet, wanted: Policy, at: datetime
) -> tuple[RecoveryPoint, ...]:
    """The moments that go with the next backup because the set is to keep others; as of then."""
    return _points_of(backup_set, _goes(repository, backup_set, wanted, at))


def thinned(
    repository: Repository, sets: Iterable[BackupSet], wanted: Policy, at: datetime
) -> tuple[str, ...]:
    """What of kept writes goes with a backup made then, because sets are to keep others of them."""
    names = [each.name for each in sets if each.settings.policy.writes != wanted.writes]
    fates = _logs(repository, names, wanted, at)
    return tuple(each.name for each in fates if each.outcome is Outcome.GOES)


def _goes(
    repository: Repository, backup_set: BackupSet, wanted: Policy, at: datetime
) -> tuple[Group, ...]:
    sets = _sets_with(repository, backup_set)
    if not _differs(sets, wanted):
        return ()
    machine = KnownMachines.of(repository).with_set(backup_set)
    if machine is not None:
        return machine_retention.preview(machine, sets, wanted, at)
    return tuple(
        Group(tr("point {point}", point=point.sequence), {backup_set.name: point})
        for point in forecast.taken(Outlook(backup_set).fates(wanted, at))
    )


def _points_of(backup_set: BackupSet, groups: Sequence[Group]) -> tuple[RecoveryPoint, ...]:
    points = [group.points[backup_set.name] for group in groups if backup_set.name in group.points]
    return tuple(sorted(points, key=lambda point: point.sequence))


def _ids(groups: Iterable[Group]) -> set[str]:
    return {point.id for group in groups for point in group.points.values()}


def _check_told(sets: Mapping[str, BackupSet], wanted: Policy) -> None:
    """Refuse to keep another number while points are unknown."""
    for backup_set in sets.values():
        if why := retention.untold(backup_set, wanted):
            raise PointsUnknown(
                f"{why}.",
                tr("Have it rebuilt from the disks, or put back a good copy."),
                remedy=Remedy.REPAIR,
            )


def _next_backup(backup_set: BackupSet, goes: Sequence[Group]) -> str:
    if not goes:
        return tr(
            "The next backup takes none yet: there are {count}.",
            count=grouped(len(backup_set.points)),
        )
    moments = tr("1 moment") if len(goes) == 1 else tr("{count} moments", count=grouped(len(goes)))
    return tr("The next backup takes {moments}; until then all stay.", moments=moments)


def _kept_after_each(name: str, wanted: Policy) -> str:
    if wanted.retention == Policy(wanted.keep):
        stay = trn("point stays", "{count} points stay", wanted.keep or 0)
        return tr(
            "After each backup of {name} its newest {stay}; older ones are merged or deleted.",
            name=name,
            stay=stay,
        )
    return tr(
        "After each backup {name} keeps {wanted}; others are merged or deleted.",
        name=name,
        wanted=in_words(wanted),
    )


def _changes(name: str, now: Policy, wanted: Policy) -> tuple[str, ...]:
    """What is another way, a sentence each; how many points are kept comes first."""
    sentences = []
    if wanted.retention != now.retention:
        sentences.append(_kept(name, wanted))
    if wanted.retarget != now.retarget:
        sentences.append(
            tr("Each new point of {name} is made ready to boot.", name=name)
            if wanted.retarget
            else tr(
                "New points of {name} are made ready to boot only when somebody asks for it.",
                name=name,
            )
        )
    if wanted.boot_test != now.boot_test:
        which = {BootTests.OFF: tr("No new point"), BootTests.EACH: tr("Each new point")}
        sentences.append(
            tr("{which} of {name} is boot-tested.", which=which[wanted.boot_test], name=name)
        )
    if wanted.index != now.index:
        sentences.append(
            tr("The names of files in each new point of {name} are noted for searches.", name=name)
            if wanted.index
            else tr("The names of files in {name} are noted when somebody searches.", name=name)
        )
    if wanted.read_all_every != now.read_all_every:
        every = wanted.read_all_every
        which_one = (
            tr("{every} backup of {name}", every=proving.nth(every), name=name)
            if every
            else tr("No backup of {name}", name=name)
        )
        sentences.append(
            tr(
                "{which_one}{which_one_2} reads everything as a proof, where its changes are "
                "tracked.",
                which_one=which_one[0].upper(),
                which_one_2=which_one[1:],
            )
        )
    if wanted.writes != now.writes:
        sentences.append(
            tr(
                "Of the writes kept beside {name} there stays: {wanted}.",
                name=name,
                wanted=writes_policy.in_words(wanted.writes),
            )
        )
    return tuple(sentences)


def _kept(name: str, wanted: Policy) -> str:
    if not wanted.takes:
        return tr("{name} keeps all its points.", name=name)
    if wanted.retention == Policy(wanted.keep):
        return trn(
            "{name} keeps its newest point alone, from its next backup on.",
            "{name} keeps its newest {count} points, from its next backup on.",
            wanted.keep or 0,
            name=name,
        )
    return tr("{name} keeps {wanted}, from its next backup on.", name=name, wanted=in_words(wanted))


def in_words(policy: Policy) -> str:
    """Which points stay, for a person."""
    parts = []
    if policy.keep is not None:
        parts.append(trn("the newest point", "the newest {count}", policy.keep))
    if policy.keep_within is not None:
        parts.append(
            tr("all points of the {keep_within}", keep_within=_hours_in_words(policy.keep_within))
        )
    numbers = [
        *(trn("{count} day", "{count} days", each) for each in _said(policy.daily)),
        *(trn("{count} week", "{count} weeks", each) for each in _said(policy.weekly)),
        *(trn("{count} month", "{count} months", each) for each in _said(policy.monthly)),
        *(trn("{count} year", "{count} years", each) for each in _said(policy.yearly)),
    ]
    if numbers:
        parts.append(tr("the newest of each of {numbers}", numbers=_listed(numbers)))
    said = _listed(parts) if parts else tr("all points")
    if policy.at_most:
        said = tr("{said}, {at_most} at most", said=said, at_most=_points(policy.at_most))
    if policy.at_most_bytes:
        size = readable_size(policy.at_most_bytes)
        said = tr("{said}, {size} together at most", said=said, size=size)
    return said


def _hours_in_words(hours: int) -> str:
    """Behind "the", in days where it is whole days: "last hour", "last 36 hours", "last 2 days"."""
    if hours % 24:
        return trn("last hour", "last {count} hours", hours)
    return trn("last day", "last {count} days", hours // 24)


def _said(rule: int | None) -> tuple[int, ...]:
    return () if rule is None else (rule,)


def _points(number: int | None) -> str:
    return trn("{count} point", "{count} points", number or 0)


def _listed(parts: Sequence[str]) -> str:
    return tr(" and ").join(filter(None, (", ".join(parts[:-1]), parts[-1])))
