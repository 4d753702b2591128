"""Several points at once: a range rolled into one, or several deleted, one after the other.

All of it is planned and shown before; each step is then an operation like any other. What stops
one (a storage that fails, a cancel) leaves those before it done, and the rest as they were. Once
one is done, whoever writes to the repository between two of them is waited for: to begin all of it
anew would ask for points that are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TypeVar

from vdbackup.backup import merge as one_merge
from vdbackup.backup import moments
from vdbackup.backup.delete import none_would_remain
from vdbackup.disks.host_file import can_clone
from vdbackup.errors import (
    Cancelled,
    ChangedMeanwhile,
    NotMergeable,
    RepositoryLocked,
    UsageError,
    VdbackupError,
)
from vdbackup.jobs import Plan, Task, retry_when_cleared
from vdbackup.operations import delete, merge
from vdbackup.operations.changed import Changed
from vdbackup.operations.delete import DeleteMomentPlan, DeletePlan
from vdbackup.operations.merge import MergeMomentPlan, MergePlan, MergeResult
from vdbackup.repository.backup_set import BackupSet, point_files
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Patience:
    """What is waited for between two steps.

    Attributes:
        seconds: at most, for each step.
        of: the errors that are waited for.
    """

    seconds: float = math.inf
    of: type[VdbackupError] = RepositoryLocked


USUAL = Patience()


@dataclass(frozen=True, kw_only=True)
class MergeRangePlan(Plan):
    """What rolling a range of points into one would do.

    Attributes:
        steps: what is rolled into its parent, the oldest first.
    """

    repository: Repository
    set_name: str
    steps: tuple[MergePlan | MergeMomentPlan, ...]


@dataclass(frozen=True, kw_only=True)
class DeleteSeveralPlan(Plan):
    """What deleting several points would do.

    Attributes:
        ids: of the points, in the order in which they go.
        takes_all: no backup remains.
    """

    repository: Repository
    set_name: str
    ids: tuple[str, ...]
    takes_all: bool


@dataclass(frozen=True)
class DeletedSeveral:
    """What was deleted.

    Attributes:
        ids: of the points that are gone.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    ids: tuple[str, ...]
    changed: Changed
    trouble: tuple[VdbackupError, ...]


def plan_merge(repository: Repository, set_name: str, ids: Collection[str]) -> MergeRangePlan:
    """What rolling these points, and those between them, into the newest one's moment would do.

    Raises:
        UsageError: there are not two of them.
        NotMergeable: they do not all lie on the newest one's chain.
        BackupError: what merging two of them would.
    """
    backup_set = repository.set(set_name)
    path = _range(backup_set, [backup_set.point(each) for each in ids])
    steps = tuple(merge.plan(repository, set_name, point.id) for point in path[1:])
    return MergeRangePlan(
        summary=_merged(path, steps),
        bytes_to_copy=sum(step.bytes_to_copy for step in steps),
        replaces=_once(name for step in steps for name in step.replaces),
        invalidates=_once(name for step in steps for name in step.invalidates),
        hindrance=next((step.hindrance for step in steps if step.hindrance), ""),
        repository=repository,
        set_name=set_name,
        steps=steps,
    )


def _range(backup_set: BackupSet, points: Sequence[RecoveryPoint]) -> list[RecoveryPoint]:
    """From the oldest of them to the newest, along the newest one's chain."""
    if len(points) < 2:
        raise UsageError(
            tr("A range has two points at least."), tr("Choose its first point and its last.")
        )
    wanted = {point.id for point in points}
    path: list[RecoveryPoint] = []
    at: RecoveryPoint | None = max(points, key=lambda point: point.sequence)
    while at is not None:
        path.append(at)
        wanted.discard(at.id)
        if not wanted:
            return path[::-1]
        at = backup_set.point(at.parent) if at.parent else None
    beside = sorted(point.sequence for point in points if point.id in wanted)
    raise NotMergeable(
        tr(
            "Point {newest} does not read through {points}: they are no range.",
            newest=path[0].sequence,
            points=_numbers(beside),
        ),
        tr("Choose points that follow each other on one chain."),
    )


def _merged(path: Sequence[RecoveryPoint], steps: Sequence[MergePlan | MergeMomentPlan]) -> str:
    if any(isinstance(step, MergeMomentPlan) for step in steps):
        return " ".join(step.summary for step in steps)
    copied = any(step.bytes_to_copy for step in steps)
    return tr(
        "Points {first} to {last}, {count} of them, are rolled into one that stands for the moment "
        "of point {last}; the others' moments are no longer kept. {how}",
        first=path[0].sequence,
        last=path[-1].sequence,
        count=len(path),
        how=one_merge.COPIES if copied else one_merge.SHARES,
    )


def merge_range(
    plan: MergeRangePlan, sessions_folder: Path, task: Task, patience: Patience = USUAL
) -> MergeResult:
    """Roll the range into one; what the last step did, and what all of them have changed.

    Raises ChangedMeanwhile where the points do not follow each other any more as they were shown,
    and what a merge does.
    """

    def rolled(shown: MergePlan | MergeMomentPlan, task: Task) -> MergeResult:
        now = merge.plan(plan.repository, plan.set_name, _child(shown))
        if _parents(now) != _parents(shown):
            raise ChangedMeanwhile(
                tr("{set_name} has changed meanwhile.", set_name=plan.set_name),
                tr("Look at the recovery points again before you merge."),
            )
        return merge.run(now, sessions_folder, task)

    done = _in_turn(plan.steps, rolled, task, patience)
    last = done[-1]
    changed, trouble = last.changed, tuple(each for result in done for each in result.trouble)
    return MergeResult(last.repository, last.set_name, last.point, last.way, changed, trouble)


def _in_turn(
    steps: Sequence[T], do: Callable[[T, Task], R], task: Task, patience: Patience
) -> list[R]:
    """Do each step, and what it did; who is in the way of the first one is not waited for.

    What stops a later one says how many are done.
    """
    done: list[R] = []
    for step in steps:
        doing = partial(do, step)
        try:
            task.check()
            waiting = retry_when_cleared(doing, patience.seconds, of=patience.of)
            done.append(waiting(task) if done else doing(task))
        except VdbackupError as error:
            if done:
                _say_done(error, len(done), len(steps))
            raise
    return done


def _say_done(error: VdbackupError, done: int, count: int) -> None:
    before = error.left if isinstance(error, Cancelled) else error.advice
    said = tr(
        "{before} Done, and not undone: {done} of {count} steps.",
        before=before,
        done=done,
        count=count,
    )
    error.advice = said.strip()
    if isinstance(error, Cancelled):
        error.left = error.advice


def _child(step: MergePlan | MergeMomentPlan) -> str:
    if isinstance(step, MergeMomentPlan):
        return step.moment.points[step.set_name].id
    return step.child_id


def _parents(step: MergePlan | MergeMomentPlan) -> dict[str, str]:
    """By the ids of what is rolled: what it is rolled into takes over its id, and so stays told."""
    steps = step.steps if isinstance(step, MergeMomentPlan) else (step,)
    return {each.child_id: each.parent_id for each in steps}


def plan_delete(repository: Repository, set_name: str, ids: Collection[str]) -> DeleteSeveralPlan:
    """What deleting these points would do; raises what deleting one of them would."""
    backup_set = repository.set(set_name)
    points = sorted((backup_set.point(each) for each in ids), key=lambda point: point.sequence)
    if KnownMachines.of(repository).with_set(backup_set) is None:
        going = _alone(repository, backup_set, points)
    else:
        steps = tuple(delete.plan(repository, set_name, point.id) for point in points)
        going = _with_moments(backup_set, points, steps)
    return DeleteSeveralPlan(
        summary=_deleted(backup_set, points, rolls=going.rolls),
        bytes_to_copy=going.copies,
        replaces=going.replaces,
        invalidates=going.invalidates,
        hindrance=going.hindrance,
        repository=repository,
        set_name=set_name,
        ids=going.order,
        takes_all=len(points) == len(backup_set.points),
    )


def _deleted(backup_set: BackupSet, points: Sequence[RecoveryPoint], *, rolls: bool) -> str:
    numbers = _numbers([point.sequence for point in points])
    said = tr("{points} are deleted.", points=f"{numbers[:1].upper()}{numbers[1:]}")
    if rolls:
        said += tr(" What reads through them is rolled into their files, and stays.")
    if len(points) == len(backup_set.points):
        said += tr(
            " They are the last points of {set_name}: no backup of the source remains.",
            set_name=backup_set.name,
        )
    return said


@dataclass(frozen=True)
class _Going:
    """In which order points go, and what that costs.

    Attributes:
        order: their ids.
        copies: bytes, at most.
        rolls: something that stays is rolled into one of them.
    """

    order: tuple[str, ...]
    copies: int
    rolls: bool
    replaces: tuple[str, ...]
    invalidates: tuple[str, ...]
    hindrance: str


def _alone(
    repository: Repository, backup_set: BackupSet, points: Sequence[RecoveryPoint]
) -> _Going:
    """First what nothing reads through, then the oldest that one does: so least is copied."""
    ids = [point.id for point in points]
    order, needed = order_of_going({each.id: each.parent for each in backup_set.points}, ids)
    if needed:
        delete.plan(repository, backup_set.name, needed[0])  # says who needs it
        order = (*order, *((each, None) for each in needed))  # or not any more
    size = {point.id: point.stored_bytes for point in backup_set.points}
    waiting, copies, rolls = set(ids), 0, False
    for going, child in order:
        waiting.discard(going)
        if child is None:
            continue
        if not can_clone(backup_set.disk_path(backup_set.point(going))):
            copies += size[child]
        size[child] += size[going]
        rolls |= child not in waiting
    for point in points:
        backup_set.check_not_pinned(point)
    found = (moments.hindrance(backup_set, point) for point in points)
    files = (path for point in points for path in point_files(backup_set.folder, point))
    return _Going(
        order=tuple(each for each, _ in order),
        copies=copies,
        rolls=rolls,
        replaces=tuple(path.name for path in files),
        invalidates=tuple(tr("point {point}", point=point.sequence) for point in points),
        hindrance=next(filter(None, found), ""),
    )


def order_of_going(
    parents: Mapping[str, str | None], going: Sequence[str]
) -> tuple[tuple[tuple[str, str | None], ...], tuple[str, ...]]:
    """In which order points can be deleted, so that least is copied.

    Args:
        parents: of every point of the set.
        going: ids of those to delete, the oldest first.

    Returns:
        Each that can go, with what is then rolled into its file, None where nothing is; and those
        that cannot, as several that stay read through them.
    """
    place = {each: number for number, each in enumerate(going)}
    above: dict[str | None, set[str]] = {}
    for each, parent in parents.items():
        above.setdefault(parent, set()).add(each)
    order: list[tuple[str, str | None]] = []
    ends = [-number for each, number in place.items() if not above.get(each)]
    heapify(ends)
    while ends:
        end = going[-heappop(ends)]
        order.append((end, None))
        parent = parents[end]
        above[parent].discard(end)
        if parent in place and not above[parent]:
            heappush(ends, -place[parent])
    ended = {each for each, _ in order}
    rest = [each for each in going if each not in ended]
    # what is rolled into a point's file stands there: nobody has more, or fewer, above it by that
    order += [(each, next(iter(above[each]))) for each in rest if len(above[each]) == 1]
    return tuple(order), tuple(each for each in rest if len(above[each]) > 1)


def _with_moments(
    backup_set: BackupSet,
    points: Sequence[RecoveryPoint],
    steps: Sequence[DeletePlan | DeleteMomentPlan],
) -> _Going:
    """Of a machine's disk, with the moments that they belong to: what each of them alone needs."""
    above = {each.id: each.parent for each in backup_set.points}
    # no step is planned of what several read through
    order, _ = order_of_going(above, [point.id for point in points])
    rolled = {each for each, child in order if child is not None}
    copies = [step.bytes_to_copy for step in steps if step.point_id in rolled]
    return _Going(
        order=tuple(each for each, _ in order),
        copies=sum(copies),
        rolls=any(copies),
        replaces=_once(name for step in steps for name in step.replaces),
        invalidates=_once(name for step in steps for name in step.invalidates),
        hindrance=next((step.hindrance for step in steps if step.hindrance), ""),
    )


def delete_several(
    plan: DeleteSeveralPlan, sessions_folder: Path, task: Task, patience: Patience = USUAL
) -> DeletedSeveral:
    """Delete the points; raises what deleting one of them does."""

    def deleted(point_id: str, task: Task) -> delete.DeleteResult:
        now = delete.plan(plan.repository, plan.set_name, point_id)
        if now.last and not plan.takes_all:
            raise none_would_remain(plan.set_name)
        return delete.run(now, sessions_folder, task)

    gone = _in_turn(plan.ids, deleted, task, patience)
    trouble = tuple(each for result in gone for each in result.trouble)
    return DeletedSeveral(plan.ids, gone[-1].changed, trouble)


def _numbers(numbers: Sequence[int]) -> str:
    """For a person: "point 3", "points 3, 4 and 9"."""
    if len(numbers) == 1:
        return tr("point {number}", number=numbers[0])
    return tr(
        "points {numbers} and {last}",
        numbers=", ".join(map(str, numbers[:-1])),
        last=numbers[-1],
    )


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
