"""A chain's digests for whoever reads it in whole units (UNIT), however small its blocks are.

Of a unit that has several blocks the digest is the BLAKE3 of theirs, one after the other; of zeros
it is 32 zero bytes, as a block's is. So whoever restores, compares or browses a point need not know
in what blocks its layers are written; who reads a layer alone has to.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Int64s, Ranges, aligned
from vdbackup.repository.digests import DIGEST, DigestFold, Digests, differ, digest_blocks, is_zero


class Known(Protocol):
    """What is known of each unit of a disk."""

    def digest(self, view: memoryview) -> Digests:
        """Of the units in `view`, which starts at one; the disk's last may be short."""

    def expected(self, blocks: Int64s) -> Digests:
        """The digests of the units of these numbers; raises DamagedDigests."""

    def as_far_as_known(self, blocks: Int64s) -> tuple[Digests, NDArray[np.bool_]]:
        """The units' digests, and of which one is there, and proven."""

    def held(self) -> Ranges:
        """Stretches whose units may hold something, in bytes."""

    def to_check(self, disk: Chain) -> Ranges:
        """What has to be read to know whether all of a disk is as the digests say."""

    def layer_at_fault(self, block: int, view: memoryview) -> int:
        """The position in the chain of the layer whose part of a unit is not as expected.

        -1 where no layer holds it; `view` are the bytes of the unit.
        """


def in_units(fold: DigestFold) -> Known:
    """The digests of a point's state, by units; as open as the fold is."""
    return fold if fold.block == UNIT else _Joined(fold)


class _Joined:
    """Known, made of smaller blocks."""

    def __init__(self, fold: DigestFold) -> None:
        self._fold = fold
        self._parts = UNIT // fold.block
        self._count = -(-fold.size // fold.block)

    def digest(self, view: memoryview) -> Digests:
        """As Known has it."""
        return self._joined(digest_blocks(view, self._fold.block))

    def expected(self, blocks: Int64s) -> Digests:
        """As Known has it."""
        parts, inside = self._parts_of(blocks)
        digests = np.zeros((len(parts), DIGEST), np.uint8)
        digests[inside] = self._fold.expected(parts[inside])
        return self._joined(digests)

    def as_far_as_known(self, blocks: Int64s) -> tuple[Digests, NDArray[np.bool_]]:
        """As Known has it."""
        parts, inside = self._parts_of(blocks)
        digests, sure = np.zeros((len(parts), DIGEST), np.uint8), np.ones(len(parts), np.bool_)
        digests[inside], sure[inside] = self._fold.as_far_as_known(parts[inside])
        whole = sure.reshape(-1, self._parts).all(axis=1)
        return self._joined(digests), np.asarray(whole, np.bool_)

    def held(self) -> Ranges:
        """As Known has it."""
        return aligned(self._fold.held(), UNIT, self._fold.size)

    def to_check(self, disk: Chain) -> Ranges:
        """As Known has it."""
        return aligned(self._fold.to_check(disk), UNIT, self._fold.size)

    def layer_at_fault(self, block: int, view: memoryview) -> int:
        """As Known has it."""
        parts, inside = self._parts_of(np.array([block], np.int64))
        own = parts[inside]
        known, sure = self._fold.as_far_as_known(own)
        wrong = differ(digest_blocks(view, self._fold.block), known) | ~sure
        return self._fold.layer_of(int(own[np.argmax(wrong)]))

    def _parts_of(self, blocks: Int64s) -> tuple[Int64s, NDArray[np.bool_]]:
        """The numbers of the blocks that units have, and which of them the disk has."""
        parts = (blocks[:, None] * self._parts + np.arange(self._parts)).ravel()
        return parts, parts < self._count

    def _joined(self, digests: Digests) -> Digests:
        missing = -len(digests) % self._parts
        whole = np.concatenate([digests, np.zeros((missing, DIGEST), np.uint8)])
        rows = whole.reshape(-1, self._parts * DIGEST)
        joined = np.zeros((len(rows), DIGEST), np.uint8)
        for row in np.flatnonzero(~is_zero(rows)).tolist():
            joined[row] = np.frombuffer(blake3(rows[row].data).digest(), np.uint8)
        return joined
