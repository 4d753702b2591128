"""Delete a recovery point.

A point that nothing reads through simply goes. One that a single later point reads through is what
that point needs: the later one is rolled into it, and only the moment goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdbackup.backup import merge
from vdbackup.errors import ChangedMeanwhile, NoSpace, PointNeeded, from_os
from vdbackup.jobs import Plan, Task
from vdbackup.repository import claims, holds, publication, registered
from vdbackup.repository.backup_set import BackupSet, point_files
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class DeletePlan(Plan):
    """What deleting `point_id` would do.

    Attributes:
        last: it is the last one of its set.
    """

    repository: Repository
    set_name: str
    point_id: str
    last: bool


def plan(repository: Repository, set_name: str, point_id: str) -> DeletePlan:
    """What deleting the point would do; raises BackupError if others need it."""
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    child = _only_child(backup_set, point)
    if child is None:
        summary = tr("Point {point} is deleted.", point=point.sequence)
        size = 0
    else:
        summary = tr(
            "Point {point} is deleted; point {child}, which reads through it, is rolled into "
            "its file and stays.",
            point=point.sequence,
            child=child.sequence,
        )
        size = child.stored_bytes
    last = len(backup_set.points) == 1
    if last:
        summary += tr(
            " It is the last point of {set_name}: no backup of the source remains.",
            set_name=set_name,
        )
    return DeletePlan(
        summary=summary,
        bytes_to_copy=size,
        replaces=tuple(path.name for path in point_files(backup_set.folder, point)),
        invalidates=(tr("point {point}", point=point.sequence),),
        hindrance=(
            merge.hindrance(backup_set, point, child) if child else hindrance(backup_set, point)
        ),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        last=last,
    )


def hindrance(backup_set: BackupSet, point: RecoveryPoint) -> str:
    """Why a point that nothing reads through cannot go now, in words; "" where nothing is known."""
    if kept := holds.hindrance(backup_set, point):
        return kept
    if read := claims.hindrance(backup_set, [point]):
        return tr("That cannot be now. {read}", read=read)
    error = registered.in_use(backup_set, [point])
    return (
        tr("That cannot be now. {error} {advice}", error=error.title, advice=error.advice)
        if error
        else ""
    )


def run(plan: DeletePlan, task: Task) -> None:
    """Delete the point."""
    repository = plan.repository
    with repository.lock(tr("deleting a point of {set_name}", set_name=plan.set_name), task.cancel):
        try:
            finished = merge.finish_interrupted(repository, plan.set_name, task)
        except (NoSpace, OSError) as error:
            if not _makes_space(repository.set(plan.set_name), plan.point_id, error):
                raise
            finished = None
        if finished and plan.point_id in finished.merged:
            return  # the merge that had been interrupted was what deleted it
        backup_set = repository.set(plan.set_name)
        check_shown(plan, last=len(backup_set.points) == 1)
        delete_locked(repository, backup_set, plan.point_id, task)


def check_shown(shown: DeletePlan, *, last: bool) -> None:
    """Raise ChangedMeanwhile where no backup would remain, and that was not said."""
    if last and not shown.last:
        raise none_would_remain(shown.set_name)


def none_would_remain(set_name: str) -> ChangedMeanwhile:
    """That others have deleted what was to stay, since the plan was shown."""
    return ChangedMeanwhile(
        tr("{set_name} has changed meanwhile: no backup would remain.", set_name=set_name),
        tr("Look at what it means now, and decide again."),
    )


def _makes_space(backup_set: BackupSet, point_id: str, error: Exception) -> bool:
    """Whether a merge waits for space that deleting this point, in which it has no part, gives."""
    full = isinstance(error, NoSpace) or (
        isinstance(error, OSError) and isinstance(from_os(error), NoSpace)
    )
    journal = backup_set.journal
    concerned = {journal.parent.id, journal.child.id} if journal else set()
    needed = {point.parent for point in (*backup_set.points, *backup_set.hidden)}
    return full and point_id not in concerned | needed


def delete_locked(
    repository: Repository,
    backup_set: BackupSet,
    point_id: str,
    task: Task,
    patience: float | None = None,
) -> RecoveryPoint | None:
    """Delete a point; the caller holds the lock, and has read the set under it.

    Returns:
        What the point became that was rolled into it; None where there was none.

    Raises PointInUse where somebody goes on using it after that many seconds (claims.py).
    """
    point = backup_set.point(point_id)
    child = _only_child(backup_set, point)
    if child is not None:
        return merge.merge_locked(repository, backup_set, child.id, task, patience).point
    task.check()
    holds.check_free(backup_set, [point])
    registered.check_free(backup_set, [point])
    with claims.changing(backup_set, [point], task.cancel, patience):
        holds.check_free(backup_set, [point])  # a session that began meanwhile
        publication.withdraw(backup_set.folder, point)
    return None


def _only_child(backup_set: BackupSet, point: RecoveryPoint) -> RecoveryPoint | None:
    backup_set.check_manifests()
    backup_set.check_not_pinned(point)
    children = backup_set.children(point.id)
    if len(children) > 1:
        numbers = ", ".join(str(child.sequence) for child in children)
        raise PointNeeded(
            tr(
                "Point {point} cannot be deleted: points {numbers} all read through it.",
                point=point.sequence,
                numbers=numbers,
            ),
            tr("Delete all but one of those first."),
        )
    return children[0] if children else None
