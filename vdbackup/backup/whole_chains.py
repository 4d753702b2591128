"""Which points are whole, as far as that is seen without reading their data: for retention."""

from __future__ import annotations

from collections.abc import Iterable

from vdbackup.errors import (
    Damaged,
    DiskError,
    RepositoryError,
    StorageError,
    VdbackupError,
    from_os,
)
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr


class Chains:
    """Which points' chains are whole: each layer is looked at once, not once for each above it."""

    def __init__(self) -> None:
        self._trouble: dict[str, VdbackupError | None] = {}

    def check(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """Raise DiskError, RepositoryError or Damaged as `BackupSet.open_chain` does."""
        known = point.parent is None or point.parent in self._trouble
        for layer in [point] if known else backup_set.chain(point):
            if layer.id not in self._trouble:
                below = self._trouble.get(layer.parent) if layer.parent else None
                self._trouble[layer.id] = below or self._of(backup_set, layer, point)
        if (error := self._trouble[point.id]) is not None:
            raise error

    def _of(
        self, backup_set: BackupSet, layer: RecoveryPoint, point: RecoveryPoint
    ) -> VdbackupError | None:
        """What is wrong with a layer itself."""
        try:
            backup_set.check_layer(layer, point)
            backup_set.check_link(layer)
        except (DiskError, RepositoryError, Damaged) as error:
            return error
        except OSError as error:
            if not backup_set.folder.exists():  # not this layer alone: the storage is gone
                raise
            trouble = from_os(error)
            if isinstance(trouble, RepositoryError):
                return trouble
            return StorageError(trouble.title, trouble.advice)
        return None

    def forget(self, points: Iterable[RecoveryPoint]) -> None:
        """These have been changed, or linked anew."""
        for point in points:
            self._trouble.pop(point.id, None)


def damaged(backup_set: BackupSet, chains: Chains) -> dict[str, str]:
    """The points that are known not to be whole, by id, and why: nothing of their data is read.

    A point is what its layers are.
    """
    found: dict[str, str] = {}
    for point in backup_set.points:
        above = found.get(point.parent or "")
        if was_found_damaged(point):
            found[point.id] = tr(
                "the last verification found point {point} damaged.", point=point.sequence
            )
        elif above:
            found[point.id] = above
        else:
            try:
                chains.check(backup_set, point)
            except (DiskError, RepositoryError, Damaged) as error:
                found[point.id] = error.title
    return found


def was_found_damaged(point: RecoveryPoint) -> bool:
    """Whether its last verification did."""
    return point.verified is not None and not point.verified.ok


def torn(backup_set: BackupSet, chains: Chains) -> set[str]:
    """The points in whose chains a file is not as it should be: with them nothing is done."""
    found = set()
    for point in backup_set.points:
        try:
            chains.check(backup_set, point)
        except VdbackupError:
            found.add(point.id)
    return found
