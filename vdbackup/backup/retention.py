"""Retention: keep the newest points of a set, roll up or delete the older ones.

Each step takes the oldest point that is no longer wanted and that can go: one that nothing reads
through is deleted, one with a single child has that child rolled into it. A point that several
others read through has to stay until they are gone.
"""

from __future__ import annotations

from vdbackup.backup import delete
from vdbackup.jobs import CancelToken, Report
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet, Repository


def apply(repository: Repository, set_name: str, report: Report, cancel: CancelToken) -> list[str]:
    """Apply the set's policy; the caller holds the lock. What was done, a sentence each."""
    done = []
    while (point := _next_to_go(backup_set := repository.set(set_name))) is not None:
        children = backup_set.children(point.id)
        delete.delete_locked(repository, set_name, point.id, report, cancel)
        if children:
            done.append(f"Point {children[0].sequence} was rolled into point {point.sequence}.")
        else:
            done.append(f"Point {point.sequence} was deleted.")
    return done


def _next_to_go(backup_set: BackupSet) -> RecoveryPoint | None:
    keep = backup_set.settings.policy.keep
    if keep is None:
        return None
    expired = backup_set.points[:-keep]
    return next((p for p in expired if len(backup_set.children(p.id)) <= 1), None)
