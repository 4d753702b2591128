"""Which blocks of a disk change while it is in use: since when that is seen, what that saves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtWidgets import QWidget

from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState
from vdbackup.operations import tracking
from vdbackup.operations.tracking import Tracking
from vdbackup.translation import tr

WIDTH = 520  # pixels
_ABOUT = tr(
    "While a disk is tracked, the kernel marks which of its blocks change. A backup then "
    "reads those alone: seconds instead of all of the disk. It costs next to nothing, lasts "
    "until the computer is started anew, and begins with one backup that reads everything."
)


class TrackingDialog(parts.Dialog):
    """Says how a source is tracked, and has that begun or ended, off the window's thread.

    Attributes:
        said: what is known of it.
        begin_button, end_button: one of which can be pressed, once it is known which.
    """

    def __init__(self, entry: Entry, worker: Worker, parent: QWidget | None = None) -> None:
        super().__init__(
            "trackingDialog", tr("Changed blocks of {entry}", entry=entry.title), WIDTH, parent
        )
        self._device = entry.source.path
        name = entry.backup_set.name if entry.backup_set else None
        self._look = partial(tracking.look, self._device, entry.repository, name)
        self._worker = worker
        self.column.addWidget(
            parts.label(tr("Changed blocks of {entry}", entry=entry.title), "heading")
        )
        self.said = parts.Notice(tr("Looking…"), "trackingSaid")
        self.column.addWidget(self.said)
        self.column.addWidget(parts.label(_ABOUT, "muted"))
        self.begin_button = parts.button(tr("Track changes"), "trackButton", "primary")
        self.end_button = parts.button(tr("Track them no more"), "untrackButton")
        self.begin_button.clicked.connect(lambda: self._change(tracking.begin))
        self.end_button.clicked.connect(lambda: self._change(tracking.end))
        self.press_by_enter(self.add_buttons(self.begin_button, tr("Close"), self.end_button))
        self._run(self._look)

    def _change(self, change: Callable[[Path], object]) -> None:
        def done() -> Tracking:
            change(self._device)
            return self._look()

        self.said.say(tr("One moment…"), "")
        self._run(done)

    def _run(self, what: Callable[[], Tracking]) -> None:
        for each in (self.begin_button, self.end_button):
            each.setEnabled(False)
        job = Job(self.windowTitle(), lambda _task: what())
        self._worker.submit(job, self._on_known)

    def _on_known(self, job: Job[Tracking]) -> None:
        if job.error:
            self._on_refused(job.error)
        elif job.state is JobState.FINISHED:
            known = job.outcome()
            self.said.say(sentence(known), "warning" if known.doubt else "")
            self.begin_button.setEnabled(known.since is None or bool(known.doubt))
            self.end_button.setEnabled(known.since is not None)

    def _on_refused(self, error: VdbackupError) -> None:
        self.said.say(remedies.sentences(error), "bad")
        self.begin_button.setEnabled(True)


def sentence(known: Tracking) -> str:
    """What there is to say of it."""
    if known.since is None:
        return tr(
            "Changes of {disk} are not tracked: each backup reads everything.", disk=known.disk
        )
    since = words.when_exactly(known.since.isoformat())
    if known.doubt:
        return tr(
            "All of {disk} is read by the next backup, because {doubt}.",
            disk=known.disk,
            doubt=known.doubt,
        )
    begun = tr("Changes of {disk} are tracked since {since}.", disk=known.disk, since=since)
    if known.changed is None:
        return tr(
            "{begun} The next backup reads everything; those after it what has changed.",
            begun=begun,
        )
    return tr(
        "{begun} The next backup reads what has changed by now: {size}.",
        begun=begun,
        size=words.size(known.changed),
    )
