"""Sizes, moments and durations as a person says them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vdbackup.jobs import readable_size
from vdbackup.repository.model import RecoveryPoint
from vdbackup.text import printable

MINUTE, HOUR, DAY = 60, 3600, 86400
MAX_WORD = 16  # letters that a narrow pane has room for

size = readable_size


def clock(seconds: float) -> str:
    """A duration: "0:12", "1:05:00"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def local(moment: str) -> datetime:
    """The local time of an ISO 8601 moment (UTC where it names no zone)."""
    parsed = datetime.fromisoformat(moment)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.astimezone()


def when(moment: str, now: datetime | None = None) -> str:
    """A moment, shortest first: "today 15:44", "yesterday 09:12", "3 Nov 14:00", "3 Nov 2024"."""
    then = local(moment)
    days = ((now or datetime.now().astimezone()).date() - then.date()).days
    if days == 0:
        return f"today {then:%H:%M}"
    if days == 1:
        return f"yesterday {then:%H:%M}"
    if abs(days) < 300:
        return f"{then.day} {then:%b %H:%M}"
    return f"{then.day} {then:%b %Y %H:%M}"


def when_exactly(moment: str) -> str:
    """A moment with its seconds: "Mon 3 Nov 2025, 14:00:07"."""
    then = local(moment)
    return f"{then:%a} {then.day} {then:%b %Y, %H:%M:%S}"


def age(moment: str, now: datetime | None = None) -> str:
    """How long ago a moment was: "just now", "2 h ago", "9 days ago"."""
    seconds = ((now or datetime.now().astimezone()) - local(moment)) / timedelta(seconds=1)
    if seconds < MINUTE:
        return "just now"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min ago"
    if seconds < 2 * DAY:
        return f"{int(seconds // HOUR)} h ago"
    return f"{int(seconds // DAY)} days ago"


def days_since(moment: str, now: datetime | None = None) -> int:
    """Whole days that have passed since a moment."""
    return ((now or datetime.now().astimezone()) - local(moment)).days


def breakable(text: str) -> str:
    """A text from outside in one line, with places where a long name in it may be broken."""
    return re.sub(rf"(\S{{{MAX_WORD}}})(?=\S)", "\\1\u200b", printable(text))


def breakable_lines(text: str) -> str:
    """The same of several lines of our own."""
    return "\n".join(map(breakable, text.splitlines()))


def shown_lines(text: str) -> str:
    """Lines of our own that hold names from outside; they may break where we let them."""
    return printable(text, but="\n\u200b")


def plural(count: int, word: str) -> str:
    """A counted thing: "1 point", "27 points"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def point_title(point: RecoveryPoint) -> str:
    """A recovery point in a few words: "#27, incremental, today 15:44"."""
    return f"#{point.sequence}, {point.type.value}, {when(point.created)}"
