"""Logs of every write that lie beside a set's points, and the moments that they make readable.

    writes-<session>.json     which point the machine was started from whose writes are kept, since
                              when, up to how much, and why no more, where that is so
    writes-<session>.log      the writes (disks/write_log)
    writes-<session>.index    when they came

A moment is a child of its point that nobody has to make: what the machine saw of the point (its
layers and its overlay), and above it the log folded up to one of its writes. It has the manifest
that such a point would have, so that it is opened, restored, browsed and booted as every point is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vdbackup import records
from vdbackup.durable import check_regular
from vdbackup.errors import (
    DamagedMetadata,
    NotWritten,
    PointNotFound,
    Remedy,
    RepositoryError,
    VdbackupError,
)
from vdbackup.repository.files import read_json, remove, sync_folder, write_json
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:  # late: disks bring numpy, and what only lists points needs none
    from vdbackup.disks.write_log.log import WriteLog

log = logging.getLogger(__name__)

_NAME = re.compile(r"writes-(\d{8}-\d{6}-[0-9a-f]{6})\.json")
_MOMENT = re.compile(r"(?P<point>[^@]+)@(?:(?P<log>[0-9a-f-]{4,22})\.)?w(?P<write>[0-9]{1,18})")
_TIMED = re.compile(r"(?P<point>[^@]+)@(?P<time>[^@]+)")
_NS = 1_000_000_000


def is_moment(reference: str) -> bool:
    """Whether what names a point means a moment behind it."""
    return "@" in reference


def point_of(reference: str) -> str:
    """What of a moment's name, or its id, names the point; of a point's, all of it."""
    return reference.partition("@")[0]


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


@dataclass(frozen=True)
class KeptLog:
    """A log beside a set.

    Attributes:
        folder: the set's.
        protection: whose writes it holds.
    """

    folder: Path
    protection: Protection

    @property
    def session(self) -> str:
        """The id of the session whose writes it holds; it names the files."""
        return self.protection.session

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
        return sum(each.stat().st_blocks * 512 for each in (self.path, self.index) if each.exists())

    def read(self) -> WriteLog:
        """Its entries as of now; raises RepositoryError, DiskError, OSError."""
        self.check()
        log = _read(self.path, self.protection.disk_size, self.index, self._as_of())
        if log.writes < self.protection.before:
            raise DamagedMetadata(
                tr("{path} is damaged: it holds fewer writes than it began with.", path=self.path),
                tr("Its moments are lost; those of other machines are not."),
            )
        return log

    def check(self) -> None:
        """Raise Obstructed where something else bears the name of one of its files; OSError."""
        check_regular(self.path)
        with contextlib.suppress(FileNotFoundError):
            check_regular(self.index)

    def _as_of(self) -> tuple[int, ...]:
        """What changes with whatever is added to it."""
        found = [os.stat(each) for each in (self.path, self.index) if each.exists()]
        return tuple(number for each in found for number in (each.st_size, each.st_mtime_ns))

    def save(self) -> None:
        """Write its record, durably; raises OSError."""
        from dataclasses import asdict

        write_json(self.record, asdict(self.protection))

    def remove(self) -> None:
        """Delete it, the record first: what is left without it is nobody's. Raises OSError."""
        for each in (self.record, self.index, self.path):
            remove(each)
        sync_folder(self.folder)


@lru_cache(maxsize=2)
def _read(path: Path, disk_size: int, index: Path, _as_of: tuple[int, ...]) -> WriteLog:
    """A log as it is: to check a million entries takes a tenth of a second, each time."""
    from vdbackup.disks.write_log.log import WriteLog

    return WriteLog.read(path, disk_size, index)


def record_path(set_folder: Path, session: str) -> Path:
    """Where it is said whose a log is."""
    return set_folder / f"writes-{session}.json"


def kept_logs(set_folder: Path) -> list[KeptLog]:
    """The logs beside a set, oldest first; one whose record is damaged is left out, and logged."""
    return list(_kept(set_folder))


def kept_log(set_folder: Path, session: str) -> KeptLog:
    """The log of a session's writes; raises NotWritten."""
    for each in kept_logs(set_folder):
        if each.session == session:
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


def _kept(folder: Path) -> Iterator[KeptLog]:
    for name in sorted(os.listdir(folder)):
        if (match := _NAME.fullmatch(name)) is None:
            continue
        try:
            found = KeptLog(folder, records.tolerant(Protection, read_json(folder / name)))
            if found.session != match[1]:
                raise ValueError(tr("it is of the session {session}", session=found.session))
        except FileNotFoundError:  # it has just gone
            continue
        except (RepositoryError, TypeError, ValueError) as error:
            log.warning("%s cannot be read: %s", folder / name, error)
            continue
        yield found


@dataclass(frozen=True)
class WrittenPoint(RecoveryPoint):
    """A moment behind a point: its state after one of the writes that a log holds.

    Its id is the point's, "@", the log's, ".w" and the number of the write; its parent is the
    point, its layer the log.

    Attributes:
        log: the id of the session whose writes the log holds.
        write: the last one that it holds; 0: none.
        flushed: a flush came behind it, and both are surely on the storage. Else it is what a
            power cut might have left.
    """

    log: str = ""
    write: int = 0
    flushed: bool = True

    @classmethod
    def of(cls, point: RecoveryPoint, kept: KeptLog, log: WriteLog, write: int) -> Self:
        """The moment after a write; raises PointNotFound where there are not so many."""
        if log.disk_size != point.virtual_size:
            raise DamagedMetadata(
                tr("{path} is damaged: it is of a disk of another size.", path=kept.record),
                tr("Its moments are lost; those of other machines are not."),
            )
        before, there = kept.protection.before, log.writes - kept.protection.before
        if not 0 <= write <= there:
            raise PointNotFound(
                tr(
                    "The machine of the session {session} has done {there} writes, and there is "
                    "no moment after {write}.",
                    session=kept.session,
                    there=grouped(there),
                    write=grouped(write),
                ),
                tr("Choose an earlier one."),
                remedy=Remedy.LIST_MOMENTS,
            )
        until = log.time_of(before + write)[1] if write else 0
        at = datetime.fromtimestamp(until / _NS, UTC).isoformat() if until else None
        own: dict[str, Any] = {each.name: getattr(point, each.name) for each in fields(point)}
        own |= {
            "id": f"{point.id}@{kept.session}.w{write}",
            "created": at or kept.protection.since,
            "type": PointType.INCREMENTAL,
            "parent": point.id,
            "disk": kept.path.name,
            "disk_size": log.entries.end,
            "verified": None,
            "boot_tested": None,
            "merged": (),
            "merged_before": 0,
            "reading": None,
            "moment": None,
        }
        flushed = log.is_proven(before + write) or not write
        return cls(**own, log=kept.session, write=write, flushed=flushed)


def moment(set_folder: Path, point: RecoveryPoint, reference: str) -> WrittenPoint:
    """The moment behind `point` that a reference means: N@TIME or N@wW; or its id.

    Args:
        set_folder: the set's.
        point: that of the reference.
        reference: with a time the newest moment is meant at which a flush had come by then, in any
            of the point's logs; with a number of writes one of the newest log, unless it names
            another.

    Raises:
        PointNotFound: there is no such moment. NotWritten: no writes of that point are kept.
        UsageError: it is neither. DiskError, OSError: the log cannot be read.
    """
    kept = [each for each in kept_logs(set_folder) if each.protection.point == point.id]
    if not kept:
        raise NotWritten(
            tr("No writes of a machine from point {point} are kept.", point=point.sequence),
            tr("Writes are kept of a machine that is protected."),
            remedy=Remedy.LIST_MOMENTS,
        )
    if match := _MOMENT.fullmatch(reference):
        wanted = match["log"] or ""
        found = [each for each in kept if each.session.startswith(wanted)]
        if not found:
            raise PointNotFound(
                tr(
                    "No writes of the session {wanted} are kept of point {point}.",
                    wanted=wanted,
                    point=point.sequence,
                ),
                tr("See which are."),
                remedy=Remedy.LIST_MOMENTS,
            )
        return WrittenPoint.of(point, found[-1], found[-1].read(), int(match["write"]))
    return _by_then(point, kept, reference)


def _by_then(point: RecoveryPoint, kept: list[KeptLog], reference: str) -> WrittenPoint:
    match = _TIMED.fullmatch(reference)
    until = parse_time(match["time"] if match else reference)
    best: tuple[int, KeptLog, WriteLog, int] | None = None
    for each in kept:
        try:
            written, before = each.read(), each.protection.before
        except (VdbackupError, OSError) as error:
            if len(kept) == 1:
                raise
            log.warning("%s cannot be read: %s", each.path, error)
            continue
        if (write := written.newest_flush(until)) is not None and write >= before:
            came = int(written.flushed[written.flushes == write][0])
        elif (came := since(each)) <= until:
            write = before
        else:
            continue
        if best is None or came >= best[0]:
            best = (came, each, written, write - before)
    if best is None:
        first = datetime.fromtimestamp(min(map(since, kept)) / _NS).astimezone()
        raise PointNotFound(
            tr(
                "There is no moment of point {point} as early as that: its writes are kept since "
                "{first:%Y-%m-%d %H:%M:%S}.",
                point=point.sequence,
                first=first,
            ),
            tr("Choose a later moment, or the point itself."),
        )
    return WrittenPoint.of(point, *best[1:])


def since(kept: KeptLog) -> int:
    """When a log began, ns since 1970."""
    return round(datetime.fromisoformat(kept.protection.since).timestamp() * _NS)


def parse_time(text: str) -> int:
    """A time in ISO 8601, of this computer's zone where it names none, as ns since 1970.

    Without a fraction the whole second is meant, its end included. Raises PointNotFound.
    """
    try:
        at = datetime.fromisoformat(text)
        seconds = at.timestamp()
    except (ValueError, OverflowError, OSError):
        raise PointNotFound(
            tr("{text!r} is neither a time nor a number of writes.", text=text),
            tr("Give a time such as 2026-11-30T06:15, or w and a number, such as w1200."),
        ) from None
    whole = not at.microsecond and "." not in text
    return round(seconds * _NS) + (_NS - 1 if whole else 0)
