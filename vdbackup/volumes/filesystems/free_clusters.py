"""Which bytes of NTFS and FAT are free: by $Bitmap, and by the table of clusters.

Neither has a checksum. They count only where the file system says that it was left in order; that
nobody has it mounted, whoever asks has to know.

Specifications: https://flatcap.github.io/linux-ntfs/ntfs/files/bitmap.html; libvshadow's "Volume
Shadow Snapshot (VSS) format", "Volume header"; Microsoft, FAT32 File System Specification, 1.03,
"FAT Volume Initialization", "FAT Data Structure".
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Ranges, as_ranges, edges_of, union
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable

_UNCLEAN = tr("it was not unmounted cleanly")
_BITMAP = 6
_MFT, _MIRROR = 0x30, 0x38
"""Places in the boot sector of the numbers of the clusters in which these begin."""
_SHADOWS, _SHADOWED = 0x1E00, bytes.fromhex("6b87083876c1484eb7ae04046e6cc752")
"""Where, and by which GUID, Windows says that there are shadow copies: restore points. One reads
what has not changed since from the volume, whatever that calls free by now."""
_PAGING = {"pagefile.sys": 0, "swapfile.sys": 0, "hiberfil.sys": 1 << 20}
"""Names of such files, and how many bytes each begins with that are kept."""
_FAT12, _FAT16 = 4085, 65525
"""Clusters from which on a FAT has entries of 16, and of 32 bits."""


def free_of_ntfs(stream: io.BufferedReader) -> Ranges:
    """What is free in an NTFS that nobody has mounted, in bytes; raises Unreadable in any doubt."""
    from vdbackup.volumes.filesystems import ntfs

    _, root = ntfs.open_root(stream)
    if root.hibernated():
        raise Unreadable(tr("its Windows is hibernated, or was shut down with fast startup"))
    if root.unclean():
        raise Unreadable(_UNCLEAN)
    stream.seek(_SHADOWS)
    identifier, catalog = struct.unpack("<16s32xQ", stream.read(56))
    if identifier == _SHADOWED and catalog:
        raise Unreadable(tr("it has shadow copies, which need what was deleted since"))
    stream.seek(0)
    boot = stream.read(512)
    sector, factor = struct.unpack_from("<HB", boot, 11)
    cluster: int = sector * (factor if factor <= 128 else 1 << 256 - factor)
    (sectors,) = struct.unpack_from("<Q", boot, 0x28)
    count = sectors * sector // cluster
    bitmap = root.own_file(_BITMAP, -(-count // 8))
    places = (0, *(struct.unpack_from("<Q", boot, at)[0] for at in (_MFT, _MIRROR)))
    if len(bitmap) * 8 < count or not all(
        place < count and bitmap[place // 8] >> place % 8 & 1 for place in places
    ):
        raise Unreadable(tr("its map of clusters is damaged"))
    free: Ranges = clear_bits(np.frombuffer(bitmap, np.uint8), count) * cluster
    return free


def paging_of_ntfs(stream: io.BufferedReader) -> Ranges:
    """Where an NTFS whose free space is known has files that Windows swaps to, in bytes.

    Windows makes them anew when it starts. Of that for hibernation, which holds nothing that it
    would go on from, the beginning stays: it says so.
    """
    from vdbackup.volumes.filesystems import ntfs

    _, root = ntfs.open_root(stream)
    found = [
        (start + max(0, kept - at), length - max(0, kept - at))
        for name, kept in _PAGING.items()
        for at, start, length in root.of_windows(name)
        if at + length > kept
    ]
    return union(as_ranges(sorted(found)), as_ranges(()))


def free_of_fat(stream: io.BufferedReader) -> Ranges:
    """What is free in a FAT that nobody has mounted, in bytes; raises Unreadable in any doubt."""
    stream.seek(0)
    fat = _Fat.read(stream.read(512))
    copies = []
    for number in range(fat.copies):
        stream.seek(fat.table + number * fat.table_size)
        copies.append(stream.read(fat.table_size))
    table = copies[0]
    if any(copy != table for copy in copies) or len(table) < fat.table_size:
        raise Unreadable(tr("the copies of its table differ"))
    entries = fat.entries(table)
    if len(entries) < fat.clusters + 2 or entries[0] & 0xFF != fat.media:
        raise Unreadable(tr("its table is damaged"))
    clean = {12: 0, 16: 0xC000, 32: 0x0C00_0000}[fat.bits]  # and no errors seen
    if fat.is_dirty or entries[1] & clean != clean:
        raise Unreadable(_UNCLEAN)
    free = stretches(entries[2 : fat.clusters + 2] == 0) * fat.cluster
    return free + np.array([fat.data, 0], np.int64)


def stretches(flags: NDArray[np.bool_]) -> Ranges:
    """Where flags are set one after the other: the first and how many."""
    edges = edges_of(flags)
    return np.stack([edges[:, 0], edges[:, 1] - edges[:, 0]], axis=1)


def clear_bits(bitmap: NDArray[np.uint8], count: int) -> Ranges:
    """Where of the first `count` bits, the lowest of a byte first, stretches of zeros lie.

    Most bytes are as the one before, all zeros or all ones: only the others are taken apart, which
    takes a tenth of the time.
    """
    before = np.concatenate((np.array([0xFF], np.uint8), bitmap[:-1]))
    mixed = np.flatnonzero((bitmap != before) | (bitmap + 1 > 1))  # 0xFF + 1 is 0 here
    bits = np.unpackbits(bitmap[mixed], bitorder="little").reshape(-1, 8)
    last = before[mixed] >> 7
    turns = np.diff(np.concatenate((last[:, None], bits), axis=1), axis=1) != 0
    rows, columns = np.nonzero(turns)
    edges = np.append(mixed[rows] * 8 + columns, len(bitmap) * 8)
    edges = np.minimum(edges[: len(edges) // 2 * 2], count).reshape(-1, 2).astype(np.int64)
    found = np.stack([edges[:, 0], edges[:, 1] - edges[:, 0]], axis=1)
    return found[found[:, 1] > 0]


@dataclass(frozen=True)
class _Fat:
    """What a boot sector says: places and sizes in bytes.

    Attributes:
        bits: of an entry.
        table: where the first of the `copies` of the table begins.
        data: where the cluster of number 2 begins.
    """

    bits: int
    copies: int
    table: int
    table_size: int
    data: int
    cluster: int
    clusters: int
    media: int
    is_dirty: bool

    @classmethod
    def read(cls, boot: bytes) -> _Fat:
        sector, per_cluster, reserved, copies, root, small, media, short, large = (
            struct.unpack_from("<HBHBHHBH8xI", boot, 11)
        )
        long, mirroring, version = struct.unpack_from("<IHH", boot, 36)
        total, table = small or large, short or long
        head = reserved + copies * table + -(-root * 32 // max(sector, 1))
        clusters = (total - head) // max(per_cluster, 1)
        bits = 12 if clusters < _FAT12 else 16 if clusters < _FAT16 else 32
        if not sector or not per_cluster or not table or clusters <= 0:
            raise Unreadable(tr("its boot sector is damaged"))
        if (bits == 32) != (not short) or (bits == 32 and (mirroring or version or root)):
            raise Unreadable(tr("its table is of a kind that vdbackup does not know"))
        return cls(
            bits=bits,
            copies=copies,
            table=reserved * sector,
            table_size=table * sector,
            data=head * sector,
            cluster=per_cluster * sector,
            clusters=clusters,
            media=media,
            is_dirty=bool(boot[0x41 if bits == 32 else 0x25] & 3),
        )

    def entries(self, table: bytes) -> NDArray[np.uint32]:
        """The numbers in a table, uint32, those of the first two included."""
        if self.bits == 16:
            return np.frombuffer(table[: len(table) // 2 * 2], "<u2").astype(np.uint32)
        if self.bits == 32:
            found = np.frombuffer(table[: len(table) // 4 * 4], "<u4")
            return np.asarray(found & 0x0FFF_FFFF, np.uint32)
        threes = np.frombuffer(table[: len(table) // 3 * 3], np.uint8).reshape(-1, 3)
        first, second, third = (threes[:, at].astype(np.uint32) for at in range(3))
        pairs = np.stack([first | (second & 15) << 8, second >> 4 | third << 4], axis=1)
        return pairs.reshape(-1)
