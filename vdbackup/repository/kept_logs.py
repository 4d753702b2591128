"""The logs of every write beside a set's points: which there are, whose, and which can be read.

    writes-<session>.json     which point the machine was started from whose writes are kept, or
                              which point they follow on of a volume of a computer; since when, up
                              to how much, and why no more, where that is so
    writes-<session>.log      the writes (disks/write_log)
    writes-<session>.index    when they came

A log is worth something above its own point alone, so that point is not taken away (holds.py). Of a
log whose record is damaged, or missing, nobody knows which point that is: then it may be any.

The record is there in flight (`.partial`) before its log is, and is in flight again before its log
is deleted: a log beside such a record was never begun with, or is just going, and is nobody's.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vdbackup import records
from vdbackup.durable import PARTIAL, check_regular, hold_lock, open_own
from vdbackup.errors import (
    DamagedMetadata,
    NotWritten,
    Obstructed,
    PointInUse,
    Remedy,
    RepositoryError,
    from_os,
)
from vdbackup.repository.files import (
    read_json,
    remove,
    sync_folder,
    write_json,
    write_json_in_flight,
)
from vdbackup.repository.lease import Lease
from vdbackup.translation import tr

if TYPE_CHECKING:  # late: disks bring numpy, and what only lists points needs none
    from vdbackup.disks.write_log.log import WriteLog

log = logging.getLogger(__name__)

LAYOUT = 1
"""Of a log's files, as this version writes them."""
NS = 1_000_000_000
_NAME = re.compile(r"writes-(\d{8}-\d{6}-[0-9a-f]{6})\.(?:json|json\.partial|log)")


class Cause(enum.StrEnum):
    """What ended a log; in a record other words may stand, of versions to come."""

    MACHINE = "machine"
    ASKED = "asked"
    LIMIT = "limit"
    STORAGE = "storage"
    CHANGED = "changed"
    RESTART = "restart"


RESTARTED = tr("The computer was started anew.")
"""What is said of that."""


@dataclass(frozen=True)
class Protection:
    """Whose writes a log holds: `writes-<session>.json`.

    Attributes:
        session: the session's id.
        point: the id of the point that its machine was started from.
        title: what runs in it, for a person.
        since: when it began, UTC, ISO 8601.
        disk_size: of the machine's disk, in bytes.
        overlay_contents: what the point's overlay held then (overlays.py): the writes fit on that.
        before: with how many writes the log begins that the machine had done before.
        limit: bytes that the log may take.
        ended: when the log came to its end, UTC, ISO 8601; None as long as it goes on.
        why: what ended it, a sentence.
        layout: LAYOUT of the version that wrote it, or of a newer one.
        cause: why it ended, as `Cause`; "" where it goes on, and in what older versions wrote.
        boot: id of the kernel's run in which it was last added to, as in Lease; "" likewise.
        source: path of the volume of a computer whose writes they are, where they are no machine's:
            they fit on the point as it was captured, without its overlay.
        machine: of that computer, as in Lease.
        guest: name of the guest of libvirt's that writes to `source`; "" of a volume.
    """

    session: str
    point: str
    title: str
    since: records.Moment
    disk_size: int
    overlay_contents: str = ""
    before: int = 0
    limit: int = 0
    ended: records.Moment | None = None
    why: records.Sentence = ""
    layout: int = LAYOUT
    cause: str = ""
    boot: str = ""
    source: str = ""
    machine: str = ""
    guest: str = ""

    @property
    def ended_early(self) -> bool:
        """Whether it ended before its machine did, and nobody had asked for that."""
        return self.cause in (Cause.LIMIT, Cause.STORAGE, Cause.CHANGED, Cause.RESTART)


@dataclass(frozen=True)
class LogFiles:
    """The files of a log beside a set.

    Attributes:
        folder: the set's.
        session: the id of the session whose writes it holds; it names the files.
    """

    folder: Path
    session: str

    @property
    def record(self) -> Path:
        """Says whose it is."""
        return record_path(self.folder, self.session)

    @property
    def path(self) -> Path:
        """The writes."""
        return self.record.with_suffix(".log")

    @property
    def index(self) -> Path:
        """When they came."""
        return self.record.with_suffix(".index")

    @property
    def stored(self) -> int:
        """Bytes of storage that it takes; raises OSError."""
        found = [os.lstat(each) for each in (self.path, self.index) if os.path.lexists(each)]
        return sum(each.st_blocks * 512 for each in found)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody goes on with it, replaces or deletes it meanwhile (disks/write_log/begin.py).

        What is short alone is done so: who goes on with it does not wait. Raises PointInUse.
        """
        try:
            fd = open_own(self.path, os.O_RDWR)
        except (Obstructed, OSError):  # then nobody goes on with it
            yield
            return
        try:
            hold_lock(fd)
        except BlockingIOError as error:
            raise PointInUse(
                tr(
                    "The writes of the session {session} are just gone on with, or replaced.",
                    session=self.session,
                ),
                tr("Try again when that is done."),
            ) from error
        try:
            yield
        finally:
            os.close(fd)

    def remove(self, check: Callable[[], None] = lambda: None) -> None:
        """Delete it.

        Args:
            check: looks whether somebody needs it once it counts no more, and raises what it likes:
                then it counts again.

        Raises Obstructed where something else bears the name of a file, OSError.
        """
        going = _in_flight(self.record)
        for each in (self.record, self.path, self.index, going):
            if os.path.isdir(each) and not os.path.islink(each):
                raise Obstructed(
                    tr("{path} is a folder, and none of this program's.", path=each),
                    tr("Move it away."),
                )
        if was := os.path.lexists(self.record):
            os.replace(self.record, going)  # what is left is nobody's from here on
            sync_folder(self.folder)
        try:
            check()
        except BaseException:
            if was:
                os.replace(going, self.record)
                sync_folder(self.folder)
            raise
        in_flight = (_in_flight(self.path), _in_flight(self.index), _in_flight(going))
        for each in (self.path, self.index, *in_flight, going):
            remove(each)
        sync_folder(self.folder)


@dataclass(frozen=True)
class UnreadLog(LogFiles):
    """A log of which nobody can tell whose it is.

    Attributes:
        problem: why, a sentence.
        advice: what to do about it, another.
        left: it counts for nothing: it was never begun with, or is being deleted.
    """

    problem: str
    advice: str
    left: bool = False


@dataclass(frozen=True)
class KeptLog(LogFiles):
    """A log whose record can be read.

    Attributes:
        protection: whose writes it holds.
    """

    protection: Protection

    @classmethod
    def of(cls, folder: Path, protection: Protection) -> Self:
        """That beside a set."""
        return cls(folder, protection.session, protection)

    def read(self) -> WriteLog:
        """Its entries as of now; raises RepositoryError, DiskError, OSError."""
        self.check()
        log, _ = self._read()
        if log.writes < self.protection.before:
            raise DamagedMetadata(
                tr("{path} is damaged: it holds fewer writes than it began with.", path=self.path),
                tr("Its moments are lost; those of other machines are not."),
            )
        return log

    def _read(self) -> tuple[WriteLog, Path]:
        """Its entries, and which notes they were read by; raises as `read`."""
        log = _read(self.path, self.protection.disk_size, self.index, self.as_of())
        if log.lost and os.path.lexists(self.new_index):  # cut off between two names (replace_by)
            check_regular(self.new_index)
            other = _read(self.path, self.protection.disk_size, self.new_index, self.as_of())
            if not other.lost:
                return other, self.new_index
        return log, self.index

    def settle(self) -> None:
        """Finish what was cut off between two names (`replace_by_new`).

        Before that nobody may add to it, or remove what is in flight. Raises as `read`.
        """
        self.check()
        if os.path.lexists(self.new_index) and self._read()[1] == self.new_index:
            os.replace(self.new_index, self.index)
            sync_folder(self.folder)

    @property
    def is_written_out(self) -> bool:
        """Whether all of it, and its notes, had been written out when it ended."""
        by_itself = (Cause.MACHINE, Cause.LIMIT, Cause.STORAGE)  # others end it from without
        return self.protection.ended is not None and self.protection.cause in by_itself

    @property
    def was_cut_off(self) -> bool:
        """Whether the computer whose volume's writes these are was started anew: no more come.

        Nobody has noted that yet.
        """
        record, here = self.protection, Lease.of_this_process("")
        is_ours = bool(record.source) and record.machine == here.machine
        return is_ours and record.ended is None and record.boot != here.boot

    def check(self) -> None:
        """Raise Obstructed where something else bears the name of one of its files; OSError."""
        check_regular(self.path)
        with contextlib.suppress(FileNotFoundError):
            check_regular(self.index)

    def as_of(self) -> tuple[int, ...]:
        """What changes with whatever is added to it, and where it is thinned; raises OSError."""
        found = [os.stat(each) for each in (self.path, self.index) if each.exists()]
        return tuple(number for each in found for number in (each.st_size, each.st_mtime_ns))

    @property
    def new_log(self) -> Path:
        """The name in flight of what is to take the log's place."""
        return _in_flight(self.path)

    @property
    def new_index(self) -> Path:
        """The same of its notes; until they have their name, they count where the old ones fail."""
        return _in_flight(self.index)

    def replace_by_new(self) -> None:
        """Give what is in flight, and durable, the names of log and notes; raises OSError."""
        sync_folder(self.folder)
        os.replace(self.new_log, self.path)
        sync_folder(self.folder)  # the notes fit the new log alone
        os.replace(self.new_index, self.index)
        sync_folder(self.folder)

    def announce(self) -> None:
        """Say durably that a log is about to be begun with: what is cut off then is nobody's."""
        write_json_in_flight(self.record, asdict(self.protection))
        sync_folder(self.folder)

    def save(self) -> None:
        """Write its record, durably; raises OSError.

        What announced the log is never taken away before the record is there: whoever looks in
        between, or after a power cut, would find a log that is anybody's.
        """
        if os.path.lexists(self.record):
            write_json(self.record, asdict(self.protection))
            return
        announced = _in_flight(self.record)
        write_json(announced, asdict(self.protection))
        os.rename(announced, self.record)
        sync_folder(self.folder)


@lru_cache(maxsize=2)
def _read(path: Path, disk_size: int, index: Path, _as_of: tuple[int, ...]) -> WriteLog:
    """A log as it is: to check a million entries takes a tenth of a second, each time."""
    from vdbackup.disks.write_log.log import WriteLog

    return WriteLog.read(path, disk_size, index)


def record_path(set_folder: Path, session: str) -> Path:
    """Where it is said whose a log is."""
    return set_folder / f"writes-{session}.json"


def _in_flight(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def kept_logs(set_folder: Path) -> list[KeptLog]:
    """The logs beside a set whose records can be read, oldest first."""
    return [each for each in survey(set_folder) if isinstance(each, KeptLog)]


def kept_log(set_folder: Path, session: str) -> KeptLog:
    """The log of a session's writes.

    Raises NotWritten; DamagedMetadata where there is one of which nobody can tell whose it is.
    """
    for each in survey(set_folder):
        if each.session != session:
            continue
        if isinstance(each, UnreadLog):
            raise DamagedMetadata(each.problem, each.advice)
        return each
    raise NotWritten(
        tr(
            "No writes of the session {session} are kept in {set_folder}.",
            session=session,
            set_folder=set_folder.name,
        ),
        tr("They may have been deleted."),
        remedy=Remedy.LIST_MOMENTS,
    )


def kept_protection(set_folder: Path, session: str) -> Protection | None:
    """Whose writes the log of a session holds; None where there is none that can be told of."""
    try:
        found = _found(set_folder, session)
    except FileNotFoundError:
        return None
    except (RepositoryError, OSError, TypeError, ValueError) as error:
        log.warning("the writes of session %s: %s", session, error)
        return None
    return found.protection if isinstance(found, KeptLog) else None


def survey(set_folder: Path) -> Iterator[KeptLog | UnreadLog]:
    """All logs beside a set, by session and so oldest first; raises OSError."""
    matches = map(_NAME.fullmatch, os.listdir(set_folder))
    for session in sorted({match[1] for match in matches if match}):
        try:
            found = _found(set_folder, session)
        except FileNotFoundError:  # it has just gone
            continue
        except (RepositoryError, OSError, TypeError, ValueError) as error:
            found = _unread(set_folder, session, error)
        if isinstance(found, UnreadLog):
            log.warning("the writes of session %s: %s", session, found.problem)
        yield found


def _found(folder: Path, session: str) -> KeptLog | UnreadLog:
    """A log, or what is the matter with it; raises FileNotFoundError where there is none."""
    record = record_path(folder, session)
    try:
        data = read_json(record)
    except FileNotFoundError:
        path = record.with_suffix(".log")
        if os.path.lexists(_in_flight(record)):
            return UnreadLog(
                folder,
                session,
                tr("{path} was not begun, or not deleted, to the end.", path=path),
                tr("Let it be forgotten."),
                left=True,
            )
        os.lstat(path)
        try:
            data = read_json(record)  # it may have been given its name between the two looks
        except FileNotFoundError:
            problem = tr("{path} is missing, so nobody knows whose writes these are.", path=record)
            return UnreadLog(folder, session, problem, _PUT_BACK)
    if _is_newer(data):
        problem = tr("{path} was written by a newer version of vdbackup.", path=record)
        return UnreadLog(folder, session, problem, tr("Use that."))
    protection = records.tolerant(Protection, data)
    if protection.session != session:
        raise ValueError(tr("it is of the session {session}", session=protection.session))
    return KeptLog.of(folder, protection)


def _is_newer(data: dict[str, Any]) -> bool:
    layout = data.get("layout")
    return type(layout) is int and layout > LAYOUT


def _unread(folder: Path, session: str, error: Exception) -> UnreadLog:
    if isinstance(error, OSError):
        problem = from_os(error)
        return UnreadLog(folder, session, problem.title, problem.advice or _PUT_BACK)
    if isinstance(error, RepositoryError):
        return UnreadLog(folder, session, error.title, _PUT_BACK)
    path = record_path(folder, session)
    problem_ = tr("{path} is damaged: {error}.", path=path, error=error)
    return UnreadLog(folder, session, problem_, _PUT_BACK)


_PUT_BACK = tr("Put the record back from a copy, or let these writes be forgotten.")


def since(kept: KeptLog) -> int:
    """When a log began, ns since 1970."""
    return round(datetime.fromisoformat(kept.protection.since).timestamp() * NS)
