"""Which device a name of Linux means, where the name depends on the hardware: /dev/sda1.

What the disks are called on their machine is not known: it is told from what the system does with
them. The disk that it calls its root is the one that its root was found on; of another one it is
told by whether every partition that is named of it is there, with the file system that fstab says.
Where that holds of several of a machine's disks, the names that they were backed up by decide; a
name that may mean either is taken for neither.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vdbackup.guest.linux.presence import Known, Presence, agrees

_NAME = re.compile(
    r"/dev/(?P<letters>(?:sd|hd|vd|xvd)[a-z]+)(?P<a>\d*)"
    r"|/dev/(?P<digits>(?:nvme\d+n|mmcblk)\d+)(?:p(?P<b>\d+))?"
    r"|/dev/(?P<link>disk/by-(?:id|path)/.+?)(?:-part(?P<c>\d+))?"
)
_UNSEEN = Presence(hides=True)
"""Nothing is known of what is there."""
_ON_SEVERAL = ("btrfs",)
"""Kinds of which one file system, with one UUID, may lie on several volumes."""


class Device(NamedTuple):
    """A disk by the name that its machine gives it, and the partition's number on it (0: all)."""

    disk: str
    number: int


class Use(NamedTuple):
    """What the system says of a device: the file system's kind ("" if it does not say)."""

    device: Device
    kind: str
    is_root: bool


Volumes = Mapping[int, Known]
"""Those of a disk, by the partition's number; logical volumes are not among them."""


@dataclass(frozen=True)
class Names:
    """What the names in a system mean on its disks.

    Attributes:
        disks: the volumes of each of the machine's disks; of most there is one.
        called: by what the system calls a disk, which of them it is.
        logical: UUIDs and labels of logical volumes.
        root: on which of the disks the system lies, and the partition's number; None if on none.
        presence: which names that do not depend on the hardware mean what is there.
    """

    disks: Sequence[Volumes]
    called: Mapping[str, int] = field(default_factory=dict)
    logical: tuple[Known, ...] = ()
    root: tuple[int, int] | None = None
    presence: Presence = _UNSEEN

    @classmethod
    def told_from(
        cls,
        uses: Iterable[Use],
        disks: Sequence[Volumes],
        root: tuple[int, int] | None,
        logical: tuple[Known, ...] = (),
        sources: Sequence[str] = (),
        by_uuid: Collection[str] = (),
        presence: Presence = _UNSEEN,
    ) -> Names:
        """From all that the system says of its devices.

        Args:
            uses: of fstab and the boot loader.
            disks: the volumes of each.
            root: which of them the system lies on, and the partition's number; None if on none.
            logical: logical volumes.
            sources: what each disk was called when it was backed up, where that is known.
            by_uuid: of volumes that the system calls by their UUID, in lower case.
            presence: which other names mean what is there.
        """
        found = list(uses)
        by_disk: dict[str, list[Use]] = {}
        for use in found:
            by_disk.setdefault(use.device.disk, []).append(use)
        called: dict[str, int] = {}
        if root is not None:
            rooted = (use.device for use in found if use.is_root and use.device.number == root[1])
            called = {device.disk: root[0] for device in rooted}
        if len(disks) > 1:
            free = [_without(volumes, by_uuid) for volumes in disks]
            called |= _assigned(by_disk, free, called, sources)
        elif not called:
            called = {name: 0 for name, group in by_disk.items() if _fits(group, disks[0])}
        return cls(disks, called, logical, root, presence)

    def stable(self, name: str) -> str:
        """What a device is to be called instead: "UUID=..."; "" where no such name is its alone.

        So it is of a device that is on none of the disks, of one without a UUID, and of a clone.
        """
        device = device_of(name)
        known = self._volume(device) if device else None
        if known is None or not known.uuid or self.is_cloned(name):
            return ""
        return f"UUID={known.uuid}"

    def is_root(self, name: str) -> bool:
        """Whether a device is that which the system lies on."""
        device = device_of(name)
        return device is not None and (self.called.get(device.disk), device.number) == self.root

    def is_cloned(self, name: str) -> bool:
        """Whether another volume has the UUID of a device, and Linux may take it for that one."""
        device = device_of(name)
        known = self._volume(device) if device else None
        if known is None or not known.uuid or known.kind in _ON_SEVERAL:
            return False
        every = (*(each for disk in self.disks for each in disk.values()), *self.logical)
        return sum(each.uuid.lower() == known.uuid.lower() for each in every) > 1

    def may_be_missing(self, name: str, kind: str = "") -> bool:
        """Whether a boot may wait in vain for what a name of fstab means: a `kind`, as that says.

        What crypttab opens comes only if what that opens does.
        """
        opened = self.presence.opens(name)
        if device_of(opened) is not None:
            return not self.stable(opened)
        return self.is_elsewhere(name, kind)

    def is_elsewhere(self, name: str, kind: str = "") -> bool:
        """Whether a name means what is on none of the disks."""
        if (device := device_of(name)) is not None:
            return self._volume(device) is None
        return self.presence.lacks(name, kind)

    def _volume(self, device: Device) -> Known | None:
        which = self.called.get(device.disk)
        return None if which is None else self.disks[which].get(device.number)


def device_of(name: str) -> Device | None:
    """The device, if the name is one that depends on the hardware."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    number = match["a"] or match["b"] or match["c"] or "0"
    return Device(match["letters"] or match["digits"] or match["link"], int(number[:6]))


def _without(volumes: Volumes, uuids: Collection[str]) -> Volumes:
    return {number: each for number, each in volumes.items() if each.uuid.lower() not in uuids}


def _assigned(
    by_disk: Mapping[str, Sequence[Use]],
    disks: Sequence[Volumes],
    known: Mapping[str, int],
    sources: Sequence[str],
) -> dict[str, int]:
    """Which of several disks each name means: one that it alone fits, until no more is told so."""
    found = dict(known)
    devices = [device_of(each) for each in sources]
    backed_up = {device.disk: number for number, device in enumerate(devices) if device}
    while True:
        open_ = {name: uses for name, uses in by_disk.items() if name not in found}
        wanted = {
            name: fitting[0]
            for name, uses in open_.items()
            if len(fitting := _fitting(name, uses, disks, found, backed_up)) == 1
        }
        claims = Counter((_kind(name), which) for name, which in wanted.items())
        told = {name: which for name, which in wanted.items() if claims[_kind(name), which] == 1}
        if not told:
            return found
        found |= told


def _fitting(
    name: str,
    uses: Sequence[Use],
    disks: Sequence[Volumes],
    found: Mapping[str, int],
    backed_up: Mapping[str, int],
) -> list[int]:
    """The disks that a name may mean."""
    if name in backed_up:
        possible = {backed_up[name]}
    else:
        told = {**backed_up, **found}
        possible = set(range(len(disks)))
        possible -= {which for other, which in told.items() if _kind(other) == _kind(name)}
    return [which for which in sorted(possible) if _fits(uses, disks[which])]


def _kind(disk: str) -> str:
    """One disk has no two names of a kind: the kernel's own, by its identity, by its place."""
    return disk.rpartition("/")[0]


def _fits(uses: Iterable[Use], volumes: Volumes) -> bool:
    return all(
        use.device.number in volumes and agrees(use.kind, volumes[use.device.number].kind)
        for use in uses
    )
