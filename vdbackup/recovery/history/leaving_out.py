"""What of a point need not be kept the next time: caches, trash, memory that was swapped out.

It is known by its place, as systems and programs agree on it (the Filesystem Hierarchy Standard,
the XDG Base Directory Specification, freedesktop.org's Trash Specification), or by the mark of a
cache (bford.info/cachedir). It is proposed, in bytes, and nothing is left out by that.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Protocol

from vdbackup.errors import RecoveryError
from vdbackup.recovery.history.walk import Found
from vdbackup.sources.file_sets import tree
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.translation import marked
from vdbackup.volumes.filesystems.node import Kind, reading

LEAST = 1 << 20
"""Bytes; less is not worth a thought."""
_MAX = 100

Parts = tuple[str, ...]


class Why(StrEnum):
    """What it is that need not be kept; the value is for programs, `sentence` for people."""

    MARKED = "marked"
    CACHE = "cache"
    TEMPORARY = "temporary"
    TRASH = "trash"
    SWAP = "swap"
    LOGS = "logs"
    FETCHED = "fetched"

    @property
    def sentence(self) -> str:
        """What it is, in English, to be translated."""
        return _SENTENCES[self]

    @property
    def is_a_hint(self) -> bool:
        """Whether somebody may want it all the same: nothing makes logs again."""
        return self in (Why.LOGS, Why.FETCHED)


_SENTENCES = {
    Why.MARKED: marked("marked as a cache: made again when it is needed"),
    Why.CACHE: marked("a cache: made again when it is needed"),
    Why.TEMPORARY: marked("temporary files"),
    Why.TRASH: marked("what was thrown away"),
    Why.SWAP: marked("memory that was swapped out: worth nothing after a restart"),
    Why.LOGS: marked("logs of the system: may be wanted"),
    Why.FETCHED: marked("packages of a project: fetched again, if their servers have them still"),
}

_ANYWHERE = {
    ".cache": Why.CACHE,
    "node_modules": Why.FETCHED,
    "$recycle.bin": Why.TRASH,
}
"""By name, in small letters."""
_ENDS: dict[Parts, Why] = {
    ("cache", "apt"): Why.CACHE,
    ("cache", "dnf"): Why.CACHE,
    ("cache", "zypp"): Why.CACHE,
    ("cache", "pacman", "pkg"): Why.CACHE,
    ("local", "microsoft", "windows", "inetcache"): Why.CACHE,
    ("appdata", "local", "temp"): Why.TEMPORARY,
    ("windows", "temp"): Why.TEMPORARY,
    (".local", "share", "trash"): Why.TRASH,
    ("log", "journal"): Why.LOGS,
}
"""By how a path ends, in small letters: /var may be a volume of its own."""
_AT_TOP: dict[Parts, Why] = {
    ("tmp",): Why.TEMPORARY,
    ("var", "tmp"): Why.TEMPORARY,
    ("var", "cache"): Why.CACHE,
    ("swapfile",): Why.SWAP,
    ("swap.img",): Why.SWAP,
    ("swap", "swapfile"): Why.SWAP,
    ("pagefile.sys",): Why.SWAP,
    ("swapfile.sys",): Why.SWAP,
    ("hiberfil.sys",): Why.SWAP,
}
"""By whole paths in a volume, in small letters."""


class _Share(Protocol):
    """What owners.py says of a path."""

    @property
    def path(self) -> str: ...
    @property
    def bytes(self) -> int: ...


@dataclass(frozen=True)
class Needless:
    """What need not be kept.

    Attributes:
        path: of a folder or file, as the point shows it.
        why: what it is.
        bytes: how many of the bytes that changed lie in it, in units of 4 KiB.
        exclude: the pattern by which a set of chosen files leaves it out; "" where a disk is
            backed up, which is kept as a whole.
    """

    path: str
    why: Why
    bytes: int
    exclude: str


def is_tag(found: Found) -> bool:
    """Whether a file marks the folder that it lies in as a cache."""
    if not found.path.endswith(f"/{_TAG}") or found.stat.kind is not Kind.FILE:
        return False
    with suppress(RecoveryError), reading(found.path):
        content = found.node.content()
        if content.size >= len(tree.SIGNATURE) and content.ranges:
            content.stream.seek(0)
            return bytes(content.stream.read(len(tree.SIGNATURE))) == tree.SIGNATURE
    return False


_TAG = os.fsdecode(tree.TAG)


def needless(
    shares: Iterable[_Share],
    volumes: AbstractSet[str],
    tagged: AbstractSet[str],
    choice: Choice | None,
) -> tuple[Needless, ...]:
    """What of a point need not be kept, the largest first; of what lies in another, nothing.

    Args:
        shares: folders and files with their bytes; a folder has those of all that is in it.
        volumes: names by which paths begin, "" where a volume is the whole disk.
        tagged: folders that are marked as caches.
        choice: which files the set is of by now; None where it is of a disk. What that leaves out
            already is not proposed.
    """
    return tuple(_topmost(_named(shares, volumes, tagged, choice)))[:_MAX]


def _named(
    shares: Iterable[_Share],
    volumes: AbstractSet[str],
    tagged: AbstractSet[str],
    choice: Choice | None,
) -> Iterator[Needless]:
    for share in shares:
        if share.bytes < LEAST:
            continue
        inner = _in_volume(share.path, volumes)
        why = Why.MARKED if share.path in tagged else _why(inner)
        if why is None or (choice is not None and _is_settled(inner, why, choice)):
            continue
        exclude = glob.escape("/" + "/".join(inner)) if choice is not None else ""
        yield Needless(share.path, why, share.bytes, exclude)


def _in_volume(path: str, volumes: AbstractSet[str]) -> Parts:
    parts = tuple(name for name in path.split("/") if name)
    return parts[1:] if parts and parts[0] in volumes else parts


def _why(inner: Parts) -> Why | None:
    if not inner:
        return None
    parts = tuple(name.lower() for name in inner)
    if parts[-1].startswith(".trash-"):  # with the number of a user, at a volume's top
        return Why.TRASH
    if (why := _ANYWHERE.get(parts[-1])) is not None:
        return why
    ends = (_ENDS.get(parts[-count:]) for count in (4, 3, 2) if len(parts) >= count)
    if (why := next(filter(None, ends), None)) is not None:
        return why
    if parts[0].startswith("@"):  # a subvolume of Btrfs that is mounted as the root
        parts = parts[1:]
    return _AT_TOP.get(parts)


def _is_settled(inner: Parts, why: Why, choice: Choice) -> bool:
    """Whether somebody has chosen it by name, or what lies in it; or it is left out by now."""
    here = PurePosixPath("/", *inner)
    if any(PurePosixPath(each).is_relative_to(here) for each in choice.paths):
        return True
    if why is Why.MARKED and not choice.caches:
        return True
    above = [each for each in (here, *here.parents) if each.name]
    return any(choice.leaves_out(os.fsencode(str(each))) for each in above)


def _topmost(found: Iterable[Needless]) -> Iterator[Needless]:
    """Those that lie in no other one; a folder comes before what is in it (owners.py)."""
    taken: set[str] = set()
    for each in found:
        above = PurePosixPath(each.path).parents
        if not any(str(folder) in taken for folder in above):
            taken.add(each.path)
            yield each
