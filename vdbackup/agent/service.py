"""The agent: does for one client what only root may do to disks, and undoes it when that is gone.

One program serves one client, whose socket is its standard input: pkexec has started it for the
window, or systemd for whoever connects to its socket. It opens nothing by a path that a client
names, writes to no disk, and runs no program but pkcheck. A client holds one device in use, or a
few that are frozen together, and may hand in a file that a volume's writes are logged in. What is
frozen is thawed within one request, by the guardian at the latest: no reply of a client's is waited
for meanwhile.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from vdbackup.agent import messages, permission, privileges, tracking, write_log
from vdbackup.agent.block_devices import node_of
from vdbackup.agent.in_use import InUse, Round, check_freezable, round_of_all
from vdbackup.agent.memory import sealed
from vdbackup.agent.messages import MAX_MESSAGE
from vdbackup.agent.permission import Permission
from vdbackup.errors import AgentFailed, SourceNotFound, TrackerBusy, VdbackupError
from vdbackup.translation import tr

log = logging.getLogger(__name__)

IDLE = 600.0
"""Seconds in which a client that holds nothing has to ask for something."""
LONGEST = 72 * 3600.0
"""Seconds in which one that uses a device has to: it reads all of that meanwhile, and 24 TiB at 100
MB/s take 70 hours."""
_TAKES_WITHIN = 30.0
"""Seconds in which a client has to take a reply."""
_REST = 4
"""How often as long as a freeze the device is left alone after it: four fifths of the time, at
least, belong to those who write."""
_LONGEST_REST = 30.0
MAX_FOLLOWERS = 64
"""Of one disk, each of which takes of the kernel's memory."""

Reply = tuple[object, list[int]]
"""What is replied, and descriptors beside it that are closed once it is sent."""


class Service:
    """What one client can have. A context manager: it holds nothing afterwards.

    Args:
        allowed: what the client may do.
    """

    def __init__(self, allowed: Permission) -> None:
        self._allowed = allowed
        self._in_use: dict[str, InUse] = {}
        self._together = False
        self._rested_at = 0.0
        self._logged: set[str] = set()
        self._verbs: dict[type, Callable[[Any], Reply]] = {
            messages.Open: self._open,
            messages.Track: self._track,
            messages.Untrack: self._untrack,
            messages.Tell: self._status,
            messages.Use: self._use,
            messages.Freezing: self._round,
            messages.FreezingAll: self._round_of_all,
            messages.Keep: self._keep,
            messages.Distrust: self._distrust,
            messages.Release: self._release,
            messages.Unlog: self._unlog,
            messages.TellLog: self._tell_log,
        }

    @property
    def patience(self) -> float:
        """Seconds in which the client has to ask for something."""
        return LONGEST if self._in_use or self._logged else IDLE

    def answer(self, data: bytes, sent: Sequence[int] = ()) -> tuple[bytes, list[int]]:
        """The reply to a message, whatever it is, and the descriptors that go with it.

        Args:
            data: the message.
            sent: descriptors that came beside it, which stay the caller's.
        """
        try:
            request = messages.request_of(data)
        except ValueError as error:
            log.info("no request: %s", error)
            return messages.from_agent(_not_understood()), []
        fds: list[int] = []
        try:
            if isinstance(request, messages.Log):
                reply, fds = self._log(request, sent)
            else:
                reply, fds = self._verbs[type(request)](request)
            return messages.from_agent(reply), fds
        except (VdbackupError, OSError) as error:
            log.info("%s is refused", type(request).__name__, exc_info=error)
            _close(fds)
            return messages.from_agent(error), []
        except Exception:
            log.exception("%s failed", type(request).__name__)
            _close(fds)
            self.close()  # nobody knows what became of it
            failed = AgentFailed(tr("The service failed."), tr("The system's journal says more."))
            return messages.from_agent(failed), []

    # ------------------------------------------------------------------------- reading

    def _open(self, request: messages.Open) -> Reply:
        self._allowed.check_use(request.device)
        return messages.Done(), [_opened(request.device)]

    # ------------------------------------------------------------------------- tracking

    def _track(self, request: messages.Track) -> Reply:
        self._allowed.check_use(request.device)
        with tracking.track(_number(request.device)) as tracked:
            return messages.Disk(str(tracked.place.disk.node), tracked.description.since), []

    def _untrack(self, request: messages.Untrack) -> Reply:
        self._allowed.check_use(request.device)
        return messages.Disk(str(tracking.untrack(_number(request.device))), None), []

    def _status(self, _: messages.Tell) -> Reply:
        self._allowed.check_look()
        return messages.Done(), [sealed(messages.in_memory(tracking.tracked()))]

    # ------------------------------------------------------------------------- every write

    def _log(self, request: messages.Log, sent: Sequence[int]) -> Reply:
        self._allowed.check_log(request.device)
        if len(sent) != 1:
            raise _not_understood()
        write_log.begin(_number(request.device), sent[0])
        self._logged.add(request.device)
        return messages.Done(), []

    def _unlog(self, request: messages.Unlog) -> Reply:
        self._allowed.check_log(request.device)
        was = write_log.end(_number(request.device))
        self._logged.discard(request.device)
        return messages.Unlogged(was), []

    def _tell_log(self, request: messages.TellLog) -> Reply:
        self._allowed.check_log(request.device)
        return messages.LogStatus(write_log.state(_number(request.device))), []

    # ------------------------------------------------------------------------- in use

    def _use(self, request: messages.Use) -> Reply:
        self._allowed.check_use(request.device)
        both = self._together and request.together and request.device not in self._in_use
        if self._in_use and not (both and len(self._in_use) < messages.MAX_TOGETHER):
            raise AgentFailed(
                tr("This connection uses a device already."), tr("Let go of it first.")
            )
        if request.name is not None:
            _check_followers(request.device, request.name)
        node = _node(request.device)
        os.close(_opened(request.device))  # it is what its name in /dev says
        self._rest()
        held = InUse(node, request.name, request.since)
        try:
            self._note(held.frozen_for)
            if not request.together:
                check_freezable([held])
            harvested = messages.Harvested.of(held.harvest)
            using = messages.Using(
                held.goes_on,
                held.settled,
                held.room,
                _around(held),
                harvested,
                held.can_be_frozen,
            )
            messages.from_agent(using)  # what a message cannot hold is not used
            fds = [os.dup(held.memory), *_bitmap(held.harvest)]
        except BaseException:
            held.close()
            raise
        self._in_use[request.device], self._together = held, request.together
        return using, fds

    def _round_of_all(self, request: messages.FreezingAll) -> Reply:
        asked = [
            (self._held(each.device), messages.asked_for(each.round), each.round.since)
            for each in request.rounds
        ]
        self._rest()
        seen = round_of_all(asked)
        self._note(max(held.frozen_for for held, _, _ in asked))
        frozen = [
            messages.Frozen.of(its, _around(held))
            for (held, _, _), its in zip(asked, seen, strict=True)
        ]
        bitmaps: list[int] = []
        for its in seen:
            bitmaps += _bitmap(its.harvest)
        return messages.FrozenAll(tuple(frozen)), bitmaps

    def _round(self, request: messages.Freezing) -> Reply:
        held = self._held()
        self._rest()
        seen: Round = held.round(messages.asked_for(request), request.since)
        self._note(held.frozen_for)
        return messages.Frozen.of(seen, _around(held)), _bitmap(seen.harvest)

    def _keep(self, request: messages.Keep) -> Reply:
        self._held(request.device).keep(request.token)
        return messages.Done(), []

    def _distrust(self, request: messages.Distrust) -> Reply:
        self._held(request.device).distrust(request.why)
        return messages.Done(), []

    def _release(self, request: messages.Release) -> Reply:
        if request.device is None:
            with ExitStack() as stack:
                self._let_go(stack)
        elif held := self._in_use.pop(request.device, None):
            held.close()
        return messages.Done(), []

    def _held(self, device: str | None = None) -> InUse:
        """The device of that number, or the only one."""
        one = len(self._in_use) == 1 and device is None
        held = next(iter(self._in_use.values())) if one else self._in_use.get(device or "")
        if held is None:
            raise AgentFailed(
                tr("This connection uses no such device."), tr("Begin to use it first.")
            )
        return held

    def _note(self, seconds: float) -> None:
        """How long it was frozen just now."""
        self._rested_at = time.monotonic() + min(_LONGEST_REST, _REST * seconds)

    def _rest(self) -> None:
        """No client keeps those who write from it by one freeze after the other."""
        time.sleep(max(0.0, self._rested_at - time.monotonic()))

    def close(self) -> None:
        """Let go of what is used, and log no more."""
        with ExitStack() as stack:
            for device in self._logged:
                stack.callback(_unlog, device)
            self._logged = set()
            self._let_go(stack)

    def _let_go(self, stack: ExitStack) -> None:
        for held in self._in_use.values():
            stack.callback(held.close)
        self._in_use = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(connection: socket.socket, service: Service) -> None:
    """Answer until the client is gone, or says nothing for too long."""
    while True:
        try:
            connection.settimeout(service.patience)
            # room for one descriptor: the kernel throws away what more a client sends
            data, sent, _, _ = socket.recv_fds(connection, MAX_MESSAGE + 1, 1)
        except OSError as error:  # that it is gone, or too slow
            log.info("the client is gone: %s", error)
            return
        try:
            if not data:
                return
            reply, fds = service.answer(data if len(data) <= MAX_MESSAGE else b"", sent)
        finally:
            _close(sent)
        try:
            connection.settimeout(_TAKES_WITHIN)
            socket.send_fds(connection, [reply], fds)
        except OSError as error:
            log.info("the client takes no reply: %s", error)
            return
        finally:
            _close(fds)


def main() -> None:
    """Serve whoever is at the other end of the standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    privileges.hear_no_key()
    try:
        connection = _connection()
        allowed = permission.permission_of(connection)
        privileges.drop_all_but_what_is_needed()
    except VdbackupError as error:
        sys.exit(str(error))
    with connection, Service(allowed) as service:
        serve(connection, service)


def _connection() -> socket.socket:
    found = AgentFailed(
        tr("This program is started by pkexec or by systemd, with a client's socket as its input."),
        tr("Do not start it by hand."),
    )
    try:
        connection = socket.socket(fileno=os.dup(0))
    except OSError as error:
        raise found from error
    if (connection.family, connection.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        connection.close()
        raise found
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return connection


def _number(device: str) -> int:
    major, _, minor = device.partition(":")
    return os.makedev(int(major), int(minor))


def _node(device: str) -> Path:
    """Its file in /dev, by what the kernel calls it."""
    node = node_of(device)
    if node is None:
        raise SourceNotFound(
            tr("There is no block device {device}.", device=device),
            tr("Check that it is connected."),
        )
    return node


def _opened(device: str) -> int:
    """A descriptor to read it by; raises OSError, SourceNotFound."""
    node = _node(device)
    flags = os.O_RDONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(node, flags)
    found = os.fstat(fd)
    if not stat.S_ISBLK(found.st_mode) or found.st_rdev != _number(device):
        os.close(fd)
        raise SourceNotFound(
            tr("{node} is not the block device {device}.", node=node, device=device),
            tr("Connect it anew."),
        )
    return fd


def _around(held: InUse) -> messages.Around:
    return messages.Around(held.left_out, tuple(held.outside), tuple(held.restless))


def _bitmap(harvest: Any) -> list[int]:
    return [sealed(harvest.changes.bitmap)] if harvest.changes else []


def _check_followers(device: str, name: str) -> None:
    found = tracking.find(_number(device))
    if found is None:
        return
    with found:
        names = found.names()
    if name not in names and len(names) >= MAX_FOLLOWERS:
        raise TrackerBusy(
            tr("{count} sets follow this disk already.", count=len(names)),
            tr("End its tracking, and begin it anew."),
        )


def _unlog(device: str) -> None:
    try:
        write_log.end(_number(device))
    except OSError as error:  # that it is gone
        log.warning("the log of %s could not be taken out: %s", device, error)


def _not_understood() -> AgentFailed:
    return AgentFailed(
        tr("The service does not understand what it is asked."),
        tr("It may be of another version: install it anew."),
    )


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


if __name__ == "__main__":
    main()
