"""Disks that a machine has beside that which it starts from: its own, and those of other points.

Chosen files are such a disk: the system of another point reads them from its second disk. What it
writes there goes to a disk of the session's, as everything does.

A system that finds the same disk twice may start from the wrong one, or write to either. So no disk
is attached that is one of the machine's, or bears the number of a file system that one of those
bears: an older point of it, or a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import CannotBoot, RecoveryError
from vdbackup.guest.disk import Disk
from vdbackup.recovery.sessions.record import Origin
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr


@dataclass(frozen=True)
class OtherDisk:
    """A disk of a machine beside that which it starts from.

    Attributes:
        overlay: the tip of its chain.
        disk_format: of that.
        origin: the recovery point that the overlay belongs to.
    """

    overlay: Path
    disk_format: DiskFormat
    origin: Origin


@dataclass(frozen=True)
class Attachment:
    """A recovery point whose disk a machine is to get beside its own.

    Attributes:
        repository: the folder.
        set_name: the set.
        point: the point's id, or what else `Repository.find` takes.
    """

    repository: Path
    set_name: str
    point: str

    def find(self) -> tuple[Repository, str, RecoveryPoint]:
        """It, as it is there; raises RepositoryError."""
        repository = Repository.open(self.repository)
        backup_set, point = repository.find(self.point, self.set_name)
        return repository, backup_set.name, point


def check_sets(
    repository: Repository, points: Mapping[str, RecoveryPoint], attach: Iterable[Attachment]
) -> None:
    """Raise CannotBoot where a set is to be attached twice, or to a machine that has it already."""
    taken = {repository.path.resolve() / name for name in points}
    for each in attach:
        place = each.repository.resolve() / each.set_name
        if place in taken:
            raise CannotBoot(
                tr("The machine has a disk of {set_name} already.", set_name=each.set_name),
                tr("Attach another one; or look at two points of a disk one after the other."),
            )
        taken.add(place)


def check_apart(
    own: Iterable[Chain], attached: Sequence[OtherDisk], chains: Sequence[Chain]
) -> None:
    """Raise CannotBoot where a file system would be there twice; DiskError, OSError.

    Args:
        own: the machine's disks.
        attached: what it gets beside them.
        chains: those, opened.
    """
    if not attached:
        return
    there = {number for chain in own for number in _numbers(chain)}
    for each, chain in zip(attached, chains, strict=True):
        numbers = _numbers(chain)
        if numbers & there:
            raise CannotBoot(
                tr(
                    "{set_name} holds the same file system as another disk of the machine, which "
                    "could take one for the other.",
                    set_name=each.origin.set_name,
                ),
                tr("Attach another one; or look at two points of a disk one after the other."),
            )
        there |= numbers


def _numbers(chain: Chain) -> set[str]:
    """The UUIDs of a disk's file systems; of one whose tables are damaged none are known."""
    try:
        systems = Disk(chain).file_systems.values()
    except RecoveryError:
        return set()
    return {system.uuid.lower() for system in systems if system.uuid}
