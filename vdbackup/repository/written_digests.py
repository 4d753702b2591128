"""The digests of a moment: what nobody captured has none, so they are made as it is read.

Of what its machine was started from, and has not written to since, they are those of its point:
what is damaged there is seen, as in any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s, Ranges, aligned, blocks_of, union
from vdbackup.repository.digests import DIGEST, DigestFold, Digests


class WrittenDigests(DigestFold):
    """Those of a point, and above them those of what its machine wrote."""

    def __init__(self, paths: Sequence[Path], disk: Chain, captured: int) -> None:
        """Take the moment's disk over.

        Args:
            paths: of the point's digests, base first.
            disk: the moment's.
            captured: how many of its layers are the point's.
        """
        self._disk = disk
        try:
            super().__init__(paths, disk.size)
            above = [layer.block_map().own_ranges() for layer in disk.layers[captured:]]
        except BaseException:
            disk.close()
            raise
        self._written: Ranges = np.empty((0, 2), np.int64)
        for each in above:
            self._written = union(self._written, each)
        self._written = aligned(self._written, self.block, disk.size)
        self._is_written = np.zeros(-(-disk.size // self.block), np.bool_)
        self._is_written[blocks_of(self._written, self.block)] = True

    def expected(self, blocks: Int64s) -> Digests:
        """Of what was written the digests of what is read now."""
        written = self._is_written[blocks]
        digests = np.zeros((len(blocks), DIGEST), np.uint8)
        digests[~written] = super().expected(blocks[~written])
        own = blocks[written]
        if len(own):
            ends = np.minimum((own + 1) * self.block, self._disk.size)
            pieces = np.stack([own * self.block, ends - own * self.block], axis=1)
            view = memoryview(bytearray(int(pieces[:, 1].sum())))
            self._disk.read(pieces, view)
            digests[written] = self.digest(view)
        return digests

    def held(self) -> Ranges:
        """Also what was written."""
        return union(super().held(), self._written)

    def layer_of(self, block: int) -> int:
        """Of what was written the position behind the point's layers."""
        return len(self._files) if self._is_written[block] else super().layer_of(block)

    def holds(self, blocks: Int64s) -> NDArray[np.bool_]:
        """Also what was written."""
        return np.asarray(super().holds(blocks) | self._is_written[blocks], np.bool_)

    def close(self) -> None:
        """Close the disk, too."""
        super().close()
        self._disk.close()
