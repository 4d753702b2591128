"""The manifests of a set's points: found, read, and understood once each time they change."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from vdbackup.durable import read_own
from vdbackup.errors import DamagedMetadata, Remedy, RepositoryError, VdbackupError, from_os
from vdbackup.repository import naming
from vdbackup.repository.files import parse_json
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

_known: dict[str, tuple[bytes, RecoveryPoint]] = {}
"""By path, of each manifest that was read, its checksum and what it says.

A set is read afresh several times in each operation, and what its manifests say took more of the
time of a merge among 1,000 points than the merge. They are read each time, and understood once.
"""
_MAX_KNOWN = 20_000


@dataclass(frozen=True)
class BrokenManifest:
    """A point whose manifest cannot be read: nothing is known of it but its number.

    Attributes:
        name: the file's.
        sequence: the number in it, which no other point gets.
        problem: what is wrong with it.
        refused: whether we only may not read it: then it may be whole.
    """

    name: str
    sequence: int
    problem: VdbackupError
    refused: bool = False


def manifest_path(folder: Path, point: RecoveryPoint) -> Path:
    """Where a point's manifest lies: beside its layer, "0001-full.vmdk" -> "0001-full.json"."""
    return naming.manifest_beside(folder / point.disk)


def read_manifests(folder: Path) -> tuple[list[RecoveryPoint], list[BrokenManifest]]:
    """The points of a set, and the manifests that are damaged; in no order."""
    points: dict[str, RecoveryPoint] = {}
    broken = []
    for name in sorted(os.listdir(folder)):
        number = naming.number_of_manifest(name)
        if number is None:
            continue
        try:
            point = _manifest(folder, name)
            if point.id in points:
                raise DamagedMetadata(
                    tr(
                        "{folder} is damaged: {disk} has the same id.",
                        folder=folder / name,
                        disk=points[point.id].disk,
                    ),
                    tr("It can be rebuilt from the disks."),
                    remedy=Remedy.REPAIR,
                )
            points[point.id] = point
        except FileNotFoundError:
            if not folder.exists():  # not this manifest alone: the storage is gone
                raise
        except (RepositoryError, OSError) as error:
            problem = from_os(error) if isinstance(error, OSError) else error
            refused = isinstance(error, PermissionError)
            broken.append(BrokenManifest(name, number, problem, refused))
    return list(points.values()), broken


def _manifest(folder: Path, name: str) -> RecoveryPoint:
    """A point from its manifest."""
    path = os.path.join(folder, name)  # made and looked up in a fraction of the time of a Path
    content = read_own(path)
    checksum = blake3(content).digest()
    known = _known.get(path)
    if known is not None and known[0] == checksum:
        return known[1]
    point = understood(folder, name, content)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[path] = checksum, point
    return point


def understood(folder: Path, name: str, content: bytes) -> RecoveryPoint:
    """What a manifest says, which must not speak of another point's files."""
    point = RecoveryPoint.from_json(parse_json(os.path.join(folder, name), content), name)
    if not naming.belong_together(name, point.disk, point.digests, point.overlay):
        raise DamagedMetadata(
            tr("{folder} is damaged: it names files of another point.", folder=folder / name),
            tr("It can be rebuilt from the disks."),
            remedy=Remedy.REPAIR,
        )
    return point
