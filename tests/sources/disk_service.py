"""In UDisks' place: a service on a bus of its own, for what the real one never does.

The real one is asked in a guest (tests/sources/test_udisks_in_a_guest.py).
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jeepney import (
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from vdbackup.sources import udisks

_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={place}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
_LOOKS_AGAIN = 0.05


@dataclass
class DiskService:
    """What it answers.

    Attributes:
        known: what it calls the device that it is asked for; none where it knows none.
        gives: the descriptor, or the name of an error, that it opens a device with.
        kind: the D-Bus type of that.
        asked: what it was asked to open, with what.
    """

    known: list[str] = field(default_factory=lambda: ["/org/freedesktop/UDisks2/block_devices/x"])
    gives: int | str = ""
    kind: str = "h"
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def answer(self, message: Message) -> Message:
        """Its reply."""
        if message.header.fields[HeaderFields.member] == "ResolveDevice":
            return new_method_return(message, "ao", (self.known,))
        self.asked.append(message.body)
        if isinstance(self.gives, str) and self.kind == "h":
            return new_error(message, self.gives, "s", ("Not authorized\\nat all",))
        return new_method_return(message, self.kind, (self.gives,))


@contextmanager
def disk_service(folder: Path) -> Iterator[DiskService]:
    """It runs until the block ends, on what is the system's bus for this process until then."""
    place, configuration = folder / "bus", folder / "bus.conf"
    configuration.write_text(_CONFIGURATION.format(place=place))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address=1"]
    service, ends = DiskService(), threading.Event()
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon,
    ):
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline()
            patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={place}")
            with open_dbus_connection("SYSTEM", enable_fds=True) as bus:
                bus.send_and_get_reply(message_bus.RequestName(udisks.SERVICE))
                thread = threading.Thread(target=_serve, args=(bus, service, ends))
                thread.start()
                try:
                    yield service
                finally:
                    ends.set()
                    thread.join()
        finally:
            daemon.kill()


def _serve(bus: DBusConnection, service: DiskService, ends: threading.Event) -> None:
    while not ends.is_set():
        try:
            message = bus.receive(timeout=_LOOKS_AGAIN)
        except TimeoutError:
            continue
        if message.header.message_type is MessageType.method_call:
            bus.send(service.answer(message))
