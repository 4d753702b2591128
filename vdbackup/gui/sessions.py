"""The virtual machines of this window, and what earlier ones left."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QObject, Signal

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.outcome import Outcome
from vdbackup.gui.session import Boot, Order, SessionThread
from vdbackup.gui.store import Store
from vdbackup.gui.worker import Workers
from vdbackup.jobs import Job
from vdbackup.recovery import vm
from vdbackup.recovery.session_folder import LeftoverSession, leftover_sessions
from vdbackup.repository.model import RecoveryPoint

Leftover = vm.Session | LeftoverSession


class Sessions(QObject):
    """Starts machines and knows which there are.

    Attributes:
        running: those that have not ended.

    Signals:
        changed(): another one runs, or one is in another state.
        told(str, Outcome): how one ended.
        failed(str, VdbackupError): why one could not go on.
    """

    changed = Signal()
    told = Signal(str, object)
    failed = Signal(str, object)

    def __init__(self, store: Store, workers: Workers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._workers = workers
        self.running: list[SessionThread] = []
        self._kept: list[vm.Session] = []
        self._abandoned: list[LeftoverSession] = []

    def boot(self, entry: Entry, point: RecoveryPoint) -> SessionThread:
        """Start a machine from a point; returns at once."""
        settings = self._store.value
        boot = Boot(
            title=f"{entry.name} #{point.sequence}",
            repository=entry.repository,
            set_name=entry.name,
            point_id=point.id,
            sessions_folder=settings.sessions(self._store.locations),
            display=settings.display(),
            memory_mib=settings.memory_mib,
        )
        thread = SessionThread(boot, self)
        thread.changed.connect(self.changed)
        thread.finished.connect(partial(self._on_finished, thread))
        self.running.append(thread)
        thread.start()
        self.changed.emit()
        return thread

    def points(self, entry: Entry | None) -> frozenset[str]:
        """The points of a source from which a machine runs."""
        return frozenset(
            thread.boot.point_id
            for thread in self.running
            if entry and thread.boot.repository == entry.repository
        )

    @property
    def leftovers(self) -> list[Leftover]:
        """Sessions that have ended, and whose disks are still there."""
        return [*self._kept, *self._abandoned]

    def find_leftovers(self) -> None:
        """Look what the machines of earlier runs left; `changed` follows."""
        folder = self._store.value.sessions(self._store.locations)
        job = Job("List sessions", lambda _report, _cancel: leftover_sessions(folder))
        self._workers.reader(None).submit(job, self._on_leftovers_found)

    def discard(self, leftover: Leftover) -> None:
        """Delete what a machine left."""
        job = Job(f"Discard {leftover.title}", lambda _report, _cancel: leftover.discard())
        self._workers.reader(None).submit(job, partial(self._on_discarded, leftover))

    def kill_all(self) -> None:
        """End all machines and discard what they wrote, unless it is to be kept."""
        for thread in self.running:
            thread.order(Order.KILL)

    def _on_finished(self, thread: SessionThread) -> None:
        thread.wait()  # it has left `run`, and has a few instructions to go
        self.running.remove(thread)
        title = f"VM {thread.boot.title}"
        if thread.problem:
            self.failed.emit(title, thread.problem)
        if thread.session and thread.keep:
            self._kept.append(thread.session)
            folder = str(thread.session.folder)
            self.told.emit(title, Outcome("Ended; what it wrote is kept.", (folder,)))
        elif not thread.problem:
            self.told.emit(title, Outcome("Ended; what it wrote is discarded."))
        self.changed.emit()
        thread.deleteLater()

    def _on_leftovers_found(self, job: Job) -> None:
        if job.result is not None and job.result != self._abandoned:
            self._abandoned = job.result
            self.changed.emit()

    def _on_discarded(self, leftover: Leftover, job: Job) -> None:
        if job.error:
            self.failed.emit(f"VM {leftover.title}", job.error)
        elif isinstance(leftover, vm.Session):
            self._kept.remove(leftover)
            self.changed.emit()
        self.find_leftovers()
