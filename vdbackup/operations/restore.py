"""Restore: a point, or partitions of it, goes to a file or device, as it was.

Before that somebody chooses where to, and has to see what that would cost: `targets` lists what
there is, the disk that the source was first, and says of each why it cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup.belonging import known_facts
from vdbackup.jobs import sizes_apart
from vdbackup.recovery.hindrances import hindrance
from vdbackup.recovery.restore import Restored, RestorePlan, RestoreRequest, format_of, plan, run
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
from vdbackup.sources import inventory
from vdbackup.sources.devices import facts_of_device
from vdbackup.sources.identity import Facts, Verdict, compare
from vdbackup.sources.inventory import Content, Device
from vdbackup.translation import tr

__all__ = [
    "RestorePlan",
    "RestoreRequest",
    "RestoreTarget",
    "Restored",
    "format_of",
    "parts",
    "plan",
    "run",
    "targets",
]


@dataclass(frozen=True)
class RestoreTarget:
    """A device of this computer that a point could be restored to.

    Attributes:
        device: what it is, and what lies on it.
        is_origin: whether it is the source that the point was captured from, as far as that can be
            told by what is known of both.
        refusal: why nothing may be written to it, a sentence; "" where it can be.
    """

    device: Device
    is_origin: bool
    refusal: str


def targets(repository: Repository, set_name: str, needed: int) -> list[RestoreTarget]:
    """What a point could be restored to: where it came from first, what is refused last.

    Args:
        repository: where the point is.
        set_name: its set.
        needed: bytes of what would be written.

    Raises:
        DevicesNotListed: the block devices cannot be listed.
    """
    known = known_facts(repository.settings(set_name))
    found = [
        RestoreTarget(each, _is_origin(known, each.path), _refusal(each, repository.path, needed))
        for each in inventory.disks()
    ]
    return sorted(found, key=lambda each: (bool(each.refusal), not each.is_origin))


def _is_origin(known: Facts, path: Path) -> bool:
    """By its numbers or, where it has none, by its name: what is written on it may be gone."""
    found = compare(known, facts_of_device(path))
    if found.verdict is Verdict.UNSURE:
        return "paths" in found.agree
    return found.verdict is Verdict.SAME


def _refusal(device: Device, repository: Path, needed: int) -> str:
    if problem := hindrance(device.path, repository):
        return problem.title
    if device.size < needed:
        there, wanted = sizes_apart(device.size, needed)
        return tr(
            "{device} is too small: it has {there}, and {wanted} are needed.",
            device=device.path,
            there=there,
            wanted=wanted,
        )
    return ""


def parts(repository: Repository, set_name: str, point_id: str) -> tuple[Content, ...]:
    """The partitions of the disk in a point; raises DiskError, RepositoryError, PointInUse."""
    with claims.open_point(
        repository, set_name, point_id, tr("looking at the partitions")
    ) as chain:
        return inventory.contents_of(chain)
