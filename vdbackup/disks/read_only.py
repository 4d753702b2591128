"""Disks in layouts that only other programs make: they are read, and never written to."""

from __future__ import annotations

from pathlib import Path

from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.one_file import OneFileDisk
from vdbackup.errors import DiskError, ReadOnlyLayout
from vdbackup.translation import tr


def only_read(path: Path) -> DiskError:
    """The refusal to write to a layout that we do not make."""
    return ReadOnlyLayout(
        tr("{path} was made by another program in a layout that is only read.", path=path),
        tr("Export it to a new disk first."),
    )


class ReadOnlyDisk(OneFileDisk):
    """A VirtualDisk in one file, but for its map: whatever would change it raises DiskError."""

    info: DiskInfo

    def write(self, offset: int, view: memoryview) -> None:
        """Refused."""
        raise only_read(self.path)

    def share(self, offset: int, length: int, source: HostFile, start: int) -> None:
        """Refused."""
        raise only_read(self.path)

    def zero(self, offset: int, length: int) -> None:
        """Refused."""
        raise only_read(self.path)

    def flush(self) -> None:
        """Nothing was written."""

    def relink(self, parent: ParentRef) -> None:
        """Refused."""
        raise only_read(self.path)

    def adopt(self, disk_id: str, content_id: str, file_name: str | None = None) -> None:
        """Refused."""
        raise only_read(self.path)
