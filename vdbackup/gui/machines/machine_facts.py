"""What a recovery point's machine boots on, and what was changed in its overlay for that."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import partial

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from vdbackup.guest.hardware import Controller
from vdbackup.guest.model import Problem
from vdbackup.gui import parts
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Workers
from vdbackup.jobs import Job, JobState, Task
from vdbackup.recovery.retarget.report import RetargetReport, load
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.text import printable
from vdbackup.translation import tr, trn

PAUSE = 150  # milliseconds that a point stays chosen before its report is read: one drags past many
_CONTROLLERS = {Controller.AHCI: "SATA", Controller.IDE: "IDE", Controller.NVME: "NVMe"}
"""What a person calls them; the others have one name."""


class MachineFacts(QWidget):
    """The report beside the chosen point's overlay, in words; hidden where there is none.

    Attributes:
        report: what is shown.

    Signals:
        judged(bool): whether the chosen point is known to be a disk of data.
    """

    judged = Signal(bool)

    def __init__(self, workers: Workers, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("machineFacts")
        self._workers = workers
        self.report: RetargetReport | None = None
        self._wanted: tuple[BackupSet, RecoveryPoint] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE)
        self._timer.timeout.connect(self._on_wanted)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self._summary = parts.label(selectable=True)
        self._summary.setAccessibleName(tr("What the machine boots on"))
        self._problems = parts.Notice(name="machineProblems", role="warning")
        self._notes = parts.label("", "muted", selectable=True)
        self._changes = parts.label("", "muted", selectable=True)
        self._fold = parts.Fold(tr("Why, and what was changed"), self._changes)
        shown = (self._summary, self._problems, self._notes, self._fold, self._changes)
        for widget in shown:
            column.addWidget(widget)
        self._show(None)

    def show_point(self, entry: Entry | None, point: RecoveryPoint | None) -> None:
        """Show what is known of a point's machine, as soon as it has been read."""
        backup_set = entry.backup_set if entry else None
        wanted = (backup_set, point) if backup_set and point else None
        if wanted is None or self._wanted is None or wanted[1].id != self._wanted[1].id:
            self._show(None)
        self._wanted = wanted
        self._timer.start()

    @property
    def text(self) -> str:
        """All that is said."""
        sentences = (self._summary, self._notes, self._changes)
        return "\n".join([self._problems.text, *(each.text() for each in sentences)])

    def _on_wanted(self) -> None:
        if self._wanted is not None:
            backup_set, point = self._wanted
            job = Job(tr("Read a report"), partial(_read, backup_set, point))
            reader = self._workers.reader(backup_set.folder.parent)
            reader.submit(job, partial(self._on_read, point.id))

    def _on_read(self, point_id: str, job: Job[tuple[RetargetReport | None, bool]]) -> None:
        if self._wanted is not None and self._wanted[1].id == point_id:
            report, holds_data = job.outcome() if job.state is JobState.FINISHED else (None, False)
            self._show(report)
            self.judged.emit(holds_data)

    def _show(self, report: RetargetReport | None) -> None:
        self.report = report
        self.setVisible(report is not None)
        blocking = [each for each in report.hardware.problems if each.blocks] if report else []
        self._summary.setVisible(not blocking)
        self._summary.setText(_summary(report) if report else "")
        problems = report.hardware.problems if report else ()
        # what stops nothing, and about which nothing can be done, is no warning
        notes = [each for each in problems if not each.blocks and not each.advice]
        self._problems.say(_sentences([each for each in problems if each not in notes]))
        self._notes.setText(_sentences(notes))
        self._notes.setVisible(bool(notes))
        self._changes.setText("\n".join(map(printable, _details(report))) if report else "")


def _read(
    backup_set: BackupSet, point: RecoveryPoint, _task: Task
) -> tuple[RetargetReport | None, bool]:
    """The report, and whether it found no system on the disk."""
    from vdbackup.guest.inspect import has_no_system  # takes long to import

    report = load(backup_set, point)
    return report, report is not None and has_no_system(report.guest)


def _sentences(problems: Sequence[Problem]) -> str:
    sentences = (printable(f"{each.sentence} {each.advice}".strip()) for each in problems)
    return "\n\n".join(sentences)


def _summary(report: RetargetReport) -> str:
    hardware = report.hardware
    name = printable(report.guest.name) or tr("The machine")
    changed = (
        trn(
            "{count} file changed in its overlay",
            "{count} files changed in its overlay",
            len(report.changes),
        )
        if report.changes
        else tr("nothing had to be changed")
    )
    controller = _CONTROLLERS.get(hardware.controller, hardware.controller.value)
    return tr(
        "{name} is ready to boot ({controller}, {firmware}): {changed}.",
        name=name,
        controller=controller,
        firmware=hardware.firmware.upper(),
        changed=changed,
    )


def _details(report: RetargetReport) -> Iterator[str]:
    yield from report.hardware.reasons
    for change in report.changes:
        yield f"{change.volume}:{change.path}"
        lines = difflib.unified_diff(
            change.before.splitlines(), change.after.splitlines(), lineterm="", n=0
        )
        yield from (f"  {line}" for line in list(lines)[2:] if not line.startswith("@@"))
    yield from report.notes
