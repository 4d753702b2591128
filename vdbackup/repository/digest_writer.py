"""Writing the file of a layer's digests, which come in any order, from several threads.

While they come, each region of the disk has a place in the file, as large as if all of it were
held, and a digest goes to its block's own position there. In the end the regions are moved together
in the order of their places, each to the left or not at all, and the table is written behind them.
What is kept in memory is a bit for each block (4 MiB for 2 TiB): of runs there may be any number.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.repository.digest_file import (
    BLOCK,
    DIGEST,
    HEADER,
    ONES,
    REGION,
    ROW,
    Rows,
    sealed_header,
)

_PLACE = REGION * DIGEST
"""Bytes of a region's place."""


def space_for(regions: int) -> int:
    """Bytes of storage that a file takes, at most, while it is written."""
    return HEADER.size + regions * (_PLACE + ROW.itemsize)


class DigestWriter:
    """Makes a `.digests` file. `add` may be called from several threads and in any order.

    Attributes:
        block: bytes of disk that each digest covers.
    """

    def __init__(self, path: Path, virtual_size: int, block: int = BLOCK) -> None:
        """Of a disk of `virtual_size` bytes, in blocks of `block`."""
        self._virtual_size, self.block = virtual_size, block
        regions = -(-virtual_size // (REGION * block))
        # both take memory only where something is written (calloc)
        self._held = np.zeros((regions, REGION // 8), np.uint8)
        self._places = np.zeros(regions, np.int64)  # of each region, from 1 on; 0 for none
        self._taken = 0
        self._lock = threading.Lock()
        self._closed = False
        self._file = HostFile.create(path)
        give_to_owner_of_folder(path)

    @property
    def held_bytes(self) -> int:
        """Bytes of disk whose digests were added so far."""
        blocks = int(ONES[self._held].sum(dtype=np.int64))
        last = -(-self._virtual_size // self.block) - 1
        short = self._held[last // REGION, last % REGION // 8] >> last % 8 & 1
        return blocks * self.block - (-self._virtual_size % self.block if short else 0)

    def add(
        self, blocks: Int64s, digests: NDArray[np.uint8], kept: NDArray[np.bool_] | None = None
    ) -> None:
        """Take the digests of some blocks; of one that comes again the last.

        Args:
            blocks: int64[blocks], their numbers, ascending.
            digests: shape (blocks, 32).
            kept: bool[blocks], which of them the layer holds, all of them if None; what was kept
                before is so again.
        """
        kept = np.ones(len(digests), np.bool_) if kept is None else kept
        region = blocks // REGION
        cuts = np.flatnonzero((np.diff(blocks) != 1) | (np.diff(region) != 0)) + 1
        rows = memoryview(digests.tobytes())
        for first, end in pairwise([0, *cuts.tolist(), len(blocks)]):
            if kept[first:end].any():
                start = int(blocks[first]) % REGION
                place = self._place(int(region[first]), start, kept[first:end])
                at = HEADER.size + place * _PLACE + start * DIGEST
                self._file.write(at, rows[first * DIGEST : end * DIGEST])

    def holds(self, blocks: Int64s) -> NDArray[np.bool_]:
        """bool[blocks]: which of the blocks of these numbers were kept so far."""
        region, within = blocks // REGION, blocks % REGION
        with self._lock:
            bytes_of = self._held[region, within // 8]
        return np.asarray(bytes_of >> (within % 8).astype(np.uint8) & 1, np.bool_)

    def _place(self, region: int, start: int, kept: NDArray[np.bool_]) -> int:
        """The region's place; its blocks from `start` on are noted as held, where they are kept."""
        flags = np.zeros(REGION, np.bool_)
        flags[start : start + len(kept)] = kept
        bits = np.packbits(flags, bitorder="little")
        with self._lock:
            self._held[region] |= bits
            if not self._places[region]:
                self._taken += 1
                self._places[region] = self._taken
            return int(self._places[region]) - 1

    def finish(self) -> None:
        """Put the digests together, write table and header, make all durable, and close."""
        rows, blocks = self._moved_together()
        table = memoryview(rows[np.argsort(rows["region"])].tobytes())
        end = HEADER.size + blocks * DIGEST
        self._file.cut(end)
        self._file.write(end, table)
        header = sealed_header(len(rows), blocks, self._virtual_size, table, self.block)
        self._file.write(0, memoryview(header))
        self._file.sync()
        self.close()

    def _moved_together(self) -> tuple[Rows, int]:
        """The rows, in the order of the regions' places, and how many digests there are."""
        touched = np.flatnonzero(self._places)
        rows = np.zeros(len(touched), ROW)
        rows["region"] = touched[np.argsort(self._places[touched])]
        rows["held"] = self._held[rows["region"]]
        blocks = 0
        for place, row in enumerate(rows):
            held = np.flatnonzero(np.unpackbits(row["held"], bitorder="little"))
            # the last block that is held was written, so the file reaches as far
            digests = np.empty((int(held[-1]) + 1, DIGEST), np.uint8)
            start = HEADER.size + place * _PLACE
            self._file.readinto(start, memoryview(digests).cast("B"))
            kept = np.ascontiguousarray(digests[held])
            target = HEADER.size + blocks * DIGEST
            if target != start or len(held) < len(digests):
                self._file.write(target, memoryview(kept).cast("B"))
            row["position"] = blocks
            row["seal"] = np.frombuffer(blake3(kept.data).digest(), np.uint8)
            blocks += len(held)
        return rows, blocks

    def close(self) -> None:
        """Close the file; without `finish` it is worth nothing."""
        if not self._closed:
            self._file.close()
            self._closed = True
