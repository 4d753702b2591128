"""Every write of a machine is kept: the log is put below its disk while it runs, and looked after.

QEMU's blklogwrites is a filter above the session's disk: what the guest writes goes there as ever,
and then into the log beside the point's set (repository/kept_logs.py). It is put in and taken out
between two of the guest's requests (qom-set, since QEMU 6.1), so that a running machine can be
protected: the log then begins with what its disk holds by then, read while the machine is paused.

Discards pass by: the session's disk takes them in clusters, the log would have them by the sector.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.write_log.begin import begin
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import MachineFailed, NotProtected, Remedy, VdbackupError, from_os
from vdbackup.jobs import readable_size
from vdbackup.recovery.sessions import going_on
from vdbackup.recovery.sessions.record import Origin, SessionRecord
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import Cause, KeptLog, Protection, UnreadLog, survey
from vdbackup.repository.written import is_moment
from vdbackup.translation import tr

log = logging.getLogger(__name__)

LIMIT = 64 << 30
"""Bytes that a log may take where nobody says how many."""
_MAX_BEFORE = 2 << 30
"""Bytes that are copied into a log at most while the machine waits: some seconds."""
_DISK, FILTER = "disk", "writes"
"""QEMU's names for the session's disk (qemu.py), and for the log above it."""


class Tell(Protocol):
    """Says something to a session's QEMU; what it answers. Raises RecoveryError."""

    def __call__(self, command: str, **arguments: object) -> Any:
        """A command of QMP, and its arguments."""


def check_can_be(record: SessionRecord) -> Origin:
    """The point that it lies on; raises NotProtected where no writes of such a machine are kept."""
    hardware = record.machine.get("hardware")
    if record.program:
        why = tr("it is run by another program")
    elif record.origin is None:
        why = tr("it lies on no recovery point")
    elif is_moment(record.origin.point):
        why = tr("it was started from a moment between points: make a recovery point of that first")
    elif record.others:
        why = tr(
            "it has {value} disks, and writes are kept of machines with one",
            value=1 + len(record.others),
        )
    elif isinstance(hardware, dict) and hardware.get("partition"):
        why = tr("its disk was composed around a volume, which is not what its point holds")
    else:
        return record.origin
    raise NotProtected(
        tr("The writes of {record} cannot be kept: {why}.", record=record.title, why=why)
    )


def protect(
    tell: Tell, session: str, folder: Path, record: SessionRecord, limit: int = LIMIT
) -> tuple[KeptLog, str]:
    """Keep every write of a machine from now on; it is paused for that where it runs.

    Where writes of it were kept before, their log goes on.

    Args:
        tell: speaks with its QEMU.
        session: its id.
        folder: the session's.
        record: what that says of it.
        limit: bytes that the log may take.

    Returns:
        Its log, and what there is to be said of that.

    Raises:
        NotProtected: that cannot be, or is done already. RecoveryError: QEMU refuses.
        RepositoryError: its point is not there. OSError: the log cannot be made.
    """
    origin = check_can_be(record)
    _, backup_set, point = origin.find()
    _check_not_kept(tell, record)
    there = _log_of(backup_set.folder, session)
    if isinstance(there, UnreadLog):
        if not there.left:
            raise NotProtected(
                there.problem, there.advice, remedy=Remedy.FORGET_WRITES, about=session
            )
        there.remove()
    with _paused(tell) as was_running:
        most = _MAX_BEFORE if was_running else None
        disk = folder / "session.qcow2"
        if isinstance(there, KeptLog):
            gone_on = going_on.go_on(there, backup_set, point, disk, limit, most)
            attach_log(tell, gone_on.kept)
            return gone_on.kept, gone_on.sentence
        return _begin(tell, backup_set, session, record, disk, limit), ""


def protect_again(
    tell: Tell, session: str, folder: Path, record: SessionRecord
) -> tuple[bool, str]:
    """Go on with the log of a machine that is started again, before its guest runs.

    What stands in the way of that does not keep the machine from running.

    Returns:
        Whether its writes are kept; and what there is to be said of that.
    """
    if record.origin is None or is_moment(record.origin.point):
        return False, ""
    try:
        there = _log_of(record.origin.repository / record.origin.set_name, session)
        if there is None or (isinstance(there, UnreadLog) and there.left):
            return False, ""
        if isinstance(there, KeptLog) and not going_on.goes_on_by_itself(there):
            return False, tr("No more writes of it are kept: {why}", why=there.protection.why)
        limit = there.protection.limit if isinstance(there, KeptLog) else 0
        _, said = protect(tell, session, folder, record, limit or LIMIT)
    except (VdbackupError, OSError) as error:
        log.exception("session %s: its writes are kept no more", session)
        problem = from_os(error) if isinstance(error, OSError) else error
        return False, tr("No more writes of it are kept: {why}", why=problem.title)
    return True, said


def _log_of(set_folder: Path, session: str) -> KeptLog | UnreadLog | None:
    return next((each for each in survey(set_folder) if each.session == session), None)


@contextmanager
def _paused(tell: Tell) -> Iterator[bool]:
    """The machine waits meanwhile; whether it had been running."""
    was_running = tell("query-status").get("running") is True
    if was_running:
        tell("stop")  # it writes all of its disk out, too
    try:
        yield was_running
    finally:
        if was_running:
            tell("cont")


def _check_not_kept(tell: Tell, record: SessionRecord) -> None:
    nodes = [each.get("inserted", {}).get("node-name") for each in tell("query-block")]
    if FILTER in nodes:
        raise NotProtected(
            tr("The writes of {record} are kept already.", record=record.title),
            tr("They can be listed."),
            remedy=Remedy.LIST_MOMENTS,
        )


def _begin(
    tell: Tell,
    backup_set: BackupSet,
    session: str,
    record: SessionRecord,
    session_disk: Path,
    limit: int,
) -> KeptLog:
    """Make a new log with what a machine that waits has written by now, and put it in."""
    origin = check_can_be(record)
    with closing(Qcow2Disk.open_knowing_parent(session_disk)) as disk:
        size = disk.info.virtual_size
        held = int(disk.block_map().data_ranges()[:, 1].sum())
        if held > _MAX_BEFORE:
            raise NotProtected(
                tr(
                    "{protection} has written {size} already, which would have to be copied while "
                    "it waits; {size_2} are the most.",
                    protection=record.title,
                    size=readable_size(held),
                    size_2=readable_size(_MAX_BEFORE),
                ),
                tr("Protect it when it starts."),
            )
        protection = Protection(
            session, origin.point, record.title, "", size, origin.overlay_contents, limit=limit,
            boot=going_on.this_boot(),
        )  # fmt: skip
        kept = KeptLog.of(backup_set.folder, protection)
        kept.announce()
        try:
            before = begin(kept.path, size, disk if held else None)
            with closing(IndexWriter(kept.index)) as notes:
                notes.sync()  # where they are missing later, they were lost
            for each in (kept.path, kept.index):
                give_to_owner_of_folder(each)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            kept = replace(kept, protection=replace(protection, since=now, before=before))
            attach_log(tell, kept)
        except BaseException:
            kept.remove()
            raise
    return kept


def attach_log(tell: Tell, kept: KeptLog, disk: str = _DISK) -> None:
    """Put a log below the disk of a machine that waits, and write its record.

    Args:
        tell: speaks with its QEMU.
        kept: the log, which was begun.
        disk: what its QEMU calls the disk.

    Raises RecoveryError where QEMU refuses, OSError.
    """
    place = {"driver": "file", "filename": str(kept.path.absolute()), "aio": "threads"}
    tell(
        "blockdev-add",
        **{"driver": "blklogwrites", "node-name": FILTER, "file": disk, "log": place,
           "log-append": True},
    )  # fmt: skip
    try:
        _attach(tell, disk, FILTER)
        kept.save()
    except BaseException:
        take_out(tell, disk)
        raise


def take_out(tell: Tell, disk: str = _DISK) -> None:
    """Keep no more writes; the machine goes on. Raises RecoveryError where QEMU refuses."""
    _attach(tell, FILTER, disk)
    tell("blockdev-del", **{"node-name": FILTER})


def _attach(tell: Tell, before: str, after: str) -> None:
    """Give the device that has one node another one; nothing is done where none has it."""
    for each in tell("query-block"):
        if each.get("inserted", {}).get("node-name") == before:
            tell("qom-set", path=each["qdev"], property="drive", value=after)


def end(kept: KeptLog, cause: Cause, why: str) -> None:
    """Write down that nothing is added to a log any more, why, in a sentence; raises OSError."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    ended = replace(kept.protection, ended=now, why=why, cause=cause.value)
    replace(kept, protection=ended).save()


def check_owned(*, owned: bool, title: str) -> None:
    """Raise MachineFailed where no program looks after a session."""
    if not owned:
        raise MachineFailed(
            tr(
                "The program that started {title} is gone, so nobody would look after its writes.",
                title=title,
            ),
            tr("End the machine, and open it again."),
        )
