"""What all disks have that lie in one file, whatever its format."""

from __future__ import annotations

from vdbackup.disks.host_file import HostFile


class OneFileDisk:
    """The part of a VirtualDisk that only hands on to its file; a place in the map is one in it."""

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

    def close(self) -> None:
        """Close the file without a flush."""
        self._file.close()
