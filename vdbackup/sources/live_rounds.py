"""A device in use, brought to one moment: what changes is read again, the last of it while frozen.

While a device is read, those who use it go on writing. The kernel marks which of its blocks change
(agent/tracking.py). When all has been read, what has changed since is read again, which takes less
long, so that less changes meanwhile; and so on. The last set, when it is small or grows no smaller,
is read into memory while the file systems are frozen. What was read then is, all together, the
device as it was in that moment.

What was marked counts only where no write is under way: a block is marked before its data reach the
device. So each round begins with a freeze, of some 40 ms, and what changed is read after it.

Whoever writes past the file systems (a swap area, a system partition of UEFI, which cannot be
frozen) is not held back: what changes where no frozen file system lies is read until nothing
changes there any more from one round to the next.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np

from vdbackup.agent import tracking
from vdbackup.agent.changes import BLOCK, Changes, Harvest, Token
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.tracked import Follower, Tracked
from vdbackup.consistency import Consistency, How
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Ranges, aligned, overlap, total, union
from vdbackup.errors import (
    AgentError,
    NotFreezable,
    NotFrozen,
    TrackerBusy,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import readable_size
from vdbackup.processes import start_of
from vdbackup.sources.file_systems import Together, stretches, swap_on
from vdbackup.sources.last_set import LastSet
from vdbackup.sources.moment import Follow, Outcome
from vdbackup.sources.source import Source

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ROUNDS = 8
FEW = 16 * UNIT
"""Bytes that are not worth another round: to read them while frozen takes milliseconds."""
_SHRINKS = 0.7
"""A round that has more than this part of the one before it shows that the next will have as many:
as much is written while they are read."""
_PATIENCE = 30.0
"""Seconds: other backups begin and end trackers, each in less than one."""
_CAPTURE = re.compile(r"capture (\d+) (\d+) [0-9a-f]+")
"""Names a follower that lives no longer than its process, by that one's number and start."""
_NOTHING: Ranges = np.empty((0, 2), np.int64)


class LiveSource(Source, Protocol):
    """A block device that file systems are mounted from."""

    path: Path

    def writers(self) -> tuple[str, ...]:
        """Programs that have it open for writing past its file systems, a sentence each."""


class LiveRounds:
    """The Rounds (source.py) of a device in use.

    Where it cannot be had as of one moment it is read all the same, and `outcome` says why not.
    """

    def __init__(self, source: LiveSource, follow: Follow | None = None) -> None:
        self.hindrance = self.scan_reason = ""
        self.changed: Ranges | None = None
        self._source, self._follow = source, follow
        self._goes_on = False  # the tracker, when this ends
        self._undo = ExitStack()
        self._before = 0  # bytes of the round before
        self._grew = 0  # rounds after each other that were no smaller, and too large for memory
        # What was handed in past the file systems before the last harvest may have reached the
        # device after it was read: it is read once more, and has to be the same twice.
        self._again = _NOTHING
        self._is_quiet = True
        self._count = 0
        self._frozen: Freeze | None = None

    # ------------------------------------------------------------------------- begin and end

    def __enter__(self) -> Self:
        try:
            with ExitStack() as stack:
                self._begin(stack)
                self._undo = stack.pop_all()
        except (NotFrozen, AgentError, OSError) as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _begin(self, stack: ExitStack) -> None:
        """Have changes marked; what was handed in before that is on the device when this returns.

        The freeze sees to that, and shows which of the file systems cannot be frozen.
        """
        self._last_set = stack.enter_context(LastSet())
        self._together = stack.enter_context(Together(self._source.path, self._source.size))
        since = self._followed(stack)
        while True:
            if not self._together.count:
                raise NotFrozen(f"Nothing that can be frozen is mounted from {self._source.title}.")
            try:
                self._together.sync()
                with self._together.frozen():
                    harvest = self._follower.harvest(since)
            except NotFreezable as error:
                self._together.leave(error.where)
            else:
                break
        changes = self._take(harvest)
        self.changed = self._whole_units(changes) if changes else None
        if since is not None:
            self.scan_reason = harvest.reason

    def _followed(self, stack: ExitStack) -> Token | None:
        """Follow the device; the moment since when its changes are known, if that can be."""
        follow, is_tracked = self._follow, _is_tracked(self._source.path)
        self._goes_on = follow is not None and is_tracked
        if follow is None or not is_tracked:
            self.scan_reason = "nobody tracks what changes on it" if follow else ""
            self._follower = stack.enter_context(_for_now(self._source.path))
            return None
        tracked = stack.enter_context(_when_free(lambda: tracking.track(self._source.path)))
        self._follower = stack.enter_context(_when_free(lambda: tracked.follower(follow.name)))
        self.scan_reason = follow.unknown
        if follow.since is not None:
            self._keep(follow.since)  # whoever made that point may have been killed before it did
        return follow.since

    def _keep(self, token: Token) -> None:
        _when_free(lambda: self._follower.keep(token))

    @property
    def restless(self) -> Ranges:
        """Its swap areas: a freeze holds the kernel's memory back from none."""
        areas = {each.number for each in swap_on(self._source.path) if each.number}
        return stretches(self._source.path, areas)

    def distrust(self, why: str) -> None:
        """Nobody believes the tracker any more; if that cannot be noted, none goes on from it."""
        try:
            _when_free(lambda: self._follower.distrust(why))
        except (AgentError, OSError):
            self._goes_on = False
            log.warning("the doubt of %s is not noted", self._source.title, exc_info=True)

    def keep(self) -> None:
        """What was read is stored for good."""
        if self._goes_on and self._is_quiet and self._frozen is not None:
            try:
                self._keep(self._token)
            except (AgentError, OSError):  # the next backup tries again
                log.warning("what %s holds is not noted", self._source.title, exc_info=True)

    def _give_up(self, error: VdbackupError | OSError) -> None:
        log.info("%s is copied as it is", self._source.title, exc_info=error)
        self.hindrance = (from_os(error) if isinstance(error, OSError) else error).title

    # ------------------------------------------------------------------------- rounds

    def __iter__(self) -> Iterator[Ranges]:
        """What has changed since it was read, in whole units of the source."""
        while not self.hindrance and self._frozen is None:
            changed = self._round()
            if not self.hindrance:
                yield changed

    def _round(self) -> Ranges:
        """What has changed; once it is little, it is in memory, as of the moment of the freeze."""
        self._count += 1
        changed = _NOTHING
        try:
            self._together.sync()
            with self._together.frozen() as freeze:
                changed = self._harvested()
                taken = self._is_last(changed) and self._last_set.fill(
                    changed, self._source.readinto, freeze
                )
            if taken:
                self._frozen = freeze
            else:
                self._note(changed)
        except (NotFrozen, AgentError) as error:
            self._give_up(error)
        except OSError as error:
            self._source.check_present()
            self._give_up(error)
        return changed

    def _harvested(self) -> Ranges:
        """What has changed since the last harvest, and what has to be read once more."""
        size, again = self._source.size, self._again
        changes = self._take(self._follower.harvest(since=self._token))
        changed = self._whole_units(changes) if changes else _NOTHING
        self._again = aligned(overlap(changed, self._together.outside), UNIT, size)
        self._is_quiet = not len(self._again) and not len(again)
        return union(changed, again)

    def _whole_units(self, changes: Changes) -> Ranges:
        return aligned(ranges_of(changes), UNIT, self._source.size)

    def _take(self, harvest: Harvest) -> Changes | None:
        if harvest.token is None or (self._count and harvest.changes is None):
            raise NotFrozen(
                f"What changed on {self._source.title} meanwhile is not known, because "
                f"{harvest.reason}."
            )
        self._token = harvest.token
        return harvest.changes

    def _is_last(self, changed: Ranges) -> bool:
        """Whether these are to be read while nobody writes."""
        size, ends = total(changed), self._count >= MAX_ROUNDS
        fewest = size <= FEW or 0 < self._before * _SHRINKS < size
        return self._last_set.holds_as_much(changed) and (ends or (fewest and self._is_quiet))

    def _note(self, changed: Ranges) -> None:
        """Give up where rounds lead nowhere."""
        size = total(changed)
        too_large = not self._last_set.holds_as_much(changed)
        grew = too_large and 0 < self._before * _SHRINKS < size
        self._grew = self._grew + 1 if grew else 0
        self._before = size
        if self._count >= MAX_ROUNDS or self._grew > 1:
            self.hindrance = (
                f"{self._source.title} is written to faster than it can be read: after "
                f"{self._count} rounds {readable_size(size)} had changed meanwhile."
            )

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view`, from memory where that holds the last that changed."""
        if self._frozen is None or not self._last_set.readinto(offset, view):
            self._source.readinto(offset, view)

    # ------------------------------------------------------------------------- the end

    def outcome(self) -> Outcome:
        """As of which moment all that was read is."""
        source, freeze = self._source, self._frozen
        if freeze is None:
            why = f"Its file systems were not frozen together for this point: {self.hindrance}"
            return Outcome(Consistency(How.AS_IS, rounds=self._count), (*source.trouble(), why))
        left_out = self._together.left_out
        consistency = Consistency.frozen(freeze.at, freeze.seconds, self._count, left_out)
        source.check_present()
        trouble = (*source.defects(), *source.writers(), *self._went_on())
        # what was written past the file systems may still come, and is marked no more
        goes_on = self._goes_on and self._is_quiet
        return Outcome(consistency, trouble, self._token if goes_on else None)

    def _went_on(self) -> tuple[str, ...]:
        if self._is_quiet:
            return ()
        left = "; ".join(self._together.left_out) or "what is not mounted"
        sentence = (
            f"What cannot be frozen of {self._source.title} was written to until the end, and may "
            f"mix old and new: {left}."
        )
        return (sentence,)


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


def _is_tracked(path: Path) -> bool:
    """Whether somebody has begun to track it, for longer than a backup."""
    found = tracking.find(path)
    if found is None:
        return False
    with found:
        return found.lasting


@contextmanager
def _for_now(path: Path) -> Iterator[Follower]:
    """One who follows a device for the length of the block, for which alone it may be tracked."""
    own = os.getpid()
    name = f"capture {own} {start_of(own)} {secrets.token_hex(4)}"
    with _when_free(lambda: tracking.track(path, lasting=False)) as tracked:
        try:
            _forget_those_killed(tracked)
            with tracked.follower(name) as follower:
                yield follower
        finally:
            try:
                _when_free(lambda: tracked.forget(name))
                _when_free(lambda: tracking.end_unneeded(path))
            except (AgentError, OSError):  # which costs some memory, and the point nothing
                log.warning("%s is still tracked", path, exc_info=True)


def _forget_those_killed(tracked: Tracked) -> None:
    """Captures whose processes are gone, and could not say that they follow the disk no more."""
    for name in tracked.names():
        capture = _CAPTURE.fullmatch(name)
        if capture and start_of(int(capture[1])) != int(capture[2]):
            log.info("%s was killed", name)
            tracked.forget(name)


def _when_free(do: Callable[[], T]) -> T:
    """What it returns, tried again for a while where others are at work with trackers."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return do()
        except TrackerBusy:
            if time.monotonic() > until:
                raise
