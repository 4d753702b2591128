"""How the window ends: at once, when all is done, or after a question; nothing goes unasked."""

from __future__ import annotations

import enum

from PySide6.QtCore import QCoreApplication, QDeadlineTimer, QEventLoop, QObject, QTimer, Signal
from PySide6.QtWidgets import QWidget

from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.machines.sessions import Sessions
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.jobs import Job, JobState

PATIENCE = 8000
"""Milliseconds that a desktop which ends is kept waiting for machines to be kept."""
FOR_GUESTS = 4000
"""Of these, what machines get to shut down: what they have not written yet is lost
when they are ended."""


class Leaving(enum.Enum):
    """What the user wants of the window."""

    STAY = enum.auto()
    WHEN_DONE = enum.auto()
    NOW = enum.auto()


class Ending(QObject):
    """Decides when the window may close.

    What fails on the way keeps the window open: nobody would read of it otherwise.

    Attributes:
        leaving: what the user wants.

    Signals:
        changed(): `leaving` is another one now.
    """

    changed = Signal()

    def __init__(self, window: QWidget, workers: Workers, sessions: Sessions) -> None:
        super().__init__(window)
        self._window = window
        self._workers = workers
        self._sessions = sessions
        self.leaving = Leaving.STAY
        self._asked = True
        self._question: QuitDialog | None = None
        self._jobs: dict[int, Job[object]] = {}  # until it is known here, too, how they ended
        workers.job_queued.connect(self._on_job_queued)
        workers.job_started.connect(self._on_running_changed)
        workers.progressed.connect(self._on_progressed)
        workers.job_ended.connect(self._on_job_ended)
        sessions.changed.connect(self._on_running_changed)
        sessions.failed.connect(lambda _title, _error: self.stay_to_show())

    @property
    def busy(self) -> bool:
        """Whether a job or a virtual machine runs, or becomes a recovery point."""
        return bool(self._jobs) or self._workers.busy or self._sessions.busy

    def may_close(self) -> bool:
        """Whether the window may close now; asks the user where something runs."""
        if self.busy:
            self._ask()
            return False
        return True

    def when_done(self) -> None:
        """Close as soon as nothing runs any more; what rests goes on for that, what stays ends."""
        for job in self._jobs.values():
            job.cancel.resume()
            if job.stays:
                job.cancel.cancel()
        self._leave(Leaving.WHEN_DONE)

    def stay(self) -> None:
        """Do not close after all."""
        self._leave(Leaving.STAY)

    def stop(self) -> None:
        """Stop what runs, then close; what machines wrote becomes what was chosen for each."""
        self._leave(Leaving.NOW)
        self._workers.cancel_all()
        self._sessions.kill_all()
        self._on_running_changed()

    def stop_unasked(self) -> None:
        """Stop what runs, then close, as a signal or the desktop's end wants: all is kept.

        Machines are shut down as by their power button, and ended after a moment, or at once where
        it is asked for again.
        """
        again, self._asked = not self._asked, False
        self._sessions.keep_all()
        if again or not self._sessions.running:
            self.stop()
            return
        self._leave(Leaving.NOW)
        self._workers.cancel_all()
        self._sessions.power_off_all()
        QTimer.singleShot(FOR_GUESTS, self.stop)

    def stop_before_the_desktop_ends(self) -> None:
        """The same, and return when it is done: the desktop goes on then."""
        self.stop_unasked()
        deadline = QDeadlineTimer(PATIENCE)
        while self.busy and not deadline.hasExpired():
            QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 50)

    def stay_to_show(self) -> None:
        """Something has failed that somebody who is there should read."""
        if self._asked and self.leaving is not Leaving.STAY:
            self.stay()

    def _leave(self, leaving: Leaving) -> None:
        self.leaving = leaving
        self.changed.emit()

    def _ask(self) -> None:
        if self._question is None:
            self._question = question = QuitDialog(self._window)
            question.finished.connect(self._on_answered)
            question.rejected.connect(self.stay)
            question.wait_button.clicked.connect(question.accept)
            question.wait_button.clicked.connect(self.when_done)
            question.stop_button.clicked.connect(question.accept)
            question.stop_button.clicked.connect(self.stop)
        self._on_running_changed()
        self._question.open()

    def _on_answered(self) -> None:
        self._question = None

    def _on_job_queued(self, job: Job[object]) -> None:
        self._jobs[job.id] = job
        self._on_running_changed()

    def _on_progressed(self) -> None:
        if self._question:  # what ran may wait now, and the other way round
            self._on_running_changed()

    def _on_job_ended(self, job: Job[object]) -> None:
        self._jobs.pop(job.id, None)
        if job.state is JobState.FAILED:
            self.stay_to_show()
        self._on_running_changed()

    def _on_running_changed(self) -> None:
        if self.busy:
            if self._question:
                self._question.show_running([*self._jobs.values()], self._sessions.running)
            return
        if self._question:
            self._question.accept()
        if self.leaving is not Leaving.STAY:
            self._window.close()
