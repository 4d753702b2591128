"""What is done to devices for backups, by this process where it may, else by the agent.

As root, or with the rights for it, a process does it itself, whether an agent is installed or not.
An ordinary user asks the agent; where there is none, all is as without it: the sentences say that
only root may.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from vdbackup.agent import connection, in_use, messages, privileges, tracking
from vdbackup.agent.block_devices import device_number
from vdbackup.agent.changes import Harvest, Token
from vdbackup.agent.connection import Connection, close_all
from vdbackup.agent.in_use import Asked, DeviceInUse, InUse, Round, wanted
from vdbackup.agent.last_set import Layout
from vdbackup.agent.memory import SeenMemory, held_in
from vdbackup.agent.messages import MAX_AGAIN, MAX_STATUS
from vdbackup.agent.stretches import Stretch
from vdbackup.agent.tracked import Status
from vdbackup.errors import AgentError, AgentFailed
from vdbackup.translation import tr

_MAX_BITMAP = 256 << 20
"""Bytes: a bit for each 64 KiB of 128 TiB."""
_NEEDED = {privileges.SYS_ADMIN, privileges.BPF, privileges.PERFMON}


def device_in_use(
    path: Path, name: str | None, since: Token | None, beside: Beside | None = None
) -> DeviceInUse:
    """What may be done with a device in use; see in_use.InUse, which raises the same.

    Args:
        path: of the device.
        name: as InUse has it.
        since: the same.
        beside: of several that are frozen together.

    Raises Unauthorized, too, where this user may not use the device, and AgentFailed.
    """
    if is_done_here():
        return InUse(path, name, since)
    return AgentInUse(path, name, since, beside)


class Beside:
    """What several devices have in common that are frozen together: one agent. A context manager.

    It is asked for only where there is need.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._agent: Connection | None = None

    def agent(self) -> Connection:
        """The one for all; raises AgentFailed, Unauthorized."""
        if self._agent is None:
            self._agent = self._undo.enter_context(connection.lent(to_use=True))
        return self._agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def round_of_all(asked: Sequence[tuple[DeviceInUse, Asked, Token]]) -> list[Round]:
    """One freeze of several devices (in_use.round_of_all); raises the same."""
    if len(asked) == 1:
        (device, wish, since) = asked[0]
        return [device.round(wish, since)]
    held = [(device, wish, since) for device, wish, since in asked if isinstance(device, InUse)]
    if len(held) == len(asked):
        return in_use.round_of_all(held)
    return _round_by_agent(asked)


def _round_by_agent(asked: Sequence[tuple[DeviceInUse, Asked, Token]]) -> list[Round]:
    """The same of devices that one agent holds (Beside)."""
    devices = [device for device, _, _ in asked if isinstance(device, AgentInUse)]
    few = MAX_AGAIN // len(asked)  # a message is not long
    wishes = [
        Asked(wish.few, wish.shrunk, wish.ends, _coarser(wish.again, few)) for _, wish, _ in asked
    ]
    rounds = [
        messages.OneOfAll(
            device.number,
            messages.Freezing(wish.few, wish.shrunk, wish.ends, tuple(wish.again), since),
        )
        for device, wish, (_, _, since) in zip(devices, wishes, asked, strict=True)
    ]
    frozen, fds = devices[0].agent.ask(messages.FreezingAll(tuple(rounds)), messages.FrozenAll)
    if len(frozen.rounds) != len(devices):
        close_all(fds)
        raise _makes_no_sense()
    return [
        device.seen(its, wish, [fds.pop(0)] if its.harvested.start is not None and fds else [])
        for device, its, wish in zip(devices, frozen.rounds, wishes, strict=True)
    ]


def opened(path: Path) -> tuple[int, Callable[[], None]] | None:
    """A descriptor to read a block device by that this user may not open; None without an agent.

    Beside it what lets go of the agent: as long as it is kept, nobody is asked a second time.

    Raises Unauthorized, AgentFailed, SourceNotFound, OSError.
    """
    if is_done_here():
        return None
    with ExitStack() as stack:
        agent = stack.enter_context(connection.lent())
        _, fds = agent.ask(messages.Open(device_number(path)), messages.Done)
        (fd,) = _so_many(fds, 1)
        return fd, stack.pop_all().close


def track(path: Path) -> tuple[Path, datetime]:
    """Begin to track a disk (tracking.track): its file, and since when. Raises the same."""
    if is_done_here():
        with tracking.track(path) as tracked:
            return tracked.place.disk.node, tracked.description.since
    with connection.lent() as agent:
        disk, _ = agent.ask(messages.Track(device_number(path)), messages.Disk)
    if disk.since is None:
        raise _makes_no_sense()
    return Path(disk.device), disk.since


def untrack(path: Path) -> Path:
    """End that (tracking.untrack). Raises the same."""
    if is_done_here():
        return tracking.untrack(path)
    with connection.lent() as agent:
        disk, _ = agent.ask(messages.Untrack(device_number(path)), messages.Disk)
    return Path(disk.device)


def tracked() -> list[Status]:
    """Of all disks that are tracked (tracking.tracked). Raises the same."""
    if is_done_here():
        return tracking.tracked()
    with connection.lent() as agent:
        _, fds = agent.ask(messages.Tell(), messages.Done)
    (fd,) = _so_many(fds, 1)
    with _sense():
        return messages.statuses_of(held_in(fd, MAX_STATUS))


class AgentInUse:
    """A DeviceInUse that an agent holds; see in_use.InUse."""

    def __init__(
        self,
        path: Path,
        name: str | None,
        since: Token | None,
        beside: Beside | None = None,
    ) -> None:
        """Raises what InUse does, Unauthorized and AgentFailed."""
        self.path, self.number = path, device_number(path)
        with ExitStack() as stack:
            self.agent: Connection = (
                beside.agent() if beside else stack.enter_context(connection.lent(to_use=True))
            )
            use = messages.Use(self.number, name, since, together=beside is not None)
            using, fds = self.agent.ask(use, messages.Using)
            stack.callback(self._release)
            self.goes_on, self.room, self.settled = using.goes_on, using.room, using.settled
            self.can_be_frozen = using.can_be_frozen
            self._note(using.around)
            memory, *bitmap = _at_least(fds, 1)
            with _sense():
                self._memory = stack.enter_context(SeenMemory(memory))
                self.harvest: Harvest = using.harvested.harvest(_bitmap(bitmap))
            self._layout = Layout(())
            self._undo = stack.pop_all()

    def _note(self, around: messages.Around) -> None:
        self.left_out: tuple[str, ...] = around.left_out
        self.outside: list[Stretch] = list(around.outside)
        self.restless: list[Stretch] = list(around.restless)

    def round(self, asked: Asked, since: Token) -> Round:
        """Freeze for a moment: what has changed since, and whether it was read with it."""
        asked = Asked(asked.few, asked.shrunk, asked.ends, _coarser(asked.again, MAX_AGAIN))
        request = messages.Freezing(
            asked.few, asked.shrunk, asked.ends, tuple(asked.again), since
        )  # fmt: skip
        frozen, fds = self.agent.ask(request, messages.Frozen)
        return self.seen(frozen, asked, fds)

    def seen(self, frozen: messages.Frozen, asked: Asked, fds: list[int]) -> Round:
        """What a freeze has shown of it, with the bitmap of what has changed."""
        with _sense():
            seen = frozen.round(_bitmap(fds))
            changes = seen.harvest.changes
            if seen.taken and changes is None:
                raise ValueError(tr("what has changed is missing"))
        self._note(frozen.around)
        if seen.taken and changes is not None:
            self._layout = Layout(wanted(changes, asked), seen.lost)
        return seen

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the device held in the last round's moment."""
        self._layout.readinto(self._memory.view, offset, view)

    def keep(self, token: Token) -> None:
        """A point of that moment is stored for good."""
        self.agent.ask(messages.Keep(token, self.number), messages.Done)

    def distrust(self, why: str) -> None:
        """Have nobody believe what is tracked; no point goes on from it if that fails."""
        try:
            self.agent.ask(messages.Distrust(why, self.number), messages.Done)
        except (AgentError, OSError):
            self.goes_on = False
            raise

    def _release(self) -> None:
        with suppress(AgentError, OSError):  # it is gone, and so is what it held
            self.agent.ask(messages.Release(self.number), messages.Done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def is_done_here() -> bool:
    """Whether this process does it: it may, or there is nobody else."""
    if os.geteuid() == 0 or privileges.effective() >= _NEEDED:
        return True
    return not connection.can_be_had()


def _coarser(stretches: Sequence[Stretch], most: int = MAX_AGAIN) -> tuple[Stretch, ...]:
    """The same and, where they are many, the shortest gaps between them: a message is not long."""
    found = list(stretches)
    if len(found) <= most:
        return tuple(found)
    gaps = sorted(
        (after[0] - sum(before), number)
        for number, (before, after) in enumerate(itertools.pairwise(found))
    )
    closed = {number for _, number in gaps[: len(found) - most]}
    joined = [found[0]]
    for number, each in enumerate(found[1:]):
        if number in closed:
            start = joined[-1][0]
            joined[-1] = (start, sum(each) - start)
        else:
            joined.append(each)
    return tuple(joined)


def _bitmap(fds: list[int]) -> bytes | None:
    return held_in(_so_many(fds, 1)[0], _MAX_BITMAP) if fds else None


def _at_least(fds: list[int], count: int) -> list[int]:
    if len(fds) < count:
        close_all(fds)
        raise _makes_no_sense()
    return fds


def _so_many(fds: list[int], count: int) -> list[int]:
    if len(fds) != count:
        close_all(fds)
        raise _makes_no_sense()
    return fds


@contextmanager
def _sense() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise _makes_no_sense() from error


def _makes_no_sense() -> AgentFailed:
    return AgentFailed(
        tr("The service's reply makes no sense."),
        tr("It may be of another version: install it anew."),
    )
