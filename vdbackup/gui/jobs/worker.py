"""Jobs on threads of their own: one QThread per repository, with a queue.

Whatever touches a disk runs here, so that the window never waits. The window talks to a worker by
`submit` and `cancel`, which return at once, and hears of it by signals that carry the job itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import shiboken6
from PySide6.QtCore import QObject, QThread, Signal, Slot

from vdbackup.jobs import Job, JobState, Progress, Report

PROGRESS_INTERVAL = 0.1  # seconds; a person reads no faster, and the event queue stays short

T = TypeVar("T")


class Throttle:
    """Lets a report through ten times a second, and whenever the phase changes."""

    def __init__(self, interval: float = PROGRESS_INTERVAL) -> None:
        self._interval = interval
        self._lock = threading.Lock()  # an engine may report from several threads
        self._last = float("-inf")
        self._phase = ""

    def passes(self, phase: str, now: float) -> bool:
        """Whether a report made at `now` (seconds, any origin) is to be shown."""
        with self._lock:
            if phase == self._phase and now - self._last < self._interval:
                return False
            self._phase, self._last = phase, now
            return True


class Worker(QThread):
    """A thread that does one job after the other, and `at_end` when it is told to stop.

    Signals:
        job_queued(Job), job_started(Job), job_ended(Job): its `state` says how it ended.
        progressed(Job, Progress): at most ten times a second, and at each change of phase.
    """

    job_queued = Signal(object)
    job_started = Signal(object)
    progressed = Signal(object, object)
    job_ended = Signal(object)

    def __init__(
        self, name: str, parent: QObject | None = None, at_end: Callable[[], None] | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._at_end = at_end
        self._wake = threading.Condition()
        self._queue: deque[Job[object]] = deque()
        self._current: Job[object] | None = None
        self._last: Job[object] | None = None
        self._stopping = False
        self._callbacks: dict[int, partial[None]] = {}
        self.job_ended.connect(self._on_job_ended)

    def submit(self, job: Job[T], on_end: Callable[[Job[T]], None] | None = None) -> Job[T]:
        """Queue a job; `on_end` is called with it, in the window's thread, when it has ended."""
        if on_end:
            self._callbacks[job.id] = partial(on_end, job)
        self.job_queued.emit(job)
        with self._wake:
            if stopping := self._stopping:
                job.state = JobState.CANCELLED
            else:
                self._queue.append(job)
                self._wake.notify()
        if stopping:
            self.job_ended.emit(job)
        elif not self.isRunning():
            self.start()
        return job

    def cancel(self, job: Job[object]) -> None:
        """Ask a job to stop; returns at once. One that has not begun ends here and now."""
        job.cancel.cancel()
        with self._wake:
            if job not in self._queue:
                return
            self._queue.remove(job)
            job.state = JobState.CANCELLED
        self.job_ended.emit(job)

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._wake:
            return self._current is not None or bool(self._queue)

    def cancel_all(self) -> None:
        """Ask what runs and what waits to stop; returns at once."""
        with self._wake:
            waiting, current = list(self._queue), self._current
        for job in waiting:
            self.cancel(job)
        if current:
            current.cancel.cancel()

    def stop(self) -> None:
        """Cancel everything and let the thread end; `wait()` for it."""
        self.cancel_all()
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def run(self) -> None:
        """The thread itself; Qt calls this."""
        while job := self._next():
            self.job_started.emit(job)
            job.run(self._reporter(job))
            with self._wake:
                self._current = None
            self.job_ended.emit(job)
        if self._at_end:
            self._at_end()

    def _next(self) -> Job[object] | None:
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._stopping)
            self._current = self._queue.popleft() if self._queue else None
            return self._current

    def _reporter(self, job: Job[object]) -> Report:
        throttle = Throttle()

        def report(progress: Progress) -> None:
            if throttle.passes(progress.phase, time.monotonic()):
                self.progressed.emit(job, progress)

        return report

    @Slot(object)
    def _on_job_ended(self, job: Job[object]) -> None:
        # What it holds, a dialog perhaps, goes in this thread with the next one that ends: then the
        # other thread has let go of it. See gui/garbage.py.
        self._last = job
        on_end = self._callbacks.pop(job.id, None)
        if on_end and not _is_gone(on_end):
            on_end()


def _is_gone(on_end: partial[None]) -> bool:
    """Whether whoever wanted to hear of a job is a widget that was closed meanwhile."""
    asker = getattr(on_end.func, "__self__", None)  # a partial of a partial has become one
    return isinstance(asker, QObject) and not shiboken6.isValid(asker)


class Workers(QObject):
    """All workers of a window: per repository one that writes, one that tests, one that only reads.

    A listing or a plan must not wait until a capture is through, nor a capture for a boot test;
    writing is what happens one after another. The readers' jobs are not for a person to see.

    Signals:
        job_queued(Job), job_started(Job), progressed(Job, Progress), job_ended(Job): of the
            writers and testers.
    """

    job_queued = Signal(object)
    job_started = Signal(object)
    progressed = Signal(object, object)
    job_ended = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._writers: dict[Path | None, Worker] = {}
        self._testers: dict[Path, Worker] = {}
        self._staying: dict[tuple[Path, str], Worker] = {}
        self._readers: dict[Path | None, Worker] = {}
        self._borrowed: list[Worker] = []
        self._leaving: list[Worker] = []

    def writer(self, repository: Path | None) -> Worker:
        """The worker whose jobs change `repository`, or (None) something else on this computer."""
        if repository not in self._writers:
            self._writers[repository] = self._shown(f"writer of {repository or 'computer'}")
        return self._writers[repository]

    def tester(self, repository: Path) -> Worker:
        """The worker that boots points of `repository`; a test gives way to what changes it."""
        if repository not in self._testers:
            self._testers[repository] = self._shown(f"tester of {repository}")
        return self._testers[repository]

    def staying(self, repository: Path, set_name: str) -> Worker:
        """The worker whose jobs go on beside all others of the set: they wait, mostly."""
        key = (repository, set_name)
        if key not in self._staying:
            self._staying[key] = self._shown(f"points of {set_name} in {repository}")
        return self._staying[key]

    def _shown(self, name: str) -> Worker:
        worker = Worker(name, self)
        worker.job_queued.connect(self.job_queued)
        worker.job_started.connect(self.job_started)
        worker.progressed.connect(self.progressed)
        worker.job_ended.connect(self.job_ended)
        return worker

    @property
    def _visible(self) -> list[Worker]:
        return [*self._writers.values(), *self._testers.values(), *self._staying.values()]

    def reader(self, repository: Path | None) -> Worker:
        """The worker that looks at `repository`, or (None) at this computer."""
        if repository not in self._readers:
            self._readers[repository] = Worker(f"reader of {repository or 'computer'}", self)
        return self._readers[repository]

    def borrow(self, name: str, at_end: Callable[[], None]) -> Worker:
        """A worker of one's own, whose thread calls `at_end` when it is given back."""
        worker = Worker(name, self, at_end)
        self._borrowed.append(worker)
        return worker

    def give_back(self, worker: Worker) -> None:
        """End a borrowed worker; returns at once."""
        if worker in self._borrowed:
            self._borrowed.remove(worker)
            self._leaving.append(worker)
            worker.finished.connect(partial(self._on_left, worker))
            worker.stop()

    def _on_left(self, worker: Worker) -> None:
        worker.wait()
        self._leaving.remove(worker)
        worker.deleteLater()

    def cancel(self, job: Job[object]) -> None:
        """Ask a job to stop, whoever runs it; returns at once."""
        for worker in self._visible:
            worker.cancel(job)

    def cancel_all(self) -> None:
        """Ask all jobs that change or test a repository to stop; returns at once."""
        for worker in self._visible:
            worker.cancel_all()

    @property
    def busy(self) -> bool:
        """Whether something that changes or tests a repository runs or waits."""
        return any(worker.busy for worker in self._visible)

    def stop(self) -> None:
        """Cancel everything, and return when all threads have ended."""
        workers = [*self._visible, *self._readers.values()]
        workers += [*self._borrowed, *self._leaving]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()
