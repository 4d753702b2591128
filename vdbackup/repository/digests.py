"""Digests: what each 64 KiB block of a layer holds, so that change and damage are visible.

A `.digests` file belongs to one layer and lists the blocks that the layer holds:

    0      header: magic, version, runs, blocks, virtual size, and a BLAKE3 of everything else
    96     the digests, 32 bytes each, in the order in which they were captured
    then   the runs: first block, number of blocks, position of the first digest (3 x uint64 LE)

The digest of a block is its BLAKE3, the disk's last block filled up with zeros; a block that is all
zeros has 32 zero bytes instead. So "not held by any layer" and "held as zeros" read the same, and a
capture need not know the difference.

What a point holds through its whole chain is the fold of the layers' digests, newest wins. That is
the same algebra as a chain of disks has, so it is done by the same BlockMap: here a "disk" whose
blocks are 32 bytes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vdbackup.disks.chain import read_flat
from vdbackup.disks.extents import UNALLOCATED, BlockMap, Ranges, flatten
from vdbackup.disks.host_file import HostFile
from vdbackup.durable import check_regular
from vdbackup.errors import DiskFormatError, Remedy, RepositoryError

BLOCK = 64 << 10
"""Bytes of disk that one digest covers."""
DIGEST = 32
"""Bytes of a digest."""

Digests = NDArray[np.uint8]
"""Shape (blocks, 32)."""

_HEADER = struct.Struct("<8sIIQQQ32s24x")
_MAGIC = b"VDBDIGST"
_VERSION = 1
_COPY = 1 << 20
_ZEROS = bytes(DIGEST)


def digest_blocks(view: memoryview) -> Digests:
    """The digests of the blocks in `view`, which starts at a block; its last block may be short."""
    blocks = -(-len(view) // BLOCK)
    whole = len(view) // BLOCK
    digests = np.zeros((blocks, DIGEST), np.uint8)
    words = np.frombuffer(view[: whole * BLOCK], np.uint64).reshape(whole, BLOCK // 8)
    for block in np.flatnonzero(words.any(axis=1)).tolist():
        digest = blake3(view[block * BLOCK : (block + 1) * BLOCK]).digest()
        digests[block] = np.frombuffer(digest, np.uint8)
    if whole < blocks:
        rest = bytes(view[whole * BLOCK :])
        if rest.strip(b"\0"):
            digest = blake3(rest.ljust(BLOCK, b"\0")).digest()
            digests[whole] = np.frombuffer(digest, np.uint8)
    return digests


def differ(ours: Digests, theirs: Digests) -> NDArray[np.bool_]:
    """bool[blocks]: where two rows of digests are not the same."""
    words = ours.view(np.uint64) ^ theirs.view(np.uint64)
    return np.asarray(words.any(axis=1), np.bool_)


def is_zero(digests: Digests) -> NDArray[np.bool_]:
    """bool[blocks]: which blocks hold nothing but zeros."""
    return ~np.asarray(digests.any(axis=1), np.bool_)


@dataclass(frozen=True)
class _Run:
    first: int
    blocks: int
    position: int


class DigestWriter:
    """Makes a `.digests` file. `add` may be called from several threads and in any order."""

    def __init__(self, path: Path, virtual_size: int) -> None:
        self._virtual_size = virtual_size
        self._file = HostFile.create(path)
        self._closed = False
        self._lock = threading.Lock()
        self._runs: list[_Run] = []
        self._blocks = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of disk whose digests were added so far."""
        last = -(-self._virtual_size // BLOCK)
        missing = -self._virtual_size % BLOCK  # of the disk's last block, where it is short
        short = any(run.first + run.blocks == last for run in self._runs)
        return self._blocks * BLOCK - (missing if short else 0)

    def add(self, first_block: int, digests: Digests) -> None:
        """The digests of the blocks from `first_block` on."""
        with self._lock:
            position = self._blocks
            self._blocks += len(digests)
            last = self._runs[-1] if self._runs else None
            if last and last.first + last.blocks == first_block:
                self._runs[-1] = _Run(last.first, last.blocks + len(digests), last.position)
            else:
                self._runs.append(_Run(first_block, len(digests), position))
        data = memoryview(np.ascontiguousarray(digests)).cast("B")
        self._file.write(_HEADER.size + position * DIGEST, data)

    def finish(self) -> None:
        """Write runs and header, make everything durable, and close."""
        runs = sorted(self._runs, key=lambda run: run.first)
        table = np.array([(r.first, r.blocks, r.position) for r in runs], "<u8").tobytes()
        self._file.write(_HEADER.size + self._blocks * DIGEST, memoryview(table))
        seal = _seal(self._file, _HEADER.size + self._blocks * DIGEST + len(table))
        header = _HEADER.pack(
            _MAGIC, _VERSION, BLOCK, len(runs), self._blocks, self._virtual_size, seal
        )
        self._file.write(0, memoryview(header))
        self._file.sync()
        self.close()

    def close(self) -> None:
        """Close the file; without `finish` it is worth nothing."""
        if not self._closed:
            self._file.close()
            self._closed = True


def _seal(file: HostFile, size: int) -> bytes:
    """BLAKE3 of everything behind the header."""
    hasher = blake3()
    buffer = memoryview(bytearray(_COPY))
    for offset in range(_HEADER.size, size, _COPY):
        part = buffer[: min(_COPY, size - offset)]
        file.readinto(offset, part)
        hasher.update(part)
    return hasher.digest()


class DigestFile:
    """A `.digests` file, open for reading.

    Attributes:
        map: BlockMap over a "disk" of 32 bytes per block; DATA where the layer holds the block.
        blocks: how many blocks the layer holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_regular(path)
            self._file = HostFile.open(path)
        except FileNotFoundError as error:
            if not path.parent.exists():  # not this file alone: the storage is gone
                raise
            raise RepositoryError(
                f"{path.name} is missing.",
                "It can be computed again from the disk.",
                remedy=Remedy.REPAIR,
            ) from error
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    def _parse(self) -> None:
        size = self._file.size
        raw = self._file.read(0, _HEADER.size)
        if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
            raise DiskFormatError(self.path, 0, "it is not a file of digests")
        _, version, block, runs, self.blocks, self.virtual_size, seal = _HEADER.unpack(raw)
        end = _HEADER.size + self.blocks * DIGEST
        if version != _VERSION or block != BLOCK or end + runs * 24 != size:
            raise DiskFormatError(
                self.path, 8, "the file of digests is cut off or of a newer version"
            )
        if _seal(self._file, size) != seal:
            raise DiskFormatError(self.path, _HEADER.size, "the digests themselves are altered")
        table = np.frombuffer(self._file.read(end, runs * 24), "<u8").astype(np.int64)
        first, count, position = table.reshape(-1, 3).T
        self.map = BlockMap.from_runs(
            -(-self.virtual_size // BLOCK) * DIGEST,
            first * DIGEST,
            count * DIGEST,
            np.zeros(len(first), np.int32),
            _HEADER.size + position * DIGEST,
            UNALLOCATED,
        )

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""
        self._file.readinto(host, view)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DigestFold:
    """The digests of a point's whole state: those of its chain, newest wins. A context manager."""

    def __init__(self, paths: Sequence[Path], virtual_size: int) -> None:
        """Open the chain's files, base first; none at all means a disk of zeros."""
        self._size = virtual_size
        self._files: list[DigestFile] = []
        try:
            for path in paths:
                self._files.append(DigestFile(path))
                if self._files[-1].virtual_size != virtual_size:
                    raise DiskFormatError(path, 0, "it belongs to a disk of another size")
        except BaseException:
            self.close()
            raise
        blocks = -(-virtual_size // BLOCK)
        maps = [file.map for file in self._files]
        self._map = flatten([*maps] or [BlockMap.uniform(blocks * DIGEST, UNALLOCATED)])

    def expected(self, first_block: int, count: int) -> Digests:
        """The digests of `count` blocks from `first_block` on."""
        digests = np.zeros((count, DIGEST), np.uint8)
        view = memoryview(digests).cast("B")
        read_flat(self._map, self._files, first_block * DIGEST, view)
        return digests

    def held(self) -> Ranges:
        """The stretches of the disk, in bytes, whose blocks some layer holds."""
        ranges = self._map.data_ranges() // DIGEST * BLOCK
        if len(ranges):
            ranges[-1, 1] = min(ranges[-1, 1], self._size - ranges[-1, 0])
        return ranges

    def layer_of(self, block: int) -> int:
        """The position in the chain of the layer that holds `block`, or -1."""
        return max(-1, int(self._map.layers[self._map.run_at(block * DIGEST)]))

    def copy_to(self, writer: DigestWriter) -> None:
        """Write the fold as one layer's digests: what a merge leaves."""
        for offset, length in self._map.data_ranges().tolist():
            for at in range(offset, offset + length, _COPY):
                count = min(_COPY, offset + length - at) // DIGEST
                writer.add(at // DIGEST, self.expected(at // DIGEST, count))

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
