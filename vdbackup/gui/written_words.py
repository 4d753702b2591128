"""Logs of writes, and moments in them, in words."""

from __future__ import annotations

from datetime import UTC, datetime

from vdbackup.agent.write_log import Logged
from vdbackup.gui import words
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.kept_logs import NS, KeptLog
from vdbackup.repository.near_continuous import NearContinuous
from vdbackup.repository.written import WrittenPoint
from vdbackup.text import printable
from vdbackup.translation import grouped, tr, trn


def summary(log: ReadLog) -> str:
    """What a log holds, since when, and whether it goes on; or why it cannot be read."""
    if log.problem is not None:
        return tr("The writes of {title} cannot be read: {problem}", title=_title(log),
                  problem=printable(log.problem.title))  # fmt: skip
    kept = log.kept.protection
    count = trn("{count} write", "{count} writes", log.writes)
    if log.thinned_until:
        said = _thinned(log, count)
        return f"{printable(log.cut_short or kept.why)} {said}".strip()
    since = words.when_exactly(kept.since)
    if kept.ended is None:
        said = tr("Every write since {since} is kept: {count} until now.", since=since, count=count)
    else:
        until = words.when_exactly(kept.ended)
        said = tr(
            "Every write from {since} to {until} is kept: {count}.",
            since=since,
            until=until,
            count=count,
        )
    if log.set_back:
        until = words.when_exactly(datetime.fromtimestamp(log.set_back / NS, UTC).isoformat())
        doubt = tr(
            "The clock was set back meanwhile: times up to {until} are in doubt.", until=until
        )
        said = f"{doubt} {said}"
    if log.cut_short:  # first, as the end may be cut off
        return f"{printable(log.cut_short)} {said}"
    return f"{said} {printable(kept.why)}".strip()


def stored_summary(log: ReadLog) -> str:
    """The same, and how much of what it may take it takes."""
    limit = log.kept.protection.limit
    if log.problem is not None or not limit:
        return summary(log)
    used, most = words.size(log.stored), words.size(limit)
    return f"{summary(log)} {tr('It takes {used} of {most}.', used=used, most=most)}"


def _thinned(log: ReadLog, count: str) -> str:
    """That of a log that was thinned not every write is kept."""
    kept = log.kept.protection
    until = words.when_exactly(kept.ended or kept.since)
    return tr(
        "Thinned: {count} from {since} to {until}; each behind write {write} is kept, and before "
        "it {moments} moments.",
        count=count,
        since=words.when_exactly(kept.since),
        until=until,
        write=grouped(log.thinned_until),
        moments=grouped(int((log.moments < log.thinned_until).sum())),
    )


def near_summary(near: NearContinuous) -> str:
    """That a set has points every so many seconds, and not every write; until when, and why."""
    said = tr(
        "Near-continuous: a point every {every} s where something has changed (not every write), "
        "since {since}.",
        every=near.every,
        since=words.when_exactly(near.since),
    )
    if near.ended is None:
        return said
    until = words.when_exactly(near.ended)
    return tr("{said} Until {until}: {why}", said=said, until=until, why=printable(near.why))


def logged_summary(state: Logged, kept: KeptLog | None) -> str:
    """That every write to a volume is being kept, since when, and how full its log is."""
    if kept is None:
        return tr(
            "Every write is kept, in a log that does not lie in this folder: it takes {used}.",
            used=words.size(state.used),
        )
    record = kept.protection
    said = tr(
        "Every write since {since} is kept: the log takes {used} of {limit}.",
        since=words.when_exactly(record.since),
        used=words.size(state.used),
        limit=words.size(record.limit),
    )
    full = tr("The kernel adds no more to it: it is full, or its storage failed.")
    return said if state.goes_on else f"{said} {full}"


def hint(log: ReadLog, moment: WrittenPoint) -> str:
    """What a moment is, in lines: its time, how many writes, consistent or not."""
    write, writes = grouped(moment.write), grouped(log.writes)
    return "\n".join(
        [
            tr("{time}, behind #{point}", time=words.clock_of(moment), point=moment.sequence),
            tr("after {write} of {writes} writes", write=write, writes=writes),
            words.state_of(moment),
        ]
    )


def _title(log: ReadLog) -> str:
    return printable(log.kept.protection.title)
