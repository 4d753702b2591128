"""Every write of a guest of libvirt's is kept from its start on, while this looks after it.

A point is made of its disk while it is off. Then libvirt starts it, paused; the log is put below
its disk, and it runs: what it writes follows on the point. As of a machine of ours the log is ended
before it is too much, and when the guest ends; as of a volume it fits on the point as that was
captured. The guest's next start is not logged unless it is asked for again, with a new point.
"""

from __future__ import annotations

import errno
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.disks.write_log.begin import begin
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import (
    Cancelled,
    MachineFailed,
    NotProtected,
    RecoveryError,
    VdbackupError,
)
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.machines import Machines
from vdbackup.operations.volume_protection import Tell, Told, VolumeResult, note_ended
from vdbackup.recovery.libvirt_guest import LibvirtGuest
from vdbackup.recovery.sessions.protection import LIMIT
from vdbackup.recovery.sessions.writes_watch import LOOK, Keeper
from vdbackup.repository.kept_logs import Cause, KeptLog, Protection, kept_log
from vdbackup.repository.lease import Lease
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_EVER = float("inf")
_SILENCE = 60.0
"""Seconds without an answer of libvirt's after which nobody can look after its guest."""
_Seen = tuple[int, int, int]


@dataclass(frozen=True)
class GuestRequest:
    """What is asked for.

    Attributes:
        guest: whose writes are kept.
        backup: how the point of its disk is made that they follow on.
        limit: bytes that the log may take.
        lasts: seconds after which that ends; None: when it is cancelled, or the guest ends.
    """

    guest: LibvirtGuest
    backup: BackupRequest
    limit: int = LIMIT
    lasts: float | None = None


def run(request: GuestRequest, machines: Machines, task: Task, tell: Tell) -> VolumeResult:
    """Make a point, start the guest, and keep every write until it ends, or that is cancelled.

    A guest that runs when it is cancelled goes on, and is logged no more.

    Raises:
        NotProtected: it runs already, has several disks, or its disk was written to meanwhile.
        RecoveryError: libvirt or its QEMU refuses: then the guest does not run. What `backup.run`
            does: then it was not started.
    """
    guest, disk = request.guest, request.backup.source.path
    guest.check_off()
    before = _seen(disk)
    made = backup.back_up(request.backup, machines, task)
    tell(Told(made))
    backup_set = made.repository.set(made.set_name)
    note_ended(backup_set, disk)
    task.check()
    with _begun(backup_set.folder, made, request) as kept:
        _start(guest, disk, before, kept)
        since = time.time_ns()
        tell(Told(begun=kept))
        keeper = Keeper.of(kept.folder, kept.session, since)
        if keeper is None:
            raise NotProtected(
                tr("The writes of {title} were forgotten.", title=kept.protection.title)
            )
        with closing(keeper):
            _look_after(guest, disk, keeper, task, request.lasts)
    return VolumeResult(kept_log(kept.folder, kept.session), made.point)


@contextmanager
def _begun(folder: Path, made: BackupResult, request: GuestRequest) -> Iterator[KeptLog]:
    """An empty log beside a point; it goes again where the guest was not started with it."""
    now, here = datetime.now(UTC), Lease.of_this_process("")
    session = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    size = made.point.virtual_size
    record = Protection(
        session, made.point.id, request.guest.name, now.isoformat(timespec="milliseconds"), size,
        limit=request.limit, boot=here.boot, machine=here.machine,
        source=str(request.backup.source.path), guest=request.guest.name,
    )  # fmt: skip
    kept = KeptLog.of(folder, record)
    kept.announce()
    try:
        begin(kept.path, size)
        with closing(IndexWriter(kept.index)) as notes:
            notes.sync()  # where they are missing later, they were lost
        for each in (kept.path, kept.index):
            give_to_owner_of_folder(each)
        yield kept
    except BaseException:
        if not kept.record.exists():
            kept.remove()
        raise


def _start(guest: LibvirtGuest, disk: Path, before: _Seen, kept: KeptLog) -> None:
    """Start the guest with its log; if that fails, it does not run."""
    if _seen(disk) != before:
        raise NotProtected(
            tr("{disk} was written to while the point was made of it.", disk=disk),
            tr("Try again while the guest is off."),
        )
    guest.start_paused()
    try:
        guest.put_in(kept, disk)
        guest.resume()
    except BaseException:
        with suppress(RecoveryError):
            guest.destroy()  # it has not run yet
        with suppress(FileNotFoundError):
            kept.remove()
        raise


def _look_after(
    guest: LibvirtGuest, disk: Path, keeper: Keeper, task: Task, lasts: float | None
) -> None:
    """Note what comes, until the guest has ended, the log has to end, or somebody ends it.

    Raises what keeps this from looking after it: then, too, the log is taken out, if that can be.
    """
    try:
        over = _waited(guest, keeper, task, time.monotonic() + (lasts or _EVER))
        if over[0] is not Cause.MACHINE:
            guest.take_out(disk)
    except BaseException as error:
        why = error.title if isinstance(error, VdbackupError) else tr("It was broken off.")
        with suppress(RecoveryError):
            guest.take_out(disk)
        keeper.end(Cause.CHANGED, why)
        raise
    keeper.end(*over)
    if over[0] not in (Cause.ASKED, Cause.MACHINE):
        log.warning("the writes of %s are kept no more: %s", guest.name, over[1])


def _waited(guest: LibvirtGuest, keeper: Keeper, task: Task, ends: float) -> tuple[Cause, str]:
    """Look after a log until it is over; why that is."""
    silent_since = _EVER
    with suppress(Cancelled):
        while time.monotonic() < ends:
            task.cancel.wait(max(0.0, min(LOOK, ends - time.monotonic())))
            try:
                if guest.is_off:
                    return Cause.MACHINE, tr("Its machine has ended.")
                silent_since = _EVER
            except MachineFailed:  # libvirt's daemon may just be started anew
                silent_since = min(silent_since, time.monotonic())
                if time.monotonic() - silent_since > _SILENCE:
                    raise
            if (over := _over(keeper)) is not None:
                return over
    return Cause.ASKED, tr("That was asked for.")


def _over(keeper: Keeper) -> tuple[Cause, str] | None:
    """Why a log has to end; None where it goes on."""
    try:
        keeper.look()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("no space for the notes of a log")  # and so it has to end
    if keeper.ended:  # by `unprotect`
        return Cause.ASKED, tr("That was asked for.")
    return keeper.too_much()


def _seen(disk: Path) -> _Seen:
    """What changes when somebody writes to a disk in a file; raises OSError."""
    found = disk.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
