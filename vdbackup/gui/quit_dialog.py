"""The question before what runs is stopped: it names it, follows it, and goes when it has ended."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QWidget

from vdbackup.gui import parts
from vdbackup.gui.machines.session import AtEnd, SessionThread
from vdbackup.jobs import Job, JobState
from vdbackup.text import printable
from vdbackup.translation import tr

WIDTH = 480  # pixels
MAX_LINES = 8  # lines that are shown of each kind

WAITS = {
    JobState.QUEUED: tr(", which waits for its turn: it will not be begun"),
    JobState.PAUSED: tr(", which is paused: it will not go on"),
    JobState.WAITING: tr(", which waits: it will not go on"),
}
BECOMES = {
    AtEnd.DISCARD: tr("what it wrote is thrown away"),
    AtEnd.KEEP: tr("what it wrote is kept"),
    AtEnd.PROMOTE: tr("what it wrote becomes a recovery point"),
}


class QuitDialog(parts.Dialog):
    """Asks what is to become of jobs and machines that run. Enter and Escape go on working.

    Attributes:
        stop_button, wait_button, stay_button: what the user may press.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("quitQuestion", tr("Quit?"), WIDTH, parent)
        self.column.addWidget(parts.label(tr("Quit, while this is running?"), "heading"))
        self._jobs = parts.label()
        self._jobs.setObjectName("runningJobs")
        self._machines = parts.label()
        self._machines.setObjectName("runningMachines")
        self._losses = parts.Notice(name="quitLosses", role="warning")
        for widget in (self._jobs, self._machines, self._losses):
            self.column.addWidget(widget)
        self.column.addWidget(
            parts.label(
                tr("“Quit when done” closes the window as soon as all of it has ended."), "muted"
            )
        )
        self.stop_button = parts.button(tr("Stop and quit"), "stopAndQuit", "danger")
        self.wait_button = parts.button(tr("Quit when done"), "quitWhenDone")
        self.stay_button = self.add_buttons(self.stop_button, tr("Keep working"), self.wait_button)
        self.press_by_enter(self.stay_button)
        self.stay_button.setFocus()

    @property
    def text(self) -> str:
        """All that is said."""
        return f"{self._jobs.text()}\n{self._machines.text()}\n{self._losses.text}"

    def show_running(self, jobs: Sequence[Job[object]], machines: Sequence[SessionThread]) -> None:
        """Say what runs at this moment, and what becomes of it where it is stopped."""
        before = self.text
        lines = [f"•  {printable(job.title)}{_becomes(job)}" for job in jobs]
        self._jobs.setText(_listed(tr("Cancelled, with no recovery point harmed:"), lines))
        self._jobs.setVisible(bool(lines))
        lines = [f"•  {printable(each.boot.title)}: {BECOMES[each.at_end]}" for each in machines]
        self._machines.setText(_listed(tr("Virtual machines, switched off without notice:"), lines))
        self._machines.setVisible(bool(lines))
        lost = [printable(each.boot.title) for each in machines if each.at_end is AtEnd.DISCARD]
        self._losses.say(
            tr(
                "Lost with that: what {lost} wrote. “Keep working” lets you choose otherwise in "
                "the list of virtual machines.",
                lost=", ".join(lost[:MAX_LINES]),
            )
            if lost
            else ""
        )
        if self.text != before:
            self.fit()


def _becomes(job: Job[object]) -> str:
    if job.stays:
        return tr(", which ends: its points stay")
    return WAITS.get(job.state, "")


def _listed(title: str, lines: Sequence[str]) -> str:
    more = (
        [tr("    and {count} more", count=len(lines) - MAX_LINES)] if len(lines) > MAX_LINES else []
    )
    return "\n".join((title, *lines[:MAX_LINES], *more))
