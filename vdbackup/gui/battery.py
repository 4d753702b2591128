"""Jobs rest while the computer runs on its battery, where the settings want that.

UPower knows when it does, and says so when that changes
(https://upower.freedesktop.org/docs/UPower.html). Where there is none, it never does.
"""

from __future__ import annotations

import shiboken6
from PySide6.QtCore import SLOT, QObject, Signal, Slot
from PySide6.QtDBus import QDBusMessage, QDBusVariant

from vdbackup.gui import buses
from vdbackup.gui.buses import Address
from vdbackup.jobs import Job
from vdbackup.translation import tr

UPOWER = Address("org.freedesktop.UPower", "/org/freedesktop/UPower", "org.freedesktop.UPower")
PROPERTIES = "org.freedesktop.DBus.Properties"
ON_BATTERY = "OnBattery"
WHY = tr("The computer runs on its battery: this goes on with mains, or when you say so.")


class Battery(QObject):
    """Follows what the computer runs on.

    Attributes:
        in_use: whether that is its battery, as far as anybody says.

    Signals:
        changed(): it is another one now.
    """

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.in_use = False
        bus = buses.system()
        if bus.isConnected():
            bus.connect(  # type: ignore[call-overload] # the stubs take a slot for bytes
                UPOWER.service, UPOWER.path, PROPERTIES, "PropertiesChanged", self, SLOT("ask()")
            )
        self.ask()

    @Slot()
    def ask(self) -> None:
        """Ask what it runs on now: what is said of a change Qt hands on unread."""
        address = Address(UPOWER.service, UPOWER.path, PROPERTIES)
        arguments = [UPOWER.interface, ON_BATTERY]
        buses.call(buses.system(), address, "Get", arguments, self._on_answered)

    def _on_answered(self, reply: QDBusMessage | None) -> None:
        said = reply.arguments() if reply is not None and shiboken6.isValid(self) else []
        if said and isinstance(said[0], QDBusVariant):
            self._take(said[0].variant())

    def _take(self, value: object) -> None:
        in_use = value is True
        if in_use != self.in_use:
            self.in_use = in_use
            self.changed.emit()


class Resting:
    """Has jobs rest where they should, and lets those go on again that rest for that alone.

    A job that somebody has told to go on does, until the battery is used the next time; one that
    stays until it is ended rests never: what it keeps would have a gap.
    """

    def __init__(self) -> None:
        self._wanted = False
        self._jobs: dict[int, Job[object]] = {}

    def begin(self, job: Job[object]) -> None:
        """A job is there."""
        if not job.stays:
            self._jobs[job.id] = job
            self._tell(job)

    def end(self, job: Job[object]) -> None:
        """It has ended."""
        self._jobs.pop(job.id, None)

    def want(self, wanted: bool) -> None:
        """Have all rest from now on, or not any more."""
        if wanted != self._wanted:
            self._wanted = wanted
            for job in self._jobs.values():
                self._tell(job)

    def _tell(self, job: Job[object]) -> None:
        if self._wanted and not job.cancel.paused:
            job.cancel.pause(WHY)
        elif not self._wanted and job.cancel.paused and job.cancel.why_paused == WHY:
            job.cancel.resume()
