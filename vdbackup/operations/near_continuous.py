"""Near-continuous: a point every so many seconds, of what has changed by then.

For what of this computer cannot have every write kept, a plain partition, say: the changes of its
disk are tracked, and each point is taken within a freeze of a moment. One is made only where
something has changed since the one before; what the freeze itself changes on the device is none
(ext4 writes its super block as it thaws). What is not worth keeping any more the set's policy
merges, after each point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.agent import stacking, writeback
from vdbackup.agent.changes import BLOCK
from vdbackup.errors import (
    Cancelled,
    FrozenElsewhere,
    NotTracked,
    Remedy,
    RepositoryLocked,
    TrackerBusy,
    UsageError,
    VdbackupError,
)
from vdbackup.jobs import Task, retry_when_cleared
from vdbackup.operations import backup, tracking
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.machines import Machines
from vdbackup.operations.policy import Change
from vdbackup.operations.tracking import Tracking
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.near_continuous import NearContinuous
from vdbackup.repository.policy import READ_ALL_EVERY
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted
from vdbackup.translation import tr

LEAST = 1
"""Seconds; in less no backup is made."""
DAY = 86400  # seconds
PATIENCE = 60.0  # seconds that somebody else may have the repository when something is noted of it
_PASSING = (RepositoryLocked, TrackerBusy, FrozenElsewhere)
"""What is over soon: the point is left out, and the next one has what it would have had."""
_WRITES_AS_IT_THAWS = {"ext2", "ext3", "ext4"}
"""File systems of which a block, that of the super block, is marked after each thaw: XFS and Btrfs
write within the freeze (measured with Linux 6.18)."""


@dataclass(frozen=True)
class NearRequest:
    """What is asked for.

    Attributes:
        backup: how each point is made; its policy holds from the first on.
        every: seconds from one point to the next.
        lasts: seconds after which that ends; None: when it is cancelled.
    """

    backup: BackupRequest
    every: int
    lasts: float | None = None


@dataclass(frozen=True)
class NearResult:
    """What came of it.

    Attributes:
        set_name: that the points are in.
        points: how many were made.
        unchanged: how often nothing had changed.
        left_out: how often somebody else was in the way.
    """

    set_name: str
    points: int
    unchanged: int
    left_out: int


@dataclass(frozen=True)
class Told:
    """What is said while it goes on: a point that was made, or why one was left out."""

    made: BackupResult | None = None
    trouble: VdbackupError | None = None


Tell = Callable[[Told], None]


def run(request: NearRequest, machines: Machines, task: Task, tell: Tell) -> NearResult:
    """Make points until that is cancelled, or the time is over; the first one at once.

    A point that is being made when it is cancelled is not there afterwards, as if it had never been
    begun; a point that is there is whole.

    Raises:
        NotTracked: the changes of the source are not tracked. UsageError: it cannot be.
        Cancelled: before there was any point. What `backup.planned` and `backup.run` do, as soon as
        a point cannot be made, but for what is over soon.
    """
    device = _device(request)
    return _Rounds(request, device, machines, task, tell).run()


def _device(request: NearRequest) -> Path:
    source = request.backup.source
    if not tracking.can_be(source):
        raise UsageError(
            tr("Points cannot be made every some seconds of {source}.", source=source),
            tr("Name a disk of this computer, or a partition of one."),
        )
    if request.every < LEAST:
        raise UsageError(tr("A point cannot be made more often than each second."))
    _check_tracked(tracking.look(source.path, request.backup.repository, None), source.path)
    return source.path


def _check_tracked(found: Tracking, device: Path) -> None:
    """Raise NotTracked where all of the device would have to be read for each point."""
    if found.since is None:
        why = tr("Nobody tracks what changes on {device}.", device=device)
    elif found.doubt:
        why = tr(
            "What is known of the changes of {device} is not believed any more, because {doubt}.",
            device=device,
            doubt=found.doubt,
        )
    else:
        return
    raise NotTracked(
        why,
        tr("Have that tracked anew first: else all of it would be read for each point."),
        remedy=Remedy.TRACK,
        about=str(device),
    )


@dataclass(frozen=True)
class _Seen:
    """How far a device had changed since a set's newest point, when somebody looked.

    Attributes:
        changed: bytes that are marked; None for everything.
        sectors: written and discarded since the computer started.
    """

    changed: int | None
    sectors: int


class _Rounds:
    """One point after the other."""

    def __init__(
        self, request: NearRequest, device: Path, machines: Machines, task: Task, tell: Tell
    ) -> None:
        self._request, self._device, self._machines = request, device, machines
        self._task, self._tell = task, tell
        self._next = replace(
            request.backup, consistency=Wanted.FROZEN, policy=_policy(request), kind=backup.AUTO
        )
        self._name = request.backup.set_name or ""
        self._after: _Seen | None = None
        self._since = _now()
        self._points = self._unchanged = self._left_out = 0

    def run(self) -> NearResult:
        begun = time.monotonic()
        lasts = self._request.lasts
        ends = float("inf") if lasts is None else begun + lasts
        due, why = begun, tr("Its time was over.")
        try:
            while time.monotonic() < ends:
                self._round()
                due = max(due + self._request.every, time.monotonic())
                self._task.cancel.wait(max(0.0, min(due, ends) - time.monotonic()))
        except Cancelled:
            why = tr("That was asked for.")
            if not self._points:
                raise
        except BaseException as error:
            why = error.title if isinstance(error, VdbackupError) else tr("It was broken off.")
            raise
        finally:
            self._note_end(why)
        return NearResult(self._name, self._points, self._unchanged, self._left_out)

    def _round(self) -> None:
        if not self._has_changed():
            self._unchanged += 1
            return
        try:
            made = backup.back_up(self._next, self._machines, self._task)
        except _PASSING as error:
            self._left_out += 1
            self._tell(Told(trouble=error))
            return
        self._points += 1
        self._name = made.set_name
        if self._points == 1:
            self._next = replace(self._next, set_name=made.set_name, policy=Change())
            self._note(NearContinuous(self._request.every, self._since))
        self._after = self._look()
        self._tell(Told(made))

    def _has_changed(self) -> bool:
        """Whether anything has been written since the point before; True where nobody knows."""
        after = self._after
        if after is None or after.changed is None or after.changed > _own_changes(self._device):
            return True
        writeback.write_out(self._device)  # what is in memory alone is marked nowhere
        return self._look() != after

    def _look(self) -> _Seen:
        found = tracking.look(self._device, self._request.backup.repository, self._name)
        _check_tracked(found, self._device)
        return _Seen(found.changed, _sectors(self._device))

    def _note(self, near: NearContinuous) -> None:
        """Write down in the set's record what it is; raises what the lock and the record do."""
        repository = Repository.open(self._request.backup.repository)

        def note(_task: Task) -> None:
            with repository.lock(tr("noting that points are made every some seconds")):
                settings = repository.settings(self._name)
                repository.save_settings(self._name, replace(settings, near=near))

        retry_when_cleared(note, PATIENCE, of=RepositoryLocked)(Task())

    def _note_end(self, why: str) -> None:
        if not self._points:
            return
        near = Repository.open(self._request.backup.repository).settings(self._name).near
        if near is not None:
            self._note(replace(near, ended=_now(), why=why))


def _policy(request: NearRequest) -> Change:
    """The policy that is asked for; where nobody says how often everything is read, once a day."""
    change = request.backup.policy
    if change.read_all_every is not None:
        return change
    often = max(READ_ALL_EVERY, DAY // request.every)
    return replace(change, read_all_every=often)


def _own_changes(device: Path) -> int:
    """Bytes that are marked at most on a device after a freeze by what thaws."""
    numbers = stacking.numbers_on(device)
    own = {
        mount.number
        for mount in stacking.mounts()
        if mount.kind in _WRITES_AS_IT_THAWS and not numbers.isdisjoint(mount.numbers)
    }
    return BLOCK * len(own)


def _sectors(device: Path) -> int:
    """Sectors of 512 bytes that were written to a device and discarded (Documentation/block/stat).

    Raises OSError.
    """
    fields = (Path("/sys/class/block") / device.resolve().name / "stat").read_text().split()
    return sum(int(fields[field]) for field in (6, 13) if field < len(fields))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class NearSet:
    """A set whose points are, or were, made every so many seconds.

    Attributes:
        near: how often, and since when.
        points: that were captured since then, between the times that are asked for.
    """

    set_name: str
    near: NearContinuous
    points: tuple[RecoveryPoint, ...]


def near_sets(
    repository: Repository, set_name: str | None, first: int | None, last: int | None
) -> Iterator[NearSet]:
    """The near-continuous sets, with their points between two times in ns since 1970."""
    for backup_set in [repository.set(set_name)] if set_name is not None else repository.sets():
        near = backup_set.settings.near
        if near is None:
            continue
        begin = datetime.fromisoformat(near.since)
        points = [
            point
            for point in backup_set.points
            if (at := datetime.fromisoformat(point.created)) >= begin
            and (first is None or at.timestamp() * 1e9 >= first)
            and (last is None or at.timestamp() * 1e9 <= last)
        ]
        yield NearSet(backup_set.name, near, tuple(points))
