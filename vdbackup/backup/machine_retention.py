"""Retention of a machine: the moments of its disks are kept, rolled up and deleted together.

It is as retention.py has it of one set, with moments in place of points, and by the same rules
(keeping.py): what counts is a moment that is whole, none of whose points is known to be damaged;
one stays that has a pinned point. Of what is older a moment goes where
each of its points can go; else all of them stay, and the next backup tries again. What is left of
a moment that is not whole counts for nothing, and goes when it is older than what is kept. What a
set held before it became a machine's goes as if each moment were a point of that set, too: so it
stays until there are as many moments as are to stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vdbackup.backup import delete, keeping, retention, whole_chains
from vdbackup.backup.due import last_readable, layer_of, moment_of, next_layer
from vdbackup.backup.keeping import Moment
from vdbackup.backup.moments import check_whole, hindrance
from vdbackup.backup.retention import Applied
from vdbackup.backup.whole_chains import Chains
from vdbackup.errors import (
    Damaged,
    DiskError,
    LockLost,
    NoSpace,
    PointInUse,
    RepositoryError,
)
from vdbackup.jobs import Task
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.machine import Machine, MomentPoints, moments
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True)
class Group:
    """Points that go together: a moment's, or one that belongs to none.

    Attributes:
        name: for sentences.
        points: by set.
    """

    name: str
    points: Mapping[str, RecoveryPoint]


def differing(policies: Mapping[str, Policy]) -> str:
    """What is said where the sets of a machine are not to keep the same points; else ""."""
    if len({each.retention for each in policies.values()}) <= 1:
        return ""
    return tr(
        "{policies} are not to keep the same points: until one policy is set for any of them, "
        "which is then that of all, no older ones are merged or deleted.",
        policies=", ".join(policies),
    )


def apply(repository: Repository, machine: Machine, task: Task) -> Applied:
    """Apply the machine's policy; the caller holds the lock."""
    sets = {name: repository.set(name) for name in machine.sets}
    unknown = [retention.unknown_points(each) for each in sets.values() if each.broken]
    if unknown:
        return Applied((), tuple(unknown))
    policies = {name: each.settings.policy for name, each in sets.items()}
    if said := differing(policies):
        return Applied((), (said,))
    policy = policies[machine.sets[0]]
    return _applied(repository, machine, sets, policy, task) if policy.takes else Applied((), ())


def _applied(
    repository: Repository,
    machine: Machine,
    sets: dict[str, BackupSet],
    policy: Policy,
    task: Task,
) -> Applied:
    chains = {name: Chains() for name in sets}
    done: list[str] = []
    staying: list[str] = []
    damaged: list[str] = []
    for group in _ends_first(due_now(machine, sets, policy, chains, datetime.now(UTC)), sets):
        # as they are by now: what was rolled into another has another parent
        points = {name: sets[name].point(point.id) for name, point in group.points.items()}
        went: list[str] = []
        try:
            if why := _check(sets, points, chains):
                staying.append(tr("{group} stays for now: {why}", group=group.name, why=why))
                continue
            for name, point in points.items():
                children = sets[name].children(point.id)
                gone = delete.delete_locked(repository, sets[name], point.id, task)
                above = [each for child in children for each in sets[name].children(child.id)]
                chains[name].forget([point, *children, *above])
                sets[name] = retention.after(sets[name], point, gone)
                went.append(name)
            done.append(tr("{group} is no longer kept.", group=group.name))
        except PointInUse as error:
            if any(map(repository.interrupted, points)):
                raise
            staying.append(
                tr(
                    "{group} was due to go, and {went} for now: {error}",
                    group=group.name,
                    went=_left(went),
                    error=error.title,
                )
            )
        except (DiskError, RepositoryError, Damaged) as error:
            interrupted = any(map(repository.interrupted, points))
            if isinstance(error, (LockLost, NoSpace)) or interrupted:
                raise
            damaged.append(
                tr(
                    "{group} was due to go, and {went}: {error}",
                    group=group.name,
                    went=_left(went),
                    error=error.title,
                )
            )
    return Applied((*done, *retention.first_of(staying)), tuple(damaged))


def _ends_first(groups: Sequence[Group], sets: Mapping[str, BackupSet]) -> list[Group]:
    """First those through which nothing else reads, the newest of them first (retention.py)."""
    ending: set[str] = set()
    ends, others = [], []
    for group in reversed(groups):
        points = group.points.items()
        on_it = {each.id for name, point in points for each in sets[name].children(point.id)}
        if on_it <= ending:
            ends.append(group)
            ending |= {point.id for _, point in points}
        else:
            others.append(group)
    return [*ends, *reversed(others)]


def _left(went: Sequence[str]) -> str:
    """What became of a group that did not go, or of some disks only."""
    return tr("is gone of {went} alone", went=", ".join(went)) if went else tr("stays")


def preview(
    machine: Machine, sets: Mapping[str, BackupSet], policy: Policy, now: datetime
) -> tuple[Group, ...]:
    """What is gone after one more backup by this policy, made now.

    What is in use, or damaged, may stay longer than is said here.
    """
    if not policy.takes or any(each.broken for each in sets.values()):
        return ()
    chains = {name: Chains() for name in sets}
    return tuple(due_now(machine, sets, policy, chains, now, after_next=True))


def due_now(
    machine: Machine,
    sets: Mapping[str, BackupSet],
    policy: Policy,
    chains: Mapping[str, Chains],
    now: datetime,
    *,
    after_next: bool = False,
) -> list[Group]:
    """What is to go by a policy, the oldest first.

    A moment stays of which a point holds what none that is kept could read (due.py).

    Args:
        machine: whose.
        sets: of its disks, by name.
        policy: not the machine's own, perhaps.
        chains: of each set.
        now: with a time zone.
        after_next: what there would be to go after one more backup, which is made now.
    """
    not_whole = {
        point_id: why
        for name, backup_set in sets.items()
        for point_id, why in whole_chains.damaged(backup_set, chains[name]).items()
    }
    every = moments(machine, sets.values())
    asked = {each.moment.id: _asked(each, sets, not_whole) for each in every}
    layers = tuple(next_layer(each) for each in sets.values())
    next_one = [Moment(machine.last_number + 1, now, layers=layers)] if after_next else []
    stays = {
        each.moment.number
        for each in keeping.decide([*asked.values(), *next_one], policy, now)
        if each.stays
    }
    kept = [each for each in every if each.moment.number in stays]
    of_moments = {point_id for each in every for point_id in each.moment.points}
    older: dict[str, list[RecoveryPoint]] = {}
    for name, backup_set in sets.items():
        alone = [point for point in _captured(backup_set) if point.id not in of_moments]
        row = [
            *_row(backup_set, every, asked),
            *(_asked_alone(backup_set, point, not_whole) for point in alone),
            *([Moment(backup_set.next_sequence(), now, layers=layers)] if after_next else []),
        ]
        going = {e.moment.number for e in keeping.decide(row, policy, now) if not e.stays}
        staying = {each.points[name].id for each in kept if name in each.points}
        older[name] = [
            point
            for point in _captured(backup_set)
            if point.id not in staying and (point.id in of_moments or point.sequence in going)
        ]
    held = {
        point.id
        for name, backup_set in sets.items()
        for point in _held(backup_set, older[name], not_whole)
    }
    lone = [
        Group(tr("Point {point} of {name}", point=point.sequence, name=name), {name: point})
        for name, points in older.items()
        for point in points
        if point.id not in held | of_moments
    ]
    together = [
        Group(tr("Moment {moment}", moment=each.moment.number), each.points)
        for each in every
        if each.moment.number not in stays and not held & _ids(each)
    ]
    return [*lone, *together]


def _asked(
    moment: MomentPoints, sets: Mapping[str, BackupSet], not_whole: Mapping[str, str]
) -> Moment:
    """A machine's moment as the rules see it."""
    return Moment(
        moment.moment.number,
        min(map(moment_of, moment.points.values())),
        counts=_counts(moment, not_whole),
        pinned=_is_pinned(moment, sets),
        layers=tuple(map(layer_of, moment.points.values())),
    )


def _asked_alone(
    backup_set: BackupSet, point: RecoveryPoint, not_whole: Mapping[str, str]
) -> Moment:
    """A point that belongs to no moment, as the rules see it."""
    return Moment(
        point.sequence,
        moment_of(point),
        counts=point.id not in not_whole,
        pinned=backup_set.pin(point) is not None,
        layers=(layer_of(point),),
    )


def _row(
    backup_set: BackupSet, every: Sequence[MomentPoints], asked: Mapping[str, Moment]
) -> list[Moment]:
    """The machine's moments by the numbers of a set's points of them, which are those in its row.

    So what the set held before stays as long as it would have without the machine.
    """
    return [
        replace(asked[each.moment.id], number=each.points[backup_set.name].sequence)
        for each in every
        if backup_set.name in each.points
    ]


def _is_pinned(moment: MomentPoints, sets: Mapping[str, BackupSet]) -> bool:
    return any(sets[name].pin(point) is not None for name, point in moment.points.items())


def _ids(moment: MomentPoints) -> set[str]:
    return {point.id for point in moment.points.values()}


def _counts(moment: MomentPoints, not_whole: Mapping[str, str]) -> bool:
    return not moment.missing and not any(map(not_whole.__contains__, _ids(moment)))


def _captured(backup_set: BackupSet) -> list[RecoveryPoint]:
    return [point for point in backup_set.points if point.promoted_from is None]


def _held(
    backup_set: BackupSet, older: Sequence[RecoveryPoint], not_whole: Mapping[str, str]
) -> list[RecoveryPoint]:
    going = {point.id for point in older}
    kept = [point for point in _captured(backup_set) if point.id not in going]
    return last_readable(older, kept, not_whole)


def _check(
    sets: Mapping[str, BackupSet],
    points: Mapping[str, RecoveryPoint],
    chains: Mapping[str, Chains],
) -> str:
    """Why these cannot go together now, in words; "" where they can. Raises what is damaged."""
    for name, point in points.items():
        backup_set = sets[name]
        if whole_chains.was_found_damaged(point):
            return tr(
                "the last verification found point {point} of {name} damaged.",
                point=point.sequence,
                name=name,
            )
        if len(backup_set.children(point.id)) > 1:
            return tr(
                "several points of {name} read through its point {point}.",
                name=name,
                point=point.sequence,
            )
        chains[name].check(backup_set, point)
        check_whole(backup_set, point)
        if why := hindrance(backup_set, point):
            return why
    return ""
