"""Points every so many seconds, as jobs that stay until they are ended: which sources have one."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QObject, Signal

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import writes
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.runner import Runner
from vdbackup.jobs import Job, Task
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.changed import Changed
from vdbackup.operations.near_continuous import NearRequest, NearResult
from vdbackup.pace import Limit, Pace
from vdbackup.translation import tr


class NearPoints(QObject):
    """Begins and ends them: at most one of a source.

    Signals:
        made(Path, Changed): a point more is in that folder.
    """

    made = Signal(object, object)

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner
        self._jobs: dict[tuple[str, ...], Job[Outcome[NearResult]]] = {}
        self.made.connect(runner.catalogue.refresh)

    def runs(self, entry: Entry) -> bool:
        """Whether points of it are being made."""
        return entry.key in self._jobs

    def begin(self, entry: Entry, every: int, lasts: float | None, *, track: bool) -> None:
        """Make points of a source from now on; `track` has its changes tracked first."""
        if self.runs(entry):
            return
        store, folder = self._runner.store, entry.repository
        backup = BackupRequest(entry.source, folder, set_name=entry.name, seen=True)
        request = NearRequest(backup, every, lasts)
        rate = store.value.limit_mib << 20
        pace, machines = Pace(Limit(rate) if rate > 0 else None, gives_way=True), store.machines

        def work(task: Task) -> Outcome[NearResult]:
            made = partial(self.made.emit, folder, Changed.only(entry.name))
            return writes.near_points(request, machines, task.at(pace), made, track=track)

        title = tr("Points of {entry} every {every} s", entry=entry.title, every=every)
        job: Job[Outcome[NearResult]] = Job(title, work, stays=True)
        self._jobs[entry.key] = job
        worker = self._runner.workers.staying(folder, entry.name)
        self._runner.submit(worker, folder, job, partial(self._on_ended, entry.key))

    def end(self, entry: Entry) -> None:
        """Make no more of them; what is being made is finished or was never begun."""
        if job := self._jobs.get(entry.key):
            job.cancel.cancel()

    def _on_ended(self, key: tuple[str, ...], _job: Job[Outcome[NearResult]]) -> None:
        self._jobs.pop(key, None)
