"""Make a recovery point of a moment: what its machine had written by then goes into a layer.

It is a child of the point that the machine was started from, as a promoted session's is; the log
stays, with all its other moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vdbackup.backup import merge
from vdbackup.backup.differences import draft_above
from vdbackup.backup.readback import check_layer
from vdbackup.backup.space import RESERVE
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, total
from vdbackup.errors import UsageError
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.files import check_space
from vdbackup.repository.kept_logs import kept_log
from vdbackup.repository.model import Promotion, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import grouped, tr


@dataclass(frozen=True, kw_only=True)
class MomentPlan(Plan):
    """What making a point of the moment `moment_id` would do."""

    repository: Repository
    set_name: str
    moment_id: str


def plan(repository: Repository, set_name: str, moment_id: str) -> MomentPlan:
    """What it would do.

    Raises UsageError where it is no moment; PointNotFound, DiskError as it is opened.
    """
    doing = tr("looking at what a machine wrote")
    with claims.reading(repository, set_name, [moment_id], doing) as backup_set:
        moment = _moment(backup_set, moment_id)
        with backup_set.open_chain(moment) as disk:
            size = total(_written(backup_set, moment, disk))
    like = "" if moment.flushed else tr(" No flush came behind it, so it is like a power cut.")
    return MomentPlan(
        summary=(
            tr(
                "The moment after write {write} of {set_name} #{moment}, which differs from that "
                "point in at most {size}, becomes a recovery point that reads through it.{like}",
                write=grouped(moment.write),
                set_name=set_name,
                moment=moment.sequence,
                size=readable_size(size),
                like=like,
            )
        ),
        bytes_to_copy=size,
        creates=(
            tr(
                "a layer ({format}), its overlay, digests and manifest",
                format=backup_set.settings.format,
            ),
        ),
        repository=repository,
        set_name=set_name,
        moment_id=moment.id,
    )


def run(plan: MomentPlan, task: Task) -> RecoveryPoint:
    """Make the point, or find the one that was made of that moment before.

    If it fails or is cancelled, the set is as it was.
    """
    repository = plan.repository
    with repository.lock(
        tr("making a point of a moment of {set_name}", set_name=plan.set_name), task.cancel
    ):
        merge.finish_interrupted(repository, plan.set_name, task)
        backup_set = repository.set(plan.set_name)
        moment = _moment(backup_set, plan.moment_id)
        if (made := _made_before(backup_set, moment)) is not None:
            return made
        point = _kept(backup_set, moment, task)
        repository.remember_sequence(plan.set_name, point.sequence)
        now = repository.set(plan.set_name)
        with DigestFold([now.folder / point.digests], point.virtual_size) as own:
            layer = now.disk_path(point)
            check_layer(layer, now.settings.format, own, tr("Check {disk}", disk=point.disk), task)
        return point


def _made_before(backup_set: BackupSet, moment: WrittenPoint) -> RecoveryPoint | None:
    """The point that was made of the moment already.

    Of what was written before its log began it is none: where a log was forgotten, and its machine
    protected again, the new one bears the same name, and its writes the same numbers.
    """
    began = datetime.fromisoformat(kept_log(backup_set.folder, moment.log).protection.since)
    for each in backup_set.points:
        origin = each.promoted_from
        if origin is None or origin.session != _origin(moment):
            continue
        if datetime.fromisoformat(origin.ended) >= began:
            return each
    return None


def _kept(backup_set: BackupSet, moment: WrittenPoint, task: Task) -> RecoveryPoint:
    below = backup_set.chain(moment)[-2]
    with backup_set.open_chain(moment) as disk:
        ranges = _written(backup_set, moment, disk)
        check_space(backup_set.folder, total(ranges) + RESERVE, tr("Making a point of a moment"))
        with draft_above(backup_set, below, ranges, disk.read, tr("Keep"), task) as draft:
            task.check()
            title = kept_log(backup_set.folder, moment.log).protection.title
            draft.complete(
                below.warnings,
                unreadable=below.unreadable,
                promoted_from=Promotion(_origin(moment), title, moment.created),
            )
            return draft.publish()


def _moment(backup_set: BackupSet, moment_id: str) -> WrittenPoint:
    found = backup_set.point(moment_id)
    if not isinstance(found, WrittenPoint):
        raise UsageError(
            tr("Point {found} is a recovery point already.", found=found.sequence),
            tr("Name a moment behind it, such as 3@2026-11-30T06:15 or 3@w1200."),
        )
    return found


def _origin(moment: WrittenPoint) -> str:
    """What the new point says of where it comes from: no session's id alone, that may stay."""
    return f"{moment.log}.w{moment.write}"


def _written(backup_set: BackupSet, moment: WrittenPoint, disk: Chain) -> Ranges:
    """What the overlay and the log hold, in whole blocks."""
    return disk.held_from(len(backup_set.chain(moment)) - 1)
