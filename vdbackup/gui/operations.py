"""What the user can have done to recovery points: each plans and does one thing (`runner.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QObject, Signal

from vdbackup.errors import VdbackupError
from vdbackup.gui import automatic, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import (
    care,
    changes,
    keeping,
    making,
    rehearsing,
    repositories,
    restoring,
    sessions,
    writes,
)
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.gui.machine_restore_dialog import MachineRestoreDialog
from vdbackup.gui.protecting import Protecting
from vdbackup.gui.restore_dialog import RestoreDialog
from vdbackup.gui.restore_files_dialog import RestoreFilesDialog
from vdbackup.gui.runner import Runner
from vdbackup.jobs import Job, Plan, Task
from vdbackup.operations import (
    convert,
    delete,
    file_choice,
    folding,
    machine_restore,
    merge,
    policy,
    promote,
    protection,
    put_back,
    restore,
    retarget,
    several,
    thinning,
)
from vdbackup.operations.rehearse import RehearsalPlan, Twin
from vdbackup.operations.restore_files import FilesPlan
from vdbackup.operations.schedules.arrange import SchedulePlan
from vdbackup.operations.written_logs import ReadLog
from vdbackup.recovery.checks import Check
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import WrittenPoint
from vdbackup.settings import KnownSource
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.text import printable
from vdbackup.translation import grouped, tr
from vdbackup.volumes.keys import Keys

P = TypeVar("P", bound=Plan)
T = TypeVar("T")


class Operations(QObject):
    """Starts everything else that changes a repository: what makes points is in `backups.py`.

    Attributes:
        protecting: what keeps more of a source than a point now and then.

    Signals:
        promoted(): a session has become a recovery point, or could not.
        restored(Path): a disk has been written over with a whole point.
        thinned(): of kept writes there are fewer now.
    """

    promoted = Signal()
    restored = Signal(object)
    thinned = Signal()

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.window)
        self._runner = runner
        self.protecting = Protecting(runner)
        runner.catalogue.interrupted.connect(self._on_interrupted)

    def merge(self, entry: Entry, point: RecoveryPoint) -> None:
        """Roll a point into its parent."""
        folder = self._sessions_folder
        self._change(
            entry,
            tr(
                "Merge #{point} of {entry} into {point_2}",
                point=point.sequence,
                entry=entry.title,
                point_2=entry.parent_of(point),
            ),
            tr("Merge"),
            lambda repository, name: merge.plan(repository, name, point.id),
            lambda plan, task: care.merge_point(plan, folder, task),
        )

    def merge_range(self, entry: Entry, points: Sequence[RecoveryPoint]) -> None:
        """Roll all points from the oldest of these to the newest into one."""
        folder, ids = self._sessions_folder, [point.id for point in points]
        self._change(
            entry,
            tr(
                "Merge #{first} to #{last} of {entry}",
                first=points[0].sequence,
                last=points[-1].sequence,
                entry=entry.title,
            ),
            tr("Merge"),
            lambda repository, name: several.plan_merge(repository, name, ids),
            lambda plan, task: care.merge_range(plan, folder, task),
        )

    def delete_several(self, entry: Entry, points: Sequence[RecoveryPoint]) -> None:
        """Delete several points."""
        folder, ids = self._sessions_folder, [point.id for point in points]
        self._change(
            entry,
            tr("Delete {count} points of {entry}", count=grouped(len(ids)), entry=entry.title),
            tr("Delete"),
            lambda repository, name: several.plan_delete(repository, name, ids),
            lambda plan, task: care.delete_several(plan, folder, task),
        )

    def convert(self, entry: Entry, disk_format: str) -> None:
        """Copy a set into a new one in another format."""
        self._change(
            entry,
            tr(
                "Convert {entry} to {disk_format}",
                entry=entry.title,
                disk_format=disk_format.upper(),
            ),
            tr("Convert"),
            lambda repository, name: convert.plan(repository, name, disk_format),
            making.convert_set,
        )

    def retarget(
        self, entry: Entry, point: RecoveryPoint, wish: str, drivers: Path | None = None
    ) -> None:
        """Make a point's machine ready for other hardware."""
        folder = self._sessions_folder
        self._change(
            entry,
            tr(
                "Change the hardware of #{point} of {entry}",
                point=point.sequence,
                entry=entry.title,
            ),
            tr("Change its overlay"),
            lambda repository, name: retarget.plan(repository, name, point.id, wish, drivers),
            lambda plan, task: care.retarget_point(plan, folder, task),
        )

    def delete(self, entry: Entry, point: RecoveryPoint) -> None:
        """Delete a point."""
        folder = self._sessions_folder
        self._change(
            entry,
            tr("Delete #{point} of {entry}", point=point.sequence, entry=entry.title),
            tr("Delete"),
            lambda repository, name: delete.plan(repository, name, point.id),
            lambda plan, task: care.delete_point(plan, folder, task),
        )

    def verify(self, entry: Entry, points: Sequence[RecoveryPoint]) -> None:
        """Check points against their digests; asks nothing, as nothing is changed."""
        ids = {entry.name: tuple(point.id for point in points)}
        which = f"#{points[0].sequence}" if len(points) == 1 else tr("all points")
        if 1 < len(points) < len(entry.points):
            which = tr("{count} points", count=grouped(len(points)))
        for moment in filter(None, map(entry.moment_of, points)):
            for name, point in moment.points.items():
                if name != entry.name:
                    ids[name] = (*ids.get(name, ()), point.id)
        for name, own in ids.items():
            doing = partial(care.verify_points, entry.repository, name, own)
            disk = f", {name}" if entry.machine else ""
            self._runner.run(
                entry.repository,
                tr("Verify {which} of {entry}{disk}", which=which, entry=entry.title, disk=disk),
                doing,
            )

    def repair(self, repository: Path) -> None:
        """Finish what was interrupted, and rebuild from the disks what is missing or damaged."""
        doing = partial(repositories.repair_all, repository, self._sessions_folder)
        self._runner.run(repository, tr("Repair {repository}", repository=repository), doing)

    def _restore_machine(self, entry: Entry, moment: MomentPoints) -> None:
        """Write each disk of a machine to where the user chooses."""
        reader = self._runner.workers.reader(entry.repository)
        dialog = MachineRestoreDialog(entry.repository, moment, reader, self._runner.window)

        def plan() -> None:
            wanted = partial(
                machine_restore.MachineRestoreRequest,
                moment=moment,
                targets=dialog.targets,
                disk_format=dialog.disk_format,
                overwrite=dialog.overwrite,
                ignore_damage=dialog.ignore_damage,
                journals=self._runner.store.locations.restores,
            )
            title = tr(
                "Restore moment {moment} of {entry}", moment=moment.moment.number, entry=entry.title
            )
            self._change(
                entry,
                title,
                tr("Overwrite and restore") if dialog.overwrite else tr("Restore"),
                lambda repository, _name: machine_restore.plan(wanted(repository)),
                restoring.restore_machine,
            )

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
        alone: list[int] = []

        def plan() -> None:
            alone.extend(dialog.partitions)
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
                tr("Restore {point} of {entry}", point=words.point_name(point), entry=entry.title),
                tr("Overwrite and restore") if dialog.overwrite else tr("Restore"),
                lambda repository, name: restore.plan(wanted(repository, name)),
                restoring.restore_point,
                ended,
            )

        def ended(job: Job[Outcome[restore.Restored]]) -> None:
            target = job.result.value.target if job.result else None
            if target is not None and target.is_block_device() and not alone:
                self.restored.emit(target)

        dialog.accepted.connect(plan)
        dialog.open()

    def restore_files(self, entry: Entry, point: RecoveryPoint) -> None:
        """Bring the files of a point back to where the user chooses."""
        reader = self._runner.workers.reader(entry.repository)
        dialog = RestoreFilesDialog(entry, point, reader, self._runner.window)
        title = tr("Restore files of #{point} of {entry}", point=point.sequence, entry=entry.title)

        def start(plan: FilesPlan) -> None:
            doing = partial(restoring.restore_chosen_files, plan)
            self._runner.run(entry.repository, title, doing)

        def ask() -> None:
            verb = tr("Replace and restore") if dialog.overwrite else tr("Restore")
            self._runner.ask(title, verb, dialog.plan, start)

        dialog.accepted.connect(ask)
        dialog.open()

    def put_back(
        self,
        entry: Entry,
        point: RecoveryPoint,
        paths: Sequence[str],
        keys: Keys,
        *,
        overwrite: bool,
    ) -> None:
        """Put files of a point back to where they came from."""

        def plan(repository: Repository, name: str) -> put_back.PutBackPlan:
            request = put_back.PutBackRequest(
                repository, name, point.id, tuple(paths), overwrite=overwrite, keys=keys
            )
            return put_back.plan(request, Task())

        self._change(
            entry,
            tr("Put back files of #{point} of {entry}", point=point.sequence, entry=entry.title),
            tr("Replace and put back") if overwrite else tr("Put back"),
            plan,
            restoring.put_files_back,
        )

    def change_choice(self, entry: Entry, wanted: Choice) -> None:
        """Have a set be of other files, once the user has seen what changes."""

        def ended(job: Job[Outcome[file_choice.ChoiceResult]]) -> None:
            if job.result is None:
                return
            now = KnownSource(job.result.value.source, entry.repository, entry.name)
            self._runner.store.update(
                lambda settings: settings.without_source(entry.source, entry.repository)
                .with_source(now)
            )  # fmt: skip
            self._runner.catalogue.refresh(entry.repository)

        self._change(
            entry,
            tr("Change the files of {entry}", entry=entry.title),
            tr("Change"),
            lambda repository, name: file_choice.plan(repository, name, wanted),
            keeping.change_choice,
            ended,
        )

    def promote(self, saved: SavedSession, ask: bool) -> None:
        """Make a recovery point of what a virtual machine wrote; the session goes with that."""
        title = tr("Make a recovery point of {saved}", saved=saved.title)
        try:
            repository = saved.origin.repository
        except VdbackupError as error:
            self._runner.refused.emit(title, error)
            return

        def start(plan: promote.PromotionPlan | None) -> None:
            doing = partial(sessions.promote_session, plan, saved)
            self._runner.run(repository, title, doing, lambda _job: self.promoted.emit())

        if ask:
            make = partial(promote.plan, saved, not_running=True)
            self._runner.plan(repository, title, tr("Make the point"), make, start)
        else:
            start(None)

    def change_policy(self, entry: Entry, change: policy.Change) -> None:
        """Change what a set does automatically, once the user has seen which points that takes."""
        automatic.change_policy(self._runner, entry, change)

    def change_schedule(self, entry: Entry, plan: SchedulePlan | None, *, removes: bool) -> None:
        """Set a source's schedule as planned, or remove the one it has."""
        automatic.change_schedule(self._runner, entry, plan, removes=removes)

    def pin(self, entry: Entry, point: RecoveryPoint, note: str | None) -> None:
        """Let a point stay, for the reason in the note, or unpin it where there is none."""
        verb = tr("Unpin") if note is None else tr("Pin")
        doing = partial(keeping.pin, entry.repository, entry.name, point.id, note)
        title = tr("{verb} #{point} of {entry}", verb=verb, point=point.sequence, entry=entry.title)
        self._runner.run(entry.repository, title, doing)

    def bisect(self, entry: Entry, between: tuple[str, str], check: Check) -> None:
        """Find the first point that a check calls bad; waits for nothing but the test before."""
        doing = partial(changes.bisect, entry.repository, entry.name, check, between)
        job = Job(tr("Find when {entry} stopped working", entry=entry.title), doing)
        self._runner.submit(self._runner.workers.tester(entry.repository), entry.repository, job)

    def rehearse(
        self, entry: Entry, point: RecoveryPoint, wanted: Path | Twin, folder: Path | None
    ) -> None:
        """Do all of a restore beforehand; waits for nothing but the test before."""
        title = tr(
            "Rehearse a restore of #{point} of {entry}", point=point.sequence, entry=entry.title
        )
        machines = self._runner.store.machines

        def start(plan: RehearsalPlan) -> None:
            job = Job(title, partial(rehearsing.rehearse_restore, plan, machines.boot_test()))
            tester = self._runner.workers.tester(entry.repository)
            self._runner.submit(tester, entry.repository, job)

        make = partial(
            rehearsing.plan,
            entry.repository,
            entry.name,
            point.id,
            wanted,
            machines.memory_mib,
            folder,
        )
        self._runner.plan(entry.repository, title, tr("Rehearse"), make, start)

    def keep_moment(self, entry: Entry, moment: WrittenPoint) -> None:
        """Make a recovery point of a moment behind a point."""
        folder = self._sessions_folder
        self._change(
            entry,
            tr("Keep {moment} of {entry}", moment=words.point_name(moment), entry=entry.title),
            tr("Make the point"),
            lambda repository, name: protection.plan_point(repository, name, moment.id),
            lambda plan, task: writes.keep_moment(plan, folder, task),
        )

    def fold_moment(self, entry: Entry, moment: WrittenPoint) -> None:
        """Make a recovery point of a moment, and thin the writes that led there."""
        folder = self._sessions_folder
        self._change(
            entry,
            tr("Keep {moment} of {entry}", moment=words.point_name(moment), entry=entry.title),
            tr("Make the point"),
            lambda repository, name: folding.plan_point(repository, name, moment, folder),
            lambda plan, task: writes.fold_moment(plan, folder, task),
            lambda _job: self.thinned.emit(),
        )

    def thin_writes(self, entry: Entry, log: ReadLog, within: int, every: int) -> None:
        """Delete moments of a log that lie close together; the times are in seconds."""
        title = tr("Thin the writes of {title}", title=printable(log.kept.protection.title))
        folder = self._sessions_folder
        self._change(
            entry,
            title,
            tr("Thin"),
            lambda repository, name: thinning.plan(
                repository, name, log.session, folder, within, every
            ),
            lambda plan, task: writes.thin(plan, folder, task),
            lambda _job: self.thinned.emit(),
        )

    def forget_writes(self, entry: Entry, log: ReadLog) -> None:
        """Delete the writes that a log holds."""
        title = tr("Forget the writes of {title}", title=printable(log.kept.protection.title))
        folder = self._sessions_folder
        self._change(
            entry,
            title,
            tr("Forget"),
            lambda repository, name: protection.plan_forget(repository, name, log.session, folder),
            lambda plan, task: writes.forget(plan, folder, task),
        )

    @property
    def _sessions_folder(self) -> Path:
        return self._runner.store.machines.sessions_folder

    def _on_interrupted(self, repository: Path) -> None:
        doing = partial(repositories.finish_merges, repository, self._sessions_folder)
        self._runner.run(repository, tr("Finish what was interrupted"), doing)

    def _change(
        self,
        entry: Entry,
        title: str,
        verb: str,
        make: Callable[[Repository, str], P],
        doing: Callable[[P, Task], Outcome[T]],
        then: Callable[[Job[Outcome[T]]], None] = lambda _job: None,
    ) -> None:
        """Plan something about a set that exists, ask, do it."""

        def plan() -> P:
            return make(Repository.open(entry.repository), entry.name)

        def start(plan: P) -> None:
            self._runner.run(entry.repository, title, partial(doing, plan), then)

        self._runner.plan(entry.repository, title, verb, plan, start)
