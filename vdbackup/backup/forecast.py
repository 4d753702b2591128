"""What the next backup of a set leaves of its points by a policy, and why: shown before it is so.

What is foretold here is what retention.py then does, but for what changes meanwhile: a session that
ends, a file that is put back. What no rule keeps and cannot go either stays, with the reason.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from vdbackup.backup import whole_chains
from vdbackup.backup.due import Due, due
from vdbackup.backup.keeping import Rule, Verdict
from vdbackup.backup.whole_chains import Chains
from vdbackup.repository import holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.translation import marked, tr


class Outcome(enum.StrEnum):
    """What becomes of a point with the next backup."""

    STAYS = marked("stays")
    GOES = marked("goes")
    LATER = marked("later")
    """No rule keeps it: it goes once nobody uses it, or another one, any more."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one point.

    Attributes:
        rules: by which it stays; none where no rule keeps it, whatever becomes of it.
        why: in words that stand behind a colon.
        into: number of the point that takes its place when it goes: what is rolled into its file;
            None where it is just deleted, or stays.
    """

    point: RecoveryPoint
    outcome: Outcome
    rules: tuple[Rule, ...]
    why: str
    into: int | None = None


class Outlook:
    """A set as far as any policy goes by it: each of its layers is looked at, once.

    Attributes:
        backup_set: as it was read.
    """

    def __init__(self, backup_set: BackupSet) -> None:
        self.backup_set = backup_set
        chains = Chains()
        self._not_whole = whole_chains.damaged(backup_set, chains)
        self._family = _Family(backup_set, self._not_whole, whole_chains.torn(backup_set, chains))
        self._holds = holds.of(backup_set)

    def fates(self, policy: Policy, now: datetime) -> tuple[Fate, ...]:
        """What becomes of each point when the set is next backed up, now, by this policy.

        The next point is taken to be whole. Where it would go on from one that is known to be
        damaged it does not count, so that less goes than is said here. While a manifest of the set
        cannot be read, nothing goes.
        """
        backup_set = self.backup_set
        if backup_set.broken or not policy.takes:
            rules = () if policy.takes else (Rule.ALL,)
            why = tr("nothing goes while points cannot be read") if policy.takes else tr(Rule.ALL)
            return tuple(Fate(each, Outcome.STAYS, rules, why) for each in backup_set.points)
        found = due(backup_set, policy, self._not_whole, now, after_next=True)
        held = {each.id for each in found.points if any(hold.is_on(each) for hold in self._holds)}
        ids = [each.id for each in found.points]
        going = self._family.going([each for each in ids if each not in held])
        later = self._family.going(ids) if held else going
        return tuple(
            _fate(each, found, self._not_whole, held, going, later) for each in backup_set.points
        )


def taken(fates: Iterable[Fate]) -> tuple[RecoveryPoint, ...]:
    """The moments that are gone after the next backup: no others go.

    What a session holds is among them: nobody knows when that ends.
    """
    return tuple(fate.point for fate in fates if fate.outcome is not Outcome.STAYS)


def _fate(
    point: RecoveryPoint,
    found: Due,
    not_whole: Mapping[str, str],
    held: Collection[str],
    going: Mapping[str, int | None],
    later: Mapping[str, int | None],
) -> Fate:
    verdict = found.verdicts.get(point.sequence)
    if verdict is None:
        return Fate(point, Outcome.STAYS, (), tr("made from a session, so only you delete it"))
    if verdict.stays:
        why = ", ".join(map(tr, verdict.by))
        if point.id in not_whole:
            why = tr("damaged, and not counted: {not_whole}", not_whole=not_whole[point.id])
        return Fate(point, Outcome.STAYS, verdict.by, why)
    why = _gone(verdict)
    if point.id in going:
        return Fate(point, Outcome.GOES, (), why, going[point.id])
    if point.id in later:
        whose = tr("it") if point.id in held else tr("another point")
        why = tr("{why}; not while a session lies on {whose}", why=why, whose=whose)
        return Fate(point, Outcome.LATER, (), why, later[point.id])
    return Fate(point, Outcome.STAYS, (), f"{why}; {_hindrance(point, found, not_whole)}")


def _gone(verdict: Verdict) -> str:
    if verdict.instead is not None:
        return tr("point {instead} is newer and stays for the same time", instead=verdict.instead)
    if verdict.too_large:
        return tr("the newer ones hold as much as they may")
    if verdict.crowded:
        return tr("there are as many as there may be")
    return tr("older than what is kept")


def _hindrance(point: RecoveryPoint, found: Due, not_whole: Mapping[str, str]) -> str:
    """Why what no rule keeps cannot go, as long as that is so."""
    if point.id in not_whole:
        return tr(
            "stays, as nothing is merged across damage: {not_whole}", not_whole=not_whole[point.id]
        )
    if point in found.last_copies:
        return tr("stays, as no newer point could read all that it holds")
    return tr("stays, as several points read through it, or damaged ones do")


_NEXT, _STAYING = "", "staying"  # no points have these ids


class _Family:
    """Who reads through whom, after one more backup."""

    def __init__(
        self, backup_set: BackupSet, not_whole: Collection[str], torn: Collection[str]
    ) -> None:
        self._torn = torn
        self._marked = {p.id for p in backup_set.points if whole_chains.was_found_damaged(p)}
        self._numbers = {point.id: point.sequence for point in backup_set.points}
        self._above = {point.id: point.parent for point in backup_set.points}
        newest = backup_set.latest_captured()
        if newest is not None and newest.id not in not_whole:
            self._above[_NEXT] = newest.id  # as an incremental's would be
            self._numbers[_NEXT] = backup_set.next_sequence()

    def going(self, due: Collection[str]) -> dict[str, int | None]:
        """Which of the due points go, by id, and the number of what is rolled into each."""
        waiting = [each for each in due if each not in self._torn and each not in self._marked]
        above = dict(self._above)
        below: dict[str | None, set[str]] = {}
        for name, parent in above.items():
            below.setdefault(parent, set()).add(name)
        for name in waiting:
            if not below.get(name, set()).isdisjoint(self._torn):
                below[name].add(_STAYING)  # a damaged one is rolled into nothing
        gone: dict[str, int | None] = {}
        for name in reversed(waiting):  # the newest first: what ends a chain is rolled into nothing
            if not below.get(name):
                below[above[name]].discard(name)
                gone[name] = None
        waiting = [name for name in waiting if name not in gone]
        while may_go := [name for name in waiting if len(below.get(name, ())) <= 1]:
            for name in may_go:
                parent, gone[name] = above[name], None
                for child in below.pop(name, set()):  # rolled into the point, it stands there
                    gone[name] = self._numbers.get(child)
                    above[child] = parent
                    below[parent].add(child)
                below[parent].discard(name)
            waiting = [name for name in waiting if name not in gone]
        return gone
