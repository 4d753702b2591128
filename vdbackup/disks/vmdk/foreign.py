"""VMDK as only other programs make it, read: in several extents, or compressed (streamOptimized).

A text descriptor names the files that hold the disk, one after the other: flat (monolithicFlat,
twoGbMaxExtentFlat, vmfs) or sparse (twoGbMaxExtentSparse). A compressed disk is one file.
Source: VMware, "Virtual Disk Format 5.0"; ESX's own sparse kinds (COWD, seSparse) are not in it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from vdbackup.disks.at_once import Part
from vdbackup.disks.beside import behind_link, own_folders
from vdbackup.disks.disk import NOT_CLOSED, SECTOR, DiskInfo
from vdbackup.disks.extents import UNALLOCATED, ZERO, BlockMap, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.one_file import one_by_one
from vdbackup.disks.read_only import ReadOnlyDisk
from vdbackup.disks.vmdk.sparse import SparseExtent, read_descriptor, read_header
from vdbackup.disks.vmdk.structs import (
    MAGIC,
    MAX_DESCRIPTOR,
    Descriptor,
    ExtentLine,
    decoded,
)
from vdbackup.errors import DiskError, DiskFormatError, NotSupported, PartMissing
from vdbackup.jobs import readable_size, sizes_apart
from vdbackup.translation import tr

_LOG = logging.getLogger(__name__)
_MAX_SIZE = 64 << 40
"""Bytes of disk: more than ESX allows (62 TiB)."""
_MAX_EXTENTS = 4096
_MAX_CANDIDATES = 1000
"""Files that are looked into for a parent that the child does not name."""
_READER_SHIFT = 48
"""A host in the map: the number of a reader above this bit, below it a place in that reader."""

_Part = tuple[BlockMap, int]
"""A stretch of the disk: its map, and the number of the reader that the map's hosts are for."""


class ForeignVmdk(ReadOnlyDisk):
    """A disk of several files, or of one that is compressed; for reading alone."""

    def __init__(self, file: HostFile) -> None:
        """Take over an open file; where that raises DiskError, the file stays the caller's."""
        super().__init__(file)
        self._extents = _Extents(file)
        try:
            text = _text(file)
            descriptor = with_found_parent(Descriptor.parse(text, self.path, 0), self.path)
            fill = ZERO if descriptor.parent is None else UNALLOCATED
            self._map = _joined(_parts(file, text, self._extents, fill))
        except BaseException:
            self._extents.close_others()
            raise
        self.info = DiskInfo(
            DiskFormat.VMDK, self._map.size, SECTOR, self._extents.block_size, descriptor.uuid,
            descriptor.cid, descriptor.parent,
            unclean=NOT_CLOSED if self._extents.unclean else "",
        )  # fmt: skip

    @property
    def host_files(self) -> tuple[HostFile, ...]:
        """The descriptor's file, then those of the extents."""
        return (self._file, *self._extents.files)

    def block_map(self) -> BlockMap:
        """The disk's own stretches; a host is a place in one of several files, see `read_host`."""
        return self._map

    def doubts(self) -> tuple[str, ...]:
        """What contradicts itself in its parts; see VirtualDisk."""
        found = [doubt for each in self._extents.sparse_ones for doubt in each.doubts()]
        return tuple(dict.fromkeys(found))

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from a host of the map on; compressed grains are inflated for it."""
        number, place = divmod(host, 1 << _READER_SHIFT)
        self._extents.readers[number].readinto(place, view)

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, one by one."""
        one_by_one(self.read_host, parts, view)

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """All of it: flat extents' holes are in the map already, and grains are small."""
        return [(host, length)]

    def close(self) -> None:
        """Close all files."""
        self._extents.close_others()
        self._file.close()


class _Reader(Protocol):
    def readinto(self, offset: int, view: memoryview) -> None: ...


class _Extents:
    """The files that hold the disk.

    A file for each extent, but flat ones in one file share it. No byte of a file is named twice: a
    text that names one file a thousand times would fill the memory with its map.

    Attributes:
        readers: what the maps' hosts are places in.
        sparse_ones: those of them that have tables.
        block_size: in bytes, of the sparse extents.
        unclean: whether one of those was not closed.
    """

    def __init__(self, descriptor: HostFile) -> None:
        self._descriptor = descriptor
        self._files: dict[Path, HostFile] = {}
        self._flat: dict[Path, int] = {}
        self._named: Counter[Path] = Counter()  # bytes of each flat file
        self.readers: list[_Reader] = []
        self.sparse_ones: list[SparseExtent] = []
        self.block_size = SECTOR
        self.unclean = False

    def part(self, line: ExtentLine, fill: int) -> _Part:
        """A stretch as the descriptor has it."""
        if line.kind == "ZERO":
            return BlockMap.uniform(line.size, ZERO), 0
        if line.kind not in ("FLAT", "VMFS", "SPARSE") or line.access == "NOACCESS":
            raise NotSupported(
                tr(
                    "{descriptor} is a VMDK with an extent that cannot be read: {access} {kind}.",
                    descriptor=self._descriptor.path,
                    access=line.access,
                    kind=line.kind,
                ),
                tr("Let the program that made it convert or export the disk."),
            )
        if line.kind == "SPARSE":
            return self.sparse(self._opened(self._place(line.file_name)), line, fill)
        return self._flat_part(line)

    def sparse(self, file: HostFile, line: ExtentLine, fill: int) -> _Part:
        """A stretch that is all of a sparse file, whose capacity may be rounded up to a grain."""
        extent = SparseExtent(file)
        if not 0 <= extent.size - line.size < extent.grain:
            there, described = sizes_apart(extent.size, line.size)
            raise self._refusal(
                tr(
                    "{file_name!r} is of {there}, not {described}",
                    file_name=line.file_name,
                    there=there,
                    described=described,
                )
            )
        extent.size = line.size
        self.block_size = extent.grain
        self.unclean |= extent.unclean
        self.readers.append(extent)
        self.sparse_ones.append(extent)
        return extent.block_map(fill), len(self.readers) - 1

    def _flat_part(self, line: ExtentLine) -> _Part:
        path = self._place(line.file_name)
        if path not in self._flat:
            file = self._opened(path)
            self._flat[path] = len(self.readers)
            self.readers.append(file)
        file, end = self._files[path], line.offset + line.size
        if end > min(file.size, 1 << _READER_SHIFT):
            problem = tr(
                "the extent is said to go to byte {end} of a file of {size}",
                end=end,
                size=file.size,
            )
            raise DiskFormatError(file.path, file.size, problem)
        self._named[path] += line.size
        if self._named[path] > file.size:
            raise self._refusal(
                tr("it names parts of {file_name!r} twice", file_name=line.file_name)
            )
        segments = as_ranges(file.data_segments(line.offset, end))
        places, lengths = segments[:, 0], segments[:, 1]
        layers = np.zeros(len(places), np.int32)
        held = BlockMap.from_runs(line.size, places - line.offset, lengths, layers, places, ZERO)
        return held, self._flat[path]

    def _opened(self, path: Path) -> HostFile:
        if path in self._files:
            raise self._refusal(tr("it names the extent {path!r} twice", path=path.name))
        self._files[path] = HostFile.open(path)
        return self._files[path]

    def _place(self, name: str) -> Path:
        """Where an extent really lies: a text may name what is in the descriptor's own folder."""
        own = own_folders(self._descriptor.path)
        places = [folder / name for folder in own] if name and "\0" not in name else []
        for place in places:
            where = Path(os.path.realpath(place))
            if where.parent in own and os.path.isfile(where):
                return where
        raise self._missing(name, next(filter(os.path.islink, places), None))

    def _missing(self, name: str, link: Path | None) -> PartMissing:
        disk, folder = self._descriptor.path, own_folders(self._descriptor.path)[-1]
        about = tr("{disk} needs its extent {name!r}, which is", disk=disk, name=name)
        if link is not None:
            outside = tr("a link to {link}, outside its own folder", link=os.path.realpath(link))
            advice = tr(
                "Put the file itself into {parent}, in the link's place.", parent=link.parent
            )
            what, advice = behind_link(link) or (outside, advice)
            return PartMissing(f"{about} {what}.", advice)
        if "/" in name or "\\" in name:
            return PartMissing(
                tr("{about} not in its own folder.", about=about),
                tr(
                    "Put it into {folder}, and let {disk} name it by its last part alone.",
                    folder=folder,
                    disk=disk.name,
                ),
            )
        return PartMissing(
            tr("{about} missing.", about=about), tr("Put it into {folder}.", folder=folder)
        )

    def _refusal(self, problem: str) -> DiskFormatError:
        return DiskFormatError(self._descriptor.path, 0, problem)

    @property
    def files(self) -> tuple[HostFile, ...]:
        """All files but the descriptor's."""
        return tuple(self._files.values())

    def close_others(self) -> None:
        """Close all files but the descriptor's."""
        for file in self._files.values():
            file.close()


def with_found_parent(descriptor: Descriptor, path: Path) -> Descriptor:
    """The descriptor, with the parent's name if it has only the parent's UUID (VirtualBox).

    It is looked for among the VMDKs in the child's own folder. If it is not there, the name is the
    one that VirtualBox gives to all disks but the first.
    """
    wanted = descriptor.parent_uuid
    if wanted is None or descriptor.parent_hint is not None:
        return descriptor
    found = next(disks_with(wanted, path.parent), None)
    name = found.name if found else _usual_name(wanted)
    return replace(descriptor, parent_hint=name, parent_named=False)


def disks_with(disk_id: str, folder: Path) -> Iterator[Path]:
    """The VMDKs in a folder that say that they are that disk."""
    first = _usual_name(disk_id)
    others = sorted(name for name in os.listdir(folder) if name.lower().endswith(".vmdk"))
    for name in [first, *others[:_MAX_CANDIDATES]]:
        if _uuid_of(folder / name) == disk_id:
            yield folder / name


def _usual_name(disk_id: str) -> str:
    return f"{{{disk_id}}}.vmdk"


def _uuid_of(path: Path) -> str | None:
    """What a VMDK says it is; None of what is no VMDK, or may not be read."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    try:
        with closing(HostFile.open(path)) as file:
            return Descriptor.parse(_text(file), path, 0).uuid
    except (DiskError, OSError) as error:
        _LOG.debug("%s is not the parent: %s", path, error)
        return None


def _text(file: HostFile) -> str:
    """The descriptor, which is all of the file or inside a sparse one."""
    if file.read(0, len(MAGIC)) == MAGIC:
        return read_descriptor(file)
    if file.size > MAX_DESCRIPTOR:
        raise DiskFormatError(
            file.path, 0, tr("a descriptor of {size} bytes is too large", size=file.size)
        )
    return decoded(file.read(0, MAX_DESCRIPTOR))


def _parts(file: HostFile, text: str, extents: _Extents, fill: int) -> list[_Part]:
    """The stretches in the order of the disk."""
    if file.read(0, len(MAGIC)) == MAGIC:
        return [extents.sparse(file, ExtentLine.only(text, file.path, read_header(file)), fill)]
    lines = [line for line in ExtentLine.parse_all(text, file.path) if line.size]
    size = sum(line.size for line in lines)
    if not 0 < size <= _MAX_SIZE or len(lines) > _MAX_EXTENTS:
        problem = tr(
            "{count} extents make a disk of {size}", count=len(lines), size=readable_size(size)
        )
        raise DiskFormatError(file.path, 0, problem)
    return [extents.part(line, fill) for line in lines]


def _joined(parts: Sequence[_Part]) -> BlockMap:
    """One map of all stretches, whose hosts have the numbers of the readers in them."""
    sizes = [held.size for held, _ in parts]
    places = np.cumsum([0, *sizes])[:-1].tolist()
    starts = [held.starts + at for (held, _), at in zip(parts, places, strict=True)]
    hosts = [
        np.where(held.layers >= 0, held.hosts + (number << _READER_SHIFT), 0)
        for held, number in parts
    ]
    layers = [held.layers for held, _ in parts]
    return BlockMap(
        sum(sizes), np.concatenate(starts), np.concatenate(layers), np.concatenate(hosts)
    )
