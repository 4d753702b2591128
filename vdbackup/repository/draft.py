"""A recovery point in the making: nothing of it counts before its manifest is in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from vdbackup.disks.disk import UNIT, ParentRef, VirtualDisk
from vdbackup.disks.formats import create_disk, open_disk
from vdbackup.disks.names import DiskFormat
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.repository import naming, publication
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digest_writer import DigestWriter
from vdbackup.repository.files import PARTIAL, remove, sync_file, sync_folder
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.lock import check_lock
from vdbackup.repository.manifests import manifest_path
from vdbackup.repository.model import Moment, Promotion, Reading, RecoveryPoint, SourceIdentity
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import LAYER_MODE, SETTINGS, SETTINGS_COPY

MakeLayer = Callable[[Path, ParentRef | None], VirtualDisk]
"""Makes the file of a layer, the child of that parent, open for writing."""


class Draft:
    """The files of a new point while it is captured; in a `with`, they go if that fails.

    Attributes:
        disk: the layer, open for writing.
        digests: the layer's digests, open for adding.
    """

    def __init__(
        self,
        backup_set: BackupSet,
        kind: PointType,
        parent: RecoveryPoint | None,
        virtual_size: int,
        sector_size: int,
        *,
        sequence: int | None = None,
        make_layer: MakeLayer | None = None,
        unit: int = UNIT,
    ) -> None:
        """Begin a point: the next of the set, with an empty layer, if nothing else is said.

        `unit` is that of its chain: bytes in which the layer is written, and of a digest's block.
        """
        self._set = backup_set
        sequence = sequence or backup_set.next_sequence()
        suffix = backup_set.settings.format
        layer = naming.layer_name(sequence, kind, suffix)
        self._point = RecoveryPoint(
            id="", sequence=sequence, created="", type=kind, parent=parent.id if parent else None,
            disk=layer, overlay=naming.overlay_name(sequence, suffix),
            digests=naming.digests_name(layer), disk_size=0, virtual_size=virtual_size,
            sector_size=sector_size, stored_bytes=0,
        )  # fmt: skip
        reference = reference_to(backup_set, parent) if parent else None
        self.digests = DigestWriter(self._partial(self._point.digests), virtual_size, unit)
        try:
            path = self._partial(self._point.disk)
            self.disk: VirtualDisk = (
                make_layer(path, reference)
                if make_layer
                else create_disk(path, suffix, virtual_size, reference, sector_size, unit)
            )
            give_to_owner_of_folder(path)
        except BaseException:
            self.digests.close()
            self._remove_files()
            raise

    @property
    def id(self) -> str:
        """The point's, which is its layer's."""
        return self.disk.info.disk_id or ""

    @property
    def folder(self) -> Path:
        """The set's."""
        return self._set.folder

    @property
    def point(self) -> RecoveryPoint:
        """What its manifest will say, once it is complete."""
        return self._point

    def _partial(self, name: str) -> Path:
        return self._set.folder / (name + PARTIAL)

    def complete(
        self,
        warnings: tuple[str, ...],
        created: datetime | None = None,
        unreadable: tuple[tuple[int, int], ...] = (),
        promoted_from: Promotion | None = None,
        captured_from: SourceIdentity | None = None,
        exact_size: int | None = None,
        reading: Reading | None = None,
        moment: Moment | None = None,
    ) -> RecoveryPoint:
        """Finish all but the names: the point that `publish` makes exist, as of `created` or now.

        The order of writes: layer and digests complete and durable, the empty overlay beside them,
        the layer sealed.
        """
        self.digests.finish()
        self.disk.flush()
        info = self.disk.info
        self.disk.close()
        check_lock(self._set.folder)  # what bears these names by now may be another computer's
        make_overlay(
            self._partial(self._point.overlay),
            self._set.settings.format,
            self._point,
            ParentRef(info.disk_id, info.content_id, self._point.disk),
        )
        created = created or datetime.now(UTC)
        layer = self._partial(self._point.disk)
        point = replace(
            self._point,
            id=info.disk_id or "",
            created=created.isoformat(timespec="milliseconds"),
            disk_size=layer.stat().st_size,
            stored_bytes=self.digests.held_bytes,
            warnings=warnings,
            unreadable=unreadable,
            promoted_from=promoted_from,
            captured_from=captured_from,
            exact_size=exact_size,
            reading=reading,
            moment=moment,
        )
        seal(layer, point)
        self._point = point
        return point

    def publish(self) -> RecoveryPoint:
        """Make the point exist that is complete; a crash leaves the set as it was, or the point."""
        publish_together([self])
        return self._point

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Discard it where it was not made to the end, whatever came: a Ctrl-C, too."""
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Remove everything: the capture failed or was cancelled. A point that exists stays."""
        self.digests.close()
        self.disk.close()
        self._remove_files()

    def _remove_files(self) -> None:
        if not manifest_path(self._set.folder, self._point).exists():
            publication.withdraw(self._set.folder, self._point)


def publish_together(drafts: Sequence[Draft]) -> None:
    """Make the points of complete drafts exist, as publication.py has it.

    All lie in flight, whole, before the first takes its name: from then on whoever opens the
    repository for writing next makes all of them exist. A crash before that leaves the sets as they
    were, or some of the points.
    """
    for draft in drafts:
        publication.prepare(draft.folder, draft.point)
    for draft in drafts:
        publication.publish(draft.folder, draft.point)


def make_overlay(
    path: Path, disk_format: DiskFormat, point: RecoveryPoint, parent: ParentRef
) -> None:
    """Make an empty child of the point's layer, which `parent` names; durable."""
    overlay = create_disk(path, disk_format, point.virtual_size, parent, point.sector_size)
    try:
        give_to_owner_of_folder(path)
        overlay.flush()
    finally:
        overlay.close()


def seal(path: Path, point: RecoveryPoint) -> None:
    """Let nobody write to a layer any more; durable, for no later fsync is of this file.

    Its modification time becomes the point's moment: a lost manifest is rebuilt from it.
    """
    moment = datetime.fromisoformat(point.created).timestamp()
    os.utime(path, (moment, moment))
    path.chmod(LAYER_MODE)
    sync_file(path)


def reference_to(backup_set: BackupSet, point: RecoveryPoint) -> ParentRef:
    """How a child names the point's layer."""
    layer = open_disk(backup_set.disk_path(point), backup_set.settings.format)
    info = layer.info
    layer.close()
    return ParentRef(info.disk_id, info.content_id, point.disk)


def sweep(folder: Path, but: Collection[int] = ()) -> None:
    """Remove what an interruption left; the caller holds the lock.

    What publication.finish makes of a point must have been made before.

    What others write without the lock stays, holds and claims for example, and so does whatever has
    no name of ours: it may be somebody's own.

    Args:
        folder: the set's.
        but: numbers of points that a merge is at: what lies in flight of them is its own.
    """
    left = (name for name in os.listdir(folder) if _is_left(name))
    names = [name for name in left if naming.number_of(name.removesuffix(PARTIAL)) not in but]
    for name in names:
        remove(folder / name)
    if names:
        sync_folder(folder)  # none of it may come back beside what gets the same name


def _is_left(name: str) -> bool:
    whose = name.removesuffix(PARTIAL)
    ours = naming.number_of(whose) is not None or whose in (SETTINGS, SETTINGS_COPY, JOURNAL_NAME)
    return whose != name and ours
