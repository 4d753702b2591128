"""Compressed clusters of QCOW2 disks that other programs wrote: read, never written.

Source: QEMU, docs/interop/qcow2.txt ("Compressed Clusters Descriptor") and block/qcow2-threads.c: a
raw deflate stream or one Zstandard frame per cluster, with no length of its own: it ends when a
cluster is full, and what follows it in the last sector belongs to others.
"""

from __future__ import annotations

import zlib

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.qcow2.mapping import MappingTables
from vdbackup.disks.qcow2.structs import COMPRESSED
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

_MAX_WINDOW = 8 << 20
"""Bytes that a Zstandard frame may make us hold: what RFC 8878 (3.1.1.1.2) asks readers for."""


class CompressedClusters:
    """The disk's bytes, wherever they are compressed. Several threads may read at once."""

    def __init__(self, file: HostFile, mapping: MappingTables) -> None:
        self._file = file
        self._mapping = mapping
        self._header = mapping.header
        self._last = (-1, b"")  # small reads side by side want the same cluster again

    def read(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` of the disk on; raises DiskFormatError."""
        size = self._header.cluster_size
        done = 0
        while done < len(view):
            number, skipped = divmod(offset + done, size)
            part = self._cluster(number)[skipped : skipped + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)

    def _cluster(self, number: int) -> bytes:
        last, data = self._last
        if last != number:
            data = self._decompressed(number)
            self._last = (number, data)
        return data

    def _decompressed(self, number: int) -> bytes:
        import zstandard  # late: few disks have compressed clusters, and none of ours

        place, length = self._place(number)
        stored = self._file.read(place, length)  # the last sector may end with the file
        size = self._header.cluster_size
        try:
            if self._header.compression:
                frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
                with frame.stream_reader(stored) as reader:
                    data = reader.read(size)
            else:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, size)
        except (zlib.error, zstandard.ZstdError) as error:
            problem = tr("cluster {number} cannot be decompressed", number=number)
            raise DiskFormatError(self._file.path, place, problem) from error
        if len(data) != size:
            problem = tr(
                "cluster {number} holds {count} bytes instead of {size}",
                number=number,
                count=len(data),
                size=size,
            )
            raise DiskFormatError(self._file.path, place, problem)
        return data

    def _place(self, number: int) -> tuple[int, int]:
        """Where the compressed cluster lies, and the bytes up to the end of its last sector."""
        entry = self._mapping.entry(number)
        if not entry & COMPRESSED:
            raise DiskFormatError(
                self._file.path, 0, tr("cluster {number} is not compressed any more", number=number)
            )
        offset_bits = self._mapping.compressed_offset_bits
        place = entry & ((1 << offset_bits) - 1)
        sectors = (entry & (COMPRESSED - 1)) >> offset_bits
        return place, (sectors + 1) * SECTOR - place % SECTOR
