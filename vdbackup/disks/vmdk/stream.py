"""VMDK that is written once from its start to its end ("streamOptimized"): what appliances hold.

The grains are compressed, in the order of the disk, each behind a marker; a grain table follows the
grains that it names, and the directory and the header that is right (the footer) come last. So it
can be sent while it is made, and nothing that is written is ever written again.

Source: VMware, "Virtual Disk Format 5.0" ("Stream-Optimized Compressed Sparse Extents"). ESX wants
version 3 of it. Tables without a grain are not written: VMware does the same, and VirtualBox knows
(Storage/VMDK.cpp, vmdkStreamFlushGT). Both read it once from its start on, and so refuse grains
that are not in ascending order.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from vdbackup.disks.disk import SECTOR, UNIT
from vdbackup.disks.extents import Int64s
from vdbackup.disks.one_file import neighbouring_units
from vdbackup.disks.vmdk.structs import (
    AT_END,
    DEFLATE,
    DESCRIPTOR_AT,
    DESCRIPTOR_SECTORS,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINE_TEST,
    GRAIN,
    MAGIC,
    NEWLINES,
    TABLE_ENTRIES,
    Descriptor,
    GrainMarker,
    SparseExtentHeader,
    new_cid,
)
from vdbackup.errors import DoesNotFit
from vdbackup.translation import tr

GRAIN_BYTES = GRAIN * SECTOR
_VERSION = 3
_LEVEL = 3
"""Of compression: 9 takes four times as long for 2 % (measured with a Linux system's files)."""
_THREADS = min(4, os.cpu_count() or 1)
_END_OF_STREAM, _TABLE, _DIRECTORY, _FOOTER = 0, 1, 2, 3
_METADATA_MARKER = struct.Struct("<QII496x")
"""Sectors behind it, 0 where a grain has its size, and what they are."""
_LAST_SECTOR = 0xFFFFFFFF


class StreamVmdkWriter:
    """A disk in the making; what is not written reads as zeros.

    Blocks are written in ascending order, from one thread; `flush` ends the disk.

    Args:
        append: takes the next bytes of the file.
        virtual_size: in bytes, a multiple of 512, as large as a VMDK can be.
        file_name: that the disk will have.
        disk_id: its UUID.
    """

    unit = UNIT

    def __init__(
        self, append: Callable[[bytes], object], virtual_size: int, file_name: str, disk_id: str
    ) -> None:
        self._append = append
        self._header = SparseExtentHeader(
            MAGIC, _VERSION, FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS,
            virtual_size // SECTOR, GRAIN, DESCRIPTOR_AT, DESCRIPTOR_SECTORS, TABLE_ENTRIES,
            0, AT_END, GRAIN, 0, NEWLINES, DEFLATE,
        )  # fmt: skip
        descriptor = Descriptor(
            virtual_size, file_name, new_cid(), disk_id, create_type="streamOptimized"
        )
        self._sectors = 0  # written so far
        self._directory = np.zeros(self._header.tables, "<u4")
        self._table = np.zeros(TABLE_ENTRIES, "<u4")
        self._tables_done = 0  # of those before it nothing more comes
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="deflate")
        start = self._header.pack() + descriptor.pack()
        self._put(start.ljust(self._header.overhead * SECTOR, b"\0"))

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Take units that `view` holds; see VirtualDisk."""
        for unit, first, end in neighbouring_units(units, at, len(view)):
            self.write(unit * UNIT, view[first:end])

    def write(self, offset: int, view: memoryview) -> None:
        """Take whole grains at byte `offset`; the disk's last one may be short."""
        first = offset // GRAIN_BYTES
        starts = range(0, len(view), GRAIN_BYTES)
        grains = self._pool.map(_deflated, (view[at : at + GRAIN_BYTES] for at in starts))
        for number, data in enumerate(grains, first):
            self._put_tables(number // TABLE_ENTRIES)
            self._table[number % TABLE_ENTRIES] = self._sectors
            self._put(GrainMarker(number * GRAIN, len(data)).pack() + data)

    def zero(self, offset: int, length: int) -> None:
        """Zeros are what is not there."""

    def flush(self) -> None:
        """End the disk: the last table, the directory, the footer."""
        self._put_tables(self._header.tables)
        directory = self._directory.tobytes()
        self._put_marker(_DIRECTORY, len(directory))
        footer = replace(self._header, directory=self._sectors)
        self._put(directory)
        self._put_marker(_FOOTER, SECTOR)
        self._put(footer.pack())
        self._put_marker(_END_OF_STREAM, 0)

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()

    def _put_tables(self, table: int) -> None:
        """Nothing more comes of what lies before that table."""
        if table == self._tables_done:
            return
        if self._table.any():
            self._put_marker(_TABLE, self._table.nbytes)
            self._directory[self._tables_done] = self._sectors
            self._put(self._table.tobytes())
            self._table[:] = 0
        self._tables_done = table

    def _put_marker(self, kind: int, length: int) -> None:
        self._put(_METADATA_MARKER.pack(-(-length // SECTOR), 0, kind))

    def _put(self, data: bytes) -> None:
        """Write whole sectors."""
        sectors = -(-len(data) // SECTOR)
        if self._sectors + sectors > _LAST_SECTOR:
            raise DoesNotFit(
                tr("The compressed VMDK would pass 2 TiB, the most that the format can address."),
                tr("Choose another format."),
            )
        self._append(data.ljust(sectors * SECTOR, b"\0"))
        self._sectors += sectors


def _deflated(grain: memoryview) -> bytes:
    """A whole grain, compressed: VirtualBox takes no short one."""
    if len(grain) == GRAIN_BYTES:
        return zlib.compress(grain, _LEVEL)
    return zlib.compress(bytes(grain).ljust(GRAIN_BYTES, b"\0"), _LEVEL)
