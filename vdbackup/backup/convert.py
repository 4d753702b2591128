"""Convert a set to another format: point by point into a new set, each proven to be the same disk.

The new set exists once all of it is there and read back; it says which one it continues. The old
one stays as it is, byte for byte, but later backups of its source go on in the new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from vdbackup.backup import merge
from vdbackup.backup.capture import keep_changes, state_of
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.backup.readback import check_layer
from vdbackup.disks.formats import check_fits
from vdbackup.errors import BackupError, Damaged, Remedy
from vdbackup.jobs import CancelToken, Plan, Report, readable_size
from vdbackup.repository.digests import BLOCK, DigestFold, differ
from vdbackup.repository.draft import Draft
from vdbackup.repository.files import check_room
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository, check_set_name
from vdbackup.repository.set_draft import SetDraft

_COMPARED = 1 << 16
"""Blocks whose digests are compared at once: 2 MiB of digests, 4 GiB of disk."""


@dataclass(frozen=True, kw_only=True)
class ConvertPlan(Plan):
    """What a conversion would do: the points of `set_name` again, in `disk_format`, as `target`."""

    repository: Repository
    set_name: str
    target: str
    disk_format: str


def plan(
    repository: Repository, set_name: str, disk_format: str, target: str | None = None
) -> ConvertPlan:
    """What converting the set would do.

    Args:
        repository: where the set is, and where the new one will be.
        set_name: the set.
        disk_format: of the new set.
        target: the new set's name; by set and format if None.

    Raises:
        DiskError: a point does not fit into the format. BackupError: there is nothing to do.
    """
    backup_set = repository.set(set_name)
    backup_set.check_manifests()  # later backups go on in the new set: it has to hold all points
    target = check_set_name(target or f"{set_name}-{disk_format}")
    for point in backup_set.points:
        check_fits(disk_format, point.virtual_size, point.sector_size)
    if backup_set.settings.format == disk_format:
        raise BackupError(f"{set_name} is kept in {disk_format} already.", "Choose another format.")
    if not backup_set.points:
        raise BackupError(f"{set_name} has no recovery points.", "Back something up first.")
    size = sum(point.stored_bytes for point in backup_set.points)
    count = len(backup_set.points)
    points = f"{count} recovery point" + ("s" if count > 1 else "")
    return ConvertPlan(
        summary=(
            f"{points} of {set_name}, {readable_size(size)}, copied into the new set {target} in "
            f"{disk_format}; {set_name} stays, and later backups go on in {target}."
        ),
        bytes_to_copy=size,
        creates=(f"the set {target}",),
        repository=repository,
        set_name=set_name,
        target=target,
        disk_format=disk_format,
    )


def run(plan: ConvertPlan, report: Report, cancel: CancelToken) -> BackupSet:
    """Convert; the new set. If it fails or is cancelled, everything is as it was."""
    repository = plan.repository
    with repository.lock(f"converting {plan.set_name}", cancel):
        merge.finish_interrupted(repository, plan.set_name, report, cancel)
        old = repository.set(plan.set_name)
        _check_space(old)
        settings = replace(old.settings, format=plan.disk_format, continues=plan.set_name)
        draft = SetDraft(repository, plan.target, settings)
        try:
            for point in old.points:
                draft.add(_converted(old, draft.set, point, report, cancel))
            cancel.check()
            draft.publish()
        except BaseException:
            draft.discard()
            raise
        return repository.set(plan.target)


def _converted(
    old: BackupSet, new: BackupSet, point: RecoveryPoint, report: Report, cancel: CancelToken
) -> RecoveryPoint:
    """The point again, in the new set; what hangs on it finds it by its number."""
    by_number = {each.sequence: each for each in new.points}
    parent = by_number[old.point(point.parent).sequence] if point.parent else None
    draft = Draft(
        new, point.type, parent, point.virtual_size, point.sector_size, sequence=point.sequence
    )
    try:
        with (
            old.open_chain(point) as chain,
            DigestFold([old.folder / point.digests], point.virtual_size) as own,
            state_of(new, parent, point.virtual_size) as state,
        ):
            phase = f"Convert point {point.sequence}"
            keep_changes(draft, state, own.held(), chain.readinto, phase, report, cancel)
        created = datetime.fromisoformat(point.created)
        converted = draft.publish(
            point.warnings, created, point.unreadable, point.promoted_from, point.captured_from
        )
    except BaseException:
        draft.discard()
        raise
    _check_same(old, point, replace(new, points=(*new.points, converted)), converted)
    with DigestFold([new.folder / converted.digests], point.virtual_size) as digests:
        layer = new.folder / converted.disk
        phase = f"Check point {point.sequence}"
        check_layer(layer, new.settings.format, digests, phase, report, cancel)
    return converted


def _check_same(
    old: BackupSet, point: RecoveryPoint, new: BackupSet, converted: RecoveryPoint
) -> None:
    """What was read is what was captured: the digests of both disks are the same throughout."""
    blocks = -(-point.virtual_size // BLOCK)
    with old.open_digests(point) as wanted, new.open_digests(converted) as found:
        for first in range(0, blocks, _COMPARED):
            count = min(_COMPARED, blocks - first)
            if differ(wanted.expected(first, count), found.expected(first, count)).any():
                raise Damaged(
                    f"Point {point.sequence} of {old.name} is damaged: it is not as it was "
                    "captured.",
                    "Delete the damaged points before you convert.",
                    remedy=Remedy.VERIFY,
                )


def _check_space(backup_set: BackupSet) -> None:
    needed = sum(point.stored_bytes for point in backup_set.points) + RESERVE
    check_room(backup_set.folder, needed, f"Converting {backup_set.name}")
