"""The message buses of the desktop and of the computer; where there are none, nobody is told.

Nothing here waits for an answer: who is asked may have to be started first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication
from PySide6.QtDBus import QDBusConnection, QDBusMessage, QDBusPendingCallWatcher


@dataclass(frozen=True)
class Address:
    """Whom a call is for."""

    service: str
    path: str
    interface: str


def session() -> QDBusConnection:
    """Of the user's desktop."""
    return QDBusConnection.sessionBus()


def system() -> QDBusConnection:
    """Of the computer."""
    return QDBusConnection.systemBus()


def call(
    bus: QDBusConnection,
    to: Address,
    method: str,
    arguments: Sequence[object],
    then: Callable[[QDBusMessage | None], None] = lambda _reply: None,
) -> None:
    """Ask for something; `then` gets the answer, None where there is none. Returns at once."""
    if not bus.isConnected():
        then(None)
        return
    message = QDBusMessage.createMethodCall(to.service, to.path, to.interface, method)
    message.setArguments(list(arguments))
    waiting = QDBusPendingCallWatcher(bus.asyncCall(message), QCoreApplication.instance())

    def answered() -> None:
        then(None if waiting.isError() else waiting.reply())
        waiting.deleteLater()

    waiting.finished.connect(answered)
