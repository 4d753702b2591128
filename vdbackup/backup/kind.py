"""Which kind of point the next one will be, and onto which it goes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from vdbackup.disks.extents import Ranges
from vdbackup.errors import ChainTooLong, UsageError, VdbackupError
from vdbackup.jobs import sizes_apart
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.sources.source import Source
from vdbackup.translation import tr

AUTO = "auto"
"""Incremental where that can be, else full."""


Stamps = tuple[tuple[int, ...], ...]
"""Device, inode, size, and when content and anything at all was changed (stat(2)), of each file."""


def _nothing() -> Ranges:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Choice:
    """What the next point will be.

    Attributes:
        kind: how its layer is made.
        parent: what it will read through; None for a full.
        note: why it is not the kind that was asked for, or why it has to be a full; else "".
        damaged: whether that is because the points there are cannot be gone on from.
        held: the stretches of the disk, in bytes, whose blocks the parent's layers hold. A long
            chain's digests are opened once for all that a plan says: a fifth of its time at 2,000
            points went into opening them again.
        stamps: of each file of the parent's chain what changes with whatever is written to it.
    """

    kind: PointType
    parent: RecoveryPoint | None
    note: str = ""
    damaged: bool = False
    held: Ranges = field(default_factory=_nothing, repr=False, compare=False)
    stamps: Stamps = field(default=(), repr=False, compare=False)


def choose(
    backup_set: BackupSet, source: Source, kind: str, before: Choice | None = None
) -> Choice:
    """What the next point will be, and why it cannot be what was asked for.

    A chain that was opened for the choice `before`, and of which no file has changed since, is not
    opened again: at 2,000 points that took a quarter of a backup.

    Raises UsageError for a kind that there is not, and what a damaged set raises where an
    incremental or a differential is asked for.
    """
    if kind not in (AUTO, *PointType):
        raise UsageError(
            tr("There is no kind of backup {kind!r}.", kind=kind),
            tr("Choose {auto}, {pointtype}.", auto=AUTO, pointtype=", ".join(PointType)),
        )
    if kind == PointType.FULL:
        return Choice(PointType.FULL, None)
    latest = backup_set.latest_captured()
    if latest is None:
        return Choice(PointType.FULL, None, not_possible(kind, tr("there is no point yet")))
    if (latest.virtual_size, latest.sector_size) != (source.size, source.sector_size):
        return Choice(
            PointType.FULL,
            None,
            tr("It has to be a full: {resized}.", resized=_resized(source, latest)),
        )
    try:
        parent = backup_set.chain(latest)[0] if kind == PointType.DIFFERENTIAL else latest
        wanted = PointType.INCREMENTAL if kind == AUTO else PointType(kind)
        stamps = _stamps(backup_set, parent)
        long_chains.check_room(backup_set, parent)
        if before and stamps and (before.parent, before.stamps) == (parent, stamps):
            return Choice(wanted, parent, held=before.held, stamps=stamps)
        backup_set.open_chain(parent).close()
        with backup_set.open_digests(parent) as state:
            held = state.held()
    except VdbackupError as error:
        is_full = isinstance(error, ChainTooLong)
        if kind != AUTO and not is_full:
            raise
        return Choice(
            PointType.FULL,
            None,
            tr("It has to be a full: {error}", error=error.title),
            damaged=not is_full,
        )
    return Choice(wanted, parent, held=held, stamps=stamps)


def _stamps(backup_set: BackupSet, point: RecoveryPoint) -> Stamps:
    """Of a point's chain; () where a file is not there, which opening it says in words."""
    chain = backup_set.chain(point)
    names = [name for each in chain for name in (each.disk, each.digests)]
    try:
        found = [os.lstat(backup_set.folder / name) for name in names]
    except OSError:
        return ()
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)


def _resized(source: Source, latest: RecoveryPoint) -> str:
    if source.sector_size != latest.sector_size:
        now, then = (
            tr("sectors of {sector_size} bytes", sector_size=each.sector_size)
            for each in (source, latest)
        )
    else:
        now, then = sizes_apart(source.size, latest.virtual_size)
    return tr("the source has now {now}, and had {then}", now=now, then=then)


def not_possible(kind: str, reason: str) -> str:
    """Why it has to be a full, where something else was asked for."""
    return (
        ""
        if kind in (AUTO, PointType.FULL)
        else tr("It has to be a full: {reason}.", reason=reason)
    )
