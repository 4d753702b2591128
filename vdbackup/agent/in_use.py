"""A device in use: what is mounted from it is frozen, and what changed is read within that.

What was marked as changed counts only where no write is under way: a block is marked before its
data reach the device. So each look at what has changed is taken within a freeze, of some 40 ms. If
it is to be the last, what changed is read within that same freeze, into memory that is there.

All that this does may need privileges, so it takes little from whoever asks: a device, a name, a
moment, and when a round is the last. It imports nothing but what Python comes with.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

from vdbackup.agent import tracking, write_log
from vdbackup.agent.block_devices import Disk, Place
from vdbackup.agent.changes import BLOCK, Changes, Harvest, Token
from vdbackup.agent.file_systems import Together, frozen_together
from vdbackup.agent.freezing import LIMIT, Freeze
from vdbackup.agent.last_set import LastSet
from vdbackup.agent.stretches import Stretch, joined
from vdbackup.agent.tracked import Follower, Tracked
from vdbackup.errors import (
    AgentError,
    FreezeUndone,
    FrozenElsewhere,
    NotFreezable,
    NotFrozen,
    TrackerBusy,
)
from vdbackup.processes import start_of
from vdbackup.translation import tr

log = logging.getLogger(__name__)
T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds: other backups begin and end trackers, each in less than one."""
_SETTLES, _BETWEEN = 1.0, 0.001
"""Seconds in which even a busy disk has a moment without a request, and those between two looks."""
_OTHERS, _BETWEEN_TRIES = LIMIT + 1.0, 0.02
"""Seconds in which another backup has thawed what it froze, and those between two tries at least:
two that each wait for what the other has frozen do not go on in step."""
CAPTURE = re.compile(r"capture (\d+) (\d+) [0-9a-f]+")
"""Names a follower that lives no longer than its process, by that one's number and start."""


@dataclass(frozen=True)
class Asked:
    """When a round is the last: what it is to read lies in memory then, and is quiet, and is few.

    Attributes:
        few: bytes that are not worth another round.
        shrunk: bytes; were more to be read than these, the next round would have as many. 0: not
            known.
        ends: whether it is the last in any case that it can be.
        again: what has to be read once more, changed or not, (offset, length) in bytes of the
            device, ascending and apart.
    """

    few: int
    shrunk: int = 0
    ends: bool = False
    again: Sequence[Stretch] = ()


@dataclass(frozen=True)
class Round:
    """What a freeze has shown.

    Attributes:
        harvest: what changed since the one before, and which moment this is.
        freeze: when it was, and how long.
        taken: whether what changed, and what was to be read once more, is in memory as of then.
        lost: what of that the medium did not give, (offset, length) in bytes of the device.
    """

    harvest: Harvest
    freeze: Freeze
    taken: bool
    lost: tuple[Stretch, ...] = ()


def wanted(changes: Changes, asked: Asked) -> list[Stretch]:
    """What the last round reads, in this order."""
    return joined([*changes.stretches(), *asked.again])


class DeviceInUse(Protocol):
    """What may be done with a device in use, by whoever does it: see InUse."""

    path: Path

    @property
    def goes_on(self) -> bool:
        """Whether the device is tracked for longer than this is used."""

    @property
    def harvest(self) -> Harvest:
        """What had changed when this was begun."""

    @property
    def can_be_frozen(self) -> bool:
        """Whether anything is mounted from it that can."""

    @property
    def room(self) -> int:
        """How many bytes can be read within a freeze."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What cannot be frozen, or is of no account."""

    @property
    def outside(self) -> list[Stretch]:
        """Where on the device nothing lies that is frozen."""

    @property
    def restless(self) -> list[Stretch]:
        """Swap areas on the device."""

    @property
    def settled(self) -> bool:
        """Whether all that was under way when this was begun has reached the device."""

    def round(self, asked: Asked, since: Token) -> Round:
        """Freeze for a moment: what has changed since, and whether it was read with it."""

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what was taken in the last round."""

    def keep(self, token: Token) -> None:
        """A point of that moment is stored for good."""

    def distrust(self, why: str) -> None:
        """Have nobody believe what is tracked; no point goes on from it if that fails."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class InUse:
    """What may be done with a device in use. A context manager; nothing of it stays frozen.

    Attributes:
        goes_on: whether the device is tracked for longer than this is used.
        harvest: what had changed since the moment that was asked about, when this was begun.
        settled: whether all that was under way then has reached the device, past the file systems,
            too: such a write was marked already, or never will be.
        frozen_for: how long its file systems were frozen last, in seconds.
        path: of the device.
        together: what is mounted from it.
    """

    goes_on: bool
    harvest: Harvest
    settled: bool
    frozen_for: float
    path: Path
    together: Together

    def __init__(self, path: Path, name: str | None, since: Token | None) -> None:
        """Have changes marked; what was handed in before that is on the device when this returns.

        Args:
            path: of a block device.
            name: of who reads it again and again; None of somebody who does not.
            since: the moment that this one knows already.

        Raises:
            NotFrozen: what is mounted from it cannot be reached.
            AgentError: its changes cannot be marked, or not now. OSError: it is gone.
        """
        self._undone: Harvest | None = None  # told within a freeze that did not count
        with ExitStack() as stack:
            self._device = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            stack.callback(os.close, self._device)
            self.path = path
            self._size = os.lseek(self._device, 0, os.SEEK_END)
            self._last_set = stack.enter_context(LastSet(Place.of(path).disk.sector_size))
            self.together = Together(path, self._size)
            self.goes_on = name is not None and _is_tracked(path)
            self._follower = stack.enter_context(self._followed(path, name, since))
            known = since if self.goes_on else None
            (begun,) = _frozen_for([(self, known)], lambda *_: False)
            self.harvest = begun.harvest
            self.settled = _settles(Place.of(path).disk)
            self._undo = stack.pop_all()

    @property
    def room(self) -> int:
        """How many bytes can be read within a freeze."""
        return self._last_set.room

    @property
    def memory(self) -> int:
        """A descriptor of what they are read into (`wanted`), for another process to see."""
        return self._last_set.descriptor

    @property
    def left_out(self) -> tuple[str, ...]:
        """What cannot be frozen, or is of no account, a few words each."""
        return self.together.left_out

    @property
    def outside(self) -> list[Stretch]:
        """Where on the device nothing lies that is frozen."""
        return self.together.outside

    @property
    def restless(self) -> list[Stretch]:
        """Swap areas on the device: a freeze holds the kernel's memory back from none."""
        return self.together.swap

    @contextmanager
    def _followed(self, path: Path, name: str | None, since: Token | None) -> Iterator[Follower]:
        if name is None or not self.goes_on:
            with _for_now(path) as follower:
                yield follower
            return
        with ExitStack() as stack:
            tracked = stack.enter_context(_when_free(lambda: tracking.track(path)))
            follower = stack.enter_context(_when_free(lambda: tracked.follower(name)))
            if since is not None:  # whoever made that point may have been killed before it did
                _when_free(lambda: follower.keep(since))
            yield follower

    @property
    def can_be_frozen(self) -> bool:
        """Whether anything is mounted from it that can."""
        return self.together.is_any

    def round(self, asked: Asked, since: Token) -> Round:
        """Freeze for a moment: what has changed since, and whether it was read with it.

        Raises what `round_of_all` does.
        """
        (seen,) = round_of_all([(self, asked, since)])
        return seen

    def begin_round(self) -> None:
        """Another round begins: nothing has been told in it."""
        self._undone = None

    def take_harvest(self, since: Token | None) -> Harvest:
        """What has changed since then, within a freeze, whether that will have counted or not.

        What was told within one that did not count had not yet reached the device, and is told once
        more.
        """
        before = self._undone
        harvest = self._follower.harvest(before.token if before else since)
        self._undone = harvest.after(before) if before else harvest
        return self._undone

    def mark(self, freeze: Freeze) -> None:
        """Where writes to the device are logged, note in the log which ones this freeze holds."""
        write_log.mark_frozen(self._device, freeze.at.isoformat(timespec="milliseconds"))

    def is_last(self, changes: Changes | None, asked: Asked) -> bool:
        """Whether these are to be read while nobody writes."""
        if changes is None:
            return False
        size = changes.count * BLOCK + sum(length for _, length in asked.again)
        if size > self.room:
            return False
        if asked.ends:
            return True
        fewest = size <= asked.few or 0 < asked.shrunk < size
        return fewest and not asked.again and not changes.any_in(self.outside)

    def fill(self, changes: Changes | None, asked: Asked, freeze: Freeze) -> bool:
        """Read them into memory; whether that could be done in time."""
        if changes is None:
            return False
        return self._last_set.fill(wanted(changes, asked), self._read, freeze)

    def seen(self, harvest: Harvest, freeze: Freeze, taken: bool) -> Round:
        """What a freeze has shown that is over."""
        return Round(harvest, freeze, taken, self._last_set.lost if taken else ())

    def _read(self, offset: int, view: memoryview) -> None:
        """Fill `view` from the device itself, past any cache; raises OSError."""
        while view:
            count = os.preadv(self._device, [view], offset)
            if not count:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            offset, view = offset + count, view[count:]

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held in the last round's moment, `offset` bytes in.

        Raises ValueError where that was not among what was taken then.
        """
        self._last_set.readinto(offset, view)

    def keep(self, token: Token) -> None:
        """A point of that moment is stored for good: what changed before it is needed no more."""
        if self.goes_on:
            _when_free(lambda: self._follower.keep(token))

    def distrust(self, why: str) -> None:
        """Have nobody believe what this follows; no point goes on from it if that fails."""
        try:
            _when_free(lambda: self._follower.distrust(why))
        except (AgentError, OSError):
            self.goes_on = False
            raise

    def close(self) -> None:
        """Let go of the device; what was begun for this alone ends."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def round_of_all(asked: Sequence[tuple[InUse, Asked, Token]]) -> list[Round]:
    """One freeze of several devices: of each, what has changed since its moment.

    It is the last of all of them, or of none: what was read with it is of one moment.

    Raises:
        NotFrozen: it could not be frozen, or what was read meanwhile does not count.
        AgentError: the tracker's, and OSError: then nothing is known, nor lost.
    """

    def take(harvests: Sequence[Harvest], freeze: Freeze) -> bool:
        of_each = [
            (device, harvest.changes, wish)
            for (device, wish, _), harvest in zip(asked, harvests, strict=True)
        ]
        return all(device.is_last(changes, wish) for device, changes, wish in of_each) and all(
            device.fill(changes, wish, freeze) for device, changes, wish in of_each
        )

    check_freezable([device for device, _, _ in asked])
    return _frozen_for([(device, since) for device, _, since in asked], take)


def check_freezable(devices: Sequence[DeviceInUse]) -> None:
    """Raise NotFrozen where nothing can be frozen that is mounted from any of them."""
    if not any(device.can_be_frozen for device in devices):
        names = tr(" or ").join(str(device.path) for device in devices)
        raise NotFrozen(tr("Nothing that can be frozen is mounted from {names}.", names=names))


Take = Callable[[Sequence[Harvest], Freeze], bool]


def _frozen_for(devices: Sequence[tuple[InUse, Token | None]], take: Take) -> list[Round]:
    """One freeze that counts; it shows, too, which of the file systems cannot be frozen.

    One that was undone is tried again once: on a busy machine little is left to be written out
    then.
    """
    for device, _ in devices:
        device.begin_round()
    with suppress(FreezeUndone):
        return _frozen_after_others(devices, take)
    time.sleep(devices[0][0].frozen_for)  # whoever wants to write had to wait as long
    return _frozen_after_others(devices, take)


def _frozen_after_others(devices: Sequence[tuple[InUse, Token | None]], take: Take) -> list[Round]:
    """The same, once others have thawed: who backs the same up at once freezes it for a moment."""
    until = time.monotonic() + _OTHERS
    while True:
        try:
            return _frozen_once(devices, take)
        except FrozenElsewhere:
            if time.monotonic() > until:
                raise
        time.sleep(_BETWEEN_TRIES * (1 + secrets.randbelow(10)))


def _frozen_once(devices: Sequence[tuple[InUse, Token | None]], take: Take) -> list[Round]:
    while True:
        with ExitStack() as stack:
            for device, _ in devices:
                stack.enter_context(device.together.joined())
            try:
                return _frozen(devices, take)
            except NotFreezable as error:
                for device, _ in devices:
                    device.together.leave(error.where)


def _frozen(devices: Sequence[tuple[InUse, Token | None]], take: Take) -> list[Round]:
    mounted = [device.together for device, _ in devices]
    for each in mounted:
        each.sync()
    begun = time.monotonic()
    try:
        with frozen_together(mounted) as freeze:
            harvests = [device.take_harvest(since) for device, since in devices]
            for device, _ in devices:
                device.mark(freeze)
            taken = take(harvests, freeze) and all(each.is_all() for each in mounted)
    finally:
        for device, _ in devices:
            device.frozen_for = time.monotonic() - begun
    return [
        device.seen(harvest, freeze, taken)
        for (device, _), harvest in zip(devices, harvests, strict=True)
    ]


def _settles(disk: Disk) -> bool:
    """Wait for a moment in which no request is under way; False where there is none."""
    until = time.monotonic() + _SETTLES
    while not disk.is_idle():
        if time.monotonic() > until:
            return False
        time.sleep(_BETWEEN)
    return True


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
        capture = CAPTURE.fullmatch(name)
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
