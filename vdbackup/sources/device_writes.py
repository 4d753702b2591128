"""How much was written to a block device meanwhile, as the kernel counts it.

Source: the kernel's Documentation/block/stat.rst. What goes to a partition counts for its disk,
too; what is written to the disk itself, at the place of a partition, counts for the disk alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vdbackup.agent.block_devices import SECTOR, SYS_BLOCK, sectors_written

_TRIES = 8
"""Two files cannot be read at one moment: what differs once may be a write of somebody else's."""

_Counts = tuple[int, ...]


class DeviceWrites:
    """Counts what is written to a device, beginning now."""

    def __init__(self, path: Path) -> None:
        number = os.stat(path).st_rdev
        self._folder = SYS_BLOCK / f"{os.major(number)}:{os.minor(number)}"
        self._start = _counts(self._folder)
        self._behind = _file_behind(self._folder)

    def since(self) -> int | None:
        """Bytes written and discarded since then, 0 if surely none; None where nobody counts.

        At least one sector where something changed of which only that is known: it was written to
        another way, or the write is still under way.
        """
        amounts = [self._difference() for _ in range(_TRIES)]
        if None in amounts:
            return None
        least = min(amount for amount in amounts if amount is not None)
        if not least and (_being_written(self._folder) or self._changed_behind()):
            return SECTOR
        return least

    def _difference(self) -> int | None:
        now = _counts(self._folder)
        if now is None or self._start is None or len(now) != len(self._start):
            return None
        return SECTOR * sum(abs(a - b) for a, b in zip(now, self._start, strict=True))

    def _changed_behind(self) -> bool:
        return self._behind != _file_behind(self._folder)


def _counts(device: Path) -> _Counts | None:
    """Of the device, and of a partition's disk what went to none of its partitions."""
    try:
        if (device / "queue/iostats").exists() and not _number(device / "queue/iostats"):
            return None
        if not (device / "partition").exists():
            return (sectors_written(device),)
        disk = device.resolve().parent
        if not _number(disk / "queue/iostats"):
            return None
        return (sectors_written(device), _beside_partitions(disk))
    except (OSError, ValueError, IndexError):  # no /sys, or the device has just gone
        return None


def _beside_partitions(disk: Path) -> int:
    for _ in range(_TRIES):
        before = sectors_written(disk)
        parts = sum(sectors_written(part.parent) for part in disk.glob("*/partition"))
        if sectors_written(disk) == before:
            break
    return before - parts


def _being_written(device: Path) -> bool:
    with suppress(OSError, ValueError, IndexError):
        return int((device / "inflight").read_text().split()[1]) > 0
    return False


def _file_behind(device: Path) -> tuple[int, int, int] | None:
    """The state of the file that a loop device lies in: others may write to that."""
    with suppress(OSError):
        path = (device / "loop/backing_file").read_bytes().removesuffix(b"\n")
        now = os.stat(path)
        return now.st_size, now.st_mtime_ns, now.st_ctime_ns
    return None


def _number(path: Path) -> int:
    return int(path.read_text())
