"""Files by name, in all points of a set."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.errors import DiskError, NotInPoint, RecoveryError, VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery.browse import Entry
from vdbackup.recovery.history import walk
from vdbackup.recovery.history.changes import Traced
from vdbackup.recovery.history.disks import in_order
from vdbackup.recovery.history.index import Index, Name
from vdbackup.recovery.history.seen import Folds, Seen
from vdbackup.recovery.history.unlocking import Unlocking
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.checked import CheckedDisk
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.unit_digests import in_units
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.volumes import Volumes

log = logging.getLogger(__name__)

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

    @classmethod
    def typed(cls, text: str) -> Pattern:
        """What somebody means who types some letters of a name, or what a shell has."""
        plain = not any(sign in text for sign in "*?[")
        return cls(f"*{text}*" if plain else text, any_case=True)

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
        is_locked: whether something was encrypted that no key has opened.
    """

    found: tuple[Occurrence, ...]
    read: int
    warnings: tuple[str, ...]
    is_locked: bool = False


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
        with Index.load(index_file) as index:
            reader = _Reader(backup_set, index, unlocking)
            with _kept(index, index_file, points):
                reader.read(points, task)
                with suppress(NotInPoint):  # nothing in this set is encrypted: it is searched, too
                    unlocking.check()
                found = tuple(_matching(index, points, pattern))
                by_id = {point.id: point.sequence for point in points}
                unread = [
                    tr("Point {by_id}: {text}", by_id=by_id[each], text=text)
                    for each, text in index.warnings()
                    if each in by_id
                ]
                is_locked = index.is_locked(points)
    return Search(found, reader.count, (*reader.warnings, *unread), is_locked=is_locked)


def note_names(repository: Repository, set_name: str, index_file: Path, task: Task) -> int:
    """Bring what searches know of a set up to date, so that the next one need not read it.

    Returns:
        How many points had to be read.

    Raises:
        PointInUse: points are just being changed. Cancelled: what was read until then is kept.
        RepositoryError.
    """
    ids = [point.id for point in repository.set(set_name).points]
    doing = tr("noting the names of files")
    with (
        claims.reading(repository, set_name, ids, doing) as backup_set,
        Index.load(index_file) as index,
    ):
        reader = _Reader(backup_set, index, Unlocking(Keys()))
        with _kept(index, index_file, backup_set.points):
            reader.read(backup_set.points, task)
    return reader.count


@contextmanager
def _kept(index: Index, file: Path | None, points: Sequence[RecoveryPoint]) -> Iterator[None]:
    """Keep what an index has got meanwhile, however that ends."""
    try:
        yield
    finally:
        if file is not None:
            index.save(file, points)


def in_volumes(volumes: Volumes, text: str, task: Task) -> list[Entry]:
    """Files and folders of one point whose names hold a text, by path; MOST_FOUND at most.

    Args:
        volumes: the point's.
        text: some letters of the name, or what a shell has (`*.odt`); capitals and small letters
            are the same.
        task: what stops it.

    Raises Cancelled.
    """
    pattern = Pattern.typed(text)
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
    """Brings an index up to date: adds the points to it whose names it does not know.

    Attributes:
        count: how many points had to be read.
        warnings: which could not be.
    """

    def __init__(self, backup_set: BackupSet, index: Index, unlocking: Unlocking) -> None:
        self.count = 0
        self.warnings: list[str] = []
        self._set, self._index, self._unlocking = backup_set, index, unlocking

    def read(self, points: Sequence[RecoveryPoint], task: Task) -> None:
        missing = self._missing(points, task)
        with (
            closing(in_order(self._set, missing)) as moments,
            closing(Folds(self._set)) as folds,
        ):
            for number, moment in enumerate(moments):
                task.check()
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
                self._look(moment.point, moment.disk, folds.of(moment.point), task)

    def _missing(self, points: Sequence[RecoveryPoint], task: Task) -> list[RecoveryPoint]:
        """Those whose names are not known, or were another one's that bore the same id."""
        missing = []
        with closing(Folds(self._set)) as folds:
            for point in points:
                task.check()
                fold, seen = folds.of(point), self._index.seen(point)
                if seen is None or fold is None or not seen.is_in(point, fold):
                    missing.append(point)
                    if seen is not None:
                        self._index.forget(point)
        return missing

    def _look(self, point: RecoveryPoint, disk: Chain, fold: DigestFold | None, task: Task) -> None:
        before = self._index.last_seen
        if before is not None and fold is not None and before.is_in(point, fold):
            self._index.repeat(point)
            return
        known = in_units(fold) if fold else None
        traced = Traced(CheckedDisk(disk, self._set.chain(point), known))
        warnings: list[str] = []
        found: list[tuple[str, Name]] = []
        is_locked = False
        try:
            volumes = self._unlocking.volumes(traced)
            is_locked = any(volumes.open(name)[0].is_locked for name in volumes.by_name)
            found = [
                (each.path, Name(str(each.stat.kind), each.stat.size, each.stat.modified))
                for each in walk.files(volumes, task, warnings)
            ]
            warnings += volumes.cautions()
        except (RecoveryError, DiskError) as error:
            warnings.append(error.title)
        self.count += 1
        seen = _seen(traced, point, fold)
        self._index.append(point, found, warnings, seen, is_locked=is_locked)


def _seen(traced: Traced, point: RecoveryPoint, fold: DigestFold | None) -> Seen | None:
    """What was read of a point; None where not all of it is proven to be as it was captured."""
    if fold is None or not traced.is_whole:
        return None
    try:
        return Seen.of(traced.ranges, point, fold)
    except (VdbackupError, OSError) as error:
        log.info("the names of point %d are not kept: %s", point.sequence, error)
        return None
