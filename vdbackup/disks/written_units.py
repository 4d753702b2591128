"""Which units of a disk were written since its last flush, which has to say so in bitmaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.extents import Int64s


class WrittenUnits:
    """One flag for each unit, and one for each group of them, so that few are looked at.

    64 TiB have a billion units; a flush that looked at each of them would take seconds. Units that
    several threads mark at once may lie in one group.

    Attributes:
        per_group: units of a group; the disk's last group may have fewer.
    """

    def __init__(self, virtual_size: int, group_size: int, unit: int) -> None:
        """All in bytes; a group is whole units."""
        self.per_group = group_size // unit
        self._size, self._unit = group_size, unit
        self._units = np.zeros(-(-virtual_size // unit), np.bool_)
        self._groups = np.zeros(-(-virtual_size // group_size), np.bool_)

    def mark(self, offset: int, length: int) -> None:
        """Bytes from `offset` on were written, whole units."""
        if not length:  # else its group would be marked for nothing
            return
        end = offset + length
        self._units[offset // self._unit : -(-end // self._unit)] = True
        self._groups[offset // self._size : -(-end // self._size)] = True

    def mark_units(self, units: Int64s) -> None:
        """These units were written."""
        self._units[units] = True
        self._groups[units // self.per_group] = True

    def mark_group(self, group: int) -> None:
        """Something else of that group is to be said with the next flush."""
        self._groups[group] = True

    def between(self, offset: int, length: int) -> NDArray[np.bool_]:
        """bool[units], a view: whether each that has some of these bytes was written."""
        return self._units[offset // self._unit : -(-(offset + length) // self._unit)]

    def in_group(self, group: int) -> NDArray[np.bool_]:
        """bool[units of the group], a view: whether each was written."""
        return self._units[group * self.per_group : (group + 1) * self.per_group]

    def groups(self) -> list[int]:
        """The groups that were marked, ascending."""
        marked: list[int] = np.flatnonzero(self._groups).tolist()
        return marked

    def clear(self) -> None:
        """All that was written is durable, and said."""
        for group in self.groups():
            self.in_group(group)[:] = False
        self._groups[:] = False
