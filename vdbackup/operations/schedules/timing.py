"""When a scheduled backup is due: slots of the local clock, each of which is to have one point.

A slot begins at each moment at which a timer elapses, and lasts until the next. A run looks whether
its slot has a point already, whoever made it: so a timer that elapses twice, a second computer, a
run that waited for another one, or somebody who was quicker by hand never make two. What was missed
while the computer was off is caught up once, as all that matters is the slot that is now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

from vdbackup.errors import UsageError
from vdbackup.translation import marked, tr

HOURLY, DAILY, WEEKLY, MONTHLY = (
    marked("hourly"),
    marked("daily"),
    marked("weekly"),
    marked("monthly"),
)
LOGIN: Final = "login"
PLUG: Final = "plug"
_WITH_TIME = {DAILY: 1, WEEKLY: 7, MONTHLY: 31}
"""What may be said to happen at some time of the day, and how many days it lasts at the most."""
_NAMES = (HOURLY, *_WITH_TIME, LOGIN, PLUG)
USUAL_TIME = "12:30"
"""When most computers are on; and no clock is changed then."""
_AGAIN = timedelta(hours=1)
"""So long after a point a login, or a drive that is plugged in once more, makes no other."""
_CHANGED_BEFORE = 4
"""Clocks are changed before that hour, everywhere and by an hour at most: 02:30 may not come."""
_DAY = 24 * 60


@dataclass(frozen=True)
class Timing:
    """How often, and when.

    Attributes:
        every: "15m" (minutes, of which a whole number makes a day), hourly, daily, weekly (on
            Mondays), monthly (on the 1st), login or plug.
        at: "HH:MM" by the local clock, of what is daily, weekly or monthly; else "".

    Raises UsageError where that makes no sense.
    """

    every: str
    at: str = ""

    def __post_init__(self) -> None:
        if self._minutes is None and self.every not in _NAMES:
            raise UsageError(
                tr("{every!r} is no interval of backups.", every=self.every),
                tr(
                    "Say 15m or another number of minutes, {names} or {names_2}.",
                    names=", ".join(_NAMES[:-1]),
                    names_2=_NAMES[-1],
                ),
            )
        minutes = self._minutes
        if minutes is not None and not (0 < minutes <= _DAY // 2 and _DAY % minutes == 0):
            raise UsageError(
                tr("{minutes} minutes do not divide a day into equal parts.", minutes=minutes),
                tr("Say 5, 10, 15, 20, 30, 60, 120 or another number that does."),
            )
        if minutes is not None and minutes > 60 and minutes % 60:
            raise UsageError(
                tr("{minutes} minutes are neither whole hours nor a part of one.", minutes=minutes),
                tr("Say 60, 120, 180, 240 or another number of whole hours."),
            )
        if self.at and self.every not in _WITH_TIME:
            raise UsageError(
                tr("What happens {every} has no time of the day.", every=tr(self.every)),
                tr("Leave the time out."),
            )
        if self.at and not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", self.at):
            raise UsageError(
                tr("{at!r} is no time of the day.", at=self.at), tr("Say it as 02:30 or 14:05.")
            )

    @property
    def _minutes(self) -> int | None:
        """Of what happens every so many minutes; that of an hour included."""
        if self.every == HOURLY:
            return 60
        found = re.fullmatch(r"([1-9][0-9]{0,4})m", self.every)
        return int(found[1]) if found else None

    @property
    def has_time(self) -> bool:
        """Whether it is said at which time of the day."""
        return self.every in _WITH_TIME

    @property
    def time(self) -> time:
        """Of the day, by the local clock."""
        return time.fromisoformat(self.at or USUAL_TIME)

    @property
    def interval(self) -> timedelta | None:
        """From one slot to the next, at the most; None where nobody knows when that is."""
        if self._minutes is not None:
            return timedelta(minutes=self._minutes)
        days = _WITH_TIME.get(self.every)
        return None if days is None else timedelta(days=days)

    def slot(self, now: datetime, zone: tzinfo | None = None) -> datetime:
        """When the slot began that is now.

        Args:
            now: with a time zone.
            zone: of the clock that is meant; None for this computer's.
        """
        local = now.astimezone(zone)
        if self._minutes is not None:
            into = timedelta(minutes=(local.hour * 60 + local.minute) % self._minutes)
            return now - into - timedelta(seconds=now.second, microseconds=now.microsecond)
        if self.every not in _WITH_TIME:
            return now - _AGAIN
        day = local.date()
        if self.every == WEEKLY:
            day -= timedelta(days=day.weekday())
        elif self.every == MONTHLY:
            day = day.replace(day=1)
        begins = self._on(day, zone)
        if begins > now:
            before = day - timedelta(days=1)
            week_before = day - timedelta(days=7)
            month_before = before.replace(day=1)
            last = {DAILY: before, WEEKLY: week_before, MONTHLY: month_before}
            begins = self._on(last[self.every], zone)
        return begins

    def _on(self, day: date, zone: tzinfo | None) -> datetime:
        """When its time of that day is: the first of two where a clock is put back.

        Where a clock put forward leaves it out, it is as much later. (Python alone says another
        moment for this computer's clock than for a zone, so both ways to read it are looked at.)
        """
        naive = datetime.combine(day, self.time)
        both = [_moment(naive.replace(fold=fold), zone) for fold in (0, 1)]
        real = [each for each in both if each.astimezone(zone).replace(tzinfo=None) == naive]
        return min(real) if real else max(both)

    @property
    def calendar(self) -> tuple[str, ...]:
        """What systemd.time(7) takes for when it is due; nothing for a login or a plug.

        systemd passes over a time that a clock put forward has left out, so an hour later is said,
        too: on all other days the slot has its point by then.
        """
        minutes = self._minutes
        if minutes is not None:
            clock = f"*:00/{minutes}:00" if minutes < 60 else f"00/{minutes // 60}:00:00"
            return (f"*-*-* {clock}",)
        if self.every not in _WITH_TIME:
            return ()
        day = {DAILY: "*-*-*", WEEKLY: "Mon *-*-*", MONTHLY: "*-*-01"}[self.every]
        at = self.time
        times = [at] if at.hour >= _CHANGED_BEFORE else [at, at.replace(hour=at.hour + 1)]
        return tuple(f"{day} {each:%H:%M}:00" for each in times)

    @property
    def cron(self) -> str:
        """The same as the first five fields of a crontab(5), or @reboot; "" where it has none."""
        minutes = self._minutes
        if minutes is not None:
            return f"*/{minutes} * * * *" if minutes < 60 else f"0 */{minutes // 60} * * *"
        if self.every == LOGIN:
            return "@reboot"
        if self.every == PLUG:
            return ""
        days = {DAILY: "* * *", WEEKLY: "* * 1", MONTHLY: "1 * *"}[self.every]
        return f"{self.time.minute} {self.time.hour} {days}"

    @property
    def words(self) -> str:
        """For a person: "daily at 02:30"."""
        if self._minutes is not None:
            every = {1: tr("every minute"), 60: tr("hourly")}
            return every.get(self._minutes, tr("every {minutes} minutes", minutes=self._minutes))
        said = {LOGIN: tr("at login"), PLUG: tr("when the drive is plugged in")}
        on = {WEEKLY: tr(" on Mondays"), MONTHLY: tr(" on the 1st")}.get(self.every, "")
        return said.get(self.every) or tr(
            "{every}{on} at {time:%H:%M}", every=tr(self.every), on=on, time=self.time
        )


def _moment(naive: datetime, zone: tzinfo | None) -> datetime:
    return (naive.astimezone() if zone is None else naive.replace(tzinfo=zone)).astimezone(UTC)
