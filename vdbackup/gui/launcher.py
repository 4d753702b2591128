"""How far the jobs are, at the program's icon in the task bar or the dock, where that shows it.

Docks listen to a signal on the desktop's bus for that (GNOME's Dash to Dock, KDE's task manager,
Unity: https://wiki.ubuntu.com/Unity/LauncherAPI); where none does, nothing comes of it.
"""

from __future__ import annotations

import time

from PySide6.QtDBus import QDBusMessage

from vdbackup.gui import buses
from vdbackup.jobs import Job, Progress
from vdbackup.locations import APPLICATION

PATH = f"/com/canonical/unity/launcherentry/{APPLICATION}"
INTERFACE = "com.canonical.Unity.LauncherEntry"
URI = f"application://{APPLICATION}.desktop"
INTERVAL = 0.5  # seconds between two signals; an icon is no place to read figures at


class Launcher:
    """Shows the jobs that run as one bar: the mean of how far each is."""

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}
        self._said = float("-inf")

    def begin(self, job: Job[object]) -> None:
        """A job is queued; of one that stays nobody asks how far it is."""
        if job.stays:
            return
        self._shares[job.id] = 0.0
        self._say()

    def follow(self, job: Job[object], progress: Progress) -> None:
        """A job is so far."""
        if job.id in self._shares and progress.total:
            self._shares[job.id] = min(1.0, progress.done / progress.total)
            if time.monotonic() - self._said >= INTERVAL:
                self._say()

    def end(self, job: Job[object]) -> None:
        """A job has ended."""
        if self._shares.pop(job.id, None) is not None:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        bus = buses.session()
        if not bus.isConnected():
            return
        shares = self._shares.values()
        share = sum(shares) / len(shares) if shares else 0.0
        signal = QDBusMessage.createSignal(PATH, INTERFACE, "Update")
        signal.setArguments([URI, {"progress": share, "progress-visible": bool(shares)}])
        bus.send(signal)
