"""UDisks2, the system's service for disks: it opens a device to read for whom polkit lets.

Where our agent is not installed, an ordinary user reads a disk by this. It only reads: to freeze
what is mounted, and to see what changes, takes the agent. (Its OpenForBackup would say that a
mounted device is busy; OpenDevice does not.)

Source: https://storaged.org/doc/udisks2-api/latest/gdbus-org.freedesktop.UDisks2.Block.html and
gdbus-org.freedesktop.UDisks2.Manager.html beside it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection

from vdbackup import message_bus
from vdbackup.agent.block_devices import node_of
from vdbackup.errors import SourceNotOpened, Unauthorized
from vdbackup.message_bus import NotAnsweredError
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SERVICE = "org.freedesktop.UDisks2"
_MANAGER = DBusAddress("/org/freedesktop/UDisks2/Manager", SERVICE, f"{SERVICE}.Manager")
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_ERROR = f"{SERVICE}.Error."
_REFUSED = f"{_ERROR}NotAuthorized"
_NOBODY_TO_ASK, _DISMISSED = f"{_REFUSED}CanObtain", f"{_REFUSED}Dismissed"
_SOON, _PATIENCE = 30.0, 600.0
"""Seconds: it may have to be started; a person has to answer the dialogue."""
_MAX_SAID = 200
"""Characters of what it says that went wrong."""


class _NotHad(Exception):
    """Nobody answers, or nobody is there who could be asked whether it is allowed."""


def opened(path: Path) -> int | None:
    """A descriptor to read a block device by, past its cache; None where nobody can be asked.

    Raises Unauthorized where it is refused, SourceNotOpened where UDisks cannot, OSError where the
    device is gone.
    """
    number = path.stat().st_rdev
    node = node_of(f"{os.major(number)}:{os.minor(number)}")
    if node is None:
        return None
    try:
        with _system_bus() as bus:
            wanted: tuple[object, ...] = ({"path": ("s", str(node))}, {})
            known = _ask(bus, _MANAGER, "ResolveDevice", ("a{sv}a{sv}", wanted), "ao", _SOON)
            if len(known) != 1:
                raise _NotHad(tr("it does not know {node}", node=node))
            block = DBusAddress(known[0], SERVICE, f"{SERVICE}.Block")
            reading = ("r", {"flags": ("i", os.O_DIRECT)})
            given = _ask(bus, block, "OpenDevice", ("sa{sv}", reading), "h", _PATIENCE)
    except _NotHad as error:
        log.info("UDisks cannot be asked for %s: %s", node, error)
        return None
    return _checked(given.to_raw_fd(), number, node)


def can_be_asked() -> bool:
    """Whether UDisks runs, or the system's bus would start it."""
    try:
        with _system_bus() as bus:
            return any(
                SERVICE in _ask(bus, _BUS, method, ("", ()), "as", _SOON)
                for method in ("ListNames", "ListActivatableNames")
            )
    except _NotHad as error:
        log.info("UDisks cannot be asked: %s", error)
        return False


@contextmanager
def _system_bus() -> Iterator[DBusConnection]:
    """A connection to it; raises _NotHad, also for all that goes wrong with it meanwhile."""
    try:
        with message_bus.connected("SYSTEM", _SOON, descriptors=True) as bus:
            yield bus
    except NotAnsweredError as error:
        raise _NotHad(str(error)) from error


def _ask(
    bus: DBusConnection,
    to: DBusAddress,
    method: str,
    arguments: tuple[str, tuple[object, ...]],
    gives: str,
    patience: float,
) -> Any:
    """The one value that a method returns.

    Args:
        bus: it is asked by.
        to: whom.
        method: what for.
        arguments: their D-Bus types, and themselves.
        gives: the type of what is returned.
        patience: seconds.
    """
    message = new_method_call(to, method, *arguments)
    reply = bus.send_and_get_reply(message, timeout=patience)
    if reply.header.message_type is MessageType.error:
        raise _error_of(reply)
    if reply.header.fields.get(HeaderFields.signature) != gives:
        raise _NotHad(tr("the reply to {method} makes no sense", method=method))
    return reply.body[0]


def _error_of(reply: Message) -> Exception:
    name = str(reply.header.fields.get(HeaderFields.error_name))
    said = printable(" ".join(each for each in reply.body if isinstance(each, str)))[:_MAX_SAID]
    if name == _DISMISSED:
        return Unauthorized(
            tr("The dialogue that asks whether you may read this disk was closed."),
            tr("Do it again, and answer there."),
        )
    if name == _REFUSED:
        return Unauthorized(
            tr("You may not read this disk: polkit refuses it."),
            tr("Ask an administrator of this computer, or do it as root."),
        )
    if name.startswith(_ERROR) and name != _NOBODY_TO_ASK:
        return SourceNotOpened(
            tr("UDisks cannot open this disk: {said}.", said=said or name),
            tr("Check that the device is connected."),
        )
    return _NotHad(f"{name}: {said}")


def _checked(fd: int, number: int, node: Path) -> int:
    """A descriptor, if it is that device's, to read by and no more; raises SourceNotOpened."""
    try:
        facts, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
        is_it = stat.S_ISBLK(facts.st_mode) and facts.st_rdev == number
        if not is_it or flags & os.O_ACCMODE != os.O_RDONLY or not flags & os.O_DIRECT:
            raise SourceNotOpened(
                tr(
                    "UDisks was asked for {node}, to be read past its cache, and opened something "
                    "else.",
                    node=node,
                ),
                tr("Do it as root."),
            )
        os.set_inheritable(fd, False)
    except BaseException:
        os.close(fd)
        raise
    return fd
