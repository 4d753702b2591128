"""A message bus of a test's own, and a desktop on it that shows notifications: it notes them."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jeepney import (
    DBusAddress,
    HeaderFields,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")


@dataclass
class Shown:
    """What the desktop was asked to show.

    Attributes:
        told: number that is replaced, title, text.
        answers: of properties and of other methods, by their names: type and value.
    """

    bus: DBusConnection
    told: list[tuple[int, str, str]] = field(default_factory=list)
    answers: dict[str, tuple[str, object]] = field(default_factory=dict)

    def texts(self) -> list[str]:
        return [text for _, _, text in self.told]

    def changes(self, of: DBusAddress, name: str, kind: str, value: object) -> None:
        """Have a property another value, and say so to whoever listens."""
        self.answers[name] = (kind, value)
        said: tuple[object, ...] = (of.interface, {name: (kind, value)}, [])
        everywhere = DBusAddress(of.object_path, of.bus_name, "org.freedesktop.DBus.Properties")
        self.bus.send(new_signal(everywhere, "PropertiesChanged", "sa{sv}as", said))


@contextmanager
def desktop(folder: Path, *names: str) -> Iterator[tuple[str, Shown]]:
    """The bus's address, and what is shown; `names` are those of services."""
    daemon = shutil.which("dbus-daemon")
    assert daemon, "install dbus-daemon"
    command = [daemon, "--session", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(
        [*command, "--address", f"unix:path={folder}/notified-bus"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdout
        address = running.stdout.readline().strip()
        with open_dbus_connection(address) as bus:
            shown = Shown(bus)
            for name in names or ("org.freedesktop.Notifications",):
                bus.send_and_get_reply(new_method_call(BUS, "RequestName", "su", (name, 0)))
            served = threading.Thread(target=_serve, args=(bus, shown))
            served.start()
            try:
                yield address, shown
            finally:
                running.terminate()
                served.join()


def _serve(bus, shown: Shown) -> None:  # type: ignore[no-untyped-def]
    while True:
        try:
            message = bus.receive()
        except (OSError, EOFError):
            return
        if message.header.message_type is not MessageType.method_call:
            continue
        if message.header.fields.get(HeaderFields.member) == "Notify":
            _, replaced, _, title, text, *_ = message.body
            shown.told.append((replaced, title, text))
            bus.send(new_method_return(message, "u", (replaced or len(shown.told),)))
            continue
        member = message.header.fields.get(HeaderFields.member)
        is_property = member == "Get"
        name = message.body[1] if is_property else member
        if name not in shown.answers:
            bus.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))
        elif is_property:
            bus.send(new_method_return(message, "v", (shown.answers[name],)))
        else:
            kind, value = shown.answers[name]
            bus.send(new_method_return(message, kind, (value,)))
