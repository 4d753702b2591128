"""A client's connection to the agent: by systemd's socket, else by a program that pkexec starts.

One connection serves all who want something meanwhile, so that pkexec asks once; whoever uses a
device while another does has one of their own.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from vdbackup.agent import messages
from vdbackup.agent.messages import MAX_DESCRIPTORS, MAX_MESSAGE
from vdbackup.errors import AgentFailed, Unauthorized
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SOCKET = Path("/run/vdbackup-agent.socket")
"""As resources/agent/vdbackup-agent.socket has it."""
PROGRAM = Path("/usr/libexec/vdbackup/vdbackup-agent")
"""As it is installed, and as the policy names it."""
PKEXEC = "pkexec"
PKTTYAGENT = "pkttyagent"
PATIENCE = 900.0
"""Seconds: a person has to answer a dialogue meanwhile, or 16 freezes are rested from."""
_DESKTOP = ("WAYLAND_DISPLAY", "DISPLAY")
_CONNECTS_WITHIN = 10.0
_LISTENS_WITHIN = 10.0
"""Seconds in which polkit has heard that somebody can be asked."""
_ENDS_WITHIN = 60.0
"""Seconds: its InUse may have a tracker to end."""
_CLOSED, _REFUSED = 126, 127
"""What pkexec ends with: the dialogue was closed; nobody may, or nobody is there to be asked."""

Record = TypeVar("Record")


class Connection:
    """To one agent. Threads take turns.

    Attributes:
        users: how many have it.
        uses: whether one of them uses a device.
    """

    def __init__(
        self,
        end: socket.socket,
        program: subprocess.Popen[bytes] | None = None,
        asks: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """A connection.

        Args:
            end: of a socket, the agent's being the other one.
            program: the agent, where it is this process's child.
            asks: whoever asks the user for a password as long as there is the connection.
        """
        self.users, self.uses = 0, False
        self._end, self._program, self._asks = end, program, asks
        self._lock = threading.Lock()
        end.settimeout(PATIENCE)

    def ask(
        self, request: object, kind: type[Record], beside: Sequence[int] = ()
    ) -> tuple[Record, list[int]]:
        """The reply, and the descriptors beside it, which are the caller's then.

        Args:
            request: what is asked for.
            kind: of the reply.
            beside: descriptors that are sent with it, which stay the caller's.

        Raises what it was refused by, and AgentFailed where there is no agent any more.
        """
        with self._lock:
            try:
                socket.send_fds(self._end, [messages.from_client(request)], beside)
                data, fds, _, _ = socket.recv_fds(self._end, MAX_MESSAGE, MAX_DESCRIPTORS)
            except OSError as error:
                raise self._gone() from error
            except BaseException:  # its reply would be taken for that to the next request
                self._end.close()
                raise
        try:
            if not data:
                raise self._gone()
            return messages.reply_of(kind, data), fds
        except ValueError as error:
            close_all(fds)
            raise AgentFailed(
                tr("The service's reply makes no sense: {error}.", error=error),
                tr("It may be of another version: install it anew."),
            ) from error
        except BaseException:
            close_all(fds)
            raise

    def is_gone(self) -> bool:
        """Whether the agent has ended: it waits for long, but not for ever."""
        waits = select.poll()
        waits.register(self._end, select.POLLIN)
        try:
            return bool(waits.poll(0)) and not self._end.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _gone(self) -> AgentFailed | Unauthorized:
        status = self._end_program()
        if status == _CLOSED:
            return Unauthorized(
                tr("The dialogue that asks whether you may use this disk was closed."),
                tr("Do it again, and answer there."),
            )
        if status == _REFUSED:
            return Unauthorized(
                tr(
                    "You may not use this disk for backups, or nobody is there to be asked for a "
                    "password."
                ),
                tr("Do it as root, or in a desktop's session."),
            )
        return AgentFailed(
            tr("The service that does what only root may do has ended."),
            tr("Do it again; the system's journal says more."),
        )

    def close(self) -> None:
        """What is held by it ends."""
        self._end_program()
        if self._asks is not None:
            self._asks.terminate()
            self._asks.wait()

    def _end_program(self) -> int | None:
        """How it has ended; None where it is not ours."""
        with suppress(OSError):
            self._end.close()
        if self._program is None:
            return None
        try:
            return self._program.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:  # it is root's: nobody else can end it
            log.warning("the agent has not ended: %s", self._program.pid)
            return None


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def can_be_had() -> bool:
    """Whether there is an agent that can be asked."""
    return os.path.exists(SOCKET) or (PROGRAM.exists() and shutil.which(PKEXEC) is not None)


def connected() -> Connection:
    """A new connection; raises AgentFailed where there is no agent."""
    end = _by_systemd()
    if end is not None:
        return Connection(end, asks=_asked_on_terminal())
    if not PROGRAM.exists() or shutil.which(PKEXEC) is None:
        raise AgentFailed(
            tr("The service that does what only root may do is not installed."),
            tr("Do it as root."),
        )
    return _by_pkexec()


def _by_systemd() -> socket.socket | None:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.settimeout(_CONNECTS_WITHIN)
        end.connect(os.fspath(SOCKET))
        size = struct.calcsize("3i")
        cred = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        if struct.unpack("3i", cred)[1] != 0:
            raise PermissionError(tr("it is not root's"))
    except OSError as error:
        log.debug("no agent at %s: %s", SOCKET, error)
        end.close()
        return None
    return end


def _asked_on_terminal() -> subprocess.Popen[bytes] | None:
    """A program that asks for a password on this process's terminal, where no desktop does.

    polkit's own: pkexec brings one with it, and whoever is asked about by a service has to have one
    (pkttyagent(1)). None where there is no terminal, or no such program.

    Before a desktop's own it gives way there alone: with --fallback polkit 122 asks nobody at all
    about a process that belongs to no session, such as one that runuser(1) started.
    """
    if os.geteuid() == 0 or not os.isatty(0) or shutil.which(PKTTYAGENT) is None:
        return None
    listens, heard = os.pipe()
    try:
        gives_way = ["--fallback"] if any(map(os.environ.get, _DESKTOP)) else []
        command = [PKTTYAGENT, *gives_way, "--notify-fd", str(heard)]
        agent = subprocess.Popen(command, pass_fds=(heard,))  # asks about its parent: this process
    except OSError as error:
        log.info("nobody can be asked on the terminal: %s", error)
        agent = None
    finally:
        os.close(heard)
    select.select([listens], [], [], _LISTENS_WITHIN)  # it is closed then
    os.close(listens)
    return agent


def _by_pkexec() -> Connection:
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        try:
            # what pkexec says to a terminal, it says there; the program itself says nothing
            program = subprocess.Popen([PKEXEC, str(PROGRAM)], stdin=other.fileno())
        except OSError as error:
            end.close()
            raise AgentFailed(
                tr("pkexec cannot be started: {error}.", error=error), tr("Do it as root.")
            ) from error
    return Connection(end, program)


class _Shared:
    """The connection that all have who want something at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Connection | None = None

    @contextmanager
    def lent(self, *, to_use: bool) -> Iterator[Connection]:
        with self._lock:
            connection = self._free(to_use)
            connection.users += 1
            connection.uses |= to_use
        try:
            yield connection
        finally:
            with self._lock:
                connection.users -= 1
                connection.uses &= not to_use
                ended = not connection.users
                if ended and connection is self._current:
                    self._current = None
            if ended:
                connection.close()

    def _free(self, to_use: bool) -> Connection:
        current = self._current
        if current is not None and not current.is_gone():
            return connected() if to_use and current.uses else current
        self._current = connected()
        return self._current


_SHARED = _Shared()


@contextmanager
def lent(*, to_use: bool = False) -> Iterator[Connection]:
    """A connection for the length of the block.

    Args:
        to_use: whether a device is used by it meanwhile.
    """
    with _SHARED.lent(to_use=to_use) as connection:
        yield connection
