"""A point's disk for whoever reads parts of it: they are compared with what was captured.

A restore of the disk compares all of it on its way (captured.py). Files are read here and there: a
block is compared when it is first read, and whole, for its digest is of all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges
from vdbackup.errors import Damaged, DiskError, Remedy
from vdbackup.jobs import readable_size
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import BLOCK, differ
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.unit_digests import Known, in_units
from vdbackup.translation import grouped, tr

log = logging.getLogger(__name__)


@contextmanager
def open_point(
    repository: Repository,
    set_name: str,
    point_id: str,
    doing: str,
    *,
    ignore_damage: bool = False,
) -> Iterator[CheckedDisk]:
    """A point's disk, claimed as `claims.reading` does; raises what that and `opened` raise."""
    with claims.reading(repository, set_name, [point_id], doing) as backup_set:
        point = backup_set.point(point_id)
        with opened(backup_set, point, ignore_damage=ignore_damage) as disk:
            yield disk


@contextmanager
def opened(
    backup_set: BackupSet, point: RecoveryPoint, *, ignore_damage: bool = False
) -> Iterator[CheckedDisk]:
    """A point's disk; raises what `BackupSet.open_chain` does.

    Where the digests themselves are damaged the disk is read without them: nothing says then that
    it is not whole.

    Args:
        backup_set: the set.
        point: one of its points.
        ignore_damage: give what is damaged as it is, and note it in the disk's `damage`.
    """
    with ExitStack() as stack:
        chain = stack.enter_context(backup_set.open_chain(point))
        try:
            digests = in_units(stack.enter_context(backup_set.open_digests(point)))
        except (DiskError, OSError) as error:
            log.warning("point %d is read without its digests: %s", point.sequence, error)
            digests = None
        yield CheckedDisk(chain, backup_set.chain(point), digests, ignore_damage=ignore_damage)


class CheckedDisk:
    """A chain that raises Damaged in the place of bytes that were not captured so.

    Attributes:
        size, sector_size: in bytes.
        damage: what was damaged and given all the same, a sentence each.
    """

    def __init__(
        self,
        chain: Chain,
        layers: Sequence[RecoveryPoint],
        digests: Known | None,
        *,
        ignore_damage: bool = False,
    ) -> None:
        """Of a point's disk and its layers, base first; without digests nothing is compared."""
        self.damage: list[str] = []
        self._ignore_damage = ignore_damage
        self.size, self.sector_size = chain.size, chain.sector_size
        self._chain, self._layers, self._digests = chain, layers, digests
        self._proven = np.zeros(-(-chain.size // BLOCK), np.bool_)

    @property
    def held(self) -> Ranges:
        """The stretches of the disk that some layer holds, in bytes; all others read as zeros."""
        return self._chain.map.data_ranges()

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises Damaged, and as the chain does."""
        first, last = offset // BLOCK, -(-(offset + len(view)) // BLOCK)
        if self._digests is None or self._proven[first:last].all():
            self._chain.readinto(offset, view)
            return
        start = first * BLOCK
        whole = memoryview(bytearray(min(last * BLOCK, self.size) - start))
        self._chain.readinto(start, whole)
        self._prove(self._digests, first, whole)
        view[:] = whole[offset - start : offset - start + len(view)]

    def _prove(self, digests: Known, first: int, whole: memoryview) -> None:
        last = first + -(-len(whole) // BLOCK)
        blocks = np.arange(first, last, dtype=np.int64)
        known, sure = digests.as_far_as_known(blocks)
        wrong = differ(digests.digest(whole), known) & sure
        for block in blocks[wrong & ~self._proven[first:last]].tolist():
            part = whole[(block - first) * BLOCK : (block - first + 1) * BLOCK]
            self._note(block, self._layers[digests.layer_at_fault(block, part)])
        self._proven[first:last] = True

    def _note(self, block: int, layer: RecoveryPoint) -> None:
        said = tr(
            "{disk} is damaged: {size} at byte {block} of the disk are not as captured.",
            disk=layer.disk,
            size=readable_size(BLOCK),
            block=grouped(block * BLOCK),
        )
        if not self._ignore_damage:
            advice = tr("Take it from another point; `verify` says which are whole.")
            raise Damaged(said, advice, remedy=Remedy.IGNORE_DAMAGE)
        self.damage.append(said)
