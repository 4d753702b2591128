"""The names of all files in a set's points, kept so that a search need not read the points again.

A small database in one file: each row is a path, what it stood for, and the first and the last of
the points that hold it so, counted as they were looked through, which need not be their order. Of
each point it has what was read for that, and the digest of it (seen.py): the names are those of a
point as long as it holds the same there, however it is called and whatever was merged meanwhile.

The file is a cache and nothing else. It is sealed by a digest of all of it, and what it holds is
checked before it is used. Where it is damaged, makes no sense or is of another version, all is read
from the disks again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import zstandard
from blake3 import blake3

from vdbackup import durable
from vdbackup.disks.extents import Int64s
from vdbackup.errors import VdbackupError
from vdbackup.recovery.history.seen import Seen
from vdbackup.repository.digests import BLOCK, DIGEST
from vdbackup.repository.model import RecoveryPoint
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Kind

log = logging.getLogger(__name__)

_MAGIC = b"VDBNAMES\x03"
"""The layout, and which readers found the names: another number where either changes."""
_SEAL = 32
_MAX_FILE = 1 << 30
"""Bytes of the file; what is larger is not read."""
_MAX_SIZE = 8 << 30
"""Bytes of the database in it."""
_MAX_BLOCKS = 1 << 26
"""That are read for the names of a point: 4 TiB."""
_TABLES = """
create table points (number integer primary key, id text not null, seen integer,
    locked integer not null) strict;
create table seen (number integer primary key, ranges blob not null, digest blob not null) strict;
create table names (path blob not null, kind text not null, size integer not null, modified integer,
    first integer not null, last integer not null) strict;
create table warnings (number integer not null, text text not null) strict;
"""
_BY_LAST = "create index by_last on names (last)"
"""While it is in memory: what a file says of its own order would be one more thing to check."""
_CONTRADICTIONS = (
    "select 1 from points where number not between 0 and (select count(*) from points) - 1",
    "select 1 from points where seen not in (select number from seen)",
    """select 1 from names where size < 0 or first < 0 or last < first
        or last >= (select count(*) from points)""",
    "select 1 from warnings where number not in (select number from points)",
)
"""What there is none of in what was written."""


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
    """The names in points that were looked through, in their order. A context manager.

    Attributes:
        points: ids of the points that were looked through; "" in the place of one that is no more
            what it was.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        """Raises ValueError where what is kept of what was read makes no sense."""
        self._database = database
        self._changed = False
        rows = database.execute("select number, ranges, digest from seen")
        kept = {number: _seen(ranges, digest) for number, ranges, digest in rows}
        found = list(database.execute("select id, seen, locked from points order by number"))
        self.points = [str(each) for each, _, _ in found]
        self._seen = {each: kept[number] for each, number, _ in found if number is not None}
        self._last: tuple[int | None, bool] = (None, False)
        """Of the last point: where it is kept what was read for it, and whether it is locked."""
        if found:
            self._last = found[-1][1], bool(found[-1][2])

    @classmethod
    def empty(cls) -> Self:
        """One without points."""
        return cls(_indexed(_without_names()))

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """What a file holds, or an empty one where that is of no use.

        It may lack some points, and hold some that are gone, or no more what they were.
        """
        if file is None:
            return cls.empty()
        try:
            database = _opened(durable.read_own(file, _MAX_FILE))
        except FileNotFoundError:
            return cls.empty()
        except (OSError, ValueError, VdbackupError, sqlite3.Error, zstandard.ZstdError) as error:
            log.info("%s is made anew: %s", file, error)
            return cls.empty()
        try:
            _check(database)
            return cls(_indexed(database))
        except (ValueError, sqlite3.Error) as error:
            log.info("%s is made anew: %s", file, error)
            database.close()
            return cls.empty()

    def seen(self, point: RecoveryPoint) -> Seen | None:
        """What was read for a point's names; None where they are not known."""
        return self._seen.get(point.id)

    @property
    def last_seen(self) -> Seen | None:
        """The same of the last point."""
        return self._seen.get(self.points[-1]) if self.points else None

    def forget(self, point: RecoveryPoint) -> None:
        """A point is no more what it was, or is gone; those that it is like stay."""
        self._forget(point.id)

    def _forget(self, point_id: str) -> None:
        number = self.points.index(point_id)
        self.points[number] = ""
        self._seen.pop(point_id, None)
        self._database.execute("update points set id = '', seen = null where number = ?", (number,))
        self._database.execute("delete from warnings where number = ?", (number,))
        self._changed = True

    def repeat(self, point: RecoveryPoint) -> None:
        """Add a point that holds the same as the last one, where that was read."""
        seen = self._seen[self.points[-1]]
        number = self._add(point, seen, *self._last)
        self._database.execute("update names set last = ? where last = ?", (number, number - 1))
        self._database.execute(
            "insert into warnings select ?, text from warnings where number = ?",
            (number, number - 1),
        )

    def append(
        self,
        point: RecoveryPoint,
        names: Iterable[tuple[str, Name]],
        warnings: Sequence[str],
        seen: Seen | None,
        *,
        is_locked: bool,
    ) -> None:
        """Add a point that holds these names, as far as the warnings do not say otherwise.

        Args:
            point: the point.
            names: the paths, and what each stands for.
            warnings: what could not be looked through.
            seen: what was read for that; where it is not known none of it is saved.
            is_locked: whether something is encrypted in it.
        """
        row = None
        if seen is not None:
            kept = (seen.ranges.astype("<i8").tobytes(), seen.digest)
            insert = "insert into seen (ranges, digest) values (?, ?)"
            row = self._database.execute(insert, kept).lastrowid
        number = self._add(point, seen, row, is_locked)
        rows = ((number, printable(each)) for each in warnings)
        self._database.executemany("insert into warnings values (?, ?)", rows)
        open_rows = self._database.execute(
            "select rowid, path, kind, size, modified from names where last = ?", (number - 1,)
        )
        before = {path: (row, Name(*name)) for row, path, *name in open_rows}
        same, new = [], []
        for path, name in names:
            key = os.fsencode(path)
            at, earlier = before.get(key, (0, None))
            if earlier == name:
                same.append((number, at))
            else:
                new.append((key, *name, number, number))
        self._database.executemany("update names set last = ? where rowid = ?", same)
        self._database.executemany("insert into names values (?, ?, ?, ?, ?, ?)", new)

    def _add(
        self, point: RecoveryPoint, seen: Seen | None, row: int | None, is_locked: bool
    ) -> int:
        number = len(self.points)
        self.points.append(point.id)
        if seen is not None:
            self._seen[point.id] = seen
        self._last = row, is_locked
        insert = "insert into points values (?, ?, ?, ?)"
        self._database.execute(insert, (number, point.id, row, is_locked))
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
        """What was not looked through: the first point's id of which that holds, and why."""
        rows = self._database.execute(
            "select number, text from warnings where not exists (select 1 from warnings as before"
            " where before.number = warnings.number - 1 and before.text = warnings.text)"
        )
        for number, text in rows:
            yield self.points[number], text

    def is_locked(self, points: Sequence[RecoveryPoint]) -> bool:
        """Whether something is encrypted in any of these."""
        rows = self._database.execute("select distinct id from points where locked")
        locked = {each for (each,) in rows}
        return any(point.id in locked for point in points)

    def save(self, file: Path, points: Sequence[RecoveryPoint]) -> None:
        """Write it into a file, if anything was added; a folder that takes none costs nothing.

        What is of none of these points is left out, and of those of which it is not known what was
        read. It is of no use afterwards.
        """
        if not self._changed:
            return
        self._leave_out({point.id for point in points})
        self._database.execute("drop index by_last")
        self._database.commit()
        self._database.execute("vacuum")
        packed = zstandard.ZstdCompressor().compress(self._database.serialize())
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(file, _MAGIC + blake3(packed).digest() + packed)
        except (OSError, VdbackupError) as error:
            log.info("%s is not kept: %s", file, error)

    def _leave_out(self, live: set[str]) -> None:
        for each in [each for each in self.points if each and each not in live & self._seen.keys()]:
            self._forget(each)
        there = np.array([bool(each) for each in self.points], np.int64)
        before = np.append(0, np.cumsum(there))
        stretches = self._database.execute("select distinct first, last from names").fetchall()
        gone = [(first, last) for first, last in stretches if before[first] == before[last + 1]]
        self._database.executemany("delete from names where first = ? and last = ?", gone)
        self._database.execute(
            "delete from seen where number not in (select seen from points where seen is not null)"
        )

    def close(self) -> None:
        """Let go of its memory."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    """Raise ValueError or sqlite3.Error unless it holds our tables, and in them what may be there.

    Of a file that somebody else has sealed nothing is run, and nothing points to where nothing is.
    """
    with closing(_without_names()) as ours:
        if _schema(database) != _schema(ours):
            raise ValueError(tr("it has other tables"))
    if list(database.execute("pragma quick_check")) != [("ok",)]:
        raise ValueError(tr("it is damaged"))
    kinds = {kind for (kind,) in database.execute("select distinct kind from names")}
    if not kinds <= set(Kind) or any(database.execute(each).fetchone() for each in _CONTRADICTIONS):
        raise ValueError(tr("it contradicts itself"))


def _schema(database: sqlite3.Connection) -> set[tuple[str, ...]]:
    return set(database.execute("select type, name, tbl_name, sql from sqlite_schema"))


def _without_names() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.executescript(_TABLES)
    return database


def _indexed(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute(_BY_LAST)
    return database


def _seen(ranges: bytes, digest: bytes) -> Seen:
    if len(ranges) % 16 or len(digest) != DIGEST:
        raise ValueError(tr("it contradicts itself"))
    read: Int64s = np.frombuffer(ranges, "<i8").astype(np.int64).reshape(-1, 2)
    starts, lengths = read[:, 0], read[:, 1]
    sane = (starts >= 0) & (starts < 1 << 50) & (lengths > 0) & (lengths <= _MAX_BLOCKS * BLOCK)
    if (
        not sane.all()
        or (starts % BLOCK).any()
        or float(lengths.sum(dtype=np.float64)) > _MAX_BLOCKS * BLOCK
    ):
        raise ValueError(tr("it contradicts itself"))
    if (starts[1:] < starts[:-1] + lengths[:-1]).any():
        raise ValueError(tr("it contradicts itself"))
    return Seen(read, digest)
