"""VHD: read (fixed, dynamic, differencing), create, write in place, relink.

A block (2 MiB) lies in the file behind its bitmap, which has a bit for each of its sectors. In a
differencing disk a bit of 1 says that the sector is here, 0 that the parent answers; a sector of
zeros that hides the parent's data is here. In a disk without parent the bitmaps say nothing that
its data do not say: QEMU does not read them there, nor do we; all bits of ours are ones.

A footer stands at each end of the file, and a guest's data must never be taken for one, not even
after a power cut. So whoever takes space at the end first makes the file longer by a footer behind
it; old footers are not written over but left in the gaps between blocks; and readers believe the
one at the start (`vhd_fixed.footer_of`).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from vdbackup.disks.bitmaps import runs_of_bits
from vdbackup.disks.disk import SECTOR, UNIT, DiskInfo, ParentRef
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, Int64s, distinct
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import WrittenInUnits
from vdbackup.disks.read_only import only_read
from vdbackup.disks.vhd.fixed import SUSPENDED, FixedVhdDisk, footer_of
from vdbackup.disks.vhd.structs import (
    BAT_AT,
    DIFFERENCING,
    DYNAMIC,
    FIXED,
    HEADER_SIZE,
    MAX_SIZE,
    SLOTS,
    UNUSED,
    DynamicHeader,
    Footer,
    parent_paths,
    time_stamp,
    uuid_bytes,
    uuid_text,
)
from vdbackup.disks.written_units import WrittenUnits
from vdbackup.errors import DiskFormatError, NoSpaceInDisk, NotLinkable
from vdbackup.translation import tr

__all__ = ["MAX_FILE", "MAX_SIZE", "VhdDisk"]

MAX_FILE = UNUSED * SECTOR
"""Bytes of a file whose blocks the table can name: the last number means that there is none."""
MAX_RUNS = 1 << 24
"""Runs of sectors that one file may have: a map of 16 million takes 1 GB while it is made.

Each byte of a bitmap can claim four, and the blocks themselves may be holes.
"""
_PIECE = 1 << 20  # bytes of table that are read or written at once
_BITMAPS = 1 << 16
"""Bytes of bitmaps that are taken apart at once.

One by one they took half of the processor time of a merge that reads 250 of them (numpy's calls
cost what 4,096 bits do), each of them four times.
"""


class VhdDisk(WrittenInUnits):
    """One dynamic or differencing file, without its parents.

    Writes go into the block that is there, or into a new one at the end of the file; the bitmaps
    and the table in the file follow with `flush`.
    """

    def __init__(
        self, file: HostFile, footer: Footer, header: DynamicHeader, unit: int = UNIT
    ) -> None:
        super().__init__(file, unit)
        self._footer = footer
        self._header = header
        self._parent = self._stored_parent()
        self._lock = threading.Lock()
        self._entries = np.empty(0, np.uint32)  # of the table, while writing
        self._touched = np.empty(0, np.bool_)  # entries changed since the last flush
        self._written = WrittenUnits(0, unit, unit)  # by block, while writing
        self._end = 0  # where the footer at the end lies, in bytes
        self._hole_from = 0  # where what was not written since the last flush is a hole
        self._footers_agree = False
        self._named_end = 0  # where the last block ends that the table named when it was opened

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: Path, writable: bool = False, unit: int = UNIT) -> VhdDisk | FixedVhdDisk:
        """Open an existing file; raises DiskFormatError where it breaks the format's rules."""
        with HostFile.open(path, writable).closed_on_error() as file:
            footer = footer_of(file)
            if footer.disk_type == FIXED:
                if writable:
                    raise only_read(path)
                return FixedVhdDisk(file, footer)
            disk = cls(file, footer, _header(file, footer), unit)
            if writable:
                disk._prepare_writing()
        return disk

    @classmethod
    def create(
        cls,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
        unit: int = UNIT,
    ) -> VhdDisk:
        """As `formats.create_disk` says: at most MAX_SIZE bytes, in sectors of 512."""
        if virtual_size > MAX_SIZE or sector_size != SECTOR:
            raise ValueError(
                tr(
                    "{virtual_size} bytes in sectors of {sector_size} are no VHD",
                    virtual_size=virtual_size,
                    sector_size=sector_size,
                )
            )
        footer = Footer.for_disk(virtual_size, DIFFERENCING if parent else DYNAMIC)
        header, slot = DynamicHeader.for_disk(virtual_size).in_slot(footer.data_offset, parent)
        with HostFile.create(path).closed_on_error() as file:
            _write_empty(file, footer, header, slot)
            disk = cls(file, footer, header, unit)
            disk._prepare_writing()
        return disk

    # ------------------------------------------------------------------ reading

    @property
    def info(self) -> DiskInfo:
        """The disk's facts; `disk_id` is the footer's UUID, `content_id` its time stamp."""
        own = self._footer
        return DiskInfo(
            DiskFormat.VHD, own.current_size, SECTOR, self._header.block_size, own.disk_id,
            own.content_id, self._parent, unclean=SUSPENDED if own.saved_state else "",
        )  # fmt: skip

    def _stored_parent(self) -> ParentRef | None:
        """The parent as the header names it, without its time stamp.

        Other programs put any time stamp there, and go by the UUID alone.
        """
        if self._footer.disk_type != DIFFERENCING:
            return None
        stored = []
        for locator in self._header.locators:
            if any(locator.code):
                locator.check(self.path, self._footer.data_offset, self._file.size)
                stored.append((locator.code, self._file.read(locator.offset, locator.length)))
        paths = parent_paths(stored, self._header.parent_name)
        parent_id = uuid_text(self._header.parent_id)
        return ParentRef(parent_id, "", paths[0] if paths else "", tuple(paths[1:]))

    def block_map(self) -> BlockMap:
        """The disk's own sectors; raises DiskFormatError where a table names what is not there."""
        blocks, places = self._stored_blocks()
        payloads = places + self._header.bitmap_size
        size = self.info.virtual_size
        if self._parent is None:
            # there is nothing to fall through to: what is not here reads as zeros
            return BlockMap.from_blocks(size, self._header.block_size, blocks, payloads, ZERO)
        which, edges = self._sectors_here(places)
        offsets = blocks[which] * self._header.block_size + edges[:, 0]
        inside = offsets < size  # bitmaps are padded, and the disk's last block is
        which, edges, offsets = which[inside], edges[inside], offsets[inside]
        return BlockMap.from_runs(
            size,
            offsets,
            edges[:, 1] - edges[:, 0],
            np.zeros(len(offsets), np.int32),
            payloads[which] + edges[:, 0],
            UNALLOCATED,
        )

    def _stored_blocks(self) -> tuple[Int64s, Int64s]:
        """The blocks that are here, ascending, and where each one's bitmap lies, in bytes."""
        count = -(-self.info.virtual_size // self._header.block_size)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        piece = memoryview(bytearray(min(_PIECE, count * 4)))
        for first in range(0, count, _PIECE // 4):
            part = piece[: (count - first) * 4]
            self._file.readinto(self._header.table_offset + first * 4, part)
            entries = np.frombuffer(part, ">u4")
            here = np.flatnonzero(entries.view("<u4") != UNUSED)  # which is the same both ways
            places = entries[here].astype(np.int64) * SECTOR
            self._check_places(here + first, places)
            found.append((here + first, places))
        blocks = np.concatenate([each for each, _ in found])
        places = np.concatenate([each for _, each in found])
        self._check_apart(blocks, places)
        return blocks, places

    def _lengths(self, blocks: Int64s) -> Int64s:
        """Bytes of bitmap and payload of each block; the disk's last one may be cut short."""
        size = self._header.block_size
        return self._header.bitmap_size + np.minimum(size, self.info.virtual_size - blocks * size)

    def _check_places(self, blocks: Int64s, places: Int64s) -> None:
        """Every block lies inside the file, and none in header or table."""
        file_size, table = self._file.size, self._header.table_offset
        ends = places + self._lengths(blocks)
        outside = (ends > file_size) | (places < SECTOR)
        table_end = table + 4 * -(-self.info.virtual_size // self._header.block_size)
        in_table = (places < table_end) & (ends > table)
        wrong = np.flatnonzero(outside | in_table)
        if len(wrong):
            first = int(wrong[0])
            problem = tr(
                "block {block} is said to lie at byte {place} of {file_size}",
                block=blocks[first],
                place=places[first],
                file_size=file_size,
            )
            raise DiskFormatError(self.path, self._header.table_offset, problem)

    def _check_apart(self, blocks: Int64s, places: Int64s) -> None:
        """No two blocks overlap: else a small file could fill the memory with one block's runs."""
        order = np.argsort(places, kind="stable")
        ends = (places + self._lengths(blocks))[order]
        if (ends[:-1] > places[order][1:]).any():
            problem = tr("two blocks share a place")
            raise DiskFormatError(self.path, self._header.table_offset, problem)

    def _sectors_here(self, places: Int64s) -> tuple[Int64s, Int64s]:
        """Runs of sectors whose bit is 1.

        Returns:
            int64[n], the position in `places` of each run's block; and int64[n, 2], where in the
            block's payload it starts and ends, in bytes.
        """
        sectors = self._header.block_size // SECTOR
        size = -(-sectors // 8)
        numbers, edges, runs = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)], 0
        at_once = max(1, _BITMAPS // size)
        for first in range(0, len(places), at_once):
            bitmaps = np.empty((len(places[first : first + at_once]), size), np.uint8)
            for bitmap, place in zip(bitmaps, places[first:].tolist(), strict=False):
                self._file.readinto(place, memoryview(bitmap))
            row, start, count = runs_of_bits(bitmaps, sectors, "big")
            numbers.append(row + first)
            edges.append(np.stack([start, start + count], axis=1) * SECTOR)
            runs += len(row)
            if runs > MAX_RUNS:
                problem = tr(
                    "its sectors are scattered over more than {max_runs} places", max_runs=MAX_RUNS
                )
                raise DiskFormatError(self.path, int(places[first]), problem)
        return np.concatenate(numbers), np.concatenate(edges)

    # ------------------------------------------------------------------ writing

    def _prepare_writing(self) -> None:
        header = self._header
        if self._footer.data_offset not in SLOTS or not header.is_ours(self.info.virtual_size):
            raise only_read(self.path)
        blocks, places = self._stored_blocks()
        if (places < header.table_end).any():
            raise DiskFormatError(self.path, BAT_AT, tr("a block lies in the tables"))
        self._entries = np.full(header.max_table_entries, UNUSED, np.uint32)
        self._entries[blocks] = places // SECTOR
        self._touched = np.zeros(len(self._entries), np.bool_)
        self._written = WrittenUnits(self.info.virtual_size, header.block_size, self.unit)
        size = self._file.size
        first, last = self._file.read(0, SECTOR), self._file.read(size - SECTOR, SECTOR)
        data_end = np.max(places + self._lengths(blocks), initial=header.table_end)
        ends_well = size - SECTOR >= data_end and self._is_own_footer(last)
        self._footers_agree = ends_well and first == last == self._footer.pack()
        self._end = size - SECTOR if ends_well else _up(max(size, header.table_end), SECTOR)
        self._hole_from = self._end + SECTOR
        blocks_end = places + header.bitmap_size + header.block_size
        named_end = _up(int(np.max(blocks_end, initial=header.table_end)), SECTOR)
        self._named_end = min(named_end, self._end)

    def _is_own_footer(self, data: bytes) -> bool:
        """Whether this is the disk's footer, or was before a power cut in `relink` or `adopt`.

        Then it is written over where it is, and the file does not grow.
        """
        try:
            other = Footer.parse(data, self.path, self._file.size - SECTOR)
        except DiskFormatError:
            return False
        own = self._footer
        alike = replace(
            other,
            data_offset=own.data_offset,
            time_stamp=own.time_stamp,
            unique_id=own.unique_id,
        )
        return alike.pack() == own.pack()

    def _places_for(self, units: Int64s) -> Int64s:
        """Each unit's place in its block; blocks that are missing get places at the end."""
        per_block = self._header.block_size // self.unit
        of_unit = units // per_block
        blocks = distinct(of_unit)
        payloads = self._allocated(blocks)[np.searchsorted(blocks, of_unit)]
        return payloads + units % per_block * self.unit

    def _note_written(self, units: Int64s) -> None:
        self._written.mark_units(units)

    def _allocated(self, blocks: Int64s) -> Int64s:
        """Where the payloads of blocks lie, each given once; missing ones get places at the end."""
        with self._lock:
            missing = blocks[self._entries[blocks] == UNUSED]
            if len(missing):
                self._entries[missing] = self._new_places(len(missing)) // SECTOR
                self._touched[missing] = True
            return self._entries[blocks].astype(np.int64) * SECTOR + self._header.bitmap_size

    def _new_places(self, count: int) -> Int64s:
        """Where the bitmaps of new blocks go: behind the footer, the payloads aligned.

        The file is longer by a footer behind them before anything is written into them.
        """
        header = self._header
        payload = _up(self._named_end + SECTOR + header.bitmap_size, header.alignment)
        stride = _up(header.block_size + SECTOR + header.bitmap_size, header.alignment)
        places = payload - header.bitmap_size + np.arange(count) * stride
        end = payload + (count - 1) * stride + header.block_size
        if end > MAX_FILE:
            raise NoSpaceInDisk(
                tr(
                    "{path} has no space for more blocks, since writing to it was interrupted.",
                    path=self.path,
                ),
                tr("Export it to a new disk first."),
            )
        if self._named_end < self._end:
            self._cut_remains()
        self._file.grow(end + SECTOR)
        self._file.write(end, memoryview(self._footer.pack()))
        self._end = self._named_end = end
        return places

    def _cut_remains(self) -> None:
        """Blocks behind the last that is named go: their writer did not come to an end.

        A footer stands behind what stays before the file becomes that short, and the file is that
        short before a guest's data can come to lie where it ended: both durable.
        """
        end = self._named_end
        self._file.write(end, memoryview(self._footer.pack()))
        self._file.sync()
        self._file.cut(end + SECTOR)
        self._file.sync()
        self._end, self._hole_from = end, end + SECTOR

    def zero(self, offset: int, length: int) -> None:
        """Make whole units read as zeros: a child gets real ones, a base no block that it lacks."""
        block_size = self._header.block_size
        first, last = offset // block_size, -(-(offset + length) // block_size)
        if self._parent is None:
            blocks = np.flatnonzero(self._entries[first:last] != UNUSED) + first
        else:
            blocks = np.arange(first, last)
            self._allocated(blocks)
        payloads = self._entries[blocks].astype(np.int64) * SECTOR + self._header.bitmap_size
        for block, payload in zip(blocks.tolist(), payloads.tolist(), strict=True):
            start = max(offset, block * block_size)
            end = min(offset + length, (block + 1) * block_size)
            self._zero_units(payload - block * block_size, start, end)

    def _zero_units(self, shift: int, start: int, end: int) -> None:
        """Bytes [start, end) of the disk, which lie `shift` bytes further on in the file."""
        written = self._written.between(start, end - start)
        is_hole = shift + start >= self._hole_from and not written.any()
        if not is_hole:
            self._file.zero(shift + start, end - start)
        self._written.mark(start, end - start)

    def flush(self) -> None:
        """Data and the footer behind them, then the bitmaps, then the table; a barrier after each.

        A power cut then leaves a table that names only blocks that are there, and bitmaps with ones
        only for sectors that are there. A block that was there before keeps its bitmap until the
        new data are durable, and nothing else of it changes.
        """
        if not self._footers_agree:
            self._write_footer(self._footer)
        self._file.sync()
        if blocks := self._written.groups():
            if [block for block in blocks if self._write_bitmap(block)]:
                self._file.sync()
            self._written.clear()
        self._write_table()
        self._hole_from = self._end + SECTOR

    def _write_bitmap(self, block: int) -> bool:
        """Let a block's bitmap say what was written since the last flush; whether that is news."""
        header = self._header
        place = int(self._entries[block]) * SECTOR
        before = np.zeros(header.bitmap_size, np.uint8)
        self._file.readinto(place, memoryview(before))
        if self._parent is None:
            bitmap = np.full(header.bitmap_size, 0xFF, np.uint8)
        else:
            bitmap = before.copy()
            # whole units, and so whole bytes: libvhdi extends a run that ends inside a byte
            mine = np.repeat(self._written.in_group(block), self.unit // SECTOR // 8)
            bitmap[: len(mine)][mine] = 0xFF
        if np.array_equal(bitmap, before):
            return False
        self._file.write(place, memoryview(bitmap))
        return True

    def _write_table(self) -> None:
        """The parts of the block allocation table that have changed; durable."""
        touched = np.flatnonzero(self._touched)
        if not len(touched):
            return
        per_piece = _PIECE // 4
        for piece in distinct(touched // per_piece).tolist():
            inside = touched[touched // per_piece == piece]
            first, last = int(inside[0]), int(inside[-1]) + 1
            data = memoryview(self._entries[first:last].astype(">u4").tobytes())
            self._file.write(BAT_AT + first * 4, data)
        self._file.sync()
        self._touched[touched] = False

    # ------------------------------------------------------------------ identity and links

    def relink(self, parent: ParentRef) -> None:
        """Name another parent; durable on return, and a power cut leaves the old one or the new.

        The header and the paths go into the slot that no footer names; then a footer, one sector,
        names the slot.
        """
        if self._parent is None:
            raise NotLinkable(
                tr("{path} has no parent, so it cannot get another one.", path=self.path)
            )
        if not self._footers_agree:
            self._write_footer(self._footer)
        slot = next(each for each in SLOTS if each != self._footer.data_offset)
        header, data = self._header.in_slot(slot, parent)
        self._file.write(slot, memoryview(data))
        self._file.sync()
        self._header = header
        self._write_footer(replace(self._footer, data_offset=slot))
        self._parent = self._stored_parent()

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Take another disk's UUID and time stamp; durable on return, atomic as `relink` is."""
        stamp = time_stamp(content_id)
        self._write_footer(
            replace(
                self._footer,
                unique_id=uuid_bytes(disk_id),
                time_stamp=self._footer.time_stamp if stamp is None else stamp,
            )
        )

    def _write_footer(self, footer: Footer) -> None:
        """Both copies, the one that we believe first; at any moment one of them is whole."""
        data = memoryview(footer.pack())
        self._footers_agree = False
        for place in (0, self._end):
            self._file.write(place, data)
            self._file.sync()
        self._footer, self._footers_agree = footer, True


def _header(file: HostFile, footer: Footer) -> DynamicHeader:
    at = footer.data_offset
    if at > file.size:
        raise DiskFormatError(file.path, 0, tr("the dynamic disk header lies outside the file"))
    data = file.read(at, HEADER_SIZE)
    return DynamicHeader.parse(data, file.path, at, footer.current_size, file.size)


def _write_empty(file: HostFile, footer: Footer, header: DynamicHeader, slot: bytes) -> None:
    file.grow(header.table_end + SECTOR)
    unused = memoryview(b"\xff" * min(_PIECE, header.table_size))
    for done in range(0, header.table_size, _PIECE):
        file.write(header.table_offset + done, unused[: header.table_size - done])
    file.write(footer.data_offset, memoryview(slot))
    for place in (0, header.table_end):
        file.write(place, memoryview(footer.pack()))


def _up(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
