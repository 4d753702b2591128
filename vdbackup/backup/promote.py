"""Promote: what a virtual machine wrote becomes a recovery point of its own.

The guest saw the point's layers, its overlay, which may be retargeted, and above them its session's
disk, or several, where another program has taken snapshots. Whatever of that differs from the point
can only lie where the overlay or one of those holds something: those ranges are compared by digests
and kept as in a capture, so that time follows the changes and not the disk. The new point is a
child of the session's; the source's next backup goes on from what was captured last, beside it.

The session's disks are only read. They go by whoever asked for it, when the point exists and was
read back and compared with them once more: where they hold anything else by then, they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from vdbackup.backup import merge
from vdbackup.backup.differences import draft_above
from vdbackup.backup.readback import check_layer
from vdbackup.backup.space import RESERVE
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import DiskInfo, VirtualDisk
from vdbackup.disks.extents import BlockMap, Ranges, aligned, blocks_of, total
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.transfer import transfer
from vdbackup.errors import NotPromotable, PointInUse, from_os
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.repository import claims, long_chains, overlays
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold, differ
from vdbackup.repository.files import check_space
from vdbackup.repository.model import Promotion, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.unit_digests import in_units
from vdbackup.repository.written import WrittenPoint, point_of
from vdbackup.translation import tr


@dataclass(frozen=True)
class EndedSession:
    """A session as promotion needs it.

    Attributes:
        id, title: of the session.
        disk: a child of the point's overlay; no machine has it open.
        above: disks that another program has put above it, the machine's current one last.
        overlay_contents: what the overlay held when the session began (repository/overlays.py).
        start: where the point's disk begins on the session's, in bytes: not at 0 where a disk was
            composed around a volume. What the machine wrote beside the volume is no part of it.
    """

    id: str
    title: str
    disk: Path
    overlay_contents: str
    start: int = 0
    above: tuple[Path, ...] = ()

    @property
    def disks(self) -> tuple[Path, ...]:
        """All that the machine wrote, oldest first."""
        return (self.disk, *self.above)


class _Written(Qcow2Disk):
    """What a session's disk holds of the point's.

    Attributes:
        start, size: that stretch of the session's disk, in bytes.
    """

    start: int
    size: int

    def of(self, start: int, point: RecoveryPoint) -> Self:
        """That stretch of a disk that is composed around the point's, or all of one that is not.

        Of one that has another size, all: it is for the caller to refuse.
        """
        whole = super().info.virtual_size
        fits = start + point.virtual_size < whole if start else point.virtual_size == whole
        self.start, self.size = (start, point.virtual_size) if fits else (0, whole)
        return self

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
    doing = tr("looking at what {session} wrote", session=session.title)
    with (
        claims.reading(repository, set_name, [point_id], doing) as backup_set,
        _seen_by_guest(backup_set, point := backup_set.point(point_id), session) as disk,
    ):
        long_chains.check_room(backup_set, point)
        size = total(aligned(_candidates(disk, session, point), BLOCK, disk.size))
    return PromotePlan(
        summary=(
            tr(
                "What {session} wrote, at most {size}, becomes a recovery point of {set_name} "
                "beside those of its source; it reads through point {point}. The session then "
                "goes.",
                session=session.title,
                size=readable_size(size),
                set_name=set_name,
                point=point.sequence,
            )
        ),
        bytes_to_copy=size,
        creates=(
            tr(
                "a layer ({format}), its overlay, digests and manifest",
                format=backup_set.settings.format,
            ),
        ),
        replaces=tuple(map(str, session.disks)),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        session=session,
    )


def run(plan: PromotePlan, task: Task) -> RecoveryPoint:
    """Promote; the new point. If it fails or is cancelled, set and session are as they were.

    Where a crash came between an earlier promotion of the session and its end, the point is there.
    """
    repository = plan.repository
    with repository.lock(
        tr("promoting a session of {set_name}", set_name=plan.set_name), task.cancel
    ):
        merge.finish_interrupted(repository, plan.set_name, task)
        backup_set = repository.set(plan.set_name)
        for each in backup_set.points:
            if each.promoted_from and each.promoted_from.session == plan.session.id:
                _check(backup_set, each, plan, task)
                return each
        promoted = _promoted(backup_set, backup_set.point(plan.point_id), plan.session, task)
        # the number is never given again, even when this point is deleted
        repository.remember_sequence(plan.set_name, promoted.sequence)
        _check(repository.set(plan.set_name), promoted, plan, task)
        return promoted


def _check(
    backup_set: BackupSet,
    promoted: RecoveryPoint,
    plan: PromotePlan,
    task: Task,
) -> None:
    """Read the point back, and the machine's disks again: what they hold goes after this.

    Raises:
        Damaged: the layer is not what was written. BackupError: the disks hold something else, as
            where the machine has written since an earlier promotion.
    """
    disk_format = backup_set.settings.format
    with DigestFold([backup_set.folder / promoted.digests], promoted.virtual_size) as own:
        layer = backup_set.disk_path(promoted)
        check_layer(layer, disk_format, own, tr("Check {disk}", disk=promoted.disk), task)
    origin = backup_set.point(plan.point_id)
    with (
        _seen_by_guest(backup_set, origin, plan.session) as disk,
        backup_set.open_digests(promoted) as fold,
    ):
        held = in_units(fold)

        def compare(pieces: Ranges, view: memoryview) -> None:
            if differ(held.digest(view), held.expected(blocks_of(pieces, BLOCK))).any():
                raise NotPromotable(
                    tr(
                        "Point {promoted} is not all that {session} wrote: the machine has "
                        "written since. The session stays.",
                        promoted=promoted.sequence,
                        session=plan.session.title,
                    ),
                    tr("Delete point {promoted}, and make it again.", promoted=promoted.sequence),
                )

        ranges = _candidates(disk, plan.session, origin)
        transfer(ranges, disk.read, compare, phase=tr("Compare"), task=task)


def _promoted(
    backup_set: BackupSet,
    point: RecoveryPoint,
    session: EndedSession,
    task: Task,
) -> RecoveryPoint:
    with _seen_by_guest(backup_set, point, session) as disk:
        ranges = _candidates(disk, session, point)
        point = backup_set.point(point_of(point.id))  # what a moment holds goes into the layer, too
        check_space(
            backup_set.folder,
            total(ranges) + RESERVE,
            tr("Promoting {session}", session=session.title),
        )
        with draft_above(backup_set, point, ranges, disk.read, tr("Promote"), task) as draft:
            task.check()
            ended = datetime.fromtimestamp(session.disks[-1].stat().st_mtime, UTC)
            draft.complete(
                point.warnings,  # what was not there to be captured is not there now
                unreadable=point.unreadable,
                promoted_from=Promotion(
                    session.id, session.title, ended.isoformat(timespec="seconds")
                ),
            )
            return draft.publish()


def _seen_by_guest(backup_set: BackupSet, point: RecoveryPoint, session: EndedSession) -> Chain:
    """The disk as the guest saw it last: the point's layers, its overlay, the session's disks."""
    disk_format = backup_set.settings.format
    overlay = backup_set.overlay_path(point)
    try:
        for path in session.disks:
            if who := claims.who_has(path):
                raise PointInUse(
                    tr("{session} is still running: {who}.", session=session.title, who=who),
                    tr("Shut it down first."),
                )
        if overlays.contents(overlay, disk_format) != session.overlay_contents:
            raise NotPromotable(
                tr(
                    "The overlay of point {point} has changed since {session} was started on it, "
                    "so what that wrote fits no more.",
                    point=point.sequence,
                    session=session.title,
                ),
                tr("Put the overlay back as it was, or discard the session."),
            )
        written = _opened(session, point)
    except OSError as error:
        raise from_os(error) from error
    try:
        below = backup_set.open_machine_disk(point)
    except BaseException:
        _close(written)
        raise
    try:
        return Chain([*below.layers, *written])
    except BaseException:  # its tables make no sense
        below.close()
        _close(written)
        raise


def _opened(session: EndedSession, point: RecoveryPoint) -> list[VirtualDisk]:
    """The session's disks, as much of them as is the point's."""
    written: list[VirtualDisk] = []
    try:
        for path in session.disks:
            if probe(path) == DiskFormat.QCOW2:
                disk: VirtualDisk = _Written.open_knowing_parent(path).of(session.start, point)
            else:  # VirtualBox's or VMware's; no disk is composed for them
                disk = open_disk(path, probe(path))
            written.append(disk)
            if disk.info.virtual_size != point.virtual_size:
                raise NotPromotable(
                    tr(
                        "The disk of {session} is not as large as that of point {point}.",
                        session=session.title,
                        point=point.sequence,
                    ),
                    tr("Discard the session."),
                )
    except BaseException:
        _close(written)
        raise
    return written


def _close(disks: Sequence[VirtualDisk]) -> None:
    for disk in disks:
        disk.close()


def _candidates(disk: Chain, session: EndedSession, point: RecoveryPoint) -> Ranges:
    """What the overlay, the log of a moment or the session's disks hold, in whole blocks."""
    above = len(session.disks) + (2 if isinstance(point, WrittenPoint) else 1)
    return disk.held_from(len(disk.layers) - above)
