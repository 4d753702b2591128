"""A device in use, brought to one moment: what changes is read again, the last of it while frozen.

While a device is read, those who use it go on writing. The kernel marks which of its blocks change
(agent/tracking.py). When all has been read, what has changed since is read again, which takes less
long, so that less changes meanwhile; and so on. The last set, when it is small or grows no smaller,
is read into memory while the file systems are frozen. What was read then is, all together, the
device as it was in that moment.

What is done to the device for that, which may need privileges, is the agent's (agent/in_use.py);
when a round is the last is decided here.

Several devices are brought to one moment together (`rounds_of_all`): each round freezes what is
mounted from all of them, and the last of one is the last of all.

Whoever writes past the file systems (a swap area, a system partition of UEFI, which cannot be
frozen) is not held back: what changes where no frozen file system lies is read until nothing
changes there any more from one round to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from vdbackup.agent.changes import BLOCK, Changes, Harvest, Token
from vdbackup.agent.client import Beside, device_in_use, round_of_all
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.in_use import Asked, DeviceInUse, Round, check_freezable
from vdbackup.consistency import Consistency, How
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Ranges, aligned, as_ranges, overlap, total, union
from vdbackup.errors import (
    AgentError,
    NotFrozen,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import readable_size
from vdbackup.sources import hooks, lvm_snapshot
from vdbackup.sources.lvm_snapshot import Snapshot
from vdbackup.sources.moment import Follow, Outcome
from vdbackup.sources.source import Source
from vdbackup.translation import tr

log = logging.getLogger(__name__)

MAX_ROUNDS = 8
FEW = 16 * UNIT
"""Bytes that are not worth another round: to read them while frozen takes milliseconds."""
_SHRINKS = 0.7
"""A round that has more than this part of the one before it shows that the next will have as many:
as much is written while they are read."""
_NOTHING: Ranges = np.empty((0, 2), np.int64)


class LiveSource(Source, Protocol):
    """A block device that file systems are mounted from."""

    path: Path

    def writers(self) -> tuple[str, ...]:
        """Programs that have it open for writing past its file systems, a sentence each."""


class LiveRounds:
    """The Rounds (source.py) of a device in use.

    Where they cannot be had, a logical volume is read from a snapshot. What cannot be had as of one
    moment is read all the same, and `outcome` says why not.
    """

    def __init__(self, source: LiveSource, follow: Follow | None = None) -> None:
        self.hindrance = self.scan_reason = ""
        self.changed: Ranges | None = None
        self.restless = _NOTHING
        self._source, self._follow = source, follow
        self._undo = ExitStack()
        self._before = 0  # bytes of the round before
        self._grew = 0  # rounds after each other that were no smaller, and too large
        # What was handed in past the file systems before the last harvest may have reached the
        # device after it was read: it is read once more, and has to be the same twice.
        self._again = _NOTHING
        self._is_quiet = True
        self._count = 0
        self._frozen: Freeze | None = None
        self._snapshot: Snapshot | None = None
        self._unheard: tuple[str, ...] = ()  # whom the last freeze was not told of

    # ------------------------------------------------------------------------- begin and end

    def __enter__(self) -> Self:
        self.begin()
        begun_together([self])
        if self.hindrance:
            self._take_snapshot()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, beside: Beside | None = None) -> None:
        """Have changes marked; of several, which have that in common, `begun_together` follows."""
        try:
            with ExitStack() as stack:
                self._begin(stack, beside)
                self._undo = stack.pop_all()
        except (NotFrozen, AgentError, OSError) as error:
            self.give_up(_why(error))

    def close(self) -> None:
        """End it, with or without an outcome."""
        self._undo.close()

    def _begin(self, stack: ExitStack, beside: Beside | None) -> None:
        follow = self._follow
        name, since = (follow.name, follow.since) if follow else (None, None)
        device = device_in_use(self._source.path, name, since, beside)
        self._device = stack.enter_context(device)
        harvest = self._device.harvest
        changes = self._take(harvest)
        self.changed = self._whole_units(changes) if changes else None
        self.restless = as_ranges(self._device.restless)
        if not self._device.settled:
            self._again = self._outside()
        if follow and not self._device.goes_on:
            self.scan_reason = tr("nobody tracks what changes on it")
        elif follow:
            self.scan_reason = follow.unknown or harvest.reason

    def distrust(self, why: str) -> None:
        """Nobody believes the tracker any more; if that cannot be noted, none goes on from it."""
        try:
            self._device.distrust(why)
        except (AgentError, OSError):
            log.warning("the doubt of %s is not noted", self._source.title, exc_info=True)

    def keep(self) -> None:
        """What was read is stored for good."""
        if self._is_quiet and self._frozen is not None:
            try:
                self._device.keep(self._token)
            except (AgentError, OSError):  # the next backup tries again
                log.warning("what %s holds is not noted", self._source.title, exc_info=True)

    def _take_snapshot(self) -> None:
        """Where no rounds can be had, and the device is a logical volume."""
        if not lvm_snapshot.can_be_of(self._source.path):
            return
        with ExitStack() as stack:
            try:
                with hooks.told() as unheard:
                    self._snapshot = stack.enter_context(Snapshot(self._source.path))
            except NotFrozen as error:
                self.hindrance += f" {error.title}"
            else:
                self._unheard = tuple(unheard)
                if self._follow:
                    self.scan_reason = self.hindrance.rstrip(".")
                self.hindrance = ""
                self._undo.push(stack.pop_all())

    @property
    def marks_writes(self) -> bool:
        """Whether what is written from now on is read again."""
        return not self.hindrance and self._snapshot is None

    # ------------------------------------------------------------------------- rounds

    def __iter__(self) -> Iterator[Ranges]:
        """What has changed since it was read, in whole units of the source."""
        return (changed for (changed,) in rounds_of_all([self]))

    @property
    def is_over(self) -> bool:
        """Whether no other round follows."""
        return not self.marks_writes or self._frozen is not None

    def asks(self) -> tuple[DeviceInUse, Asked, Token]:
        """What the next round is to show."""
        return self._device, self._asked(), self._token

    def take(self, seen: Round, unheard: Sequence[str]) -> Ranges:
        """What has changed; once it is little, it is in memory, as of the moment of the freeze."""
        self._count += 1
        self.restless = as_ranges(self._device.restless)
        changed = self._harvested(seen.harvest)
        if seen.taken:
            self._frozen, self._unheard = seen.freeze, tuple(unheard)
        else:
            self._note(changed)
        return changed

    def give_up(self, why: str) -> None:
        """It will be no single moment."""
        self.hindrance = self.hindrance or why

    def check_present(self) -> None:
        """Raise SourceError where the source is gone."""
        self._source.check_present()

    def _asked(self) -> Asked:
        shrunk, ends = int(self._before * _SHRINKS), self._count + 1 >= MAX_ROUNDS
        again = [(start, length) for start, length in self._again.tolist()]
        return Asked(FEW, shrunk, ends, again)

    def _harvested(self, harvest: Harvest) -> Ranges:
        """What has changed since the last harvest, and what has to be read once more."""
        changes, again = self._take(harvest), self._again
        changed = self._whole_units(changes) if changes else _NOTHING
        self._again = aligned(overlap(changed, self._outside()), UNIT, self._source.size)
        self._is_quiet = not len(self._again) and not len(again)
        return union(changed, again)

    def _outside(self) -> Ranges:
        return aligned(as_ranges(self._device.outside), UNIT, self._source.size)

    def _whole_units(self, changes: Changes) -> Ranges:
        return aligned(ranges_of(changes), UNIT, self._source.size)

    def _take(self, harvest: Harvest) -> Changes | None:
        if harvest.token is None or (self._count and harvest.changes is None):
            raise NotFrozen(
                tr(
                    "What changed on {source} meanwhile is not known, because {reason}.",
                    source=self._source.title,
                    reason=harvest.reason,
                )
            )
        self._token = harvest.token
        return harvest.changes

    def _note(self, changed: Ranges) -> None:
        """Give up where rounds lead nowhere."""
        size = total(changed)
        grew = size > self._device.room and 0 < self._before * _SHRINKS < size
        self._grew = self._grew + 1 if grew else 0
        self._before = size
        if self._count >= MAX_ROUNDS or self._grew > 1:
            self.hindrance = tr(
                "{source} is written to faster than it can be read: after {count} rounds "
                "{size} had changed meanwhile.",
                source=self._source.title,
                count=self._count,
                size=readable_size(size),
            )

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view`, from memory once that holds the last that changed."""
        if self._snapshot is not None:
            self._snapshot.readinto(offset, view)
        elif self._frozen is None:
            self._source.readinto(offset, view)
        else:
            self._device.readinto(offset, view)

    # ------------------------------------------------------------------------- the end

    def outcome(self) -> Outcome:
        """As of which moment all that was read is."""
        source, freeze = self._source, self._frozen
        if self._snapshot is not None:
            self._snapshot.check()
            consistency = Consistency.snapshot(self._snapshot.at)
            return Outcome(consistency, (*source.defects(), *self._unheard))
        if freeze is None:
            why = tr(
                "Its file systems were not frozen together for this point: {hindrance}",
                hindrance=self.hindrance,
            )
            return Outcome(Consistency(How.AS_IS, rounds=self._count), (*source.trouble(), why))
        left_out = self._device.left_out
        consistency = Consistency.frozen(freeze.at, freeze.seconds, self._count, left_out)
        source.check_present()
        trouble = (*source.defects(), *source.writers(), *self._went_on(), *self._unheard)
        # what was written past the file systems may still come, and is marked no more
        goes_on = self._device.goes_on and self._is_quiet
        return Outcome(consistency, trouble, self._token if goes_on else None)

    def _went_on(self) -> tuple[str, ...]:
        if self._is_quiet:
            return ()
        left = "; ".join(self._device.left_out) or tr("what is not mounted")
        sentence = tr(
            "What cannot be frozen of {source} was written to until the end, and may mix old "
            "and new: {left}.",
            source=self._source.title,
            left=left,
        )
        return (sentence,)


def begun_together(members: Sequence[LiveRounds]) -> None:
    """What keeps one of them from being of the moment keeps all of them; nothing has been read.

    So does it that nothing can be frozen that is mounted from any.
    """
    if not any(each.hindrance for each in members):
        try:
            check_freezable([each.asks()[0] for each in members])
        except NotFrozen as error:
            members[0].give_up(_why(error))
    _share_hindrance(members)


def rounds_of_all(members: Sequence[LiveRounds]) -> Iterator[list[Ranges]]:
    """What has changed of each since it was read; what the last one gives is of one moment.

    Raises SourceError where a source is gone.
    """
    while not any(each.is_over for each in members):
        changed = _round(members)
        if not any(each.hindrance for each in members):
            yield changed
    _share_hindrance(members)


def _round(members: Sequence[LiveRounds]) -> list[Ranges]:
    try:
        with hooks.told() as unheard:
            seen = round_of_all([each.asks() for each in members])
        return [each.take(its, unheard) for each, its in zip(members, seen, strict=True)]
    except (NotFrozen, AgentError, OSError) as error:
        if isinstance(error, OSError):
            for each in members:
                each.check_present()
        members[0].give_up(_why(error))
    return []


def _share_hindrance(members: Sequence[LiveRounds]) -> None:
    why = next((each.hindrance for each in members if each.hindrance), "")
    for each in members:
        each.give_up(why)


def _why(error: VdbackupError | OSError) -> str:
    log.info("it is copied as it is", exc_info=error)
    return (from_os(error) if isinstance(error, OSError) else error).title


def ranges_of(changes: Changes) -> Ranges:
    """What has changed of a device, in bytes of it, ascending and apart.

    They begin and end at multiples of the tracker's BLOCK of the whole disk, which in a partition
    need not be such of its own, but they stay within the device.
    """
    marks = np.frombuffer(changes.bitmap, np.uint8)
    touched = np.flatnonzero(marks)  # most are not, and this is done while others wait
    flags = np.unpackbits(marks[touched], bitorder="little").reshape(-1, 8).view(np.bool_)
    starts = (touched[:, None] * 8 + np.arange(8))[flags] * BLOCK - changes.start
    ends = np.minimum(starts + BLOCK, changes.size)
    starts = np.maximum(starts, 0)
    ranges = np.stack([starts, ends - starts], axis=1)
    return union(ranges[ranges[:, 1] > 0], _NOTHING)
