"""What was done to a folder, change by change, and what of it a power cut may have let through.

- What a file's fsync(2) covers is there. Of later writes any sector of 512 bytes is there or not,
  whatever their order was, past the page cache (O_DIRECT) or through it. So it is with lengths,
  modes and modification times. Where a file had become longer, a write that is not there may have
  left old contents of the storage behind.
- A name in a folder is made, changed or removed for good by the folder's own fsync alone; a rename
  happens as a whole. Of later changes of names those up to some moment are there, as journalling
  file systems have it (ORDERED), or any of them (ANY), which is more than POSIX takes away.

`recorder` makes a record, `choices` draws what is there of it, `states` makes folders of that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SECTOR = 512
"""Bytes that storage writes as a whole."""

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class Node:
    """A file or folder, whatever its name.

    Attributes:
        path: its first name, for messages.
        entries: of a folder when the recording began; None for a file.
        base: what a file held when the recording began, in the copy that was made then.
    """

    def __init__(
        self, path: str, entries: dict[str, Node] | None = None, base: Path | None = None
    ) -> None:
        self.path, self.entries, self.base = path, entries, base

    def __repr__(self) -> str:
        return self.path


@dataclass(frozen=True, eq=False)
class Change:
    """Of a file, or of a folder's names; `node` is the one whose fsync makes it durable."""

    node: Node


@dataclass(frozen=True, eq=False)
class Write(Change):
    offset: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Resize(Change):
    size: int


@dataclass(frozen=True, eq=False)
class Attribute(Change):
    """A mode, or a time of modification in ns: the other one is None."""

    mode: int | None = None
    mtime: int | None = None


@dataclass(frozen=True, eq=False)
class Enter(Change):
    """A new name of `entry` in the folder; where `old` is not None, in its stead (a rename)."""

    name: str
    entry: Node
    old: str | None = None


@dataclass(frozen=True, eq=False)
class Leave(Change):
    name: str
    entry: Node


@dataclass(frozen=True, eq=False)
class Sync(Change):
    """An fsync; `site` is the place in the code that wanted it."""

    site: str


@dataclass(frozen=True)
class Record:
    """What an operation did to a folder.

    Attributes:
        root: the folder.
        base: a copy of the folder as it was.
        changes: in their order.
    """

    root: Node
    base: Path
    changes: tuple[Change, ...]

    def sites(self) -> list[str]:
        """The places in the code that made something durable, in the order of their first call."""
        return list(dict.fromkeys(each.site for each in self.changes if isinstance(each, Sync)))

    def without(self, site: str) -> tuple[Record, list[int]]:
        """As if the code did not call fsync there; and the places where that makes a difference."""
        left: list[Change] = []
        open_end: set[Node] = set()
        places = []
        for change in self.changes:
            if isinstance(change, Sync):
                if change.site == site:
                    open_end.add(change.node)
                    continue
                open_end.discard(change.node)
            left.append(change)
            if open_end:
                places.append(len(left))
        if open_end:
            places.append(len(left))
        return replace(self, changes=tuple(left)), sorted(set(places))


Kept = dict[int, Literal[True] | Flags]
"""Numbers of the changes that are there; of a write, bool[sectors] may say which sectors are."""


@dataclass(frozen=True)
class Choice:
    """A place in the record, and what had reached the storage.

    Attributes:
        cut: how many changes had happened.
        kept: of those that no fsync had made durable; what is not in it is lost.
        sizes: of files whose length went its own way, in bytes.
        stale: whether lost writes behind a file's durable end left old contents there.
    """

    cut: int
    kept: Kept
    sizes: dict[Node, int] = field(default_factory=dict)
    stale: bool = False


def keep_all(changes: tuple[Change, ...]) -> Kept:
    """Nothing is lost."""
    return dict.fromkeys(range(len(changes)), True)
