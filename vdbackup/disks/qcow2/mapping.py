"""The cluster mapping of a QCOW2 file: L1 and L2 tables as they are stored, and their map.

Source: QEMU, docs/interop/qcow2.txt ("Cluster mapping", "Extended L2 Entries"). Nothing is
believed: what lies outside the file, on no cluster, or has reserved bits raises DiskFormatError.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s, Ranges, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.qcow2.structs import COMPRESSED, COPIED, OFFSET, ZERO_FLAG, Header
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

COMPRESSED_FROM = 1 << 62
"""In a map, hosts from here on: the place in the disk, plus this, of what is compressed.

Larger than any file, and more than twice any disk with an L1 table that QEMU opens.
"""
SUBCLUSTERS = 32
_PIECE = 256 << 10
"""Bytes of an L2 table that are looked at together: an extended entry becomes 32 blocks."""

Entries = NDArray[np.uint64]
_Runs = tuple[Int64s, Int64s, NDArray[np.int32], Int64s]


class MappingTables:
    """The tables of one file, read when they are asked for. Several threads may ask at once."""

    def __init__(self, file: HostFile, header: Header) -> None:
        self._file = file
        self.header = header

    @property
    def compressed_offset_bits(self) -> int:
        """Bits of a compressed cluster's place in its L2 entry."""
        return 62 - (self.header.cluster_bits - 8)

    def block_map(self, fill: int) -> BlockMap:
        """The disk's own clusters, in layer 0, with `fill` for all others."""
        runs = [self._runs(clusters, entries) for clusters, entries in self._batches()]
        if not runs:
            return BlockMap.uniform(self.header.size, fill)
        offsets, lengths, layers, hosts = (
            np.concatenate(parts) for parts in zip(*runs, strict=True)
        )
        return BlockMap.from_runs(self.header.size, offsets, lengths, layers, hosts, fill)

    def entry(self, cluster: int) -> int:
        """The (first word of the) L2 entry of a cluster that the map names."""
        table, number = divmod(cluster, self.header.table_entries)
        place = int.from_bytes(self._file.read(self.header.l1_offset + table * 8, 8))
        at = (place & OFFSET) + number * 8 * self.header.entry_words
        return int.from_bytes(self._file.read(at, 8))

    def l1(self) -> Entries:
        """uint64[l1_size]: the L1 table."""
        data = bytearray(self.header.l1_size * 8)
        self._file.readinto(self.header.l1_offset, memoryview(data))
        return np.frombuffer(data, ">u8").astype(np.uint64)

    def table_places(self, l1: Entries) -> tuple[Int64s, Int64s]:
        """The entries of an L1 table that name an L2 table: their numbers, and places in bytes."""
        numbers = np.flatnonzero(l1)
        places = (l1[numbers] & OFFSET).astype(np.int64)
        wrong = (l1[numbers] & ~np.uint64(OFFSET | COPIED)) != 0
        wrong |= (places % self.header.cluster_size != 0) | (places == 0)
        wrong |= places + self.header.cluster_size > self._file.size
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            problem = tr(
                "L2 table {number} is said to lie at {l1:#x}",
                number=numbers[first],
                l1=int(l1[numbers[first]]),
            )
            raise DiskFormatError(
                self._file.path, self.header.l1_offset + int(numbers[first]) * 8, problem
            )
        # else a small file could name one table a million times, and the map would fill the memory
        if (np.diff(np.sort(places)) == 0).any():
            problem = tr("two L2 tables share a place")
            raise DiskFormatError(self._file.path, self.header.l1_offset, problem)
        return numbers, places

    def structures(self) -> Ranges:
        """Where header and tables lie: offset and length in bytes."""
        header = self.header
        _, places = self.table_places(self.l1()[: header.tables])
        size = header.cluster_size
        own = [
            (0, size),
            (header.l1_offset, header.l1_size * 8),
            (header.refcount_table_offset, header.refcount_table_clusters * size),
        ]
        tables = np.stack([places, np.full(len(places), size, np.int64)], axis=1)
        return np.concatenate([as_ranges(own), tables])

    def _batches(self) -> Iterator[tuple[Int64s, Entries]]:
        """The L2 entries that are not 0: ascending numbers of clusters, and entries[n, words]."""
        words = self.header.entry_words
        clusters: list[Int64s] = []
        found: list[Entries] = []
        count = 0
        for first, place, length in self._pieces():
            if not self._file.data_segments(place, place + length):
                continue  # a hole: a lying file could have a million of them
            data = bytearray(length)
            self._file.readinto(place, memoryview(data))
            entries = np.frombuffer(data, ">u8").reshape(-1, words)
            here = np.flatnonzero(entries.any(axis=1))
            here = here[here < self.header.clusters - first]
            clusters.append(here + first)
            found.append(entries[here].astype(np.uint64))
            count += len(here)
            if count * words * 8 >= _PIECE:
                yield np.concatenate(clusters), np.concatenate(found)
                clusters, found, count = [], [], 0
        if count:
            yield np.concatenate(clusters), np.concatenate(found)

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        """The L2 tables, large ones in pieces: (first cluster, place, length in bytes)."""
        header = self.header
        numbers, places = self.table_places(self.l1()[: header.tables])
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            first = number * header.table_entries
            for at in range(0, header.cluster_size, _PIECE):
                length = min(_PIECE, header.cluster_size)
                yield first + at // (8 * header.entry_words), place + at, length

    # ------------------------------------------------------------------ entries to runs

    def _runs(self, clusters: Int64s, entries: Entries) -> _Runs:
        """What `BlockMap.from_runs` wants, of one batch."""
        size, block_size = self.header.size, self.header.cluster_size
        hosts = self._hosts(clusters, entries[:, 0])
        blocks = clusters
        if self.header.extended_l2:
            block_size //= SUBCLUSTERS
            blocks, hosts = self._subclusters(clusters, hosts, entries)
        self._check_inside(blocks, hosts, block_size)
        part = BlockMap.from_blocks(size, block_size, blocks, hosts, UNALLOCATED)
        own = part.layers != UNALLOCATED
        return part.starts[own], part.lengths[own], part.layers[own], part.hosts[own]

    def _hosts(self, clusters: Int64s, entries: Entries) -> Int64s:
        """Each cluster's place in the file, in bytes, or ZERO, or from COMPRESSED_FROM on.

        0 for none: extended entries may have zeros only.
        """
        compressed = (entries & COMPRESSED) != 0
        hosts = (entries & OFFSET).astype(np.int64)
        # version 2 and extended entries: "this is always 0"
        has_flag = self.header.version > 2 and not self.header.extended_l2
        flags = COPIED | OFFSET | (ZERO_FLAG if has_flag else 0)
        wrong = (entries & ~np.uint64(flags)) != 0
        wrong |= hosts % self.header.cluster_size != 0
        wrong |= (hosts == 0) & ((entries & COPIED) != 0)
        wrong &= ~compressed
        self._refuse(wrong, clusters, entries)
        hosts[(entries & ZERO_FLAG) != 0] = ZERO
        places = (entries & ((1 << self.compressed_offset_bits) - 1)).astype(np.int64)
        self._refuse(compressed & (places >= self._file.size), clusters, entries)
        hosts[compressed] = COMPRESSED_FROM + clusters[compressed] * self.header.cluster_size
        return hosts

    def _refuse(self, wrong: NDArray[np.bool_], clusters: Int64s, entries: Entries) -> None:
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            problem = tr(
                "the L2 entry {entry:#x} of cluster {cluster} is wrong",
                entry=int(entries[first]),
                cluster=clusters[first],
            )
            raise DiskFormatError(self._file.path, self.header.l1_offset, problem)

    def _subclusters(
        self, clusters: Int64s, hosts: Int64s, entries: Entries
    ) -> tuple[Int64s, Int64s]:
        """The subclusters that are here or read as zeros: numbers and hosts."""
        bits = np.unpackbits(
            entries[:, 1].astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"
        ).view(np.bool_)
        here, zeros = bits[:, :SUBCLUSTERS].copy(), bits[:, SUBCLUSTERS:].copy()
        compressed = hosts >= COMPRESSED_FROM
        here[compressed], zeros[compressed] = True, False
        wrong = (here & zeros).any(axis=1) | (here.any(axis=1) & (hosts == 0))
        self._refuse(wrong, clusters, entries[:, 1])
        steps = np.arange(SUBCLUSTERS)
        places = hosts[:, None] + steps * (self.header.cluster_size // SUBCLUSTERS)
        places[zeros] = ZERO
        numbers = clusters[:, None] * SUBCLUSTERS + steps
        kept = (here | zeros) & (
            numbers * (self.header.cluster_size // SUBCLUSTERS) < self.header.size
        )
        return numbers[kept], places[kept]

    def _check_inside(self, blocks: Int64s, hosts: Int64s, block_size: int) -> None:
        """Every block lies inside the file (the disk's last one may be short)."""
        lengths = np.minimum(block_size, self.header.size - blocks * block_size)
        file_size = self._file.size
        wrong = (hosts >= 0) & (hosts < COMPRESSED_FROM) & (hosts + lengths > file_size)
        wrong |= hosts == 0
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            problem = tr(
                "byte {block} of the disk is said to lie at byte {host} of {file_size}",
                block=blocks[first] * block_size,
                host=hosts[first],
                file_size=file_size,
            )
            raise DiskFormatError(self._file.path, self.header.l1_offset, problem)
