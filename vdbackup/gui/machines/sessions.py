"""The virtual machines of this window, those of other programs, and what is kept of ended ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from vdbackup.guest.hardware import HardwareRequest
from vdbackup.gui import words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import writes
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.machines.session import AtEnd, Boot, Order, SessionThread
from vdbackup.gui.store import Store
from vdbackup.jobs import Job
from vdbackup.recovery.other_programs.machine import WrittenMachine, write_machine
from vdbackup.recovery.sessions import sessions
from vdbackup.recovery.sessions.attached import Attachment
from vdbackup.recovery.sessions.elsewhere import Program
from vdbackup.recovery.sessions.protection import LIMIT
from vdbackup.recovery.sessions.saved import SavedSession, saved_session, saved_sessions
from vdbackup.recovery.sessions.session import GRACE
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import point_of
from vdbackup.translation import tr

KEPT = tr("Ended; what it wrote is kept.")
CUT_OFF = tr(
    "Its window was closed, which is like pulling its plug. What it wrote is kept: in the "
    "list of virtual machines you can start it again, make a recovery point of it, or discard "
    "it."
)


class Sessions(QObject):
    """Starts machines and knows which there are.

    Attributes:
        running: those of this window that have not ended.
        saved: those of other programs, and what is left of ended ones.

    Signals:
        changed(): another one runs, or one is in another state.
        told(str, Told): how one ended.
        failed(str, VdbackupError): why one could not go on.
        promotion_wanted(SavedSession, bool): make a recovery point of one; whether to ask first.
        discard_wanted(SavedSession, int): ask whether to delete one, of so many bytes.
    """

    changed = Signal()
    told = Signal(str, object)
    failed = Signal(str, object)
    promotion_wanted = Signal(object, bool)
    discard_wanted = Signal(object, object)  # int would be 32 bits

    def __init__(self, store: Store, workers: Workers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._workers = workers
        self.running: list[SessionThread] = []
        self.saved: list[SavedSession] = []
        self._ended_to_promote: set[Path] = set()

    def boot(
        self,
        entry: Entry,
        point: RecoveryPoint,
        hardware: HardwareRequest | None = None,
        *,
        keeps_writes: bool = False,
        attach: tuple[Attachment, ...] = (),
    ) -> SessionThread:
        """Start a machine from a point, or a moment, on hardware as the user has said.

        Returns at once. Every write of it is kept beside the point, where that is wanted. What is
        attached it gets behind its own disks.
        """
        settings = self._store.value
        usual = HardwareRequest(memory_mib=settings.memory_mib or None)
        return self._start(
            Boot(
                title=f"{entry.title} {words.point_name(point)}",
                repository=entry.repository,
                set_name=entry.name,
                point_id=point.id,
                sessions_folder=settings.sessions(self._store.locations),
                display=settings.display(),
                hardware=hardware or usual,
                keep_writes=LIMIT if keeps_writes else None,
                attach=attach,
            )
        )

    def reopen(self, saved: SavedSession) -> SessionThread | None:
        """Start the machine of a kept session again; returns at once. None where it was done."""
        origin, settings = saved.record.origin, self._store.value
        if origin is None or saved not in self.saved:
            return None
        self.saved.remove(saved)  # until it has ended again
        return self._start(
            Boot(
                title=saved.title,
                repository=origin.repository,
                set_name=origin.set_name,
                point_id=origin.point,
                sessions_folder=saved.folder.parent,
                display=settings.display(),
                again=saved,
            )
        )

    def _start(self, boot: Boot) -> SessionThread:
        thread = SessionThread(boot, self)
        thread.changed.connect(self.changed)
        thread.finished.connect(partial(self._on_finished, thread))
        self.running.append(thread)
        thread.start()
        self.changed.emit()
        return thread

    def open_with(self, entry: Entry, point: RecoveryPoint, program: Program) -> None:
        """Make a machine of a point for another program, and say how that opens it."""
        settings, title = (
            self._store.value,
            tr("Open #{point} of {entry} elsewhere", point=point.sequence, entry=entry.title),
        )
        folder = settings.sessions(self._store.locations)

        def write() -> WrittenMachine:
            repository = Repository.open(entry.repository)
            backup_set = repository.set(entry.name)
            return write_machine(
                repository,
                backup_set,
                backup_set.point(point.id),
                program,
                sessions_folder=folder,
                memory_mib=settings.memory_mib,
            )

        def written(job: Job[WrittenMachine]) -> None:
            if job.error:
                self.failed.emit(title, job.error)
            elif job.result is not None:
                self.told.emit(title, Told(job.result.how, (str(job.result.file),)))
            self.find_saved()

        self._workers.reader(None).submit(Job(title, lambda _task: write()), written)

    def points(self, entry: Entry | None) -> frozenset[str]:
        """The points of a source from which a machine runs."""
        return frozenset(
            point_of(thread.boot.point_id)
            for thread in self.running
            if entry and thread.boot.repository == entry.repository
        )

    def find_saved(self) -> None:
        """Look which sessions there are besides this window's; `changed` follows."""
        folder = self._store.value.sessions(self._store.locations)
        job = Job(tr("List sessions"), lambda _task: saved_sessions(folder))
        self._workers.reader(None).submit(job, self._on_found)

    @property
    def busy(self) -> bool:
        """Whether a machine of this window runs, or is about to become a recovery point."""
        return bool(self.running or self._ended_to_promote)

    def ask_to_discard(self, saved: SavedSession) -> None:
        """Look how much a machine left; `discard_wanted` follows."""

        def looked(job: Job[int]) -> None:
            self.discard_wanted.emit(saved, job.result or 0)

        job = Job(tr("Look at {saved}", saved=saved.title), lambda _task: saved.written)
        self._workers.reader(None).submit(job, looked)

    def discard(self, saved: SavedSession) -> None:
        """Delete what a machine left."""
        self._do(
            saved,
            tr("Discard {saved}", saved=saved.title),
            partial(saved.discard, not_running=True),
        )

    def promote(self, saved: SavedSession) -> None:
        """Make a recovery point of what a machine left."""
        self.promotion_wanted.emit(saved, True)

    def protect(self, thread: SessionThread) -> None:
        """Keep every write of a machine from now on; `changed` follows when its thread has seen."""
        title = tr("Keep every write of {boot}", boot=thread.boot.title)
        self._about_writes(thread, title, writes.protect)

    def unprotect(self, thread: SessionThread) -> None:
        """Keep no more of them."""
        title = tr("Keep no more writes of {boot}", boot=thread.boot.title)
        self._about_writes(thread, title, writes.unprotect)

    def _about_writes(self, thread: SessionThread, title: str, what: Callable[[Path], str]) -> None:
        if (session := thread.session) is None:
            return

        def ended(job: Job[str]) -> None:
            if job.error:
                self.failed.emit(title, job.error)
            elif job.result is not None:
                self.told.emit(title, Told(job.result))
            self.changed.emit()

        job = Job(title, lambda _task: what(session.folder))
        self._workers.reader(None).submit(job, ended)

    def stop(self, saved: SavedSession) -> None:
        """Shut the machine of another program, or of one that has crashed, down."""
        self._do(saved, tr("Stop {saved}", saved=saved.title), lambda: sessions.stop(saved, GRACE))

    def kill(self, saved: SavedSession) -> None:
        """End it at once."""
        self._do(saved, tr("Kill {saved}", saved=saved.title), lambda: sessions.kill(saved))

    def kill_all(self) -> None:
        """End all machines and discard what they wrote, unless it is to be kept."""
        for thread in self.running:
            thread.order(Order.KILL)

    def power_off_all(self) -> None:
        """Press the power button of all machines."""
        for thread in self.running:
            thread.order(Order.POWER_OFF)

    def keep_all(self) -> None:
        """Let nothing that a machine wrote go, whatever was chosen for its end."""
        for thread in self.running:
            thread.at_end = AtEnd.KEEP
        self.changed.emit()

    def _do(self, saved: SavedSession, title: str, what: Callable[[], None]) -> None:
        job = Job(title, lambda _task: what())
        self._workers.reader(None).submit(job, partial(self._on_done, saved))

    def _on_finished(self, thread: SessionThread) -> None:
        thread.wait()  # it has left `run`, and has a few instructions to go
        self.running.remove(thread)
        title = tr("VM {boot}", boot=thread.boot.title)
        if thread.problem:
            self.failed.emit(title, thread.problem)
        if thread.session and thread.kept:
            sentence = KEPT if thread.wanted_end or thread.problem else CUT_OFF
            self.told.emit(title, Told(sentence, (str(thread.session.folder),)))
            if thread.at_end is AtEnd.PROMOTE and not thread.session.crashed:
                self._promote_ended(thread.session.folder, title)
        elif not thread.problem:
            self.told.emit(title, Told(tr("Ended; what it wrote is discarded.")))
        self.changed.emit()
        self.find_saved()
        thread.deleteLater()

    def _promote_ended(self, folder: Path, title: str) -> None:
        """Make a recovery point of what a machine has left in its folder."""
        self._ended_to_promote.add(folder)

        def read(job: Job[SavedSession | None]) -> None:
            if job.result is not None:
                self.promotion_wanted.emit(job.result, False)
            elif job.error:
                self.failed.emit(title, job.error)
            self._ended_to_promote.discard(folder)
            self.changed.emit()

        job = Job(tr("Read a session"), lambda _task: saved_session(folder))
        self._workers.reader(None).submit(job, read)

    def _on_found(self, job: Job[list[SavedSession]]) -> None:
        if job.result is None:
            return
        ours = {thread.session.id for thread in self.running if thread.session}
        ours |= {thread.boot.again.id for thread in self.running if thread.boot.again}
        saved = [session for session in job.result if session.id not in ours]
        if saved != self.saved:
            self.saved = saved
            self.changed.emit()

    def _on_done(self, saved: SavedSession, job: Job[None]) -> None:
        if job.error:
            self.failed.emit(tr("VM {saved}", saved=saved.title), job.error)
        self.find_saved()
