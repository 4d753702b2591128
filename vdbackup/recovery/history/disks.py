"""The disks of a set's points, one after the other, oldest first.

A chain is not opened anew for each: where a point is the child of the one before, its layer is put
on top. So all of a long set costs as much as there is in it, and not that for each of its points.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, as_ranges, union
from vdbackup.disks.formats import open_disk
from vdbackup.errors import VdbackupError, from_os
from vdbackup.recovery.history.changes import not_shared
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint


@dataclass(frozen=True, eq=False)
class Moment:
    """A point and its disk, open until the next one is asked for.

    Attributes:
        point: the recovery point.
        disk: what it holds; None where that cannot be read.
        maybe: what may differ from the moment before that could be read, in bytes; None where
            nothing is known of that.
        problem: why it cannot be read.
    """

    point: RecoveryPoint
    disk: Chain | None
    maybe: Ranges | None = None
    problem: VdbackupError | None = None


def in_order(backup_set: BackupSet, points: Sequence[RecoveryPoint]) -> Generator[Moment]:
    """The points, by sequence; whoever asks has claimed them, and closes the iterator."""
    last: tuple[RecoveryPoint, Chain] | None = None
    maybe: Ranges | None
    try:
        for point in points:
            try:
                if last is not None and point.parent == last[0].id:
                    disk, maybe = _on_top(backup_set, last[1], point)
                else:
                    disk, maybe = _anew(backup_set, last and last[1], point)
            except (VdbackupError, OSError) as error:
                known = from_os(error) if isinstance(error, OSError) else error
                yield Moment(point, None, problem=known)
                continue
            last = point, disk
            yield Moment(point, disk, maybe)
    finally:
        if last is not None:
            last[1].close()


def _on_top(backup_set: BackupSet, below: Chain, point: RecoveryPoint) -> tuple[Chain, Ranges]:
    backup_set.check_layer(point)
    backup_set.check_link(point)
    tip = open_disk(backup_set.disk_path(point), backup_set.settings.format)
    maybe = tip.block_map().own_ranges()
    sizes = sorted((below.size, tip.info.virtual_size))
    grown = [(sizes[0], sizes[1] - sizes[0])] if sizes[0] < sizes[1] else []
    return Chain.topped(below, tip), union(maybe, as_ranges(grown))


def _anew(
    backup_set: BackupSet, before: Chain | None, point: RecoveryPoint
) -> tuple[Chain, Ranges | None]:
    disk = backup_set.open_chain(point)
    if before is None:
        return disk, None
    with closing(before):
        return disk, not_shared(before, disk)
