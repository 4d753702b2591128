"""The files of a disk, found by path: links are followed, what is read is bounded.

Above volumes/volumes.py and filesystems/. Whatever cannot be read is, to an inspection, not there;
the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from vdbackup.errors import RecoveryError
from vdbackup.guest.model import File
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Kind, Node, guarded, reading

log = logging.getLogger(__name__)

MAX_LINKS = 40
"""As in Linux (MAXSYMLINKS)."""
MAX_ENTRIES = 100_000
"""Entries of the largest folder that is looked into."""
MAX_TEXT = 4 << 20
"""Bytes of the largest file of text that is read."""


class Tree:
    """A file system from one of its folders on.

    Attributes:
        volume: the volume's name.
        path: of the folder in the volume; "" at the top.
    """

    def __init__(self, volume: str, root: Node, *, folds_case: bool = False) -> None:
        self.volume = volume
        self.path = ""
        self._root = root
        self._folds_case = folds_case
        self._folders: dict[object, dict[str, Node]] = {}

    def below(self, path: str) -> Tree | None:
        """The tree from a folder on, as if nothing were above it: a subvolume; None if absent."""
        node = self.find(path)
        if node is None or self._kind(node) != Kind.FOLDER:
            return None
        tree = Tree(self.volume, node, folds_case=self._folds_case)
        tree.path = f"{self.path}/{path.strip('/')}"
        return tree

    def default_path(self) -> str:
        """The path of the folder that is mounted where nobody names another one; "" for the top."""
        try:
            with reading(tr("The default subvolume")):
                return self._root.default_path()
        except RecoveryError:
            return ""

    def find(self, path: str) -> Node | None:
        """What a path leads to, links followed; None if that is not there."""
        walked = self._walk(path)
        return walked[0] if walked else None

    def real_path(self, path: str) -> str | None:
        """The path in the volume, from "/" on, of what a path leads to; None if not there."""
        walked = self._walk(path)
        return walked[1] if walked else None

    def file(self, path: str) -> File:
        """A file by where it really lies in its volume, whether it is there or not."""
        return File(self.volume, self.real_path(path) or f"{self.path}{path}")

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; nothing if it is not there."""
        node = self.find(path)
        return sorted(self._children(node)) if node is not None else []

    def is_file(self, path: str) -> bool:
        """Whether a path leads to a file."""
        node = self.find(path)
        return node is not None and self._kind(node) == Kind.FILE

    def is_folder(self, path: str) -> bool:
        """Whether a path leads to a folder."""
        node = self.find(path)
        return node is not None and self._kind(node) == Kind.FOLDER

    def text(self, path: str) -> str:
        """A file of text; "" if it is not there or larger than any such file."""
        data = self.read(path, MAX_TEXT)
        return "" if data is None else data.decode(errors="replace")

    def read(self, path: str, most: int, *, whole: bool = True) -> bytes | None:
        """A file's bytes; None if it cannot be read.

        Args:
            path: to the file.
            most: bytes that are read.
            whole: a larger file is not read; else its first bytes are.
        """
        node = self.find(path)
        if node is None:
            return None
        try:
            with reading(path):
                if node.stat().kind != Kind.FILE:
                    return None
                content = node.content()
                if whole and content.size > most:
                    log.info("%s has %d bytes and is not read", path, content.size)
                    return None
                return _bytes(content.stream, content.ranges, min(content.size, most))
        except RecoveryError:
            return None

    def _walk(self, path: str) -> tuple[Node, str] | None:
        """The node a path leads to, and its path without links."""
        names = _names(path)
        above: list[tuple[str, Node]] = []
        links = 0
        while names:
            name = names.pop(0)
            if name == "..":
                above = above[:-1]
                continue
            folder = above[-1][1] if above else self._root
            node = self._child(folder, name)
            if node is None:
                return None
            if self._kind(node) == Kind.LINK:
                target = self._target(node)
                links += 1
                if target is None or links > MAX_LINKS:
                    return None
                above = [] if target.startswith("/") else above
                names = [*_names(target), *names]
            else:
                above.append((node.name, node))
        steps = "/".join(name for name, _ in above)
        return (above[-1][1] if above else self._root), f"{self.path}/{steps}"

    def _child(self, folder: Node, name: str) -> Node | None:
        return self._children(folder).get(name.casefold() if self._folds_case else name)

    def _children(self, folder: Node) -> dict[str, Node]:
        try:
            with reading(folder.name):
                identity = folder.identity
            if identity not in self._folders:
                self._folders[identity] = dict(self._listed(folder))
            return self._folders[identity]
        except RecoveryError:
            return {}

    def _listed(self, folder: Node) -> Iterator[tuple[str, Node]]:
        if self._kind(folder) != Kind.FOLDER:
            return
        for count, node in enumerate(guarded(folder, folder.name)):
            if count == MAX_ENTRIES:
                log.info("a folder holds more than %d files", MAX_ENTRIES)
                return
            yield node.name.casefold() if self._folds_case else node.name, node

    def _kind(self, node: Node) -> Kind:
        try:
            with reading(node.name):
                return node.stat().kind
        except RecoveryError:
            return Kind.OTHER

    def _target(self, node: Node) -> str | None:
        try:
            with reading(node.name):
                return node.target()
        except RecoveryError:
            return None


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _bytes(stream: object, ranges: list[tuple[int, int]], size: int) -> bytes:
    """The first `size` bytes of a file that has data in `ranges` and zeros elsewhere."""
    found = bytearray(size)
    for start, end in ranges:
        if start >= size:
            break
        stream.seek(start)  # type: ignore[attr-defined]
        data = stream.read(min(end, size) - start)  # type: ignore[attr-defined]
        found[start : start + len(data)] = data
    return bytes(found)
