"""The files of a point by path, as a kernel asks for them: again and again, in any order.

Folders are listed once and kept, as long as there is space for them. For one thread. Nothing that a
file system holds leads out of it: a path is a row of names in folders of its own, and a folder that
lies in itself ends there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b

from vdbackup.errors import NotInPoint, RecoveryError
from vdbackup.recovery.tree_walk import is_name
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Node,
    Stat,
    Unreadable,
    guarded,
    read_at,
    reading,
)
from vdbackup.volumes.volumes import Volumes

LONGEST_NAME = 1024
"""Bytes that the kernel takes from FUSE (FUSE_NAME_MAX): 255 letters of NTFS may have 765."""
KEPT = 500_000
"""Names in the folders that are kept, some 300 bytes each."""
_OF_A_VOLUME = 56
"""Bits of an inode's number; those above say in which volume it is."""


@dataclass
class _Folder:
    """A folder that was listed.

    Attributes:
        volume: the position of its volume, from 1; 0 where there is but the disk.
        above: the identities of the folders that it lies in, its own among them.
    """

    volume: int
    children: dict[str, Node] = field(default_factory=dict)
    above: frozenset[Hashable] = frozenset()


class Tree:
    """The files of a disk. A disk with partitions shows them as folders /p1, /p2, ...

    All methods raise NotInPoint for a path that leads to nothing, GuestUnreadable for what is
    damaged, and OSError where the storage of the backups fails.
    """

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._kept = 0
        self._asked: tuple[str, dict[str, bytes]] = "", {}

    def stat(self, path: str) -> Stat:
        """What is known of a file, with a number that no other has in `inode`."""
        node, volume = self._node(path)
        if node is None:  # the folder of the volumes, or a volume that cannot be read
            return Stat(Kind.FOLDER, 0, None, 0o555, inode=_number(volume, 1), links=2)
        with reading(path):
            found = node.stat()
            if not 0 <= found.size < 1 << 63:
                raise Unreadable(tr("its size is impossible"))
        inode = _of_path(path) if found.inode is None else found.inode
        return found._replace(inode=_number(volume, inode))

    def names(self, path: str) -> list[str]:
        """What a folder holds, as far as it has names that a file can have."""
        if path == "/" and "" not in self._volumes.by_name:
            return list(self._volumes.by_name)
        return list(self._folder(path).children)

    def target(self, path: str) -> str:
        """Where a link points."""
        node = self._real(path)
        with reading(path):
            target = node.target()
            if "\0" in target:
                raise Unreadable(tr("it is a link to an impossible name"))
            return target

    def attributes(self, path: str) -> dict[str, bytes]:
        """Extended attributes."""
        if self._asked[0] != path:  # one program asks for several of a file
            node, _ = self._node(path)
            with reading(path):
                self._asked = path, {} if node is None else node.attributes()
        return self._asked[1]

    def content(self, path: str) -> Content:
        """A file's bytes, for `read`."""
        node = self._real(path)
        with reading(path):
            if node.stat().kind is not Kind.FILE:
                raise Unreadable(tr("it is no file"))
            return node.content()

    def read(self, path: str, content: Content, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer at its end."""
        with reading(path):
            return read_at(content, offset, length)

    def _real(self, path: str) -> Node:
        node, _ = self._node(path)
        if node is None:
            raise _missing(path)
        return node

    def _node(self, path: str) -> tuple[Node | None, int]:
        """What a path leads to, and the position of its volume."""
        if path == "/":
            if "" in self._volumes.by_name:
                return self._volumes.root(""), 0
            return None, 0
        parent, _, name = path.rpartition("/")
        if not parent and "" not in self._volumes.by_name:
            if name not in self._volumes.by_name:
                raise _missing(path)
            _, root = self._volumes.open(name)
            return root, list(self._volumes.by_name).index(name) + 1
        folder = self._folder(parent or "/")
        if name not in folder.children:
            raise _missing(path)
        return folder.children[name], folder.volume

    def _folder(self, path: str) -> _Folder:
        """A folder that is listed, by now at the latest, and those above it, without recursion."""
        missing: list[str] = []
        above = path
        while above not in self._folders:
            missing.append(above)
            parent = above.rpartition("/")[0] or "/"
            if above == "/" or (parent == "/" and "" not in self._volumes.by_name):
                break
            above = parent
        for each in reversed(missing):
            self._list(each)
        self._folders.move_to_end(path)
        return self._folders[path]

    def _list(self, path: str) -> None:
        node, volume = self._node(path)
        if node is None:
            node = self._volumes.root(path[1:])  # raises why it cannot be read
        parent = self._folders.get(path.rpartition("/")[0] or "/") if path != "/" else None
        above = parent.above if parent else frozenset()
        folder = _Folder(volume, above=above | {node.identity})
        with reading(path):
            if node.stat().kind is not Kind.FOLDER:
                raise NotInPoint(tr("{path} is not a folder.", path=printable(path)), "")
            if node.identity in above:
                raise Unreadable(tr("it lies in itself"))
        for child in guarded(node, path):
            if is_name(child.name, LONGEST_NAME):
                folder.children.setdefault(child.name, child)
        self._folders[path] = folder
        self._kept += len(folder.children) + 1
        while self._kept > KEPT and len(self._folders) > 1:
            _, oldest = self._folders.popitem(last=False)
            self._kept -= len(oldest.children) + 1


def _missing(path: str) -> RecoveryError:
    return NotInPoint(tr("There is no {path} in this recovery point.", path=printable(path)), "")


def _number(volume: int, inode: int) -> int:
    """An inode's number that it has in this disk alone."""
    return volume << _OF_A_VOLUME | inode & (1 << _OF_A_VOLUME) - 1


def _of_path(path: str) -> int:
    """A number for what has none, the same each time."""
    digest = blake2b(path.encode(errors="surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big")
