"""The moments that logs of every write beside a set's points (kept_logs.py) make readable.

A moment is a child of its point that nobody has to make: what the machine saw of the point (its
layers and its overlay), and above it the log folded up to one of its writes. It has the manifest
that such a point would have, so that it is opened, restored, browsed and booted as every point is.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vdbackup.errors import (
    DamagedMetadata,
    NotWritten,
    PointNotFound,
    Remedy,
    VdbackupError,
)
from vdbackup.repository.kept_logs import NS, KeptLog, UnreadLog, since, survey
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:  # late: disks bring numpy, and what only lists points needs none
    from vdbackup.disks.write_log.log import WriteLog

log = logging.getLogger(__name__)

_MOMENT = re.compile(r"(?P<point>[^@]+)@(?:(?P<log>[0-9a-f-]{4,22})\.)?w(?P<write>[0-9]{1,18})")
_TIMED = re.compile(r"(?P<point>[^@]+)@(?P<time>[^@]+)")


def is_moment(reference: str) -> bool:
    """Whether what names a point means a moment behind it."""
    return "@" in reference


def point_of(reference: str) -> str:
    """What of a moment's name, or its id, names the point; of a point's, all of it."""
    return reference.partition("@")[0]


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
        doubt: why it may not be what a time meant, a sentence; "" where it is.
    """

    log: str = ""
    write: int = 0
    flushed: bool = True
    doubt: str = ""

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
        if not log.holds(before + write):
            left = max(0, (log.newest_at_or_before(before + write) or before) - before)
            raise PointNotFound(
                tr(
                    "The moment after write {write} is not kept any more: the kept writes of the "
                    "session {session} were thinned. The one before it that is kept is after write "
                    "{left}.",
                    write=grouped(write),
                    session=kept.session,
                    left=grouped(left),
                ),
                tr("Choose that one, or a later one."),
                remedy=Remedy.LIST_MOMENTS,
            )
        if log.lost and write > (sound := max(0, log.sound_writes - before)):
            raise DamagedMetadata(damage(kept, sound), tr("Choose an earlier moment."))
        until = log.time_of(before + write)[1] if write else 0
        at = datetime.fromtimestamp(until / NS, UTC).isoformat() if until else None
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


def damage(kept: KeptLog, sound: int) -> str:
    """What is to be said of a log of whose noted entries some are lost, behind `sound` writes."""
    return tr(
        "{path} is damaged behind write {sound}: what was written later is lost, or is not to be "
        "trusted.",
        path=kept.path,
        sound=grouped(sound),
    )


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
        DamagedMetadata: nobody can tell whether there are some.
        UsageError: it is neither. DiskError, OSError: the log cannot be read.
    """
    every = list(survey(set_folder))
    kept = [e for e in every if isinstance(e, KeptLog) and e.protection.point == point.id]
    unread = [each for each in every if isinstance(each, UnreadLog) and not each.left]
    if not kept and unread:
        raise DamagedMetadata(unread[0].problem, unread[0].advice)
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
    in_doubt = False
    best: tuple[int, KeptLog, WriteLog, int] | None = None
    for each in kept:
        try:
            written, before = each.read(), each.protection.before
        except (VdbackupError, OSError) as error:
            if len(kept) == 1:
                raise
            log.warning("%s cannot be read: %s", each.path, error)
            continue
        in_doubt |= until <= written.index.set_back
        if (write := written.newest_flush(until)) is not None and write >= before:
            came = int(written.flushed[written.flushes == write][0])
        elif (came := since(each)) <= until:
            write = before
        else:
            continue
        if best is None or came >= best[0]:
            best = (came, each, written, write - before)
    if best is None:
        first = datetime.fromtimestamp(min(map(since, kept)) / NS).astimezone()
        raise PointNotFound(
            tr(
                "There is no moment of point {point} as early as that: its writes are kept since "
                "{first:%Y-%m-%d %H:%M:%S}.",
                point=point.sequence,
                first=first,
            ),
            tr("Choose a later moment, or the point itself."),
        )
    found = WrittenPoint.of(point, *best[1:])
    return replace(found, doubt=_clock_set_back(found)) if in_doubt else found


def _clock_set_back(found: WrittenPoint) -> str:
    return tr(
        "The clock of this computer was set back while writes of point {point} were kept, so what "
        "had come by that time is not sure. The moment after write {write} is taken.",
        point=found.sequence,
        write=grouped(found.write),
    )


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
    return round(seconds * NS) + (NS - 1 if whole else 0)
