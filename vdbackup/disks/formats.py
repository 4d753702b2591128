"""The formats by name: which one a file is in, what fits into it, open a disk, create one."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from vdbackup.disks.disk import LARGEST_FINE, SECTOR, UNIT, ParentRef, VirtualDisk
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import BACKUP_FORMATS, DESCRIPTOR_START, DiskFormat
from vdbackup.disks.raw import RawDisk
from vdbackup.errors import DoesNotFit, NotLinkable, UsageError
from vdbackup.jobs import readable_size, sizes_apart
from vdbackup.translation import tr

PROBE_BYTES = 512


class _DiskClass(Protocol):
    # see open_disk and create_disk; ValueError where check_fits was not asked first
    def open(self, path: Path, writable: bool = False, unit: int = UNIT) -> VirtualDisk: ...

    def create(
        self,
        path: Path,
        virtual_size: int,
        parent: ParentRef | None = None,
        sector_size: int = SECTOR,
        unit: int = UNIT,
    ) -> VirtualDisk: ...


@dataclass(frozen=True)
class Format:
    """A format that a backup can be kept in; its module is imported when a disk is at hand.

    All modules together take 90 ms, as much as numpy, and most commands need one of them.

    Attributes:
        name: also the package's.
        class_name: of the disks in it.
        magic: what a file in the format begins with.
        sector_sizes: that a disk in it can have, in bytes.
    """

    name: DiskFormat
    class_name: str
    magic: re.Pattern[bytes]
    sector_sizes: tuple[int, ...]

    @property
    def disk(self) -> _DiskClass:
        """The class that opens and creates disks."""
        module = import_module(f"vdbackup.disks.{self.name}.disk")
        return cast(_DiskClass, getattr(module, self.class_name))

    @property
    def largest(self) -> int:
        """The largest disk, in bytes."""
        return int(import_module(f"vdbackup.disks.{self.name}.disk").MAX_SIZE)

    @property
    def largest_file(self) -> int | None:
        """The largest file whose places the tables can name, in bytes; None where any will do."""
        return getattr(import_module(f"vdbackup.disks.{self.name}.disk"), "MAX_FILE", None)


_VMDK = re.compile(rb"KDMV|COWD|" + DESCRIPTOR_START)
FORMATS: dict[DiskFormat, Format] = {
    each.name: each
    for each in (
        Format(DiskFormat.VMDK, "VmdkDisk", _VMDK, (512,)),
        Format(DiskFormat.VHD, "VhdDisk", re.compile(b"conectix"), (512,)),
        Format(DiskFormat.VHDX, "VhdxDisk", re.compile(b"vhdxfile"), (512, 4096)),
        Format(DiskFormat.QCOW2, "Qcow2Disk", re.compile(rb"QFI\xfb(?!\0\0\0\x01)"), (512, 4096)),
    )
}
"""What a backup can be kept in."""


def probe(path: Path) -> DiskFormat:
    """The format that a file or device is in: raw if it is none we know.

    A VHD that is known by its end alone is one only where the file's name says so, too: the end of
    a raw disk is its guest's to choose, as its beginning is. See `contents` for what is to be
    believed.
    """
    with closing(HostFile.open(path)) as file:
        start = file.read(0, PROBE_BYTES)
        by_name = path.suffix.lower() == ".vhd"
        foot = file.read(max(0, file.size - SECTOR), SECTOR) if by_name else b""
        return format_by_content(file, start, foot) or DiskFormat.RAW


def format_by_content(file: HostFile, head: bytes, foot: bytes) -> DiskFormat | None:
    """The format that an open file begins or ends as, whatever it is called.

    Args:
        file: open.
        head: what it begins with, PROBE_BYTES or more.
        foot: its last SECTOR bytes; none where the end is not to be believed.
    """
    start = head[:PROBE_BYTES]
    found = next((name for name, each in FORMATS.items() if each.magic.match(start)), None)
    if found or b"conectix" not in (foot[:8], foot[1:9]):
        return found
    from vdbackup.disks.vhd.fixed import ends_as_vhd

    return DiskFormat.VHD if ends_as_vhd(file) else None


def open_disk(
    path: Path, disk_format: DiskFormat, writable: bool = False, unit: int = UNIT
) -> VirtualDisk:
    """Open a disk as of that format; raises DiskError where the file is not one.

    Args:
        path: of the file.
        disk_format: the one that it is in.
        writable: open it for writing, too.
        unit: bytes in which it will be written, where the file does not say that itself.
    """
    if disk_format == DiskFormat.RAW:
        return RawDisk.open(path, writable)
    return FORMATS[check_format(disk_format)].disk.open(path, writable, unit)


def create_disk(
    path: Path,
    disk_format: DiskFormat,
    virtual_size: int,
    parent: ParentRef | None = None,
    sector_size: int = SECTOR,
    unit: int = UNIT,
) -> VirtualDisk:
    """Make a new, empty disk, open for writing; the file must not exist.

    Args:
        path: of the new file; a trailing ".partial" does not go into the disk.
        disk_format: raw only for a disk without a parent.
        virtual_size: in bytes, a multiple of 512, and of `sector_size` in VHDX.
        parent: what it is the child of.
        sector_size: that the disk itself has, in bytes; a raw disk has none.
        unit: bytes in which it will be written: UNIT, or FINE_UNIT up to LARGEST_FINE, in sectors
            of 512.

    Raises:
        DiskError: such a disk cannot be in that format, or the parent's name not be written in it;
            nothing was made.
        FileExistsError: the file exists.
        ValueError: it cannot be written in such units.
    """
    if disk_format == DiskFormat.RAW:
        if parent:
            raise NotLinkable(
                tr(
                    "{path} is a raw disk, which cannot have a parent {relative_path}.",
                    path=path,
                    relative_path=parent.relative_path,
                )
            )
        return RawDisk.create(path, virtual_size)
    check_fits(disk_format, virtual_size, sector_size)
    if unit != UNIT and (virtual_size > LARGEST_FINE or sector_size != SECTOR):
        raise ValueError(tr("such a disk is not written in units of {unit} bytes", unit=unit))
    return FORMATS[disk_format].disk.create(path, virtual_size, parent, sector_size, unit)


def check_format(name: str) -> DiskFormat:
    """The format of that name, if a backup can be kept in it; raises UsageError."""
    if name not in BACKUP_FORMATS:
        raise UsageError(
            tr("There is no disk format {name!r}.", name=name),
            tr("Choose one of {backup_formats}.", backup_formats=", ".join(BACKUP_FORMATS)),
        )
    return DiskFormat(name)


def check_fits(disk_format: DiskFormat, virtual_size: int, sector_size: int) -> None:
    """Raise DiskError, which names the formats that can, where a disk does not fit into one."""
    wanted = FORMATS[check_format(disk_format)]
    if sector_size not in wanted.sector_sizes:
        problem = tr(
            "A disk with sectors of {sector_size} bytes cannot be kept in {disk_format}.",
            sector_size=sector_size,
            disk_format=disk_format.upper(),
        )
    elif virtual_size > wanted.largest:
        size, end = sizes_apart(virtual_size, wanted.largest)
        problem = tr(
            "A disk of {size} is too large for {disk_format}, which ends at {end}.",
            size=size,
            disk_format=disk_format.upper(),
            end=end,
        )
    else:
        return
    fitting = fitting_formats(virtual_size, sector_size)
    choice = (
        tr("Choose {fitting}.", fitting=tr(" or ").join(fitting))
        if fitting
        else tr("No format can hold it.")
    )
    raise DoesNotFit(problem, choice)


def check_growth(disk: VirtualDisk, blocks: int) -> None:
    """Raise DiskError where a disk's tables may not be able to name so many blocks more.

    Writers refuse at the first block that does not fit; this is for who must know before. Blocks go
    behind the last one, so gaps that interrupted writers left count, too, and where a block begins
    at a multiple of 4 KiB only with something before it (VHD), that is allowed for.
    """
    info = disk.info
    largest = FORMATS[info.format].largest_file
    if largest is None or not blocks:
        return
    own = disk.block_map()
    ends = (own.hosts + own.lengths)[own.layers >= 0]
    end = int(ends.max(initial=0)) + info.block_size  # the last may be held in part
    if end + blocks * (info.block_size + _BEFORE_BLOCK.get(info.format, 0)) > largest:
        raise DoesNotFit(
            tr(
                "{disk} would grow beyond {size}, the most that the format can address.",
                disk=disk.path,
                size=readable_size(largest),
            ),
            tr("Leave it as it is, and make the next backup a full one."),
        )


_BEFORE_BLOCK = {DiskFormat.VHD: 4096}
"""Bytes that may lie before each block, of its bitmap and its alignment."""


def fitting_formats(virtual_size: int, sector_size: int) -> list[DiskFormat]:
    """The formats that a disk of that size in bytes, with such sectors, can be kept in."""
    return [
        name
        for name, each in FORMATS.items()
        if sector_size in each.sector_sizes and virtual_size <= each.largest
    ]
