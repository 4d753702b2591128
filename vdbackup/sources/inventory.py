"""What lies on a block device, for whoever is about to write over it: read, not assumed.

The kernel and udev know much of it (lsblk). Where no udev runs, in a container or a small rescue
system, they know no file systems, and a disk whose partitions nobody has asked for shows none: so
what may be read is looked at besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from vdbackup.agent.block_devices import SYS_BLOCK, node_of
from vdbackup.agent.stacking import number_of
from vdbackup.disks.device_reads import DeviceReads
from vdbackup.errors import RecoveryError
from vdbackup.jobs import readable_size
from vdbackup.sources.devices import lsblk
from vdbackup.translation import tr
from vdbackup.volumes import signatures
from vdbackup.volumes.partitions import Partition, read_table
from vdbackup.volumes.places import Disk, Window

_EDGE = 1 << 20
"""Bytes at both ends of a device, and where a partition begins, that say what lies there."""
_SYS_SECTOR = 512
"""Bytes that sysfs counts in, whatever sectors a disk has (kernel, sysfs-block)."""


@dataclass(frozen=True)
class Content:
    """A partition, or what lies on a device that has none.

    Attributes:
        number: of the partition, as in Linux; 0 where it is the device itself.
        size: in bytes.
        filesystem: what lies there, "ext4", "NTFS", "LVM"; "" where nothing is known.
        label: that it has.
        mountpoints: where it, or what is built on it, is mounted.
    """

    number: int
    size: int
    filesystem: str
    label: str = ""
    mountpoints: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For a person: "partition 2 (ext4 “root”, 20 GiB, mounted at /)"."""
        lying = f"{self.filesystem} “{self.label}”" if self.label else self.filesystem
        facts = [lying or tr("unknown contents"), readable_size(self.size)]
        if self.mountpoints:
            facts.append(tr("mounted at {mountpoints}", mountpoints=", ".join(self.mountpoints)))
        called = (
            tr("partition {number}", number=self.number) if self.number else tr("the whole of it")
        )
        return f"{called} ({', '.join(facts)})"


@dataclass(frozen=True)
class Device:
    """A block device, and what lies on it.

    Attributes:
        kind: lsblk's word: "disk", "part", "loop", "lvm", "raid1", ...
        size: in bytes.
        model, serial: of the hardware; "" where there is none.
        contents: its partitions, or itself; nothing where nothing is known to lie there.
    """

    path: Path
    kind: str
    size: int
    model: str
    serial: str
    contents: tuple[Content, ...]

    @property
    def mountpoints(self) -> tuple[str, ...]:
        """Where anything on it is mounted."""
        return tuple(where for each in self.contents for where in each.mountpoints)


def device(path: Path) -> Device:
    """One device, by any name of it; raises DevicesNotListed."""
    row = next(iter(lsblk(path)), {})
    return _device(path, {"type": "", "size": 0, **row})


def disks() -> list[Device]:
    """All devices that something could be written to, disks first, each before its partitions.

    Raises DevicesNotListed.
    """
    return [each for row in lsblk() for each in _with_parts(row)]


def _with_parts(row: dict[str, Any]) -> Iterator[Device]:
    if not row.get("size") or row.get("type") == "rom" or "path" not in row:
        return
    yield _device(Path(row["path"]), row)
    for child in row.get("children") or []:
        yield from _with_parts(child)


def _device(path: Path, row: dict[str, Any]) -> Device:
    parts = [_content(child) for child in row.get("children") or [] if child.get("type") == "part"]
    return Device(
        path,
        str(row["type"]),
        int(row["size"] or 0),
        _said(row, "model"),
        _said(row, "serial"),
        tuple(_completed(_content(row, 0), parts, _read(path))),
    )


def _content(row: dict[str, Any], number: int | None = None) -> Content:
    return Content(
        _number(Path(row.get("path") or "")) if number is None else number,
        int(row["size"] or 0),
        _said(row, "fstype"),
        _said(row, "label"),
        tuple(dict.fromkeys(_mountpoints(row))),
    )


def _number(part: Path) -> int:
    """Of a partition, as the kernel has it."""
    return int((Path("/sys/class/block") / part.resolve().name / "partition").read_text())


def _mountpoints(row: dict[str, Any]) -> Iterator[str]:
    """Of a device, and of all that is built on it."""
    yield from (where for where in row.get("mountpoints") or [] if where)
    for child in row.get("children") or []:
        yield from _mountpoints(child)


def _said(row: dict[str, Any], column: str) -> str:
    return str(row.get(column) or "").strip()


def _completed(
    whole: Content, parts: Sequence[Content], read: Mapping[int, Content]
) -> Iterator[Content]:
    """What the system knows of a device, and what it does not and stands there all the same."""
    known = {part.number: part for part in parts}
    if not known and (0 in read or not read):
        known[0] = whole
    for number in sorted(known.keys() | read.keys()):
        found = known.get(number) or read[number]
        if not found.filesystem and number in read:
            found = replace(found, filesystem=read[number].filesystem)
        if number or found.filesystem or found.mountpoints:
            yield found


# ---------------------------------------------------------------------------- what stands there


class _Opened:
    """A device as a disk that partition tables are looked for on. A context manager.

    Attributes:
        size, sector_size: in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Open it past any cache; raises OSError."""
        self._reads = DeviceReads(path)
        self.sector_size = self._reads.sector_size
        with path.open("rb") as device:
            self.size = device.seek(0, os.SEEK_END)

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` on; zeros behind the end."""
        while view:
            count = self._reads.readinto(offset, view)
            if not count:
                view[:] = bytes(len(view))
                return
            offset, view = offset + count, view[count:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reads.close()


def contents_of(disk: Disk) -> tuple[Content, ...]:
    """The partitions of a disk, by its own table; without one, nothing or what lies on it all.

    Raises what reading the disk does.
    """
    found = tuple(
        Content(each.number, each.size, _lying(disk, each.offset)) for each in _partitions(disk)
    )
    if not found and (lying := _lying(disk, 0)):
        return (Content(0, disk.size, lying),)
    return found


def _read(path: Path) -> dict[int, Content]:
    """By number; nothing where it may not be read. A device without partitions is number 0."""
    with suppress(OSError), _Opened(path) as device:
        return {each.number: each for each in contents_of(device)}
    return {}


def _partitions(disk: Disk) -> tuple[Partition, ...]:
    """By its table; none where that is damaged."""
    whole = Window.opened(disk, ((0, disk.size),))
    with suppress(RecoveryError):
        return read_table(whole, disk.size, disk.sector_size).partitions
    return ()


def _lying(disk: Disk, offset: int) -> str:
    """What is known to begin there, by name; "" where nothing is."""
    head = _bytes(disk, offset, signatures.HEAD)
    if kind := signatures.readable(head):
        return kind
    other = signatures.unreadable(head)
    return other[0] if other else ""


def _bytes(disk: Disk, offset: int, length: int) -> bytes:
    """Bytes of it, as far as it goes."""
    data = bytearray(max(0, min(length, disk.size - offset)))
    disk.readinto(offset, memoryview(data))
    return bytes(data)


def partitions_on(path: Path) -> tuple[Partition, ...]:
    """The partitions that a device has by its own table; raises OSError."""
    with _Opened(path) as device:
        return _partitions(device)


def is_partition(path: Path) -> bool:
    """Whether a device is a partition of another one."""
    return (SYS_BLOCK / (number_of(str(path)) or "") / "partition").exists()


def partition_node(disk: Path, number: int) -> Path | None:
    """The device of a disk's partition; None where the kernel shows none."""
    place = (SYS_BLOCK / (number_of(str(disk)) or "")).resolve()
    for file in place.glob("*/partition"):
        if file.read_text().strip() == str(number):
            return node_of((file.parent / "dev").read_text().strip())
    return None


def place_of_partition(node: Path) -> tuple[int, int]:
    """Where the kernel has a partition on its disk, and how large: bytes; raises OSError."""
    place = SYS_BLOCK / (number_of(str(node)) or "")
    start, size = (int((place / name).read_text()) * _SYS_SECTOR for name in ("start", "size"))
    return start, size


def fingerprint(path: Path) -> str:
    """Other than before as soon as something else lies on a device: another table, file system.

    Of its first and last MiB, in which tables, volumes, arrays and file systems describe
    themselves, and of where its partitions begin. Raises OSError where it cannot be read.
    """
    with _Opened(path) as device:
        places = [0, max(0, device.size - _EDGE), *(each.offset for each in _partitions(device))]
        digest = blake3()
        for place in places:
            digest.update(_bytes(device, place, _EDGE))
    return digest.hexdigest()
