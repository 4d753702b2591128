"""The inside of one hosted sparse file (VMDK), read: its grain tables, its compressed grains."""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.doubts import SHARED, any_shared
from vdbackup.disks.extents import ZERO, BlockMap, Int64s, Ranges, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.vmdk.structs import (
    AT_END,
    FLAG_MARKERS,
    FLAG_REDUNDANT_TABLE,
    FLAG_ZERO_GRAINS,
    FOOTER_FROM_END,
    TABLE_ENTRIES,
    GrainMarker,
    SparseExtentHeader,
    decoded,
)
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

TABLE_BYTES = TABLE_ENTRIES * 4
_ZERO_ENTRY = 1
_CONTRADICTED = tr(
    "has two copies of its tables, which contradict each other: what is read may be wrong, or zeros"
)
_CHECKED = 1 << 20
"""Grains that are looked at together."""

Entries = tuple[Int64s, NDArray[np.uint32]]
"""Grain numbers, ascending, and what the tables have for each: a sector of the file, never 0."""


def read_header(file: HostFile) -> SparseExtentHeader:
    """What says where everything is: the header, or the footer if the header says so."""
    header = SparseExtentHeader.parse(file.read(0, SECTOR), file.path, file.size)
    if header.directory != AT_END:
        return header
    at = file.size // SECTOR * SECTOR - FOOTER_FROM_END
    footer = SparseExtentHeader.parse(
        file.read(max(at, 0), SECTOR), file.path, file.size, max(at, 0)
    )
    if footer.directory == AT_END:
        raise DiskFormatError(file.path, at, tr("the footer does not say where the tables are"))
    return footer


def read_descriptor(file: HostFile) -> str:
    """The text in a sparse file, "" where there is none, as in all extents of one but the first."""
    header = SparseExtentHeader.parse(file.read(0, SECTOR), file.path, file.size)
    place, size = header.descriptor_offset * SECTOR, header.descriptor_size * SECTOR
    return decoded(file.read(place, size)) if size else ""


class GrainTables:
    """Both levels of tables: the directory, and the tables that it names."""

    def __init__(self, file: HostFile, header: SparseExtentHeader) -> None:
        self._file = file
        self._header = header
        self._grain = header.grain_size * SECTOR

    def block_map(self, entries: Entries, fill: int) -> BlockMap:
        """The grains that are here, each where it lies in the file; `fill` for the others."""
        grains, places = entries
        hosts = places.astype(np.int64) * SECTOR
        if self._header.flags & FLAG_ZERO_GRAINS:
            hosts[places == _ZERO_ENTRY] = ZERO
        self.check_places(grains, hosts)
        if self._header.compressed:  # the place in the disk: where in the file is no one's business
            hosts = np.where(hosts == ZERO, ZERO, grains * self._grain)
        size = self._header.capacity * SECTOR
        return BlockMap.from_blocks(size, self._grain, grains, hosts, fill)

    def check_places(self, grains: Int64s, hosts: Int64s) -> None:
        """Every grain lies inside the file (the disk's last one may be short)."""
        for first in range(0, len(grains), _CHECKED):
            part = slice(first, first + _CHECKED)
            self._check_some(grains[part], hosts[part])

    def _check_some(self, grains: Int64s, hosts: Int64s) -> None:
        header = self._header
        lengths = np.minimum(self._grain, header.capacity * SECTOR - grains * self._grain)
        if header.compressed:
            lengths = np.minimum(lengths, GrainMarker.SIZE)
        file_size = self._file.size
        wrong = (hosts != ZERO) & ((hosts + lengths > file_size) | (hosts < SECTOR))
        wrong |= grains >= header.grains
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            problem = tr(
                "grain {grain} is said to lie at byte {host} of {file_size}",
                grain=grains[first],
                host=hosts[first],
                file_size=file_size,
            )
            raise DiskFormatError(self._file.path, header.directory * SECTOR, problem)

    def entries(self, directory: int) -> Entries:
        """All that the file has.

        Args:
            directory: the one to go by; where it lies, in sectors.
        """
        found = [(np.empty(0, np.int64), np.empty(0, np.uint32))]
        for first_table, place, count in self.runs(directory):
            found += self._entries_in(first_table * TABLE_ENTRIES, place, count * TABLE_BYTES)
        return (
            np.concatenate([grains for grains, _ in found]),
            np.concatenate([places for _, places in found]),
        )

    def doubts(self, entries: Entries) -> tuple[str, ...]:
        """What contradicts itself, each to follow the file's name in a sentence."""
        found = [_CONTRADICTED] if self.are_contradicted(entries) else []
        if not self._header.compressed and any_shared(
            self.block_map(entries, ZERO), self.structures()
        ):
            found.append(SHARED)
        return tuple(found)

    def structures(self) -> Ranges:
        """Where header, descriptor and tables lie: offset and length in bytes."""
        header = self._header
        directory, text = header.directory * SECTOR, header.descriptor_offset * SECTOR
        tables = self.runs(header.directory)
        places = [(place, count * TABLE_BYTES) for _, place, count in tables]
        own = [(0, SECTOR), (directory, header.tables * 4)]
        described = [(text, header.descriptor_size * SECTOR)] if header.descriptor_size else []
        return as_ranges([*own, *described, *places])

    def are_contradicted(self, entries: Entries) -> bool:
        """Whether the second copy of the tables has grains that `entries` lack, or elsewhere.

        Only that is asked: some programs leave the second copy empty.
        """
        header = self._header
        if not header.flags & FLAG_REDUNDANT_TABLE or not header.redundant_directory:
            return False
        try:
            grains, places = self.entries(header.redundant_directory)
        except DiskFormatError:
            return True
        if not len(grains):
            return False
        at = np.searchsorted(entries[0], grains)
        if at[-1] == len(entries[0]):
            return True
        return bool(((entries[0][at] != grains) | (entries[1][at] != places)).any())

    def runs(self, directory: int) -> list[tuple[int, int, int]]:
        """Grain tables that lie side by side: (first table, place in bytes, tables).

        Args:
            directory: the one that names them; where it lies, in sectors.
        """
        tables = self._header.tables
        data = self._file.read(directory * SECTOR, tables * 4)
        places = np.frombuffer(data, "<u4").astype(np.int64) * SECTOR
        if len(places) < tables or (places + TABLE_BYTES > self._file.size).any():
            problem = tr("a grain table lies outside the file")
            raise DiskFormatError(self._file.path, directory * SECTOR, problem)
        # else a small file could name one table a million times, and the map would fill the memory
        if (np.diff(np.sort(places[places > 0])) < TABLE_BYTES).any():
            problem = tr("two grain tables share a place")
            raise DiskFormatError(self._file.path, directory * SECTOR, problem)
        apart = np.flatnonzero(np.diff(places) != TABLE_BYTES) + 1
        bounds = [0, *apart.tolist(), tables]
        runs = pairwise(bounds)
        # a directory entry of 0: no table, so nothing of its grains is here
        return [(a, int(places[a]), b - a) for a, b in runs if a < b and places[a]]

    def _entries_in(
        self, first_grain: int, place: int, size: int
    ) -> list[tuple[Int64s, NDArray[np.uint32]]]:
        """The entries that are not 0 of the tables at `place`.

        Holes of the file are not read: opening a chain of 100 nearly empty layers over 1 TiB would
        read 6.4 GB of zeros.
        """
        found = []
        for at, length in self._file.data_segments(place, place + size):
            start = at // 4 * 4
            data = bytearray(at + length - start)
            self._file.readinto(start, memoryview(data))
            entries = np.frombuffer(data, "<u4", len(data) // 4)
            here = np.flatnonzero(entries)
            found.append(
                (here + first_grain + (start - place) // 4, entries[here].astype(np.uint32))
            )
        return found


class SparseExtent:
    """One sparse file, plain or compressed, for reading alone.

    `readinto` may be called from several threads at once.

    Attributes:
        size: of its part of the disk, in bytes: the header's until the descriptor has been asked.
        grain: bytes in one.
        unclean: whether it was not closed by who wrote to it.
    """

    def __init__(self, file: HostFile) -> None:
        self._file = file
        self._header = read_header(file)
        self._tables = GrainTables(file, self._header)
        self._entries = self._tables.entries(self._header.directory)
        self._last = -1, b""  # the grain that was inflated last: small reads come one by one
        self.size = self._header.capacity * SECTOR
        self.grain = self._header.grain_size * SECTOR
        self.unclean = bool(self._header.unclean)

    def block_map(self, fill: int) -> BlockMap:
        """Its own grains; in a compressed one a grain's host is its place in this part's bytes."""
        return self._tables.block_map(self._entries, fill).part(0, self.size)

    def doubts(self) -> tuple[str, ...]:
        """What contradicts itself in its tables; see VirtualDisk."""
        return self._tables.doubts(self._entries)

    def readinto(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the map on."""
        if not self._header.compressed:
            self._file.readinto(host, view)
            return
        done = 0
        while done < len(view):
            number, start = divmod(host + done, self.grain)
            part = self._inflated(number)[start : start + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)

    def _inflated(self, number: int) -> bytes:
        """A grain's bytes, whole but for the last of the disk, which may be short."""
        last, data = self._last
        if last == number:
            return data
        grains, places = self._entries
        place = int(places[np.searchsorted(grains, number)]) * SECTOR
        data = _inflate(self._compressed(number, place), self.grain)
        if len(data) < min(self.grain, self.size - number * self.grain):
            self._refuse(number, place, tr("is damaged: it cannot be decompressed to its size"))
        self._last = number, data
        return data

    def _compressed(self, number: int, place: int) -> bytes:
        """A grain as it is stored."""
        most = 2 * self.grain + SECTOR  # deflate never needs as much
        if not self._header.flags & FLAG_MARKERS:
            return self._file.read(place, most)
        start = bytearray(GrainMarker.SIZE)
        self._file.readinto(place, memoryview(start))
        marker = GrainMarker.parse(start)
        if marker.sector != number * self._header.grain_size or marker.size > most:
            self._refuse(number, place, tr("is not where the table says"))
        return self._file.read(place + GrainMarker.SIZE, marker.size)

    def _refuse(self, number: int, place: int, problem: str) -> NoReturn:
        raise DiskFormatError(
            self._file.path, place, tr("grain {number} {problem}", number=number, problem=problem)
        )


def _inflate(data: bytes, grain: int) -> bytes:
    """At most one grain; what is damaged, or would be more, is b""."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, grain + 1)
    except zlib.error:
        return b""
    return inflated if stream.eof and len(inflated) <= grain else b""
