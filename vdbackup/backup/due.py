"""Which points of a set are due to go by its policy: what the rules keep (keeping.py), and more.

What was captured counts and expires; what was promoted from a session stays until somebody deletes
it. What is known to be damaged does not count. Nor is a point due that holds what no newer one that
stays could read of a failing source: its backups have zeros there, and it may be the only copy.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vdbackup.backup import keeping
from vdbackup.backup.keeping import Layer, Moment, Verdict
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

Stretches = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Due:
    """What a policy makes of a set's captured points.

    Attributes:
        points: what is to go, by sequence.
        last_copies: what would be, and stays for what it alone could read, the newest first.
        verdicts: what the rules say, by sequence.
    """

    points: tuple[RecoveryPoint, ...]
    last_copies: tuple[RecoveryPoint, ...]
    verdicts: dict[int, Verdict]


def due(
    backup_set: BackupSet,
    policy: Policy,
    not_whole: Container[str],
    now: datetime,
    *,
    after_next: bool = False,
) -> Due:
    """What a policy makes of a set now.

    Args:
        backup_set: as it is.
        policy: not the set's own, perhaps.
        not_whole: ids of the points that are known to be damaged.
        now: with a time zone.
        after_next: what there would be to go after one more backup, which is made now.
    """
    captured = [point for point in backup_set.points if point.promoted_from is None]
    moments = [
        Moment(
            point.sequence,
            moment_of(point),
            counts=point.id not in not_whole,
            pinned=backup_set.pin(point) is not None,
            layers=(layer_of(point),),
        )
        for point in captured
    ]
    if after_next:
        last = max((point.sequence for point in captured), default=0)
        moments.append(Moment(last + 1, now, layers=(next_layer(backup_set),)))
    verdicts = {each.moment.number: each for each in keeping.decide(moments, policy, now)}
    kept = [point for point in captured if verdicts[point.sequence].stays]
    older = [point for point in captured if not verdicts[point.sequence].stays]
    held = last_readable(older, kept, not_whole)
    return Due(tuple(each for each in older if each not in held), tuple(held), verdicts)


def layer_of(point: RecoveryPoint) -> Layer:
    """What a point holds, as the rules see it."""
    return Layer(point.id, point.parent or "", point.stored_bytes)


def next_layer(backup_set: BackupSet) -> Layer:
    """What the next point is taken to hold: as much as the newest, if that is no full."""
    newest = backup_set.latest_captured()
    size = newest.stored_bytes if newest and newest.parent is not None else 0
    # no point's id has a blank in it
    return Layer(f"after {backup_set.name}", newest.id if newest else "", size)


def moment_of(point: RecoveryPoint) -> datetime:
    """When the point was captured, with a time zone."""
    at = datetime.fromisoformat(point.created)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def last_readable(
    older: Sequence[RecoveryPoint], kept: Sequence[RecoveryPoint], not_whole: Container[str]
) -> list[RecoveryPoint]:
    """Which of the older points hold what none of those that are kept has read, the newest first.

    Where none is kept, the next backup is taken to read as much as the newest did.
    """
    older = [point for point in older if point.id not in not_whole]
    kept = [point for point in kept if point.id not in not_whole] or older[-1:]
    held: list[RecoveryPoint] = []
    lost = kept[-1].unreadable if kept else ()
    for point in kept:
        lost = _in_both(lost, point.unreadable)
    for point in reversed(older):
        still = _in_both(lost, point.unreadable)
        if _size(still) < _size(lost):
            held.append(point)
            lost = still
    return held


def _in_both(one: Stretches, other: Stretches) -> Stretches:
    """What lies in both of two lists of (offset, length), in bytes, ascending."""
    found: list[tuple[int, int]] = []
    mine, theirs = sorted(one), sorted(other)
    while mine and theirs:
        (a, b), (c, d) = mine[-1], theirs[-1]
        start, end = max(a, c), min(a + b, c + d)
        if start < end:
            found.append((start, end - start))
        (mine if a > c else theirs).pop()  # from the end: what begins later is done with
    return tuple(reversed(found))


def _size(stretches: Stretches) -> int:
    return sum(length for _, length in stretches)
