"""The disk that an inspection looks at: its volumes with their trees, and how a name finds one.

Of a machine with several disks it is that which it starts from, with the volumes of the others
beside its own: "p1" is on the first, "disk2:p1" on the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.guest import identity
from vdbackup.guest.model import FileSystem, Run
from vdbackup.guest.tree import Tree
from vdbackup.volumes.volumes import Volume, Volumes

_ON_ANOTHER = re.compile(r"disk(\d+):")
_PARTITION = re.compile(
    r"/dev/(?:(?:[shv]|xv)d(?P<letter>[a-z]+)|nvme(?P<number>\d+)n\d+p|mmcblk(?P<card>\d+)p)(?P<part>\d+)"
)


def disk_of(volume: str) -> int:
    """On which of a machine's disks a volume of that name is, from 0."""
    found = _ON_ANOTHER.match(volume)
    return int(found[1]) - 1 if found else 0


def name_on_disk(volume: str) -> str:
    """The same volume's name among those of its own disk."""
    return _ON_ANOTHER.sub("", volume, count=1)


def partition_of(volume: str) -> int:
    """Its partition's number on its own disk; 0: it is all of that. Of no logical volume."""
    return int(name_on_disk(volume).removeprefix("p") or 0)


class Disk:
    """A disk, its volumes, and their files.

    Attributes:
        count: how many disks the machine has.
        size: in bytes.
        sector_size: that its tables count in, in bytes.
        volumes: all of them, by name.
        file_systems: what is known of each, by name.
        trees: the files of those that can be read, by name.
    """

    def __init__(self, chain: Chain, others: Sequence[Chain] = ()) -> None:
        """Look at all volumes; raises RecoveryError where the partition table is damaged.

        Args:
            chain: the disk.
            others: the machine's other disks.
        """
        self._chain = chain
        self.count = 1 + len(others)
        self._volumes = Volumes(chain)
        self._heads: dict[str, Callable[[], bytes]] = {}
        self.size = chain.size
        self.sector_size = self._volumes.sector_size
        self.volumes: dict[str, Volume] = {}
        self.file_systems: dict[str, FileSystem] = {}
        self.trees: dict[str, Tree] = {}
        for name in self._volumes.by_name:
            self._add(self._volumes, name, name)
        for number, other in enumerate(others, start=2):
            volumes = Volumes(other)
            for name in volumes.by_name:
                self._add(volumes, name, f"disk{number}:{name}")

    def sector(self, offset: int) -> bytes:
        """512 bytes of the disk; zeros beyond its end."""
        data = bytearray(512)
        length = max(0, min(512, self.size - offset))
        self._chain.readinto(offset, memoryview(data)[:length])
        return bytes(data)

    def head(self, name: str) -> bytes:
        """A volume's first bytes."""
        return self._heads[name]()

    def named(self, name: str) -> FileSystem | None:
        """The file system that fstab or a kernel's command line means by `name`."""
        kind, equals, value = name.partition("=")
        value = value.strip("\"'")
        for system in self.file_systems.values():
            if equals and kind == "UUID" and value.lower() == system.uuid.lower() != "":
                return system
            if equals and kind == "LABEL" and value == system.label != "":
                return system
            if not equals and self._is_device(name, system):
                return system
        return None

    def with_kind(self, kind: str) -> Iterator[Volume]:
        """The volumes on which `kind` lies: "LUKS", "swap", "NTFS"."""
        return (volume for volume in self.volumes.values() if volume.filesystem == kind)

    def _is_device(self, name: str, system: FileSystem) -> bool:
        if system.logical:
            return name in (f"/dev/mapper/{system.volume}", f"/dev/{system.logical}")
        match = _PARTITION.fullmatch(name)
        if match is None or name_on_disk(system.volume) != f"p{match['part']}":
            return False
        return disk_of(system.volume) == (0 if self.count == 1 else _order(match))

    def _add(self, volumes: Volumes, on_its_disk: str, name: str) -> None:
        volume, root = volumes.open(on_its_disk)
        self.volumes[name] = volume
        self._heads[name] = partial(volumes.head, on_its_disk)
        try:
            uuid, label = identity.of(volume.filesystem, volumes.head(on_its_disk))
        except RecoveryError:  # it lies beyond the disk's end
            uuid = label = ""
        place = volume.place
        self.file_systems[name] = FileSystem(
            name,
            volume.filesystem,
            uuid,
            label,
            tuple(Run(offset, length) for offset, length in place.runs),
            place.group_and_name,
        )
        if root is not None:
            folds_case = volume.filesystem.startswith("FAT") or volume.filesystem == "NTFS"
            self.trees[name] = Tree(name, root, folds_case=folds_case)


def _order(partition: re.Match[str]) -> int:
    """As which of a machine's disks its system would most likely find one of that name, from 0."""
    if letters := partition["letter"]:
        return ord(letters[0]) - ord("a") if len(letters) == 1 else -1
    return int(partition["number"] or partition["card"])
