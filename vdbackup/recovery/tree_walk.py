"""A tree of files in a point, shown to whoever does something with each: copy it, compare it.

What is in it may be hostile: a name is one name ("", ".", "..", what holds a slash or a zero byte,
and what no file can be called are passed by), and folders in folders end at a depth of DEEPEST, and
where one of them holds itself.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol

from vdbackup.errors import Damaged, RecoveryError
from vdbackup.jobs import CancelToken
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Kind, Node, Stat, Unreadable, guarded, reading

DEEPEST = 255
"""Folders in folders; each one takes a file descriptor."""


@dataclass(frozen=True)
class Item:
    """What to extract: the node at `path`, under `name`; what is in it if that is empty.

    Attributes:
        path, name, node: these.
        volume: the name of its volume: numbers of files count in it alone.
    """

    path: str
    name: str
    node: Node
    volume: str = ""


def is_name(name: str, longest: int = 255) -> bool:
    """Whether a file can have this name, of so many bytes at most, here and in one folder."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return (
        encoded not in (b"", b".", b"..")
        and len(encoded) <= longest
        and b"/" not in encoded
        and b"\0" not in encoded
    )


class Visitor(Protocol):
    """What is done with what a walk meets."""

    def enter(self, path: str, name: str, stat: Stat) -> bool:
        """A folder; False if its contents are to be passed by."""

    def leave(self, path: str, node: Node, stat: Stat) -> None:
        """The end of the folder entered last."""

    def leaf(self, path: str, name: str, node: Node, stat: Stat) -> None:
        """Something that is no folder."""

    def warn(self, sentence: str) -> None:
        """Something is left out."""


class Walk:
    """Shows a tree to a visitor, a folder before what is in it.

    Two walks meet the same things in the same order.
    """

    def __init__(self, visitor: Visitor, cancel: CancelToken) -> None:
        self._visitor = visitor
        self._cancel = cancel
        self._seen: set[Hashable] = set()
        self._open: list[tuple[str, tuple[Node, Stat] | None, Iterator[Node]]] = []

    def run(self, item: Item) -> None:
        """Show an item, with all that is in it; raises Cancelled, and what the visitor does."""
        if item.name:
            self._visit(item.path, item.name, item.node)
        else:
            above = item.path.rstrip("/")
            self._open.append((above, None, guarded(item.node, above or "/")))
        while self._open:
            path, entered, children = self._open[-1]
            child = self._next(children)
            if child is not None:
                self._visit(f"{path}/{child.name}", child.name, child)
                continue
            self._open.pop()
            if entered is not None:
                self._visitor.leave(path, *entered)

    def _next(self, children: Iterator[Node]) -> Node | None:
        try:
            return next(children, None)
        except RecoveryError as error:
            self._visitor.warn(error.title)
            return None

    def _visit(self, path: str, name: str, node: Node) -> None:
        self._cancel.check()
        try:
            with reading(path):
                stat = _checked(name, node)
        except Damaged as error:
            self._visitor.warn(
                tr("{path} is left out: {error}", path=printable(path), error=error.title)
            )
            return
        except RecoveryError as error:
            self._visitor.warn(error.title)
            return
        if stat.kind != Kind.FOLDER:
            self._visitor.leaf(path, name, node, stat)
        elif node.identity in self._seen:
            self._visitor.warn(
                tr("{path} is left out: it is also elsewhere in the tree.", path=printable(path))
            )
        elif len(self._open) >= DEEPEST:
            self._visitor.warn(
                tr("{path} is left out: it lies too deep in folders.", path=printable(path))
            )
        elif self._visitor.enter(path, name, stat):
            self._seen.add(node.identity)
            self._open.append((path, (node, stat), guarded(node, path)))


def _checked(name: str, node: Node) -> Stat:
    if not is_name(name):
        raise Unreadable(tr("{name!r} is not a name that a file can have", name=name))
    stat = node.stat()
    if not 0 <= stat.size < 1 << 63:
        raise Unreadable(tr("its size is impossible"))
    return stat
