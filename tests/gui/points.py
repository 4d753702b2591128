"""Recovery points as manifests give them, without a repository behind them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from vdbackup.repository.model import Check, RecoveryPoint
from vdbackup.repository.naming import PointType

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3600.0


def point(
    sequence: int,
    parent: int | None = None,
    *,
    kind: str = "",
    hours: float | None = None,
    stored: int = 1 << 20,
    verified: bool | None = None,
    merged: Sequence[int] = (),
) -> RecoveryPoint:
    """A point as a manifest would give it; an hour after the one before."""
    created = START + timedelta(hours=sequence if hours is None else hours)
    usual = PointType.FULL if parent is None else PointType.INCREMENTAL
    return RecoveryPoint(
        id=str(sequence),
        sequence=sequence,
        created=created.isoformat(),
        type=PointType(kind or usual),
        parent=None if parent is None else str(parent),
        disk=f"{sequence:04}-{kind}.vmdk",
        overlay="overlay",
        digests="digests",
        disk_size=stored,
        virtual_size=1 << 30,
        sector_size=512,
        stored_bytes=stored,
        verified=None if verified is None else Check(created.isoformat(), verified),
        merged=tuple(map(str, merged)),
    )


def chain(count: int) -> list[RecoveryPoint]:
    return [point(i, i - 1 if i > 1 else None) for i in range(1, count + 1)]


def many(count: int) -> list[RecoveryPoint]:
    """A full every 500 points, a differential every 37, incrementals between."""
    points, full, latest = [], 0, 0
    for i in range(1, count + 1):
        if i % 500 == 1:
            full = latest = i
            points.append(point(i, stored=1 << 30))
        elif i % 37 == 0:
            points.append(point(i, full, kind="differential", stored=i << 12, verified=i % 2 == 0))
        else:
            points.append(point(i, latest, stored=i << 10))
            latest = i
    return points
