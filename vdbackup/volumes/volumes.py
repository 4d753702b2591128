"""What lies on a disk: its volumes, and the tree of files in each, as far as it can be read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdbackup.errors import GuestUnreadable, NotInPoint, RecoveryError, Remedy, WrongKey
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes import encryption, places, signatures
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import Disk, Place, Runs, Window

if TYPE_CHECKING:
    from vdbackup.volumes.filesystems.node import Node

_MAX_NESTED = 8
"""Encrypted volumes that are looked for in one another."""
_ADVICE = tr("Boot the recovery point, or restore it, to get at what is in it.")


@dataclass(frozen=True)
class Volume:
    """A partition, a logical volume of LVM, or a whole disk that has neither.

    Attributes:
        place: where it lies.
        filesystem: "ext4", "NTFS", "LUKS", ...: what is known to lie on it; "" if nothing is.
        problem: one sentence that says why its files cannot be read; "" if they can.
        warning: one that says why the files may not be the newest; "" if they are.
        is_locked: it is encrypted, and can be read with the key (`Volumes.unlock`).
    """

    place: Place
    filesystem: str
    problem: str = ""
    warning: str = ""
    is_locked: bool = False

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
        by_name: where each lies, by the name of the folder that shows it; of what was encrypted in
            that which holds it.
        sector_size: that the disk's tables count in, in bytes.
        unlocked: what encrypted volumes hold, each as a disk, and where on this one it lies.
    """

    def __init__(self, chain: Disk) -> None:
        self._chain = chain
        self.sector_size, found = places.find(chain)
        self.by_name = {place.name: place for place in found}
        self._opened: dict[str, tuple[Volume, Node | None]] = {}
        self._decrypted: dict[str, Disk] = {}
        """What volumes lie in, by their names, that lie in no stretch of this disk."""
        self._around: dict[str, Runs] = {}
        """Where on this disk what each of those lies in does."""
        self.unlocked: list[tuple[Disk, Runs]] = []
        self._unlocked: list[str] = []

    def open(self, name: str) -> tuple[Volume, Node | None]:
        """A volume, and its topmost folder unless it has a problem."""
        if name not in self._opened:
            self._opened[name] = _identify(self._disk_of(name), self.by_name[name])
        return self._opened[name]

    def head(self, name: str) -> bytes:
        """A volume's first bytes, in which every file system says what it is."""
        return self._stream(name).read(signatures.HEAD)

    def root(self, name: str) -> Node:
        """A volume's topmost folder; raises RecoveryError if its files cannot be read."""
        node = self.open(name)[1]
        if node is None:
            raise self.refusal(name)
        return node

    def refusal(self, name: str) -> GuestUnreadable:
        """Why the files of a volume that has a problem cannot be read."""
        volume, _ = self.open(name)
        where, why = name or tr("this disk"), volume.problem[0].lower() + volume.problem[1:]
        return GuestUnreadable(
            tr("The files of {where} cannot be read: {why}", where=where, why=why),
            _ADVICE,
            remedy=Remedy.UNLOCK if volume.is_locked else None,
        )

    def cautions(self, paths: Sequence[str] = ("/",)) -> tuple[str, ...]:
        """Why the files that paths lead to may not be the newest, a sentence for each volume."""
        wanted = {next(filter(None, path.split("/")), None) for path in paths}
        every = None in wanted or "" in self.by_name
        found = (self.open(name)[0] for name in self.by_name if every or name in wanted)
        return tuple(
            f"{printable(each.name) or tr('This file system')}: "
            f"{each.warning[0].lower()}{each.warning[1:]}"
            for each in found
            if each.warning
        )

    def unlock(self, keys: Keys) -> list[str]:
        """Read encrypted volumes, too: all that these are the keys of (encryption.py).

        What such a volume holds is shown under its name, or, where that are volumes again, under
        theirs.

        Returns:
            The names of what can be read now.

        Raises:
            NotInPoint: nothing is encrypted that is not unlocked, or nothing of the name that a key
                is for. WrongKey: of none, or not of that one; the others can be read.
            GuestUnreadable, ProgramMissing: as `encryption.unlock`, where none was unlocked.
        """
        found: list[str] = []
        refused: dict[str, RecoveryError] = {}
        for _ in range(_MAX_NESTED):
            locked = [name for name in self.by_name if self.open(name)[0].is_locked]
            tried = [name for name in locked if name not in refused]
            for name in tried:
                try:
                    found += self._unlock(name, keys)
                except RecoveryError as error:
                    refused[name] = error
            if not tried:
                break
        self._check_named(keys, refused)
        if found:
            return found
        others = sorted(refused.values(), key=lambda error: isinstance(error, WrongKey))
        raise (
            others[0]
            if others
            else NotInPoint(
                tr("Nothing in this recovery point is encrypted that is not read already."),
                tr("Leave out the key."),
            )
        )

    def _check_named(self, keys: Keys, refused: Mapping[str, RecoveryError]) -> None:
        """See to it that no key was named in vain."""
        for name in keys.names:
            if name in refused:
                title = tr("The key for {name} does not open it.", name=name)
                if isinstance(refused[name], WrongKey):
                    raise WrongKey(title, refused[name].advice)
                raise refused[name]
            if name not in self._unlocked:
                there = ", ".join(sorted({*self._unlocked, *refused})) or tr("none")
                raise NotInPoint(
                    tr("There is no encrypted volume {name} here.", name=printable(name)),
                    tr("Encrypted are: {there}.", there=there),
                )

    def _unlock(self, name: str, keys: Keys) -> list[str]:
        volume, _ = self.open(name)
        stream = self._stream(name)
        inside = encryption.unlock(volume.filesystem, stream, keys.of(name), keys.opened)
        _, found = places.find(inside)
        self._unlocked.append(name)
        around = places.part_of(self.runs(name), inside.start, inside.size)
        self.unlocked.append((inside, around))
        own = [self._named(place, name) for place in found]
        if not name and any(place.name for place in own):  # a disk that has nothing else to show
            del self.by_name[name]
        elif all(place.name != name for place in own):
            what = tr("It is encrypted; its volumes are listed by their own names.")
            self._opened[name] = replace(volume, problem=what, is_locked=False), None
        for place in own:
            self.by_name[place.name], self._decrypted[place.name] = place, inside
            self._around[place.name] = around
            self._opened.pop(place.name, None)
        return [place.name for place in own]

    def runs(self, name: str) -> Runs:
        """Where on this disk a volume lies, in its order; of one in an encrypted one, enciphered.

        That is as long as the volume, and its bytes lie in the same order.
        """
        place = self.by_name[name]
        around = self._around.get(name)
        if around is None:
            return place.runs
        return tuple(run for at, size in place.runs for run in places.part_of(around, at, size))

    def _named(self, place: Place, around: str) -> Place:
        """A volume in an encrypted one, by a name that no other has."""
        if not place.name:
            outer = self.by_name[around]
            return replace(place, number=outer.number, logical=outer.logical)
        if place.name in self.by_name:
            return replace(place, logical=f"{around}-{place.name}")
        return place

    def _disk_of(self, name: str) -> Disk:
        return self._decrypted.get(name, self._chain)

    def _stream(self, name: str) -> io.BufferedReader:
        return Window.opened(self._disk_of(name), self.by_name[name].runs)


def _identify(chain: Disk, place: Place) -> tuple[Volume, Node | None]:
    """Find out what lies on a volume, and open it."""
    from vdbackup.volumes.filesystems.node import reading

    def volume(filesystem: str, problem: str = "") -> Volume:
        return Volume(place, filesystem, problem, is_locked=filesystem in encryption.KINDS)

    if place.problem:
        return volume(place.kind, f"{place.problem}."), None
    if any(offset >= chain.size for offset, _ in place.runs):
        return volume("", tr("It lies beyond the end of the disk.")), None
    stream = Window.opened(chain, place.runs)
    head = signatures.whole_head(stream)
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
        case "exfat":
            from vdbackup.volumes.filesystems import exfat

            return exfat.open_root(stream)
        case _:
            from vdbackup.volumes.filesystems import fat

            return fat.open_root(stream)
