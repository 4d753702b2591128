"""Restore chosen files: what a point has of them goes to where it came from, or into a folder."""

from __future__ import annotations

from vdbackup.errors import NotInPoint
from vdbackup.recovery.file_sets.choices import choice_of
from vdbackup.recovery.file_sets.plan import ORIGIN, FilesPlan, FilesRequest, plan
from vdbackup.recovery.file_sets.restoring import FilesRestored, run
from vdbackup.repository.model import RecoveryPoint, SetSettings

__all__ = ["ORIGIN", "FilesPlan", "FilesRequest", "FilesRestored", "can_be", "plan", "run"]


def can_be(settings: SetSettings, point: RecoveryPoint) -> bool:
    """Whether a point is one of chosen files; nothing is read."""
    try:
        choice_of(settings, point)
    except NotInPoint:
        return False
    return True
