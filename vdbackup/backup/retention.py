"""Retention: merge or delete what a set's policy does not keep.

Of what is due (due.py) goes first, from the newest on, what nothing reads through: that is deleted.
Then each step takes the oldest that can go: one with a single child has that child rolled into it.
A point that several
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
    FileTooLarge,
    LockLost,
    NoSpace,
    PointInUse,
    RepositoryError,
    VdbackupError,
)
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr, trn

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
            in_use[point.id] = tr(
                "Point {point} stays for now: {error}", point=point.sequence, error=error.title
            )
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
    return Applied(tuple(done), (*uncounted, *_left(backup_set, damaged)))


def _next_to_go(backup_set: BackupSet, to_go: list[str]) -> RecoveryPoint | None:
    """The newest of these ids that nothing reads through, else the oldest that one point does.

    So a chain that goes as a whole is rolled into nothing, which takes time and space.
    """
    above = {each: len(backup_set.children(each)) for each in to_go}
    ends = (each for each in reversed(to_go) if above[each] == 0)
    found = next(ends, None) or next((each for each in to_go if above[each] == 1), None)
    return backup_set.point(found) if found else None


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
        tr(
            "Point {numbers} is damaged and does not count among those that are kept: {not_whole}",
            numbers=numbers,
            not_whole=not_whole[points[0].id],
        )
        if one
        else tr(
            "Points {numbers} are damaged and do not count among those that are kept: {not_whole}",
            numbers=numbers,
            not_whole=not_whole[points[0].id],
        )
    )
    return (sentence,)


def _last_copies(found: Due) -> list[str]:
    """One sentence on the points that stay for what they alone could read."""
    numbers = [str(point.sequence) for point in reversed(found.last_copies)]
    if not numbers:
        return []
    which = (
        tr("Point {number} stays: it holds", number=numbers[0])
        if len(numbers) == 1
        else (tr("Points {numbers} stay: they hold", numbers=", ".join(numbers)))
    )
    return [
        tr(
            "{which} what could not be read any more in the newer points that are kept.",
            which=which,
        )
    ]


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
    return (
        staying
        if more <= 0
        else [*staying[:_MAX_NAMED], tr("{more} more points stay for now.", more=more)]
    )


def untold(backup_set: BackupSet, wanted: Policy) -> str:
    """Why it cannot be told which points go if the set is to keep others; else "".

    While points are unknown nothing goes. When they are known again, more would than anybody could
    have been shown.
    """
    same = wanted.retention == backup_set.settings.policy.retention
    if same or not wanted.takes or not backup_set.broken:
        return ""
    names = ", ".join(each.name for each in backup_set.broken)
    return tr(
        "Which points of {backup_set} would go cannot be told while {names} cannot be read",
        backup_set=backup_set.name,
        names=names,
    )


_FOR_ALL = (LockLost, NoSpace)
"""Troubles that are not of one chain."""


def _went(point: RecoveryPoint, children: list[RecoveryPoint]) -> str:
    if children:
        return tr(
            "Point {children} was rolled into point {point}.",
            children=children[0].sequence,
            point=point.sequence,
        )
    return tr("Point {point} was deleted.", point=point.sequence)


def unknown_points(backup_set: BackupSet) -> str:
    """What is said of a set of which not every point is known."""
    names = ", ".join(each.name for each in backup_set.broken)
    if all(each.refused for each in backup_set.broken):
        return tr(
            "{backup_set} has manifests that may not be read: {names}. Until they can be, no "
            "older points are merged or deleted.",
            backup_set=backup_set.name,
            names=names,
        )
    return tr(
        "{backup_set} has damaged manifests: {names}. Until a repair of the repository has "
        "rebuilt them, no older points are merged or deleted.",
        backup_set=backup_set.name,
        names=names,
    )


def _left(backup_set: BackupSet, errors: dict[str, VdbackupError]) -> tuple[str, ...]:
    """What there is to say of the points that were due to go and could not, by ids."""
    too_large = {each: error for each, error in errors.items() if isinstance(error, FileTooLarge)}
    damaged = {each: error for each, error in errors.items() if each not in too_large}
    return (*_left_too_large(backup_set, too_large), *_left_damaged(backup_set, damaged))


def _left_too_large(backup_set: BackupSet, too_large: dict[str, FileTooLarge]) -> tuple[str, ...]:
    """One sentence on the points that no file has room for any more, however many there are."""
    numbers = [str(point.sequence) for point in backup_set.points if point.id in too_large]
    if not numbers:
        return ()
    sentence = trn(
        "Point {numbers} is due to go and stays: {reason} A new full backup begins another chain.",
        "Points {numbers} are due to go and stay: {reason} A new full backup begins another chain.",
        len(numbers),
        numbers=", ".join(numbers),
        reason=next(iter(too_large.values())).title,
    )
    return (sentence,)


def _left_damaged(backup_set: BackupSet, damaged: dict[str, VdbackupError]) -> tuple[str, ...]:
    """One sentence on all of them, however many there are."""
    if not damaged:
        return ()
    points = [point for point in backup_set.points if point.id in damaged]
    numbers = ", ".join(str(point.sequence) for point in points)
    reason = next(iter(damaged.values())).title
    newest = [point for point in points if not backup_set.children(point.id)]
    offer = (
        tr(
            " Nothing reads through point {newest}: if it cannot be mended, delete that one "
            "first, then those before it.",
            newest=newest[-1].sequence,
        )
        if newest
        else ""
    )
    plural = len(points) > 1
    sentence = (
        tr(
            "Points {numbers} are due to go and stay, because the chain is damaged: "
            "{reason}{offer}",
            numbers=numbers,
            reason=reason,
            offer=offer,
        )
        if plural
        else tr(
            "Point {numbers} is due to go and stays, because the chain is damaged: {reason}{offer}",
            numbers=numbers,
            reason=reason,
            offer=offer,
        )
    )
    return (sentence,)
