"""Sizes, moments and durations as a person says them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vdbackup.jobs import duration, readable_size
from vdbackup.repository.model import RecoveryPoint, Rehearsal
from vdbackup.repository.written import WrittenPoint
from vdbackup.text import printable
from vdbackup.translation import grouped, marked, tr, trn

MINUTE, HOUR, DAY = 60, 3600, 86400
MAX_WORD = 16  # letters that a narrow pane has room for
# not the C library's, which has them in the languages alone that are installed
MONTHS = (
    *(marked("Jan"), marked("Feb"), marked("Mar"), marked("Apr"), marked("May"), marked("Jun")),
    *(marked("Jul"), marked("Aug"), marked("Sep"), marked("Oct"), marked("Nov"), marked("Dec")),
)
DAYS = (
    *(marked("Mon"), marked("Tue"), marked("Wed"), marked("Thu"), marked("Fri")),
    *(marked("Sat"), marked("Sun")),
)

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
    time = f"{then:%H:%M}"
    if days == 0:
        return tr("today {time}", time=time)
    if days == 1:
        return tr("yesterday {time}", time=time)
    return f"{day(then, with_year=abs(days) >= 300)} {time}"


def day(then: datetime, *, with_year: bool = False) -> str:
    """A day of a year that is known, or not: "3 Nov", "3 Nov 2024"."""
    month = tr(MONTHS[then.month - 1])
    if with_year:
        return tr("{day} {month} {year}", day=then.day, month=month, year=then.year)
    return tr("{day} {month}", day=then.day, month=month)


def weekday(then: datetime) -> str:
    """Of a week: "Mon"."""
    return tr(DAYS[then.weekday()])


def when_exactly(moment: str) -> str:
    """A moment with its seconds: "Mon 3 Nov 2025, 14:00:07"."""
    then = local(moment)
    return f"{weekday(then)} {day(then, with_year=True)}, {then:%H:%M:%S}"


def age(moment: str, now: datetime | None = None) -> str:
    """How long ago a moment was: "just now", "2 h ago", "9 days ago"."""
    seconds = ((now or datetime.now().astimezone()) - local(moment)) / timedelta(seconds=1)
    if seconds < MINUTE:
        return tr("just now")
    if seconds < HOUR:
        return trn("{count} min ago", "{count} min ago", int(seconds // MINUTE))
    if seconds < 2 * DAY:
        return trn("{count} h ago", "{count} h ago", int(seconds // HOUR))
    return trn("{count} day ago", "{count} days ago", int(seconds // DAY))


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


def point_name(point: RecoveryPoint) -> str:
    """What to call a recovery point, or a moment behind one: "#27", "#27@w1200"."""
    if isinstance(point, WrittenPoint):
        return f"#{point.sequence}@w{point.write}"
    return f"#{point.sequence}"


def clock_of(moment: WrittenPoint) -> str:
    """By when a moment had come, as far as anybody knows: "15:44:07"."""
    then = local(moment.created)
    if then.date() == datetime.now().astimezone().date():
        return f"{then:%H:%M:%S}"
    return f"{day(then)} {then:%H:%M:%S}"


def state_of(moment: WrittenPoint) -> str:
    """Whether a file system comes up from a moment as it was left, in a word or two."""
    return tr("consistent") if moment.flushed else tr("like a power cut")


def moment_title(moment: WrittenPoint) -> str:
    """A moment behind a point, whole: what is said of it to who cannot see it."""
    return tr(
        "Behind #{point}, {time}, after {count} writes, {state}",
        point=moment.sequence,
        time=clock_of(moment),
        count=grouped(moment.write),
        state=state_of(moment),
    )


def point_title(point: RecoveryPoint) -> str:
    """A recovery point in a few words: "#27, incremental, today 15:44"."""
    if isinstance(point, WrittenPoint):
        return f"{point_name(point)}, {clock_of(point)}, {state_of(point)}"
    return f"#{point.sequence}, {tr(point.type)}, {when(point.created)}"


def rehearsal(found: Rehearsal) -> str:
    """How long the machine would be away: "back in 14 minutes, rehearsed yesterday 09:12"."""
    then = tr("rehearsed {at}", at=when(found.at))
    if not found.ok:
        return tr("failed, {when}", when=then)
    return tr("back in {seconds}, {when}", seconds=duration(found.seconds), when=then)
