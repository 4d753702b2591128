"""VMDK (hosted sparse, "monolithicSparse"): read, create, write in place, relink.

A grain (64 KiB, or 8) is all or nothing: it is here, or the parent answers. A grain that must read
as zeros over a parent's data is a real grain of zeros: QEMU knows zero grains (entry 1), libvmdk
and VirtualBox fail on them.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.disk import NOT_CLOSED, SECTOR, UNIT, DiskInfo, ParentRef, VirtualDisk
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s, runs_of
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import WrittenInUnits
from vdbackup.disks.read_only import only_read
from vdbackup.disks.vmdk.foreign import ForeignVmdk, with_found_parent
from vdbackup.disks.vmdk.sparse import (
    TABLE_BYTES,
    GrainTables,
    read_descriptor,
    read_header,
)
from vdbackup.disks.vmdk.structs import (
    DESCRIPTOR_AT,
    TABLE_ENTRIES,
    Descriptor,
    ExtentLine,
    SparseExtentHeader,
    final_name,
    is_descriptor,
    new_cid,
)
from vdbackup.errors import DiskFormatError, DoesNotFit
from vdbackup.jobs import readable_size
from vdbackup.translation import tr

MAX_SIZE = (2 << 40) - (1 << 30)
"""Bytes of disk: grain table entries are 32-bit sectors, and the tables take their part of them."""
MAX_FILE = 2 << 40
"""Bytes of a file whose sectors 32 bits can count."""


class VmdkDisk(WrittenInUnits):
    """One monolithicSparse file, without its parents.

    Writes go to new grains behind the last that the tables name, or over the grain that is there;
    the tables in memory follow at once, the tables in the file with `flush`. What lies further
    behind was written by somebody who did not come to an end: it goes before the first new grain.
    """

    def __init__(self, file: HostFile, header: SparseExtentHeader, descriptor: Descriptor) -> None:
        super().__init__(file, header.grain_size * SECTOR)
        self._header = header
        self._descriptor = descriptor
        self._named = descriptor.file_name  # as the extent line has it: not always the file's name
        self._tables = GrainTables(file, header)
        self._lock = threading.Lock()
        self._entries = np.empty(0, np.uint32)  # uint32[tables * 512], while writing
        self._touched = np.zeros(header.tables, np.bool_)  # tables changed since the last flush
        self._end = 0  # where the next grain goes, in bytes
        self._has_remains = False  # whether something may lie behind that

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: Path, writable: bool = False, unit: int = UNIT) -> VirtualDisk:
        """Open an existing file of any kind of VMDK, for writing only one that this class makes.

        The file says itself in which units.

        Raises:
            DiskFormatError: it breaks the format's rules.
            DiskError: it is in a layout that is only read.
        """
        with HostFile.open(path, writable).closed_on_error() as file:
            start = file.read(0, SECTOR)
            if is_descriptor(start) or SparseExtentHeader.parse(start, path, file.size).compressed:
                if writable:
                    raise only_read(path)
                return ForeignVmdk(file)
            disk = cls._parsed(file)
            if writable:
                disk._prepare_writing()
        return disk

    @classmethod
    def _parsed(cls, file: HostFile) -> VmdkDisk:
        header = read_header(file)
        text = read_descriptor(file)
        if not text.strip():
            problem = tr("it is an extent of a larger VMDK, not a disk of its own")
            raise DiskFormatError(file.path, 0, problem)
        extent = ExtentLine.only(text, file.path, header)
        descriptor = Descriptor.parse(text, file.path, extent.size)
        if descriptor.create_type.lower() != "monolithicsparse":
            problem = tr(
                "VMDK of type {create_type!r} cannot be read",
                create_type=descriptor.create_type or tr("unknown"),
            )
            raise DiskFormatError(file.path, SECTOR, problem)
        disk = cls(file, header, with_found_parent(descriptor, file.path))
        disk._named = extent.file_name
        return disk

    @classmethod
    def create(
        cls,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
        unit: int = UNIT,
    ) -> VmdkDisk:
        """As `formats.create_disk` says: at most MAX_SIZE bytes, in sectors of 512."""
        if virtual_size > MAX_SIZE or sector_size != SECTOR:
            raise ValueError(
                tr(
                    "{virtual_size} bytes in sectors of {sector_size} are no VMDK",
                    virtual_size=virtual_size,
                    sector_size=sector_size,
                )
            )
        header = SparseExtentHeader.for_disk(virtual_size, unit)
        descriptor = Descriptor(virtual_size, final_name(path), new_cid(), str(uuid.uuid4()))
        if parent:
            descriptor = _with_parent(descriptor, parent)
        start = header.pack() + descriptor.pack()
        with HostFile.create(path).closed_on_error() as file:
            disk = cls(file, header, descriptor)
            disk._write_empty(start)
        return disk

    def _write_empty(self, start: bytes) -> None:
        header = self._header
        self._end = header.overhead * SECTOR
        self._entries = np.zeros(header.tables * TABLE_ENTRIES, np.uint32)
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
        return DiskInfo(
            DiskFormat.VMDK, own.virtual_size, SECTOR, self.unit, own.uuid, own.cid, own.parent,
            self._named, NOT_CLOSED if self._header.unclean else "",
        )  # fmt: skip

    def block_map(self) -> BlockMap:
        """The disk's own grains; raises DiskFormatError where a table names what is not there."""
        # without a parent there is nothing to fall through to: what is not here reads as zeros
        fill = ZERO if self.info.parent is None else UNALLOCATED
        entries = self._tables.entries(self._header.directory)
        whole = self._tables.block_map(entries, fill)
        return whole.part(0, self._descriptor.virtual_size)

    def doubts(self) -> tuple[str, ...]:
        """What contradicts itself in the tables; see VirtualDisk."""
        return self._tables.doubts(self._tables.entries(self._header.directory))

    # ------------------------------------------------------------------ writing

    def _prepare_writing(self) -> None:
        header = self._header
        if not header.is_ours() or not all(
            self._tables.runs(directory)
            == [(0, header.first_table(directory) * SECTOR, header.tables)]
            for directory in (header.redundant_directory, header.directory)
        ):
            raise only_read(self.path)
        grains, entries = self._tables.entries(header.directory)
        self._tables.check_places(grains, entries.astype(np.int64) * SECTOR)
        places = np.sort(entries)
        if (np.diff(places) < header.grain_size).any() or (places < header.overhead).any():
            problem = tr("two grains share a place, or one lies in the tables")
            raise DiskFormatError(self.path, header.directory * SECTOR, problem)
        self._entries = np.zeros(header.tables * TABLE_ENTRIES, np.uint32)
        self._entries[grains] = entries
        self._note_other_redundant(grains, entries)
        ends = entries.astype(np.int64) * SECTOR + self.unit
        end = int(ends.max(initial=header.overhead * SECTOR))
        self._end = -(-end // self.unit) * self.unit
        self._has_remains = True

    def _note_other_redundant(self, primary_grains: Int64s, primary: NDArray[np.uint32]) -> None:
        """The redundant tables that say something else are written anew with the next flush.

        A power cut between both leaves such; else they would name places that are given anew.
        """
        grains, entries = self._tables.entries(self._header.redundant_directory)
        if np.array_equal(grains, primary_grains) and np.array_equal(entries, primary):
            return
        other = self._entries.copy()
        other[grains] ^= entries  # 0 where both say the same, and where neither says anything
        self._touched |= other.reshape(-1, TABLE_ENTRIES).any(axis=1)

    def _places_for(self, units: Int64s) -> Int64s:
        """Each grain's place in the file, in bytes; missing ones get the next free places."""
        with self._lock:
            missing = units[self._entries[units] == 0]
            if len(missing):
                self._entries[missing] = self._new_places(len(missing)) // SECTOR
                self._touched[missing // TABLE_ENTRIES] = True
            return self._entries[units].astype(np.int64) * SECTOR

    def _new_places(self, count: int) -> Int64s:
        """Where `count` new grains go; raises DiskError where the tables cannot name a place."""
        if self._end + count * self.unit > MAX_FILE:
            raise DoesNotFit(
                tr(
                    "{path} has grown to {size}, the most that the format can address.",
                    path=self.path,
                    size=readable_size(MAX_FILE),
                ),
                tr("Export it to a new disk first."),
            )
        if self._has_remains:
            self._file.cut(self._end)  # what is new has to be zeros until it is written
            self._has_remains = False
        places = self._end + np.arange(count) * self.unit
        self._end += count * self.unit
        return places

    def zero(self, offset: int, length: int) -> None:
        """Make whole grains read as zeros: a child gets real grains, a base keeps none it lacks."""
        for grain in range(offset // self.unit, -(-(offset + length) // self.unit)):
            if self._entries[grain]:
                self._file.zero(int(self._entries[grain]) * SECTOR, self.unit)
            elif self._descriptor.parent is not None:
                self._places_for(np.array([grain]))  # a hole at the end of the file: zeros

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
            for first, last in runs_of(self._touched):
                entries = self._entries[first * TABLE_ENTRIES : last * TABLE_ENTRIES]
                data = memoryview(entries.astype("<u4")).cast("B")
                self._file.write(first_table + first * TABLE_BYTES, data)
            self._file.sync()
        self._touched[:] = False

    # ------------------------------------------------------------------ identity and links

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return."""
        self._rewrite(_with_parent(self._descriptor, parent))

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Take another disk's UUID and CID, and say what the file is called; durable on return.

        All three stand in one sector. The distributions' libvmdk looks for the extent by the name
        in its line; QEMU and VirtualBox do not, so nothing is lost between this and a rename.
        """
        name = file_name or final_name(self.path)
        self._rewrite(replace(self._descriptor, uuid=disk_id, cid=content_id, file_name=name))

    def _rewrite(self, descriptor: Descriptor) -> None:
        self._file.write(DESCRIPTOR_AT * SECTOR, memoryview(descriptor.pack()))
        self._file.sync()
        self._descriptor, self._named = descriptor, descriptor.file_name


def _with_parent(descriptor: Descriptor, parent: ParentRef) -> Descriptor:
    return replace(
        descriptor,
        parent_cid=parent.content_id,
        parent_uuid=parent.disk_id,
        parent_hint=parent.relative_path,
    )
