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
from vdbackup.errors import Damaged, DiskError
from vdbackup.jobs import readable_size
from vdbackup.repository import claims
from vdbackup.repository.digests import BLOCK, DigestFold, differ, digest_blocks
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

log = logging.getLogger(__name__)


@contextmanager
def open_point(
    repository: Repository, set_name: str, point_id: str, doing: str
) -> Iterator[CheckedDisk]:
    """A point's disk, claimed and opened as `claims.open_point` does; raises what that raises.

    Where the digests themselves are damaged the disk is read without them: nothing says then that
    it is not whole.
    """
    with ExitStack() as stack:
        reading = claims.reading(repository, set_name, [point_id], doing)
        backup_set = stack.enter_context(reading)
        point = backup_set.point(point_id)
        chain = stack.enter_context(backup_set.open_chain(point))
        try:
            digests = stack.enter_context(backup_set.open_digests(point))
        except (DiskError, OSError) as error:
            log.warning("files of point %d are not compared: %s", point.sequence, error)
            digests = None
        yield CheckedDisk(chain, backup_set.chain(point), digests)


class CheckedDisk:
    """A chain that raises Damaged in the place of bytes that were not captured so.

    Attributes:
        size, sector_size: in bytes.
    """

    def __init__(
        self, chain: Chain, layers: Sequence[RecoveryPoint], digests: DigestFold | None
    ) -> None:
        """Of a point's disk and its layers, base first; without digests nothing is compared."""
        self.size, self.sector_size = chain.size, chain.sector_size
        self._chain, self._layers, self._digests = chain, layers, digests
        self._proven = np.full(-(-chain.size // BLOCK), digests is None)

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; raises Damaged, and as the chain does."""
        first, last = offset // BLOCK, -(-(offset + len(view)) // BLOCK)
        if self._proven[first:last].all():
            self._chain.readinto(offset, view)
            return
        start = first * BLOCK
        whole = memoryview(bytearray(min(last * BLOCK, self.size) - start))
        self._chain.readinto(start, whole)
        self._prove(first, last, whole)
        view[:] = whole[offset - start : offset - start + len(view)]

    def _prove(self, first: int, last: int, whole: memoryview) -> None:
        if self._digests is None:
            return
        blocks = np.arange(first, last, dtype=np.int64)
        known, sure = self._digests.as_far_as_known(blocks)
        wrong = differ(digest_blocks(whole), known) & sure
        if wrong.any():
            block = int(blocks[wrong.argmax()])
            layer = self._layers[self._digests.layer_of(block)]
            raise Damaged(
                f"{layer.disk} is damaged: {readable_size(BLOCK)} at byte {block * BLOCK:,} of the "
                "disk are not as captured.",
                "Take it from another point; `verify` says which are whole.",
            )
        self._proven[first:last] = True
