"""The formats by name: which one a file is in, open it, create one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vdbackup.disks import vmdk
from vdbackup.disks.disk import ParentRef, VirtualDisk
from vdbackup.disks.raw import RawDisk
from vdbackup.errors import DiskError, UsageError

PROBE_BYTES = 512


class _Format(Protocol):
    def open(self, path: Path, writable: bool = False) -> VirtualDisk: ...
    def create(
        self, path: Path, virtual_size: int, parent: ParentRef | None = None
    ) -> VirtualDisk: ...


FORMATS: dict[str, _Format] = {"vmdk": vmdk.VmdkDisk}
"""What a backup can be kept in."""


def probe(path: Path) -> str:
    """The name of the format that a file or device is in: "raw" if it is none we know."""
    with open(path, "rb") as file:
        start = file.read(PROBE_BYTES)
    return "vmdk" if vmdk.probe(start) else "raw"


def open_disk(path: Path, disk_format: str, writable: bool = False) -> VirtualDisk:
    """Open a disk as the named format ("raw" too); raises DiskError where the file is not one."""
    if disk_format == "raw":
        return RawDisk.open(path, writable)
    return _named(disk_format).open(path, writable)


def create_disk(
    path: Path, disk_format: str, virtual_size: int, parent: ParentRef | None = None
) -> VirtualDisk:
    """Make a new, empty disk, open for writing; raises DiskError for a raw disk with a parent."""
    if disk_format == "raw":
        if parent:
            raise DiskError(
                f"{path} is a raw disk, which cannot have a parent {parent.relative_path}."
            )
        return RawDisk.create(path, virtual_size)
    return _named(disk_format).create(path, virtual_size, parent)


def check_format(disk_format: str) -> str:
    """The name, if a backup can be kept in that format; raises UsageError."""
    if disk_format not in FORMATS:
        raise UsageError(
            f"There is no disk format {disk_format!r}.", f"Choose one of {', '.join(FORMATS)}."
        )
    return disk_format


def _named(disk_format: str) -> _Format:
    return FORMATS[check_format(disk_format)]
