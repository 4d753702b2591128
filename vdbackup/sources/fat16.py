"""A FAT16 file system in a part of an image file: made, and files put into it, without a mount.

Only what a demo disk needs: names of 8.3 characters, folders, files that are written whole.
Specification: Microsoft, "FAT: General Overview of On-Disk Format", 1.03, whose field names the
structures keep. All numbers are little-endian.

    boot sector | FAT | FAT (copy) | root folder: 512 entries | clusters 2, 3, ...
"""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO, NamedTuple

import numpy as np

from vdbackup.errors import SourceError
from vdbackup.translation import tr

SECTOR = 512
_RESERVED_SECTORS = 1
_FATS = 2
_ROOT_ENTRIES = 512
_CLUSTER_LIMIT = 65_524  # more would be FAT32: "FAT Type Determination"
_FREE, _END_OF_CHAIN = 0, 0xFFFF
_ROOT = 0  # what the directory entries say for the root folder's first cluster
_LABEL = b"VDBACKUP   "
_NAME = re.compile(r"([A-Z0-9_~-]{1,8})(?:\.([A-Z0-9_~-]{1,3}))?")


class NotADemoDisk(SourceError):
    """What should be changed as a demo disk is none."""

    code = "not-a-demo-disk"


class UnfitForDemoDisk(SourceError):
    """A demo disk cannot have that size, print that message or hold a file of that name."""

    code = "demo-disk-unfit"


class DemoDiskFull(SourceError):
    """A demo disk, or a folder on it, is full."""

    code = "demo-disk-full"


class BootSector(NamedTuple):
    """The fields at the start of the boot sector ("Boot Sector and BPB")."""

    jump: bytes
    oem_name: bytes
    bytes_per_sector: int
    sectors_per_cluster: int
    reserved_sectors: int
    fats: int
    root_entries: int
    sectors_16: int
    media: int
    sectors_per_fat: int
    sectors_per_track: int
    heads: int
    hidden_sectors: int
    sectors_32: int
    drive: int
    reserved: int
    extended_signature: int
    volume_id: int
    label: bytes
    type_name: bytes


_BOOT_SECTOR = struct.Struct("<3s8sHBHBHHBHHHIIBBBI11s8s")


class Entry(NamedTuple):
    """A directory entry ("FAT Directory Structure")."""

    name: bytes
    attributes: int
    reserved: int
    created_tenths: int
    created_time: int
    created_date: int
    accessed_date: int
    first_cluster_high: int
    written_time: int
    written_date: int
    first_cluster: int
    size: int


_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_FILE, _FOLDER, _VOLUME_LABEL = 0x20, 0x10, 0x08


class Fat16:
    """The FAT16 file system at `offset` (bytes) of the image `file`.

    A folder is known by its first cluster, as in the directory entries. Until `flush` the file
    allocation table is changed in memory alone: call it after the last `put`, failed or not.

    Raises:
        SourceError: there is no FAT16 file system that this class made; from `put` also: the name
            is none, or there is no space.
    """

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        sector = self._read(offset, SECTOR)
        boot = BootSector(*_BOOT_SECTOR.unpack(sector[: _BOOT_SECTOR.size].ljust(62, b"\0")))
        if boot.label != _LABEL or boot.type_name != b"FAT16   ":
            raise NotADemoDisk(
                tr("{file} is not a demo disk.", file=file.name),
                tr("Name one that vdbackup made itself."),
            )
        self._cluster_size = boot.sectors_per_cluster * SECTOR
        self._fat_size = boot.sectors_per_fat * SECTOR
        self._fat_offset = offset + boot.reserved_sectors * SECTOR
        self._root_offset = self._fat_offset + boot.fats * self._fat_size
        self._data_offset = self._root_offset + boot.root_entries * _ENTRY.size
        end = offset + (boot.sectors_16 or boot.sectors_32) * SECTOR
        clusters = (end - self._data_offset) // self._cluster_size
        table = np.frombuffer(self._read(self._fat_offset, self._fat_size), dtype="<u2")
        # What follows each cluster in its file. Entries 0 and 1 belong to no cluster, and the
        # table's last sector goes on after the last cluster.
        self._next = table[: clusters + 2].copy()

    @classmethod
    def create(cls, file: BinaryIO, offset: int, size: int) -> Fat16:
        """Make an empty file system in `size` bytes of `file` that are zero."""
        sectors = size // SECTOR
        sectors_per_cluster, sectors_per_fat = _geometry(sectors)
        boot = BootSector(
            jump=b"\xeb\x3c\x90",
            oem_name=b"VDBACKUP",
            bytes_per_sector=SECTOR,
            sectors_per_cluster=sectors_per_cluster,
            reserved_sectors=_RESERVED_SECTORS,
            fats=_FATS,
            root_entries=_ROOT_ENTRIES,
            sectors_16=sectors if sectors < 1 << 16 else 0,
            media=0xF8,
            sectors_per_fat=sectors_per_fat,
            sectors_per_track=63,
            heads=255,
            hidden_sectors=offset // SECTOR,
            sectors_32=sectors if sectors >= 1 << 16 else 0,
            drive=0x80,
            reserved=0,
            extended_signature=0x29,
            volume_id=secrets.randbits(32),
            label=_LABEL,
            type_name=b"FAT16   ",
        )
        halt = b"\xf4\xeb\xfd"  # where `jump` leads: hlt, for ever
        start = _BOOT_SECTOR.pack(*boot) + halt
        file.seek(offset)
        file.write(start.ljust(SECTOR - 2, b"\0") + b"\x55\xaa")
        volume = cls(file, offset)
        volume._next[:2] = 0xFFF8, _END_OF_CHAIN
        volume._set(volume._root_offset, _LABEL, _VOLUME_LABEL, 0, 0)
        return volume

    def put(self, path: str, content: bytes) -> None:
        """Write the file `path` ("LETTERS/FIRST.TXT"), in the place of one that has this name."""
        *folders, name = [_directory_name(part, path) for part in path.upper().split("/")]
        folder = _ROOT
        for part in folders:
            folder = self._folder(folder, part, path)
        offset, old = self._slot(folder, name)
        if old.attributes & _FOLDER:
            raise UnfitForDemoDisk(
                tr("{path} is a folder.", path=path), tr("Choose another name for the file.")
            )
        first = self._store(content, instead_of=old.first_cluster)
        self._set(offset, name, _FILE, first, len(content))

    def flush(self) -> None:
        """Write both copies of the file allocation table."""
        for copy in range(_FATS):
            self._write(self._fat_offset + copy * self._fat_size, self._next.tobytes())

    def _folder(self, parent: int, name: bytes, path: str) -> int:
        """The first cluster of the folder `name` in `parent`, which is made if it is not there."""
        offset, old = self._slot(parent, name)
        if old.attributes & _FOLDER:
            return old.first_cluster
        if old.attributes:
            raise UnfitForDemoDisk(
                tr("A part of {path} is a file.", path=path),
                tr("Choose another name for the file."),
            )
        cluster = self._store(bytes(self._cluster_size))
        self._set(self._offset(cluster), b".".ljust(11), _FOLDER, cluster, 0)
        self._set(self._offset(cluster) + _ENTRY.size, b"..".ljust(11), _FOLDER, parent, 0)
        self._set(offset, name, _FOLDER, cluster, 0)
        return cluster

    def _entries(self, folder: int) -> Iterator[tuple[int, Entry]]:
        """All entries of a folder, used or not, each with its offset in bytes."""
        if folder == _ROOT:
            parts = [(self._root_offset, _ROOT_ENTRIES * _ENTRY.size)]
        else:
            parts = [(self._offset(cluster), self._cluster_size) for cluster in self._chain(folder)]
        for offset, size in parts:
            for at, fields in enumerate(_ENTRY.iter_unpack(self._read(offset, size))):
                yield offset + at * _ENTRY.size, Entry(*fields)

    def _slot(self, folder: int, name: bytes) -> tuple[int, Entry]:
        """Where the entry `name` is, or can be: its offset in bytes, and what is there now.

        Where it can be, all fields are zero: nothing is ever deleted here.
        """
        for offset, entry in self._entries(folder):
            unused = entry.name[0] == 0
            if unused or (entry.name == name and entry.attributes != _VOLUME_LABEL):
                return offset, entry
        raise DemoDiskFull(
            tr("A folder of the demo disk is full."), tr("Put the file into another one.")
        )

    def _set(self, offset: int, name: bytes, attributes: int, first: int, size: int) -> None:
        """Write the directory entry at `offset`, dated now."""
        now = datetime.now().astimezone()
        date = (now.year - 1980) << 9 | now.month << 5 | now.day
        time = now.hour << 11 | now.minute << 5 | now.second // 2
        entry = Entry(name, attributes, 0, 0, time, date, date, 0, time, date, first, size)
        self._write(offset, _ENTRY.pack(*entry))

    def _chain(self, cluster: int) -> list[int]:
        chain = []
        while 2 <= cluster < len(self._next):
            chain.append(cluster)
            cluster = int(self._next[cluster])
        return chain

    def _store(self, content: bytes, instead_of: int = 0) -> int:
        """Write `content` into free clusters; returns the first one, 0 where nothing is to do.

        The clusters of the file that starts at cluster `instead_of` are free from now on.
        """
        old = self._chain(instead_of)
        free = self._next == _FREE
        free[old] = True
        count = -(-len(content) // self._cluster_size)
        clusters = np.flatnonzero(free)[:count]
        if len(clusters) < count:
            raise DemoDiskFull(
                tr("The demo disk is full."), tr("Make a larger one, or write less.")
            )
        self._next[old] = _FREE
        if count == 0:
            return 0
        self._next[clusters[:-1]] = clusters[1:]
        self._next[clusters[-1]] = _END_OF_CHAIN
        for position, cluster in enumerate(clusters):
            start = position * self._cluster_size
            part = content[start : start + self._cluster_size]
            self._write(self._offset(int(cluster)), part.ljust(self._cluster_size, b"\0"))
        return int(clusters[0])

    def _offset(self, cluster: int) -> int:
        return self._data_offset + (cluster - 2) * self._cluster_size

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _write(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)


def _geometry(sectors: int) -> tuple[int, int]:
    """Sectors of a cluster and of a FAT for a volume of `sectors`.

    The smallest cluster from 2 KiB that keeps the volume FAT16. A few entries of the FAT may
    belong to no cluster: its size is computed before its own sectors are taken off the volume.
    """
    sectors_per_cluster = 4
    while sectors // sectors_per_cluster > _CLUSTER_LIMIT:
        sectors_per_cluster *= 2
    entries = sectors // sectors_per_cluster + 2
    return sectors_per_cluster, -(-entries * 2 // SECTOR)


def _directory_name(name: str, path: str) -> bytes:
    """`name` as a directory entry spells it: 8 and 3 characters, filled with spaces."""
    match = _NAME.fullmatch(name)
    if not match:
        raise UnfitForDemoDisk(
            tr("{path} cannot be a file's name on a demo disk.", path=path),
            tr("Use letters and digits, at most eight before the dot and three after it."),
        )
    return f"{match[1]:8}{match[2] or '':3}".encode()
