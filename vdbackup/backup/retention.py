"""Retention: merge or delete what a set's policy does not keep.

Each step takes the oldest point that is due (due.py) and that can go: one that nothing reads
through is deleted, one with a single child has that child rolled into it. A point that several
others read through has to stay until they are gone, and one that is in use until that is over: the
next backup tries again. So does the point that a promoted one was made on, while others go on from
that, too. What forecast.py foretells is what is done here.

A chain that is damaged is left alone, its newest point too: nothing is merged across damage, and a
file that is put back makes it whole again. The others go on as if it were not there.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vdbackup.backup import delete, whole_chains
from vdbackup.backup.due import Due, due
from vdbackup.backup.whole_chains import Chains
from vdbackup.errors import (
    Damaged,
    DiskError,
    LockLost,
    NoSpace,
    PointInUse,
    RepositoryError,
    VdbackupError,
)
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import Policy, RecoveryPoint
from vdbackup.repository.repository import Repository

_MAX_NAMED = 3


@dataclass(frozen=True)
class Applied:
    """What a policy did, a sentence each, and what it had to leave because it is damaged."""

    done: tuple[str, ...]
    damaged: tuple[str, ...]


def apply(repository: Repository, set_name: str, task: Task) -> Applied:
    """Apply the set's policy; the caller holds the lock."""
    done: list[str] = []
    backup_set = repository.set(set_name)
    if backup_set.broken:
        return Applied((), (unknown_points(backup_set),))
    policy = backup_set.settings.policy
    if not policy.takes:
        return Applied((), ())
    chains = Chains()
    not_whole = whole_chains.damaged(backup_set, chains)
    found = due(backup_set, policy, not_whole, datetime.now(UTC))
    # what goes makes no other point due, nor lets one stay that was
    to_go = [each.id for each in found.points if not whole_chains.was_found_damaged(each)]
    in_use: dict[str, str] = {}
    damaged: dict[str, VdbackupError] = {}
    while (point := _next_to_go(backup_set, to_go)) is not None:
        children = backup_set.children(point.id)
        patience = 0.0 if in_use else None  # who reads one mostly reads through the next, too
        to_go.remove(point.id)
        try:
            if in_use and (error := claims.in_use(backup_set, [point, *children])):
                raise error
            chains.check(backup_set, point)
            result = delete.delete_locked(repository, backup_set, point.id, task, patience)
        except PointInUse as error:
            if repository.interrupted(set_name):  # somebody came when it had begun (claims.py)
                raise
            in_use[point.id] = f"Point {point.sequence} stays for now: {error.title}"
        except (DiskError, RepositoryError, Damaged) as error:
            if isinstance(error, _FOR_ALL) or repository.interrupted(set_name):
                raise
            damaged[point.id] = error
        else:
            done.append(_went(point, children))
            above = [each for child in children for each in backup_set.children(child.id)]
            chains.forget([point, *children, *above])
            backup_set = after(backup_set, point, result)
    done += [*first_of(list(in_use.values())), *_last_copies(found)]
    uncounted = _not_counted(backup_set, not_whole, damaged)
    return Applied(tuple(done), (*uncounted, *_left_damaged(backup_set, damaged)))


def _next_to_go(backup_set: BackupSet, to_go: list[str]) -> RecoveryPoint | None:
    """The oldest of these ids that at most one point reads through."""
    found = (each for each in to_go if len(backup_set.children(each)) <= 1)
    return next((backup_set.point(each) for each in found), None)


def _not_counted(
    backup_set: BackupSet, not_whole: dict[str, str], due: Container[str]
) -> tuple[str, ...]:
    """One sentence on the damaged points that are kept beside those that count."""
    captured = [point for point in backup_set.points if point.promoted_from is None]
    points = [each for each in captured if each.id in not_whole and each.id not in due]
    if not points:
        return ()
    numbers = ", ".join(str(point.sequence) for point in points)
    one = len(points) == 1
    sentence = (
        f"Point{'' if one else 's'} {numbers} {'is' if one else 'are'} damaged and "
        f"{'does' if one else 'do'} not count among those that are kept: {not_whole[points[0].id]}"
    )
    return (sentence,)


def _last_copies(found: Due) -> list[str]:
    """One sentence on the points that stay for what they alone could read."""
    numbers = [str(point.sequence) for point in reversed(found.last_copies)]
    if not numbers:
        return []
    which = (
        f"Point {numbers[0]} stays: it holds"
        if len(numbers) == 1
        else (f"Points {', '.join(numbers)} stay: they hold")
    )
    return [f"{which} what could not be read any more in the newer points that are kept."]


def after(backup_set: BackupSet, gone: RecoveryPoint, result: RecoveryPoint | None) -> BackupSet:
    """The set without a point, and with what its child became that was rolled into it.

    Nobody else changes it under the lock, and reading it again for each point would read every
    manifest as often as there are points.
    """
    same = result.id if result else gone.id
    points = [point for point in backup_set.points if point.id not in (gone.id, same)]
    points += [result] if result else []
    points.sort(key=lambda point: point.sequence)
    return replace(backup_set, points=tuple(points))


def first_of(staying: list[str]) -> list[str]:
    """What stays, without a sentence for each of very many."""
    more = len(staying) - _MAX_NAMED
    return staying if more <= 0 else [*staying[:_MAX_NAMED], f"{more} more points stay for now."]


def untold(backup_set: BackupSet, wanted: Policy) -> str:
    """Why it cannot be told which points go if the set is to keep others; else "".

    While points are unknown nothing goes. When they are known again, more would than anybody could
    have been shown.
    """
    same = wanted.retention == backup_set.settings.policy.retention
    if same or not wanted.takes or not backup_set.broken:
        return ""
    names = ", ".join(each.name for each in backup_set.broken)
    return f"Which points of {backup_set.name} would go cannot be told while {names} cannot be read"


_FOR_ALL = (LockLost, NoSpace)
"""Troubles that are not of one chain."""


def _went(point: RecoveryPoint, children: list[RecoveryPoint]) -> str:
    if children:
        return f"Point {children[0].sequence} was rolled into point {point.sequence}."
    return f"Point {point.sequence} was deleted."


def unknown_points(backup_set: BackupSet) -> str:
    """What is said of a set of which not every point is known."""
    names = ", ".join(each.name for each in backup_set.broken)
    if all(each.refused for each in backup_set.broken):
        return (
            f"{backup_set.name} has manifests that may not be read: {names}. Until they can be, no "
            "older points are merged or deleted."
        )
    return (
        f"{backup_set.name} has damaged manifests: {names}. Until a repair of the repository has "
        "rebuilt them, no older points are merged or deleted."
    )


def _left_damaged(backup_set: BackupSet, damaged: dict[str, VdbackupError]) -> tuple[str, ...]:
    """One sentence on all of them, however many there are."""
    if not damaged:
        return ()
    points = [point for point in backup_set.points if point.id in damaged]
    numbers = ", ".join(str(point.sequence) for point in points)
    reason = next(iter(damaged.values())).title
    newest = [point for point in points if not backup_set.children(point.id)]
    offer = (
        f" Nothing reads through point {newest[-1].sequence}: if it cannot be mended, delete that "
        "one first, then those before it."
        if newest
        else ""
    )
    plural = len(points) > 1
    sentence = (
        f"Point{'s' if plural else ''} {numbers} {'are' if plural else 'is'} due to go and "
        f"stay{'' if plural else 's'}, because the chain is damaged: {reason}{offer}"
    )
    return (sentence,)
