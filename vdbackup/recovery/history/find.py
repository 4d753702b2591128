"""Files by name, in all points of a set."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, union
from vdbackup.errors import NotInPoint, RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery.browse import Entry
from vdbackup.recovery.history import walk
from vdbackup.recovery.history.changes import NOTHING, Traced, touches
from vdbackup.recovery.history.disks import in_order
from vdbackup.recovery.history.index import Index, Name
from vdbackup.recovery.history.unlocking import Unlocking
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.volumes import Volumes

MOST_FOUND = 10_000
"""Files of one point that are listed."""


@dataclass(frozen=True)
class Pattern:
    """Which names are meant.

    Attributes:
        text: as a shell has it (`*.odt`, `report-?`); with a slash in it, it means whole paths.
        any_case: whether capitals and small letters are the same.
    """

    text: str
    any_case: bool = False

    def compiled(self) -> re.Pattern[str]:
        """For `matches`."""
        flags = re.IGNORECASE if self.any_case else 0
        return re.compile(fnmatch.translate(self.text), flags | re.DOTALL)

    def subject(self, path: str) -> str:
        """What of a path has to match."""
        return path if "/" in self.text else path.rpartition("/")[2]


@dataclass(frozen=True)
class Occurrence:
    """A state of a file whose name matches.

    Attributes:
        path: of it.
        name: what it is there.
        points: those that hold it so, by sequence.
    """

    path: str
    name: Name
    points: tuple[RecoveryPoint, ...]


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        found: by path, and then by point.
        read: how many points had to be read.
        warnings: what could not be read, and why.
    """

    found: tuple[Occurrence, ...]
    read: int
    warnings: tuple[str, ...]


def find(
    repository: Repository,
    set_name: str,
    pattern: Pattern,
    index_file: Path | None,
    task: Task,
    keys: Keys | None = None,
) -> Search:
    """The files in a set's points whose names match.

    Args:
        repository: where the set is.
        set_name: the set.
        pattern: of the names.
        index_file: where the names are kept from one search to the next; None to read all points.
        task: what it reports to, and what stops it; what was read until then is kept.
        keys: of what is encrypted. With any, no index is used: names that lie enciphered on the
            disk are written nowhere else.

    Raises:
        PointInUse: points are just being changed. WrongKey: no point was opened with the keys.
        Cancelled, RepositoryError.
    """
    unlocking = Unlocking(keys or Keys())
    if keys:
        index_file = None
    ids = [point.id for point in repository.set(set_name).points]
    doing = tr("searching for {text}", text=printable(pattern.text))
    with claims.reading(repository, set_name, ids, doing) as backup_set:
        points = backup_set.points
        with Index.load(index_file, points) as index:
            reader = _Reader(backup_set, index, unlocking)
            try:
                reader.read(points, task)
            finally:
                if index_file is not None:
                    index.save(index_file)
            with suppress(NotInPoint):  # nothing in this set is encrypted: it is searched, too
                unlocking.check()
            found = tuple(_matching(index, points, pattern))
            by_id = {point.id: point.sequence for point in points}
            unread = [
                tr("Point {by_id}: {text}", by_id=by_id[each], text=text)
                for each, text in index.warnings()
                if each in by_id
            ]
    return Search(found, reader.count, (*reader.warnings, *unread))


def in_volumes(volumes: Volumes, text: str, task: Task) -> list[Entry]:
    """Files and folders of one point whose names hold a text, by path; MOST_FOUND at most.

    Args:
        volumes: the point's.
        text: some letters of the name, or what a shell has (`*.odt`); capitals and small letters
            are the same.
        task: what stops it.

    Raises Cancelled.
    """
    plain = not any(sign in text for sign in "*?[")
    pattern = Pattern(f"*{text}*" if plain else text, any_case=True)
    matches = pattern.compiled().match
    found: list[Entry] = []
    for each in walk.files(volumes, task, []):
        if each.path != "/" and matches(pattern.subject(each.path)):
            found.append(Entry.of(each.path.rpartition("/")[2], each.path, each.stat))
        if len(found) == MOST_FOUND:
            break
    return found


def _matching(
    index: Index, points: Sequence[RecoveryPoint], pattern: Pattern
) -> Iterator[Occurrence]:
    """By path and point, whatever the order in which the points were looked through."""
    matches, subject = pattern.compiled().match, pattern.subject
    ids = index.points
    states: dict[str, dict[str, Name]] = {}
    for stretch in index.names():
        if matches(subject(stretch.path)):
            held = dict.fromkeys(ids[stretch.first : stretch.last + 1], stretch.name)
            states.setdefault(stretch.path, {}).update(held)
    known = set(ids)
    looked_through = [point for point in points if point.id in known]
    for path, names in states.items():
        by_state = groupby(
            [(names.get(point.id), point) for point in looked_through], itemgetter(0)
        )
        for name, holding in by_state:
            if name is not None:
                yield Occurrence(path, name, tuple(point for _, point in holding))


class _Reader:
    """Adds the points to an index that it does not hold."""

    def __init__(self, backup_set: BackupSet, index: Index, unlocking: Unlocking) -> None:
        self.count = 0
        self.warnings: list[str] = []
        self._set, self._index, self._unlocking = backup_set, index, unlocking
        self._looked_at: Ranges | None = None
        self._since: Ranges = NOTHING

    def read(self, points: Sequence[RecoveryPoint], task: Task) -> None:
        known = set(self._index.points)
        missing = [point for point in points if point.id not in known]
        with closing(in_order(self._set, missing)) as moments:
            for number, moment in enumerate(moments):
                task.phase(tr("Reading points"), number, len(missing))
                if moment.disk is None:
                    because = moment.problem.title if moment.problem else ""
                    self.warnings.append(
                        tr(
                            "Point {point} cannot be read: {because}",
                            point=moment.point.sequence,
                            because=because,
                        )
                    )
                    continue
                if moment.maybe is None:
                    self._looked_at = None
                else:
                    self._since = union(self._since, moment.maybe)
                self._read_one(moment.point, moment.disk, task)

    def _read_one(self, point: RecoveryPoint, disk: Chain, task: Task) -> None:
        if self._looked_at is not None and not touches(self._looked_at, self._since):
            self._index.repeat(point)
            return
        traced = Traced(disk)
        warnings: list[str] = []
        found: list[tuple[str, Name]] = []
        try:
            found = [
                (each.path, Name(str(each.stat.kind), each.stat.size, each.stat.modified))
                for each in walk.files(self._unlocking.volumes(traced), task, warnings)
            ]
        except RecoveryError as error:
            warnings.append(error.title)
        self.count += 1
        self._index.append(point, found, warnings)
        self._looked_at, self._since = traced.ranges, NOTHING
