"""A disk's partition table for a disk of another size: which partitions may change, and the bytes.

Nothing moves on a disk with an MBR: boot loaders and Windows know their partitions there by place.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vdbackup.errors import GuestUnreadable
from vdbackup.translation import tr
from vdbackup.volumes import gpt
from vdbackup.volumes.layout import Place
from vdbackup.volumes.partitions import Partition, Table, read_table
from vdbackup.volumes.places import Disk, Window

BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
"""The type of what GRUB's core image lies in: it names its own sectors (GRUB manual, "BIOS
installation")."""
_SECTORS = 1 << 32
"""What an MBR can count to."""
_FAR = 1 << 50
"""Bytes of a disk, as good as any other number of whole sectors."""
_ENTRY, _SLOTS = 446, 4
_TO_THE_END = b"\xfe\xff\xff"
"""A place, in cylinders, heads and sectors, that says: see the other numbers."""


@dataclass(frozen=True)
class DiskTable:
    """A partition table that can be written for a disk of another size.

    Attributes:
        table: what it says.
    """

    table: Table
    _boot: bytes
    _gpt: tuple[bytes, bytes] | None

    @classmethod
    def read(cls, disk: Disk) -> DiskTable | None:
        """Of a disk; None where it has none. Raises GuestUnreadable where it is damaged."""
        table = read_table(Window.opened(disk, ((0, disk.size),)), disk.size, disk.sector_size)
        if not table.partitions:
            return None
        boot = bytearray(min(table.sector_size, disk.size))
        disk.readinto(0, memoryview(boot))
        found = gpt.read_first_copy(disk, table.sector_size) if table.scheme == "gpt" else None
        if table.scheme == "gpt" and found is None:
            raise GuestUnreadable(
                tr("The first copy of the disk's partition table (GPT) is damaged."),
                tr("Restore it to a disk of the same size, and repair the table there."),
            )
        return cls(table, bytes(boot), found)

    def in_sectors(self, sector_size: int) -> DiskTable | None:
        """The same table on a disk with other sectors; None for an MBR.

        The partitions have to begin and end at whole ones.
        """
        if self._gpt is None:
            return None
        header, entries = self._gpt
        boot = self._boot[:512].ljust(sector_size, b"\0")[:sector_size]
        return DiskTable(
            replace(self.table, sector_size=sector_size),
            boot,
            (gpt.in_sectors(header, entries, sector_size), entries),
        )

    def end(self, size: int) -> int:
        """The first byte that no partition may take on a disk of that size."""
        unit = self.table.sector_size
        if self._gpt is not None:
            return gpt.usable_end(len(self._gpt[1]), unit, size)
        return min(size // unit, _SECTORS - 1) * unit

    def size_for(self, end: int) -> int:
        """How large a disk has to be on which partitions may reach up to there, in bytes."""
        if self._gpt is None:
            return end
        return end + _FAR - gpt.usable_end(len(self._gpt[1]), self.table.sector_size, _FAR)

    def stays(self, part: Partition) -> bool:
        """Whether a partition has to begin where it does."""
        return self._gpt is None or part.kind == BIOS_BOOT

    def may_change(self, part: Partition) -> bool:
        """Whether a partition's size stands in an entry of its own."""
        return self._gpt is not None or part.number <= _SLOTS

    def writes(self, places: Mapping[int, Place], size: int) -> list[tuple[int, bytes]]:
        """What to write for that layout, (offset, bytes), in this order.

        Args:
            places: of all partitions, by number.
            size: of the disk, in bytes.
        """
        unit, boot = self.table.sector_size, bytearray(self._boot)
        if self._gpt is not None:
            at = next((at for at in _slots() if boot[at + 4] == 0xEE), None)
            if at is not None:  # the protective entry covers the disk (UEFI 2.10, 5.2.3)
                struct.pack_into("<I", boot, at + 12, min(size // unit - 1, _SECTORS - 1))
            return [(0, bytes(boot)), *gpt.relaid(*self._gpt, places, size)]
        before = {each.number: each for each in self.table.partitions}
        for number, at in enumerate(_slots(), start=1):
            if number in places and places[number].size != before[number].size:
                boot[at + 5 : at + 8] = _TO_THE_END
                struct.pack_into("<I", boot, at + 12, places[number].size // unit)
        return [(0, bytes(boot))]


def _slots() -> range:
    return range(_ENTRY, _ENTRY + _SLOTS * 16, 16)
