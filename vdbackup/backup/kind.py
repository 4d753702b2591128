"""Which kind of point the next one will be, and onto which it goes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vdbackup.disks.extents import Ranges
from vdbackup.errors import UsageError, VdbackupError
from vdbackup.jobs import sizes_apart
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.sources.source import Source
from vdbackup.translation import tr

AUTO = "auto"
"""Incremental where that can be, else full."""


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
    """

    kind: PointType
    parent: RecoveryPoint | None
    note: str = ""
    damaged: bool = False
    held: Ranges = field(default_factory=_nothing, repr=False, compare=False)


def choose(backup_set: BackupSet, source: Source, kind: str) -> Choice:
    """What the next point will be, and why it cannot be what was asked for.

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
        backup_set.open_chain(parent).close()
        with backup_set.open_digests(parent) as state:
            held = state.held()
    except VdbackupError as error:
        if kind != AUTO:
            raise
        return Choice(
            PointType.FULL,
            None,
            tr("It has to be a full: {error}", error=error.title),
            damaged=True,
        )
    wanted = PointType.INCREMENTAL if kind == AUTO else PointType(kind)
    return Choice(wanted, parent, held=held)


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
