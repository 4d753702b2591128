"""Retention: keep the newest points of a set, roll up or delete the older ones.

Each step takes the oldest point that is no longer wanted and that can go: one that nothing reads
through is deleted, one with a single child has that child rolled into it. A point that several
others read through has to stay until they are gone, and one that a virtual machine needs until that
is done. What was captured counts and expires; what was promoted from a session stays until somebody
deletes it, and so does the point that it was made on while others go on from that, too.
"""

from __future__ import annotations

from collections.abc import Container

from vdbackup.backup import delete
from vdbackup.errors import PointInUse
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository


def apply(repository: Repository, set_name: str, report: Report, cancel: CancelToken) -> list[str]:
    """Apply the set's policy; the caller holds the lock. What was done, a sentence each."""
    done = []
    in_use: set[str] = set()
    while (point := _next_to_go(backup_set := repository.set(set_name), in_use)) is not None:
        children = backup_set.children(point.id)
        try:
            delete.delete_locked(repository, set_name, point.id, report, cancel)
        except PointInUse as error:
            in_use.add(point.id)
            done.append(f"Point {point.sequence} stays for now: {error.title}")
            continue
        if children:
            done.append(f"Point {children[0].sequence} was rolled into point {point.sequence}.")
        else:
            done.append(f"Point {point.sequence} was deleted.")
    return done


def preview(backup_set: BackupSet, keep: int | None) -> tuple[RecoveryPoint, ...]:
    """The moments that are gone after the next backup, if the set then keeps `keep` points.

    What several points read through stays as long as they do; what a virtual machine needs may stay
    longer than is said here, and nothing else goes.
    """
    if keep is None:
        return ()
    captured = [point for point in backup_set.points if point.promoted_from is None]
    expired = {point.id: point for point in captured[: max(0, len(captured) + 1 - keep)]}
    above = {point.id: point.parent for point in backup_set.points}
    if captured:
        above[_NEXT] = captured[-1].id  # as an incremental's would be
    below: dict[str | None, set[str]] = {}
    for name, parent in above.items():
        below.setdefault(parent, set()).add(name)
    gone: list[RecoveryPoint] = []
    while may_go := [name for name in expired if len(below.get(name, ())) <= 1]:
        for name in may_go:
            gone.append(expired.pop(name))
            parent = above[name]
            for child in below.pop(name, ()):  # it is rolled into the point, and stands there
                above[child] = parent
                below[parent].add(child)
            below[parent].discard(name)
    return tuple(sorted(gone, key=lambda point: point.sequence))


_NEXT = ""  # no point has this id


def _next_to_go(backup_set: BackupSet, in_use: Container[str]) -> RecoveryPoint | None:
    keep = backup_set.settings.policy.keep
    if keep is None:
        return None
    expired = [point for point in backup_set.points if point.promoted_from is None][:-keep]
    return next(
        (
            point
            for point in expired
            if point.id not in in_use and len(backup_set.children(point.id)) <= 1
        ),
        None,
    )
