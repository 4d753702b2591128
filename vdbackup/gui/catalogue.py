"""Which sources there are and what has been backed up of them, read off the window's thread."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from vdbackup.errors import VdbackupError
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.store import Store
from vdbackup.jobs import Job, Task
from vdbackup.operations import health
from vdbackup.operations.changed import ANY, Changed
from vdbackup.operations.health import Moment, SetHealth
from vdbackup.operations.schedules.store import Store as Schedules
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import free_space
from vdbackup.repository.machine import KnownMachines, Machine, MomentPoints, moments
from vdbackup.repository.marker import MARKER
from vdbackup.repository.model import Pin, RecoveryPoint
from vdbackup.repository.repository import DamagedSet, Repository
from vdbackup.settings import KnownSource
from vdbackup.sources.reference import SourceRef
from vdbackup.text import printable
from vdbackup.translation import tr


@dataclass(frozen=True)
class Entry:
    """A source and its backups in one repository, as they were when they were read.

    Of a machine it is the source that it starts from, whose points stand for its moments.

    Attributes:
        source: what is backed up; the folder itself where nothing is known of what lies in it.
        repository: the folder that holds the backups.
        backup_set: None before the first backup, or when it cannot be read.
        problem: why the repository, or this set in it, cannot be read, else None.
        shares_name: another source that is shown has the same name.
        health: how the set was when it was read; None where there is none.
        machine: which this is, with its other disks; None for a source that stands alone.
        moments: of the machine, by number.
    """

    source: SourceRef
    repository: Path
    backup_set: BackupSet | None = None
    problem: VdbackupError | None = None
    shares_name: bool = False
    health: SetHealth | None = field(default=None, compare=False)  # its age is always another
    machine: Machine | None = None
    moments: tuple[MomentPoints, ...] = ()

    @property
    def title(self) -> str:
        """What to call it on the screen: sources of one name tell where their backups lie."""
        called = self.machine.name if self.machine else self.name
        if not self.shares_name:
            return printable(called)
        known = self.backup_set or self.machine
        return printable(
            tr(
                "{called} in {repository}",
                called=called if known else self.source,
                repository=self.repository,
            )
        )

    @property
    def name(self) -> str:
        """What to call it."""
        return self.backup_set.name if self.backup_set else self.source.name

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets that it stands for; of one that cannot be read, what it is called."""
        return self.machine.sets if self.machine else (self.name,)

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        """Its recovery points, by sequence."""
        return self.backup_set.points if self.backup_set else ()

    @cached_property
    def pins(self) -> dict[str, Pin]:
        """What was said of the points that are pinned, by id."""
        found = self.backup_set
        pins = {each.id: found.pin(each) for each in found.points} if found else {}
        return {name: pin for name, pin in pins.items() if pin is not None}

    @property
    def key(self) -> tuple[str, str, str]:
        """Stays the same from one reading to the next; the name may be another in the first."""
        return str(self.repository), str(self.source), self.name

    @cached_property
    def _by_id(self) -> dict[str, RecoveryPoint]:
        hidden = self.backup_set.hidden if self.backup_set else ()
        return {point.id: point for point in (*hidden, *self.points)}

    def point(self, point_id: str | None) -> RecoveryPoint | None:
        """The recovery point with this id, None if it is gone."""
        return self._by_id.get(point_id or "")

    def moment_of(self, point: RecoveryPoint) -> MomentPoints | None:
        """The machine's moment that a point belongs to; None where it stands alone."""
        return next((each for each in self.moments if point.id in each.moment.points), None)

    @property
    def halves(self) -> tuple[MomentPoints, ...]:
        """The moments that lack the points of some disks."""
        return tuple(each for each in self.moments if each.missing)

    def parent_of(self, point: RecoveryPoint) -> str:
        """What to call a point's parent on the screen."""
        parent = self.point(point.parent)
        return f"#{parent.sequence}" if parent else tr("its parent")

    def chain(self, point: RecoveryPoint) -> list[RecoveryPoint]:
        """The point and what it reads through, the full last; quick, for dragging."""
        chain, below = [point], self.point(point.parent)
        while below and len(chain) <= len(self._by_id):
            chain.append(below)
            below = self.point(below.parent)
        return chain


_TICK = 3_000_000_000
"""In ns, longer than any file system's clock needs for a tick: FAT's has one in two seconds."""


class Shelf:
    """The sets of one repository as they were read last. For one thread: its reader's.

    What was not said to have changed is read again where its folder tells of it, as where another
    process has been at it. Some network storage tells that late, or never: a reading of all does.

    Attributes:
        folder: the repository's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._id = ""
        self._sets: dict[str, tuple[int, BackupSet]] = {}

    def survey(self, changed: Changed) -> tuple[list[BackupSet], list[DamagedSet]]:
        """The sets that can be read and those that cannot, by name; raises RepositoryError."""
        repository = Repository.open(self.folder)
        if repository.id != self._id:  # another drive
            self._id, self._sets = repository.id, {}
        before = {} if changed.sets is None else self._sets
        names = [*repository.names(), *repository.misnamed()]
        moments = {name: repository.changed_at(name) for name in names}
        kept = {
            name: backup_set
            for name, (moment, backup_set) in before.items()
            if name not in (changed.sets or ()) and moments.get(name) == moment
        }
        sets, damaged = repository.survey([name for name in names if name not in kept])
        sets = sorted([*sets, *kept.values()], key=lambda each: each.name)
        settled = time.time_ns() - _TICK  # what was changed since then may be so again unnoticed
        self._sets = {
            each.name: (moments[each.name], each)
            for each in sets
            if 0 < moments[each.name] < settled
        }
        return sets, damaged


def read(shelf: Shelf, known: Sequence[KnownSource], changed: Changed = ANY) -> list[Entry]:
    """The sets in a repository, damaged ones too, and known sources that have none there yet.

    Where there were sets before, a folder that is gone is trouble, and no reason to begin anew.
    Where none was ever seen, a first backup may have failed, and can be tried again.
    """
    repository = shelf.folder
    begun = any(each.set_name for each in known)
    new = not begun and (bool(known) or not repository.exists())
    try:
        if new and not os.path.lexists(repository / MARKER):
            return [Entry(each.source, repository) for each in known]
        sets, damaged = shelf.survey(changed)
    except VdbackupError as error:
        sources = [each.source for each in known] or [SourceRef.of_path(repository)]
        return [Entry(source, repository, problem=error) for source in sources]
    entries = [Entry(SourceRef.parse(each.settings.source.path), repository, each) for each in sets]
    homes = {each.set_name: each.source for each in known}
    entries += [
        Entry(
            homes.get(each.name, SourceRef.of_path(each.folder)), repository, problem=each.problem
        )
        for each in damaged
    ]
    named = {each.name for each in sets} | {each.name for each in damaged}
    shown = {entry.source for entry in entries}
    entries += [
        Entry(each.source, repository)
        for each in known
        if each.set_name not in named and each.source.absolute() not in shown
    ]
    entries = _as_machines(entries, sets, KnownMachines.of(Repository.open(repository)))
    # in the order in which they were added: a first backup makes a set, and no other place
    places = {each.source.absolute(): place for place, each in enumerate(known)}
    return sorted(entries, key=lambda entry: places.get(entry.source.absolute(), -1))


def _with_health(
    entries: list[Entry], folder: Path, schedules: Schedules, moment: Moment
) -> list[Entry]:
    """The same, with how each set is."""
    try:
        free = free_space(folder)
    except OSError:  # it is not there, or has just gone
        free = None
    return [
        replace(each, health=health.of_set(each.backup_set, schedules, free, moment))
        if each.backup_set
        else each
        for each in entries
    ]


def _as_machines(
    entries: Sequence[Entry], sets: Sequence[BackupSet], known: KnownMachines
) -> list[Entry]:
    """The entries of machines' disks, one for each machine: of the first of its sets that is there.

    Where its record cannot be read its disks are shown one by one, and say so.
    """
    shown: list[Entry] = []
    lost = {each.name: each.problem for each in known.damaged}
    for machine in known.all:
        own = [each for each in entries if each.name in machine.sets]
        first = min(own, key=lambda each: machine.sets.index(each.name), default=None)
        if first is not None:
            problem = next((each.problem for each in own if each.problem), None)
            found = tuple(moments(machine, sets))
            shown.append(replace(first, machine=machine, moments=found, problem=problem))
    of_machines = {name for machine in known.all for name in machine.sets}
    for entry in entries:
        if entry.name not in of_machines:
            claims = {each.moment.machine for each in entry.points if each.moment}
            problem = next((lost[name] for name in claims if name in lost), entry.problem)
            shown.append(replace(entry, problem=problem))
    return shown


class Catalogue(QObject):
    """All sources of all known repositories.

    Signals:
        changed(): `entries` are other ones now.
        interrupted(Path): in a repository that was opened just now something was cut off.
    """

    changed = Signal()
    interrupted = Signal(Path)

    def __init__(self, store: Store, workers: Workers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._workers = workers
        self._read: dict[Path, list[Entry]] = {}
        self._shelves: dict[Path, Shelf] = {}
        self._waiting: dict[Path, Changed] = {}

    @property
    def entries(self) -> list[Entry]:
        """What has been read so far, in the order in which the user added it."""
        settings = self._store.value
        entries = [
            entry
            for repository in settings.repositories
            for entry in self._read.get(repository, ())
            if not any(settings.hides(repository, name) for name in entry.set_names)
        ]
        called = [entry.machine.name if entry.machine else entry.name for entry in entries]
        names = Counter(called)
        return [
            replace(entry, shares_name=names[name] > 1)
            for entry, name in zip(entries, called, strict=True)
        ]

    @property
    def loading(self) -> bool:
        """Whether a repository has never been read yet."""
        return any(repository not in self._read for repository in self._store.value.repositories)

    def refresh(self, repository: Path | None = None, changed: Changed = ANY) -> None:
        """Read one repository again, or all, or what of them has changed; `changed` follows."""
        known = self._store.value
        for folder in known.repositories if repository is None else (repository,):
            waiting = self._waiting.get(folder)
            if waiting and waiting.covers(changed):  # it has not begun: it sees what is there then
                continue
            sources = [source for source in known.sources if source.repository == folder]
            job = Job(
                tr("Read {folder}", folder=folder),
                partial(self._read_now, folder, sources, changed),
            )
            self._waiting[folder] = changed
            self._workers.reader(folder).submit(job, partial(self._on_read, folder))

    def _read_now(
        self, folder: Path, sources: Sequence[KnownSource], changed: Changed, _task: Task
    ) -> list[Entry]:
        self._waiting.pop(folder, None)
        shelf = self._shelves.setdefault(folder, Shelf(folder))
        entries = read(shelf, sources, changed)
        moment = Moment.at_present(self._store.value.remind_after_days)
        return _with_health(entries, folder, self._store.schedules, moment)

    def _on_read(self, folder: Path, job: Job[list[Entry]]) -> None:
        opened_now = folder not in self._read
        if job.error:
            self._read[folder] = [Entry(SourceRef.of_path(folder), folder, problem=job.error)]
        elif job.result is not None:
            self._read[folder] = job.result
        else:  # cancelled: the window is closing
            return
        self.changed.emit()
        cut_off = [e for e in self._read[folder] if e.backup_set and e.backup_set.unfinished]
        if opened_now and cut_off:
            self.interrupted.emit(folder)
        sets = {each.source: each.backup_set.name for each in self._read[folder] if each.backup_set}
        if self._store.value.with_sets(folder, sets) != self._store.value:
            self._store.update(lambda settings: settings.with_sets(folder, sets))
