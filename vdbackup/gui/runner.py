"""The way of all that is done to a repository: planned, shown, done by a job, read again.

Planning happens beside a running job, so that the question comes at once; the work itself waits
for its turn, and the engine checks the plan again then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QDialog, QWidget

from vdbackup.errors import RepositoryLocked, VdbackupError
from vdbackup.gui.catalogue import Catalogue
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.jobs.worker import Worker, Workers
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.store import Store
from vdbackup.jobs import Job, JobState, Plan, Work, retry_when_cleared
from vdbackup.operations.changed import ANY
from vdbackup.translation import tr

T = TypeVar("T")
P = TypeVar("P", bound=Plan)


class Runner(QObject):
    """Plans, asks, and has done.

    Attributes:
        window: what its questions lie before.
        store: the settings.
        workers: the threads that jobs run on.
        catalogue: what there is.

    Signals:
        refused(str, VdbackupError): what could not even be planned, and why.
    """

    refused = Signal(str, object)

    def __init__(
        self, window: QWidget, store: Store, workers: Workers, catalogue: Catalogue
    ) -> None:
        super().__init__(window)
        self.window = window
        self.store = store
        self.workers = workers
        self.catalogue = catalogue

    def plan(
        self,
        repository: Path | None,
        title: str,
        verb: str,
        make: Callable[[], P],
        start: Callable[[P], None],
        *,
        asks: bool = True,
        silence: bool = False,
        clarify: Callable[[VdbackupError], bool] = lambda _error: False,
    ) -> None:
        """Make a plan off the window's thread, show it, and `start(plan)` if the user says so.

        Where it asks nothing, it starts at once. What stands in the way is said, but for what
        `clarify` asks the user about.
        """

        def planned(job: Job[P]) -> None:
            if job.error:
                if not clarify(job.error):
                    self.refused.emit(title, job.error)
            elif job.state is JobState.FINISHED and asks:
                self.ask(title, verb, job.outcome(), start, silence=silence)
            elif job.state is JobState.FINISHED:
                start(job.outcome())

        job = Job(tr("Plan: {title}", title=title), lambda _task: make())
        self.workers.reader(repository).submit(job, planned)

    def ask(
        self, title: str, verb: str, plan: P, start: Callable[[P], None], *, silence: bool = False
    ) -> None:
        """Show a plan, and `start(plan)` if the user says so; `silence` offers not to ask again."""
        dialog = PlanDialog(f"{title}?", verb, plan, self.window, offer_silence=silence)

        def answered(answer: int) -> None:
            if answer != QDialog.DialogCode.Accepted:
                return
            if dialog.never_again.isChecked():
                self.store.change(ask_before_backup=False)
            start(plan)

        dialog.finished.connect(answered)
        dialog.open()

    def run(
        self,
        repository: Path,
        title: str,
        doing: Work[Outcome[T]],
        then: Callable[[Job[Outcome[T]]], None] = lambda _job: None,
    ) -> None:
        """Queue what changes a repository; another window, or a command, is waited for."""
        job = Job(title, retry_when_cleared(doing, of=RepositoryLocked))
        self.submit(self.workers.writer(repository), repository, job, then)

    def submit(
        self,
        worker: Worker,
        repository: Path,
        job: Job[Outcome[T]],
        then: Callable[[Job[Outcome[T]]], None] = lambda _job: None,
    ) -> None:
        """Queue a job; when it has ended, what it changed is read again: all where it failed."""

        def ended(job: Job[Outcome[T]]) -> None:
            changed = job.result.changed if job.result else ANY
            self.show_again(repository, changed.sets or ())
            self.catalogue.refresh(repository, changed)
            then(job)

        worker.submit(job, ended)

    def show_again(self, repository: Path, names: Collection[str]) -> None:
        """Let sets be in the list that somebody works with here, though they had left it."""
        if any(self.store.value.hides(repository, name) for name in names):
            self.store.update(lambda settings: settings.showing(repository, names))
