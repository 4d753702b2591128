"""The channel to the agent that a guest may run (qemu-guest-agent): is it there, have it run this.

Its protocol is a JSON object a line, as QMP's (the reference of qemu-ga): `guest-ping` returns
nothing, `guest-exec` the number of a process, which `guest-exec-status` is then asked about. A
guest's kernel has to know virtio-serial. What comes from a guest may be anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from vdbackup.text import printable
from vdbackup.translation import tr

PORT = "org.qemu.guest_agent.0"
"""The name by which the agent finds its end of the channel."""

_PING = b'{"execute": "guest-ping"}\n'
_ANSWER = b'"return"'
_MAX_ANSWER = 1 << 16
_MAX_LINE = 4 << 20
"""Bytes of an answer: it holds all that a program has written, as base64."""
_ANSWERS_WITHIN = 30.0
"""Seconds that the agent has for an answer: a guest that is translated is slow."""
_LOOK = 0.2
_MAX_WORDS = 200


class AgentFailed(Exception):
    """Why the agent did not do it, as the end of a sentence."""


@dataclass(frozen=True)
class Ran:
    """A program that has ended in a guest.

    Attributes:
        status: it ended with; None where a signal ended it.
        said: what it wrote, standard output before standard error.
    """

    status: int | None
    said: str


class AgentChannel:
    """Both ends of the channel; a context manager.

    Attributes:
        guests_end: for QEMU to inherit, and again where another QEMU takes over.
    """

    def __init__(self) -> None:
        self._ours, self.guests_end = socket.socketpair()
        self._ours.setblocking(False)
        self._heard = b""
        self._asked = False
        self._sync = 0

    def answers(self) -> bool:
        """Whether the agent has answered; asks it when called for the first time.

        The question waits in the channel until there is somebody to read it.
        """
        if _ANSWER in self._heard:
            return True
        try:
            if not self._asked:
                self._ours.send(_PING)
                self._asked = True
            heard = self._ours.recv(_MAX_ANSWER)
        except (BlockingIOError, ConnectionError):  # nothing yet, or the machine has ended
            return False
        self._heard = (self._heard + heard)[-_MAX_ANSWER:]
        return _ANSWER in self._heard

    def run(self, command: Sequence[str], limit: float, check: Callable[[], None]) -> Ran | None:
        """Have the agent run a program in the guest, and wait until it has ended.

        Args:
            command: the program, which is looked for in the guest's PATH, and its arguments.
            limit: seconds that it has.
            check: called meanwhile, several times a second; what it raises ends the wait, and the
                program goes on.

        Returns None where it has not ended by then. Raises AgentFailed.
        """
        until = time.monotonic() + limit
        what = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
        started = self._ask("guest-exec", what, check)
        number = started.get("pid") if isinstance(started, dict) else None
        while time.monotonic() < until:
            found = self._ask("guest-exec-status", {"pid": number}, check)
            if not isinstance(found, dict):
                raise AgentFailed(tr("the agent does not say what became of it"))
            if found.get("exited"):
                status = found.get("exitcode")
                said = "".join(_text(found.get(each)) for each in ("out-data", "err-data"))
                return Ran(status if isinstance(status, int) else None, said)
            self._wait(time.monotonic() + _LOOK, check)
        return None

    def _ask(self, name: str, arguments: dict[str, Any], check: Callable[[], None]) -> Any:
        """What the agent returns; what it has said before is passed by (`guest-sync`)."""
        self._sync += 1
        self._send({"execute": "guest-sync", "arguments": {"id": self._sync}})
        until = time.monotonic() + _ANSWERS_WITHIN
        while self._line(until, check).get("return") != self._sync:
            pass
        self._send({"execute": name, "arguments": arguments})
        answer = self._line(time.monotonic() + _ANSWERS_WITHIN, check)
        if "return" in answer:
            return answer["return"]
        error = answer.get("error")
        said = str(error.get("desc") if isinstance(error, dict) else error)
        raise AgentFailed(printable(said[:_MAX_WORDS]).rstrip("."))

    def _send(self, what: dict[str, Any]) -> None:
        try:
            self._ours.sendall(json.dumps(what).encode() + b"\n")
        except OSError as error:
            raise AgentFailed(tr("the agent does not answer any more")) from error

    def _line(self, until: float, check: Callable[[], None]) -> dict[str, Any]:
        """The next line that is a JSON object."""
        while True:
            while b"\n" not in self._heard:
                self._hear(until, check)
            check()
            if time.monotonic() > until:  # however much it says
                raise AgentFailed(tr("the agent does not answer any more"))
            line, _, self._heard = self._heard.partition(b"\n")
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return found

    def _hear(self, until: float, check: Callable[[], None]) -> None:
        if len(self._heard) > _MAX_LINE:
            raise AgentFailed(tr("it wrote more than can be taken"))
        if time.monotonic() > until or not self._wait(until, check):  # whatever else comes
            raise AgentFailed(tr("the agent does not answer any more"))
        try:
            heard = self._ours.recv(_MAX_LINE)
        except (BlockingIOError, ConnectionError):
            heard = b""
        if not heard:
            raise AgentFailed(tr("the machine has ended"))
        self._heard += heard

    def _wait(self, until: float, check: Callable[[], None]) -> bool:
        """Whether there is something to read, by then at the latest."""
        while True:
            check()
            left = until - time.monotonic()
            if select.select([self._ours], [], [], max(0.0, min(_LOOK, left)))[0]:
                return True
            if left <= 0:
                return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.guests_end.close()
        self._ours.close()


def _text(data: object) -> str:
    if not isinstance(data, str):
        return ""
    try:
        return base64.b64decode(data).decode(errors="replace")
    except (binascii.Error, ValueError):
        return ""
