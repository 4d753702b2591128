"""Makes folders that a power cut can leave, of a record and a choice of what is there of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from tests.crash.folders import write_sparse
from tests.crash.record import (
    SECTOR,
    Attribute,
    Bytes,
    Change,
    Choice,
    Enter,
    Flags,
    Leave,
    Node,
    Record,
    Resize,
    Sync,
    Write,
)


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
        size, seen = (node.base.stat().st_size if node.base else 0), list[int]()
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
        kept = [(n, k) for n, k in kept if k is True or k.any()]
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
