"""Convert a set to another format: point by point into a new set, each proven to be the same disk.

The new set exists once all of it is there and read back; it says which one it continues. The old
one stays as it is, byte for byte, but later backups of its source go on in the new one.

A layer holds its blocks whole, so each is copied by itself, whatever it reads through: what that
holds is copied with its own layer, and the work grows with the points, not with their chains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from vdbackup.backup import merge
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.backup.readback import check_layer
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, blocks_of
from vdbackup.disks.formats import check_fits, check_format
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.transfer import transfer, write_blocks
from vdbackup.errors import Damaged, NoPoints, OtherFormat, Remedy
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold, differ, is_zero
from vdbackup.repository.draft import Draft
from vdbackup.repository.files import check_space
from vdbackup.repository.kept_logs import survey
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository, check_set_name
from vdbackup.repository.set_draft import SetDraft, left_behind, sweep
from vdbackup.translation import tr


@dataclass(frozen=True, kw_only=True)
class ConvertPlan(Plan):
    """What a conversion would do: the points of `set_name` again, in `disk_format`, as `target`."""

    repository: Repository
    set_name: str
    target: str
    disk_format: DiskFormat


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
    kept_in = check_format(disk_format)
    for point in backup_set.points:
        check_fits(kept_in, point.virtual_size, point.sector_size)
    if backup_set.settings.format == disk_format:
        raise OtherFormat(
            tr(
                "{set_name} is kept in {disk_format} already.",
                set_name=set_name,
                disk_format=disk_format,
            ),
            tr("Choose another format."),
        )
    if not backup_set.points:
        raise NoPoints(
            tr("{set_name} has no recovery points.", set_name=set_name),
            tr("Back something up first."),
        )
    size = sum(point.stored_bytes for point in backup_set.points)
    count = len(backup_set.points)
    points = tr("{count} recovery point", count=count) + ("s" if count > 1 else "")
    left, goes = left_behind(repository)
    return ConvertPlan(
        summary=(
            tr(
                "{points} of {set_name}, {size}, copied into the new set {target} in "
                "{disk_format}; {goes_on}{moments}{goes}",
                points=points,
                set_name=set_name,
                size=readable_size(size),
                target=target,
                disk_format=disk_format,
                goes_on=_goes_on(repository, backup_set, target),
                moments=_left_moments(backup_set),
                goes=goes,
            )
        ),
        bytes_to_copy=size,
        creates=(tr("the set {target}", target=target),),
        replaces=left,
        repository=repository,
        set_name=set_name,
        target=target,
        disk_format=kept_in,
    )


def _goes_on(repository: Repository, backup_set: BackupSet, target: str) -> str:
    machine = KnownMachines.of(repository).with_set(backup_set)
    if machine is None:
        return tr(
            "{backup_set} stays, and later backups go on in {target}.",
            backup_set=backup_set.name,
            target=target,
        )
    return tr(
        "{backup_set} stays, and backups of the machine {machine} go on there.",
        backup_set=backup_set.name,
        machine=machine.name,
    )


def _left_moments(backup_set: BackupSet) -> str:
    """What is to be said of logs of writes, whose moments fit onto the old set's points alone."""
    if not list(survey(backup_set.folder)):
        return ""
    return tr(
        " The kept writes of its machines, and the moments in them, stay with {backup_set}.",
        backup_set=backup_set.name,
    )


def run(plan: ConvertPlan, task: Task) -> BackupSet:
    """Convert; the new set. If it fails or is cancelled, everything is as it was."""
    repository = plan.repository
    with repository.lock(tr("converting {set_name}", set_name=plan.set_name), task.cancel):
        merge.finish_interrupted(repository, plan.set_name, task)
        sweep(repository, plan.replaces)
        old = repository.set(plan.set_name)
        _check_space(old)
        settings = replace(old.settings, format=plan.disk_format, continues=plan.set_name)
        draft = SetDraft(repository, plan.target, settings)
        converted: dict[str, RecoveryPoint] = {}  # by the old point's id
        with draft:
            for point in old.points:
                parent = converted[old.point(point.parent).id] if point.parent else None
                made = _converted(old, draft.set, point, parent, task)
                converted[point.id] = made
                draft.add(made)
            task.check()
            draft.publish()
        return repository.set(plan.target)


def _converted(
    old: BackupSet,
    new: BackupSet,
    point: RecoveryPoint,
    parent: RecoveryPoint | None,
    task: Task,
) -> RecoveryPoint:
    """The point again, in the new set, made on what its parent became."""
    with (
        DigestFold([old.folder / point.digests], point.virtual_size) as own,
        Draft(
            new, point.type, parent, point.virtual_size, point.sector_size,
            sequence=point.sequence, unit=own.block,
        ) as draft,
    ):  # fmt: skip
        _copy(old, point, own, draft, task)
        created = datetime.fromisoformat(point.created)
        draft.complete(
            point.warnings,
            created,
            point.unreadable,
            point.promoted_from,
            point.captured_from,
            point.exact_size,
            point.reading,
        )
        converted = draft.publish()
    with DigestFold([new.folder / converted.digests], point.virtual_size) as digests:
        layer = new.folder / converted.disk
        phase = tr("Check point {point}", point=point.sequence)
        check_layer(layer, new.settings.format, digests, phase, task)
    return converted


def _copy(old: BackupSet, point: RecoveryPoint, own: DigestFold, draft: Draft, task: Task) -> None:
    """All that the point's own layer holds; raises Damaged unless that is what was captured.

    `own` are the layer's digests.

    Where each layer has its own blocks and hangs on the right one, each chain reads the same.
    """
    old.check_layer(point)
    old.check_link(point)
    layer = Chain.alone(old.disk_path(point), old.settings.format)
    with layer:

        def copy(pieces: Ranges, view: memoryview) -> None:
            blocks, found = blocks_of(pieces, own.block), own.digest(view)
            if differ(found, own.expected(blocks)).any():
                raise Damaged(
                    tr(
                        "Point {point} of {old} is damaged: it is not as it was captured.",
                        point=point.sequence,
                        old=old.name,
                    ),
                    tr("Delete the damaged points before you convert."),
                    remedy=Remedy.VERIFY,
                )
            every = np.ones(len(found), np.bool_)
            write_blocks(draft.disk, blocks, view, every, is_zero(found), own.block)
            draft.digests.add(blocks, found)

        phase = tr("Convert point {point}", point=point.sequence)
        transfer(own.held(), layer.read, copy, phase=phase, task=task)


def _check_space(backup_set: BackupSet) -> None:
    needed = sum(point.stored_bytes for point in backup_set.points) + RESERVE
    check_space(
        backup_set.folder, needed, tr("Converting {backup_set}", backup_set=backup_set.name)
    )
