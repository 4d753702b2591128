"""Which volumes a machine's disks have, by the names that a Linux calls them whatever the hardware.

fstab(5) and crypttab(5) may name a drive that is in no backup, such as the one that holds the
backups. Whether a name means such a one is said only where it is sure: what lies in an encrypted
volume or on an array is not seen, nor what a file system that is not read calls itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vdbackup.guest import identity
from vdbackup.guest.disk import Disk, name_on_disk
from vdbackup.volumes.volumes import Volume

_BY = re.compile(r"(?:/dev/disk/by-)?(uuid|label)[=/]\"?([^\"]*)\"?", re.IGNORECASE)
_LOGICAL = re.compile(r"/dev/(?!disk/|mapper/|md/|zvol/|input/|shm/)([\w.+-]+/[\w.+-]+)")
_MAPPED = re.compile(r"/dev/mapper/(?!control$|mpath|.*-part\d+$)(.+)")
_ARRAY = re.compile(r"/dev/md(?:\d|/|_)\S*")
_ESCAPED = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{3})")
"""A space in a label: fstab has \\040, udev has \\x20."""
_HIDING = frozenset(
    ("LUKS", "BitLocker", "RAID", "bcache", "VDO", "snapshot", "dm-integrity", "Stratis")
)
"""Kinds that hold volumes, of which nothing is seen as long as nobody puts them together."""


@dataclass(frozen=True)
class Known:
    """A volume: its kind in lower case, UUID and label, "" where it has none or none is known."""

    kind: str
    uuid: str
    label: str = ""


def _nothing(_: str) -> bool:
    return False


@dataclass(frozen=True)
class Presence:
    """What is known of the volumes that are there.

    Attributes:
        volumes: partitions and logical volumes.
        logical: the latter as LVM and as device-mapper name them: "vg/root", "vg-root".
        has_array: whether one of the disks is a part of an array.
        hides: whether there are volumes that are not seen.
        opened: by the name that crypttab gives it, the device that is opened as that.
        beside: whether a name means what is on another disk that is there, too.
    """

    volumes: tuple[Known, ...] = ()
    logical: frozenset[str] = frozenset()
    has_array: bool = False
    hides: bool = False
    opened: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[str], bool] = _nothing

    @classmethod
    def on(
        cls, disk: Disk, crypttab: str = "", beside: Callable[[str], bool] = _nothing
    ) -> Presence:
        """What lies on a machine's disks; `crypttab` says what is opened of it."""
        volumes = tuple(disk.volumes.values())
        systems = disk.file_systems.values()
        logical = [each for each in systems if each.logical]
        return cls(
            tuple(Known(each.kind.lower(), each.uuid, each.label) for each in systems),
            frozenset(
                name for each in logical for name in (each.logical, name_on_disk(each.volume))
            ),
            any(each.place.is_member or each.filesystem == "RAID" for each in volumes),
            any(_hides(each) for each in volumes),
            _opened(crypttab),
            beside,
        )

    def opens(self, name: str) -> str:
        """The device that lies below what crypttab opens; of others the name itself."""
        for _ in self.opened:  # no more than there are lie in one another
            mapped = name.removeprefix("/dev/mapper/")
            if mapped == name or mapped not in self.opened:
                break
            name = self.opened[mapped]
        return name

    def lacks(self, name: str, kind: str = "") -> bool:
        """Whether none of the disks has what a name means, for sure.

        Args:
            name: of fstab or crypttab. One that depends on the hardware is no such name.
            kind: what fstab says of the file system; "" where nothing does.
        """
        if self.hides or self.beside(name):
            return False
        if (below := self.opens(name)) != name:
            return self._lacks(below, "") and not self.beside(below)
        return self._lacks(name, kind.lower())

    def _lacks(self, name: str, kind: str) -> bool:
        if _ARRAY.fullmatch(name):
            return not self.has_array
        if match := _MAPPED.fullmatch(name):
            return match[1] not in self.logical and not self.has_array  # or it is one of firmware
        if match := _LOGICAL.fullmatch(name):
            return match[1] not in self.logical
        if (match := _BY.fullmatch(name)) is None:
            return False
        wanted = unescaped(match[2])
        candidates = [each for each in self.volumes if agrees(kind, each.kind)]
        if match[1].lower() == "uuid":
            return not any(_may_be(wanted.lower(), each.uuid.lower(), each) for each in candidates)
        return not any(
            _may_be(wanted, each.label, each, sure=each.kind in _LABELLED) for each in candidates
        )


_LABELLED = frozenset(kind.lower() for kind in identity.LABELLED)


def agrees(named: str, kind: str) -> bool:
    """Whether fstab's word for a file system can mean one of that kind: ext4 is mounted as ext3."""
    families = (("ext", "ext"), ("vfat", "fat"), ("msdos", "fat"), ("ntfs", "ntfs"))
    family = next((ours for theirs, ours in families if named.startswith(theirs)), named)
    return named in ("", "auto", "none") or kind.lower().startswith(family)


def _may_be(wanted: str, known: str, volume: Known, *, sure: bool = False) -> bool:
    """Whether a volume may be called so: one of which no name is known may, but not an empty one.

    With `sure`, one that has no name has none.
    """
    if known == wanted:
        return True
    return bool(volume.kind) and volume.kind != "lvm" and not (known or sure)


def _hides(volume: Volume) -> bool:
    return bool(volume.place.problem) or volume.filesystem in _HIDING


def _opened(crypttab: str) -> dict[str, str]:
    lines: Iterable[list[str]] = (line.split() for line in crypttab.splitlines())
    return {
        words[0]: words[1] for words in lines if len(words) >= 2 and not words[0].startswith("#")
    }


def unescaped(name: str) -> str:
    """A label, or UUID, as it is, of fstab's word for it or of udev's."""

    def character(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8))

    return _ESCAPED.sub(character, name)
