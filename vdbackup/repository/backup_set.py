"""A backup set: all recovery points of one source, and the files that they lie in."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.durable import PARTIAL, check_regular
from vdbackup.errors import (
    Damaged,
    DamagedMetadata,
    NotPermitted,
    PointNotFound,
    PointPinned,
    Remedy,
)
from vdbackup.jobs import sizes_apart
from vdbackup.repository import naming
from vdbackup.repository.journal import Journal
from vdbackup.repository.kept_logs import KeptLog, kept_log
from vdbackup.repository.manifests import BrokenManifest, manifest_path
from vdbackup.repository.model import Pin, RecoveryPoint, SetSettings
from vdbackup.repository.written import WrittenPoint, is_moment, moment, point_of
from vdbackup.translation import tr

if TYPE_CHECKING:  # late: disks bring numpy, and what only lists points needs neither
    from vdbackup.disks.chain import Chain
    from vdbackup.disks.disk import DiskInfo
    from vdbackup.repository.digests import DigestFold


@dataclass(frozen=True)
class BackupSet:
    """All recovery points of one source: a picture taken when it was read.

    Attributes:
        name: also the folder's name.
        points: by sequence; the parent of a merge in flight is not among them.
        journal: of a merge that was interrupted or is running, else None.
        hidden: points that may not be used, but that others read through meanwhile.
        broken: points whose manifests cannot be read. What does not need them goes on; what merges
            or deletes does not (`check_manifests`), for they may read through any other.
        unfinished: a publication or a merge was cut off in it, or is just going on.
    """

    name: str
    folder: Path
    settings: SetSettings
    points: tuple[RecoveryPoint, ...]
    journal: Journal | None = None
    hidden: tuple[RecoveryPoint, ...] = ()
    broken: tuple[BrokenManifest, ...] = ()
    unfinished: bool = False

    def point(self, point_id: str) -> RecoveryPoint:
        """The point with exactly this id, or the moment behind one; raises PointNotFound.

        Of a moment also what `written.moment` raises.
        """
        if is_moment(point_id):
            return moment(self.folder, self.point(point_of(point_id)), point_id)
        if (point := self._by_id.get(point_id)) is not None:
            return point
        raise PointNotFound(
            tr("{name} has no recovery point {point_id}.", name=self.name, point_id=point_id),
            tr("It may have been merged or deleted."),
            remedy=Remedy.LIST_POINTS,
        )

    def children(self, point_id: str) -> list[RecoveryPoint]:
        """The points that read through this one directly, by sequence."""
        return list(self._children.get(point_id, ()))

    def pin(self, point: RecoveryPoint) -> Pin | None:
        """What was said when the point was pinned; None where it is not."""
        return self._pins.get(point.sequence)

    def check_not_pinned(self, point: RecoveryPoint) -> None:
        """Raise PointPinned where the point's moment has to stay."""
        if pin := self.pin(point):
            why = f" ({pin.note})" if pin.note else ""
            raise PointPinned(
                tr(
                    "Point {point} is pinned{why}: it is neither deleted nor merged away.",
                    point=point.sequence,
                    why=why,
                ),
                tr("Unpin it first."),
                remedy=Remedy.UNPIN,
                about=str(point.sequence),
            )

    @cached_property
    def _pins(self) -> dict[int, Pin]:
        return {pin.sequence: pin for pin in self.settings.pins}

    @cached_property
    def _by_id(self) -> dict[str, RecoveryPoint]:
        every = (*self.points, *self.hidden)
        return {point.id: point for point in reversed(every)}  # the first, where two have one id

    @cached_property
    def _children(self) -> dict[str | None, list[RecoveryPoint]]:
        children: dict[str | None, list[RecoveryPoint]] = {}
        for point in self.points:
            children.setdefault(point.parent, []).append(point)
        return children

    def latest_captured(self) -> RecoveryPoint | None:
        """The point that the source's next backup goes on from: not what a VM has made of it."""
        captured = (point for point in reversed(self.points) if point.promoted_from is None)
        return next(captured, None)

    def chain(self, point: RecoveryPoint) -> list[RecoveryPoint]:
        """The points that this one reads through and itself, the full first.

        Raises Damaged where one is missing, RepositoryError where they form a circle.
        """
        chain = [point]
        while chain[-1].parent is not None:
            if len(chain) > len(self.points) + len(self.hidden):
                raise DamagedMetadata(
                    tr("The parents of point {point} form a circle.", point=point.sequence),
                    tr("The manifests can be rebuilt from the disks."),
                    remedy=Remedy.REPAIR,
                )
            try:
                chain.append(self.point(chain[-1].parent))
            except PointNotFound:
                names = ", ".join(each.name for each in self.broken)
                raise Damaged(
                    tr(
                        "The point that point {point} reads through is missing from {name}",
                        point=chain[-1].sequence,
                        name=self.name,
                    )
                    + (tr(", or it is damaged: {names}.", names=names) if names else "."),
                    tr("Use another chain's point; or put its files back, then have it repaired."),
                    remedy=Remedy.REPAIR,
                ) from None
        chain.reverse()
        return chain

    def check_manifests(self) -> None:
        """Raise RepositoryError unless every point is known.

        What is merged or deleted otherwise may be what an unknown one reads through.
        """
        if self.broken:
            first = self.broken[0]
            if first.refused:
                raise NotPermitted(
                    tr(
                        "{first} of {name} may not be read, so nothing is merged or deleted there.",
                        first=first.name,
                        name=self.name,
                    ),
                    tr("Let whoever owns the file do it, or have them let you read it."),
                )
            raise DamagedMetadata(
                tr(
                    "{name} has damaged manifests, so nothing is merged or deleted in it: "
                    "{problem}",
                    name=self.name,
                    problem=first.problem.title,
                ),
                tr("They can be rebuilt from the disks."),
                remedy=Remedy.REPAIR,
            )

    def disk_path(self, point: RecoveryPoint) -> Path:
        """The point's layer; raises Obstructed where something else bears its name, as a link."""
        return _own(self.folder / point.disk)

    def overlay_path(self, point: RecoveryPoint) -> Path:
        """The point's overlay; raises Obstructed as `disk_path` does."""
        return _own(self.folder / point.overlay)

    def open_chain(self, point: RecoveryPoint) -> Chain:
        """The point's disk through all its layers.

        Raises:
            Damaged: a layer is missing, not as long as when it was published, or its disk is not.
            DiskError: the disks' own links do not lead where the manifests say.
        """
        from vdbackup.disks.chain import Chain

        if isinstance(point, WrittenPoint):
            return self._open_moment(point)
        points = self.chain(point)
        for each in points:
            self.check_layer(each, point)
        chain = Chain.open(self.disk_path(point), self.settings.format)
        if [layer.path.name for layer in chain.layers] != [each.disk for each in points]:
            chain.close()
            raise _other_parents(point)
        try:
            for layer, each in zip(chain.layers, points, strict=True):
                check_size(layer.info, each)
        except Damaged:
            chain.close()
            raise
        return chain

    def open_machine_disk(self, point: RecoveryPoint) -> Chain:
        """What a machine from the point is given, its overlay included; raises as `open_chain`."""
        from vdbackup.disks.chain import Chain

        if isinstance(point, WrittenPoint):
            return self._open_moment(point)
        self.open_chain(point).close()  # all layers are there, and as long as they were
        return Chain.open(self.overlay_path(point), self.settings.format)

    def _open_moment(self, moment: WrittenPoint) -> Chain:
        """What its machine had been given, and the writes up to there on top.

        A volume's writes are on top of what was captured of it: its overlay is no part of that.

        Raises also Damaged where the overlay is not what the machine was started on.
        """
        from vdbackup.repository import overlays

        kept = kept_log(self.folder, moment.log)
        below = self.point(point_of(moment.id))
        if kept.protection.source:
            return self._with_writes(self.open_chain(below), kept, moment.write)
        overlay = self.overlay_path(moment)
        if overlays.contents(overlay, self.settings.format) != kept.protection.overlay_contents:
            raise Damaged(
                tr(
                    "The overlay of point {moment} has changed since the machine was started on "
                    "it whose writes are kept, so they fit no more.",
                    moment=moment.sequence,
                ),
                tr("Put the overlay back as it was."),
            )
        return self._with_writes(self.open_machine_disk(below), kept, moment.write)

    @staticmethod
    def _with_writes(below: Chain, kept: KeptLog, write: int) -> Chain:
        """A disk with the first writes of a log on top; closed where that cannot be."""
        from vdbackup.disks.chain import Chain

        try:
            return Chain.topped(below, kept.read().disk(kept.protection.before + write))
        except BaseException:
            below.close()
            raise

    def check_link(self, layer: RecoveryPoint) -> None:
        """Raise DiskError or Damaged unless the layer's own link leads where its manifest says.

        Nor may its disk have another size. Where that holds of each layer of a chain, `open_chain`
        finds all of it.
        """
        from vdbackup.disks.chain import parent_of
        from vdbackup.disks.formats import open_disk

        parent = self.point(layer.parent).disk if layer.parent is not None else None
        with closing(open_disk(self.disk_path(layer), self.settings.format)) as disk:
            check_size(disk.info, layer)
            found = parent_of(disk)
        if (found.name if found else None) != parent:
            raise _other_parents(layer)

    def check_layer(self, layer: RecoveryPoint, wanted: RecoveryPoint | None = None) -> None:
        """Raise Damaged if the layer is missing or has another length than when published.

        FileNotFoundError where the whole set is gone.

        Args:
            layer: whose layer to look at.
            wanted: the point on whose behalf it is needed, for the sentence.
        """
        path = self.disk_path(layer)
        other = wanted is not None and wanted.id != layer.id
        needs = (
            tr(", which point {wanted} needs,", wanted=wanted.sequence) if wanted and other else ""
        )
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if not self.folder.exists():  # not this layer alone: the storage is gone
                raise
            raise Damaged(
                tr(
                    "{path} of point {layer}{needs} is missing from {folder}.",
                    path=path.name,
                    layer=layer.sequence,
                    needs=needs,
                    folder=self.folder,
                ),
                tr("Put the file back, or use a recovery point of another chain."),
            ) from None
        # what is merged into grows, or loses what an earlier merge left behind in it
        merged_into = self.journal is not None and layer.id == self.journal.parent.id
        if size != layer.disk_size and not merged_into:
            now, then = sizes_apart(size, layer.disk_size)
            raise Damaged(
                tr(
                    "{path} of point {layer}{needs} is {now} long instead of {then}: it was cut "
                    "off or altered.",
                    path=path.name,
                    layer=layer.sequence,
                    needs=needs,
                    now=now,
                    then=then,
                ),
                tr("Put the original file back, or use a recovery point of another chain."),
            )

    def open_digests(self, point: RecoveryPoint) -> DigestFold:
        """The digests of the point's whole state."""
        from vdbackup.repository.digests import DigestFold

        if isinstance(point, WrittenPoint):
            from vdbackup.repository.written_digests import WrittenDigests

            base = self.chain(point)[:-1]
            paths = [self.folder / each.digests for each in base]
            return WrittenDigests(paths, self._open_moment(point), len(base))
        paths = [self.folder / each.digests for each in self.chain(point)]
        return DigestFold(paths, point.virtual_size)

    def unlisted_layers(self) -> list[str]:
        """Names of layers that no manifest names, so that `repair` would make points of them.

        Their manifests were lost: what is cut off leaves none (publication.py), but for versions
        until November 2026. Those of a merge that is not finished are its own.
        """
        journal = self.journal
        merged = (journal.parent, journal.child) if journal is not None else ()
        listed = {naming.stem_of(point.disk) for point in (*self.points, *merged)}
        listed |= {naming.stem_of(each.name) for each in self.broken}
        ending = "." + self.settings.format
        names = (name for name in os.listdir(self.folder) if name.endswith(ending))
        return sorted(n for n in names if naming.layer_of(n) and naming.stem_of(n) not in listed)

    def next_sequence(self) -> int:
        """One more than any point ever had, and than any file in the folder bears."""
        names = (name.removesuffix(PARTIAL) for name in os.listdir(self.folder))
        numbers = (naming.number_of(name) or 0 for name in names)
        return max(self.settings.last_sequence, *numbers, 0) + 1


def _other_parents(point: RecoveryPoint) -> Damaged:
    return Damaged(
        tr("The parents inside {disk} are not those that the manifests name.", disk=point.disk),
        tr("A repair finds out which are right."),
        remedy=Remedy.REPAIR,
    )


def check_size(disk: DiskInfo, layer: RecoveryPoint) -> None:
    """Raise Damaged unless the disk in a layer's file has the size that was captured.

    No checksum guards the size that a VMDK, a VHDX or a QCOW2 says it has.
    """
    if disk.virtual_size != layer.virtual_size:
        now, then = sizes_apart(disk.virtual_size, layer.virtual_size)
        raise Damaged(
            tr(
                "{disk} says that its disk has {now}; when it was captured, it had {then}.",
                disk=layer.disk,
                now=now,
                then=then,
            ),
            tr("Put the original file back, or use a recovery point of another chain."),
        )


def point_files(folder: Path, point: RecoveryPoint) -> tuple[Path, ...]:
    """Everything that belongs to a point, its manifest first: the rest counts only with that.

    The report of retargeting and the picture of a boot test need not be there.
    """
    names = (point.disk, point.overlay, point.digests, point.report, point.picture)
    return (manifest_path(folder, point), *(folder / name for name in names))


def _own(path: Path) -> Path:
    """The path of a file of ours, which need not be there; raises Obstructed."""
    with suppress(FileNotFoundError):
        check_regular(path)
    return path
