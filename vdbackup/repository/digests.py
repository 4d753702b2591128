"""Digests: what each block of a layer holds, so that change and damage are visible.

A block has 64 KiB, in chains that are written in fine units (disk.FINE_UNIT) 8.

The digest of a block is its BLAKE3, the disk's last block filled up with zeros; a block that is all
zeros has 32 zero bytes instead. So "not held by any layer" and "held as zeros" read the same, and a
capture need not know the difference.

What a point holds through its whole chain is the fold of the layers' digests, newest wins. That is
the same algebra as a chain of disks has, so it is done by the same BlockMap: here a "disk" whose
blocks are 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import (
    UNALLOCATED,
    BlockMap,
    Int64s,
    Ranges,
    aligned,
    distinct,
    flatten,
    runs_of,
    union,
    without,
)
from vdbackup.errors import DamagedDigests, DiskFormatError
from vdbackup.repository.digest_file import BLOCK, DIGEST, REGION, DigestFile
from vdbackup.repository.digest_writer import DigestWriter, space_for
from vdbackup.translation import tr

__all__ = ["BLOCK", "DIGEST", "DigestFold", "Digests", "differ", "digest_blocks", "is_zero"]

Digests = NDArray[np.uint8]
"""Shape (blocks, 32)."""

_LOOKS = 16
"""So many looks tell nearly all blocks of data from zeros.

Testing all of each took a tenth of the time that hashing takes.
"""
_COPIED = 1 << 15
"""Blocks whose digests are copied at once: 1 MiB of digests."""


def digest_blocks(view: memoryview, size: int = BLOCK) -> Digests:
    """The digests of the blocks in `view`, which starts at a block; its last block may be short.

    Each has `size` bytes.
    """
    blocks = -(-len(view) // size)
    whole = len(view) // size
    digests = np.zeros((blocks, DIGEST), np.uint8)
    words = np.frombuffer(view[: whole * size], np.uint64).reshape(whole, size // 8)
    holds = np.asarray(words[:, 0] != 0, np.bool_)  # tells most blocks of data, by one look
    for step in (size // 8 // _LOOKS, 1):
        for first, end in runs_of(~holds):
            holds[first:end] = words[first:end, ::step].any(axis=1)
    for block in np.flatnonzero(holds).tolist():
        digest = blake3(view[block * size : (block + 1) * size]).digest()
        digests[block] = np.frombuffer(digest, np.uint8)
    if whole < blocks:
        rest = bytes(view[whole * size :])
        if rest.strip(b"\0"):
            digest = blake3(rest.ljust(size, b"\0")).digest()
            digests[whole] = np.frombuffer(digest, np.uint8)
    return digests


def differ(ours: Digests, theirs: Digests) -> NDArray[np.bool_]:
    """bool[blocks]: where two rows of digests are not the same."""
    words = ours.view(np.uint64) ^ theirs.view(np.uint64)
    return np.asarray(words.any(axis=1), np.bool_)


def is_zero(digests: Digests) -> NDArray[np.bool_]:
    """bool[blocks]: which blocks hold nothing but zeros."""
    return ~np.asarray(digests.any(axis=1), np.bool_)


class DigestFold:
    """The digests of a point's whole state: those of its chain, newest wins. A context manager.

    Attributes:
        block: bytes of disk that each digest covers.
        damaged: names of the files in which `as_far_as_known` found damage.
        size: of the disk, in bytes.
    """

    def __init__(self, paths: Sequence[Path], virtual_size: int, block: int = BLOCK) -> None:
        """Open the chain's files, base first, which say themselves how large a block is.

        None at all means a disk of zeros, in such blocks. Raises as DigestFile does.
        """
        self.block = block
        self.damaged: set[str] = set()
        self.size = virtual_size
        self._files: list[DigestFile] = []
        try:
            for path in paths:
                self._append(path)
        except BaseException:
            self.close()
            raise
        blocks = -(-virtual_size // self.block)
        maps = [file.map for file in self._files]
        self._map = flatten([*maps] or [BlockMap.uniform(blocks * DIGEST, UNALLOCATED)])

    def add(self, path: Path) -> None:
        """Go on with one more layer on top; costs as much as there are runs, not files."""
        self._append(path)
        own = self._files[-1].map.of_layer(len(self._files) - 1)
        self._map = own.over(self._map)

    def _append(self, path: Path) -> None:
        file = DigestFile(path, self.size)
        if not self._files:
            self.block = file.block
        self._files.append(file)
        if file.block != self.block:
            raise DamagedDigests(path, 12, tr("its blocks are not those of its parent's"))

    def digest(self, view: memoryview) -> Digests:
        """Of the blocks in `view`, which starts at one; the disk's last may be short."""
        return digest_blocks(view, self.block)

    def expected(self, blocks: Int64s) -> Digests:
        """The digests of the blocks of these numbers; raises DamagedDigests."""
        digests = np.zeros((len(blocks), DIGEST), np.uint8)
        if not self._files:  # a full is compared with zeros, which nobody looks up
            return digests
        layers, hosts = self._places(blocks)
        for layer in distinct(layers[layers >= 0].astype(np.int64)).tolist():
            there = np.flatnonzero(layers == layer)
            digests[there] = self._files[layer].digests_at(hosts[there])
        return digests

    def as_far_as_known(self, blocks: Int64s) -> tuple[Digests, NDArray[np.bool_]]:
        """The same, and bool[blocks]: of which ones a digest is there, and proven.

        The names of the files that are damaged there are added to `damaged`.
        """
        try:
            return self.expected(blocks), np.ones(len(blocks), np.bool_)
        except (DiskFormatError, OSError):
            if len(blocks) == 1:
                self.damaged.add(self._files[self.layer_of(int(blocks[0]))].path.name)
                return np.zeros((1, DIGEST), np.uint8), np.zeros(1, np.bool_)
        half = len(blocks) // 2
        left, right = self.as_far_as_known(blocks[:half]), self.as_far_as_known(blocks[half:])
        return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])

    def held(self) -> Ranges:
        """The stretches of the disk, in bytes, whose blocks some layer holds."""
        ranges = self._map.data_ranges() // DIGEST * self.block
        if len(ranges):
            ranges[-1, 1] = min(ranges[-1, 1], self.size - ranges[-1, 0])
        return ranges

    def to_check(self, disk: Chain) -> Ranges:
        """What of a disk has to be read to know whether all of it is as the digests say, in blocks.

        That is what the disk stores, and what it should hold: a block that a layer has lost must be
        noticed. Where no layer should hold anything, zeros are expected; a hole of the file can be
        nothing else, and bases in VHD and VHDX, which count in blocks of 2 MiB and more, consist of
        them between what they hold. Zeros that are stored are read: they may have been altered.
        """
        held = self.held()
        own = aligned(disk.map.data_ranges(), self.block, self.size)
        besides = aligned(disk.stored(without(own, held)), self.block, self.size)
        return union(held, besides)

    def layer_of(self, block: int) -> int:
        """The position in the chain of the layer that holds `block`, or -1."""
        return max(-1, int(self._map.layers[self._map.run_at(block * DIGEST)]))

    def layer_at_fault(self, block: int, _view: memoryview) -> int:
        """The position of the layer that holds `block`, which is not as expected, or -1."""
        return self.layer_of(block)

    def holds(self, blocks: Int64s) -> NDArray[np.bool_]:
        """bool[blocks]: which of them some layer holds."""
        layers, _ = self._places(blocks)
        return np.asarray(layers >= 0, np.bool_)

    def _places(self, blocks: Int64s) -> tuple[NDArray[np.int32], Int64s]:
        """Of each block: the layer, below 0 for none, and where its digest is in that file."""
        starts = blocks * DIGEST
        runs = np.searchsorted(self._map.starts, starts, "right") - 1
        return self._map.layers[runs], self._map.hosts[runs] + starts - self._map.starts[runs]

    def space_to_copy(self) -> int:
        """Bytes of storage that `copy_to` may take meanwhile: few blocks have as much as many."""
        ranges = self._map.data_ranges() // DIGEST
        first, last = ranges[:, 0] // REGION, (ranges[:, 0] + ranges[:, 1] - 1) // REGION
        regions = int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())
        return space_for(regions)

    def copy_to(self, writer: DigestWriter) -> None:
        """Write the fold as one layer's digests: what a merge leaves."""
        ranges = self._map.data_ranges() // DIGEST
        ends = ranges[:, 0] + ranges[:, 1]
        at = 0
        while (row := int(np.searchsorted(ends, at, "right"))) < len(ranges):
            first = max(at, int(ranges[row, 0]))
            at = min(first + _COPIED, int(ends[-1]))
            last = int(np.searchsorted(ranges[:, 0], at))
            edges = np.zeros(at - first + 1, np.int8)
            edges[np.maximum(ranges[row:last, 0] - first, 0)] = 1
            edges[np.minimum(ends[row:last], at) - first] = -1
            held = np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)
            blocks = np.arange(first, at)
            writer.add(blocks, self.expected(blocks), held)

    def prove(self) -> None:
        """Raise DamagedDigests unless every digest in all files is what was written."""
        for file in self._files:
            file.prove()

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
