"""Which device a name of Linux means, where the name depends on the hardware: /dev/sda1.

The disk's own name on its machine is not known: it is told from what the system does with it. The
disk that the system calls its root is this one; of another one it is told by whether every
partition that is named of it is here, with the file system that fstab says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_NAME = re.compile(
    r"/dev/(?P<letters>(?:sd|hd|vd|xvd)[a-z]+)(?P<a>\d*)"
    r"|/dev/(?P<digits>(?:nvme\d+n|mmcblk)\d+)(?:p(?P<b>\d+))?"
    r"|/dev/(?P<link>disk/by-(?:id|path)/.+?)(?:-part(?P<c>\d+))?"
)
_BY = re.compile(r"(?:/dev/disk/by-)?(uuid|label)[=/]\"?([^\"]*)\"?", re.IGNORECASE)


class Device(NamedTuple):
    """A disk by the name that its machine gives it, and the partition's number on it (0: all)."""

    disk: str
    number: int


class Use(NamedTuple):
    """What the system says of a device: the file system's kind ("" if it does not say)."""

    device: Device
    kind: str
    is_root: bool


@dataclass(frozen=True)
class Known:
    """A volume of this disk: its kind in lower case, UUID and label, "" where it has none."""

    kind: str
    uuid: str
    label: str = ""


@dataclass(frozen=True)
class Names:
    """What the names in a system mean on this disk.

    Attributes:
        volumes: those of the disk, by the partition's number; logical volumes not among them.
        disks: what the system calls this disk.
        others: UUIDs and labels of logical volumes.
    """

    volumes: Mapping[int, Known]
    disks: frozenset[str] = frozenset()
    others: tuple[Known, ...] = field(default=())

    @classmethod
    def told_from(
        cls,
        uses: Iterable[Use],
        volumes: Mapping[int, Known],
        root: int | None,
        others: tuple[Known, ...] = (),
    ) -> Names:
        """From all that the system says of its devices.

        Args:
            uses: of fstab and the boot loader.
            volumes: by the partition's number.
            root: the number of the partition that the system lies on; None if on none.
            others: logical volumes.
        """
        found = list(uses)
        by_disk: dict[str, list[Use]] = {}
        for use in found:
            by_disk.setdefault(use.device.disk, []).append(use)
        rooted = {use.device.disk for use in found if use.is_root and use.device.number == root}
        taken = rooted or {d for d, group in by_disk.items() if _fits(group, volumes)}
        return cls(volumes, frozenset(taken), others)

    def stable(self, name: str) -> str:
        """What a device is to be called instead: "UUID=..."; "" if it is not of this disk."""
        device = device_of(name)
        if device is None or device.disk not in self.disks:
            return ""
        known = self.volumes.get(device.number)
        return f"UUID={known.uuid}" if known and known.uuid else ""

    def is_elsewhere(self, name: str) -> bool:
        """Whether a name of fstab (device, UUID= or LABEL=) means what is not on this disk."""
        if (device := device_of(name)) is not None:
            return device.disk not in self.disks or device.number not in self.volumes
        if (match := _BY.fullmatch(name)) is None:
            return False
        every = [*self.volumes.values(), *self.others]
        wanted = match[2].lower()
        if match[1].lower() == "uuid":
            return all(known.uuid.lower() != wanted for known in every)
        return all(known.label.lower() != wanted for known in every)


def device_of(name: str) -> Device | None:
    """The device, if the name is one that depends on the hardware."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    number = match["a"] or match["b"] or match["c"] or "0"
    return Device(match["letters"] or match["digits"] or match["link"], int(number[:6]))


def _fits(uses: Iterable[Use], volumes: Mapping[int, Known]) -> bool:
    return all(
        use.device.number in volumes and _agrees(use.kind, volumes[use.device.number].kind)
        for use in uses
    )


def _agrees(named: str, kind: str) -> bool:
    """Whether fstab's word for a file system can mean one of that kind: ext4 is mounted as ext3."""
    families = (("ext", "ext"), ("vfat", "fat"), ("msdos", "fat"), ("ntfs", "ntfs"))
    family = next((ours for theirs, ours in families if named.startswith(theirs)), named)
    return named in ("", "auto", "none") or kind.lower().startswith(family)
