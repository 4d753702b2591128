"""Merge and delete a moment of a machine: the points of all its disks, together or none of them.

All are looked at before the first of them changes, under one lock. What stops it after that (a
storage that fails, a cancel between two disks) leaves a moment that is not whole, and is shown so;
to do it again does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vdbackup.backup import delete, merge
from vdbackup.backup.delete import DeletePlan
from vdbackup.backup.merge import MergePlan, MergeResult
from vdbackup.errors import ChangedMeanwhile, NotMergeable, PointInUse
from vdbackup.jobs import Plan, Task
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class DeleteMomentPlan(Plan):
    """What deleting a moment would do, disk by disk.

    Attributes:
        set_name: of the disk whose point was asked about.
    """

    repository: Repository
    set_name: str
    moment: MomentPoints
    steps: tuple[DeletePlan, ...]

    @property
    def point_id(self) -> str:
        """The point that was asked about."""
        return self.moment.points[self.set_name].id

    @property
    def last(self) -> bool:
        """Whether of a disk no backup remains."""
        return any(step.last for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class MergeMomentPlan(Plan):
    """What rolling a moment into the one before would do, disk by disk.

    Attributes:
        set_name: of the disk whose point was asked about.
    """

    repository: Repository
    set_name: str
    moment: MomentPoints
    steps: tuple[MergePlan, ...]


def plan_delete(repository: Repository, moment: MomentPoints, set_name: str) -> DeleteMomentPlan:
    """What deleting the moment would do; raises BackupError if others need a point of it."""
    steps = tuple(delete.plan(repository, name, point.id) for name, point in moment.points.items())
    what = tr(
        "Moment {moment} of {machine} is deleted",
        moment=moment.moment.number,
        machine=moment.moment.machine,
    )
    return DeleteMomentPlan(
        **vars(_together(steps, tr("{what}, on all of its disks.", what=what))),
        repository=repository,
        set_name=set_name,
        moment=moment,
        steps=steps,
    )


def plan_merge(repository: Repository, moment: MomentPoints, set_name: str) -> MergeMomentPlan:
    """What rolling it into the moment before would do.

    Raises NotMergeable where its points do not all follow those of one moment.
    """
    steps = tuple(merge.plan(repository, name, point.id) for name, point in moment.points.items())
    before = {_moment_id(repository, step) for step in steps}
    if len(before) > 1:
        raise NotMergeable(
            tr(
                "The points of {moment} do not all follow those of one moment.", moment=moment.title
            ),
            tr("Delete what is left of the moments that are not whole first."),
        )
    what = tr(
        "Moment {moment} of {machine} is rolled into the one before",
        moment=moment.moment.number,
        machine=moment.moment.machine,
    )
    return MergeMomentPlan(
        **vars(_together(steps, tr("{what}, on all of its disks.", what=what))),
        repository=repository,
        set_name=set_name,
        moment=moment,
        steps=steps,
    )


def _moment_id(repository: Repository, step: MergePlan) -> str | None:
    parent = repository.set(step.set_name).point(step.parent_id)
    return parent.moment.id if parent.moment else None


def _together(steps: Sequence[DeletePlan | MergePlan], summary: str) -> Plan:
    """What the plans for each disk say, as one."""
    return Plan(
        summary=" ".join([summary, *(f"{each.set_name}: {each.summary}" for each in steps)]),
        bytes_to_copy=sum(each.bytes_to_copy for each in steps),
        replaces=tuple(f"{each.set_name}/{name}" for each in steps for name in each.replaces),
        invalidates=tuple(
            tr("{name} of {set_name}", name=name, set_name=each.set_name)
            for each in steps
            for name in each.invalidates
        ),
        hindrance=next((each.hindrance for each in steps if each.hindrance), ""),
    )


def run_delete(plan: DeleteMomentPlan, task: Task) -> None:
    """Delete the moment."""
    repository, moment = plan.repository, plan.moment
    with repository.lock(tr("deleting {moment}", moment=moment.title), task.cancel):
        sets = _ready(repository, moment, task)
        points = {name: sets[name].point(point.id) for name, point in moment.points.items()}
        shown = {step.set_name: step for step in plan.steps}
        for name, point in points.items():
            now = delete.plan(repository, name, point.id)  # pinned, or read through: then none
            delete.check_shown(shown[name], last=now.last)
            check_whole(sets[name], point)
        _check_free([(sets[name], point) for name, point in points.items()])
        for name, point in points.items():
            delete.delete_locked(repository, sets[name], point.id, task)


def run_merge(plan: MergeMomentPlan, task: Task) -> MergeResult:
    """Roll the moment into the one before; what became of the disk that was asked about."""
    repository, moment = plan.repository, plan.moment
    with repository.lock(tr("merging {moment}", moment=moment.title), task.cancel):
        sets = _ready(repository, moment, task)
        parents = []
        for step in plan.steps:
            backup_set = sets[step.set_name]
            if backup_set.point(step.child_id).parent != step.parent_id:
                raise ChangedMeanwhile(
                    tr(
                        "{set_name} has changed meanwhile: the point has another parent now.",
                        set_name=step.set_name,
                    ),
                    tr("Look at the recovery points again before you merge."),
                )
            merge.plan(repository, step.set_name, step.child_id)  # as with a deletion
            parents.append((backup_set, backup_set.point(step.parent_id)))
        for backup_set, parent in parents:
            check_whole(backup_set, parent)
        _check_free(parents)
        merged = {}
        for step in plan.steps:
            backup_set = repository.set(step.set_name)
            result = merge.merge_locked(repository, backup_set, step.child_id, task)
            merged[step.set_name] = result
    return merged[plan.set_name]


def _ready(repository: Repository, moment: MomentPoints, task: Task) -> dict[str, BackupSet]:
    """The sets of it, in which what was cut off is finished."""
    for name in moment.points:
        merge.finish_interrupted(repository, name, task)
    return {name: repository.set(name) for name in moment.points}


def _check_free(points: Sequence[tuple[BackupSet, RecoveryPoint]]) -> None:
    """Raise PointInUse where one of them cannot go now: then none does."""
    for backup_set, point in points:
        if why := hindrance(backup_set, point):
            raise PointInUse(why, tr("Nothing was changed. End that first, then try again."))


def check_whole(backup_set: BackupSet, point: RecoveryPoint) -> None:
    """Raise what is damaged of all that is needed to let a point go: then no other disk's goes."""
    for child in backup_set.children(point.id):
        merge.check_whole(backup_set, point, child)


def hindrance(backup_set: BackupSet, point: RecoveryPoint) -> str:
    """Why a point cannot go now, in words; "" where nothing is known."""
    children = backup_set.children(point.id)
    if children:
        return merge.hindrance(backup_set, point, children[0])
    return delete.hindrance(backup_set, point)
