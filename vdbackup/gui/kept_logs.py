"""The logs of writes beside the chosen source's points, read off the window's thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PySide6.QtCore import QObject, QTimer, Signal

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Workers
from vdbackup.jobs import Job, Task
from vdbackup.operations.written_logs import ReadLog, read_logs
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import UnreadLog
from vdbackup.translation import tr

_Found = tuple[tuple[ReadLog, ...], tuple[UnreadLog, ...]]
AGAIN = 2000  # milliseconds from a reading of a log that goes on to the next


class KeptLogs(QObject):
    """What is kept of every write, as of a moment ago.

    Attributes:
        logs: of the source that is shown, oldest first.
        unread: those of which nobody can tell whose they are.

    Signals:
        changed(): `logs` or `unread` are other ones now.
    """

    changed = Signal()

    def __init__(self, workers: Workers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workers = workers
        self._entry: Entry | None = None
        self.logs: tuple[ReadLog, ...] = ()
        self.unread: tuple[UnreadLog, ...] = ()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(AGAIN)
        self._timer.timeout.connect(self.refresh)

    def show_entry(self, entry: Entry | None) -> None:
        """Those of this source from now on; `changed` follows where there are any."""
        same = entry is not None and self._entry is not None and entry.key == self._entry.key
        self._entry = entry
        if not same:
            self._take((), ())
        self.refresh()

    def refresh(self) -> None:
        """Look what has come; while writes are added that is done again and again."""
        self._timer.stop()
        entry = self._entry
        if entry is None or entry.backup_set is None or not entry.points:
            self._take((), ())
            return
        job = Job(
            tr("Read the writes of {entry}", entry=entry.title),
            partial(_read, entry.backup_set, self.logs),
        )
        self._workers.reader(entry.repository).submit(job, partial(self._on_read, entry.key))

    def _on_read(self, key: tuple[str, str, str], job: Job[_Found]) -> None:
        if self._entry is None or self._entry.key != key or job.result is None:
            return
        self._take(*job.result)
        if any(each.goes_on for each in self.logs):
            self._timer.start()

    def _take(self, logs: tuple[ReadLog, ...], unread: tuple[UnreadLog, ...]) -> None:
        before, self.logs, self.unread = (self.logs, self.unread), logs, unread
        if not (_same(before[0], logs) and before[1] == unread):
            self.changed.emit()


def _read(backup_set: BackupSet, known: Sequence[ReadLog], _task: Task) -> _Found:
    return read_logs(backup_set, known)


def _same(one: Sequence[ReadLog], two: Sequence[ReadLog]) -> bool:
    """Whether nothing has come: a log that has not grown is the one that was read before."""
    return len(one) == len(two) and all(
        (a.kept, a.log, str(a.problem)) == (b.kept, b.log, str(b.problem))
        for a, b in zip(one, two, strict=True)
    )
