"""Ways by which people are told of trouble when there is no window: the desktop, mail, a command.

Programs are started by lists of arguments, and what they are told is no part of an option.
"""

from __future__ import annotations

import enum
import logging
import re
import shlex
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
        if self.mail and not (_ADDRESS.fullmatch(self.mail) and self.mail.isprintable()):
            raise UsageError(
                tr("{mail!r} is no address for mail.", mail=self.mail),
                tr("Say it as me@example.org."),
            )

    @classmethod
    def of(cls, mail: str, command: str, *, desktop: bool = True) -> Ways:
        """Those that settings name: a command is taken apart as a shell does it.

        Raises UsageError where one of them makes no sense.
        """
        try:
            parts = tuple(shlex.split(command))
        except ValueError as error:
            raise UsageError(
                tr("{command!r} is no command: a quote in it is not closed.", command=command),
                tr("Quote it as a shell wants it."),
            ) from error
        if parts and (not parts[0] or "\0" in command):
            raise UsageError(
                tr("{command!r} is no command.", command=command),
                tr("Say a program and its arguments as a shell wants them."),
            )
        return cls(desktop, mail, parts)


class Way(enum.StrEnum):
    """By which people are told; a program goes by these."""

    DESKTOP = "desktop"
    MAIL = "mail"
    COMMAND = "command"


@dataclass(frozen=True)
class Attempt:
    """How it went to tell people in one way.

    Attributes:
        problem: why they could not be told, a sentence; "" where they were.
        expected: that is no trouble: nobody has a desktop at night.
    """

    way: Way
    problem: str = ""
    expected: bool = False


def tell(ways: Ways, title: str, text: str) -> tuple[str, ...]:
    """Tell people something in each of the ways; why one of them could not be, a sentence each."""
    return tuple(
        each.problem for each in attempts(ways, title, text) if each.problem and not each.expected
    )


def attempts(ways: Ways, title: str, text: str) -> tuple[Attempt, ...]:
    """The same, and how it went with each of them."""
    title, text = printable(title), printable(text)
    wanted: dict[Way, Callable[[], object]] = {}
    if ways.desktop:
        wanted[Way.DESKTOP] = lambda: on_desktop(title, text)
    if ways.mail:
        wanted[Way.MAIL] = lambda: by_mail(ways.mail, title, text)
    if ways.command:
        wanted[Way.COMMAND] = lambda: _run((*ways.command, title, text), b"")
    return tuple(_attempt(way, tells) for way, tells in wanted.items())


def try_out(ways: Ways) -> tuple[Attempt, ...]:
    """Tell people that this is how they are told; how it went with each way."""
    title = tr("Test message")
    return attempts(ways, title, tr("So you are told when a scheduled backup needs you."))


def missing(ways: Ways) -> tuple[str, ...]:
    """What the ways need and this computer has not for who runs this, a sentence each."""
    found = []
    if ways.mail and _mailer() is None:
        found.append(tr("No mail can be sent: neither msmtp nor sendmail is installed."))
    if ways.command and shutil.which(ways.command[0]) is None:
        found.append(tr("There is no program {program} here.", program=ways.command[0]))
    return tuple(found)


def _attempt(way: Way, tells: Callable[[], object]) -> Attempt:
    try:
        tells()
    except NotAnsweredError as error:
        log.info("no desktop is told: %s", error)
        return Attempt(way, tr("There is no desktop here that shows messages."), expected=True)
    except (OSError, subprocess.SubprocessError, UsageError) as error:
        log.warning("nobody is told: %s", error)
        said = tr("Nobody could be told of it: {error}.", error=printable(str(error)))
        return Attempt(way, said)
    return Attempt(way)


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
    if (program := _mailer()) is None:
        raise FileNotFoundError(tr("neither msmtp nor sendmail is installed"))
    message = EmailMessage()
    message["Subject"] = f"vdbackup: {title}"
    message["To"] = address
    message.set_content(f"{text}\n")
    _run((program, "-i", "--", address), bytes(message))


def _mailer() -> str | None:
    return next(filter(None, map(shutil.which, MAILERS)), None)


def _run(command: Sequence[str], said: bytes) -> None:
    """What it says goes nowhere: a pipe would be waited for as long as any child of it lives."""
    nowhere = subprocess.DEVNULL
    subprocess.run(
        command, input=said, stdout=nowhere, stderr=nowhere, timeout=_PATIENCE, check=True
    )
