"""Disks in layouts that only other programs make: they are read, and never written to."""

from __future__ import annotations

from pathlib import Path

from vdbackup.disks.disk import DiskInfo, ParentRef
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import DiskError


def only_read(path: Path) -> DiskError:
    """The refusal to write to a layout that we do not make."""
    return DiskError(
        f"{path} was made by another program in a layout that is only read.",
        "Export it to a new disk first.",
    )


class ReadOnlyDisk:
    """A VirtualDisk in one file, but for its map: whatever would change it raises DiskError."""

    info: DiskInfo

    def __init__(self, file: HostFile) -> None:
        self.path = file.path
        self._file = file

    @property
    def host_files(self) -> tuple[HostFile, ...]:
        """The file."""
        return (self._file,)

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""
        self._file.readinto(host, view)

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

    def close(self) -> None:
        """Close the file."""
        self._file.close()
