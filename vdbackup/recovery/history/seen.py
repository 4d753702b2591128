"""What of a disk was read to find something out, and the digest of it.

What is found out by reading is a matter of what was read alone. So it holds of each point that
holds the same there: of one in which nothing of that has changed, of one whose layers were merged,
and of none that was altered or bears another one's id. The digests that were taken when the points
were made say which is which, and nothing of a disk is read for that.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass

from blake3 import blake3

from vdbackup.disks.extents import Ranges, aligned, blocks_of
from vdbackup.errors import VdbackupError
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, DigestFold
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.unit_digests import in_units

log = logging.getLogger(__name__)

_AT_ONCE = 1 << 16
"""Blocks whose digests are looked up at once: 2 MiB of digests."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What was read of a disk.

    Attributes:
        ranges: where, in bytes: whole blocks, ascending, that do not touch each other.
        digest: of the size of the disk and of its sectors, and of what lies there.
    """

    ranges: Ranges
    digest: bytes

    @classmethod
    def of(cls, read: Ranges, point: RecoveryPoint, fold: DigestFold) -> Seen:
        """What was read of a point's disk; raises DamagedDigests or OSError."""
        ranges = aligned(read, BLOCK, point.virtual_size)
        return cls(ranges, _digest(ranges, point, fold))

    def is_in(self, point: RecoveryPoint, fold: DigestFold) -> bool:
        """Whether a point holds the same there; one whose digests are damaged may not."""
        if len(self.ranges) and int(self.ranges[-1].sum()) > point.virtual_size:
            return False
        try:
            return _digest(self.ranges, point, fold) == self.digest
        except (VdbackupError, OSError) as error:
            log.info("point %d is read again: %s", point.sequence, error)
            return False


def _digest(ranges: Ranges, point: RecoveryPoint, fold: DigestFold) -> bytes:
    hasher = blake3(struct.pack("<QI", point.virtual_size, point.sector_size))
    blocks, known = blocks_of(ranges, BLOCK), in_units(fold)
    for first in range(0, len(blocks), _AT_ONCE):
        hasher.update(known.expected(blocks[first : first + _AT_ONCE]).tobytes())
    return hasher.digest()


class Folds:
    """The digests of a set's points, those of one after the other; to be closed.

    Where a point is the child of the one before, its own are put on top: all of a long set costs as
    much as there is in it.
    """

    def __init__(self, backup_set: BackupSet) -> None:
        self._set = backup_set
        self._last: tuple[str, DigestFold] | None = None

    def of(self, point: RecoveryPoint) -> DigestFold | None:
        """A point's, open until the next ones are asked for; None where they cannot be read."""
        try:
            if self._last is not None and self._last[0] == point.parent:
                fold = self._last[1]
                fold.add(self._set.folder / point.digests)
            else:
                self.close()
                fold = self._set.open_digests(point)
        except (VdbackupError, OSError) as error:
            log.info("the digests of point %d cannot be read: %s", point.sequence, error)
            self.close()
            return None
        self._last = point.id, fold
        return fold

    def close(self) -> None:
        """Let go of the last ones."""
        if self._last is not None:
            self._last[1].close()
            self._last = None
