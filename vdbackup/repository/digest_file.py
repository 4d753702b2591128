"""The file of a layer's digests: its layout, and reading it.

Layout 2, all numbers little-endian:

    0      header: magic, layout, bytes per block, rows, blocks, virtual size (bytes), seal
    96     the digests, 32 bytes each; those of a region lie together, in the order of the disk
    then   the rows, ascending, one for each region of 512 blocks (32 MiB) of which the layer holds
           any: region, position of its first digest, BLAKE3 of its digests, a bit for each block
           (from the lowest of each byte on)

The seal is the BLAKE3 of the header, with zeros in the seal's place, and the rows. So opening reads
less than a hundredth of the file, and a region's digests are proven when they are first read.

Layout 3 is the same in blocks of 8 KiB, of layers that are written in such units; all of a chain
have one or the other.

Layout 1 (until November 2026) is read, too: there the runs of blocks (first block, blocks, position
of the first digest) take the rows' place, in any order of positions, and the seal is the BLAKE3 of
everything behind the header, so that opening reads it all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.extents import UNALLOCATED, BlockMap, Int64s, distinct
from vdbackup.disks.host_file import HostFile
from vdbackup.durable import check_regular
from vdbackup.errors import DamagedDigests, DamagedMetadata, NewerLayout, Remedy
from vdbackup.translation import tr

BLOCK = UNIT
"""Bytes of disk that one digest covers, if nothing else is said."""
DIGEST = 32
"""Bytes of a digest."""
REGION = 512
"""Blocks whose digests are proven by one checksum: 16 KiB of digests, 32 MiB of disk."""

HEADER = struct.Struct("<8sIIQQQ32s24x")
ROW = np.dtype(
    [("region", "<u8"), ("position", "<u8"), ("seal", "u1", DIGEST), ("held", "u1", REGION // 8)]
)
ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)
"""How many bits of each byte are set. numpy.bitwise_count is not in the numpy of Debian 12, which a
rescue medium takes on processors that newer ones are not built for."""
_RUN = np.dtype([("first", "<u8"), ("count", "<u8"), ("position", "<u8")])
_MAGIC = b"VDBDIGST"
_LAYOUT, _LAYOUT_OF_RUNS, _LAYOUT_OF_FINE = 2, 1, 3
_LAYOUTS = {BLOCK: _LAYOUT, FINE_UNIT: _LAYOUT_OF_FINE}
_SEAL_AT = 40
_MAX_BLOCKS = 1 << 34
"""Of a disk: a pebibyte. What claims more is damaged, and no product of these may overflow."""
_COPY = 1 << 20
_NEAR = REGION * DIGEST
"""Bytes between digests up to which what lies there is read with them, and thrown away."""
_DIGEST = np.dtype([("digest", "u1", DIGEST)])
_AT_ONCE = 1 << 14
"""Rows that are taken apart at once: 8 MiB of single bits."""

Rows = NDArray[np.void]
"""Shape (n,), of a table's entries."""


def sealed_header(
    rows: int, blocks: int, virtual_size: int, table: memoryview, block: int = BLOCK
) -> bytes:
    """The header of a file with that many rows and blocks; the rows are the bytes of `table`."""
    fields = (_MAGIC, _LAYOUTS[block], block, rows, blocks, virtual_size)
    hasher = blake3(HEADER.pack(*fields, bytes(DIGEST)))
    hasher.update(table)
    return HEADER.pack(*fields, hasher.digest())


class DigestFile:
    """A `.digests` file, open for reading. Methods may be called from several threads at once.

    Attributes:
        map: BlockMap over a "disk" of 32 bytes per block; DATA where the layer holds the block.
        block: bytes of disk that each digest covers.
        blocks: how many blocks the layer holds.
        virtual_size: of the layer's disk, in bytes.
    """

    def __init__(self, path: Path, virtual_size: int | None = None) -> None:
        """Open the file.

        Args:
            path: the file.
            virtual_size: of the disk that it has to belong to, in bytes; None for any.

        Raises:
            RepositoryError: it is missing, or of a newer version. DamagedDigests: it is damaged,
                as far as that shows without reading the digests.
        """
        self.path = path
        try:
            check_regular(path)
            self._file = HostFile.open(path)
        except FileNotFoundError as error:
            if not path.parent.exists():  # not this file alone: the storage is gone
                raise
            raise DamagedMetadata(
                tr("{path} is missing.", path=path.name),
                tr("It can be computed again from the disk."),
                remedy=Remedy.REPAIR,
            ) from error
        try:
            self._parse(virtual_size)
        except BaseException:
            self.close()
            raise

    def _parse(self, wanted_size: int | None) -> None:
        header = self._file.read(0, HEADER.size)
        if len(header) < HEADER.size or not header.startswith(_MAGIC):
            raise DamagedDigests(self.path, 0, tr("it is not a file of digests"))
        _, layout, block, rows, self.blocks, self.virtual_size, seal = HEADER.unpack(header)
        self.block = int(block)
        if layout > _LAYOUT_OF_FINE:
            raise NewerLayout(
                tr(
                    "{path} is of a newer version of vdbackup: it has layout {layout}, and those "
                    "up to {layout_2} are known here.",
                    path=self.path.name,
                    layout=layout,
                    layout_2=_LAYOUT_OF_FINE,
                ),
                tr("Use a newer version of vdbackup."),
            )
        whole = layout == _LAYOUT_OF_RUNS and self.block == BLOCK
        entry = _RUN if whole else ROW
        if not whole and layout != _LAYOUTS.get(self.block):
            raise DamagedDigests(self.path, 8, tr("its header makes no sense"))
        if wanted_size not in (None, self.virtual_size):
            raise DamagedDigests(self.path, 32, tr("it belongs to a disk of another size"))
        of_disk = -(-self.virtual_size // self.block)
        table = HEADER.size + self.blocks * DIGEST
        most_rows = self.blocks if layout == _LAYOUT_OF_RUNS else -(-of_disk // REGION)
        if of_disk > _MAX_BLOCKS or rows > most_rows or not rows <= self.blocks <= of_disk:
            raise DamagedDigests(self.path, 16, tr("it has more digests than its disk has blocks"))
        if table + rows * entry.itemsize != self._file.size:
            raise DamagedDigests(self.path, 16, tr("it is cut off or too long"))
        if self._seal(b"" if whole else header, HEADER.size if whole else table) != seal:
            raise DamagedDigests(self.path, _SEAL_AT, tr("what its header seals is altered"))
        entries = np.frombuffer(self._file.read(table, rows * entry.itemsize), entry)
        runs = _Runs.listed(entries) if whole else _Runs.in_regions(entries)
        self._regions = _Regions(np.empty(0, ROW) if whole else entries)
        if not (runs.fit(self.blocks, of_disk) and self._regions.fit(self.blocks)):
            raise DamagedDigests(self.path, table, tr("its table makes no sense"))
        self.map = runs.map(of_disk)

    def _seal(self, header: bytes, start: int) -> bytes:
        """BLAKE3 of the header, but for the seal in it, and of the file from byte `start` on."""
        hasher = blake3(header)
        if header:
            hasher = blake3(header[:_SEAL_AT] + bytes(DIGEST) + header[_SEAL_AT + DIGEST :])
        size = self._file.size
        buffer = memoryview(bytearray(min(_COPY, size - start)))
        for offset in range(start, size, _COPY):
            part = buffer[: min(_COPY, size - offset)]
            self._file.readinto(offset, part)
            hasher.update(part)
        return hasher.digest()

    def digests_at(self, hosts: Int64s) -> NDArray[np.uint8]:
        """uint8[n, 32]: what lies at these places of the file (`map`); raises DamagedDigests.

        Those that lie near each other are read in one call: a call for each digest of scattered
        blocks took as long as all else of a merge.
        """
        self._prove(self._regions.of(hosts))
        digests = np.empty((len(hosts), DIGEST), np.uint8)
        gaps = np.diff(hosts)
        cuts = np.flatnonzero((gaps <= 0) | (gaps > _NEAR)) + 1
        for first, end in pairwise([0, *cuts.tolist(), len(hosts)]):
            start = int(hosts[first])
            near = np.empty((int(hosts[end - 1]) - start + DIGEST) // DIGEST, _DIGEST)
            self._file.readinto(start, memoryview(near.view(np.uint8)))
            digests[first:end] = near["digest"][(hosts[first:end] - start) // DIGEST]
        return digests

    def prove(self) -> None:
        """Raise DamagedDigests unless every digest is what was written."""
        self._prove(np.arange(len(self._regions.seals)))

    def _prove(self, numbers: Int64s) -> None:
        """Each of these regions, once."""
        regions = self._regions
        for number in numbers[~regions.proven[numbers]].tolist():
            start, end = int(regions.starts[number]), int(regions.starts[number + 1])
            found = blake3(self._file.read(start, end - start)).digest()
            if found != regions.seals[number].tobytes():
                raise DamagedDigests(self.path, start, tr("the digests themselves are altered"))
            regions.proven[number] = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True, eq=False)
class _Runs:
    """Which blocks a layer holds, and where their digests are: int64[n] each.

    Attributes:
        first: of the run's blocks; ascending.
        count: how many blocks.
        position: of the first one's digest.
    """

    first: Int64s
    count: Int64s
    position: Int64s

    @classmethod
    def listed(cls, entries: Rows) -> Self:
        """Those of layout 1."""
        # what is too large for a signed number becomes one that does not fit
        return cls(*(entries[name].astype(np.int64) for name in ("first", "count", "position")))

    @classmethod
    def in_regions(cls, rows: Rows) -> Self:
        """Those of layout 2: a run ends with its region."""
        parts = [cls._in_some(rows[at : at + _AT_ONCE]) for at in range(0, len(rows), _AT_ONCE)]
        none = [np.empty(0, np.int64)]
        first, count, position = (
            np.concatenate([getattr(part, name) for part in parts] or none)
            for name in ("first", "count", "position")
        )
        return cls(first, count, position)

    @classmethod
    def _in_some(cls, rows: Rows) -> Self:
        bits = np.unpackbits(rows["held"], axis=1, bitorder="little")
        edges = np.diff(bits.view(np.int8), axis=1, prepend=0, append=0)
        region, start = np.nonzero(edges == 1)
        count = np.nonzero(edges == -1)[1] - start
        before = np.cumsum(count) - count  # how many blocks all earlier runs have
        begins = np.searchsorted(region, region)  # each run's region's first run
        position = rows["position"].astype(np.int64)[region] + before - before[begins]
        return cls(rows["region"].astype(np.int64)[region] * REGION + start, count, position)

    def fit(self, blocks: int, of_disk: int) -> bool:
        """Whether they are so many blocks of a disk of `of_disk` blocks, in order."""
        inside = all(
            bool(((each >= 0) & (each < _MAX_BLOCKS + 1)).all())
            for each in (self.first, self.count, self.position)
        )
        if not inside or int(self.count.sum()) != blocks:
            return False
        ends = np.append(self.first[1:], of_disk)
        ordered = (self.count > 0) & (self.first + self.count <= ends)
        return bool((ordered & (self.position + self.count <= blocks)).all())

    def map(self, of_disk: int) -> BlockMap:
        """Over a "disk" of `of_disk` digests."""
        return BlockMap.from_runs(
            of_disk * DIGEST,
            self.first * DIGEST,
            self.count * DIGEST,
            np.zeros(len(self.first), np.int32),
            HEADER.size + self.position * DIGEST,
            UNALLOCATED,
        )


class _Regions:
    """What proves the digests, in the order in which they lie in the file.

    Attributes:
        starts: int64[n + 1], where each region's digests start in the file, and where all end.
        seals: uint8[n, 32], BLAKE3 of each.
        proven: bool[n], which were found to be right.
    """

    def __init__(self, rows: Rows) -> None:
        order = np.argsort(rows["position"])
        counts = ONES[rows["held"]].sum(axis=1, dtype=np.int64)
        self._positions = rows["position"][order].astype(np.int64)
        self._ends = np.cumsum(counts[order])
        self.starts = HEADER.size + np.append(0, self._ends) * DIGEST
        self.seals = rows["seal"][order]
        self.proven = np.zeros(len(rows), np.bool_)

    def fit(self, blocks: int) -> bool:
        """Whether they lie side by side, with nothing between, and are all of the digests."""
        if not len(self.seals):
            return True
        return bool((self._positions == np.append(0, self._ends[:-1])).all())

    def of(self, hosts: Int64s) -> Int64s:
        """The numbers of the regions that have these places of the file, each once."""
        if not len(self.seals):  # of layout 1: all was proven when the file was opened
            return np.empty(0, np.int64)
        return distinct(np.searchsorted(self.starts, hosts, "right") - 1)
