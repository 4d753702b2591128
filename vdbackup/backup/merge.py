"""Merge: roll a point into its parent, which then stands for the child's moment (synthetic backup).

The order of writes is what makes it survivable; `journal.json` says how far it came. How the file
that holds both comes about (merged_layer.py) depends on the storage:

1. Only an only child is merged, under the repository's lock, its own data checked. No session may
   lie on the parent, whose moment goes, and nobody read parent, child, or what hangs on that; from
   now until the end nobody begins to (repository/claims.py).

Where the storage shares extents:

2. A new file, in flight, becomes what the parent's is with the child's blocks in it, is made
   durable and read back. Parent and child are only read: until the journal is there, a crash leaves
   what is swept away, and the merge never happened.
3. The digests of both become one file, durable with its name and that of the new file. The journal
   is written in phase "relink".
4. The new file takes the parent's name, durable.

Elsewhere:

2. The journal is written in phase "copy" and made durable. From now on nothing offers the parent as
   a point.
3. The child's blocks go into the parent's file, whose identity does not change: the child, and what
   hangs on it, read right all along, for what is torn in the parent the child holds itself. The
   file is made durable, then its copied blocks are read back and checked.
4. The digests of both become one file, durable with its name; then the journal says "relink" and
   holds the result.

Then, either way:

5. The digests take the result's name, durable. The parent's file takes the child's identity and the
   result's name; the children of the child and its overlay are linked to it; the result's manifest
   is written. All of it can be done twice.
6. The folder is made durable; the child's layer and the parent's overlay are deleted, then the
   journal.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.backup.merged_layer import (
    WRITABLE_MODE,
    CannotShare,
    check_before_copying,
    check_held,
    copy_into_parent,
    make_new_layer,
)
from vdbackup.backup.merged_point import merge_digests, merged_point
from vdbackup.backup.readback import check_whole_layer
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.formats import open_disk
from vdbackup.disks.host_file import can_clone
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import (
    Cancelled,
    ChangedMeanwhile,
    Damaged,
    DiskError,
    LockLost,
    NotMergeable,
    PointInUse,
    RepositoryLocked,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import Plan, Task
from vdbackup.repository import claim_files, claims, holds, publication, registered
from vdbackup.repository.backup_set import BackupSet, point_files
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.draft import make_overlay, seal, sweep
from vdbackup.repository.files import PARTIAL, made_beside, remove, sync_folder
from vdbackup.repository.journal import Journal
from vdbackup.repository.lock import check_lock
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

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
            Way.SHARED: "It was done by sharing blocks: nothing was copied.",
            Way.COPIED: "The blocks were copied into the parent's file.",
            Way.FINISHED: "It had been interrupted before and was finished now.",
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


def plan(repository: Repository, set_name: str, point_id: str) -> MergePlan:
    """What rolling the point into its parent would do; raises BackupError if that cannot be."""
    backup_set = repository.set(set_name)
    child = backup_set.point(point_id)
    parent = _parent_to_merge_into(backup_set, child)
    shared = can_clone(backup_set.disk_path(parent))
    return MergePlan(
        summary=(
            f"Point {child.sequence} is rolled into point {parent.sequence}: the result stands for "
            f"the moment of point {child.sequence}; the moment of point {parent.sequence} is no "
            f"longer kept. {_SHARES if shared else _COPIES}"
        ),
        bytes_to_copy=0 if shared else child.stored_bytes,
        replaces=(parent.disk, child.disk, parent.overlay),
        invalidates=(f"point {parent.sequence}",),
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
    if read := claims.hindrance(backup_set, _layers_changed(backup_set, parent, child)):
        return f"That cannot be now. {read}"
    error = claims.in_use(backup_set, [child]) if holds.of(backup_set) else None
    error = error or registered.in_use(backup_set, [parent, child])
    return f"That cannot be now. {error.title} {error.advice}" if error else ""


_SHARES = "It is done by sharing blocks: nothing is copied, and no file is changed before its end."
_COPIES = "The blocks are copied into the parent's file: the storage here cannot share them."


def run(plan: MergePlan, task: Task) -> MergeResult:
    """Merge. Once the copying into the parent has begun, a cancelled merge is finished later."""
    repository = plan.repository
    with repository.lock(f"merging in {plan.set_name}", task.cancel):
        finished = finish_interrupted(repository, plan.set_name, task)
        if finished and finished.id == plan.child_id and plan.parent_id in finished.merged:
            return MergeResult(finished, Way.FINISHED)  # it was this very merge
        backup_set = repository.set(plan.set_name)
        if backup_set.point(plan.child_id).parent != plan.parent_id:
            raise ChangedMeanwhile(
                f"{plan.set_name} has changed meanwhile: the point has another parent now.",
                "Look at the recovery points again before you merge.",
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
    registered.check_free(backup_set, [parent, child])
    _check_whole(backup_set, parent, child)
    concerned = _layers_changed(backup_set, parent, child)
    with claims.changing(backup_set, concerned, task.cancel, patience):
        journal = Journal(parent, child)
        shared = _shared(backup_set, journal, task)
        if shared is None:
            check_before_copying(backup_set, parent, child, task)
        journal = shared or journal
        journal.save(backup_set.folder)
        try:
            holds.check_free(backup_set, [parent])  # a session that began meanwhile
            claims.check_unused(backup_set, concerned, task.cancel, patience)  # or another program
        except (PointInUse, Cancelled):
            journal.clear(backup_set.folder)  # nothing has moved yet
            sweep(backup_set.folder)
            raise
        point = _finish(repository, backup_set, journal, task)
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
        backup_set.check_manifests()
        concerned = _layers_changed(backup_set, journal.parent, journal.child)
        with claims.changing(backup_set, concerned, task.cancel):
            if _gives_way(backup_set, journal, task):
                journal.clear(backup_set.folder)
            else:
                _check_what_is_there(backup_set, journal, task)
                result = _finish(repository, backup_set, journal, task)
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
    merged = (journal.parent.sequence, journal.child.sequence) if journal else ()
    points = publication.finish(backup_set.folder, merged)
    if points:  # their numbers are never given again, even when they are deleted
        repository.remember_sequence(set_name, max(point.sequence for point in points))
    return points


def published_sentences(points: Iterable[RecoveryPoint]) -> list[str]:
    """What there is to say of points whose publication was finished."""
    return [f"an interrupted backup was finished: point {point.sequence}." for point in points]


def _gives_way(backup_set: BackupSet, journal: Journal, task: Task) -> bool:
    """Whether a merge was cut off between its journal and the look for sessions (merge_locked).

    A session that lies on the parent then has begun first. The parent is as it was: a new layer has
    not taken its name, or it holds what was captured and nothing else. Where it is not, it had been
    looked for, and what is held now has lost its moment already.
    """
    parent, folder = journal.parent, backup_set.folder
    try:
        holds.check_free(backup_set, [parent])
    except PointInUse as held:
        if journal.result is not None:
            return _new_layer(folder, journal.result).exists()
        digests, path = folder / parent.digests, backup_set.disk_path(parent)
        try:
            phase = f"Look at point {parent.sequence}"
            check_whole_layer(path, backup_set.settings.format, digests, phase, task)
        except (Damaged, DiskError):
            log.warning("A merge goes on although a session lies on what it changes: %s", held)
            return False
        seal(path, parent)
        return True
    return False


def recover(repository: Repository, task: Task) -> list[str]:
    """Finish what a crash left, if nobody else is at it; sentences of what was done or not.

    To be called when a repository is opened, also for reading: until then the parent of an
    interrupted merge is not offered, nor the point of an interrupted publication. It may be as long
    as the merge was, so it tells how far it is, and Cancelled leaves it as it was found.
    """
    waiting = interrupted(repository)
    if not waiting:
        return []
    try:
        with repository.lock("finishing what was interrupted", task.cancel):
            finished = [_finished(repository, name, task) for name in waiting]
    except RepositoryLocked:
        return []  # its holder is at it
    except (Cancelled, LockLost):
        raise
    except (VdbackupError, OSError) as error:  # the lock itself: a storage that is read-only
        return [_not_finished(error)]
    return [sentence for each in finished for sentence in each]


def interrupted(repository: Repository) -> list[str]:
    """The names of the sets in which something was cut off, or is running; no file is read."""
    return [name for name in repository.names() if repository.unfinished(name)]


def _finished(repository: Repository, name: str, task: Task) -> list[str]:
    """Finish what was cut off in a set; what there is to say. No set stops another."""
    said: list[str] = []
    try:
        said += published_sentences(publish_begun(repository, name))
        result = finish_interrupted(repository, name, task)
    except (Cancelled, LockLost):
        raise
    except (VdbackupError, OSError) as error:
        return [f"{name}: {each}" for each in (*said, _not_finished(error))]
    if result is not None:
        said.append(f"an interrupted merge was finished: point {result.sequence}.")
    return [f"{name}: {each}" for each in said]


def _not_finished(error: VdbackupError | OSError) -> str:
    said = from_os(error) if isinstance(error, OSError) else error
    return f"What was interrupted could not be finished: {said}"


def _parent_to_merge_into(backup_set: BackupSet, child: RecoveryPoint) -> RecoveryPoint:
    backup_set.check_manifests()
    if child.parent is None:
        raise NotMergeable(
            f"Point {child.sequence} is a full backup and has no parent to be rolled into.",
            "Choose a later point of its chain.",
        )
    parent = backup_set.point(child.parent)
    siblings = [each for each in backup_set.children(parent.id) if each.id != child.id]
    if siblings:
        numbers = ", ".join(str(each.sequence) for each in siblings)
        raise NotMergeable(
            f"Point {child.sequence} cannot be rolled into point {parent.sequence}, because "
            f"{'point' if len(siblings) == 1 else 'points'} {numbers} also "
            f"{'reads' if len(siblings) == 1 else 'read'} through that one.",
            "Delete the siblings first, or merge another point.",
        )
    return parent


def _finish(
    repository: Repository,
    backup_set: BackupSet,
    journal: Journal,
    task: Task,
) -> RecoveryPoint:
    """Everything from wherever the journal stands."""
    folder = backup_set.folder
    result = journal.result
    if result is None:
        try:
            copy_into_parent(backup_set, journal.parent, journal.child, task)
        except Cancelled:
            raise Cancelled(advice="What was begun is finished by the next operation.") from None
        result = _whole(backup_set, journal, backup_set.disk_path(journal.parent))
        journal = replace(journal, result=result)
        journal.save(folder)
    _publish(folder, journal, result)
    _take_over(backup_set, journal, result)
    _relink(backup_set, journal, result)
    repository.save_point(backup_set.name, result)  # makes the folder durable too
    _delete_redundant(folder, journal, result)
    journal.clear(folder)
    return result


def _shared(backup_set: BackupSet, journal: Journal, task: Task) -> Journal | None:
    """Steps 2 and 3 where extents can be shared: the journal to be written; None where not.

    Whatever happens here, both points stay as they were.
    """
    parent, child, folder = journal.parent, journal.child, backup_set.folder
    if not can_clone(backup_set.disk_path(parent)):
        return None
    path = _new_layer(folder, merged_point(parent, child))
    try:
        make_new_layer(backup_set, parent, child, path, task)
        return replace(journal, result=_whole(backup_set, journal, path))
    except CannotShare:
        sweep(folder)
        return None
    except BaseException:
        sweep(folder)
        raise


def _check_what_is_there(backup_set: BackupSet, journal: Journal, task: Task) -> None:
    """What was durable when the journal was written may have been lost since, and the child goes.

    Files in flight look as if they could be thrown away.
    """
    if journal.result is None:
        return
    new = _new_layer(backup_set.folder, journal.result)
    for path in (new, backup_set.disk_path(journal.parent)):
        if path.exists():
            check_held(backup_set, path.name, journal.child, "Check", task)
            return


def _new_layer(folder: Path, result: RecoveryPoint) -> Path:
    """The file that becomes the result's, made from clones, until it takes the parent's name."""
    return folder / (result.disk + PARTIAL)


def _check_whole(backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint) -> None:
    """Whatever the merge will need is there: once it has begun, it has to be finished."""
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


def _whole(backup_set: BackupSet, journal: Journal, layer: Path) -> RecoveryPoint:
    """The result, when `layer` holds everything and the digests of both are one file, durable."""
    parent, child, folder = journal.parent, journal.child, backup_set.folder
    result = merged_point(parent, child)
    held = merge_digests(folder, parent, child, folder / (result.digests + PARTIAL))
    sync_folder(folder)  # its name, and that of a new layer, before a journal relies on them
    return replace(result, disk_size=layer.stat().st_size, stored_bytes=held)


def _publish(folder: Path, journal: Journal, result: RecoveryPoint) -> None:
    """What was made beside takes its name, durable before the parent's file gets another one.

    A layer made from clones takes the parent's: what reads through the parent reads the same. The
    digests come before the result is offered. Where the child's bear that name, the child reads by
    them too: it holds less than the result, but through its parent it is the same disk.
    """
    check_lock(folder)
    new = {
        _new_layer(folder, result): folder / journal.parent.disk,
        folder / (result.digests + PARTIAL): folder / result.digests,
    }
    for in_flight, path in new.items():
        if in_flight.exists():
            os.rename(in_flight, path)
    sync_folder(folder)


def _take_over(backup_set: BackupSet, journal: Journal, result: RecoveryPoint) -> None:
    """Step 5: the parent's file takes the child's identity, so that its children find it there.

    It takes the result's name too; where the child bears that already, the rename replaces it.
    """
    path = backup_set.disk_path(journal.parent)
    if not path.exists():
        return  # done before an interruption
    check_lock(path)
    disk_format = backup_set.settings.format
    child = open_disk(backup_set.disk_path(journal.child), disk_format)
    identity = child.info
    child.close()
    path.chmod(WRITABLE_MODE)
    layer = open_disk(path, disk_format, writable=True)
    try:
        layer.adopt(identity.disk_id or "", identity.content_id, result.disk)
    finally:
        layer.close()
    seal(path, result)
    os.rename(path, backup_set.disk_path(result))
    sync_folder(backup_set.folder)


def _relink(backup_set: BackupSet, journal: Journal, result: RecoveryPoint) -> None:
    """Link what hung on the child to the result: its children and its overlay."""
    disk_format = backup_set.settings.format
    check_lock(backup_set.folder)
    layer = open_disk(backup_set.disk_path(result), disk_format)
    reference = ParentRef(layer.info.disk_id, layer.info.content_id, result.disk)
    layer.close()
    for point in backup_set.children(journal.child.id):
        path = backup_set.disk_path(point)
        path.chmod(WRITABLE_MODE)
        _relink_file(path, disk_format, reference)
        seal(path, point)
    overlay = backup_set.overlay_path(result)
    if overlay.exists():
        _relink_file(overlay, disk_format, reference)
    else:  # somebody has thrown it away
        with made_beside(overlay) as partial:
            make_overlay(partial, disk_format, result, reference)


def _relink_file(path: Path, disk_format: DiskFormat, parent: ParentRef) -> None:
    disk = open_disk(path, disk_format, writable=True)
    try:
        if disk.info.parent != parent:
            disk.relink(parent)
    finally:
        disk.close()


def _delete_redundant(folder: Path, journal: Journal, result: RecoveryPoint) -> None:
    """Step 6: the child's layer, the parent's overlay, and what described them.

    The pictures of their boot tests go, too: the result has not been tested.
    """
    kept = set(point_files(folder, result)) - {folder / result.picture}
    for path in [*point_files(folder, journal.parent), *point_files(folder, journal.child)]:
        if path not in kept:
            remove(path)
    sync_folder(folder)
