"""The names of all files in a set's points, kept so that a search need not read the points again.

A small database in one file: each row is a path, what it stood for, and the first and the last of
the points that hold it so, counted as they were looked through, which need not be their order. A
point stays as it is, so its names are read once. The file is a cache and nothing else: it is sealed
by a digest of all of it, and names the points by what their manifests say. Where any of that does
not fit, or it is of another version, all is read from the disks again.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import zstandard
from blake3 import blake3

from vdbackup import durable
from vdbackup.errors import VdbackupError
from vdbackup.repository.model import RecoveryPoint
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_MAGIC = b"VDBNAMES\x01"
"""The layout, and which readers found the names: another number where either changes."""
_SEAL = 32
_MAX_FILE = 1 << 30
"""Bytes of the file; what is larger is not read."""
_MAX_SIZE = 8 << 30
"""Bytes of the database in it."""
_TABLES = """
create table points (number integer primary key, id text, mark text);
create table names (path blob, kind text, size integer, modified integer, first integer,
    last integer);
create table warnings (number integer, text text);
create index by_path on names (path, first);
create index by_last on names (last);
"""


class Name(NamedTuple):
    """What a path stood for: its kind, its size in bytes, and when it was modified, in ns."""

    kind: str
    size: int
    modified: int | None


@dataclass(frozen=True)
class Stretch:
    """A state of a path, and the numbers of the first and the last point that hold it."""

    path: str
    name: Name
    first: int
    last: int


class Index:
    """The names in points that were looked through, in their order. A context manager."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._changed = False
        rows = database.execute("select id, mark from points order by number")
        self._marks = [(str(each), str(mark)) for each, mark in rows]

    @classmethod
    def empty(cls) -> Self:
        """One without points."""
        database = sqlite3.connect(":memory:")
        database.executescript(_TABLES)
        return cls(database)

    @classmethod
    def load(cls, file: Path | None, points: Sequence[RecoveryPoint]) -> Self:
        """What a file holds, or an empty one where that is of no use for these points.

        It may lack some of them, and hold some that are gone.
        """
        if file is not None:
            try:
                index = cls(_opened(durable.read_own(file, _MAX_FILE)))
            except (
                OSError,
                ValueError,
                VdbackupError,
                sqlite3.Error,
                zstandard.ZstdError,
            ) as error:
                if not isinstance(error, FileNotFoundError):
                    log.info("%s is made anew: %s", file, error)
            else:
                if index._is_of(points):
                    return index
                index._database.close()
        return cls.empty()

    @property
    def points(self) -> list[str]:
        """Ids of the points that were looked through."""
        return [each for each, _ in self._marks]

    def _is_of(self, points: Sequence[RecoveryPoint]) -> bool:
        """Whether none of the points is another one by now."""
        marks = {point.id: mark(point) for point in points}
        return all(marks.get(each, made) == made for each, made in self._marks)

    def repeat(self, point: RecoveryPoint) -> None:
        """Add a point that holds the same names as the last one."""
        number = self._add(point)
        self._database.execute("update names set last = ? where last = ?", (number, number - 1))

    def append(
        self, point: RecoveryPoint, names: Iterable[tuple[str, Name]], warnings: Sequence[str]
    ) -> None:
        """Add a point that holds these names, as far as the warnings do not say otherwise."""
        number = self._add(point)
        rows = ((number, printable(each)) for each in warnings)
        self._database.executemany("insert into warnings values (?, ?)", rows)
        open_rows = self._database.execute(
            "select rowid, path, kind, size, modified from names where last = ?", (number - 1,)
        )
        before = {path: (row, Name(*name)) for row, path, *name in open_rows}
        same, new = [], []
        for path, name in names:
            key = os.fsencode(path)
            row, earlier = before.get(key, (0, None))
            if earlier == name:
                same.append((number, row))
            else:
                new.append((key, *name, number, number))
        self._database.executemany("update names set last = ? where rowid = ?", same)
        self._database.executemany("insert into names values (?, ?, ?, ?, ?, ?)", new)

    def _add(self, point: RecoveryPoint) -> int:
        number = len(self._marks)
        self._marks.append((point.id, mark(point)))
        self._database.execute("insert into points values (?, ?, ?)", (number, *self._marks[-1]))
        self._changed = True
        return number

    def names(self) -> Iterator[Stretch]:
        """All of it, by path and then by point."""
        rows = self._database.execute(
            "select path, kind, size, modified, first, last from names order by path, first"
        )
        for path, kind, size, modified, first, last in rows:
            yield Stretch(os.fsdecode(path), Name(kind, size, modified), first, last)

    def warnings(self) -> Iterator[tuple[str, str]]:
        """What was not looked through: the point's id, and why."""
        for number, text in self._database.execute("select number, text from warnings"):
            yield self._marks[number][0], text

    def save(self, file: Path) -> None:
        """Write it into a file, if anything was added; a folder that takes none costs nothing."""
        if not self._changed:
            return
        self._database.commit()
        packed = zstandard.ZstdCompressor().compress(self._database.serialize())
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(file, _MAGIC + blake3(packed).digest() + packed)
        except (OSError, VdbackupError) as error:
            log.info("%s is not kept: %s", file, error)

    def close(self) -> None:
        """Let go of its memory."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mark(point: RecoveryPoint) -> str:
    """What a point is known by beside its id; a merge leaves it as it is."""
    return json.dumps([point.created, point.virtual_size])


def _opened(data: bytes) -> sqlite3.Connection:
    """The database in a file; raises ValueError where it is not what was written."""
    start = len(_MAGIC) + _SEAL
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(tr("it is of another version"))
    packed = data[start:]
    if blake3(packed).digest() != data[len(_MAGIC) : start]:
        raise ValueError(tr("it is damaged"))
    if zstandard.frame_content_size(packed) > _MAX_SIZE:
        raise ValueError(tr("it is too large"))
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(zstandard.ZstdDecompressor().decompress(packed))
        with closing(database.execute("select count(*) from names")):
            return database
    except BaseException:
        database.close()
        raise
