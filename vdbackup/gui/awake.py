"""Keeps the computer from falling asleep, and from being shut down, while jobs run.

logind does, as long as somebody holds the file that it answers with
(https://systemd.io/INHIBITOR_LOCKS/). So nothing is left of it when this process ends.
"""

from __future__ import annotations

from PySide6.QtDBus import QDBusMessage

from vdbackup.gui import buses
from vdbackup.gui.buses import Address
from vdbackup.jobs import Job, Paused, Progress
from vdbackup.translation import tr

LOGIND = Address(
    "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
)
WHAT = "sleep:shutdown"
WHY = tr("Backups are being made or changed")


class Awake:
    """Asks logind once, however many jobs run; where there is no logind, nobody is asked."""

    def __init__(self) -> None:
        self._wanted = False
        self._asked = False
        self._lock: QDBusMessage | None = None  # it holds the file open
        self._jobs: set[int] = set()

    @property
    def holds(self) -> bool:
        """Whether the computer stays awake."""
        return self._lock is not None

    def begin(self, job: Job[object]) -> None:
        """Stay awake for a job; one that goes on until it is ended keeps no laptop from sleep."""
        if not job.stays:
            self._jobs.add(job.id)
            self.stay(True)

    def follow(self, job: Job[object], progress: Progress) -> None:
        """While a job rests, the computer may sleep."""
        if isinstance(progress, Paused):
            self.end(job)
        elif job.id not in self._jobs:
            self.begin(job)

    def end(self, job: Job[object]) -> None:
        """A job has ended."""
        self._jobs.discard(job.id)
        self.stay(bool(self._jobs))

    def stay(self, wanted: bool) -> None:
        """Stay awake from now on, or not any more; returns at once."""
        self._wanted = wanted
        if not wanted:
            self._lock = None
        elif self._lock is None and not self._asked:
            self._asked = True
            arguments = [WHAT, "vdbackup", WHY, "block"]
            buses.call(buses.system(), LOGIND, "Inhibit", arguments, self._on_answered)

    def _on_answered(self, reply: QDBusMessage | None) -> None:
        self._asked = False
        if self._wanted:
            self._lock = reply
