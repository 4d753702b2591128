"""What lies on what, as the kernel says: mounts, partitions, devices that are made of others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent import device_mapper
from vdbackup.agent.block_devices import SYS_BLOCK

_MOUNTS = Path("/proc/self/mountinfo")
_SWAPS = Path("/proc/swaps")


def mounts_of(path: Path) -> tuple[str, ...]:
    """Where a device, its partitions, or what is built on them (LVM, RAID, loop) is mounted."""
    numbers = numbers_on(path)
    return tuple(mount.where for mount in mounts() if not numbers.isdisjoint(mount.numbers))


def is_mounted_writable(path: Path) -> bool:
    """Whether one of the file systems that are mounted from it may be written to."""
    numbers = numbers_on(path)
    return any(not mount.read_only for mount in mounts() if not numbers.isdisjoint(mount.numbers))


def lies_on(folder: Path, path: Path) -> bool:
    """Whether `folder` is stored on the device or image `path`."""
    return not numbers_on(path).isdisjoint(_storage_of(_nearest(folder)))


def share_a_disk(path: Path, folder: Path) -> bool:
    """Whether a device or image and a folder are lost together when a disk fails.

    Partitions of one disk are, and volumes and arrays that have one disk in common.

    Args:
        path: of the device or image.
        folder: need not be there yet.

    Raises OSError where the path is not there.
    """
    if path.is_block_device():
        number = number_of(str(path))
        start = {number} if number else set()
    else:
        start = _storage_of(path.resolve())
    return not _all_under(start).isdisjoint(_all_under(_storage_of(_nearest(folder))))


def stored_on(folder: Path) -> set[str]:
    """Numbers of all devices that a folder is stored on, down to the disks.

    Through partitions, volumes, arrays, files behind loop devices, and the layers of an overlay.

    Args:
        folder: need not be there yet.
    """
    return _all_under(_storage_of(_nearest(folder)))


def files_under(path: Path) -> tuple[Path, ...]:
    """The files that a device is made of by loop devices, itself or what it lies on."""
    number = number_of(str(path))
    numbers = _all_under({number} if number else set())
    return tuple(backing for loop, backing in _loops() if loop in numbers)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _storage_of(path: Path) -> set[str]:
    """Numbers of the device that a file or folder lies on.

    Btrfs gives each subvolume a number of its own: so the device that is mounted there is one, too.
    """
    here = path.stat().st_dev
    return {f"{os.major(here)}:{os.minor(here)}"} | mounted_at(path)


def mounted_at(path: Path) -> set[str]:
    """The same by the names of what is mounted: nothing is asked that may not answer."""
    under = [mount for mount in reversed(mounts()) if path.is_relative_to(mount.where)]  # on top
    nearest = max(under, key=lambda mount: len(mount.where), default=None)
    return nearest.numbers if nearest else set()


def _all_under(numbers: set[str]) -> set[str]:
    """Numbers of the devices, and of all that they are stored on, down to the disks."""
    found: set[str] = set()
    while numbers:
        found |= numbers
        numbers = set().union(*map(_numbers_under, numbers)) - found
    return found


def _numbers_under(number: str) -> set[str]:
    """Of a partition's disk, of what device-mapper or md made a device of, of a loop's file."""
    place = (SYS_BLOCK / number).resolve()
    files = slaves(place)
    if (place / "partition").exists():
        files.append(place.parent / "dev")
    under = {file.read_text().strip() for file in files}
    try:
        backing = (place / "loop/backing_file").read_bytes().removesuffix(b"\n")
    except OSError:  # no loop device, or detached
        layers = [layer for mount in mounts() if mount.number == number for layer in mount.layers]
        return under.union(*map(mounted_at, layers))
    return under | mounted_at(Path(os.fsdecode(backing)))


def slaves(place: Path) -> list[Path]:
    """What a device is made of: of one whose writes are logged not where the log lies."""
    files = [*place.glob("slaves/*/dev")]
    own = [each for each in files if _is_below_log(each.parent)]
    return own or files


def _is_below_log(place: Path) -> bool:
    try:
        return (place / "dm/uuid").read_text().startswith(device_mapper.BELOW)
    except OSError:
        return False


@dataclass(frozen=True)
class Mount:
    """One line of proc(5), mountinfo.

    Attributes:
        id: of the mount.
        number: of the device, "8:1"; where the file system has none that is one of its own, "0:42".
        where: the mount point.
        kind: of the file system, "ext4".
        device: its path, or whatever else the file system calls its source.
        read_only: whether the file system itself is; one mount of it may be that alone.
        layers: folders that an overlay is made of, by their names where it was mounted.
        root: the folder of the file system that is seen there: "/", of a bind mount or a subvolume
            another.
    """

    id: int
    number: str
    where: str
    kind: str
    device: str
    read_only: bool
    layers: tuple[Path, ...] = ()
    root: str = "/"

    @property
    def numbers(self) -> set[str]:
        """Of the device, by what the file system says and, for Btrfs, by its path.

        Any other path may lie on a share that does not answer (bindfs and the like).
        """
        named = number_of(self.device) if self.device.startswith("/dev/") else None
        return {self.number} | ({named} if named else set())


def mounts() -> list[Mount]:
    """All that is mounted, as this process sees it; what lies over another comes later."""
    found = []
    for line in _MOUNTS.read_bytes().rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        kind, device, options = right.split(b" ")[:3]
        read_only = b"ro" in options.split(b",")
        mount = Mount(
            int(fields[0]), fields[2].decode(), name_of(fields[4]), kind.decode(), name_of(device),
            read_only, _layers(options) if kind == b"overlay" else (), name_of(fields[3]),
        )  # fmt: skip
        found.append(mount)
    return found


def _layers(options: bytes) -> tuple[Path, ...]:
    """The folders of an overlay; one with a colon in its name is not found."""
    named = [option.partition(b"=") for option in options.split(b",")]
    wanted = (b"lowerdir", b"lowerdir+", b"datadir+", b"upperdir")
    folders = [each for key, _, value in named if key in wanted for each in value.split(b":")]
    return tuple(Path(name_of(each)) for each in folders if each.startswith(b"/"))


@dataclass(frozen=True)
class Swap:
    """Where the kernel puts memory that is not used: on a device, or in a file on one.

    Attributes:
        path: of the device or file.
        number: of the device; None of a file.
        numbers: of what it lies on: that, or the device of the file system that holds the file.
    """

    path: str
    number: str | None
    numbers: frozenset[str]


def swaps() -> list[Swap]:
    """All that the kernel swaps to, now (proc(5), swaps)."""
    found = []
    for line in _SWAPS.read_bytes().splitlines()[1:]:
        name, kind = line.split()[:2]
        where = name_of(name)
        number = number_of(where) if kind == b"partition" else None
        on = {number} if number else mounted_at(Path(where))
        found.append(Swap(where, number, frozenset(on)))
    return found


def name_of(field: bytes) -> str:
    """A name as any other path: the kernel writes blanks and backslashes as octal numbers."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))


def number_of(device: str) -> str | None:
    """Of a device's node, "8:1"; None where there is none."""
    try:
        number = os.stat(device).st_rdev
    except OSError:  # not a device: tmpfs, nfs, ...
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def numbers_on(path: Path) -> set[str]:
    """Device numbers ("8:1") of everything that is stored on a device or image."""
    if path.is_block_device():
        number = number_of(str(path))
        start = {number} if number else set()
    else:
        start = _loops_of(path)
    return all_above(start)


def all_above(numbers: set[str]) -> set[str]:
    """Numbers of the devices, and of all that is made of them."""
    found: set[str] = set()
    start = set(numbers)
    while start:
        number = start.pop()
        found.add(number)
        start |= _numbers_above(SYS_BLOCK / number) - found
    return found


def _numbers_above(device: Path) -> set[str]:
    """Of a device's partitions and of the devices that hold it open (device-mapper, md)."""
    if not device.exists():
        return set()
    above = [*device.glob("*/partition"), *device.glob("holders/*/dev")]
    return {(path.parent / "dev").read_text().strip() for path in above}


def _loops_of(image: Path) -> set[str]:
    resolved = image.resolve()
    return {number for number, backing in _loops() if backing == resolved}


def loops_on(numbers: set[str]) -> set[str]:
    """Numbers of the loop devices in files of the file systems with these, and what is above."""
    inside = {number for number, file in _loops() if not numbers.isdisjoint(mounted_at(file))}
    return all_above(inside)


def _loops() -> Iterator[tuple[str, Path]]:
    """The number of each loop device, and its file."""
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # detached meanwhile
            backing = Path(os.fsdecode(file.read_bytes().removesuffix(b"\n")))
            yield (file.parent.parent / "dev").read_text().strip(), backing
