"""What a power cut can leave of a folder: a record of every change, and the states that it allows.

`Recorder` stands between the engine and the file system. From its `Record` any number of states are
made, each as of a place in the record (the cut) with a choice of what had reached the storage:

- What a file's fsync(2) covers is there. Of later writes any sector of 512 bytes is there or not,
  whatever their order was, past the page cache (O_DIRECT) or through it. So it is with lengths,
  modes and modification times. Where a file had become longer, a write that is not there may have
  left old contents of the storage behind.
- A name in a folder is made, changed or removed for good by the folder's own fsync alone; a rename
  happens as a whole. Of later changes of names those up to some moment are there, as journalling
  file systems have it (ORDERED), or any of them (ANY), which is more than POSIX takes away.

Read from top to bottom: changes, record, recorder, choices, states.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from vdbackup.disks import host_file, transfer

SECTOR = 512
"""Bytes that storage writes as a whole."""
TORN = 0.6
"""The share of the writes that were on their way of which some sectors are there."""
ORDERED, ANY = "ordered", "any"
"""How changes of names are lost."""
_UNKNOWN = (
    "copy_file_range", "fdatasync", "link", "posix_fallocate", "removexattr", "sendfile",
    "setxattr", "splice", "symlink", "truncate", "write", "writev",
)  # fmt: skip
"""Calls that would go past the record: the engine makes none of them."""

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


# ---------------------------------------------------------------------------------------- changes


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


# --------------------------------------------------------------------------------------- recorder


class Recorder:
    """Notes the changes of what lies below a folder while the calls into the system are patched."""

    def __init__(self, folder: Path, base: Path) -> None:
        copy_tree(folder, base)
        self._folder = folder
        self._open: dict[int, tuple[Node, int]] = {}  # with the number of the inode
        self._changes: list[Change] = []
        self._lock = threading.RLock()
        self._now: dict[Node, dict[str, Node]] = {}
        root = self._scanned(folder, base)
        self._root = root
        self._base = base

    def _scanned(self, folder: Path, base: Path) -> Node:
        entries = {}
        for path in sorted(folder.iterdir()):
            copy = base / path.name
            entries[path.name] = (
                self._scanned(path, copy) if path.is_dir() else Node(path.name, None, copy)
            )
        node = Node(folder.name, entries)
        self._now[node] = dict(entries)
        return node

    def record(self) -> Record:
        """What was noted; raises AssertionError where the folder is not what that makes of it."""
        record = Record(self._root, self._base, tuple(self._changes))
        whole = Choice(len(record.changes), keep_all(record.changes))
        copy = self._base.with_name(self._base.name + "-whole")
        with States(record, copy.with_name(copy.name + "-cache")) as states:
            states.make(whole, copy)
        assert _listing(copy) == _listing(self._folder), "changes went past the record"
        shutil.rmtree(copy)
        return record

    # ------------------------------------------------------------------ the calls

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Patches the calls; one thread moves the data, so that the same happens each time."""
        calls = {name: getattr(self, method) for name, method in _RECORDED.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "THREADS", 1)
            for name, call in calls.items():
                patch.setattr(os, name, self._around(call, getattr(os, name)))
            for name in _UNKNOWN:
                if hasattr(os, name):
                    patch.setattr(os, name, self._refusing(getattr(os, name)))
            patch.setattr(fcntl, "ioctl", self._around(self._ioctl, fcntl.ioctl))
            yield

    def _around(self, call: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                return call(original, *arguments, **named)

        return replacement

    def _refusing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(target: Any, *arguments: Any, **named: Any) -> Any:
            concerned = self._held(target) if isinstance(target, int) else self._inside(target)
            assert not concerned, f"os.{original.__name__} is not recorded"
            return original(target, *arguments, **named)

        return replacement

    def _path(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """Where it lies below the folder; None if it lies elsewhere."""
        if isinstance(path, int):
            return None
        whole = Path(os.fsdecode(path))
        if dir_fd is not None:
            whole = Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / whole
        return whole.relative_to(self._folder) if whole.is_relative_to(self._folder) else None

    def _inside(self, path: Any) -> bool:
        return self._path(path) is not None

    def _held(self, fd: int) -> Node | None:
        """What the descriptor is open for, unless it was closed since and is something else now."""
        node, inode = self._open.get(fd, (None, 0))
        return node if node and os.fstat(fd).st_ino == inode else None

    def _node(self, path: Path) -> Node | None:
        node = self._root
        for part in path.parts:
            found = self._now.get(node, {}).get(part)
            if found is None:
                return None
            node = found
        return node

    def _parent(self, path: Path) -> Node:
        node = self._node(path.parent)
        assert node is not None
        return node

    def _note(self, change: Change) -> None:
        self._changes.append(change)

    def _open_(self, path: Path | None, fd: int, flags: int, existed: bool) -> None:
        if path is None:
            self._open.pop(fd, None)
            return
        node = self._node(path)
        if node is None:
            assert flags & os.O_CREAT
            node = Node(str(path))
            self._enter(path, node)
            self._note(Attribute(node, mode=stat.S_IMODE(os.fstat(fd).st_mode)))
        elif flags & os.O_TRUNC and existed:
            self._note(Resize(node, 0))
        self._open[fd] = node, os.fstat(fd).st_ino

    def _enter(self, path: Path, node: Node) -> None:
        parent = self._parent(path)
        self._now[parent][path.name] = node
        self._note(Enter(parent, path.name, node))

    def _os_open(self, original: Any, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        where = self._path(path, named.get("dir_fd"))
        fd: int = original(path, flags, *rest, **named)
        self._open_(where, fd, flags, True)
        return fd

    def _os_mkdir(self, original: Any, path: Any, *rest: Any, **named: Any) -> None:
        original(path, *rest, **named)
        where = self._path(path, named.get("dir_fd"))
        if where is not None:
            node = Node(str(where), {})
            self._now[node] = {}
            self._enter(where, node)

    def _os_pwrite(self, original: Any, fd: int, data: Any, offset: int) -> int:
        count: int = original(fd, data, offset)
        if node := self._held(fd):
            self._note(Write(node, offset, bytes(data)[:count]))
        return count

    def _os_pwritev(self, original: Any, fd: int, buffers: Any, offset: int) -> int:
        count: int = original(fd, buffers, offset)
        if node := self._held(fd):
            self._note(Write(node, offset, b"".join(map(bytes, buffers))[:count]))
        return count

    def _os_ftruncate(self, original: Any, fd: int, size: int) -> None:
        original(fd, size)
        if node := self._held(fd):
            self._note(Resize(node, size))

    def _os_fsync(self, original: Any, fd: int) -> None:
        del original  # what is durable is the record's to say: the storage need not be waited for
        if node := self._held(fd):
            self._reconcile(node, Path(f"/proc/self/fd/{fd}"))
            self._note(Sync(node, _site()))

    def _reconcile(self, node: Node, path: Path) -> None:
        """Note what was written through a file object, which calls nothing that we see: JSON."""
        if node.entries is None and ".json" in node.path:
            data = path.read_bytes()
            last = next((e for e in reversed(self._changes) if e.node is node), None)
            if not (isinstance(last, Write) and last.data == data) and data:
                self._note(Write(node, 0, data))

    def _os_rename(self, original: Any, source: Any, target: Any) -> None:
        old, new = self._path(source), self._path(target)
        assert (old is None) == (new is None)
        if old is not None and new is not None:
            node, parent = self._node(old), self._parent(new)
            assert node is not None
            assert self._parent(old) is parent, "a rename from folder to folder is not recorded"
            original(source, target)
            del self._now[parent][old.name]
            self._now[parent][new.name] = node
            self._note(Enter(parent, new.name, node, old.name))
        else:
            original(source, target)

    def _os_unlink(self, original: Any, path: Any, **named: Any) -> None:
        where = self._path(path, named.get("dir_fd"))
        original(path, **named)
        if where is not None:
            parent = self._parent(where)
            self._note(Leave(parent, where.name, self._now[parent].pop(where.name)))

    def _os_chmod(self, original: Any, path: Any, mode: int, **named: Any) -> None:
        original(path, mode, **named)
        where = self._path(path)
        if where is not None and (node := self._node(where)):
            self._note(Attribute(node, mode=mode))

    def _os_utime(self, original: Any, path: Any, *rest: Any, **named: Any) -> None:
        original(path, *rest, **named)
        where = self._path(path)
        if where is not None and (node := self._node(where)):
            self._note(Attribute(node, mtime=os.stat(path).st_mtime_ns))

    def _ioctl(self, original: Any, fd: Any, request: int, argument: Any = 0, *rest: Any) -> Any:
        """Cloning a file works here on every file system: the contents are copied instead."""
        if request != host_file._FICLONE:
            return original(fd, request, argument, *rest)
        target = fd.fileno()
        data = Path(f"/proc/self/fd/{argument}").read_bytes()
        with open(f"/proc/self/fd/{target}", "r+b") as file:
            file.write(data)
        if node := self._held(target):
            self._note(Write(node, 0, data))
        return 0


_RECORDED = {
    "open": "_os_open", "mkdir": "_os_mkdir", "pwrite": "_os_pwrite", "pwritev": "_os_pwritev",
    "ftruncate": "_os_ftruncate", "fsync": "_os_fsync", "rename": "_os_rename",
    "replace": "_os_rename", "unlink": "_os_unlink", "remove": "_os_unlink", "rmdir": "_os_unlink",
    "chmod": "_os_chmod", "utime": "_os_utime",
}  # fmt: skip


def _site() -> str:
    """The place in the code that wants an fsync: who calls HostFile.sync, sync_folder and such."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ or "sync" in frame.f_code.co_name:
        assert frame.f_back is not None
        frame = frame.f_back
    module = Path(frame.f_code.co_filename).stem
    return f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}"


# ---------------------------------------------------------------------------------------- choices


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


def draw(states: States, cut: int, rng: random.Random) -> Choice:
    """A choice at that place: often an extreme one, for those are what goes wrong."""
    pending = states.pending(cut)
    changes = states.record.changes
    names = [number for number in pending if isinstance(changes[number], Enter | Leave)]
    files: dict[Node, list[int]] = {}
    for number in pending:
        if not isinstance(changes[number], Enter | Leave):
            files.setdefault(changes[number].node, []).append(number)
    manner = rng.choice((ORDERED, ANY, ANY))
    kept = _names_in_order(states, cut, names, rng) if manner == ORDERED else _some(names, rng)
    alike = rng.choice(_MANNERS) if rng.random() < 0.5 else None
    sizes = {}
    for node, numbers in files.items():
        kept |= (alike or rng.choice(_MANNERS))(numbers, rng)
        for number in numbers:
            change = changes[number]
            if isinstance(change, Write) and kept.get(number) is True and rng.random() < TORN:
                kept[number] = _sectors(change, rng)
        if rng.random() < 0.3:
            sizes[node] = rng.choice(states.sizes(node, cut))
    return Choice(cut, kept, sizes, manner == ANY and rng.random() < 0.3)


def _names_in_order(states: States, cut: int, names: list[int], rng: random.Random) -> Kept:
    """All up to some moment, which is not before the last that is durable."""
    last = states.last_durable_name(cut)
    open_end = [number for number in names if number > last]
    kept = len(names) - len(open_end) + rng.randint(0, len(open_end))
    return dict.fromkeys(names[:kept], True)


def _some(numbers: list[int], rng: random.Random) -> Kept:
    return rng.choice(_MANNERS)(numbers, rng)


def _none(numbers: list[int], rng: random.Random) -> Kept:
    del numbers, rng
    return {}


def _all(numbers: list[int], rng: random.Random) -> Kept:
    del rng
    return dict.fromkeys(numbers, True)


def _any(numbers: list[int], rng: random.Random) -> Kept:
    share = rng.choice((0.1, 0.5, 0.9))
    return {number: True for number in numbers if rng.random() < share}


def _one(numbers: list[int], rng: random.Random) -> Kept:
    return {rng.choice(numbers): True} if numbers else {}


def _all_but_one(numbers: list[int], rng: random.Random) -> Kept:
    lost = rng.choice(numbers) if numbers else None
    return {number: True for number in numbers if number != lost}


def _first(numbers: list[int], rng: random.Random) -> Kept:
    return dict.fromkeys(numbers[: rng.randint(0, len(numbers))], True)


def _last(numbers: list[int], rng: random.Random) -> Kept:
    return dict.fromkeys(numbers[rng.randint(0, len(numbers)) :], True)


_MANNERS = (_none, _all, _any, _one, _all_but_one, _first, _last)


def _sectors(write: Write, rng: random.Random) -> Flags:
    """Which sectors of a torn write are there: its start, its end, or any."""
    first, end = write.offset // SECTOR, -(-(write.offset + len(write.data)) // SECTOR)
    number = np.arange(end - first)
    # headers and such change in their first sectors, and the rest is as it was
    place = rng.choice((rng.randint(0, end - first), rng.randint(1, 4)))
    manner = rng.randrange(4)
    if manner == 0:
        return np.asarray(number < place)
    if manner == 1:
        return np.asarray(number >= place)
    generator = np.random.default_rng(rng.getrandbits(32))
    pages = 1 if manner == 2 else 8  # whole pages of 4 KiB, or single sectors
    return np.repeat(generator.random(-(-len(number) // pages)) < rng.random(), pages)[
        : len(number)
    ]


# ----------------------------------------------------------------------------------------- states


@dataclass(frozen=True)
class _File:
    """A file of a state: what is durable of it, and what else is there."""

    path: Path
    node: Node
    durable: int
    kept: tuple[tuple[int, bool | Flags], ...]
    size: int | None

    def key(self) -> str:
        """The same for the same contents."""
        kept = [(n, k if isinstance(k, bool) else k.tobytes()) for n, k in self.kept]
        return repr((str(self.path), id(self.node), self.durable, kept, self.size))


class States:
    """Makes the states that a record allows. A context manager, which removes its cache."""

    def __init__(self, record: Record, cache: Path) -> None:
        self.record = record
        self._cache = cache
        self._seen: set[bytes] = set()
        self._of: dict[Node, list[int]] = {}
        self._syncs: dict[Node, list[int]] = {}
        for number, change in enumerate(record.changes):
            kind = self._syncs if isinstance(change, Sync) else self._of
            kind.setdefault(change.node, []).append(number)

    def __enter__(self) -> Self:
        self._cache.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._cache)

    # ------------------------------------------------------------------ what is durable

    def _durable(self, node: Node, cut: int) -> int:
        """Changes of the node before this number are there for good."""
        return max((number for number in self._syncs.get(node, ()) if number < cut), default=0)

    def pending(self, cut: int) -> list[int]:
        """The changes before `cut` that no fsync has made durable."""
        return sorted(
            number
            for node, numbers in self._of.items()
            for number in numbers
            if self._durable(node, cut) <= number < cut
        )

    def last_durable_name(self, cut: int) -> int:
        """The number of the last change of a name that is there for good; -1 if there is none."""
        return max(
            (
                number
                for node, numbers in self._of.items()
                for number in numbers
                if number < self._durable(node, cut)
                and isinstance(self.record.changes[number], Enter | Leave)
            ),
            default=-1,
        )

    def sizes(self, node: Node, cut: int) -> list[int]:
        """All lengths that a file had since its last fsync, in bytes."""
        size, seen = (node.base.stat().st_size if node.base else 0), []
        durable = self._durable(node, cut)
        for number in self._of[node]:
            if number >= cut:
                break
            if number >= durable and not seen:
                seen.append(size)
            change = self.record.changes[number]
            if isinstance(change, Resize):
                size = change.size
            elif isinstance(change, Write):
                size = max(size, change.offset + len(change.data))
            if number >= durable:
                seen.append(size)
        return seen or [size]

    # ------------------------------------------------------------------ making one

    def is_new(self, choice: Choice) -> bool:
        """Whether no choice that was asked about before makes the same state."""
        whole = (choice.cut == len(self.record.changes), choice.stale)
        keys = sorted(each.key() for each in self._files(choice)[1])
        key = hashlib.blake2b(repr((whole, keys)).encode(), digest_size=16).digest()
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def make(self, choice: Choice, target: Path) -> None:
        """Make the state as a new folder; what is shared with other states must not be changed."""
        folders, files = self._files(choice)
        target.mkdir()
        for folder in folders:
            (target / folder).mkdir()
        for each in files:
            if each.kept or each.size is not None:  # else nothing lies behind its durable end
                self._write(each, target / each.path, choice.stale)
            else:
                os.link(self._cached(each), target / each.path)

    def _files(self, choice: Choice) -> tuple[list[Path], list[_File]]:
        folders: list[Path] = []
        files: list[_File] = []

        def walk(node: Node, path: Path) -> None:
            for name, entry in names[node].items():
                if entry in names:
                    folders.append(path / name)
                    walk(entry, path / name)
                else:
                    files.append(self._file(path / name, entry, choice))

        names = self._names(choice)
        walk(self.record.root, Path())
        return folders, files

    def _file(self, path: Path, node: Node, choice: Choice) -> _File:
        durable = self._durable(node, choice.cut)
        numbers = [n for n in self._of.get(node, ()) if n < choice.cut]
        kept = [(n, choice.kept[n]) for n in numbers if n >= durable and n in choice.kept]
        kept = [(n, k) for n, k in kept if k is True or (isinstance(k, np.ndarray) and k.any())]
        there = sum(n < durable for n in numbers)
        return _File(path, node, there, tuple(kept), choice.sizes.get(node))

    def _names(self, choice: Choice) -> dict[Node, dict[str, Node]]:
        """Folder to its entries; also of folders that have no name themselves."""
        names = _Names(self.record.root)
        durable: dict[Node, int] = {}
        for number, change in enumerate(self.record.changes[: choice.cut]):
            if isinstance(change, Enter | Leave):
                if change.node not in durable:
                    durable[change.node] = self._durable(change.node, choice.cut)
                if number < durable[change.node] or number in choice.kept:
                    names.apply(change)
        return names.of

    # ------------------------------------------------------------------ contents

    def _cached(self, file: _File) -> Path:
        """What is durable of it, as a file that states share."""
        path = self._cache / f"{id(file.node)}-{file.durable}"
        if not path.exists():
            self._write(replace(file, kept=(), size=None), path, stale=False)
        return path

    def _write(self, file: _File, path: Path, stale: bool) -> None:
        base = file.node.base
        contents = _Contents(base)
        changes = self.record.changes
        numbers = self._of.get(file.node, [])
        for number in numbers[: file.durable]:
            contents.apply(changes[number], True)
        if stale:
            contents.spoil([changes[number] for number in numbers[file.durable :]])
        for number, kept in file.kept:
            contents.apply(changes[number], kept)
        if file.size is not None:
            contents.resize(file.size)
        write_sparse(path, contents.array)
        if contents.mtime is not None:
            os.utime(path, ns=(contents.mtime, contents.mtime))
        path.chmod(contents.mode)


class _Names:
    """The names in all folders while they change.

    Attributes:
        of: folder to its entries, also of folders that have no name themselves.
    """

    def __init__(self, root: Node) -> None:
        self.of: dict[Node, dict[str, Node]] = {}
        self._places: dict[Node, tuple[Node, str]] = {}
        self._begin(root)

    def _begin(self, node: Node) -> None:
        if node.entries is not None and node not in self.of:
            self.of[node] = dict(node.entries)
            for name, entry in node.entries.items():
                self._places[entry] = node, name
                self._begin(entry)

    def apply(self, change: Enter | Leave) -> None:
        """A file that has a name loses it by getting another: nothing here makes links."""
        names = self.of.setdefault(change.node, {})
        displaced = names.get(change.name)
        if isinstance(change, Leave):
            if displaced is change.entry:
                del names[change.name], self._places[change.entry]
            return
        self._begin(change.entry)
        if change.entry in self._places:
            where, old = self._places[change.entry]
            del self.of[where][old]
        if displaced not in (None, change.entry):
            del self._places[displaced]
        names[change.name] = change.entry
        self._places[change.entry] = change.node, change.name


class _Contents:
    """A file while changes are done to it.

    Attributes:
        array: uint8[length of the file].
        mode, mtime: the latter is None where it is the moment of a write.
    """

    def __init__(self, base: Path | None) -> None:
        status = base.stat() if base else None
        self.array: Bytes = np.fromfile(base, np.uint8) if base else np.zeros(0, np.uint8)
        self.mode = stat.S_IMODE(status.st_mode) if status else 0o600
        self.mtime = status.st_mtime_ns if status else None
        self._behind: list[tuple[int, Bytes]] = []  # old contents of the storage

    def apply(self, change: Change, kept: bool | Flags) -> None:
        """Do a change, or of a write some sectors."""
        if isinstance(change, Write):
            self.write(change, kept)
            self.mtime = None
        elif isinstance(change, Resize):
            self.resize(change.size)
        elif isinstance(change, Attribute):
            self.mode = self.mode if change.mode is None else change.mode
            self.mtime = self.mtime if change.mtime is None else change.mtime

    def resize(self, size: int) -> None:
        """Cut it off, or make it longer: by zeros, or by what was on the storage."""
        length = len(self.array)
        if size <= length:
            self.array = self.array[:size].copy()
            return
        self.array = np.concatenate([self.array, np.zeros(size - length, np.uint8)])
        for offset, noise in self._behind:
            first, end = max(offset, length), min(offset + len(noise), size)
            if first < end:
                self.array[first:end] = noise[first - offset : end - offset]

    def write(self, write: Write, kept: bool | Flags) -> None:
        """A write, or some sectors of it."""
        data = np.frombuffer(write.data, np.uint8)
        first, offset = write.offset // SECTOR, write.offset
        if isinstance(kept, bool):
            runs = [(0, len(data))]
        else:
            edges = np.flatnonzero(np.diff(np.concatenate(([0], kept.view(np.int8), [0]))))
            places = np.clip((edges + first) * SECTOR - offset, 0, len(data))
            runs = [(int(a), int(b)) for a, b in places.reshape(-1, 2)]
        for start, end in runs:
            if offset + end > len(self.array):
                self.resize(offset + end)
            self.array[offset + start : offset + end] = data[start:end]

    def spoil(self, changes: list[Change]) -> None:
        """What the file gets behind its end was something else before."""
        generator = np.random.default_rng(len(self.array))
        for change in changes:
            if isinstance(change, Write):
                noise = generator.integers(1, 255, len(change.data), np.uint8, endpoint=True)
                self._behind.append((change.offset, noise))


def write_sparse(path: Path, array: Bytes) -> None:
    """Write a new file; pages of zeros become holes."""
    page = 4096
    padded = np.zeros(-(-len(array) // page) * page, np.uint8)
    padded[: len(array)] = array
    used = padded.view(np.uint64).reshape(-1, page // 8).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], used.view(np.int8), [0]))))
    with open(path, "xb", buffering=0) as file:
        file.truncate(len(array))
        for first, end in edges.reshape(-1, 2).tolist():
            file.seek(first * page)
            file.write(memoryview(array[first * page : end * page]))


def copy_tree(source: Path, target: Path) -> None:
    """A copy with holes, modes and times."""
    target.mkdir()
    for path in source.iterdir():
        copy = target / path.name
        if path.is_dir():
            copy_tree(path, copy)
        else:
            write_sparse(copy, np.fromfile(path, np.uint8))
            shutil.copystat(path, copy)


def _listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's and folder's contents and mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        data = b"" if path.is_dir() else hashlib.blake2b(path.read_bytes()).digest()
        found[str(path.relative_to(folder))] = data, 0 if path.is_dir() else path.stat().st_mode
    return found


@contextmanager
def shared_files_kept() -> Iterator[None]:
    """Whoever changes a file that states share changes a copy of it; and nobody waits for disks."""
    original_open, original_chmod, original_utime = os.open, os.chmod, os.utime

    def own(path: Any) -> None:
        status = os.stat(path)
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            data, other = np.fromfile(path, np.uint8), Path(f"{os.fspath(path)}.own")
            write_sparse(other, data)
            shutil.copystat(path, other)
            os.rename(other, path)

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not while a state is looked at")
        if flags & (os.O_WRONLY | os.O_RDWR) and os.path.exists(path):
            own(path)
        return original_open(path, flags, *rest, **named)

    def changed(original: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, *rest: Any, **named: Any) -> None:
            own(path)
            original(path, *rest, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(os, "chmod", changed(original_chmod))
        patch.setattr(os, "utime", changed(original_utime))
        patch.setattr(os, "fsync", lambda fd: None)
        yield
