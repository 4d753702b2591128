"""What the user can have done to recovery points: each plans and does one thing (`runner.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from vdbackup.disks.contents import UnclearFormat
from vdbackup.errors import OtherSource, VdbackupError
from vdbackup.gui import words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import care, keeping, making, repositories, restoring, sessions
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.machine_restore_dialog import MachineRestoreDialog
from vdbackup.gui.restore_dialog import RestoreDialog
from vdbackup.gui.runner import Runner
from vdbackup.gui.source_questions import FormatDialog, OtherSourceDialog
from vdbackup.jobs import Job, JobState, Plan, Task, Work
from vdbackup.operations import (
    adopt,
    backup,
    convert,
    delete,
    machine_backup,
    machine_restore,
    merge,
    policy,
    promote,
    restore,
    retarget,
)
from vdbackup.operations.adopt import AdoptRequest, AdoptResult
from vdbackup.operations.backup import AUTO, BackupRequest, BackupResult, CapturePlan
from vdbackup.operations.machine_backup import MachineRequest, MachineResult
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules.arrange import SchedulePlan, ScheduleResult
from vdbackup.operations.schedules.store import Schedule
from vdbackup.pace import Limit, Pace
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.model import Policy, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource
from vdbackup.sources.reference import SourceRef

P = TypeVar("P", bound=Plan)


class Form(Protocol):
    """Where a source was named: it waits until it is known whether that can be backed up."""

    waiting: bool

    def window(self) -> QWidget:
        """What it lies in."""

    def end_waiting(self, error: VdbackupError | None = None) -> None:
        """Say what is wrong, or go on."""


class Operations(QObject):
    """Starts everything that changes a repository.

    Signals:
        refused(str, VdbackupError): what could not even be planned, and why.
        begun(Entry): a source is backed up for the first time.
        promoted(): a session has become a recovery point, or could not.
    """

    refused = Signal(str, object)
    begun = Signal(object)
    promoted = Signal()

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner
        runner.refused.connect(self.refused)
        runner.catalogue.interrupted.connect(self._on_interrupted)

    def back_up(
        self,
        entry: Entry,
        kind: str = AUTO,
        *,
        ask: bool | None = None,
        disk_format: str | None = None,
        read_all: bool = False,
    ) -> None:
        """Make a recovery point; asks first if the settings (or `ask`) say so.

        The format is that of a new set; an existing one keeps its own.
        """
        asks = self._runner.store.value.ask_before_backup if ask is None else ask
        if entry.machine:
            self._back_up_machine(entry, kind, ask=asks, read_all=read_all)
            return
        backup_set = entry.backup_set
        request = BackupRequest(
            entry.source,
            entry.repository,
            set_name=backup_set.name if backup_set else None,
            kind=kind,
            disk_format=None if backup_set else disk_format,
            seen=backup_set is not None,
            read_all=read_all,
            all_blocks=self._runner.store.value.all_blocks,
        )
        self._back_up(entry, request, ask=asks)

    def _back_up_machine(self, entry: Entry, kind: str, *, ask: bool, read_all: bool) -> None:
        """Make a moment of a machine, which knows its own sources."""
        title, name = f"Back up {entry.title}", entry.machine.name if entry.machine else ""
        all_blocks = self._runner.store.value.all_blocks
        request = MachineRequest(
            name, entry.repository, kind=kind, read_all=read_all, all_blocks=all_blocks
        )

        def ended(job: Job[Outcome[MachineResult]]) -> None:
            if job.result and (made := job.result.value).to_be_tested:
                self._test(request.repository, made.set_name, made.point, entry.title)

        def start(_plan: Plan | None) -> None:
            back_up = partial(making.back_up_machine, request, self._machines, self._pace)
            self._runner.run(request.repository, title, back_up, ended)

        if not ask:
            start(None)
            return
        make = partial(machine_backup.plan, request)
        self._runner.plan(request.repository, title, "Back up", make, start, silence=True)

    def _back_up(self, entry: Entry, request: BackupRequest, *, ask: bool) -> None:
        title = f"Back up {entry.title}"

        def clarify(error: VdbackupError) -> bool:
            return self._clarify(error, request, lambda other: self._back_up(entry, other, ask=ask))

        def ended(job: Job[Outcome[BackupResult]]) -> None:
            if job.error:
                clarify(job.error)
            elif job.result and (made := job.result.value).to_be_tested:
                called = entry.title if entry.shares_name else made.set_name
                self._test(request.repository, made.set_name, made.point, called)

        def start(_plan: Plan | None) -> None:
            back_up = partial(making.back_up, request, self._machines, self._pace)
            self._runner.run(request.repository, title, back_up, ended)

        if not ask:
            start(None)
            return
        make = partial(backup.plan, request)
        self._runner.plan(
            request.repository, title, "Back up", make, start, silence=True, clarify=clarify
        )

    def begin(
        self, source: SourceRef, repository: Path, disk_format: str | None, form: Form
    ) -> None:
        """Back a source up that the user has just named, and remember it once that can be done."""
        all_blocks = self._runner.store.value.all_blocks
        request = BackupRequest(source, repository, disk_format=disk_format, all_blocks=all_blocks)
        self._begin(request, form)

    def _begin(self, request: BackupRequest, form: Form) -> None:
        entry = Entry(request.source, request.repository)
        title = f"Back up {entry.title}"

        def start(_plan: Plan | None) -> None:
            self._back_up(self.add_source(entry.source, entry.repository), request, ask=False)
            self.begun.emit(entry)

        def again(request: BackupRequest) -> None:
            if form.waiting:
                self._begin(request, form)

        def planned(job: Job[CapturePlan]) -> None:
            if not form.waiting:
                return
            if job.error and self._clarify(job.error, request, again, form):
                return
            form.end_waiting(job.error)
            if job.state is not JobState.FINISHED:
                return
            if self._runner.store.value.ask_before_backup:
                self._runner.ask(title, "Back up", job.outcome(), start, silence=True)
            else:
                start(None)

        job = Job(f"Plan: {title}", lambda _task: backup.plan(request))
        self._runner.workers.reader(entry.repository).submit(job, planned)

    def _clarify(
        self,
        error: VdbackupError,
        request: BackupRequest,
        again: Callable[[BackupRequest], None],
        form: Form | None = None,
    ) -> bool:
        """Ask what only the user knows of a source, then try again; False where it is not that."""
        parent = self._runner.window if form is None else form.window()
        if isinstance(error, UnclearFormat):
            question = FormatDialog(error, parent)
            question.accepted.connect(
                lambda: again(replace(request, source_format=question.chosen))
            )
            if form is not None:
                question.rejected.connect(lambda: form.end_waiting(error))
            question.open()
            return True
        if isinstance(error, OtherSource):
            other = OtherSourceDialog(error, parent)
            own = replace(request, set_name=None, kind=AUTO)
            meant = replace(request, same_source=True)
            other.accepted.connect(lambda: again(meant if other.goes_on else own))
            other.open()
            return True
        return False

    def add_source(self, source: SourceRef, repository: Path) -> Entry:
        """Remember a source; what has been backed up of it is read."""
        known = KnownSource(source, repository)
        self._runner.store.update(lambda settings: settings.with_source(known))
        self._runner.catalogue.refresh(repository)
        return Entry(source, repository)

    def start_demo(self, folder: Path) -> None:
        """Make a demo disk and a repository in `folder`, and back it up."""
        image, repository = folder / "demo-disk.img", folder / "backups"

        def back_up(job: Job[Outcome[Path]]) -> None:
            if job.state is JobState.FINISHED:
                self.back_up(self.add_source(SourceRef.of_path(image), repository), ask=False)

        job = Job("Make a demo disk", partial(making.make_demo_disk, image))
        self._runner.workers.writer(repository).submit(job, back_up)

    def merge(self, entry: Entry, point: RecoveryPoint) -> None:
        """Roll a point into its parent."""
        sessions = self._machines.sessions_folder
        self._change(
            entry,
            f"Merge #{point.sequence} of {entry.title} into {entry.parent_of(point)}",
            "Merge",
            lambda repository, name: merge.plan(repository, name, point.id),
            lambda plan, task: care.merge_point(plan, sessions, task),
        )

    def convert(self, entry: Entry, disk_format: str) -> None:
        """Copy a set into a new one in another format."""
        self._change(
            entry,
            f"Convert {entry.title} to {disk_format.upper()}",
            "Convert",
            lambda repository, name: convert.plan(repository, name, disk_format),
            making.convert_set,
        )

    def adopt(self, tip: SourceRef, repository: Path) -> None:
        """Make a set of another program's chain, and remember it."""
        self._adopt(AdoptRequest(tip, repository))

    def _adopt(self, request: AdoptRequest) -> None:
        title = f"Adopt {request.tip}"

        def clarify(error: VdbackupError) -> bool:
            if not isinstance(error, UnclearFormat):
                return False
            question = FormatDialog(error, self._runner.window)
            question.accepted.connect(
                lambda: self._adopt(replace(request, source_format=question.chosen))
            )
            question.open()
            return True

        def ended(job: Job[Outcome[AdoptResult]]) -> None:
            if job.state is JobState.FINISHED:
                self.begun.emit(self.add_source(request.tip, request.repository))

        def start(_plan: Plan) -> None:
            doing = partial(making.adopt_chain, request)
            self._runner.run(request.repository, title, doing, ended)

        make = partial(adopt.plan, request)
        self._runner.plan(request.repository, title, "Adopt", make, start, clarify=clarify)

    def retarget(
        self, entry: Entry, point: RecoveryPoint, wish: str, drivers: Path | None = None
    ) -> None:
        """Make a point's machine ready for other hardware."""
        sessions = self._machines.sessions_folder
        self._change(
            entry,
            f"Change the hardware of #{point.sequence} of {entry.title}",
            "Change its overlay",
            lambda repository, name: retarget.plan(repository, name, point.id, wish, drivers),
            lambda plan, task: care.retarget_point(plan, sessions, task),
        )

    def delete(self, entry: Entry, point: RecoveryPoint) -> None:
        """Delete a point."""
        sessions = self._machines.sessions_folder
        self._change(
            entry,
            f"Delete #{point.sequence} of {entry.title}",
            "Delete",
            lambda repository, name: delete.plan(repository, name, point.id),
            lambda plan, task: care.delete_point(plan, sessions, task),
        )

    def verify(self, entry: Entry, points: Sequence[RecoveryPoint]) -> None:
        """Check points against their digests; asks nothing, as nothing is changed."""
        ids = {entry.name: tuple(point.id for point in points)}
        which = f"#{points[0].sequence}" if len(points) == 1 else "all points"
        for moment in filter(None, map(entry.moment_of, points)):
            for name, point in moment.points.items():
                if name != entry.name:
                    ids[name] = (*ids.get(name, ()), point.id)
        for name, own in ids.items():
            doing = partial(care.verify_points, entry.repository, name, own)
            disk = f", {name}" if entry.machine else ""
            self._runner.run(entry.repository, f"Verify {which} of {entry.title}{disk}", doing)

    def repair(self, repository: Path) -> None:
        """Finish what was interrupted, and rebuild from the disks what is missing or damaged."""
        doing = partial(repositories.repair_all, repository, self._machines.sessions_folder)
        self._runner.run(repository, f"Repair {repository}", doing)

    def prove_boots(self, entry: Entry, point: RecoveryPoint) -> None:
        """Prove that a point boots; asks nothing, and waits for nothing but the test before."""
        self._test(entry.repository, entry.name, point, entry.title)

    def _test(self, repository: Path, set_name: str, point: RecoveryPoint, called: str) -> None:
        title = f"Boot test of {called} #{point.sequence}"
        doing = partial(care.boots, repository, set_name, point.id, self._machines.boot_test())
        self._runner.submit(self._runner.workers.tester(repository), repository, Job(title, doing))

    @property
    def _machines(self) -> Machines:
        settings = self._runner.store.value
        return Machines(
            settings.sessions(self._runner.store.locations), settings.memory_mib or None
        )

    @property
    def _pace(self) -> Pace:
        """Of a backup that somebody waits for: it gives way to nobody."""
        rate = self._runner.store.value.limit_mib << 20
        return Pace(Limit(rate) if rate > 0 else None)

    def _restore_machine(self, entry: Entry, moment: MomentPoints) -> None:
        """Write all disks of a machine to files in a folder that the user chooses."""
        dialog = MachineRestoreDialog(moment, self._runner.window)

        def plan() -> None:
            disk_format, overwrite = dialog.disk_format, dialog.overwrite
            folder, ignore_damage = dialog.target, dialog.ignore_damage

            def make(repository: Repository, _name: str) -> machine_restore.MachineRestorePlan:
                targets = machine_restore.targets_for(moment, [folder], disk_format)
                return machine_restore.plan(
                    repository,
                    moment,
                    targets,
                    disk_format=disk_format,
                    overwrite=overwrite,
                    ignore_damage=ignore_damage,
                )

            title = f"Restore moment {moment.moment.number} of {entry.title}"
            verb = "Overwrite and restore" if overwrite else "Restore"
            self._change(entry, title, verb, make, restoring.restore_machine)

        dialog.accepted.connect(plan)
        dialog.open()

    def restore(self, entry: Entry, point: RecoveryPoint) -> None:
        """Write a point to a file or device that the user chooses."""
        moment = entry.moment_of(point)
        if moment is not None and not moment.missing:  # else what there is of it
            self._restore_machine(entry, moment)
            return
        reader = self._runner.workers.reader(entry.repository)
        dialog = RestoreDialog(entry, point, reader, self._runner.window)

        def plan() -> None:
            wanted = partial(
                restore.RestoreRequest,
                point_id=point.id,
                target=dialog.target,
                disk_format=dialog.disk_format,
                overwrite=dialog.overwrite,
                ignore_damage=dialog.ignore_damage,
                delta=dialog.delta,
                partitions=dialog.partitions,
                resize=dialog.fits_size,
                journals=self._runner.store.locations.restores,
            )
            self._change(
                entry,
                f"Restore #{point.sequence} of {entry.title}",
                "Overwrite and restore" if dialog.overwrite else "Restore",
                lambda repository, name: restore.plan(wanted(repository, name)),
                restoring.restore_point,
            )

        dialog.accepted.connect(plan)
        dialog.open()

    def promote(self, saved: SavedSession, ask: bool) -> None:
        """Make a recovery point of what a virtual machine wrote; the session goes with that."""
        title = f"Make a recovery point of {saved.title}"
        try:
            repository = saved.origin.repository
        except VdbackupError as error:
            self.refused.emit(title, error)
            return

        def start(plan: promote.PromotionPlan | None) -> None:
            doing = partial(sessions.promote_session, plan, saved)
            self._runner.run(repository, title, doing, lambda _job: self.promoted.emit())

        if ask:
            make = partial(promote.plan, saved, not_running=True)
            self._runner.plan(repository, title, "Make the point", make, start)
        else:
            start(None)

    def change_policy(self, entry: Entry, change: policy.Change) -> None:
        """Change what a set does automatically, once the user has seen which points that takes."""
        backup_set = entry.backup_set
        if backup_set is None or change.of(present := backup_set.settings.policy) == present:
            return
        title = f"Policy of {entry.title}"

        def make() -> policy.PolicyPlan:
            return keeping.plan_policy(entry.repository, backup_set.name, change)

        def start(plan: policy.PolicyPlan) -> None:
            self._runner.run(entry.repository, title, partial(keeping.change_policy, plan))

        wanted = change.of(present)
        if not wanted.takes or wanted.retention == present.retention:  # takes nothing
            self._runner.plan(entry.repository, title, "", make, start, asks=False)
        elif wanted.keep is not None and wanted.retention == Policy(wanted.keep):
            kept = words.plural(wanted.keep, "point")
            newest = "point" if wanted.keep == 1 else kept
            asked = f"Keep only the newest {newest} of {entry.title}"
            self._runner.plan(entry.repository, asked, f"Keep {kept}", make, start)
        else:
            self._runner.plan(entry.repository, title, "Keep these", make, start)

    def change_schedule(
        self, entry: Entry, plan: SchedulePlan | None, removes: Schedule | None
    ) -> None:
        """Set a source's schedule as planned, or remove the one it has."""
        title = f"Schedule of {entry.title}"
        doing: Work[Outcome[ScheduleResult]]
        if plan is not None:
            doing = partial(keeping.set_schedule, plan, entry.name)
        elif removes is not None:
            doing = partial(keeping.remove_schedule, self._runner.store.schedules, removes)
        else:
            return
        self._runner.run(entry.repository, title, doing)

    def pin(self, entry: Entry, point: RecoveryPoint, note: str | None) -> None:
        """Let a point stay, for the reason in the note, or unpin it where there is none."""
        verb = "Unpin" if note is None else "Pin"
        doing = partial(keeping.pin, entry.repository, entry.name, point.id, note)
        title = f"{verb} #{point.sequence} of {entry.title}"
        self._runner.run(entry.repository, title, doing)

    def _on_interrupted(self, repository: Path) -> None:
        doing = partial(repositories.finish_merges, repository, self._machines.sessions_folder)
        self._runner.run(repository, "Finish what was interrupted", doing)

    def _change(
        self,
        entry: Entry,
        title: str,
        verb: str,
        make: Callable[[Repository, str], P],
        doing: Callable[[P, Task], Outcome[object]],
    ) -> None:
        """Plan something about a set that exists, ask, do it."""

        def plan() -> P:
            return make(Repository.open(entry.repository), entry.name)

        def start(plan: P) -> None:
            self._runner.run(entry.repository, title, partial(doing, plan))

        self._runner.plan(entry.repository, title, verb, plan, start)

    def refuse(self, title: str, error: VdbackupError) -> None:
        """Say that something cannot be done."""
        self.refused.emit(title, error)
