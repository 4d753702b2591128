"""Ways by which people are told of trouble when there is no window: the desktop, mail, a command.

Programs are started by lists of arguments, and what they are told is no part of an option.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from jeepney import DBusAddress

from vdbackup import message_bus
from vdbackup.errors import UsageError
from vdbackup.message_bus import NotAnsweredError
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

NOTIFICATIONS = DBusAddress(
    "/org/freedesktop/Notifications",
    "org.freedesktop.Notifications",
    "org.freedesktop.Notifications",
)
"""https://specifications.freedesktop.org/notification-spec/"""
MAILERS = ("msmtp", "sendmail", "/usr/sbin/sendmail")
_PATIENCE = 60.0
"""Seconds for a program."""
_URGENT = 2
_ADDRESS = re.compile(r"[^\s@<>\"',;:-][^\s@<>\"',;:]*@[^\s@<>\"',;:]+")


@dataclass(frozen=True)
class Ways:
    """How people are told.

    Attributes:
        desktop: by a notification, where this runs in somebody's session.
        mail: an address to which mail is sent; "" for none.
        command: a program and its arguments, which gets title and text as two more; none for none.
    """

    desktop: bool = True
    mail: str = ""
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mail and not _ADDRESS.fullmatch(self.mail):
            raise UsageError(
                tr("{mail!r} is no address for mail.", mail=self.mail),
                tr("Say it as me@example.org."),
            )


def tell(ways: Ways, title: str, text: str) -> tuple[str, ...]:
    """Tell people something in each of the ways; why one of them could not be, a sentence each."""
    title, text = printable(title), printable(text)
    wanted: list[Callable[[], object]] = []
    if ways.desktop:
        wanted.append(lambda: on_desktop(title, text))
    if ways.mail:
        wanted.append(lambda: by_mail(ways.mail, title, text))
    if ways.command:
        wanted.append(lambda: _run((*ways.command, title, text), b""))
    troubles = []
    for way in wanted:
        try:
            way()
        except NotAnsweredError as error:  # nobody has a desktop at night
            log.info("no desktop is told: %s", error)
        except (OSError, subprocess.SubprocessError, UsageError) as error:
            log.warning("nobody is told: %s", error)
            troubles.append(tr("Nobody could be told of it: {error}.", error=printable(str(error))))
    return tuple(troubles)


def on_desktop(title: str, text: str, replaces: int = 0) -> int:
    """Show a notification; its number, by which a later one takes its place.

    Raises NotAnsweredError where there is no desktop that shows any.
    """
    hints = {"urgency": ("y", _URGENT)}
    arguments: tuple[object, ...] = ("vdbackup", replaces, "vdbackup", title, text, [], hints, -1)
    with message_bus.connected("SESSION") as bus:
        number = message_bus.ask(bus, NOTIFICATIONS, "Notify", "susssasa{sv}i", arguments)
    if not isinstance(number, int):
        raise NotAnsweredError(repr(number))
    return number


def by_mail(address: str, title: str, text: str) -> None:
    """Send mail by the program that this computer has for it; raises OSError, SubprocessError."""
    program = next(filter(None, map(shutil.which, MAILERS)), None)
    if program is None:
        raise FileNotFoundError(tr("neither msmtp nor sendmail is installed"))
    message = EmailMessage()
    message["Subject"] = f"vdbackup: {title}"
    message["To"] = address
    message.set_content(f"{text}\n")
    _run((program, "-i", "--", address), bytes(message))


def _run(command: Sequence[str], said: bytes) -> None:
    subprocess.run(command, input=said, capture_output=True, timeout=_PATIENCE, check=True)
