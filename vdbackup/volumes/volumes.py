"""What lies on a disk: its volumes, and the tree of files in each, as far as it can be read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdbackup.errors import GuestUnreadable, RecoveryError
from vdbackup.translation import tr
from vdbackup.volumes import places, signatures
from vdbackup.volumes.places import Disk, Place, Window

if TYPE_CHECKING:
    from vdbackup.volumes.filesystems.node import Node

_ADVICE = tr("Boot the recovery point, or restore it, to get at what is in it.")


@dataclass(frozen=True)
class Volume:
    """A partition, a logical volume of LVM, or a whole disk that has neither.

    Attributes:
        place: where it lies.
        filesystem: "ext4", "NTFS", "LUKS", ...: what is known to lie on it; "" if nothing is.
        problem: one sentence that says why its files cannot be read; "" if they can.
        warning: one that says why the files may not be the newest; "" if they are.
    """

    place: Place
    filesystem: str
    problem: str = ""
    warning: str = ""

    @property
    def number(self) -> int:
        """As in Linux (the 2 of /dev/sda2); 0 if it is no partition."""
        return self.place.number

    @property
    def name(self) -> str:
        """The folder that shows its files: "p2", "vg-root"; "" if it is the whole disk."""
        return self.place.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.place.size


class Volumes:
    """The volumes of a disk. What has been found out is kept: the disk does not change.

    Attributes:
        by_name: where each lies, by the name of the folder that shows it.
        sector_size: that the disk's tables count in, in bytes.
    """

    def __init__(self, chain: Disk) -> None:
        self._chain = chain
        self.sector_size, found = places.find(chain)
        self.by_name = {place.name: place for place in found}
        self._opened: dict[str, tuple[Volume, Node | None]] = {}

    def open(self, name: str) -> tuple[Volume, Node | None]:
        """A volume, and its topmost folder unless it has a problem."""
        if name not in self._opened:
            self._opened[name] = _identify(self._chain, self.by_name[name])
        return self._opened[name]

    def head(self, name: str) -> bytes:
        """A volume's first bytes, in which every file system says what it is."""
        return Window.opened(self._chain, self.by_name[name].runs).read(signatures.HEAD)

    def root(self, name: str) -> Node:
        """A volume's topmost folder; raises RecoveryError if its files cannot be read."""
        volume, node = self.open(name)
        if node is None:
            where, why = name or tr("this disk"), volume.problem[0].lower() + volume.problem[1:]
            raise GuestUnreadable(
                tr("The files of {where} cannot be read: {why}", where=where, why=why), _ADVICE
            )
        return node


def _identify(chain: Disk, place: Place) -> tuple[Volume, Node | None]:
    """Find out what lies on a volume, and open it."""
    from vdbackup.volumes.filesystems.node import reading

    def volume(filesystem: str, problem: str = "") -> Volume:
        return Volume(place, filesystem, problem)

    if place.problem:
        return volume(place.kind, f"{place.problem}."), None
    if any(offset >= chain.size for offset, _ in place.runs):
        return volume("", tr("It lies beyond the end of the disk.")), None
    stream = Window.opened(chain, place.runs)
    head = stream.read(signatures.LONG_HEAD)
    if found := signatures.unreadable(head):
        name, problem = found
        return volume(name, f"{problem}."), None
    kind = signatures.readable(head)
    if not kind:
        return volume("", tr("No file system that vdbackup knows is on it.")), None
    try:
        with reading(tr("Its file system")):
            name, root = _open_root(kind, stream)
    except RecoveryError as error:
        return volume(kind, error.title), None
    return Volume(place, name, warning=_warning(kind, Window.opened(chain, place.runs))), root


def _warning(kind: str, stream: io.BufferedReader) -> str:
    """What is to be said of the journal; where it cannot be told, that it may be needed."""
    from vdbackup.volumes.filesystems import journals
    from vdbackup.volumes.filesystems.node import reading

    try:
        with reading(tr("Its journal")):
            return journals.warning(kind, stream)
    except RecoveryError:
        return journals.SENTENCE.format(log="journal")


def _open_root(kind: str, stream: io.BufferedReader) -> tuple[str, Node]:
    """Open a file system; each reader takes its time to import."""
    match kind:
        case "ext":
            from vdbackup.volumes.filesystems import ext

            return ext.open_root(stream)
        case "xfs":
            from vdbackup.volumes.filesystems import xfs

            return xfs.open_root(stream)
        case "btrfs":
            from vdbackup.volumes.filesystems import btrfs

            return btrfs.open_root(stream)
        case "ntfs":
            from vdbackup.volumes.filesystems import ntfs

            return ntfs.open_root(stream)
        case _:
            from vdbackup.volumes.filesystems import fat

            return fat.open_root(stream)
