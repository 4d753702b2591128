"""Which points stay by a policy, and why: of their moments and the time now, and nothing else.

The points are looked at from the newest on. Each rule takes the first that it meets of each of its
periods, up to as many periods as the policy says, and a point that any rule takes stays:

    keep         so many of the newest
    keep within  all of so many hours
    daily ...    the newest of each day, week (ISO 8601), month, year on which there is a point

So a computer that was off for a month loses nothing by it. Days are those of the local clock: the
one on which the clock is changed has 23 hours or 25. A point that goes is rolled into the next one,
so what stays of a period is its newest moment, whatever was merged before it.

Of those the newest stay, so many at most, and so many as hold so many bytes at most. How much a
point holds once others were rolled into it nobody knows before: as much at least as the largest of
them. What lies on another chain is rolled into none of it, and just gone. So what goes for that is
never more than it needs, and what was too little the next backup makes up for, which sees what
there is.

Numbers, and not clocks, say which point is newer. All that is newer than the newest point's moment,
or than now, was made by a clock that was wrong, and is within any time.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo

from vdbackup.repository.policy import Policy
from vdbackup.translation import marked


class Rule(enum.StrEnum):
    """What lets a point stay, in words that stand behind "stays:"."""

    ALL = marked("all stay")
    NEWEST = marked("among the newest")
    WITHIN = marked("new enough")
    DAILY = marked("of its day")
    WEEKLY = marked("of its week")
    MONTHLY = marked("of its month")
    YEARLY = marked("of its year")
    PINNED = marked("pinned")


@dataclass(frozen=True)
class Layer:
    """What a moment holds of one disk.

    Attributes:
        name: no other has it.
        below: the name of the one that it reads through; "" of none.
        size: bytes that it holds itself.
    """

    name: str
    below: str
    size: int


@dataclass(frozen=True)
class Moment:
    """A point as far as a policy goes by it.

    Attributes:
        number: says which is newer; never by a clock.
        at: when it was captured, with a time zone.
        counts: it is whole; a damaged one pushes out no other.
        pinned: it stays whatever else holds.
        layers: what it holds; of a machine's one for each disk.
    """

    number: int
    at: datetime
    counts: bool = True
    pinned: bool = False
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What becomes of a point.

    Attributes:
        by: the rules by which it stays; none for what goes.
        instead: the number of the newer point that stays for its day, or the shortest of its longer
            periods of which one does; None where none does, or it stays.
        crowded: it goes because there are as many points as there may be.
        too_large: it goes because those that are newer hold as much as they may, with it.
    """

    moment: Moment
    by: tuple[Rule, ...]
    instead: int | None = None
    crowded: bool = False
    too_large: bool = False

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return bool(self.by)


_PERIODS: dict[Rule, Callable[[datetime], object]] = {
    Rule.DAILY: datetime.date,
    Rule.WEEKLY: lambda at: at.isocalendar()[:2],
    Rule.MONTHLY: lambda at: (at.year, at.month),
    Rule.YEARLY: lambda at: at.year,
}


def decide(
    moments: Iterable[Moment], policy: Policy, now: datetime, zone: tzinfo | None = None
) -> list[Verdict]:
    """What becomes of each, from the newest on.

    Args:
        moments: in any order.
        policy: the set's.
        now: with a time zone.
        zone: whose days are meant; None for this computer's.
    """
    newest_first = sorted(moments, key=lambda moment: moment.number, reverse=True)
    counted = [moment.at for moment in newest_first if moment.counts]
    sieve = _Sieve(policy, min([now, *counted[:1]]), zone)
    verdicts = [sieve.verdict(moment) for moment in newest_first]
    return verdicts if policy.at_most_bytes is None else _in_space(verdicts, policy.at_most_bytes)


def _in_space(verdicts: Sequence[Verdict], limit: int) -> list[Verdict]:
    """What stays of what the rules keep, so that it holds `limit` bytes at most; newest first."""
    cut = _first_too_large(verdicts, limit)
    out = {each.moment.number for each in verdicts[cut:] if each.stays and not each.moment.pinned}
    found = []
    for each in verdicts:
        if each.moment.number in out:
            found.append(Verdict(each.moment, (), too_large=True))
        else:
            found.append(replace(each, instead=None) if each.instead in out else each)
    return found


def _first_too_large(verdicts: Sequence[Verdict], limit: int) -> int:
    """The place of the first that has no room; as many as there are where all have."""
    places = [place for place, each in enumerate(verdicts) if each.stays]
    whole = [place for place in places if verdicts[place].moment.counts]
    if not whole:
        return len(verdicts)
    asked = [p for p in places if p > whole[0] and not verdicts[p].moment.pinned]
    # one more that stays never lets the others hold less
    first = bisect_left(asked, True, key=lambda place: _least(verdicts, place) > limit)
    return asked[first] if first < len(asked) else len(verdicts)


def _least(verdicts: Sequence[Verdict], last: int) -> int:
    """Bytes held at least once what goes is gone, were this the oldest beside the pinned ones.

    What goes is rolled into as retention.py has it: with nothing above it, it is deleted; with one
    thing, both are one, as large as the larger at least; with several it has to stay.
    """
    held = 0
    above: dict[str, list[int]] = {}
    for place, each in enumerate(verdicts):
        stays = each.stays and (place <= last or each.moment.pinned)
        for layer in each.moment.layers:
            sizes = above.pop(layer.name, [])
            size = layer.size if each.moment.counts else 0
            if stays or len(sizes) > 1:
                held += sum(sizes)
            elif sizes:
                size = max(size, *sizes)
            else:
                continue
            above.setdefault(layer.below, []).append(size)
    return held + sum(map(sum, above.values()))


@dataclass
class _Periods:
    """One rule's periods: of each the first point that was met, which is its newest."""

    most: int
    of: Callable[[datetime], object]
    met: dict[object, int] = field(default_factory=dict)

    def wants(self, local: datetime) -> bool:
        return len(self.met) < self.most and self.of(local) not in self.met

    def take(self, local: datetime, number: int) -> None:
        if self.wants(local):
            self.met[self.of(local)] = number


class _Sieve:
    """What has been met so far, from the newest on."""

    def __init__(self, policy: Policy, latest: datetime, zone: tzinfo | None) -> None:
        self._policy, self._zone = policy, zone
        self._latest = latest
        most = (policy.daily, policy.weekly, policy.monthly, policy.yearly)
        self._periods = {
            rule: _Periods(number or 0, of)
            for (rule, of), number in zip(_PERIODS.items(), most, strict=True)
        }
        self._counted = self._staying = 0

    def verdict(self, moment: Moment) -> Verdict:
        """What becomes of the next older point."""
        local = moment.at.astimezone(self._zone)
        by = tuple(self._wanting(moment, local))
        crowded = bool(by) and self._staying == self._policy.at_most
        if crowded:
            by = ()
        if moment.pinned:
            by = (Rule.PINNED, *by)
        instead = None if by else self._instead(local)
        if moment.counts:
            self._take(moment, local, by)
        return Verdict(moment, by, instead, crowded and not by)

    def _wanting(self, moment: Moment, local: datetime) -> Iterator[Rule]:
        policy = self._policy
        if not policy.chooses:
            yield Rule.ALL
        if policy.keep is not None and self._counted < policy.keep:
            yield Rule.NEWEST
        within = policy.keep_within
        if within is not None and self._latest - moment.at <= timedelta(hours=within):
            yield Rule.WITHIN
        for rule, periods in self._periods.items():
            if periods.wants(local):
                yield rule

    def _take(self, moment: Moment, local: datetime, by: tuple[Rule, ...]) -> None:
        """Whatever is whole is the newest of its periods, and one of so many that stay."""
        self._counted += 1
        if not by:
            return
        for periods in self._periods.values():
            periods.take(local, moment.number)
        if Rule.PINNED not in by:  # beside those that there may be at most
            self._staying += 1

    def _instead(self, local: datetime) -> int | None:
        found = (each.met.get(each.of(local)) for each in self._periods.values())
        return next((number for number in found if number is not None), None)
