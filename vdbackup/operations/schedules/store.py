"""What is known of schedules: a record of each, and how its last runs ended.

    <records>/ID.json       the schedule
    <history>/ID.json       its last runs
    <history>/ID.merge      how its last merge ended, where that has a time of its own
    <history>/ID.lock       held by a run, so that no other begins
    <history>/ID.told       the troubles that people were told of

Both folders are the user's own, or root's. An ID is made of the repository's folder and the name of
the set: there is one schedule of a set on a computer for each user.
"""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup import durable, records
from vdbackup.errors import ScheduleNotFound, VdbackupError
from vdbackup.operations.schedules.timing import DAILY, Timing
from vdbackup.translation import marked, tr

log = logging.getLogger(__name__)

MAX_RUNS = 60
"""That are kept of a schedule: a month of one a day that failed twice, or some hours of one that
runs every few minutes."""


@dataclass(frozen=True)
class Schedule:
    """A set that is backed up automatically.

    Attributes:
        repository: the folder, absolute.
        every, at: as `Timing` has them.
        on_mains: not while the computer runs on its battery.
        random_delay: up to so many seconds later, so that not all computers begin at once.
        all_blocks: what is free is read and kept, too.
        mount_point: of the drive that it waits for, where it is run when that is plugged in.
        verify: how many points are verified after each backup: those that were the longest ago.
        merge_at: "HH:MM", by the local clock, when the set's policy is applied each day; "" where
            it is after each backup.
        networks: names of those that it is made on alone (conditions.py); none for any.
        not_metered, not_presenting: not while the network is metered, or somebody presents.
    """

    repository: Path
    set_name: str
    every: str
    at: str = ""
    on_mains: bool = False
    random_delay: int = 0
    all_blocks: bool = False
    mount_point: str = ""
    verify: int = 0
    merge_at: str = ""
    networks: tuple[str, ...] = ()
    not_metered: bool = False
    not_presenting: bool = False

    @property
    def id(self) -> str:
        """Of the set in this folder."""
        return schedule_id(self.repository, self.set_name)

    @property
    def timing(self) -> Timing:
        """When; raises UsageError where the record makes no sense."""
        return Timing(self.every, self.at)

    @property
    def waits(self) -> bool:
        """Whether something beside its time has to be so, and is looked for until it is."""
        return bool(self.networks or self.not_metered or self.not_presenting)

    @property
    def merging(self) -> Timing | None:
        """When its policy is applied, if not after each backup; raises UsageError as `timing`."""
        return Timing(DAILY, self.merge_at) if self.merge_at else None


def schedule_id(repository: Path, set_name: str) -> str:
    """By which a schedule's files and units are called: letters and digits."""
    named = os.fsencode(os.path.abspath(repository)) + b"\0" + os.fsencode(set_name)
    return hashlib.sha256(named).hexdigest()[:12]


class Outcome(enum.StrEnum):
    """How a run ended."""

    DONE = marked("done")
    WARNED = marked("done, with warnings")
    FAILED = marked("failed")
    SKIPPED = marked("not due")


@dataclass(frozen=True)
class Run:
    """One run of a schedule.

    Attributes:
        began, ended: UTC, ISO 8601.
        sentence: what there is to say of it.
        code: of the error that it failed with, "" without one.
        point: number of the recovery point, 0 where none was made.
        stored_bytes, read_bytes: of the point.
    """

    began: records.Moment
    ended: records.Moment
    outcome: Outcome
    sentence: records.Sentence = ""
    code: str = ""
    point: int = 0
    stored_bytes: int = 0
    read_bytes: int = 0


@dataclass(frozen=True)
class History:
    """The last runs, the newest last. What was skipped is kept while nothing else came after it."""

    runs: tuple[Run, ...] = ()

    def after(self, run: Run) -> History:
        """With one more."""
        before = self.runs
        if before and before[-1].outcome is Outcome.SKIPPED:
            before = before[:-1]
        return History((*before, run)[-MAX_RUNS:])

    @property
    def last(self) -> Run | None:
        """The last that was no false alarm of a timer."""
        return next(
            (run for run in reversed(self.runs) if run.outcome is not Outcome.SKIPPED), None
        )


_NO_SENSE = (OSError, VdbackupError, ValueError, TypeError, RecursionError)
"""What is raised where a record is damaged."""


def _schedule(path: Path) -> Schedule:
    """A record's; raises FileNotFoundError where there is none, and what _NO_SENSE names."""
    schedule = records.tolerant(Schedule, json.loads(durable.read_own(path)))
    schedule.timing, schedule.merging  # noqa: B018 - they raise where it makes no sense
    return schedule


def _is_damaged(path: Path) -> bool:
    try:
        _schedule(path)
    except FileNotFoundError:
        return False
    except _NO_SENSE:
        return True
    return False


def _history(path: Path) -> History:
    """The same of the runs."""
    return records.tolerant(History, json.loads(durable.read_own(path)))


@dataclass(frozen=True)
class Store:
    """Where schedules of one user are kept.

    Attributes:
        records, history: the folders; they need not exist.
    """

    records: Path
    history: Path

    @classmethod
    def within(cls, config: Path, data: Path) -> Store:
        """That of who keeps settings and data in these folders."""
        return cls(config / "schedules", data / "schedules")

    def schedules(self) -> list[Schedule]:
        """All of them; what cannot be read is passed over, and said in the log."""
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            names = sorted(each for each in os.listdir(self.records) if each.endswith(".json"))
            return [found for each in names if (found := self._read(self.records / each))]
        return []

    def damaged(self) -> list[Path]:
        """The records that make no sense: of which sets they are, only those who name one know."""
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            paths = sorted(self.records / each for each in os.listdir(self.records))
            return [each for each in paths if each.suffix == ".json" and _is_damaged(each)]
        return []

    def _read(self, path: Path) -> Schedule | None:
        try:
            return _schedule(path)
        except FileNotFoundError:
            return None
        except _NO_SENSE as error:
            log.warning("%s is no schedule: %s", path, error)
            return None

    def find(self, repository: Path, set_name: str) -> Schedule | None:
        """The schedule of a set; None where there is none."""
        return self._read(self._record(schedule_id(repository, set_name)))

    def is_damaged(self, repository: Path, set_name: str) -> bool:
        """Whether a set has a schedule whose record makes no sense: none of its runs does, then."""
        return _is_damaged(self._record(schedule_id(repository, set_name)))

    def get(self, repository: Path, set_name: str) -> Schedule:
        """The same as `find`; raises ScheduleNotFound."""
        if (found := self.find(repository, set_name)) is not None:
            return found
        if self.is_damaged(repository, set_name):
            raise ScheduleNotFound(
                tr(
                    "The schedule of {set_name} in {repository} makes no sense any more.",
                    set_name=set_name,
                    repository=repository,
                ),
                tr("Set it again, or remove it."),
            )
        raise ScheduleNotFound(
            tr(
                "{set_name} in {repository} has no schedule on this computer.",
                set_name=set_name,
                repository=repository,
            ),
            tr("Set one first."),
        )

    def save(self, schedule: Schedule) -> None:
        """Write the record down."""
        self._write(self._record(schedule.id), schedule)

    def remove(self, schedule_id: str) -> None:
        """Forget a schedule, damaged or not, and its runs."""
        runs, merge = self._runs(schedule_id), self._merge(schedule_id)
        for path in (self._record(schedule_id), runs, merge, self.told_of(schedule_id)):
            durable.remove(path)

    def history_of(self, schedule_id: str) -> History:
        """Its last runs; none where they cannot be read (`history_is_damaged`)."""
        path = self._runs(schedule_id)
        try:
            return _history(path)
        except FileNotFoundError:
            return History()
        except _NO_SENSE as error:
            log.warning("%s says nothing: %s", path, error)
            return History()

    def history_is_damaged(self, schedule_id: str) -> bool:
        """Whether nothing is known any more of runs that were; the next one is noted anew."""
        try:
            _history(self._runs(schedule_id))
        except FileNotFoundError:
            return False
        except _NO_SENSE:
            return True
        return False

    def told_of(self, schedule_id: str) -> Path:
        """The file that says of which of its troubles people know (troubles.py)."""
        return self.history / f"{schedule_id}.told"

    def changed_at(self) -> int:
        """When a run was noted last, or a schedule forgotten, in ns; 0 where none ever was."""
        try:
            return os.stat(self.history).st_mtime_ns
        except OSError:
            return 0

    def note(self, schedule_id: str, run: Run) -> None:
        """Write down how a run ended."""
        self._write(self._runs(schedule_id), self.history_of(schedule_id).after(run))

    def last_merge(self, schedule_id: str) -> Run | None:
        """How its last merge ended; None where there was none, or that cannot be read."""
        path = self._merge(schedule_id)
        try:
            return records.tolerant(Run, json.loads(durable.read_own(path)))
        except FileNotFoundError:
            return None
        except _NO_SENSE as error:  # the next one is noted anew
            log.warning("%s says nothing: %s", path, error)
            return None

    def note_merge(self, schedule_id: str, merge: Run) -> None:
        """Write down how a merge ended: it is no backup, and none makes up for it."""
        self._write(self._merge(schedule_id), merge)

    @contextmanager
    def running(self, schedule_id: str) -> Iterator[bool]:
        """Hold the schedule for a run; False where another one does."""
        self.history.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.history / f"{schedule_id}.lock"
        fd = durable.open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            durable.hold_lock(fd)
        except BlockingIOError:  # closed by it
            yield False
            return
        try:
            yield True
        finally:
            os.close(fd)

    def _write(self, path: Path, record: Schedule | History | Run) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(records.to_json(record), indent=2) + "\n"
        durable.replace(path, text.encode("ascii"))

    def _record(self, schedule_id: str) -> Path:
        return self.records / f"{schedule_id}.json"

    def _runs(self, schedule_id: str) -> Path:
        return self.history / f"{schedule_id}.json"

    def _merge(self, schedule_id: str) -> Path:
        return self.history / f"{schedule_id}.merge"
