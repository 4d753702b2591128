"""Whether a scheduled backup may be made now: on which network this computer is, and what for.

A network has the name that NetworkManager gives its connection; without that, and beside it, the
address of the way out (the default gateway), or the interface to it. Whether somebody is presenting
nobody says for sure: who presents, or plays a film, keeps the screen from going dark, and desktops
tell that, each in its own way. Where none does, nobody is presenting.
"""

from __future__ import annotations

import ipaddress
import logging
import struct
from collections.abc import Callable
from pathlib import Path

from jeepney import DBusAddress

from vdbackup import message_bus
from vdbackup.message_bus import NotAnsweredError
from vdbackup.operations.schedules.store import Schedule
from vdbackup.translation import tr

log = logging.getLogger(__name__)

NETWORK_MANAGER = DBusAddress(
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
    "org.freedesktop.NetworkManager",
)
"""https://networkmanager.dev/docs/api/latest/gdbus-org.freedesktop.NetworkManager.html"""
_METERED = (1, 3)
"""NMMetered: yes, and what is guessed to be."""
LOGIND = DBusAddress(
    "/org/freedesktop/login1", "org.freedesktop.login1", "org.freedesktop.login1.Manager"
)
"""https://www.freedesktop.org/software/systemd/man/org.freedesktop.login1.html"""
GNOME = DBusAddress(
    "/org/gnome/SessionManager", "org.gnome.SessionManager", "org.gnome.SessionManager"
)
_IDLE = 8
"""Of its flags: that the session becomes idle."""
POWER = DBusAddress(
    "/org/freedesktop/PowerManagement/Inhibit",
    "org.freedesktop.PowerManagement.Inhibit",
    "org.freedesktop.PowerManagement.Inhibit",
)
"""That of KDE and Xfce."""
ROUTES = Path("/proc/net/route")


def hindrance(schedule: Schedule) -> str:
    """Why its backup may not be made now, a sentence; "" where it may."""
    if schedule.networks and not networks() & set(schedule.networks):
        return tr("Not now: this computer is on none of the networks that it is to be made on.")
    if schedule.not_metered and is_metered():
        return tr("Not now: the network is metered.")
    if schedule.not_presenting and is_presenting():
        return tr("Not now: somebody is presenting, or keeps the screen on for something else.")
    return ""


def networks() -> set[str]:
    """The names of those that this computer is on now."""
    return _connections() | _ways_out()


def _connections() -> set[str]:
    try:
        with message_bus.connected("SYSTEM") as bus:
            active = message_bus.property_of(bus, NETWORK_MANAGER, "ActiveConnections")
            interface = f"{NETWORK_MANAGER.interface}.Connection.Active"
            found = (DBusAddress(str(each), NETWORK_MANAGER.bus_name, interface) for each in active)
            return {str(message_bus.property_of(bus, each, "Id")) for each in found}
    except (NotAnsweredError, TypeError) as error:
        log.info("NetworkManager says nothing: %s", error)
        return set()


def _ways_out() -> set[str]:
    """Gateways of IPv4's default routes, and the interfaces to them (proc_net(5))."""
    try:
        lines = ROUTES.read_text(encoding="ascii").splitlines()[1:]
    except (OSError, ValueError):
        return set()
    found: set[str] = set()
    for interface, target, gateway, *_ in (line.split() for line in lines if line.strip()):
        if int(target, 16) == 0:
            found |= {interface, str(ipaddress.IPv4Address(struct.pack("=I", int(gateway, 16))))}
    return found


def is_metered() -> bool:
    """Whether what is sent costs something, as far as NetworkManager knows."""
    try:
        with message_bus.connected("SYSTEM") as bus:
            return message_bus.property_of(bus, NETWORK_MANAGER, "Metered") in _METERED
    except NotAnsweredError as error:
        log.info("NetworkManager says nothing: %s", error)
        return False


def is_presenting() -> bool:
    """Whether something keeps the screen from going dark."""
    return any(map(_says_so, (_by_logind, _by_gnome, _by_power_management)))


def _says_so(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except NotAnsweredError:
        return False


def _by_logind() -> bool:
    with message_bus.connected("SYSTEM") as bus:
        return "idle" in str(message_bus.property_of(bus, LOGIND, "BlockInhibited")).split(":")


def _by_gnome() -> bool:
    with message_bus.connected("SESSION") as bus:
        return message_bus.ask(bus, GNOME, "IsInhibited", "u", (_IDLE,)) is True


def _by_power_management() -> bool:
    with message_bus.connected("SESSION") as bus:
        return message_bus.ask(bus, POWER, "HasInhibit", "", ()) is True
