"""What keeps more of a source than a point now and then, as jobs that stay until they are ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from PySide6.QtCore import QObject, Signal

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import writes
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.runner import Runner
from vdbackup.jobs import Job, Task
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.changed import Changed
from vdbackup.operations.near_continuous import NearRequest
from vdbackup.operations.volume_protection import VolumeRequest
from vdbackup.pace import Limit, Pace
from vdbackup.translation import tr

T = TypeVar("T")


class Protecting(QObject):
    """Begins and ends points every so many seconds, or every write: one of them of a source.

    Signals:
        made(Path, Changed): a point more is in that folder.
        logged(): a log of writes has begun, or has ended.
    """

    made = Signal(object, object)
    logged = Signal()

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner
        self._jobs: dict[tuple[str, ...], Job[object]] = {}
        self.made.connect(runner.catalogue.refresh)

    def runs(self, entry: Entry) -> bool:
        """Whether more is being kept of it, by a job of this window."""
        return entry.key in self._jobs

    def begin_points(self, entry: Entry, every: int, lasts: float | None, *, track: bool) -> None:
        """Make points of a source from now on; `track` has its changes tracked first."""
        request = NearRequest(self._backup(entry), every, lasts)
        machines, made = self._runner.store.machines, self._made(entry)

        def work(task: Task) -> Outcome[object]:
            return writes.near_points(request, machines, task, made, track=track)

        self._begin(entry, tr("Points of {entry} every {every} s", entry=entry.title, every=every),
                    work)  # fmt: skip

    def begin_every_write(self, entry: Entry, limit: int, lasts: float | None) -> None:
        """Keep every write to a source from now on, in a log of so many bytes at most."""
        request = VolumeRequest(self._backup(entry), limit, lasts)
        machines, made = self._runner.store.machines, self._made(entry)

        def work(task: Task) -> Outcome[object]:
            return writes.every_write(request, machines, task, made, self.logged.emit)

        self._begin(entry, tr("Every write to {entry}", entry=entry.title), work)

    def _begin(self, entry: Entry, title: str, work: Callable[[Task], Outcome[object]]) -> None:
        if self.runs(entry):
            return
        rate = self._runner.store.value.limit_mib << 20
        pace = Pace(Limit(rate) if rate > 0 else None, gives_way=True)
        job = Job(title, lambda task: work(task.at(pace)), stays=True)
        self._jobs[entry.key] = job
        worker = self._runner.workers.staying(entry.repository, entry.name)
        self._runner.submit(worker, entry.repository, job, partial(self._on_ended, entry.key))

    def end(self, entry: Entry) -> None:
        """Keep no more of it, whoever began that; what is kept stays."""
        if job := self._jobs.get(entry.key):
            job.cancel.cancel()
            return
        self._runner.run(
            entry.repository,
            tr("Keep no more writes to {entry}", entry=entry.title),
            partial(writes.end_every_write, entry.source.path, entry.repository),
            lambda _job: self.logged.emit(),
        )

    def _backup(self, entry: Entry) -> BackupRequest:
        return BackupRequest(entry.source, entry.repository, set_name=entry.name, seen=True)

    def _made(self, entry: Entry) -> Callable[[], None]:
        return partial(self.made.emit, entry.repository, Changed.only(entry.name))

    def _on_ended(self, key: tuple[str, ...], _job: Job[Outcome[object]]) -> None:
        self._jobs.pop(key, None)
        self.logged.emit()
