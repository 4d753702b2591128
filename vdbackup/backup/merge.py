"""Merge: roll a point into its parent, which then stands for the child's moment (synthetic backup).

The order of writes is what makes it survivable; `journal.json` says how far it came.

1. Only an only child is merged, under the repository's lock, its own data checked as they are read.
2. The journal is written and made durable. From now on nothing offers the parent as a point.
3. The child's blocks go into the parent's file, whose identity does not change: the child, and what
   hangs on it, read right all along, for what is torn in the parent the child holds itself.
4. The parent's file is made durable, then its copied blocks are read back and checked.
5. The digests of both become one file, durable with its name; then the journal says "relink" and
   holds the result.
6. The digests take the result's name, durable. The parent's file takes the child's identity and the
   result's name; the children of the child and its overlay are linked to it; the result's manifest
   is written. All of it can be done twice.
7. The folder is made durable; the child's layer and the parent's overlay are deleted, then the
   journal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from vdbackup.backup.readback import check_layer
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.extents import aligned, total, union
from vdbackup.disks.formats import open_disk
from vdbackup.disks.transfer import transfer, write_blocks
from vdbackup.errors import (
    BackupError,
    Cancelled,
    RepositoryLocked,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import CancelToken, Plan, Report
from vdbackup.repository.digests import BLOCK, DigestFold, DigestWriter, is_zero
from vdbackup.repository.draft import make_overlay, point_stem, seal, sweep
from vdbackup.repository.files import PARTIAL, check_room, remove, sync_folder
from vdbackup.repository.journal import Journal
from vdbackup.repository.lock import check_lock, unused, used_by_vm
from vdbackup.repository.model import RecoveryPoint, unreadable_warning
from vdbackup.repository.repository import BackupSet, Repository, point_files

WRITABLE_MODE = 0o600
RESERVE = 16 << 20
"""Bytes that a merge leaves free for tables, manifests and the journal."""


@dataclass(frozen=True, kw_only=True)
class MergePlan(Plan):
    """What a merge would do: `child_id` is rolled into `parent_id`."""

    repository: Repository
    set_name: str
    child_id: str
    parent_id: str


def plan(repository: Repository, set_name: str, point_id: str) -> MergePlan:
    """What rolling the point into its parent would do; raises BackupError if that cannot be."""
    backup_set = repository.set(set_name)
    child = backup_set.point(point_id)
    parent = _parent_to_merge_into(backup_set, child)
    return MergePlan(
        summary=(
            f"Point {child.sequence} is rolled into point {parent.sequence}: the result stands for "
            f"the moment of point {child.sequence}; the moment of point {parent.sequence} is no "
            "longer kept."
        ),
        bytes_to_copy=child.stored_bytes,
        replaces=(parent.disk, child.disk, parent.overlay),
        invalidates=(f"point {parent.sequence}",),
        repository=repository,
        set_name=set_name,
        child_id=point_id,
        parent_id=parent.id,
    )


def run(plan: MergePlan, report: Report, cancel: CancelToken) -> RecoveryPoint:
    """Merge; the result. Once the copying has begun, a cancelled merge is finished later."""
    repository = plan.repository
    with repository.lock(f"merging in {plan.set_name}", cancel):
        finished = finish_interrupted(repository, plan.set_name, report, cancel)
        if finished and finished.id == plan.child_id and plan.parent_id in finished.merged:
            return finished  # it was this very merge that had been interrupted
        if repository.set(plan.set_name).point(plan.child_id).parent != plan.parent_id:
            raise BackupError(
                f"{plan.set_name} has changed meanwhile: the point has another parent now.",
                "Look at the recovery points again before you merge.",
            )
        return merge_locked(repository, plan.set_name, plan.child_id, report, cancel)


def merge_locked(
    repository: Repository, set_name: str, child_id: str, report: Report, cancel: CancelToken
) -> RecoveryPoint:
    """Merge a point into its parent; the caller holds the lock."""
    backup_set = repository.set(set_name)
    child = backup_set.point(child_id)
    parent = _parent_to_merge_into(backup_set, child)
    _check_whole(backup_set, child)
    _check_unused(backup_set, [parent, child, *backup_set.children(child.id)])
    _check_space(backup_set, parent, child)
    _check_child(backup_set, child, report, cancel)
    journal = Journal(parent, child)
    journal.save(backup_set.folder)
    return _finish(repository, backup_set, journal, report, cancel)


def finish_interrupted(
    repository: Repository, set_name: str, report: Report, cancel: CancelToken
) -> RecoveryPoint | None:
    """Finish the merge that a crash or a cancel left in a set, and remove what is half written.

    The caller holds the lock. Every operation that writes to a set begins with this.
    """
    backup_set = repository.set(set_name)
    result = None
    if backup_set.journal:
        result = _finish(repository, backup_set, backup_set.journal, report, cancel)
    sweep(backup_set.folder)
    return result


def recover(repository: Repository, report: Report, cancel: CancelToken) -> list[str]:
    """Finish what a crash left, if nobody else is at it; sentences of what was done or not.

    To be called when a repository is opened, also for reading: until then the parent of an
    interrupted merge is not offered.
    """
    waiting = [each.name for each in repository.sets() if each.journal]
    sentences: list[str] = []
    if not waiting:
        return sentences
    try:
        with repository.lock("finishing an interrupted merge", cancel):
            for name in waiting:
                result = finish_interrupted(repository, name, report, cancel)
                if result:
                    number = result.sequence
                    sentences.append(f"{name}: an interrupted merge was finished: point {number}.")
    except RepositoryLocked:
        return sentences  # its holder is at it
    except VdbackupError as error:
        sentences.append(f"An interrupted merge could not be finished: {error}")
    except OSError as error:
        sentences.append(f"An interrupted merge could not be finished: {from_os(error)}")
    return sentences


def _parent_to_merge_into(backup_set: BackupSet, child: RecoveryPoint) -> RecoveryPoint:
    if child.parent is None:
        raise BackupError(
            f"Point {child.sequence} is a full backup and has no parent to be rolled into.",
            "Choose a later point of its chain.",
        )
    parent = backup_set.point(child.parent)
    siblings = [each for each in backup_set.children(parent.id) if each.id != child.id]
    if siblings:
        numbers = ", ".join(str(each.sequence) for each in siblings)
        raise BackupError(
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
    report: Report,
    cancel: CancelToken,
) -> RecoveryPoint:
    """Everything from wherever the journal stands."""
    folder = backup_set.folder
    result = journal.result
    if result is None:
        try:
            _copy(backup_set, journal, report, cancel)
        except Cancelled:
            raise Cancelled(advice="What was begun is finished by the next operation.") from None
        result = _with_merged_digests(folder, journal, _result(backup_set, journal))
        journal = replace(journal, result=result)
        journal.save(folder)
    _publish_digests(folder, result)
    _take_over(backup_set, journal, result)
    _relink(backup_set, journal, result)
    repository.save_point(backup_set.name, result)  # makes the folder durable too
    _delete_redundant(folder, journal, result)
    journal.clear(folder)
    return result


def _check_whole(backup_set: BackupSet, child: RecoveryPoint) -> None:
    """Whatever the merge will need is there: once it has begun, it has to be finished."""
    for point in (child, *backup_set.children(child.id)):
        backup_set.open_chain(point).close()
    backup_set.open_digests(child).close()
    overlay = backup_set.overlay_path(child)
    if overlay.exists():
        open_disk(overlay, backup_set.settings.format, writable=True).close()


def _check_unused(backup_set: BackupSet, points: list[RecoveryPoint]) -> None:
    """A layer that a virtual machine reads must not change or go."""
    for point in points:
        path = backup_set.disk_path(point)
        if used_by_vm(path):
            raise BackupError(
                f"A virtual machine is running from point {point.sequence} or a later one.",
                "Shut it down first.",
                over=partial(unused, path),
            )


def _check_space(backup_set: BackupSet, parent: RecoveryPoint, child: RecoveryPoint) -> None:
    """The parent grows by what only the child holds, and the child goes only afterwards."""
    path = backup_set.disk_path(parent)
    with (
        Chain.alone(path, backup_set.settings.format) as layer,
        _own_digests(backup_set, child) as digests,
    ):
        info = layer.layers[0].info
        block = max(info.block_size, BLOCK)
        stored = aligned(layer.layers[0].block_map().data_ranges(), block, info.virtual_size)
        wanted = aligned(digests.held(), block, info.virtual_size)
    growth = total(union(stored, wanted)) - total(stored)
    both = (backup_set.folder / parent.digests, backup_set.folder / child.digests)
    needed = growth + sum(file.stat().st_size for file in both) + RESERVE
    check_room(backup_set.folder, needed, f"Merging point {child.sequence}")


def _check_child(
    backup_set: BackupSet, child: RecoveryPoint, report: Report, cancel: CancelToken
) -> None:
    """Step 1: damage in the child must be seen before the first byte of its parent changes."""
    _check_held(backup_set, child.disk, child, "Check child", report, cancel)


def _copy(backup_set: BackupSet, journal: Journal, report: Report, cancel: CancelToken) -> None:
    """Steps 3 and 4: the child's blocks into the parent's file, durable and checked."""
    disk_format = backup_set.settings.format
    parent_path = backup_set.disk_path(journal.parent)
    parent_path.chmod(WRITABLE_MODE)
    parent = open_disk(parent_path, disk_format, writable=True)
    try:
        child = Chain.alone(backup_set.disk_path(journal.child), disk_format)
        with child, _own_digests(backup_set, journal.child) as digests:

            def put(offset: int, view: memoryview) -> None:
                zero = is_zero(digests.expected(offset // BLOCK, -(-len(view) // BLOCK)))
                write_blocks(parent, offset, view, BLOCK, np.ones_like(zero), zero)

            transfer(
                digests.held(), child.readinto, put, phase="Merge", report=report, cancel=cancel
            )
        parent.flush()
    finally:
        parent.close()
    _check_held(backup_set, journal.parent.disk, journal.child, "Check", report, cancel)


def _check_held(
    backup_set: BackupSet,
    disk: str,
    child: RecoveryPoint,
    phase: str,
    report: Report,
    cancel: CancelToken,
) -> None:
    """Raise Damaged unless the file `disk` holds every block of `child` as it was captured."""
    disk_format = backup_set.settings.format
    with _own_digests(backup_set, child) as digests:
        check_layer(backup_set.folder / disk, disk_format, digests, phase, report, cancel)


def _own_digests(backup_set: BackupSet, point: RecoveryPoint) -> DigestFold:
    return DigestFold([backup_set.folder / point.digests], point.virtual_size)


def _result(backup_set: BackupSet, journal: Journal) -> RecoveryPoint:
    """The point that stands for both: the child's moment and id, the parent's place."""
    parent, child = journal.parent, journal.child
    stem = point_stem(child.sequence, parent.type)
    return replace(
        child,
        type=parent.type,
        parent=parent.parent,
        disk=f"{stem}.{backup_set.settings.format}",
        digests=f"{stem}.digests",
        disk_size=backup_set.disk_path(parent).stat().st_size,
        verified=None,
        boot_tested=None,
        merged=(*parent.merged, parent.id, *child.merged),
        warnings=tuple(dict.fromkeys((*_lasting_warnings(parent), *child.warnings))),
    )


def _lasting_warnings(parent: RecoveryPoint) -> tuple[str, ...]:
    """Those that hold for its child, too: what the source did not give, the child read again."""
    again = unreadable_warning(parent.unreadable)
    return tuple(each for each in parent.warnings if each != again)


def _with_merged_digests(folder: Path, journal: Journal, result: RecoveryPoint) -> RecoveryPoint:
    """Step 5: the digests of both, newest wins, under a name that counts only in phase "relink"."""
    partial = folder / (result.digests + PARTIAL)
    remove(partial)  # of a merge that was interrupted here
    both = [folder / journal.parent.digests, folder / journal.child.digests]
    writer = DigestWriter(partial, result.virtual_size)
    try:
        with DigestFold(both, result.virtual_size) as fold:
            fold.copy_to(writer)
        writer.finish()
    finally:
        writer.close()
    sync_folder(folder)  # before a journal relies on it
    return replace(result, stored_bytes=writer.held_bytes)


def _publish_digests(folder: Path, result: RecoveryPoint) -> None:
    """Before the result is offered. Where the child's bear that name, the child reads by them too.

    The child holds less than the result, but through its parent it is the same disk.
    """
    partial = folder / (result.digests + PARTIAL)
    check_lock(partial)
    if partial.exists():
        os.rename(partial, folder / result.digests)
        sync_folder(folder)


def _take_over(backup_set: BackupSet, journal: Journal, result: RecoveryPoint) -> None:
    """Step 6: the parent's file takes the child's identity, so that its children find it there.

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
        layer.adopt(identity.disk_id or "", identity.content_id)
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
        partial = overlay.with_name(overlay.name + PARTIAL)
        remove(partial)
        make_overlay(partial, disk_format, result, reference)
        os.rename(partial, overlay)


def _relink_file(path: Path, disk_format: str, parent: ParentRef) -> None:
    disk = open_disk(path, disk_format, writable=True)
    try:
        if disk.info.parent != parent:
            disk.relink(parent)
    finally:
        disk.close()


def _delete_redundant(folder: Path, journal: Journal, result: RecoveryPoint) -> None:
    """Step 7: the child's layer, the parent's overlay, and what described them."""
    kept = point_files(folder, result)
    for path in [*point_files(folder, journal.parent), *point_files(folder, journal.child)]:
        if path not in kept:
            remove(path)
    sync_folder(folder)
