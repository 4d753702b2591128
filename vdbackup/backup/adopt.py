"""Adopt: a chain of disks that another program made becomes a backup set, each disk a point.

The files of the chain are only read. A layer that can be written in its format is cloned where the
file system shares extents (XFS, Btrfs): its blocks are not copied. Any other is written anew. The
layer then holds whole blocks of 64 KiB, completed from its parents, as a set's layers always do.
Its identity is new, for it is another disk than the one that was adopted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vdbackup.backup.belonging import identity_of, set_of
from vdbackup.backup.capture import check_apart
from vdbackup.backup.differences import keep_changes
from vdbackup.backup.merged_layer import RESERVE
from vdbackup.backup.readback import check_layer
from vdbackup.backup.set_format import default_format
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef, VirtualDisk
from vdbackup.disks.extents import Ranges, aligned, blocks_of, total
from vdbackup.disks.formats import check_fits, check_format, open_disk
from vdbackup.disks.host_file import clone
from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.disks.transfer import each, transfer
from vdbackup.errors import (
    AlreadyBackedUp,
    ChainTooLong,
    DamagedSource,
    DiskError,
    SourceInUse,
    Unreadable,
)
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold, digest_blocks, is_zero
from vdbackup.repository.draft import Draft
from vdbackup.repository.files import check_space, remove
from vdbackup.repository.model import RecoveryPoint, SetSettings
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import Repository, check_set_name, free_set_name
from vdbackup.repository.set_draft import SetDraft, left_behind, sweep
from vdbackup.sources.disk_source import DiskSource
from vdbackup.translation import tr, trn


@dataclass(frozen=True, kw_only=True)
class AdoptPlan(Plan):
    """What adopting the chain of `source` as the set `set_name` would do."""

    repository: Repository
    source: DiskSource
    set_name: str
    disk_format: DiskFormat


def plan(
    repository: Repository,
    source: DiskSource,
    *,
    set_name: str | None = None,
    disk_format: str | None = None,
) -> AdoptPlan:
    """What adopting a chain would do.

    Args:
        repository: where to.
        source: the chain's tip, open until `run` is done.
        set_name: of the new set; by the tip's name if None.
        disk_format: of the set; the tip's own if None and a set can be kept in it.

    Raises:
        BackupError: it cannot be done. DiskError: it does not fit into the format.
    """
    check_apart(source, repository.path)
    known = set_of(repository, source)
    if known is not None:
        raise AlreadyBackedUp(
            tr(
                "{source} has been backed up or adopted into the set {known}.",
                source=source.title,
                known=known,
            ),
            tr("Back it up: that adds what has changed since."),
        )
    _check_room(source)
    kept_in = _format_for(source, disk_format)
    for layer in source.chain.layers:
        check_fits(kept_in, layer.info.virtual_size, layer.info.sector_size)
    name = check_set_name(set_name) if set_name else free_set_name(repository, source.name)
    count = len(source.chain.layers)
    ranges = (layer.block_map().data_ranges() for layer in source.chain.layers)
    size = sum(total(aligned(each, BLOCK, source.size)) for each in ranges)
    left, goes = left_behind(repository)
    return AdoptPlan(
        summary=" ".join(
            [
                trn(
                    "The chain of {source}, {count} disk with {size}, becomes the set {name} in "
                    "{kept_in}; its own files stay.{goes}",
                    "The chain of {source}, {count} disks with {size}, becomes the set {name} in "
                    "{kept_in}; its own files stay.{goes}",
                    count,
                    source=source.title,
                    size=readable_size(size),
                    name=name,
                    kept_in=kept_in,
                    goes=goes,
                ),
                *source.unread,
            ]
        ),
        bytes_to_copy=size,
        creates=(tr("the set {name}", name=name),),
        replaces=left,
        repository=repository,
        source=source,
        set_name=name,
        disk_format=kept_in,
    )


def _check_room(source: DiskSource) -> None:
    """Raise ChainTooLong where nothing would read what is put on the last of its points."""
    count = len(source.chain.layers)
    if count > long_chains.MOST_LAYERS:
        raise ChainTooLong(
            tr(
                "{source} reads through {count} layers, and a chain of points has {most} at most.",
                source=source.title,
                count=count,
                most=long_chains.MOST_LAYERS,
            ),
            tr("Back it up: that makes one full point of it."),
        )


def _exact_size(layer: VirtualDisk) -> int | None:
    """Bytes of a raw file that ends within a sector; None of all else."""
    length = layer.host_files[0].size
    return (
        length if layer.info.format is DiskFormat.RAW and length < layer.info.virtual_size else None
    )


def _format_for(source: DiskSource, asked: str | None) -> DiskFormat:
    """What the set is kept in; raises UsageError, or DiskError where nothing will do."""
    if asked:
        return check_format(asked)
    own = source.chain.layers[-1].info.format
    return own if own in BACKUP_FORMATS else default_format(source.size, source.sector_size)


def run(plan: AdoptPlan, task: Task) -> BackupSet:
    """Adopt; the new set. If it fails or is cancelled, everything is as it was."""
    source = plan.source
    _check_as_it_is(source)
    settings = SetSettings(
        identity_of(source, source.facts()),
        source.size,
        source.sector_size,
        plan.disk_format,
        source_format=source.said or "",
    )
    with plan.repository.lock(tr("adopting {source}", source=source.title), task.cancel):
        sweep(plan.repository, plan.replaces)
        _check_space(plan)
        draft = SetDraft(plan.repository, plan.set_name, settings)
        with draft:
            _adopt_each(source.chain, draft, task)
            task.check()
            _check_unchanged(source)
            draft.publish()
        return plan.repository.set(plan.set_name)


def _adopt_each(chain: Chain, draft: SetDraft, task: Task) -> None:
    """Each layer a point. What is known of those below grows layer by layer, and is not read again.

    A disk that was resized has another size than its parent: it starts a chain of its own.
    """
    below: Chain | None = None
    parent: RecoveryPoint | None = None
    state: DigestFold | None = None
    try:
        for number, layer in enumerate(chain.layers, start=1):
            with _source_errors(layer.path):
                disk = Chain.topped(below, layer) if below else Chain([layer])
            if parent is None or state is None or parent.virtual_size != disk.size:
                parent = None
                if state:
                    state.close()
                state = DigestFold([], disk.size)
            adoption = _Adoption(draft.set, disk, parent, state, number, task)
            parent = adoption.point()
            state.add(draft.set.folder / parent.digests)
            draft.add(parent)
            below = disk
    finally:
        if state:
            state.close()


def _check_as_it_is(source: DiskSource) -> None:
    """Raise DamagedSource where something is always wrong with the chain, before all is copied."""
    for sentence in source.defects():
        raise DamagedSource(
            tr("{sentence} It was not adopted.", sentence=sentence),
            tr("See to that first; or back it up as it is."),
        )


def _check_unchanged(source: DiskSource) -> None:
    """Raise SourceError where the chain may not be what it was when it was opened."""
    for sentence in source.trouble():
        raise SourceInUse(
            tr("{sentence} It was not adopted.", sentence=sentence),
            tr("Let the program that uses it end, then adopt it; or back it up as it is."),
        )


class _Adoption:
    """One layer of a chain on its way to being a point.

    Args:
        into: the set.
        disk: what the layer and those below it show; closed with the whole chain.
        parent: the point that the layer below became; None where it starts a chain.
        state: the digests of what that holds.
        number: of the new point.
        task: what it reports to, and what stops it.
    """

    def __init__(
        self,
        into: BackupSet,
        disk: Chain,
        parent: RecoveryPoint | None,
        state: DigestFold,
        number: int,
        task: Task,
    ) -> None:
        self._set = into
        self._disk = disk
        self._layer = disk.layers[-1]
        self._size = disk.size
        self._parent, self._state, self._number = parent, state, number
        self._phase = tr("Adopt {layer}", layer=self._layer.path.name)
        self._task = task

    def point(self) -> RecoveryPoint:
        """Make the point and read it back."""
        try:
            point = self._published(self._clone, self._fill_clone)
        except _CannotClone:
            point = self._published(None, self._fill_empty)
        with DigestFold([self._set.folder / point.digests], self._size) as digests:
            layer = self._set.folder / point.disk
            phase = tr("Check {disk}", disk=point.disk)
            disk_format = self._set.settings.format
            check_layer(layer, disk_format, digests, phase, self._task)
        return point

    def _published(
        self,
        make: Callable[[Path, ParentRef | None], VirtualDisk] | None,
        fill: Callable[[Draft], None],
    ) -> RecoveryPoint:
        kind = PointType.INCREMENTAL if self._parent else PointType.FULL
        sector_size = self._layer.info.sector_size
        draft = Draft(
            self._set,
            kind,
            self._parent,
            self._size,
            sector_size,
            sequence=self._number,
            make_layer=make,
        )
        with draft:
            fill(draft)
            modified = self._layer.path.stat().st_mtime
            created = datetime.fromtimestamp(modified, UTC)
            draft.complete((), created, exact_size=_exact_size(self._layer))
            return draft.publish()

    def _fill_empty(self, draft: Draft) -> None:
        """What of the layer differs from its parents, into a new layer."""
        keep_changes(
            draft,
            self._state,
            self._own(),
            each(self._read),
            self._phase,
            self._task,
        )

    def _read(self, offset: int, view: memoryview) -> None:
        """From the layer's disk."""
        with _source_errors(self._layer.path):
            self._disk.readinto(offset, view)

    def _clone(self, path: Path, parent: ParentRef | None) -> VirtualDisk:
        """The layer's file again, sharing its extents, with an identity of its own."""
        info = self._layer.info
        alike = (info.format, info.parent is None) == (self._set.settings.format, parent is None)
        if not alike or not clone(self._layer.path, path):
            raise _CannotClone
        try:
            disk = open_disk(path, info.format, writable=True)
        except DiskError as error:  # a layout that is only read
            remove(path)
            raise _CannotClone from error
        try:
            disk.adopt(str(uuid.uuid4()), info.content_id or uuid.uuid4().hex)
            if parent:
                disk.relink(parent)
        except BaseException:
            disk.close()
            raise
        return disk

    def _fill_clone(self, draft: Draft) -> None:
        """Digests of all that the clone holds, and the rest of blocks that it holds in part."""

        def note(pieces: Ranges, view: memoryview) -> None:
            digests = digest_blocks(view)
            kept = ~is_zero(digests) | (self._parent is not None)
            draft.digests.add(blocks_of(pieces, BLOCK), digests, kept)

        complete = each(draft.disk.write)
        for ranges, consume in ((self._own(), note), (self._partial(), complete)):
            transfer(
                ranges,
                each(self._read),
                consume,
                phase=self._phase,
                task=self._task,
            )

    def _own(self) -> Ranges:
        """The blocks that the layer holds, also those that it holds in part."""
        own = self._layer.block_map()
        ranges = own.own_ranges() if self._layer.info.parent else own.data_ranges()
        if self._layer.info.parent and self._parent is None:  # resized: all that the disk shows
            ranges = self._disk.map.data_ranges()
        return aligned(ranges, UNIT, self._size)

    def _partial(self) -> Ranges:
        """The blocks that a child holds in part: at the edges of what it holds."""
        if self._parent is None:  # what a full does not hold is zero anyway
            return np.empty((0, 2), np.int64)
        own = self._layer.block_map().own_ranges()
        starts, ends = own[:, 0], own[:, 0] + own[:, 1]
        edges = np.concatenate([starts, ends])
        cut = edges[(edges % UNIT != 0) & (edges != self._size)]
        return aligned(
            np.stack([np.unique(cut), np.ones_like(np.unique(cut))], 1), UNIT, self._size
        )


@contextmanager
def _source_errors(path: Path) -> Iterator[None]:
    """What cannot be read is not salvaged here, as a capture does.

    An adopted chain claims to be the other program's, moment by moment; a backup says of one moment
    what is missing.
    """
    try:
        yield
    except OSError as error:
        raise Unreadable(
            tr(
                "{path} or a parent of it cannot be read: {reason}.",
                path=path,
                reason=error.strerror,
            ),
            tr("Back it up instead: that reads past errors, and says what is missing."),
        ) from error


class _CannotClone(Exception):
    """The layer has to be written anew."""


def _check_space(plan: AdoptPlan) -> None:
    # clones need less, but whether there will be any shows only when they are made
    needed = plan.bytes_to_copy + RESERVE
    check_space(plan.repository.path, needed, tr("Adopting {source}", source=plan.source.title))
