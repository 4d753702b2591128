"""VMDK (hosted sparse, "monolithicSparse"): read, create, write in place, relink.

A grain (64 KiB) is all or nothing: it is here, or the parent answers. A grain that must read as
zeros over a parent's data is a real grain of zeros: QEMU knows zero grains (entry 1), libvmdk and
VirtualBox fail on them.
"""

from __future__ import annotations

import re
import secrets
import threading
import uuid
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.disk import SECTOR, DiskInfo, ParentRef
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.vmdk_structs import (
    DESCRIPTOR_AT,
    FLAG_ZERO_GRAINS,
    MAGIC,
    NO_PARENT,
    TABLE_ENTRIES,
    Descriptor,
    SparseExtentHeader,
)
from vdbackup.errors import DiskError, DiskFormatError

LARGEST = (2 << 40) - (1 << 30)
"""Bytes of disk: grain table entries are 32-bit sectors, and the tables take their part of them."""
TABLE_BYTES = TABLE_ENTRIES * 4
_ZERO_ENTRY = 1
_ZEROS = memoryview(bytes(1 << 20))


class VmdkDisk:
    """One monolithicSparse file, without its parents.

    Writes go to free grains at the end of the file, or over the grain that is there; the tables in
    memory follow at once, the tables in the file with `flush`.
    """

    def __init__(self, file: HostFile, header: SparseExtentHeader, descriptor: Descriptor) -> None:
        self.path = file.path
        self._file = file
        self._header = header
        self._descriptor = descriptor
        self._grain = header.grain_size * SECTOR
        self._lock = threading.Lock()
        self._writing = False
        self._entries = np.empty(0, np.uint32)  # uint32[tables * 512], while writing
        self._touched = np.zeros(header.tables, np.bool_)  # tables changed since the last flush
        self._end = 0  # where the next grain goes, in bytes

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> VmdkDisk:
        """Open an existing file; raises DiskFormatError where it breaks the format's rules."""
        file = HostFile.open(path, writable)
        try:
            disk = cls._parsed(file)
            if writable:
                disk._prepare_writing()
        except BaseException:
            file.close()
            raise
        return disk

    @classmethod
    def _parsed(cls, file: HostFile) -> VmdkDisk:
        path = file.path
        header = SparseExtentHeader.parse(file.read(0, SECTOR), path, file.size)
        size = header.descriptor_size * SECTOR
        if not size:
            raise DiskFormatError(
                path, 0, "it is an extent of a larger VMDK, not a disk of its own"
            )
        raw = file.read(header.descriptor_offset * SECTOR, size)
        text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return cls(file, header, Descriptor.parse(text, path, header.capacity * SECTOR))

    @classmethod
    def create(
        cls,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
    ) -> VmdkDisk:
        """Make a new, empty disk, open for writing; the file must not exist.

        Args:
            path: of the new file; a trailing ".partial" does not go into the descriptor.
            virtual_size: in bytes, a multiple of 512, at most LARGEST.
            parent: what it is the child of.
            sector_size: 512; the format knows no other.
        """
        if virtual_size > LARGEST or sector_size != SECTOR:
            raise ValueError(f"{virtual_size} bytes in sectors of {sector_size} are no VMDK")
        header = SparseExtentHeader.for_disk(virtual_size)
        descriptor = Descriptor(
            virtual_size, path.name.removesuffix(".partial"), _new_cid(), str(uuid.uuid4())
        )
        if parent:
            descriptor = _with_parent(descriptor, parent)
        start = header.pack() + descriptor.pack()
        file = HostFile.create(path)
        try:
            disk = cls(file, header, descriptor)
            disk._write_empty(start)
        except BaseException:
            file.close()
            raise
        return disk

    def _write_empty(self, start: bytes) -> None:
        header = self._header
        self._end = header.overhead * SECTOR
        self._writing, self._entries = True, np.zeros(header.tables * TABLE_ENTRIES, np.uint32)
        self._file.grow(self._end)  # the tables stay holes until they name a grain
        self._file.write(0, memoryview(start))
        for directory in (header.redundant_directory, header.directory):
            places = header.first_table(directory) + np.arange(header.tables, dtype="<u4") * (
                TABLE_BYTES // SECTOR
            )
            self._file.write(directory * SECTOR, memoryview(places.astype("<u4").tobytes()))

    # ------------------------------------------------------------------ reading

    @property
    def info(self) -> DiskInfo:
        """The disk's facts; `disk_id` is ddb.uuid.image, `content_id` the CID."""
        own = self._descriptor
        parent = None
        if own.parent_cid != NO_PARENT:
            parent = ParentRef(own.parent_uuid, own.parent_cid, own.parent_hint or "")
        return DiskInfo(
            "vmdk", self._header.capacity * SECTOR, SECTOR, self._grain, own.uuid, own.cid, parent
        )

    def block_map(self) -> BlockMap:
        """The disk's own grains; raises DiskFormatError where a table names what is not there."""
        grains, entries = self._stored_entries()
        hosts = entries.astype(np.int64) * SECTOR
        if self._header.flags & FLAG_ZERO_GRAINS:
            hosts[entries == _ZERO_ENTRY] = ZERO
        self._check_places(grains, hosts)
        # without a parent there is nothing to fall through to: what is not here reads as zeros
        fill = ZERO if self.info.parent is None else UNALLOCATED
        return BlockMap.from_blocks(self.info.virtual_size, self._grain, grains, hosts, fill)

    def _check_places(self, grains: Int64s, hosts: Int64s) -> None:
        """Every grain lies inside the file (the disk's last one may be short)."""
        lengths = np.minimum(self._grain, self.info.virtual_size - grains * self._grain)
        file_size = self._file.size
        wrong = (hosts != ZERO) & ((hosts + lengths > file_size) | (hosts < SECTOR))
        wrong |= grains >= self._header.grains
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            problem = f"grain {grains[first]} is said to lie at byte {hosts[first]} of {file_size}"
            raise DiskFormatError(self.path, self._header.directory * SECTOR, problem)

    def _stored_entries(self) -> tuple[Int64s, NDArray[np.uint32]]:
        """All entries that are not 0: grain numbers, ascending, and the entries."""
        if self._writing:
            grains = np.flatnonzero(self._entries)
            return grains, self._entries[grains]
        found = [(np.empty(0, np.int64), np.empty(0, np.uint32))]
        for first_table, place, count in self._table_runs(self._header.directory):
            found += self._entries_in(first_table * TABLE_ENTRIES, place, count * TABLE_BYTES)
        return (
            np.concatenate([grains for grains, _ in found]),
            np.concatenate([entries for _, entries in found]),
        )

    def _table_runs(self, directory: int) -> list[tuple[int, int, int]]:
        """Grain tables that lie side by side: (first table, place in bytes, tables).

        Args:
            directory: the one that names them; where it lies, in sectors.
        """
        tables = self._header.tables
        data = self._file.read(directory * SECTOR, tables * 4)
        places = np.frombuffer(data, "<u4").astype(np.int64) * SECTOR
        if len(places) < tables or (places + TABLE_BYTES > self._file.size).any():
            problem = "a grain table lies outside the file"
            raise DiskFormatError(self.path, directory * SECTOR, problem)
        # else a small file could name one table a million times, and the map would fill the memory
        if (np.diff(np.sort(places[places > 0])) < TABLE_BYTES).any():
            problem = "two grain tables share a place"
            raise DiskFormatError(self.path, directory * SECTOR, problem)
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

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""
        self._file.readinto(host, view)

    # ------------------------------------------------------------------ writing

    def _prepare_writing(self) -> None:
        header = self._header
        if not header.is_ours() or not all(
            self._table_runs(directory)
            == [(0, header.first_table(directory) * SECTOR, header.tables)]
            for directory in (header.redundant_directory, header.directory)
        ):
            raise DiskError(
                f"{self.path} was made by another program in a layout that is only read.",
                "Export it to a new disk first.",
            )
        grains, entries = self._stored_entries()
        self._check_places(grains, entries.astype(np.int64) * SECTOR)
        places = np.sort(entries)
        if (np.diff(places) < header.grain_size).any() or (places < header.overhead).any():
            problem = "two grains share a place, or one lies in the tables"
            raise DiskFormatError(self.path, header.directory * SECTOR, problem)
        self._writing, self._entries = True, np.zeros(header.tables * TABLE_ENTRIES, np.uint32)
        self._entries[grains] = entries
        self._end = -(-self._file.size // self._grain) * self._grain

    def write(self, offset: int, view: memoryview) -> None:
        """Write whole grains (the disk's last one may be short) at byte `offset` of the disk."""
        hosts = self._allocated(offset, len(view))
        cuts = np.flatnonzero(np.diff(hosts) != self._grain) + 1
        bounds = [0, *cuts.tolist(), len(hosts)]
        for first, last in pairwise(bounds):
            part = view[first * self._grain : last * self._grain]
            self._file.write(int(hosts[first]), part)

    def _allocated(self, offset: int, length: int) -> Int64s:
        """Each grain's place in the file, in bytes; missing ones get the next free places."""
        first, last = offset // self._grain, -(-(offset + length) // self._grain)
        with self._lock:
            entries = self._entries[first:last]
            missing = np.flatnonzero(entries == 0)
            places = self._end // SECTOR + np.arange(len(missing)) * self._header.grain_size
            self._end += len(missing) * self._grain
            entries[missing] = places
            if len(missing):
                self._touched[first // TABLE_ENTRIES : -(-last // TABLE_ENTRIES)] = True
            return entries.astype(np.int64) * SECTOR

    def zero(self, offset: int, length: int) -> None:
        """Make whole grains read as zeros: a child gets real grains, a base keeps none it lacks."""
        for grain in range(offset // self._grain, -(-(offset + length) // self._grain)):
            if self._entries[grain]:
                host = int(self._entries[grain]) * SECTOR
                for done in range(0, self._grain, len(_ZEROS)):
                    self._file.write(host + done, _ZEROS[: self._grain - done])
            elif self._descriptor.parent_cid != NO_PARENT:
                self._allocated(grain * self._grain, 1)  # a hole at the end of the file: zeros

    def flush(self) -> None:
        """Grains first, then the redundant tables, then the primary ones, a barrier between each.

        A power cut then leaves tables that name only grains that are there, and at least one whole
        set of them. Descriptor and header do not change here.
        """
        self._file.grow(self._end)
        self._file.sync()
        if not self._touched.any():
            return
        for directory in (self._header.redundant_directory, self._header.directory):
            first_table = self._header.first_table(directory) * SECTOR
            edges = np.flatnonzero(np.diff(np.concatenate(([0], self._touched.view(np.int8), [0]))))
            for first, last in edges.reshape(-1, 2).tolist():
                entries = self._entries[first * TABLE_ENTRIES : last * TABLE_ENTRIES]
                data = memoryview(entries.astype("<u4")).cast("B")
                self._file.write(first_table + first * TABLE_BYTES, data)
            self._file.sync()
        self._touched[:] = False

    # ------------------------------------------------------------------ identity and links

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return."""
        self._rewrite(_with_parent(self._descriptor, parent))

    def adopt(self, disk_id: str, content_id: str) -> None:
        """Take another disk's UUID and CID; durable on return."""
        self._rewrite(replace(self._descriptor, uuid=disk_id, cid=content_id))

    def _rewrite(self, descriptor: Descriptor) -> None:
        self._file.write(DESCRIPTOR_AT * SECTOR, memoryview(descriptor.pack()))
        self._file.sync()
        self._descriptor = descriptor

    def close(self) -> None:
        """Close the file without a flush."""
        self._file.close()


def probe(start: bytes) -> bool:
    """Whether a file that begins with `start` is a VMDK: a sparse extent or a text descriptor."""
    return (
        start.startswith(MAGIC)
        or re.match(rb"\s*#\s*Disk\s*DescriptorFile", start, re.IGNORECASE) is not None
    )


def _new_cid() -> str:
    """A CID that is none of the values that mean something else (0, no parent, its neighbour)."""
    return f"{secrets.randbelow(0xFFFFFFFD) + 1:08x}"


def _with_parent(descriptor: Descriptor, parent: ParentRef) -> Descriptor:
    return replace(
        descriptor,
        parent_cid=parent.content_id,
        parent_uuid=parent.disk_id,
        parent_hint=parent.relative_path,
    )
