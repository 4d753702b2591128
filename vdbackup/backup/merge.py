"""Merge: roll a point into its parent, which then stands for the child's moment (synthetic backup).

Only an only child is merged, under the repository's lock, its own data checked. No session may lie
on the parent, whose moment goes, and nobody read parent, child, or what hangs on that; from then
until the end nobody begins to (repository/claims.py).

Where the storage shares extents, a new file, in flight, becomes what the parent's is with the
child's blocks in it, is made durable and read back, and the digests of both are joined. Parent and
child are only read: until the journal is there, which begins in phase "relink", a crash leaves what
is swept away, and the merge never happened. Elsewhere the journal comes first, in phase "copy", and
the blocks go into the parent's own file, whose identity does not change: the child, and what hangs
on it, read right all along, for what is torn in the parent the child holds itself.

Either way the steps that follow stand in a table (merge_steps.py). Whoever comes after a crash goes
through the same one, and finishes what was begun.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from vdbackup.backup.merge_steps import Merging, check_before_going_on, go_on, join
from vdbackup.backup.merged_layer import (
    CannotShare,
    check_before_copying,
    make_new_layer,
)
from vdbackup.backup.readback import check_whole_layer
from vdbackup.disks.formats import open_disk
from vdbackup.disks.host_file import can_clone
from vdbackup.errors import (
    Cancelled,
    ChangedMeanwhile,
    Damaged,
    DiskError,
    LockLost,
    NotFinished,
    NotMergeable,
    PointInUse,
    RepositoryLocked,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import Plan, Task
from vdbackup.repository import claim_files, claims, holds, publication, registered
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.draft import seal, sweep
from vdbackup.repository.journal import Journal
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.publication import in_flight
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr, trn

log = logging.getLogger(__name__)


class Way(enum.StrEnum):
    """How a merge was done."""

    SHARED = "shared"
    COPIED = "copied"
    FINISHED = "finished"

    @property
    def sentence(self) -> str:
        """For a person."""
        return {
            Way.SHARED: tr("It was done by sharing blocks: nothing was copied."),
            Way.COPIED: tr("The blocks were copied into the parent's file."),
            Way.FINISHED: tr("It had been interrupted before and was finished now."),
        }[self]


@dataclass(frozen=True, kw_only=True)
class MergePlan(Plan):
    """What a merge would do: `child_id` is rolled into `parent_id`."""

    repository: Repository
    set_name: str
    child_id: str
    parent_id: str


@dataclass(frozen=True)
class MergeResult:
    """What a merge did: `point` stands for both."""

    point: RecoveryPoint
    way: Way


@dataclass(frozen=True)
class Recovered:
    """What was finished that a crash had left.

    Attributes:
        done: a sentence each, with the set's name before it.
        undone: why the rest could not be.
    """

    done: tuple[str, ...] = ()
    undone: tuple[NotFinished, ...] = ()


def plan(repository: Repository, set_name: str, point_id: str) -> MergePlan:
    """What rolling the point into its parent would do; raises BackupError if that cannot be."""
    backup_set = repository.set(set_name)
    child = backup_set.point(point_id)
    parent = _parent_to_merge_into(backup_set, child)
    shared = can_clone(backup_set.disk_path(parent))
    return MergePlan(
        summary=(
            tr(
                "Point {child} is rolled into point {parent}: the result stands for the moment of "
                "point {child}; the moment of point {parent} is no longer kept. {shares}",
                child=child.sequence,
                parent=parent.sequence,
                shares=SHARES if shared else COPIES,
            )
        ),
        bytes_to_copy=0 if shared else child.stored_bytes,
        replaces=(parent.disk, child.disk, parent.overlay),
        invalidates=(tr("point {parent}", parent=parent.sequence),),
        hindrance=hindrance(backup_set, parent, child),
        repository=repository,
        set_name=set_name,
        child_id=point_id,
        parent_id=parent.id,
    )


def hindrance(backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint) -> str:
    """Why the child cannot be rolled into its parent now, in words; "" where nothing is known.

    A boot test gives way, and lies on no session.
    """
    if kept := holds.hindrance(backup_set, parent):
        return kept
    if below := holds.below_hindrance(backup_set, [parent]):
        return below
    if read := claims.hindrance(backup_set, _layers_changed(backup_set, parent, child)):
        return tr("That cannot be now. {read}", read=read)
    error = claims.in_use(backup_set, [child]) if holds.of(backup_set) else None
    error = error or registered.in_use(backup_set, [parent, child])
    return (
        tr("That cannot be now. {error} {advice}", error=error.title, advice=error.advice)
        if error
        else ""
    )


SHARES = tr(
    "It is done by sharing blocks: nothing is copied, and no file is changed before its end."
)
COPIES = tr("The blocks are copied into the parent's file: the storage here cannot share them.")


def run(plan: MergePlan, task: Task) -> MergeResult:
    """Merge. Once the copying into the parent has begun, a cancelled merge is finished later."""
    repository = plan.repository
    with repository.lock(tr("merging in {set_name}", set_name=plan.set_name), task.cancel):
        finished = finish_interrupted(repository, plan.set_name, task)
        if finished and finished.id == plan.child_id and plan.parent_id in finished.merged:
            return MergeResult(finished, Way.FINISHED)  # it was this very merge
        backup_set = repository.set(plan.set_name)
        if backup_set.point(plan.child_id).parent != plan.parent_id:
            raise ChangedMeanwhile(
                tr(
                    "{set_name} has changed meanwhile: the point has another parent now.",
                    set_name=plan.set_name,
                ),
                tr("Look at the recovery points again before you merge."),
            )
        return merge_locked(repository, backup_set, plan.child_id, task)


def merge_locked(
    repository: Repository,
    backup_set: BackupSet,
    child_id: str,
    task: Task,
    patience: float | None = None,
) -> MergeResult:
    """Merge a point into its parent; the caller holds the lock, and has finished what was begun.

    The set is as it was read since then. Raises PointInUse where somebody goes on using one of them
    after that many seconds (claims.py).
    """
    child = backup_set.point(child_id)
    parent = _parent_to_merge_into(backup_set, child)
    holds.check_free(backup_set, [parent])
    holds.check_not_below(backup_set, [parent])
    registered.check_free(backup_set, [parent, child])
    check_whole(backup_set, parent, child)
    concerned = _layers_changed(backup_set, parent, child)
    with claims.changing(backup_set, concerned, task.cancel, patience):
        merging = Merging(repository, backup_set, Journal(parent, child), task)
        shared = _shared(merging)
        if not shared:
            check_before_copying(backup_set, parent, child, task)
        journal = merging.journal
        journal.save(backup_set.folder)
        try:
            holds.check_free(backup_set, [parent])  # a session that began meanwhile
            holds.check_not_below(backup_set, [parent])
            claims.check_unused(backup_set, concerned, task.cancel, patience)  # or another program
        except (PointInUse, Cancelled):
            journal.clear(backup_set.folder)  # nothing has moved yet
            sweep(backup_set.folder)
            raise
        point = go_on(merging)
    return MergeResult(point, Way.SHARED if shared else Way.COPIED)


def _layers_changed(
    backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint
) -> list[RecoveryPoint]:
    """The points whose layers a merge changes or takes away: those two, and what is linked anew."""
    return [parent, child, *backup_set.children(child.id)]


def finish_interrupted(repository: Repository, set_name: str, task: Task) -> RecoveryPoint | None:
    """Finish what a crash or a cancel left in a set, and remove what is half written; the merge's.

    The caller holds the lock. Every operation that writes to a set begins with this. Raises
    PointInUse where somebody reads what is to be changed: then all stays as it is. Where a session
    lies on the parent, and nothing of that has changed, the merge is as if it had never begun.
    """
    publish_begun(repository, set_name)
    backup_set = repository.set(set_name)
    result = None
    if journal := backup_set.journal:
        # before the merge, which may want the space, or wait for somebody while backups go on
        sweep(backup_set.folder, but=journal.numbers)
        backup_set.check_manifests()
        concerned = _layers_changed(backup_set, journal.parent, journal.child)
        with claims.changing(backup_set, concerned, task.cancel):
            if _gives_way(backup_set, journal, task):
                journal.clear(backup_set.folder)
            else:
                # a machine elsewhere that makes no claim; on the parent itself it has lost already
                holds.check_not_below(backup_set, [backup_set.point(journal.child.id)])
                merging = Merging(repository, backup_set, journal, task)
                check_before_going_on(merging)
                result = go_on(merging)
    sweep(backup_set.folder)
    claim_files.sweep(backup_set.folder)
    return result


def publish_begun(repository: Repository, set_name: str) -> list[RecoveryPoint]:
    """Let the points exist whose publication a crash cut off; the caller holds the lock.

    Before a merge is finished: it links a child of its child anew only if that exists.
    """
    if not repository.unfinished(set_name):
        return []
    backup_set = repository.set(set_name)
    journal = backup_set.journal
    points = publication.finish(backup_set.folder, journal.numbers if journal else ())
    if points:  # their numbers are never given again, even when they are deleted
        repository.remember_sequence(set_name, max(point.sequence for point in points))
    return points


def published_sentences(set_name: str, points: Iterable[RecoveryPoint]) -> tuple[str, ...]:
    """What there is to say of points whose publication was finished."""
    return tuple(
        tr(
            "{set_name}: an interrupted backup was finished: point {point}.",
            set_name=set_name,
            point=point.sequence,
        )
        for point in points
    )


def merged_sentence(set_name: str, point: RecoveryPoint) -> str:
    """What there is to say of a merge that was finished."""
    return tr(
        "{set_name}: an interrupted merge was finished: point {point}.",
        set_name=set_name,
        point=point.sequence,
    )


def _gives_way(backup_set: BackupSet, journal: Journal, task: Task) -> bool:
    """Whether a merge was cut off between its journal and the look for sessions (merge_locked).

    A session that lies on the parent then has begun first, or another computer's machine that reads
    through it. The parent is as it was: a new layer has not taken its name, or it holds what was
    captured and nothing else. Where it is not, it had been looked for, and what is held now has
    lost its moment already.
    """
    parent, folder = journal.parent, backup_set.folder
    try:
        holds.check_free(backup_set, [parent])
        holds.check_not_below(backup_set, [parent])
    except PointInUse as held:
        if journal.result is not None:
            return in_flight(folder / journal.result.disk).exists()
        digests, path = folder / parent.digests, backup_set.disk_path(parent)
        try:
            phase = tr("Look at point {parent}", parent=parent.sequence)
            check_whole_layer(path, backup_set.settings.format, digests, phase, task)
        except (Damaged, DiskError):
            log.warning("A merge changed what a session lies on or reads through: %s", held)
            return False
        seal(path, parent)
        return True
    return False


def recover(repository: Repository, task: Task) -> Recovered:
    """Finish what a crash left, if nobody else is at it.

    To be called when a repository is opened, also for reading: until then the parent of an
    interrupted merge is not offered, nor the point of an interrupted publication. It may be as long
    as the merge was, so it tells how far it is, and Cancelled leaves it as it was found.
    """
    waiting = repository.unfinished_sets()
    if not waiting:
        return Recovered()
    try:
        with repository.lock(tr("finishing what was interrupted"), task.cancel):
            finished = [_finished(repository, name, task) for name in waiting]
    except RepositoryLocked:
        return Recovered()  # its holder is at it
    except (Cancelled, LockLost):
        raise
    except (VdbackupError, OSError) as error:  # the lock itself: a storage that is read-only
        return Recovered(undone=(_not_finished(error),))
    return Recovered(
        tuple(sentence for each in finished for sentence in each.done),
        tuple(error for each in finished for error in each.undone),
    )


def _finished(repository: Repository, name: str, task: Task) -> Recovered:
    """Finish what was cut off in a set. No set stops another."""
    done: tuple[str, ...] = ()
    try:
        done += published_sentences(name, publish_begun(repository, name))
        result = finish_interrupted(repository, name, task)
    except (Cancelled, LockLost):
        raise
    except (VdbackupError, OSError) as error:
        return Recovered(done, (_not_finished(error, f"{name}: "),))
    if result is not None:
        done += (merged_sentence(name, result),)
    return Recovered(done)


def _not_finished(error: VdbackupError | OSError, where: str = "") -> NotFinished:
    problem = from_os(error) if isinstance(error, OSError) else error
    title = tr(
        "{where}What was interrupted could not be finished: {problem}",
        where=where,
        problem=problem.title,
    )
    return NotFinished.because_of(problem, title)


def _parent_to_merge_into(backup_set: BackupSet, child: RecoveryPoint) -> RecoveryPoint:
    backup_set.check_manifests()
    if child.parent is None:
        raise NotMergeable(
            tr(
                "Point {child} is a full backup and has no parent to be rolled into.",
                child=child.sequence,
            ),
            tr("Choose a later point of its chain."),
        )
    parent = backup_set.point(child.parent)
    backup_set.check_not_pinned(parent)
    siblings = [each for each in backup_set.children(parent.id) if each.id != child.id]
    if siblings:
        numbers = ", ".join(str(each.sequence) for each in siblings)
        raise NotMergeable(
            trn(
                "Point {child} cannot be rolled into point {parent}, because point {numbers} also "
                "reads through that one.",
                "Point {child} cannot be rolled into point {parent}, because points {numbers} "
                "also read through that one.",
                len(siblings),
                child=child.sequence,
                parent=parent.sequence,
                numbers=numbers,
            ),
            tr("Delete the siblings first, or merge another point."),
        )
    return parent


def _shared(merging: Merging) -> bool:
    """Do the first two steps where extents can be shared, beside both points, which stay as is.

    False where they cannot be. The journal holds the result afterwards, and is not saved.
    """
    parent, child, folder = merging.parent, merging.child, merging.folder
    if not can_clone(merging.backup_set.disk_path(parent)):
        return False
    try:
        make_new_layer(merging.backup_set, parent, child, merging.new_layer, merging.task)
        join(merging)
    except CannotShare:
        sweep(folder)
        return False
    except BaseException:
        sweep(folder)
        raise
    return True


def check_whole(backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint) -> None:
    """Raise where not all is there that the merge will need: once it has begun, it has to end."""
    backup_set.open_chain(child).close()
    for above in backup_set.children(child.id):  # which read through what was just looked at
        backup_set.check_layer(above)
        backup_set.check_link(above)
    backup_set.open_digests(child).close()
    both = [backup_set.folder / each.digests for each in (parent, child)]
    with DigestFold(both, child.virtual_size) as digests:
        digests.prove()
    overlay = backup_set.overlay_path(child)
    if overlay.exists():
        open_disk(overlay, backup_set.settings.format, writable=True).close()
