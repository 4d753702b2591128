"""Every write to a volume of this computer is kept, while this looks after it.

For a volume of device-mapper (LVM, LUKS), in use as it is. Its log (agent/write_log.py) is put in
first, and a point is captured then. In the freeze of that the log gets a mark: what was logged
before it is in the point, and all that comes after follows on it. The other order would need one
freeze for both, of two programs, and lose the writes between where that fails. That the log begins
earlier does no harm: what it holds from before the mark is written over the point once more, and
wherever the point knew of something later, that is in the log, too, before any later moment.

The log is taken out when it is nearly full, or its storage; when that is asked for; and by the
agent when this process is gone. Where both were killed the volume goes on, logged, until it is
taken out (`unprotect`), its log is full, or the computer is started anew.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.agent import logged, write_log
from vdbackup.agent.block_devices import Place
from vdbackup.agent.write_log import Logged
from vdbackup.disks import qemu_locks
from vdbackup.disks.write_log.begin import begin_empty
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import (
    Cancelled,
    NotProtected,
    Remedy,
    SourceError,
    UsageError,
    VdbackupError,
)
from vdbackup.jobs import Task, readable_size
from vdbackup.operations import backup, tracking
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.machines import Machines
from vdbackup.recovery.libvirt_guest import LibvirtGuest
from vdbackup.recovery.sessions.protection import LIMIT, end
from vdbackup.recovery.sessions.writes_watch import LOOK, Keeper
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import (
    RESTARTED,
    Cause,
    KeptLog,
    Protection,
    kept_log,
    kept_logs,
)
from vdbackup.repository.lease import Lease
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

log = logging.getLogger(__name__)

LEAST = 16 << 20
"""Bytes that a log may take at least."""
_RESERVE = 20
"""Of the limit, the part that is left when a log is taken out, or what came in two looks."""
_COMES_WITHIN = 60.0
"""Seconds in which a mark has reached the log's storage, on a busy computer."""
_BETWEEN = 0.1
_FAILED = tr("Its storage failed.")
_EVER = float("inf")


@dataclass(frozen=True)
class VolumeRequest:
    """What is asked for.

    Attributes:
        backup: how the point is made that the writes follow on.
        limit: bytes that the log may take.
        lasts: seconds after which that ends; None: when it is cancelled.
    """

    backup: BackupRequest
    limit: int = LIMIT
    lasts: float | None = None


@dataclass(frozen=True)
class VolumeResult:
    """What came of it.

    Attributes:
        kept: the log, which has ended.
        point: that the writes follow on.
    """

    kept: KeptLog
    point: RecoveryPoint


@dataclass(frozen=True)
class Told:
    """What is said while it goes on: a point that was made, the log behind it, and how that is.

    Attributes:
        logged: how it was a moment ago, while it goes on.
    """

    made: BackupResult | None = None
    begun: KeptLog | None = None
    logged: Logged | None = None


Tell = Callable[[Told], None]


def run(request: VolumeRequest, machines: Machines, task: Task, tell: Tell) -> VolumeResult:
    """Keep every write to a volume until that is cancelled, or its time is over.

    Raises:
        NotProtected: they are kept already, or nobody can tell which of them the point holds.
        LogRefused: they cannot be. What `backup.run` does: then none are kept.
    """
    device = _device(request.backup.source)
    if request.limit < LEAST:
        raise UsageError(tr("A log of writes takes {size} at least.", size=readable_size(LEAST)))
    with logged.held():
        _check_not_kept(device)
        backup_set = _set_of(request, machines, task, tell)
        note_ended(backup_set, device)
        with _logged(backup_set, device, request) as begun:
            kept, point = _captured(begun, backup_set, request, machines, task, tell)
            since = time.time_ns()
            kept.save()
            _check_there(backup_set, point)
            tell(Told(begun=kept))
            with closing(_Watch(kept, device, since, tell)) as watch:
                watch.run(task, request.lasts)
            return VolumeResult(kept_log(kept.folder, kept.session), point)


def can_be(source: SourceRef) -> bool:
    """Whether that is a kind of source whose writes may be kept; nothing is looked at."""
    return tracking.can_be(source)


def is_volume(source: SourceRef) -> bool:
    """Whether that is a volume of device-mapper as it is now; what it is made of is not looked at.

    Only those can have a log put below them while they are in use.
    """
    try:
        place = Place.of(source.path) if can_be(source) else None
    except SourceError:
        return False
    return place is not None and place.start == 0 and place.disk.is_mapped


def _device(source: SourceRef) -> Path:
    if not can_be(source):
        raise UsageError(
            tr("Not every write to {source} can be kept.", source=source),
            tr("Name a logical volume of this computer, or a LUKS that is open."),
        )
    return source.path


def _check_not_kept(device: Path) -> None:
    """Raise NotProtected where somebody keeps a volume's writes, LogRefused where nobody can."""
    if logged.state_of_any(device) is None:
        return
    raise NotProtected(
        tr("The writes to {device} are kept already.", device=device),
        tr("End that first, or leave it as it is."),
    )


def _set_of(request: VolumeRequest, machines: Machines, task: Task, tell: Tell) -> BackupSet:
    """The set that the log lies beside; one that is not there yet gets its first point."""
    plan = backup.plan(request.backup)
    if not plan.new_set:
        return plan.repository.set(plan.set_name)
    made = backup.back_up(replace(request.backup, consistency=Wanted.FROZEN), machines, task)
    tell(Told(made))
    return made.repository.set(made.set_name)


def note_ended(backup_set: BackupSet, device: Path) -> None:
    """Note of logs that they have ended, of which nobody could note it then.

    That was a restart of the computer. Or their storage had failed, and is there again: that nobody
    keeps the writes to the volume now is known.
    """
    number, here = device.stat().st_rdev, Lease.of_this_process("")
    for kept in kept_logs(backup_set.folder):
        record = kept.protection
        if kept.was_cut_off:
            end(kept, Cause.RESTART, RESTARTED)
        elif (
            _goes_on(kept) and record.machine == here.machine and _is(record.source, device, number)
        ):
            _finish(kept, Cause.CHANGED, tr("Nobody looked after it any more."))


@contextmanager
def _logged(backup_set: BackupSet, device: Path, request: VolumeRequest) -> Iterator[KeptLog]:
    """A log beside a set, which counts for nothing yet, and takes a volume's writes meanwhile."""
    now = datetime.now(UTC)
    session = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    place, here = Place.of(device), Lease.of_this_process("")
    record = Protection(
        session, "", str(request.backup.source), now.isoformat(timespec="milliseconds"), place.size,
        limit=request.limit, boot=here.boot, source=str(device), machine=here.machine,
    )  # fmt: skip
    kept = KeptLog.of(backup_set.folder, record)
    kept.announce()
    try:
        begin_empty(kept.path, place.disk.sector_size, request.limit)
        with closing(IndexWriter(kept.index)) as notes:
            notes.sync()  # where they are missing later, they were lost
        for each in (kept.path, kept.index):
            give_to_owner_of_folder(each)
        _put_in(kept, device)
        try:
            yield kept
        finally:
            logged.end(device)
    except BaseException:
        if not kept.record.exists():
            kept.remove()
        raise


def _put_in(kept: KeptLog, device: Path) -> None:
    fd = os.open(kept.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        logged.begin(device, fd)
    finally:
        os.close(fd)


def _captured(
    kept: KeptLog,
    backup_set: BackupSet,
    request: VolumeRequest,
    machines: Machines,
    task: Task,
    tell: Tell,
) -> tuple[KeptLog, RecoveryPoint]:
    """The point that the writes follow on, and the log's record, which says from where on."""
    asked = replace(request.backup, set_name=backup_set.name, consistency=Wanted.FROZEN)
    made = backup.back_up(asked, machines, task)
    tell(Told(made))
    reading = made.point.reading
    at = reading.consistency.at if reading else None
    before = _marked(kept, at, task) if at else None
    if at is None or before is None:
        raise NotProtected(
            tr(
                "Nobody can tell which writes to {source} point {point} holds: there is no mark "
                "of its moment in the log.",
                source=kept.protection.source,
                point=made.point.sequence,
            ),
            tr("The point is whole. Have points made every some seconds instead."),
        )
    record = replace(kept.protection, point=made.point.id, since=at, before=before)
    return replace(kept, protection=record), made.point


def _marked(kept: KeptLog, at: str, task: Task) -> int | None:
    """After which write of a log the mark of a freeze stands, once it has come; None without one.

    Raises DiskError, OSError.
    """
    until = time.monotonic() + _COMES_WITHIN
    while True:
        found = WriteLog.read(kept.path, kept.protection.disk_size)
        for write, text in found.marks():
            if text == write_log.FROZEN + at:
                return write
        if time.monotonic() > until:
            return None
        task.check()
        time.sleep(_BETWEEN)


def _check_there(backup_set: BackupSet, point: RecoveryPoint) -> None:
    """Raise PointNotFound where a point went before its log held it."""
    Repository.open(backup_set.folder.parent).set(backup_set.name).point(point.id)


class _Watch:
    """Looks after a log that goes on: notes when writes came, and takes it out in time.

    Args:
        tell: is told how the log is, at each look.
    """

    def __init__(self, kept: KeptLog, device: Path, since: int, tell: Tell) -> None:
        keeper = Keeper.of(kept.folder, kept.session, since)
        if keeper is None:
            raise NotProtected(
                tr("The writes of {title} were forgotten.", title=kept.protection.title)
            )
        self._keeper, self._kept, self._device, self._tell = keeper, kept, device, tell
        self._used = self._grown = self._missing = 0

    def run(self, task: Task, lasts: float | None) -> None:
        """Until it is cancelled, or over for another reason; then it has been taken out.

        Raises what keeps this from looking after it: then, too, it has been, if that can be.
        """
        try:
            over = self._waited(task, time.monotonic() + (lasts if lasts is not None else _EVER))
        except BaseException as error:
            why = error.title if isinstance(error, VdbackupError) else tr("It was broken off.")
            self._end(Cause.CHANGED, why)
            raise
        if over is not None:
            self._end(*over)

    def _end(self, cause: Cause, why: str) -> None:
        logged.end(self._device)
        finish(self._keeper, self._kept, cause, why)
        if cause is not Cause.ASKED:
            log.warning("the writes of %s are kept no more: %s", self._device, why)

    def _waited(self, task: Task, ends: float) -> tuple[Cause, str] | None:
        """Look after it until it is over: why that is; None where somebody has noted that."""
        with suppress(Cancelled):
            while time.monotonic() < ends:
                task.cancel.wait(max(0.0, min(LOOK, ends - time.monotonic())))
                if self._keeper.ended:  # by `unprotect`
                    logged.end(self._device)
                    return None
                if (over := self._over()) is not None:
                    return over
        return Cause.ASKED, tr("That was asked for.")

    def _over(self) -> tuple[Cause, str] | None:
        """Why it has to end; None where it goes on."""
        state = logged.state(self._device)
        if state is None:
            return self._gone()
        self._missing = 0
        try:
            self._keeper.look()
        except OSError as error:
            log.warning("%s: %s", self._kept.folder, error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return Cause.STORAGE, tr("Its storage is full.") if full else _FAILED
        self._tell(Told(logged=state))
        return self._full(state) or self._keeper.too_much()

    def _gone(self) -> tuple[Cause, str] | None:
        self._missing += 1
        if self._missing == 1:  # whoever takes it out notes that then
            return None
        return Cause.CHANGED, tr("Another program has changed what device-mapper makes it of.")

    def _full(self, state: Logged) -> tuple[Cause, str] | None:
        limit = self._kept.protection.limit
        before, self._grown = self._grown, state.used - self._used
        self._used = state.used
        full = limit - state.used < max(limit // _RESERVE, before + self._grown)
        if full:
            return Cause.LIMIT, tr("It takes {size}, its limit.", size=readable_size(limit))
        if not state.goes_on:
            return Cause.STORAGE, _FAILED
        return None

    def close(self) -> None:
        """Close the notes."""
        self._keeper.close()


def finish(keeper: Keeper, kept: KeptLog, cause: Cause, why: str) -> None:
    """Note all that a log holds that was taken out, and that it has ended."""
    keeper.end(cause, why)
    with suppress(VdbackupError):  # which is said when it is read
        found = WriteLog.read(kept.path, kept.protection.disk_size, kept.index)
        os.truncate(kept.path, found.entries.end)


def _finish(kept: KeptLog, cause: Cause, why: str) -> None:
    """The same of one that nobody looks after."""
    keeper = Keeper.of(kept.folder, kept.session, 0)
    if keeper is not None:
        with closing(keeper):
            finish(keeper, kept, cause, why)


def unprotect(kept: KeptLog) -> KeptLog:
    """Keep no more writes to a volume; those that are kept stay.

    Of one whose computer is another one that is noted alone: whoever looks after it there sees it.

    Raises NotProtected where they had ended, what `take_out` does.
    """
    if kept.protection.ended is not None:
        raise NotProtected(
            tr(
                "No more writes of {saved} are kept: {why}",
                saved=kept.protection.title,
                why=kept.protection.why,
            ),
            tr("Those that are kept can be forgotten."),
            remedy=Remedy.FORGET_WRITES,
            about=kept.session,
        )
    here = Lease.of_this_process("")
    if kept.was_cut_off:
        end(kept, Cause.RESTART, RESTARTED)
    elif kept.protection.machine != here.machine:
        end(kept, Cause.ASKED, tr("That was asked for."))
    else:
        if kept.protection.guest:
            _take_out_of_guest(kept)
        else:
            take_out(Path(kept.protection.source))
        _finish(kept, Cause.ASKED, tr("That was asked for."))
    return kept_log(kept.folder, kept.session)


def _take_out_of_guest(kept: KeptLog) -> None:
    """Take the log of a guest out, if that runs.

    Raises RecoveryError, also where libvirt tells this user of no such guest and yet a QEMU writes
    to the log; OSError.
    """
    try:
        guest = LibvirtGuest.find(kept.protection.guest)
    except NotProtected:
        if qemu_locks.is_open(kept.path):
            raise
        return
    if not guest.is_off:
        guest.take_out(Path(kept.protection.source))


def end_of(repository: Repository, device: Path) -> KeptLog | None:
    """Keep no more writes to a volume, whoever began that; its log, where it lies in a repository.

    Raises NotProtected where none were kept, what `unprotect` does.
    """
    kept = log_of(repository, device)
    if kept is not None:
        return unprotect(kept)
    if take_out(device):
        return None
    raise NotProtected(
        tr("No writes to {source} are kept.", source=device),
        tr("Check its name, and the repository's."),
    )


def take_out(device: Path) -> bool:
    """Take a volume's log out, whoever put it in; whether there was one.

    A volume that is gone has none. Raises AgentError, OSError.
    """
    try:
        return logged.end(device)
    except SourceError:
        return False


def log_of(repository: Repository, device: Path) -> KeptLog | None:
    """The log in a repository to which a volume's writes go now; None where there is none."""
    try:
        number = device.stat().st_rdev
    except OSError:
        number = 0
    for backup_set in repository.sets():
        for kept in kept_logs(backup_set.folder):
            if _goes_on(kept) and _is(kept.protection.source, device, number):
                return kept
    return None


def _goes_on(kept: KeptLog) -> bool:
    """Whether it is a volume's, and nobody has noted that it has ended."""
    return bool(kept.protection.source) and kept.protection.ended is None


def _is(source: str, device: Path, number: int) -> bool:
    if source == str(device):
        return True
    try:
        return bool(number) and os.stat(source).st_rdev == number
    except OSError:
        return False
