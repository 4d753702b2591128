"""A block device as sysfs shows it: on which whole disk it lies, and whether that can be tracked.

Source: the kernel's Documentation/ABI/stable/sysfs-block and Documentation/block/stat.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent import device_mapper
from vdbackup.errors import NotADisk, SourceNotFound
from vdbackup.translation import tr

SECTOR = 512
"""The kernel's own unit of places and lengths in bytes, whatever the device's is."""
SYS_BLOCK = Path("/sys/dev/block")
_WRITTEN, _DISCARDED = 6, 13
"""Where `stat` has sectors."""
_NOT_COUNTED = tr("the kernel does not count what is written to it (queue/iostats is off)")


def node_of(number: str) -> Path | None:
    """The file in /dev of the device with that number ("8:1"); None where there is none."""
    try:
        facts = (SYS_BLOCK / number / "uevent").read_text()
    except OSError:
        return None
    name = next((line[8:] for line in facts.splitlines() if line.startswith("DEVNAME=")), None)
    return Path("/dev") / name if name else None


def sectors_written(folder: Path) -> int:
    """How many sectors (SECTOR) were written and discarded since it is there, by the kernel.

    Args:
        folder: a device's in sysfs.

    Raises OSError, ValueError or IndexError where it is gone.
    """
    fields = (folder / "stat").read_text().split()
    return int(fields[_WRITTEN]) + (int(fields[_DISCARDED]) if len(fields) > _DISCARDED else 0)


@dataclass(frozen=True)
class Disk:
    """A whole disk, by its number.

    Attributes:
        major, minor: its number.
    """

    major: int
    minor: int

    @property
    def number(self) -> str:
        """As sysfs has it, "8:0"."""
        return f"{self.major}:{self.minor}"

    def says(self, file: str) -> str:
        """What a file in its folder in sysfs holds; "" where there is none."""
        try:
            return os.fsdecode((SYS_BLOCK / self.number / file).read_bytes()).strip()
        except OSError:
            return ""

    @property
    def node(self) -> Path:
        """Its file in /dev, which need not be there; a volume's by the name that it keeps."""
        if name := self.says("dm/name"):
            return Path("/dev/mapper") / name
        return node_of(self.number) or Path("/dev") / self.number

    @property
    def size(self) -> int:
        """In bytes; 0 where it is gone."""
        return int(self.says("size") or 0) * SECTOR

    @property
    def sector_size(self) -> int:
        """The least that can be read of it past any cache, in bytes."""
        return int(self.says("queue/logical_block_size") or SECTOR)

    @property
    def medium(self) -> int:
        """A number that no other disk has until the next boot, nor itself with another medium.

        0 where it is gone, or the kernel (before 5.15) gives none.
        """
        return int(self.says("diskseq") or 0)

    def sectors_written(self) -> int:
        """As `sectors_written`, which raises the same."""
        return sectors_written(SYS_BLOCK / self.number)

    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.says("inflight").split() == ["0", "0"]

    def hindrance(self) -> str:
        """What keeps its changes from being seen from one backup to the next, as `hindrance_now`.

        An array may read otherwise without a request of its own: a repair gives one of its disks
        what another one has, and a disk that failed may be put in again with what it had held.
        """
        if self._is_array:
            return tr("it is made of other disks, and what it is made of may change below it")
        return self.hindrance_now()

    def hindrance_now(self) -> str:
        """What keeps its changes from being seen for the length of a backup.

        Returns:
            A sentence without its end; "" if nothing does.
        """
        if self._is_array and self.says("md/sync_action") == "repair":
            return tr("it is an array that is being repaired")
        if self.is_mapped and (found := self._hindrance_of_table()):
            return found
        if self.says("queue/dax") == "1":
            return tr("it is memory that programs write to without asking the kernel (DAX)")
        if self.says("queue/zoned") not in ("", "none"):
            return tr("it is written to in zones")
        if any(_is_multipath(holder) for holder in self._holders()):
            return tr("it is one of several paths to a disk (multipath)")
        # device-mapper counts the requests of its own whatever that says
        is_counted = self.is_mapped or self.says("queue/iostats") == "1"
        return "" if is_counted else _NOT_COUNTED

    @property
    def _is_array(self) -> bool:
        return (SYS_BLOCK / self.number / "md").exists()

    @property
    def is_mapped(self) -> bool:
        """Whether it is one of device-mapper's."""
        return (SYS_BLOCK / self.number / "dm").exists()

    def _hindrance_of_table(self) -> str:
        try:
            return device_mapper.hindrance(self._table())
        except PermissionError:  # who may not see that may not track anything
            return ""
        except OSError as error:
            return tr(
                "what device-mapper has made it of cannot be told ({reason})", reason=error.strerror
            )

    def _table(self) -> list[device_mapper.Target]:
        return device_mapper.own_table(os.makedev(self.major, self.minor))

    @property
    def mapping(self) -> str:
        """A name of what device-mapper has made it of now; "" where that has not made it.

        Raises OSError where that cannot be told.
        """
        return device_mapper.digest(self._table()) if self.is_mapped else ""

    def _holders(self) -> Iterator[Path]:
        """What is made of it, or of a partition of it."""
        for pattern in ("holders/*", "*/holders/*"):
            yield from (SYS_BLOCK / self.number).glob(pattern)


def _is_multipath(holder: Path) -> bool:
    """Such a device passes requests on below the place where they are seen."""
    try:
        return (holder / "dm/uuid").read_text().startswith("mpath-")
    except OSError:
        return False


@dataclass(frozen=True)
class Place:
    """Where a device lies.

    Attributes:
        disk: the whole disk: itself, or the one that it is a partition of.
        start: where on that it begins, in bytes.
        size: its own, in bytes.
    """

    disk: Disk
    start: int
    size: int

    @classmethod
    def of(cls, device: int | Path) -> Place:
        """Of a device by its number or its file.

        Raises:
            SourceNotFound: there is none. NotADisk: it is no block device.
        """
        number = device if isinstance(device, int) else _number_of(device)
        folder = (SYS_BLOCK / f"{os.major(number)}:{os.minor(number)}").resolve()
        try:
            size = int((folder / "size").read_text()) * SECTOR
            start, whole = 0, folder
            if (folder / "partition").exists():
                start, whole = int((folder / "start").read_text()) * SECTOR, folder.parent
            major, minor = (whole / "dev").read_text().split(":")
            return cls(Disk(int(major), int(minor)), start, size)
        except (OSError, ValueError) as error:
            raise SourceNotFound(
                tr(
                    "There is no block device {number}:{number_2}.",
                    number=os.major(number),
                    number_2=os.minor(number),
                ),
                tr("Check that it is connected."),
            ) from error


def device_number(path: Path) -> str:
    """Of a block device's file, "8:1"; raises SourceNotFound, NotADisk."""
    number = _number_of(path)
    return f"{os.major(number)}:{os.minor(number)}"


def _number_of(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise SourceNotFound(tr("There is no {path}.", path=path), tr("Check the path.")) from error
    if not stat.S_ISBLK(found.st_mode):
        raise NotADisk(
            tr("{path} is no block device.", path=path),
            tr("Changes are tracked of disks and their partitions."),
        )
    return found.st_rdev
