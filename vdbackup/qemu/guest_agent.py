"""The channel to the agent that a guest may run (qemu-guest-agent), to ask whether it is there.

Its protocol is a JSON object a line, as QMP's; `guest-ping` returns nothing (the reference of
qemu-ga). A guest's kernel has to know virtio-serial.
"""

from __future__ import annotations

import socket
from typing import Self

PORT = "org.qemu.guest_agent.0"
"""The name by which the agent finds its end of the channel."""

_PING = b'{"execute": "guest-ping"}\n'
_ANSWER = b'"return"'
_MAX_ANSWER = 1 << 16


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

    def answers(self) -> bool:
        """Whether the agent has answered; asks it when called for the first time.

        The question waits in the channel until there is somebody to read it.
        """
        try:
            if not self._asked:
                self._ours.send(_PING)
                self._asked = True
            heard = self._ours.recv(_MAX_ANSWER)
        except (BlockingIOError, ConnectionError):  # nothing yet, or the machine has ended
            return False
        self._heard = (self._heard + heard)[-_MAX_ANSWER:]
        return _ANSWER in self._heard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.guests_end.close()
        self._ours.close()
