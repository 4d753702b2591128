"""What all disks have that lie in one file, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from vdbackup.disks.extents import Int64s
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

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """What is no hole of `length` bytes from byte `host` of the file on."""
        return self._file.data_segments(host, host + length)

    def close(self) -> None:
        """Close the file without a flush."""
        self._file.close()


class WrittenWhole(OneFileDisk, ABC):
    """One that is written in pieces of one size, grains or clusters, each at a place of its own."""

    def __init__(self, file: HostFile, piece: int) -> None:
        super().__init__(file)
        self._piece = piece  # bytes

    def write(self, offset: int, view: memoryview) -> None:
        """Write whole pieces (the disk's last one may be short) at byte `offset` of the disk."""
        for host, first, end in self._runs(offset, len(view)):
            self._file.write(host, view[first:end])

    def share(self, offset: int, length: int, source: HostFile, start: int) -> None:
        """Hold in whole pieces what `source` holds from byte `start` on; raises OSError."""
        for host, first, end in self._runs(offset, length):
            self._file.share(host, source, start + first, end - first)

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Where the bytes go: (place in the file, first, end), neighbours together."""
        piece = self._piece
        hosts = self._places_for(offset // piece, -(-(offset + length) // piece))
        cuts = np.flatnonzero(np.diff(hosts) != piece) + 1
        for first, end in pairwise([0, *cuts.tolist(), len(hosts)]):
            yield int(hosts[first]), first * piece, min(end * piece, length)

    @abstractmethod
    def _places_for(self, first: int, last: int) -> Int64s:
        """Each piece's place in the file, in bytes; missing ones get one."""
