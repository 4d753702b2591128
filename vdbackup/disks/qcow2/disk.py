"""QCOW2: read, create, write in place, relink.

We write version 3 with clusters of 64 KiB. A cluster is here, or reads as zeros (the zero flag), or
the parent answers. We read the flag and do not write it: libqcow (20260703) takes a cluster with it
for one that the parent answers, so over a parent's data go real zeros.

The format names a parent by its path and format alone; who disk and parent are stands in a header
extension of our own (qcow2_structs.Identity), which QEMU preserves.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from vdbackup.disks.at_once import Part
from vdbackup.disks.disk import NOT_CLOSED, SECTOR, UNIT, DiskInfo, ParentRef
from vdbackup.disks.doubts import SHARED, any_shared
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import WrittenInUnits
from vdbackup.disks.qcow2.allocation import Allocation
from vdbackup.disks.qcow2.compressed import CompressedClusters
from vdbackup.disks.qcow2.mapping import COMPRESSED_FROM, MappingTables
from vdbackup.disks.qcow2.structs import (
    BACKING_FORMAT,
    BITMAPS,
    CLUSTER,
    CORRUPT,
    DIRTY,
    FEATURE_NAMES,
    IDENTITY,
    Header,
    HeaderCluster,
    Identity,
    backing_file_name,
    backing_format_name,
)
from vdbackup.errors import NeedsCheck, NoSpaceInDisk, ReadOnlyLayout
from vdbackup.translation import tr

MAX_SIZE = (2 << 50) - (1 << 40)
"""Bytes of disk: QEMU opens L1 tables of 32 MiB and refcount tables of 8 MiB (QCOW_MAX_L1_SIZE,
QCOW_MAX_REFTABLE_SIZE), each 2 PiB in clusters of 64 KiB, and tables are counted, too."""


class Qcow2Disk(WrittenInUnits):
    """One QCOW2 file, without its parents.

    Writes go to free clusters at the end of the file, or over the cluster that is there; the tables
    in memory follow at once, the tables in the file with `flush`.
    """

    def __init__(self, file: HostFile, first: HeaderCluster) -> None:
        super().__init__(file, first.header.cluster_size)
        self._mapping = MappingTables(file, first.header)
        self._compressed = CompressedClusters(file, self._mapping)
        self._allocation: Allocation | None = None  # while writing
        self._take(first)

    def _take(self, first: HeaderCluster) -> None:
        """Believe that header, and say in `info` what it says."""
        identity = first.identity(self.path)
        parent = None
        if first.header.has_backing:
            parent = ParentRef(
                identity.parent_id,
                identity.parent_content_id,
                first.backing_path(self.path),
                disk_format=first.backing_format(self.path),
            )
        self._first = first
        self._info = DiskInfo(
            DiskFormat.QCOW2,
            first.header.size,
            identity.sector_size,
            first.header.cluster_size,
            identity.disk_id,
            identity.content_id,
            parent,
            unclean=_unclean(first.header.incompatible),
        )

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: Path, writable: bool = False, unit: int = UNIT) -> Qcow2Disk:
        """Open an existing file; it says itself in which units it is written.

        Raises:
            DiskFormatError: it breaks the format's rules.
            ParentError: it names a parent that is not a file, or in a format that is not read.
            DiskError: it is encrypted, or uses a feature that is not known; or, if `writable`, it
                is in a layout that is only read, or was not closed properly.
        """
        with HostFile.open(path, writable).closed_on_error() as file:
            data = file.read(0, CLUSTER)  # larger first clusters end in zeros
            disk = cls(file, HeaderCluster.parse(data, path, file.size))
            if writable:
                disk._prepare_writing()
        return disk

    @classmethod
    def open_knowing_parent(cls, path: Path) -> Self:
        """Open for reading what a virtual machine wrote: whatever it lies on, the caller knows.

        The name of its parent may be one that we do not follow ("json:..."). Raises DiskFormatError
        or DiskError as `open` does.
        """
        with HostFile.open(path).closed_on_error() as file:
            first = HeaderCluster.parse(file.read(0, CLUSTER), path, file.size)
            if first.header.has_backing:
                identity = first.identity(path)
                unnamed = ParentRef(None, "", "parent", disk_format=DiskFormat.RAW)
                first, _ = _with_parent(first, identity, unnamed)
            return cls(file, first)

    @classmethod
    def create(
        cls,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
        unit: int = UNIT,
    ) -> Qcow2Disk:
        """As `formats.create_disk` says: at most MAX_SIZE bytes, in sectors of 512 or 4096."""
        if virtual_size > MAX_SIZE or sector_size not in (512, 4096):
            raise ValueError(
                tr(
                    "{virtual_size} bytes in sectors of {sector_size} are no QCOW2",
                    virtual_size=virtual_size,
                    sector_size=sector_size,
                )
            )
        identity = Identity(sector_size, str(uuid.uuid4()), uuid.uuid4().hex)
        first = HeaderCluster(Header.for_disk(virtual_size, unit))
        if parent:
            first, identity = _with_parent(first, identity, parent)
        first = first.with_extension(IDENTITY, identity.pack())
        with HostFile.create(path).closed_on_error() as file:
            disk = cls(file, first)
            disk._allocation = Allocation.of_new_disk(file, first.header)
            disk._rewrite(first)
            disk.flush()
        return disk

    # ------------------------------------------------------------------ reading

    @property
    def info(self) -> DiskInfo:
        """The disk's facts; ids are those of our extension, None and "" without it."""
        return self._info

    def doubts(self) -> tuple[str, ...]:
        """What contradicts itself in the tables; see VirtualDisk."""
        shared = any_shared(self.block_map(), self._mapping.structures(), COMPRESSED_FROM)
        return (SHARED,) if shared else ()

    def unread(self) -> tuple[str, ...]:
        """Snapshots inside it."""
        count = self._first.header.snapshots
        return (_snapshots(count),) if count else ()

    def block_map(self) -> BlockMap:
        """The disk's own clusters; raises DiskFormatError where a table names what is not there."""
        # without a parent there is nothing to fall through to: what is not here reads as zeros
        return self._mapping.block_map(ZERO if self._info.parent is None else UNALLOCATED)

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on, or decompress what the map puts there."""
        if host >= COMPRESSED_FROM:
            self._compressed.read(host - COMPRESSED_FROM, view)
        else:
            self._file.readinto(host, view)

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`; what is compressed one by one."""
        super().read_hosts([part for part in parts if part[0] < COMPRESSED_FROM], view)
        for host, first, end in parts:
            if host >= COMPRESSED_FROM:
                self.read_host(host, view[first:end])

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """What is no hole of `length` bytes from `host` on; compressed clusters are stored."""
        if host >= COMPRESSED_FROM:
            return [(host, length)]
        return super().stored(host, length)

    # ------------------------------------------------------------------ writing

    def _prepare_writing(self) -> None:
        header = self._first.header
        if header.incompatible & (DIRTY | CORRUPT):
            raise NeedsCheck(
                tr(
                    "{path} was not closed properly by the program that wrote to it.",
                    path=self.path,
                ),
                tr(
                    "Make a copy, and let 'qemu-img check -r all {path}' mend it.",
                    path=self.path.name,
                ),
            )
        if self._first.extension(BITMAPS) is not None:
            raise ReadOnlyLayout(
                tr(
                    "{path} tracks changes for another program, which writing would not note.",
                    path=self.path,
                ),
                tr(
                    "Export it to a new disk first, or remove them with 'qemu-img bitmap --remove'."
                ),
            )
        self._allocation = Allocation.of_file(self._file, self._first)
        if header.autoclear:  # features whose data a change of ours would make wrong
            self._rewrite(replace(self._first, header=replace(header, autoclear=0)))

    def _writing(self) -> Allocation:
        if self._allocation is None:
            raise ValueError(tr("{path} is not open for writing", path=self.path))
        return self._allocation

    def _places_for(self, units: Int64s) -> Int64s:
        return self._writing().to_write(units)

    def zero(self, offset: int, length: int) -> None:
        """Make whole clusters read as zeros: a child gets real ones, a base none that it lacks."""
        clusters = self._units(offset, length)
        hosts = self._writing().hosts(clusters)
        if self._info.parent is not None:
            self._writing().to_write(clusters)  # what is new is a hole of the file: zeros
        for host in hosts[hosts > 0].tolist():
            self._file.zero(host, self.unit)

    def flush(self) -> None:
        """Make all writes durable; see Allocation.flush for the order."""
        self._writing().flush()

    # ------------------------------------------------------------------ identity and links

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return. A power cut leaves the old one or the new."""
        first, identity = _with_parent(self._first, self._first.identity(self.path), parent)
        self._rewrite(first.with_extension(IDENTITY, identity.pack()))

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Take another disk's UUID and content id; durable on return, and likewise atomic."""
        identity = replace(self._first.identity(self.path), disk_id=disk_id, content_id=content_id)
        self._rewrite(self._first.with_extension(IDENTITY, identity.pack()))

    def _rewrite(self, first: HeaderCluster) -> None:
        """Put the backing file's name where none is in use; then all that is in front in one write.

        That is one sector (a few, if another program has put extensions there that we do not know),
        which a power cut leaves old or new. The names of features, which are there for messages
        alone, go to make space.
        """
        name, slot = first.backing_name, self._first.free_slot() if first.backing_name else 0
        header = replace(first.header, backing_offset=slot, backing_size=len(name))
        first = replace(first, header=header).without_extension(FEATURE_NAMES)
        data = first.pack()
        if max(len(data), len(self._first.pack())) > header.name_slots[0]:
            raise NoSpaceInDisk(
                tr(
                    "The header of {path} is full of what other programs put there.", path=self.path
                ),
                tr("Export it to a new disk first."),
            )
        if name:
            self._file.write(slot, memoryview(name))
            self._file.sync()
        self._file.write(0, memoryview(data))
        self._file.sync()
        self._take(first)


def _with_parent(
    first: HeaderCluster, identity: Identity, parent: ParentRef
) -> tuple[HeaderCluster, Identity]:
    named = replace(first, backing_name=backing_file_name(parent.relative_path))
    return (
        named.with_extension(BACKING_FORMAT, backing_format_name(parent.disk_format)),
        replace(identity, parent_id=parent.disk_id, parent_content_id=parent.content_id),
    )


def _snapshots(count: int) -> str:
    return tr(
        "keeps snapshots inside itself ({count}): only its present state is read, and none of them "
        "is in a backup of it",
        count=count,
    )


def _unclean(features: int) -> str:
    if features & CORRUPT:
        return tr("is marked as damaged by the program that wrote it: what is read may be wrong")
    return NOT_CLOSED if features & DIRTY else ""
