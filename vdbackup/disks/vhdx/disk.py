"""VHDX, dynamic and differencing: read, create, write in place, relink.

A child's block is here as a whole (state 6) or in parts (state 7): then a bitmap says of each
sector whether it is here or the parent answers. Blocks that we add to a child are in parts: the
file grows by 2 MiB, of which only the written units take space. A log that somebody left
is replayed; we write none: every change is ordered so that a power cut leaves a valid disk.
"""

from __future__ import annotations

import struct
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vdbackup.disks.at_once import Part
from vdbackup.disks.disk import NOT_CLOSED, SECTOR, UNIT, DiskInfo, ParentRef
from vdbackup.disks.extents import BlockMap, Int64s, distinct, runs_of
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import WrittenInUnits, one_by_one
from vdbackup.disks.vhdx.bat import NOT_PRESENT, PARTIAL, PRESENT, Table
from vdbackup.disks.vhdx.log import Contents, Replay, Replayed
from vdbackup.disks.vhdx.metadata import (
    BITMAP_BYTES,
    MAX_DISK,
    PARENT_LOCATOR,
    VIRTUAL_DISK_ID,
    Geometry,
    Metadata,
    pack_reference,
)
from vdbackup.disks.vhdx.structs import (
    BAT,
    HEADER_BYTES,
    HEADERS_AT,
    METADATA,
    MIB,
    NULL,
    REGION_TABLES_AT,
    SIGNATURE,
    TABLE_BYTES,
    Header,
    Region,
    current_header,
    pack_regions,
    parse_regions,
)
from vdbackup.disks.written_units import WrittenUnits
from vdbackup.errors import DiskFormatError, DoesNotFit
from vdbackup.translation import tr

MAX_SIZE = MAX_DISK
BLOCK = 2 * MIB
LARGE_BLOCK = 32 * MIB
LARGE_FROM = 8 << 40
"""Bytes of disk beyond which blocks are large: the allocation table stays below 33 MiB."""
PAGE = 512
"""Entries of the allocation table that are written together: 4 KiB, so no sector in part."""
BITMAP_PIECE = 4096
"""Bytes of a bitmap that are written together, at least: no sector in part."""
_ALL = 0xFF


class VhdxDisk(WrittenInUnits):
    """One VHDX file, without its parents.

    Writes go to new blocks behind all that something names, or over the block that is there; table
    and bitmaps in memory follow at once, those in the file with `flush`. What lies further behind
    was written by somebody who did not come to an end: it goes before the first new block.
    """

    def __init__(self, file: HostFile, replay: Replay | None = None, unit: int = UNIT) -> None:
        super().__init__(file, unit)
        # what is read: the file as it is once its log is replayed
        self._contents: Contents = Replayed(file, replay) if replay else file
        self._current, self._header = _read_header(file)
        copies = [self._contents.read(at, TABLE_BYTES) for at in REGION_TABLES_AT]
        self._regions = parse_regions(copies, self.path)
        self._metadata = Metadata.read(self._contents, self._regions[METADATA])
        self._geometry = self._metadata.geometry
        self._lock = threading.Lock()
        self._announced = False  # whether the headers say that the file is being changed
        self._bat = np.empty(0, np.uint64)  # while writing: the allocation table
        self._touched = np.empty(0, np.bool_)  # its pages that changed since the last flush
        self._written = WrittenUnits(0, unit, unit)  # by chunk, while writing
        self._end = 0  # where the next block goes, in bytes
        self._flushed_end = 0  # where it was at the last flush: what lies behind are new blocks
        self._named_end = 0  # where the last ends that something named when the file was opened
        self._has_remains = False  # whether something may lie behind that

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: Path, writable: bool = False, unit: int = UNIT) -> VhdxDisk:
        """Open an existing file; raises DiskFormatError where it breaks the format's rules.

        A log that is not empty is replayed: in memory for reading, in the file for writing.
        """
        with HostFile.open(path, writable).closed_on_error() as file:
            if not file.read(0, SECTOR).startswith(SIGNATURE):
                raise DiskFormatError(path, 0, tr("there is no VHDX signature"))
            _, header = _read_header(file)
            replay = Replay.of(file, header) if header.log_guid != NULL else None
            disk = cls(file, replay, unit)
            if writable:
                disk._prepare_writing(replay)
        return disk

    @classmethod
    def create(
        cls,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
        unit: int = UNIT,
    ) -> VhdxDisk:
        """As `formats.create_disk` says: at most MAX_SIZE bytes, in sectors of 512 or 4096."""
        if not 0 < virtual_size <= MAX_SIZE or sector_size not in (512, 4096):
            raise ValueError(
                tr(
                    "{virtual_size} bytes in sectors of {sector_size} are no VHDX",
                    virtual_size=virtual_size,
                    sector_size=sector_size,
                )
            )
        if virtual_size % sector_size:
            raise DoesNotFit(
                tr(
                    "A disk of {virtual_size} bytes does not end with a sector of {sector_size}.",
                    virtual_size=virtual_size,
                    sector_size=sector_size,
                ),
                tr("Choose a size that is a multiple of it."),
            )
        block_size = LARGE_BLOCK if virtual_size > LARGE_FROM else BLOCK
        geometry = Geometry(virtual_size, block_size, sector_size, parent is not None)
        start = _structures(geometry, parent)
        with HostFile.create(path).closed_on_error() as file:
            for at, data in start:
                file.write(at, memoryview(data))
            table = _regions(geometry)[BAT]
            file.grow(table.offset + table.length)
            disk = cls(file, unit=unit)
            disk._load_table()
            disk._announced = True
        return disk

    # ------------------------------------------------------------------ reading

    @property
    def info(self) -> DiskInfo:
        """The disk's facts; `disk_id` is the VirtualDiskId, `content_id` the DataWriteGuid."""
        geometry = self._geometry
        return DiskInfo(
            DiskFormat.VHDX, geometry.virtual_size, geometry.sector_size, geometry.block_size,
            str(self._metadata.disk_id), str(self._header.data_write_guid), self._metadata.parent,
            unclean="" if self._header.log_guid == NULL else NOT_CLOSED,
        )  # fmt: skip

    def block_map(self) -> BlockMap:
        """The disk's own blocks; raises DiskFormatError where a table names what is not there."""
        return self._table().block_map()

    def _table(self) -> Table:
        return Table(self._contents, self._regions[BAT], self._geometry, self._occupied())

    def _occupied(self) -> list[Region]:
        """The header section, the log, and the regions: no block may lie there."""
        places = [Region(0, MIB), *self._regions.values()]
        if self._header.log_length:
            places.append(Region(self._header.log_offset, self._header.log_length))
        for each in places:
            if each.offset + each.length > self._contents.size:
                raise DiskFormatError(self.path, each.offset, tr("a region lies outside the file"))
        return places

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""
        self._contents.readinto(host, view)

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, one by one while the log has something to say."""
        if self._contents is self._file:
            super().read_hosts(parts, view)
        else:
            one_by_one(self.read_host, parts, view)

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """What is no hole of `length` bytes from byte `host` on, in the file or in its log."""
        return self._contents.data_segments(host, host + length)

    # ------------------------------------------------------------------ writing

    def _prepare_writing(self, replay: Replay | None) -> None:
        """Every check, and only then the first change, if there is one: what the log says."""
        self._load_table()
        if replay:
            self._announce()
            replay.write_to(self._file)
            self._renew(replace(self._header, log_guid=NULL))
            self._contents = self._file

    def _announce(self) -> None:
        """Before the first change of the file: another FileWriteGuid (2.2.2).

        The DataWriteGuid stays, by which children know their parent: who writes here sees to it
        that they read the same as before.
        """
        if not self._announced:
            with self._lock:
                if not self._announced:
                    self._renew(replace(self._header, file_write_guid=uuid.uuid4()))
                self._announced = True

    def _renew(self, header: Header) -> None:
        """Write both headers anew, one after the other, so that one is always whole."""
        for _ in HEADERS_AT:
            header = replace(header, sequence=(self._header.sequence + 1) % 2**64)
            self._file.write(HEADERS_AT[1 - self._current], memoryview(header.pack()))
            self._file.sync()
            self._current, self._header = 1 - self._current, header

    def _load_table(self) -> None:
        """The table into memory; each chunk of a child that lacks a bitmap gets one.

        Without a bitmap block libvhdi would read it from the file's first bytes.
        """
        geometry = self._geometry
        table = self._table()
        pages = -(-geometry.bat_entries // PAGE)
        self._bat = np.zeros(pages * PAGE, np.uint64)
        self._bat[table.places] = table.entries
        self._touched = np.zeros(pages, np.bool_)
        self._written = WrittenUnits(geometry.virtual_size, geometry.chunk_size, self.unit)
        self._end = self._named_end = self._end_of_named(table)
        self._has_remains = True
        if geometry.has_parent:
            there = np.zeros(geometry.chunks, np.bool_)
            there[table.bitmaps.numbers] = True
            lacking = np.flatnonzero(~there)
            places = geometry.entry_of_bitmap(lacking)
            hosts = self._end + np.arange(len(lacking)) * BITMAP_BYTES
            self._bat[places] = hosts | PRESENT
            self._touched[places // PAGE] = True
            self._end += len(lacking) * BITMAP_BYTES
        self._flushed_end = self._end

    def _end_of_named(self, table: Table) -> int:
        """Where the last of all that lies in the file ends, in bytes: a multiple of 1 MiB.

        Other programs leave a block's unused end out of the file.
        """
        stored = table.blocks.of(table.blocks.states >= PRESENT).hosts + self._geometry.block_size
        bitmaps = table.bitmaps.hosts + BITMAP_BYTES
        structures = max(each.offset + each.length for each in self._occupied())
        end = max(structures, int(stored.max(initial=0)), int(bitmaps.max(initial=0)))
        return -(-end // MIB) * MIB

    def _cut_remains(self) -> None:
        """What is new has to be zeros until it is written."""
        if self._has_remains:
            self._file.cut(self._named_end)
            self._has_remains = False

    def _places_for(self, units: Int64s) -> Int64s:
        """Each unit's place in its block.

        Blocks that are not here get the next free places. In a child they are here in parts, unless
        they were zeros until now.
        """
        geometry = self._geometry
        per_block = geometry.block_size // self.unit
        blocks = units // per_block
        places = blocks + blocks // geometry.chunk_ratio
        self._announce()
        with self._lock:
            here = np.isin(self._bat[places] & np.uint64(7), (PRESENT, PARTIAL))
            for block in distinct(blocks[~here]).tolist():
                self._add_block(block)
            payloads: Int64s = (self._bat[places] & np.uint64(-MIB % 2**64)).astype(np.int64)
        return np.asarray(payloads + units % per_block * self.unit, np.int64)

    def _add_block(self, block: int) -> None:
        """One that is not here; called with the lock."""
        geometry = self._geometry
        chunk = block // geometry.chunk_ratio
        place = block + chunk
        self._cut_remains()
        was_absent = int(self._bat[place]) & 7 == NOT_PRESENT
        new = PARTIAL if geometry.has_parent and was_absent else PRESENT
        self._bat[place] = self._end | new
        self._touched[place // PAGE] = True
        self._written.mark_group(chunk)
        self._end += geometry.block_size

    def _note_written(self, units: Int64s) -> None:
        self._written.mark_units(units)

    def zero(self, offset: int, length: int) -> None:
        """Make whole units read as zeros: a child gets real zeros, a base keeps none it lacks."""
        geometry = self._geometry
        for block in range(
            offset // geometry.block_size, -(-(offset + length) // geometry.block_size)
        ):
            first = max(offset, block * geometry.block_size)
            count = min(offset + length, (block + 1) * geometry.block_size) - first
            state = int(self._bat[block + block // geometry.chunk_ratio]) & 7
            if state in (PRESENT, PARTIAL) or (geometry.has_parent and state == NOT_PRESENT):
                self._clear(first, count)

    def _clear(self, offset: int, length: int) -> None:
        """Zeros into units of one block; what nobody has written of a new block is a hole."""
        host = int(self._places_for(np.array([offset // self.unit]))[0])
        units = self._written.between(offset, length)
        stored = units if host >= self._flushed_end else np.ones(len(units), np.bool_)
        for first, end in runs_of(stored):
            start = first * self.unit
            self._file.zero(host + start, min(end * self.unit, length) - start)
        self._written.mark(offset, length)

    def flush(self) -> None:
        """The blocks, then the bitmaps of their sectors, then the table, a barrier after each.

        A power cut then leaves a table that names only blocks that are there, and bitmaps whose
        bits stand only for sectors that are there: what is not named yet, the parent answers.
        """
        if self._touched.any():
            self._cut_remains()  # else a chunk's first bitmap would be what lies there
        self._file.grow(self._end)
        self._file.sync()
        if self._geometry.has_parent and (chunks := self._written.groups()):
            for chunk in chunks:
                self._flush_bitmap(chunk)
            self._file.sync()
        if self._touched.any():
            self._announce()
            for first, end in runs_of(self._touched):
                entries = self._bat[first * PAGE : end * PAGE].astype("<u8")
                place = self._regions[BAT].offset + first * PAGE * 8
                self._file.write(place, memoryview(entries).cast("B"))
            self._file.sync()
        self._written.clear()
        self._touched[:] = False
        self._flushed_end = self._end

    def _flush_bitmap(self, chunk: int) -> None:
        """Set the bits of the units of a chunk that were written, and clear those of new blocks.

        What stands there for a block that was not here means nothing: a power cut may have left it.
        """
        geometry = self._geometry
        unit_bytes = self.unit // geometry.sector_size // 8
        start = chunk * (geometry.chunk_ratio + 1)
        entries = self._bat[start : start + geometry.chunk_ratio]
        new = np.flatnonzero((entries >= self._flushed_end) & (entries & 7 == PARTIAL))
        fresh = np.flatnonzero(self._written.in_group(chunk))
        blocks = np.concatenate([new, fresh * unit_bytes // geometry.bitmap_bytes])
        aligned = max(BITMAP_PIECE, geometry.bitmap_bytes)
        first = int(blocks.min()) * geometry.bitmap_bytes // aligned * aligned
        end = -(-(int(blocks.max()) + 1) * geometry.bitmap_bytes // aligned) * aligned
        bitmap = bytearray(end - first)
        host = (int(self._bat[start + geometry.chunk_ratio]) & -MIB) + first
        self._file.readinto(host, memoryview(bitmap))
        bits = np.frombuffer(bitmap, np.uint8)
        bits.reshape(-1, geometry.bitmap_bytes)[new - first // geometry.bitmap_bytes] = 0
        bits.reshape(-1, unit_bytes)[fresh - first // unit_bytes] = _ALL
        self._file.write(host, memoryview(bitmap))

    # ------------------------------------------------------------------ identity and links

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return.

        The locator goes to a free place; then 8 bytes, which lie in one sector, make it count.
        """
        self._announce()
        metadata, data = self._metadata, pack_reference(parent)
        item = metadata.item(PARENT_LOCATOR)
        moved = replace(item, offset=metadata.free_slot(self.path), length=len(data))
        self._file.write(metadata.region.offset + moved.offset, memoryview(data))
        self._file.sync()
        place = struct.pack("<II", moved.offset, moved.length)
        self._file.write(metadata.region.offset + moved.entry_offset, memoryview(place))
        self._file.sync()
        self._metadata = Metadata.read(self._contents, metadata.region)

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Take another disk's ids; durable on return.

        The one that children know their parent by comes last: once it is there, all is.
        """
        self._announce()
        metadata, new_id = self._metadata, uuid.UUID(disk_id)
        place = metadata.region.offset + metadata.item(VIRTUAL_DISK_ID).offset
        self._file.write(place, memoryview(new_id.bytes_le))
        self._file.sync()
        self._metadata = replace(metadata, disk_id=new_id)
        self._renew(replace(self._header, data_write_guid=uuid.UUID(content_id)))


def _read_header(file: HostFile) -> tuple[int, Header]:
    return current_header([file.read(at, HEADER_BYTES) for at in HEADERS_AT], file.path)


def _regions(geometry: Geometry) -> dict[uuid.UUID, Region]:
    """Where we put things: a log of 1 MiB that stays empty, the metadata, the table."""
    length = -(-8 * geometry.bat_entries // MIB) * MIB
    return {BAT: Region(3 * MIB, length), METADATA: Region(2 * MIB, MIB)}


def _structures(geometry: Geometry, parent: ParentRef | None) -> list[tuple[int, bytes]]:
    """What a new file begins with: (place, bytes). The table stays a hole."""
    regions = _regions(geometry)
    header = Header(1, uuid.uuid4(), uuid.uuid4(), NULL, 0, 1, MIB, MIB)
    return [
        (0, SIGNATURE + "vdbackup".encode("utf-16-le")),
        (HEADERS_AT[0], header.pack()),
        (HEADERS_AT[1], replace(header, sequence=2).pack()),
        *((at, pack_regions(regions)) for at in REGION_TABLES_AT),
        *Metadata.of_new(geometry, parent, regions[METADATA]),
    ]
