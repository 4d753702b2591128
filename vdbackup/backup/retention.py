"""Retention: keep the newest points of a set, roll up or delete the older ones.

Each step takes the oldest point that is no longer wanted and that can go: one that nothing reads
through is deleted, one with a single child has that child rolled into it. A point that several
others read through has to stay until they are gone, and one that is in use until that is over: the
next backup tries again. What was captured counts and expires; what was promoted from a session
stays until somebody deletes it, and so does the point that it was made on while others go on from
that, too.

What is known to be damaged does not count: a damaged newest point must not push out a whole one.
Nor does a point go that holds what no newer one that stays could read of a failing source: its
backups have zeros there, and it may be the only copy.
A chain that is damaged is left alone, its newest point too: nothing is merged across damage, and a
file that is put back makes it whole again. The others go on as if it were not there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from vdbackup.backup import delete
from vdbackup.errors import (
    Damaged,
    DiskError,
    LockLost,
    NoSpace,
    PointInUse,
    RepositoryError,
    StorageError,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import Policy, RecoveryPoint
from vdbackup.repository.repository import Repository

_MAX_NAMED = 3
Stretches = tuple[tuple[int, int], ...]


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
        return Applied((), (_unknown_points(backup_set),))
    keep = backup_set.settings.policy.keep
    chains = _Chains()
    not_whole = _damaged(backup_set, chains) if keep is not None else {}
    marked = {point.id: "" for point in backup_set.points if _was_found_damaged(point)}
    in_use: dict[str, str] = {}
    damaged: dict[str, VdbackupError] = {}
    while (
        point := _next_to_go(backup_set, not_whole, {**in_use, **damaged, **marked})
    ) is not None:
        children = backup_set.children(point.id)
        patience = 0.0 if in_use else None  # who reads one mostly reads through the next, too
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
            backup_set = _after(backup_set, point, result)
    done += [*_first(list(in_use.values())), *_held(backup_set, not_whole)]
    uncounted = _not_counted(backup_set, not_whole, damaged)
    return Applied(tuple(done), (*uncounted, *_left_damaged(backup_set, damaged)))


def _damaged(backup_set: BackupSet, chains: _Chains) -> dict[str, str]:
    """The points that are known not to be whole, by id, and why: nothing of their data is read.

    A point is what its layers are.
    """
    found: dict[str, str] = {}
    for point in backup_set.points:
        above = found.get(point.parent or "")
        if _was_found_damaged(point):
            found[point.id] = f"the last verification found point {point.sequence} damaged."
        elif above:
            found[point.id] = above
        else:
            try:
                chains.check(backup_set, point)
            except (DiskError, RepositoryError, Damaged) as error:
                found[point.id] = error.title
    return found


def _was_found_damaged(point: RecoveryPoint) -> bool:
    return point.verified is not None and not point.verified.ok


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


def _expired(backup_set: BackupSet, keep: int, not_whole: Container[str]) -> list[RecoveryPoint]:
    """What was captured before the newest `keep` whole points, and is held in them, too."""
    older, newer = _older_and_kept(backup_set, keep, not_whole)
    held = _last_readable(older, newer, not_whole)
    return [point for point in older if point not in held]


def _older_and_kept(
    backup_set: BackupSet, keep: int, not_whole: Container[str]
) -> tuple[list[RecoveryPoint], list[RecoveryPoint]]:
    """What was captured before the newest `keep` whole points, and from the first of them on."""
    captured = [point for point in backup_set.points if point.promoted_from is None]
    whole = [number for number, point in enumerate(captured) if point.id not in not_whole]
    if len(whole) < keep:
        return [], captured
    first = whole[-keep] if keep else len(captured)
    return captured[:first], captured[first:]


def _last_readable(
    older: Sequence[RecoveryPoint], kept: Sequence[RecoveryPoint], not_whole: Container[str]
) -> list[RecoveryPoint]:
    """Which of the older points hold what none of those that are kept has read, the newest first.

    Where none is kept, the next backup is taken to read as much as the newest did.
    """
    older = [point for point in older if point.id not in not_whole]
    kept = [point for point in kept if point.id not in not_whole] or older[-1:]
    held: list[RecoveryPoint] = []
    lost = kept[-1].unreadable if kept else ()
    for point in kept:
        lost = _in_both(lost, point.unreadable)
    for point in reversed(older):
        still = _in_both(lost, point.unreadable)
        if _size(still) < _size(lost):
            held.append(point)
            lost = still
    return held


def _in_both(one: Stretches, other: Stretches) -> Stretches:
    """What lies in both of two lists of (offset, length), in bytes, ascending."""
    found: list[tuple[int, int]] = []
    mine, theirs = sorted(one), sorted(other)
    while mine and theirs:
        (a, b), (c, d) = mine[-1], theirs[-1]
        start, end = max(a, c), min(a + b, c + d)
        if start < end:
            found.append((start, end - start))
        (mine if a > c else theirs).pop()  # from the end: what begins later is done with
    return tuple(reversed(found))


def _size(stretches: Stretches) -> int:
    return sum(length for _, length in stretches)


def _held(backup_set: BackupSet, not_whole: Container[str]) -> list[str]:
    """One sentence on the points that stay for what they alone could read."""
    keep = backup_set.settings.policy.keep
    if keep is None:
        return []
    held = _last_readable(*_older_and_kept(backup_set, keep, not_whole), not_whole)
    numbers = [str(point.sequence) for point in reversed(held)]
    if not numbers:
        return []
    which = (
        f"Point {numbers[0]} stays: it holds"
        if len(numbers) == 1
        else (f"Points {', '.join(numbers)} stay: they hold")
    )
    return [f"{which} what could not be read any more in the newer points that are kept."]


def _after(backup_set: BackupSet, gone: RecoveryPoint, result: RecoveryPoint | None) -> BackupSet:
    """The set without a point, and with what its child became that was rolled into it.

    Nobody else changes it under the lock, and reading it again for each point would read every
    manifest as often as there are points.
    """
    same = result.id if result else gone.id
    points = [point for point in backup_set.points if point.id not in (gone.id, same)]
    points += [result] if result else []
    points.sort(key=lambda point: point.sequence)
    return replace(backup_set, points=tuple(points))


class _Chains:
    """Which points' chains are whole: each layer is looked at once, not once for each above it."""

    def __init__(self) -> None:
        self._trouble: dict[str, VdbackupError | None] = {}

    def check(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """Raise DiskError, RepositoryError or Damaged as `BackupSet.open_chain` does."""
        known = point.parent is None or point.parent in self._trouble
        for layer in [point] if known else backup_set.chain(point):
            if layer.id not in self._trouble:
                below = self._trouble.get(layer.parent) if layer.parent else None
                self._trouble[layer.id] = below or self._of(backup_set, layer, point)
        if (error := self._trouble[point.id]) is not None:
            raise error

    def _of(
        self, backup_set: BackupSet, layer: RecoveryPoint, point: RecoveryPoint
    ) -> VdbackupError | None:
        """What is wrong with a layer itself."""
        try:
            backup_set.check_layer(layer, point)
            backup_set.check_link(layer)
        except (DiskError, RepositoryError, Damaged) as error:
            return error
        except OSError as error:
            if not backup_set.folder.exists():  # not this layer alone: the storage is gone
                raise
            trouble = from_os(error)
            if isinstance(trouble, RepositoryError):
                return trouble
            return StorageError(trouble.title, trouble.advice)
        return None

    def forget(self, points: Iterable[RecoveryPoint]) -> None:
        """These have been changed, or linked anew."""
        for point in points:
            self._trouble.pop(point.id, None)


def _first(staying: list[str]) -> list[str]:
    """What stays, without a sentence for each of very many."""
    more = len(staying) - _MAX_NAMED
    return staying if more <= 0 else [*staying[:_MAX_NAMED], f"{more} more points stay for now."]


def untold(backup_set: BackupSet, wanted: Policy) -> str:
    """Why it cannot be told which points go if the set is to keep another number; else "".

    While points are unknown nothing goes. When they are known again, more would than anybody could
    have been shown.
    """
    if wanted.keep in (None, backup_set.settings.policy.keep) or not backup_set.broken:
        return ""
    names = ", ".join(each.name for each in backup_set.broken)
    return f"Which points of {backup_set.name} would go cannot be told while {names} cannot be read"


def preview(backup_set: BackupSet, keep: int | None) -> tuple[RecoveryPoint, ...]:
    """The moments that are gone after the next backup, if the set then keeps `keep` points.

    What several points read through stays as long as they do, and so does what is damaged, which
    does not count. What a virtual machine needs may stay longer than is said here, and nothing else
    goes.
    """
    if keep is None or backup_set.broken:
        return ()
    chains = _Chains()
    not_whole = _damaged(backup_set, chains)
    captured = [point for point in backup_set.points if point.promoted_from is None]
    # of those that count the next backup is one
    due = _expired(backup_set, keep - 1, not_whole)
    torn = _torn(backup_set, chains)
    expired = {p.id: p for p in due if p.id not in torn and not _was_found_damaged(p)}
    above = {point.id: point.parent for point in backup_set.points}
    if captured and captured[-1].id not in not_whole:
        above[_NEXT] = captured[-1].id  # as an incremental's would be
    below: dict[str | None, set[str]] = {}
    for name, parent in above.items():
        below.setdefault(parent, set()).add(name)
    gone: list[RecoveryPoint] = []
    for name in expired:
        if torn & below.get(name, set()):
            below[name].add(_STAYING)  # a damaged one is rolled into nothing
    while may_go := [name for name in expired if len(below.get(name, ())) <= 1]:
        for name in may_go:
            gone.append(expired.pop(name))
            parent = above[name]
            for child in below.pop(name, ()):  # it is rolled into the point, and stands there
                above[child] = parent
                below[parent].add(child)
            below[parent].discard(name)
    return tuple(sorted(gone, key=lambda point: point.sequence))


def _torn(backup_set: BackupSet, chains: _Chains) -> set[str]:
    """The points in whose chains a file is not as it should be: with them nothing is done."""
    torn = set()
    for point in backup_set.points:
        try:
            chains.check(backup_set, point)
        except VdbackupError:
            torn.add(point.id)
    return torn


_NEXT, _STAYING = "", "staying"  # no points have these ids


_FOR_ALL = (LockLost, NoSpace)
"""Troubles that are not of one chain."""


def _went(point: RecoveryPoint, children: list[RecoveryPoint]) -> str:
    if children:
        return f"Point {children[0].sequence} was rolled into point {point.sequence}."
    return f"Point {point.sequence} was deleted."


def _unknown_points(backup_set: BackupSet) -> str:
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


def _next_to_go(
    backup_set: BackupSet, not_whole: Container[str], staying: Container[str]
) -> RecoveryPoint | None:
    keep = backup_set.settings.policy.keep
    if keep is None:
        return None
    expired = _expired(backup_set, keep, not_whole)
    return next(
        (
            point
            for point in expired
            if point.id not in staying and len(backup_set.children(point.id)) <= 1
        ),
        None,
    )
