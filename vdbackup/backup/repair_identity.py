"""Repair of identities: a layer that another program has opened for writing gets its own one back.

Programs give a disk a new identity when they write to it, or only might (VMDK: CID, VHDX:
DataWriteGuid), and its children then refuse it. Whether it is still what was captured is not for an
identity to say: its digests do.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.backup.merged_layer import WRITABLE_MODE
from vdbackup.backup.readback import check_whole_layer
from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.formats import open_disk
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import Damaged, DiskError, Obstructed, RepositoryError
from vdbackup.jobs import Task
from vdbackup.repository import claims, naming
from vdbackup.repository.digest_file import DigestFile
from vdbackup.repository.draft import seal
from vdbackup.repository.files import read_json, write_json
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.translation import tr


@dataclass(frozen=True)
class Layer:
    """A layer file as it speaks for itself."""

    path: Path
    sequence: int
    kind: PointType
    format: DiskFormat
    info: DiskInfo


def mend(
    folder: Path,
    layer: Layer,
    others: Sequence[DiskInfo],
    done: list[str],
    task: Task,
) -> Layer | None:
    """The layer, with the identity that its manifest and its children know it by.

    Args:
        folder: the set's.
        layer: to be looked at.
        others: the set's disks, its children among them.
        done: what was done is added, a sentence each.
        task: what it reports to, and what stops it.

    Returns:
        None where it is not what was captured: nothing may be made from it.
    """
    point = _manifest(layer)
    digests = naming.digests_beside(layer.path)
    if point is None or not valid_digests(digests, layer.info.virtual_size):
        return layer  # nothing can be proven
    strangers = [ref for ref in _references(layer, others) if not ref.means(layer.info)]
    length = layer.path.stat().st_size
    if not strangers and layer.info.disk_id == point.id and length == point.disk_size:
        return layer
    name = f"{folder.name}: {layer.path.name}"
    if who := claims.who_keeps(layer.path):
        done.append(
            tr(
                "{name} has another identity than its children know, and is in use: {who}.",
                name=name,
                who=who,
            )
        )
        return None
    try:
        phase = tr("Prove point {layer}", layer=layer.sequence)
        check_whole_layer(layer.path, layer.format, digests, phase, task)
        content_id = strangers[0].content_id if strangers else ""
        info = _adopt(layer, point, content_id or layer.info.content_id)
    except (Damaged, DiskError) as error:
        done.append(
            tr("{name} was altered and stays as it is: {error}", name=name, error=error.title)
        )
        return None
    length = layer.path.stat().st_size
    write_json(naming.manifest_beside(layer.path), replace(point, disk_size=length).to_json())
    done.append(
        tr(
            "{name} had been altered, but holds what was captured: it has its identity back.",
            name=name,
        )
    )
    return replace(layer, info=info)


def mend_name(path: Path, info: DiskInfo, point: RecoveryPoint | None) -> bool:
    """Let a disk of the set say the name that its file has; whether that was to be done.

    Merges left the old name in a VMDK's extent line (until 2026), by which some readers look for
    the extent. One sector changes, and it is all old or all new.

    Args:
        path: a layer or an overlay.
        info: what it says of itself.
        point: whose layer it is; None of an overlay.
    """
    named = info.file_name in (None, path.name)
    if named or not info.disk_id or claims.who_keeps(path):
        return False
    if point is not None:
        path.chmod(WRITABLE_MODE)
    try:
        disk = open_disk(path, info.format, writable=True)
        try:
            disk.adopt(info.disk_id, info.content_id)
        finally:
            disk.close()
    except DiskError:
        return False  # a layout that is not ours: nobody can name it anew
    finally:
        if point is not None:
            seal(path, point)
    return True


def seal_again(layer: Layer) -> bool:
    """Let nobody write to a layer that a repair which was cut off left open; whether that was so.

    Its identity was right by then, or its name: nothing else tells that it had not been sealed.
    """
    point = _manifest(layer)
    if point is None or not _is_open(layer.path):
        return False
    seal(layer.path, point)
    return not _is_open(layer.path)  # some shares know no modes


def _is_open(path: Path) -> bool:
    """Whether anybody may write to it, by its mode."""
    return bool(path.stat().st_mode & 0o222)


def _references(layer: Layer, others: Sequence[DiskInfo]) -> list[ParentRef]:
    """How other disks of the set name this one."""
    parents = [other.parent for other in others if other.parent]
    return [ref for ref in parents if re.split(r"[/\\]", ref.relative_path)[-1] == layer.path.name]


def _adopt(layer: Layer, point: RecoveryPoint, content_id: str) -> DiskInfo:
    layer.path.chmod(WRITABLE_MODE)
    try:
        disk = open_disk(layer.path, layer.format, writable=True)
        try:
            disk.adopt(point.id, content_id)
            return disk.info
        finally:
            disk.close()
    finally:
        seal(layer.path, point)


def _manifest(layer: Layer) -> RecoveryPoint | None:
    """What is known of a layer; None where that is damaged, and where no layer can have its id."""
    try:
        point = RecoveryPoint.from_json(read_json(naming.manifest_beside(layer.path)))
        uuid.UUID(point.id)
    except (RepositoryError, FileNotFoundError, ValueError):
        return None
    return point


def valid_digests(path: Path, virtual_size: int) -> bool:
    """Whether it is a whole file of digests of a disk with so many bytes.

    Raises RepositoryError where a newer version made it; OSError, too: what the storage does not
    give now may be whole.
    """
    if not path.exists():
        return False
    try:
        with closing(DigestFile(path, virtual_size)) as digests:
            digests.prove()
    except (DiskError, Obstructed):
        return False
    return True
