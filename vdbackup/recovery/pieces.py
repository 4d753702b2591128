"""What of a point's disk goes where: the whole of it, or partitions, each onto a device of its own.

A device is looked at here, and refused, before anything is written to any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.errors import NotInPoint, RecoveryError, Remedy, TargetExists, UnfitTarget
from vdbackup.recovery import restore_journal
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.placed import Stretch
from vdbackup.recovery.restore_journal import Found, Record, Target
from vdbackup.recovery.target import Identity, check_device, description, identity, losing
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.inventory import (
    Device,
    device,
    is_partition,
    partition_node,
    partitions_on,
    place_of_partition,
)
from vdbackup.translation import tr
from vdbackup.volumes import places
from vdbackup.volumes.partitions import Partition, Table, read_table
from vdbackup.volumes.places import Window


@dataclass(frozen=True)
class Goal:
    """Where a restore goes.

    Attributes:
        repository: the folder of the backups.
        target: as it was named.
        point_id: of the point.
        overwrite: whether what lies there may be written over.
        fits: whether a device of another size will do, too: the disk is fitted to it.
        journals: the folder in which it is noted how far it comes; None where it is not.
    """

    repository: Path
    target: Path
    point_id: str
    overwrite: bool
    fits: bool
    journals: Path | None


@dataclass(frozen=True)
class Piece:
    """A stretch of a point's disk, and where it goes.

    Attributes:
        number: of the partition that it is; 0 for the whole disk.
        stretch: where it lies.
        target: a device that is written over, or a file.
        found: what the target was when it was planned; None where there was nothing.
        lying_there: what the device is, and what lies on it; None of a file.
        interrupted: how far an earlier restore to it has come.
        spare: bytes of the device behind it; below 0 where it is too small.
    """

    number: int
    stretch: Stretch
    target: Path
    found: Identity | None
    lying_there: Device | None
    interrupted: Found
    spare: int = 0


@dataclass(frozen=True)
class Part:
    """What is wanted of a point's disk.

    Attributes:
        partition: None for the whole disk.
        size: in bytes.
    """

    partition: Partition | None
    size: int

    @property
    def number(self) -> int:
        """Of the partition; 0 for the whole disk."""
        return self.partition.number if self.partition else 0

    @property
    def stretch(self) -> Stretch:
        """Where in the disk it lies."""
        return Stretch(self.partition.offset if self.partition else 0, self.size)


def wanted_stretches(chain: Chain, point: RecoveryPoint, numbers: Sequence[int]) -> list[Part]:
    """The partitions of those numbers, or the whole disk where none is named.

    Raises NotInPoint where there is no such partition.
    """
    if not numbers:
        return [Part(None, point.virtual_size)]
    there = {each.number: each for each in _table(chain).partitions}
    found = []
    for number in dict.fromkeys(numbers):
        partition = there.get(number)
        if partition is None:
            known = ", ".join(map(str, there)) or tr("none")
            raise NotInPoint(
                tr(
                    "The disk in point {point} has no partition {number}.",
                    point=point.sequence,
                    number=number,
                ),
                tr("Its partitions are: {known}.", known=known),
            )
        if partition.offset + partition.size > chain.size:
            raise NotInPoint(
                tr(
                    "Partition {number} of point {point} reaches beyond the end of the disk.",
                    number=number,
                    point=point.sequence,
                ),
                tr("Restore the whole disk."),
            )
        found.append(Part(partition, partition.size))
    return found


def _table(chain: Chain) -> Table:
    whole = Window.opened(chain, ((0, chain.size),))
    return read_table(whole, chain.size, chain.sector_size)


def to_file(goal: Goal, parts: Sequence[Part], *, existing: bool) -> Piece:
    """A piece that goes to a file; raises UnfitTarget where there are several."""
    if len(parts) > 1:
        raise UnfitTarget(
            tr("Several partitions do not go to one file, {target}.", target=goal.target),
            tr("Restore each to a file of its own, or all to a disk with such partitions."),
        )
    (part,) = parts
    record = Record.new(Target(str(goal.target)), goal.point_id, part.stretch)
    interrupted = Found(record)
    if existing:
        interrupted = _interrupted(goal, goal.target, part, 0)
    found = identity(goal.target)
    return Piece(part.number, part.stretch, goal.target, found, None, interrupted)


def to_devices(goal: Goal, chain: Chain, parts: Sequence[Part]) -> tuple[Piece, ...]:
    """The pieces, each with the device that it goes to.

    One partition goes to the device that is named, or to the same partition of it where it is a
    disk that has any; several go to the same partitions of a disk.

    Raises:
        UnfitTarget: a device is in use, too small, or none of that kind.
    """
    return tuple(_to_device(goal, chain, part, _own(goal, part, parts)) for part in parts)


def _own(goal: Goal, part: Part, parts: Sequence[Part]) -> Path:
    """The device that a part of the disk goes to, or all of it."""
    if part.partition is None or (len(parts) == 1 and is_partition(goal.target)):
        return goal.target
    there = {each.number: each for each in partitions_on(goal.target)}
    if not there and len(parts) == 1:
        return goal.target
    wanted, found = part.partition, there.get(part.number)
    if found is None:
        numbers = ", ".join(map(str, there)) or tr("none")
        raise UnfitTarget(
            tr(
                "{target} has no partition {part} (it has: {numbers}).",
                target=goal.target,
                part=part.number,
                numbers=numbers,
            ),
            tr("Name the partition that it should go to, or make one like it first."),
        )
    if found.kind and wanted.kind and found.kind != wanted.kind:
        raise UnfitTarget(
            tr(
                "Partition {part} of {target} is of another type than the one in the recovery "
                "point ({kind}, and not {kind_2}).",
                part=part.number,
                target=goal.target,
                kind=found.kind,
                kind_2=wanted.kind,
            ),
            tr("Name the partition that it should go to, if that one is meant."),
        )
    node = partition_node(goal.target, part.number)
    if node is None:
        raise UnfitTarget(
            tr(
                "The kernel does not show partition {part} of {target}.",
                part=part.number,
                target=goal.target,
            ),
            tr("Let it read the table: partprobe {target}", target=goal.target),
        )
    if place_of_partition(node) != (found.offset, found.size):
        raise UnfitTarget(
            tr(
                "The kernel shows partition {part} of {target} elsewhere than the table on it "
                "does.",
                part=part.number,
                target=goal.target,
            ),
            tr("Let it read the table: partprobe {target}", target=goal.target),
        )
    return node


def _to_device(goal: Goal, chain: Chain, part: Part, target: Path) -> Piece:
    if problem := hindrance(target, goal.repository):
        raise problem
    lying_there = device(target)
    if not goal.overwrite:
        raise TargetExists(
            tr(
                "{target} is a block device ({lying_there}): everything on it would be lost. "
                "{lying_there_2}",
                target=target,
                lying_there=description(lying_there),
                lying_there_2=losing(lying_there),
            ),
            tr("Choose another target, unless that is what you want."),
            remedy=Remedy.OVERWRITE,
        )
    needed = 0 if goal.fits else part.size
    sectors = None if goal.fits else _sector_size(chain)
    size = check_device(target, needed, sectors, part.number)
    interrupted = _interrupted(goal, target, part, size)
    found = identity(target)
    spare = size - part.size
    return Piece(part.number, part.stretch, target, found, lying_there, interrupted, spare)


def _sector_size(chain: Chain) -> int:
    """Bytes of the sectors that the disk's tables count in; its own where there are none."""
    try:
        return places.find(chain)[0]
    except RecoveryError:  # a damaged table
        return chain.sector_size


def _interrupted(goal: Goal, target: Path, part: Part, size: int) -> Found:
    """What an earlier restore of the point to that target has left."""
    wanted = Record.new(Target.of(target, size), goal.point_id, part.stretch)
    return restore_journal.find(goal.journals, wanted)
