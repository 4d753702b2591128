"""The files inside a recovery point: listed and extracted without mounting it, by anybody.

What is shown lies in volumes/; what is written, in extract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import GuestUnreadable, NotInPoint, RecoveryError, TooManyFiles
from vdbackup.guest import identity
from vdbackup.jobs import Task
from vdbackup.recovery.tree_walk import Item
from vdbackup.text import iso, printable
from vdbackup.translation import grouped, tr
from vdbackup.volumes.filesystems.node import Kind, Node, Stat, guarded, reading
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import Disk
from vdbackup.volumes.volumes import Volume, Volumes

__all__ = ["Entry", "FileBrowser", "Kind", "Volume"]

MAX_ENTRIES = 1_000_000
"""Entries of the largest folder that is listed."""


@dataclass(frozen=True)
class Entry:
    """What a folder shows.

    Attributes:
        name: bytes that are not UTF-8 stand in it as lone surrogates, as in `os.fsdecode`.
        path: from "/" on; names may hold anything, so it leads back here only if the name holds
            no slash.
        kind: OTHER is a device, a pipe, a socket, or something unreadable.
        size: of a file, in bytes.
        modified: ISO 8601 in UTC, None if it is not known. FAT keeps the local time of wherever it
            was; it is given as if that were UTC.
    """

    name: str
    path: str
    kind: Kind
    size: int
    modified: str | None

    @classmethod
    def of(cls, name: str, path: str, stat: Stat) -> Entry:
        """What a folder shows of a file."""
        size = stat.size if stat.kind == Kind.FILE else 0
        return cls(name, path, stat.kind, size, iso(stat.modified))


class FileBrowser:
    """The files of a disk. A disk with partitions shows them as folders /p1, /p2, ...

    For one thread at a time. The chain must stay open as long as the browser is used; closing it
    is up to whoever opened it.
    """

    def __init__(self, chain: Disk, volumes: Volumes | None = None) -> None:
        self._chain = chain
        self._found = volumes

    def volumes(self) -> list[Volume]:
        """The disk's volumes, or why they cannot be read.

        Raises:
            RecoveryError: the disk's partition table is damaged.
        """
        return [self._volumes.open(name)[0] for name in self._volumes.by_name]

    def warnings(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Why the files that paths lead to may not be the newest, a sentence for each volume."""
        return self._volumes.cautions(paths)

    def unlock(self, keys: Keys) -> list[str]:
        """Read what is encrypted, too; see `Volumes.unlock`."""
        return self._volumes.unlock(keys)

    def listing(self, path: str = "/") -> list[Entry]:
        """What a folder holds, by name.

        Raises:
            RecoveryError: there is no such folder, or it cannot be read.
        """
        found = self._node(path)
        prefix = path.rstrip("/")
        if found is None:
            return [
                Entry(name, f"/{name}", Kind.FOLDER, part.size, None)
                for name, part in self._volumes.by_name.items()
            ]
        with reading(path):
            kind = found.stat().kind
            if kind == Kind.LINK:
                raise NotInPoint(
                    tr(
                        "{path} is a link to {target}.",
                        path=printable(path),
                        target=printable(found.target()),
                    ),
                    tr("List what it points to instead."),
                )
        if kind != Kind.FOLDER:
            raise NotInPoint(
                tr("{path} is not a folder.", path=printable(path)),
                tr("Extract it to see what is in it."),
            )
        entries: list[Entry] = []
        for child in guarded(found, path):
            if len(entries) == MAX_ENTRIES:
                raise TooManyFiles(
                    tr(
                        "{path} holds more than {max_entries} files.",
                        path=printable(path),
                        max_entries=grouped(MAX_ENTRIES),
                    ),
                    tr("Extract it as a whole."),
                )
            entries.append(_entry(child, f"{prefix}/{child.name}"))
        return sorted(entries, key=lambda entry: entry.name)

    def extract(self, paths: Sequence[str], destination: Path, task: Task) -> tuple[str, ...]:
        """Copy files and folders, with all that is in them, into a folder.

        Contents, times, permissions, attributes and several names of a file come back, and owners
        where root extracts; what is no file, folder or link is left out (extract.py, metadata.py).
        Nothing that exists is overwritten.

        Args:
            paths: of what to copy; "/" stands for all that it shows.
            destination: a folder; is made if it does not exist.
            task: what it reports to, and what stops it.

        Returns:
            Sentences that say what was left out, and what may not be the newest.

        Raises:
            RecoveryError: a path does not exist, two would get the same name, the destination holds
                one of the names (nothing is written in these cases), or nothing could be read.
            Cancelled: on request; what was written until then stays, except for half a file.
            OSError: the destination cannot be written.
        """
        from vdbackup.recovery.extract import extract

        items, unreadable = self.items(paths)
        if unreadable and not items:
            raise GuestUnreadable(unreadable[0], tr("Nothing was extracted."))
        left_out = extract(items, destination, task)
        return (*self.warnings(paths), *unreadable, *left_out)

    def items(self, paths: Sequence[str]) -> tuple[list[Item], list[str]]:
        """What paths lead to, and why what of "/" cannot be read, a sentence each.

        Raises RecoveryError: a path leads to nothing, or cannot be read.
        """
        items: list[Item] = []
        unreadable: list[str] = []
        for path in paths:
            clean = "/" + "/".join(_names(path))
            node = self._node(clean)
            if node is not None:
                items.append(Item(clean, clean.rpartition("/")[2], node, self._volume(clean)))
                continue
            for name in self._volumes.by_name:
                try:
                    items.append(Item(f"/{name}", name, self._volumes.root(name), name))
                except RecoveryError as error:
                    unreadable.append(error.title)
        return items, unreadable

    def identity(self, volume: str) -> str:
        """The UUID or serial number of a volume's file system; "" where that is not known."""
        kind = self._volumes.open(volume)[0].filesystem
        return identity.of(kind, self._volumes.head(volume))[0]

    @property
    def _volumes(self) -> Volumes:
        if self._found is None:
            self._found = Volumes(self._chain)
        return self._found

    def _volume(self, path: str) -> str:
        """The name of the volume that a path leads into."""
        return "" if "" in self._volumes.by_name else _names(path)[0]

    def _node(self, path: str) -> Node | None:
        """What a path leads to; None for the list of partitions."""
        names = _names(path)
        volumes = self._volumes
        if "" in volumes.by_name:
            node = volumes.root("")
        elif not names:
            return None
        elif names[0] in volumes.by_name:
            node = volumes.root(names.pop(0))
        else:
            raise _missing(path)
        for name in names:
            node = _child(node, name, path)
        return node


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _child(folder: Node, name: str, path: str) -> Node:
    with reading(path):
        if folder.stat().kind == Kind.FOLDER and name not in (".", ".."):
            for node in folder.children():
                if node.name == name:
                    return node
    raise _missing(path)


def _missing(path: str) -> RecoveryError:
    return NotInPoint(
        tr("There is no {path} in this recovery point.", path=printable(path)),
        tr("List the folder above it to see what is."),
    )


def _entry(node: Node, path: str) -> Entry:
    """A damaged inode takes nothing but itself from the listing."""
    try:
        with reading(path):
            stat = node.stat()
    except RecoveryError:
        stat = Stat(Kind.OTHER, 0, None, 0)
    return Entry.of(node.name, path, stat)
