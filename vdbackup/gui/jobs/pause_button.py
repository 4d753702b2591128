"""The button by which a job rests for a while."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton

from vdbackup.jobs import Job
from vdbackup.translation import tr

PAUSE, RESUME = tr("Pause"), tr("Resume")
RESTS = tr("Paused. The folder of its backups stays locked until it goes on.")
"""What is said of a job that rests."""


class PauseButton(QPushButton):
    """Lets a job rest at its next chunk of bytes, and go on; shown while bytes move.

    Signals:
        asked(str): what there is to say of it.
    """

    asked = Signal(str)

    def __init__(self, title: str, job: Job[object] | None) -> None:
        super().__init__(PAUSE)
        self.setObjectName("pauseButton")
        self.setToolTip(tr("Let it rest; what it holds, it keeps, and nobody else can write"))
        self._title, self._job = title, job
        self.show_state()
        self.clicked.connect(self._on_clicked)
        self.hide()

    @property
    def paused(self) -> bool:
        """Whether the job is to rest."""
        return self._job is not None and self._job.cancel.paused

    @property
    def rests(self) -> str:
        """What is said of the job while it rests."""
        why = self._job.cancel.why_paused if self._job else ""
        return f"{why} {RESTS}".strip()

    def show_state(self) -> None:
        """Offer what the job does not do now: others may have asked it to rest, or to go on."""
        self.setText(RESUME if self.paused else PAUSE)
        self.setAccessibleName(f"{self.text()}: {self._title}")

    def _on_clicked(self) -> None:
        if self._job is None:
            return
        if self.paused:
            self._job.cancel.resume()
        else:
            self._job.cancel.pause()
        self.show_state()
        self.asked.emit(tr("Pausing") if self.paused else tr("Going on"))
