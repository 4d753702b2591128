"""Follows the jobs of a window, and keeps what came of each for later windows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from vdbackup.errors import VdbackupError
from vdbackup.gui import remedies
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.jobs.record import MAX_LINES, End, EndedJob, JobFile, Step
from vdbackup.gui.jobs.worker import Worker, Workers
from vdbackup.jobs import Job, JobState, Progress, Task
from vdbackup.translation import tr

log = logging.getLogger(__name__)

NAME = "jobs.json"


@dataclass
class _Running:
    """What is known of a job until it ends."""

    began: str
    steps: list[Step] = field(default_factory=list)

    def follow(self, progress: Progress) -> None:
        """Another phase, or more of the same."""
        at = self.steps[-1].at if self.steps else ""
        if self.steps and self.steps[-1].phase == progress.phase:
            self.steps[-1] = Step(at, progress.phase, progress.done)
        elif len(self.steps) < MAX_LINES:
            self.steps.append(Step(_now(), progress.phase, progress.done))


class History(QObject):
    """The jobs that have ended, of this window and those before it.

    The file is read and written on a reader's thread.

    Attributes:
        jobs: the newest last; those of earlier windows once they are read.

    Signals:
        changed(): there is one more, or the earlier ones are there.
        failed(str, VdbackupError): the earlier ones cannot be read.
    """

    changed = Signal()
    failed = Signal(str, object)

    def __init__(self, folder: Path, workers: Workers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.jobs: tuple[EndedJob, ...] = ()
        self._file = JobFile(folder / NAME)
        self._loaded = False
        self._saved = 0  # of the jobs
        self._running: dict[int, _Running] = {}
        self._reader: Worker = workers.reader(None)
        workers.job_started.connect(self._on_started)
        workers.progressed.connect(self._on_progressed)
        workers.job_ended.connect(self._on_ended)
        self._reader.submit(
            Job(tr("Read earlier jobs"), lambda _task: self._file.load()), self._on_read
        )

    def flush(self) -> None:
        """Write down what is not yet: no thread may be at work any more."""
        if self._loaded and self._saved < len(self.jobs):
            try:
                self._file.save(self.jobs)
            except OSError:
                log.warning("jobs are not written down", exc_info=True)

    def _on_read(self, job: Job[tuple[EndedJob, ...]]) -> None:
        if job.state is JobState.CANCELLED:  # the window closes: what is kept is left alone
            return
        if isinstance(job.error, VdbackupError):
            self.failed.emit(tr("Earlier jobs"), job.error)
        earlier = job.result or ()
        self.jobs = (*earlier, *self.jobs)
        self._saved = len(earlier)
        self._loaded = True
        self._save()
        self.changed.emit()

    def _on_started(self, job: Job[object]) -> None:
        self._running[job.id] = _Running(_now())

    def _on_progressed(self, job: Job[object], progress: Progress) -> None:
        if running := self._running.get(job.id):
            running.follow(progress)

    def _on_ended(self, job: Job[object]) -> None:
        now = _now()
        running = self._running.pop(job.id, _Running(now))
        self.jobs = (*self.jobs, _ended(job, running, now))
        self._save()
        self.changed.emit()

    def _save(self) -> None:
        if not self._loaded or self._saved >= len(self.jobs):
            return
        jobs = self.jobs

        def save(_task: Task) -> int:
            self._file.save(jobs)
            return len(jobs)

        self._reader.submit(Job(tr("Write down what was done"), save), self._on_saved)

    def _on_saved(self, job: Job[int]) -> None:
        if job.result is not None:
            self._saved = max(self._saved, job.result)


def _ended(job: Job[object], running: _Running, now: str) -> EndedJob:
    told = job.result if isinstance(job.result, Told) else Told(tr("Done."))
    if job.state is JobState.FAILED and job.error:
        end, told = End.FAILED, Told(remedies.sentences(job.error))
    elif job.state is JobState.CANCELLED:
        end, told = End.CANCELLED, Told(tr("Cancelled. {left}", left=job.left).strip())
    else:
        end = End.WARNED if told.warnings else End.DONE
    return EndedJob(
        job.title,
        running.began,
        now,
        end,
        " ".join((told.sentence, *told.warnings)),
        tuple(told.details[:MAX_LINES]),
        tuple(running.steps),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
