"""Where the clusters of a QCOW2 file go that is being written: L1, L2 and refcounts in memory.

Only v3 files with clusters of 64 KiB, or 8, and refcounts of 16 bits, in which each cluster has one
user. L2 tables and refcount blocks are held only where something was written since the file was
opened: 10 bytes per cluster, however large the disk claims to be.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.disks.extents import Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.qcow2.mapping import Entries, MappingTables
from vdbackup.disks.qcow2.structs import (
    BACKING_FORMAT,
    COMPRESSED,
    COPIED,
    FEATURE_NAMES,
    IDENTITY,
    MAX_REFCOUNT_TABLE_BYTES,
    OFFSET,
    REFCOUNT_ORDER,
    ZERO_FLAG,
    Header,
    HeaderCluster,
)
from vdbackup.disks.read_only import only_read
from vdbackup.errors import NeedsCheck, NoSpaceInDisk
from vdbackup.translation import tr

_CLUSTERLESS_EXTENSIONS = {BACKING_FORMAT, FEATURE_NAMES, IDENTITY}
"""Header extensions that name no clusters."""
_SPARE_BLOCKS = 16
"""Refcount blocks that a file may have beyond what its size needs, before it is lying."""

Counts = NDArray[np.uint16]


class Allocation:
    """What is in use, and what the next write takes: what lies behind all that is named.

    What else lies there was written by somebody who did not come to an end: it goes before that.

    `flush` writes what has changed. Until then the file says what it said before.
    """

    def __init__(self, file: HostFile, header: Header, l1: Entries, refcounts: Entries) -> None:
        self._file = file
        self._header = header
        self._cluster = header.cluster_size
        self._table_entries = self._cluster // 8
        self._block_entries = self._cluster // 2
        self._lock = threading.Lock()
        self._l1 = l1
        self._tables: dict[int, Entries] = {}  # L2 tables that a write needed
        self._refcount_table = refcounts
        self._blocks: dict[int, Counts] = {}  # refcount blocks that change, or that will
        self._end = 0  # the next new cluster
        self._has_remains = False  # whether something may lie from there on
        self._new_tables: set[int] = set()
        self._changed_tables: set[int] = set()
        self._new_blocks: set[int] = set()
        self._changed_blocks: set[int] = set()

    @classmethod
    def of_new_disk(cls, file: HostFile, header: Header) -> Allocation:
        """Header, refcount table and L1 table are there, and nothing else."""
        refcounts = np.zeros(header.refcount_table_clusters * header.table_entries, np.uint64)
        self = cls(file, header, np.zeros(header.l1_size, np.uint64), refcounts)
        self._end = -(-(header.l1_offset + header.l1_size * 8) // self._cluster)
        self._add_block(0)
        self._blocks[0][: self._end] = 1
        return self

    @classmethod
    def of_file(cls, file: HostFile, first: HeaderCluster) -> Allocation:
        """As the file has it; raises DiskError where it cannot be written to safely.

        Clusters that are counted and that nothing names (a power cut in `flush` leaves such) are
        free again, unless an extension that we do not know may be what names them.
        """
        header = first.header
        _check_layout(file, header)
        mapping = MappingTables(file, header)
        table_at, entries = header.refcount_table_offset, header.refcount_table_clusters
        refcounts = _entries_at(file, table_at, entries * header.table_entries)
        self = cls(file, header, mapping.l1(), refcounts)
        used = self._used(*mapping.table_places(self._l1))
        unknown = {kind for kind, _ in first.extensions} - _CLUSTERLESS_EXTENSIONS
        self._adopt_counts(used, mend=not unknown)
        return self

    # ------------------------------------------------------------------ what the file has

    def _used(self, tables: Int64s, places: Int64s) -> NDArray[np.bool_]:
        """bool[clusters of the file]: what something names; raises DiskError if two things do."""
        header, path = self._header, self._file.path
        if (tables >= header.tables).any():
            raise only_read(path)  # the state of a virtual machine, behind the disk
        if not (self._l1[tables] & np.uint64(COPIED)).all():
            raise _needs_check(path)
        used = np.zeros(-(-self._file.size // self._cluster), np.bool_)
        for place, size in (
            (0, self._cluster),
            (header.refcount_table_offset, header.refcount_table_clusters * self._cluster),
            (header.l1_offset, header.l1_size * 8),
        ):
            self._use(used, np.arange(place // self._cluster, -(-(place + size) // self._cluster)))
        self._use(used, self._named(self._refcount_table, 0))
        self._use(used, places // self._cluster)
        for place in places.tolist():
            if self._file.data_segments(place, place + self._cluster):
                entries = _entries_at(self._file, place, self._table_entries)
                if (entries & np.uint64(COMPRESSED)).any():
                    raise only_read(path)
                named = entries[entries > ZERO_FLAG]
                self._use(used, self._named(named, COPIED | ZERO_FLAG))
                if not (named & np.uint64(COPIED)).all():
                    raise _needs_check(path)
        return used

    def _named(self, pointers: Entries, flags: int) -> Int64s:
        """The clusters that entries name; raises DiskError for other bits than `flags`."""
        if (pointers & ~np.uint64(OFFSET | flags)).any():
            raise _needs_check(self._file.path)
        places: Int64s = (pointers[pointers != 0] & np.uint64(OFFSET)).astype(np.int64)
        if (places % self._cluster).any():
            raise _needs_check(self._file.path)
        return places // self._cluster

    def _use(self, used: NDArray[np.bool_], clusters: Int64s) -> None:
        """Note the clusters as used; raises DiskError where one is none, or is used already."""
        if not len(clusters):
            return
        apart = np.diff(np.sort(clusters)) > 0
        inside = clusters.min() >= 0 and clusters.max() < len(used)
        if not inside or not apart.all() or used[clusters].any():
            raise _needs_check(self._file.path)
        used[clusters] = True

    def _adopt_counts(self, used: NDArray[np.bool_], mend: bool) -> None:
        """Compare with what the file counts; `mend`: `flush` writes what it counts too much.

        Where something unknown may name a cluster, new ones go behind all that was ever written.
        """
        self._end = int(np.flatnonzero(used)[-1]) + 1 if mend else len(used)
        self._has_remains = mend
        needed = -(-len(used) // self._block_entries)
        named = set(np.flatnonzero(self._refcount_table).tolist())
        if len(named) > 2 * needed + _SPARE_BLOCKS:
            raise _needs_check(self._file.path)
        for block in sorted(named.union(range(needed))):
            here = used[block * self._block_entries :][: self._block_entries]
            counts = np.zeros(self._block_entries, np.uint16)
            counts[: len(here)] = here
            stored = self._stored_counts(block)
            if (stored > 1).any() or (counts > stored).any():
                raise _needs_check(self._file.path)
            leaks = mend and (counts < stored).any()
            if leaks:
                self._changed_blocks.add(block)
            if leaks or (block in named and block >= self._end // self._block_entries):
                self._blocks[block] = counts if mend else stored

    def _stored_counts(self, block: int) -> Counts:
        if block >= len(self._refcount_table) or not self._refcount_table[block]:
            return np.zeros(self._block_entries, np.uint16)
        data = bytearray(self._cluster)
        self._file.readinto(int(self._refcount_table[block]), memoryview(data))
        return np.frombuffer(data, ">u2").astype(np.uint16)

    # ------------------------------------------------------------------ changes

    def to_write(self, clusters: Int64s) -> Int64s:
        """Where to write clusters of the disk, ascending, in bytes; new ones are made."""
        with self._lock:
            tables = _by_table(clusters, self._table_entries)
            return np.concatenate([self._to_write(table, rows) for table, rows in tables])

    def _to_write(self, table: int, rows: Int64s) -> Int64s:
        entries = self._table(table)
        hosts = (entries[rows] & np.uint64(OFFSET)).astype(np.int64)
        missing = np.flatnonzero(hosts == 0)
        hosts[missing] = self._free(len(missing)) * self._cluster
        wanted = hosts.astype(np.uint64) | np.uint64(COPIED)
        if (entries[rows] != wanted).any():
            entries[rows] = wanted
            self._changed_tables.add(table)
        return hosts

    def hosts(self, clusters: Int64s) -> Int64s:
        """Where clusters of the disk lie, ascending, in bytes; 0 where they do not."""
        with self._lock:
            entries = [
                self._table(table)[rows] if self._l1[table] else np.zeros(len(rows), np.uint64)
                for table, rows in _by_table(clusters, self._table_entries)
            ]
            return (np.concatenate(entries) & np.uint64(OFFSET)).astype(np.int64)

    def _table(self, number: int) -> Entries:
        """The L2 table, to be changed; a new one where there is none."""
        if number not in self._tables:
            if self._l1[number]:
                place = int(self._l1[number]) & OFFSET
                self._tables[number] = _entries_at(self._file, place, self._table_entries)
            else:
                self._tables[number] = np.zeros(self._table_entries, np.uint64)
                self._l1[number] = int(self._free(1)[0]) * self._cluster | COPIED
                self._new_tables.add(number)
        return self._tables[number]

    def _free(self, count: int) -> Int64s:
        """The numbers of the next `count` free clusters of the file, which are in use now."""
        if count and self._has_remains:
            self._file.cut(self._end * self._cluster)  # what is new is zeros until it is written
            self._has_remains = False
        found = [np.empty(0, np.int64)]
        while count:
            block = self._end // self._block_entries
            if block >= len(self._refcount_table) or not self._refcount_table[block]:
                self._add_block(block)
                continue
            stop = min(self._end + count, (block + 1) * self._block_entries)
            found.append(np.arange(self._end, stop))
            count -= stop - self._end
            self._take(block, stop)
        return np.concatenate(found)

    def _add_block(self, block: int) -> None:
        """Make a refcount block, in the first cluster that it counts itself.

        So no order among the refcount table's entries can leave a block that nothing counts.
        """
        if block >= len(self._refcount_table):
            raise NoSpaceInDisk(
                tr("{file} has grown to the end of its refcount table.", file=self._file.path),
                tr("Export it to a new disk first."),
            )
        self._blocks[block] = np.zeros(self._block_entries, np.uint16)
        self._refcount_table[block] = self._end * self._cluster
        self._new_blocks.add(block)
        self._take(block, self._end + 1)

    def _take(self, block: int, stop: int) -> None:
        start = block * self._block_entries
        self._blocks[block][self._end - start : stop - start] = 1
        self._changed_blocks.add(block)
        self._end = stop

    # ------------------------------------------------------------------ to the file

    def flush(self) -> None:
        """Make durable what was written, then what names it.

        1. The data, which are written already, with their refcounts, and new L2 tables and refcount
        blocks, which nothing names yet. 2. The refcount table's entries for new blocks. 3. L1 and
        L2 entries. A power cut leaves clusters that are counted and not named: they are lost
        until the next time that the file is opened for writing. It never leaves a cluster that
        is named and not there, or not counted.
        """
        header = self._header
        self._file.grow(self._end * self._cluster)
        for block in sorted(self._changed_blocks):
            counts = self._blocks[block].astype(">u2")
            self._file.write(int(self._refcount_table[block]), memoryview(counts).cast("B"))
        self._write_tables(self._new_tables)
        self._file.sync()
        if self._new_blocks:
            place = header.refcount_table_offset
            self._write_pointers(place, self._refcount_table, self._new_blocks)
            self._file.sync()
        if self._changed_tables or self._new_tables:
            self._write_tables(self._changed_tables - self._new_tables)
            self._write_pointers(header.l1_offset, self._l1, self._new_tables)
            self._file.sync()
        for changed in (
            self._changed_blocks, self._new_blocks, self._changed_tables, self._new_tables,
        ):  # fmt: skip
            changed.clear()

    def _write_tables(self, numbers: Iterable[int]) -> None:
        for number in sorted(numbers):
            entries = self._tables[number].astype(">u8")
            place = int(self._l1[number]) & OFFSET
            self._file.write(place, memoryview(entries).cast("B"))

    def _write_pointers(self, place: int, pointers: Entries, changed: Iterable[int]) -> None:
        """Those entries of the L1 or refcount table that have changed, neighbours together."""
        numbers = np.array(sorted(changed), np.int64)
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                data = pointers[run].astype(">u8")
                self._file.write(place + int(run[0]) * 8, memoryview(data).cast("B"))


def _by_table(clusters: Int64s, entries: int) -> Iterator[tuple[int, Int64s]]:
    """Clusters of the disk, ascending, as (L2 table, their entries' numbers in it).

    A table has so many entries.
    """
    tables = clusters // entries
    for part in np.split(clusters, np.flatnonzero(np.diff(tables)) + 1):
        if len(part):
            yield int(part[0]) // entries, part % entries


def _entries_at(file: HostFile, place: int, count: int) -> Entries:
    data = bytearray(count * 8)
    file.readinto(place, memoryview(data))
    return np.frombuffer(data, ">u8").astype(np.uint64)


def _check_layout(file: HostFile, header: Header) -> None:
    """Raise DiskError where something is laid out as we do not write it, or lies outside."""
    if (
        header.version != 3
        or header.cluster_size not in (UNIT, FINE_UNIT)
        or header.refcount_order != REFCOUNT_ORDER
        or header.snapshots
        or header.snapshots_offset
        or header.extended_l2
    ):
        raise only_read(file.path)
    size = header.refcount_table_clusters * header.cluster_size
    place = header.refcount_table_offset
    misplaced = place % header.cluster_size or place + size > file.size
    if not 0 < size <= MAX_REFCOUNT_TABLE_BYTES or misplaced:
        raise _needs_check(file.path)


def _needs_check(path: Path) -> NeedsCheck:
    return NeedsCheck(
        tr("{path} cannot be written to, as its tables contradict each other.", path=path),
        tr("Make a copy, and let 'qemu-img check -r all {path}' mend it.", path=path.name),
    )
