"""Holds: which recovery points a virtual machine's session lies on, so that none is taken away.

A session's disk is worth something only above the point that it was started on. While the session
runs or is kept, a small file in the set's folder says so:

    hold-<session>.json     the point's id, whose session it is and on which computer, where its
                            folder lies, since when

A hold is put down before its owner looks whether the point is there, and whoever takes a point away
looks for holds after its journal is written: of two that come at once, one at least sees the other.
A hold whose session is known to be gone counts no more, and whoever takes a point away under the
repository's lock removes it. It is known only on the computer that made it, in the same run of its
kernel, and where the folder that the session's lay in is still the same: a host's name, a clone of
a computer or a drive that is not plugged in prove nothing, and then the point stays held until
somebody lets go of it.

A log of the writes of a point's machine (kept_logs.py) holds the point, too, as long as it is
there; one of which nobody can tell on which point it lies holds each of the set.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdbackup import records
from vdbackup.errors import READ_ONLY, PointInUse, Remedy, RepositoryError, VdbackupError
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import read_json, remove, sync_folder, write_json
from vdbackup.repository.kept_logs import KeptLog, LogFiles, UnreadLog, survey
from vdbackup.repository.lease import Lease
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import point_of
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SESSION_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_NAME = re.compile(rf"hold-({SESSION_ID.pattern})\.json")
_UNKNOWN = "?"
"""The point of a hold that cannot be read, which may be any."""


@dataclass(frozen=True)
class Hold:
    """One session's claim on a point.

    Attributes:
        point: the point's id, or that of a moment behind it; of a file that is damaged nobody
            knows, and it counts for each.
        session: the session's id.
        title: what runs in it, for a person.
        host, user: whose it is, for a person.
        folder: the session's, on that host.
        since: UTC, ISO 8601.
        machine, boot: of the computer and of its kernel's run, as in Lease; "" in what older
            versions wrote.
        within: number of the inode of the folder that the session's folder lies in; "" likewise.
        program: that its machine was made for, which may run it without our knowing; "" for ours.
    """

    point: str
    session: str
    title: str
    host: str
    user: str
    folder: str
    since: str
    machine: str = ""
    boot: str = ""
    within: str = ""
    program: str = ""

    def is_on(self, point: RecoveryPoint) -> bool:
        """Whether the session lies on the point, or may."""
        return point_of(self.point) in (point.id, _UNKNOWN)

    @property
    def is_ours(self) -> bool:
        """Whether the session lies, as far as one can tell, on this computer."""
        here = Lease.of_this_process("")
        same = self.machine == here.machine if self.machine and here.machine else None
        return self.host == here.host if same is None else same

    def reads_through(self, backup_set: BackupSet, point: RecoveryPoint) -> bool:
        """Whether a machine that nobody here can see running may have the point's layer open.

        What runs on this computer is seen by itself, and so is a machine of ours anywhere.
        """
        if not self.program or self.is_ours:
            return False
        try:
            return point in backup_set.chain(backup_set.point(self.point))
        except VdbackupError:  # its point is gone, or damaged
            return False

    @property
    def is_stale(self) -> bool:
        """Whether its session is known to be gone."""
        here = Lease.of_this_process("")
        same = bool(self.boot) and (self.machine, self.boot) == (here.machine, here.boot)
        return same and _inode_above(self.folder) == self.within and not _may_exist(self.folder)


@dataclass(frozen=True)
class LogHold(Hold):
    """That of a log of writes, which fit on one point alone.

    Attributes:
        problem: why nobody can tell on which; "" where that is known.
        advice: what to do about that.
    """

    problem: str = ""
    advice: str = ""

    @classmethod
    def of(cls, kept: KeptLog) -> LogHold:
        """A log's."""
        writes = kept.protection
        return cls(
            writes.point, writes.session, writes.title, "", "", str(kept.record), writes.since
        )

    @classmethod
    def of_any(cls, found: KeptLog | UnreadLog, problem: str, advice: str) -> LogHold:
        """That of a log which may be on any point."""
        record = str(found.record)
        return cls(_UNKNOWN, found.session, "", "", "", record, "", problem=problem, advice=advice)

    @property
    def is_ours(self) -> bool:
        """It lies with the backups, so it is everybody's."""
        return True

    @property
    def is_stale(self) -> bool:
        """It counts until it is deleted."""
        return False


def place(
    backup_set: BackupSet,
    point: RecoveryPoint,
    session: str,
    title: str,
    folder: Path,
    program: str = "",
) -> bool:
    """Hold a point for a session (see `Hold`); False where the repository cannot be written."""
    here, where = Lease.of_this_process(""), str(folder.absolute())
    hold = Hold(
        point.id, session, title, here.host, _user(), where, here.since,
        here.machine, here.boot, _inode_above(where), program,
    )  # fmt: skip
    try:
        write_json(_path(backup_set.folder, session), asdict(hold))
    except OSError as error:
        # a machine has to boot from a repository that is read-only, or full
        log.warning("%s is not held for session %s: %s", point.disk, session, error)
        return False
    return True


def release(set_folder: Path, session: str) -> bool:
    """Remove a session's hold; whether there was one."""
    path = _path(set_folder, session)
    try:
        there = path.exists()
        remove(path)
        if there:
            sync_folder(set_folder)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("%s stays: %s", path, error)  # it counts no more, as its session is gone
        return False
    return there


def of(backup_set: BackupSet) -> list[Hold]:
    """The holds of a set that count, oldest first. Nothing is changed: plans ask, too."""
    return [hold for hold in _read(backup_set) if not hold.is_stale]


def is_held(set_folder: Path, session: str) -> bool:
    """Whether a session has put its hold down; not where the repository cannot be written to."""
    return _path(set_folder, session).exists()


def check_free(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> None:
    """Raise PointInUse, which names the session, where one lies on any of the points.

    The caller holds the lock: holds whose session is known to be gone are removed.
    """
    asked = list(points)
    for hold in _read(backup_set):
        if hold.is_stale:
            with suppress(OSError):  # storage that is full or read-only: it does not count anyway
                remove(_path(backup_set.folder, hold.session))
        elif on := [point for point in asked if hold.is_on(point)]:
            raise _in_use(backup_set, on[0], hold)


def check_not_read(backup_set: BackupSet, kept: LogFiles) -> None:
    """Raise PointInUse, which names the session, where one lies on a moment of a log."""
    name = f"@{kept.session}."
    if reading := [hold.session for hold in of(backup_set) if name in hold.point]:
        raise PointInUse(
            tr(
                "The writes of the session {session} are in use: the session {reading} runs from "
                "a moment of them, or is kept on it.",
                session=kept.session,
                reading=reading[0],
            ),
            tr("End it, then discard it or make a point of it."),
            remedy=Remedy.END_SESSION,
            about=reading[0],
            cleared=lambda: not any(name in hold.point for hold in of(backup_set)),
        )


def check_not_below(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> None:
    """Raise PointInUse where another computer's machine may read through one of the points.

    Another program runs that, so that it makes no claim; the caller holds the lock.
    """
    if found := _above(backup_set, points):
        point, hold = found
        raise PointInUse(
            tr(
                "Point {point} may be in use: {hold}, which may be running, reads through it.",
                point=point.sequence,
                hold=_machine_of(hold),
            ),
            tr(
                "Shut it down there, and discard the session {session} there.", session=hold.session
            ),
            remedy=Remedy.END_SESSION_ELSEWHERE,
            about=hold.session,
            cleared=lambda: hold not in of(backup_set),
        )


def _above(
    backup_set: BackupSet, points: Iterable[RecoveryPoint]
) -> tuple[RecoveryPoint, Hold] | None:
    held = [hold for hold in of(backup_set) if hold.program]
    through = (
        (point, hold)
        for point in (points if held else ())
        for hold in held
        if hold.reads_through(backup_set, point)
    )
    return next(through, None)


def _machine_of(hold: Hold) -> str:
    return tr(
        "the machine {hold} of {user} on {host}", hold=hold.title, user=hold.user, host=hold.host
    )


def below_hindrance(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> str:
    """The same in words, as a plan says it; "" where there is none."""
    if (found := _above(backup_set, points)) is None:
        return ""
    point, hold = found
    return tr(
        "That cannot be while {hold} may run: it reads through point {point}. Shut it down "
        "there, and discard the session {session} there.",
        hold=_machine_of(hold),
        point=point.sequence,
        session=hold.session,
    )


def hindrance(backup_set: BackupSet, point: RecoveryPoint) -> str:
    """Why the point cannot be taken away, naming the sessions on it; "" where there is none."""
    held = [hold for hold in of(backup_set) if hold.is_on(point)]
    if not held:
        return ""
    if isinstance(held[0], LogHold):
        return tr(
            "That cannot be yet. {of_log} {forget}",
            of_log=(said := _of_log(backup_set, point, held[0])).title,
            forget=said.advice,
        )
    names = ", ".join(
        tr("{session} of {hold}", session=hold.session, hold=hold.title or tr("a virtual machine"))
        for hold in held
    )
    return tr(
        "That cannot be while there is a session on point {point}: {names}. Discard it, or "
        "make a recovery point of it, first.",
        point=point.sequence,
        names=names,
    )


def _in_use(backup_set: BackupSet, point: RecoveryPoint, hold: Hold) -> PointInUse:
    if isinstance(hold, LogHold):
        return _of_log(backup_set, point, hold)
    if hold.point == _UNKNOWN:
        return PointInUse(
            tr(
                "Point {point} may be in use: the note of the session {session} is damaged and "
                "does not say on which point it lies.",
                point=point.sequence,
                session=hold.session,
            ),
            tr("End the session, then discard it."),
            remedy=Remedy.END_SESSION_ELSEWHERE,
            about=hold.session,
            cleared=lambda: hold not in of(backup_set),
        )
    whose = "" if hold.is_ours else tr(" of {user} on {host}", user=hold.user, host=hold.host)
    return PointInUse(
        tr(
            "Point {point} is in use: the session {session}{whose} runs from it, or is kept on it.",
            point=point.sequence,
            session=hold.session,
            whose=whose,
        ),
        (
            tr("End it, then discard it or make a point of it.")
            if hold.is_ours
            else tr("End it, then discard it or make a point of it there.")
        ),
        remedy=Remedy.END_SESSION if hold.is_ours else Remedy.END_SESSION_ELSEWHERE,
        about=hold.session,
        cleared=lambda: hold not in of(backup_set),
    )


_FORGET = tr("Let these writes be forgotten first; a recovery point can be made of a moment.")


def _of_log(backup_set: BackupSet, point: RecoveryPoint, hold: LogHold) -> PointInUse:
    if hold.problem:
        title = tr(
            "Point {point} may be in use, as nobody can tell on which point the kept writes of the "
            "session {session} lie: {problem}",
            point=point.sequence,
            session=hold.session,
            problem=hold.problem,
        )
    else:
        title = tr(
            "Point {point} is in use: every write of the session {session} is kept on it.",
            point=point.sequence,
            session=hold.session,
        )
    return PointInUse(
        title,
        hold.advice or _FORGET,
        remedy=Remedy.FORGET_WRITES,
        about=hold.session,
        cleared=lambda: hold not in of(backup_set),
    )


def _of_logs(backup_set: BackupSet) -> Iterator[LogHold]:
    """Those of the logs beside a set; in doubt a log is on each of its points."""
    for found in survey(backup_set.folder):
        if isinstance(found, UnreadLog):
            if not found.left:
                yield LogHold.of_any(found, found.problem, found.advice)
        elif _may_be_elsewhere(backup_set, point_id := found.protection.point):
            problem = tr("{point_id}, their point, is not there.", point_id=point_id)
            yield LogHold.of_any(found, problem, _BRING_BACK)
        else:
            yield LogHold.of(found)


def _may_be_elsewhere(backup_set: BackupSet, point_id: str) -> bool:
    """Whether no point of the set has, or had, that id: so that a record names the wrong one."""
    journal = backup_set.journal
    merging = (journal.parent, journal.child) if journal else ()
    points = (*backup_set.points, *backup_set.hidden, *merging)
    return bool(backup_set.points) and not any(
        point_id == each.id or point_id in each.merged for each in points
    )


_BRING_BACK = tr(
    "Put that point's files back and have the set repaired, or let these writes be forgotten."
)


def _read(backup_set: BackupSet) -> Iterator[Hold]:
    folder = backup_set.folder
    yield from _of_logs(backup_set)
    for name in sorted(os.listdir(folder)):
        match = _NAME.fullmatch(name)
        if not match:
            continue
        try:
            hold: Hold = _parsed(read_json(folder / name))
            if hold.session != match[1]:
                raise ValueError(tr("it is of the session {session}", session=hold.session))
        except FileNotFoundError:
            continue  # its session has ended meanwhile
        except (RepositoryError, KeyError, TypeError, ValueError) as error:
            log.warning("%s counts for every point, as it cannot be read: %s", folder / name, error)
            yield Hold(_UNKNOWN, match[1], "", "", "", "", "")
            continue
        yield hold


def _parsed(data: dict[str, Any]) -> Hold:
    hold = records.tolerant(Hold, data)
    records.moment(hold.since)
    return hold


def _path(folder: Path, session: str) -> Path:
    if not SESSION_ID.fullmatch(session):
        raise ValueError(tr("{session!r} is no session's id", session=session))
    return folder / f"hold-{session}.json"


def _inode_above(folder: str) -> str:
    """Of what a folder lies in; another one, or "", where a drive is not there that was."""
    try:
        return str(os.stat(os.path.dirname(folder)).st_ino)
    except (OSError, ValueError):
        return ""


def _may_exist(folder: str) -> bool:
    """False only where the folder is known not to be there."""
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True  # another user's, or storage that does not answer
    return True


def _user() -> str:
    import getpass  # late: only who begins to hold something is named

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for us
        return str(os.getuid())
