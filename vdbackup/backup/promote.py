"""Promote: what a virtual machine wrote becomes a recovery point of its own.

The guest saw the point's layers, its overlay, which may be retargeted, and its session's disk above
them. Whatever of that differs from the point can only lie where the overlay or the session's disk
holds something: those ranges are compared by digests and kept as in a capture, so that time follows
the changes and not the disk. The new point is a child of the session's; the source's next backup
goes on from what was captured last, beside it.

The session's disk is read only; it goes when the point exists, by whoever asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import merge
from vdbackup.backup.capture import RESERVE, keep_changes, state_of
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo
from vdbackup.disks.extents import BlockMap, Ranges, aligned, total, union
from vdbackup.disks.qcow2 import Qcow2Disk
from vdbackup.errors import BackupError, PointInUse, from_os
from vdbackup.jobs import CancelToken, Plan, Report, readable_size
from vdbackup.repository import overlays
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.draft import Draft
from vdbackup.repository.files import check_room
from vdbackup.repository.lock import used_by_vm
from vdbackup.repository.model import PointType, Promotion, RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository


@dataclass(frozen=True)
class EndedSession:
    """A session as promotion needs it.

    Attributes:
        id, title: of the session.
        disk: a QCOW2 child of the point's overlay; no machine has it open.
        overlay_contents: what the overlay held when the session began (repository/overlays.py).
        start: where the point's disk begins on the session's, in bytes: not at 0 where a disk was
            composed around a volume. What the machine wrote beside the volume is no part of it.
    """

    id: str
    title: str
    disk: Path
    overlay_contents: str
    start: int = 0


class _Written(Qcow2Disk):
    """What a session's disk holds of the point's.

    Attributes:
        start, size: that stretch of the session's disk, in bytes.
    """

    start: int
    size: int

    def fits(self, *, composed: bool) -> bool:
        """Whether the file's disk has that stretch, and more around it only if it is `composed`."""
        whole, end = super().info.virtual_size, self.start + self.size
        return end < whole if composed else end == whole

    def block_map(self) -> BlockMap:
        """Of that stretch."""
        return super().block_map().part(self.start, self.size)

    @property
    def info(self) -> DiskInfo:
        """The facts, as if that stretch were all."""
        return replace(super().info, virtual_size=self.size)


@dataclass(frozen=True, kw_only=True)
class PromotePlan(Plan):
    """What promoting `session`, which lies on `point_id`, would do."""

    repository: Repository
    set_name: str
    point_id: str
    session: EndedSession


def plan(
    repository: Repository, set_name: str, point_id: str, session: EndedSession
) -> PromotePlan:
    """What promoting the session would do; raises PointInUse while its machine runs."""
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    with _seen_by_guest(backup_set, point, session) as disk:
        size = total(_candidates(disk))
    return PromotePlan(
        summary=(
            f"What {session.title} wrote, at most {readable_size(size)}, becomes a recovery point "
            f"of {set_name} beside those of its source; it reads through point {point.sequence}. "
            "The session then goes."
        ),
        bytes_to_copy=size,
        creates=(f"a layer ({backup_set.settings.format}), its overlay, digests and manifest",),
        replaces=(str(session.disk),),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        session=session,
    )


def run(plan: PromotePlan, report: Report, cancel: CancelToken) -> RecoveryPoint:
    """Promote; the new point. If it fails or is cancelled, set and session are as they were.

    Where a crash came between an earlier promotion of the session and its end, the point is there.
    """
    repository = plan.repository
    with repository.lock(f"promoting a session of {plan.set_name}"):
        merge.finish_interrupted(repository, plan.set_name, report, cancel)
        backup_set = repository.set(plan.set_name)
        for each in backup_set.points:
            if each.promoted_from and each.promoted_from.session == plan.session.id:
                return each
        promoted = _promoted(
            backup_set, backup_set.point(plan.point_id), plan.session, report, cancel
        )
        # the number is never given again, even when this point is deleted
        repository.remember_sequence(plan.set_name, promoted.sequence)
        return promoted


def _promoted(
    backup_set: BackupSet,
    point: RecoveryPoint,
    session: EndedSession,
    report: Report,
    cancel: CancelToken,
) -> RecoveryPoint:
    with _seen_by_guest(backup_set, point, session) as disk:
        ranges = _candidates(disk)
        check_room(backup_set.folder, total(ranges) + RESERVE, f"Promoting {session.title}")
        draft = Draft(
            backup_set, PointType.INCREMENTAL, point, point.virtual_size, point.sector_size
        )
        try:
            with state_of(backup_set, point, point.virtual_size) as state:
                keep_changes(draft, state, ranges, disk.readinto, "Promote", report, cancel)
            cancel.check()
            ended = datetime.fromtimestamp(session.disk.stat().st_mtime, UTC)
            return draft.publish(
                point.warnings,  # what was not there to be captured is not there now
                unreadable=point.unreadable,
                promoted_from=Promotion(
                    session.id, session.title, ended.isoformat(timespec="seconds")
                ),
            )
        except BaseException:
            draft.discard()
            raise


def _seen_by_guest(backup_set: BackupSet, point: RecoveryPoint, session: EndedSession) -> Chain:
    """The disk as the guest saw it last; its last two layers are the overlay and the session's."""
    disk_format = backup_set.settings.format
    overlay = backup_set.overlay_path(point)
    try:
        if used_by_vm(session.disk):
            raise PointInUse(f"{session.title} is still running.", "Shut it down first.")
        backup_set.open_chain(point).close()  # all layers are there, and as long as they were
        if overlays.contents(overlay, disk_format) != session.overlay_contents:
            raise BackupError(
                f"The overlay of point {point.sequence} has changed since {session.title} was "
                "started on it, so what that wrote fits no more.",
                "Put the overlay back as it was, or discard the session.",
            )
        written = _Written.open_knowing_parent(session.disk)
    except OSError as error:
        raise from_os(error) from error
    try:
        written.start, written.size = session.start, point.virtual_size
        if not written.fits(composed=session.start > 0):
            raise BackupError(
                f"The disk of {session.title} is not as large as that of point {point.sequence}.",
                "Discard the session.",
            )
        below = Chain.open(overlay, disk_format)
    except BaseException:
        written.close()
        raise
    try:
        return Chain([*below.layers, written])
    except BaseException:  # its tables make no sense
        below.close()
        written.close()
        raise


def _candidates(disk: Chain) -> Ranges:
    """What the overlay or the session's disk holds, in whole blocks."""
    own = [layer.block_map().own_ranges() for layer in disk.layers[-2:]]
    return union(*(aligned(ranges, BLOCK, disk.size) for ranges in own))
