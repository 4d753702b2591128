"""What all disks have that lie in one file, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vdbackup.disks.at_once import Part
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Int64s
from vdbackup.disks.host_file import HostFile


def neighbouring_units(
    units: Int64s, at: Int64s, length: int, size: int = UNIT
) -> Iterator[tuple[int, int, int]]:
    """Units of `size` bytes that are neighbours in a disk and in a view of `length` bytes.

    Yields (unit, first, end): a number in the disk, two bytes in the view.
    """
    cuts = np.flatnonzero((np.diff(units) != 1) | (np.diff(at) != 1)) + 1
    for run in np.split(np.arange(len(units)), cuts):
        if len(run):
            first, last = int(at[run[0]]), int(at[run[-1]])
            yield int(units[run[0]]), first * size, min((last + 1) * size, length)


def one_by_one(
    read: Callable[[int, memoryview], None], parts: Sequence[Part], view: memoryview
) -> None:
    """Fill parts of `view` by a call for each."""
    for host, first, end in parts:
        read(host, view[first:end])


class OneFileDisk(ABC):
    """The part of a VirtualDisk that only hands on to its file; a place in the map is one in it."""

    unit = UNIT

    def __init__(self, file: HostFile) -> None:
        self.path = file.path
        self._file = file

    @property
    def host_files(self) -> tuple[HostFile, ...]:
        """The file."""
        return (self._file,)

    def doubts(self) -> tuple[str, ...]:
        """Nothing that is known of."""
        return ()

    def unread(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""
        self._file.readinto(host, view)

    def read_hosts(self, parts: Sequence[Part], view: memoryview) -> None:
        """Fill parts of `view`, each from a place in the file; see VirtualDisk."""
        self._file.read_parts(parts, view)

    @abstractmethod
    def write(self, offset: int, view: memoryview) -> None:
        """Write at byte `offset` of the disk."""

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Write some units that `view` holds, neighbours in one call; see VirtualDisk."""
        for unit, first, end in neighbouring_units(units, at, len(view), self.unit):
            self.write(unit * self.unit, view[first:end])

    def stored(self, host: int, length: int) -> list[tuple[int, int]]:
        """What is no hole of `length` bytes from byte `host` of the file on."""
        return self._file.data_segments(host, host + length)

    def close(self) -> None:
        """Close the file without a flush."""
        self._file.close()


class WrittenInUnits(OneFileDisk):
    """One in which each unit has a place of its own in the file.

    Attributes:
        unit: in bytes.
    """

    def __init__(self, file: HostFile, unit: int) -> None:
        super().__init__(file)
        self.unit = unit

    def write(self, offset: int, view: memoryview) -> None:
        """Write whole units (the disk's last one may be short) at byte `offset` of the disk."""
        units = self._units(offset, len(view))
        self.write_units(units, view, units - offset // self.unit)

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        """Write some units that `view` holds; see VirtualDisk."""
        self._file.write_parts(list(self._runs(units, at, len(view))), view)
        self._note_written(units)

    def share(self, offset: int, length: int, source: HostFile, start: int) -> None:
        """Hold in whole units what `source` holds from byte `start` on; raises OSError."""
        units = self._units(offset, length)
        for host, first, end in self._runs(units, units - offset // self.unit, length):
            self._file.share(host, source, start + first, end - first)
        self._note_written(units)

    def _runs(self, units: Int64s, at: Int64s, length: int) -> Iterator[tuple[int, int, int]]:
        """Where the bytes go: (place in the file, first, end), neighbours together."""
        if not len(units):
            return
        hosts = self._places_for(units)
        unit = self.unit
        cuts = np.flatnonzero((np.diff(hosts) != unit) | (np.diff(at) != 1)) + 1
        begins = [0, *cuts.tolist()]
        ends = np.minimum((at[np.append(cuts, len(at)) - 1] + 1) * unit, length)
        yield from zip(
            hosts[begins].tolist(), (at[begins] * unit).tolist(), ends.tolist(), strict=True
        )

    def _units(self, offset: int, length: int) -> Int64s:
        return np.arange(offset // self.unit, -(-(offset + length) // self.unit))

    @abstractmethod
    def _places_for(self, units: Int64s) -> Int64s:
        """Each unit's place in the file, in bytes; missing ones get one."""

    def _note_written(self, units: Int64s) -> None:
        """These units were written, or shared."""
