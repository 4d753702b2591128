"""The message buses of the desktop and of the computer, for what runs without a window.

Nobody is waited for without end: who is asked may have to be started first, or be hung.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, Literal

from jeepney import DBusAddress, Message, MessageType, new_method_call
from jeepney.bus import get_bus
from jeepney.io.blocking import DBusConnection, prep_socket
from jeepney.wrappers import DBusErrorResponse

PATIENCE = 5.0
"""Seconds for the bus, and for each answer."""
_NONSENSE = (ValueError, RuntimeError, LookupError, AssertionError, struct.error, DBusErrorResponse)
"""What is raised where an address, a greeting or a message makes no sense."""


class NotAnsweredError(Exception):
    """There is no such bus, nobody on it who would answer, or an answer that makes no sense."""


class _Patient(DBusConnection):  # type: ignore[misc]  # jeepney says no types
    """A connection that waits for nothing without end: for its greeting, nobody says how long."""

    def __init__(self, socket: socket, patience: float, *, enable_fds: bool) -> None:
        self._patience = patience
        super().__init__(socket, enable_fds=enable_fds)  # which greets the bus, and waits

    def receive(self, *, timeout: float | None = None) -> Message:
        """The next message; raises TimeoutError."""
        return super().receive(timeout=self._patience if timeout is None else timeout)


@contextmanager
def connected(
    which: Literal["SESSION", "SYSTEM"], patience: float = PATIENCE, *, descriptors: bool = False
) -> Iterator[DBusConnection]:
    """A connection to the user's bus or the computer's.

    Args:
        which: of the two.
        patience: seconds for it, and for each answer of which nothing else is said.
        descriptors: whether files may be handed over by it.

    Raises NotAnsweredError, also for all that goes wrong with it meanwhile.
    """
    try:
        with (
            prep_socket(get_bus(which), enable_fds=descriptors, timeout=patience) as opened,
            _Patient(opened, patience, enable_fds=descriptors) as bus,
        ):
            yield bus
    except (OSError, *_NONSENSE) as error:
        raise NotAnsweredError(f"{type(error).__name__}: {error}") from error


def ask(
    bus: DBusConnection, to: DBusAddress, method: str, types: str, arguments: tuple[object, ...]
) -> Any:
    """The first value that a method returns, None for none; raises NotAnsweredError.

    Args:
        bus: it is asked by.
        to: whom.
        method: what for.
        types: the arguments' D-Bus types.
        arguments: themselves.
    """
    message = new_method_call(to, method, types, arguments)
    reply = bus.send_and_get_reply(message, timeout=PATIENCE)
    if reply.header.message_type is MessageType.error:
        raise NotAnsweredError(str(reply.body))
    return reply.body[0] if reply.body else None


def property_of(bus: DBusConnection, of: DBusAddress, name: str) -> Any:
    """What a property holds; raises NotAnsweredError."""
    to = DBusAddress(of.object_path, of.bus_name, "org.freedesktop.DBus.Properties")
    found = ask(bus, to, "Get", "ss", (of.interface, name))
    if not isinstance(found, tuple) or len(found) != 2:
        raise NotAnsweredError(f"{name}: {found!r}")
    return found[1]
