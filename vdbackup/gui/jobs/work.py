"""The work behind the buttons: calls of the engine that a job runs, with what to tell of them.

Each returns a plan or an `Outcome`, takes plain values, and knows nothing of Qt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.disks.chain import Chain
from vdbackup.errors import NoSystem, VdbackupError
from vdbackup.gui import remedies, words
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Plan, Task
from vdbackup.operations import (
    adopt,
    backup,
    boot_test,
    convert,
    delete,
    machine_backup,
    machine_restore,
    merge,
    opening,
    pins,
    policy,
    promote,
    repair,
    restore,
    retarget,
)
from vdbackup.operations.adopt import AdoptRequest, AdoptResult
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.changed import NOTHING, Changed
from vdbackup.operations.convert import ConvertPlan, ConvertResult
from vdbackup.operations.delete import DeleteMomentPlan, DeletePlan, DeleteResult
from vdbackup.operations.machine_backup import MachineRequest, MachineResult
from vdbackup.operations.machine_restore import MachineRestorePlan
from vdbackup.operations.machines import Machines
from vdbackup.operations.merge import MergeMomentPlan, MergePlan, MergeResult
from vdbackup.operations.opening import Finished
from vdbackup.operations.pins import PinResult
from vdbackup.operations.policy import PolicyPlan, PolicyResult
from vdbackup.operations.promote import PromotionPlan, PromotionResult
from vdbackup.operations.repair import RepairResult
from vdbackup.operations.restore import Restored, RestorePlan, RestoreTarget
from vdbackup.operations.retarget import RetargetResult
from vdbackup.operations.schedules import arrange
from vdbackup.operations.schedules.arrange import SchedulePlan, ScheduleResult
from vdbackup.operations.schedules.store import Schedule
from vdbackup.operations.schedules.store import Store as Schedules
from vdbackup.pace import Pace
from vdbackup.recovery import verify
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.mount import background, mounting
from vdbackup.recovery.mount.mounting import Mounted
from vdbackup.recovery.sessions import elsewhere
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.recovery.verify import Verdict
from vdbackup.repository import claims
from vdbackup.repository.model import BootTest, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.inventory import Content
from vdbackup.text import printable

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.browse import Entry, FileBrowser
    from vdbackup.recovery.history.versions import Versions
    from vdbackup.recovery.retarget.retarget import RetargetPlan
    from vdbackup.repository.backup_set import BackupSet

DEMO_MESSAGE = "Hello from the vdbackup demo disk."


def facts(point: RecoveryPoint) -> tuple[str, ...]:
    """A new point's details, a line each."""
    return (
        f"Recovery point #{point.sequence} ({point.type.value}), {point.id}",
        f"Made {words.when_exactly(point.created)}",
        f"{words.size(point.stored_bytes)} of {words.size(point.virtual_size)} in {point.disk}",
    )


def _said_of(trouble: Iterable[VdbackupError]) -> tuple[str, ...]:
    """What went wrong beside what was done."""
    return tuple(map(remedies.sentences, trouble))


def back_up(
    request: BackupRequest, machines: Machines, pace: Pace, task: Task
) -> Outcome[BackupResult]:
    """Make a recovery point at a pace."""
    made = backup.back_up(request, machines, task.at(pace))
    return Outcome(
        f"Point #{made.point.sequence} made: {made.point.type.value}, {_stored(made)}.",
        (*facts(made.point), *made.notes),
        (*made.warnings, *_said_of(made.trouble)),
        value=made,
        changed=made.changed,
    )


def back_up_machine(
    request: MachineRequest, machines: Machines, pace: Pace, task: Task
) -> Outcome[MachineResult]:
    """Make a moment of a machine at a pace."""
    made = machine_backup.back_up(request, machines, task.at(pace))
    number, disks = made.moment.moment.number, words.plural(len(made.disks), "disk")
    said = [f"{disk.set_name}: {each}" for disk in made.disks for each in disk.notes]
    return Outcome(
        f"Moment {number} of {made.machine.name} made, of {disks}.",
        (*(fact for disk in made.disks for fact in facts(disk.point)), *said, *made.notes),
        (*made.warnings, *_said_of(made.trouble)),
        value=made,
        changed=made.changed,
    )


def _stored(made: BackupResult) -> str:
    """How much a new point holds, in words; somebody may merge the one before meanwhile."""
    point = made.point
    if point.stored_bytes or point.parent is None:
        return f"{words.size(point.stored_bytes)} stored"
    try:
        before = made.repository.set(made.set_name).point(point.parent)
    except (VdbackupError, OSError):  # the new one is there all the same
        return "nothing has changed"
    return f"nothing has changed since #{before.sequence}"


def open_backups(folder: Path, _task: Task) -> Path:
    """The folder, if it holds backups."""
    return Repository.open(folder).path


def plan_leaving(folder: Path, names: Sequence[str]) -> Plan:
    """What taking a repository out of the window means: nothing of it is changed."""
    return Plan(
        f"These leave the list, and nothing is deleted: {', '.join(names)}. Their backups stay in "
        f"{folder}; “Open backups…” shows them again."
    )


def make_demo_disk(image: Path, _task: Task) -> Outcome[Path]:
    """Make the demo disk unless it is there already; its path."""
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        demo_disk.create(image, DEMO_MESSAGE)
    return Outcome(f"The demo disk is {image}.", value=image)


def merge_point(
    plan: MergePlan | MergeMomentPlan, sessions_folder: Path, task: Task
) -> Outcome[MergeResult]:
    """Roll a point into its parent."""
    merged = merge.run(plan, sessions_folder, task)
    return Outcome(
        f"Merged: point #{merged.point.sequence} now holds what its parent held.",
        (*facts(merged.point), merged.way.sentence),
        _said_of(merged.trouble),
        value=merged,
        changed=merged.changed,
    )


def finish_merges(folder: Path, sessions_folder: Path, task: Task) -> Outcome[Finished]:
    """Finish what a crash, or a cancel, has left in a repository."""
    done = opening.finish(Repository.open(folder), sessions_folder, task)
    warnings = (*done.done, *_said_of((*done.undone, *done.trouble)))
    sentence = "What was begun has been looked after."
    return Outcome(sentence, (), warnings, value=done, changed=done.changed)


def convert_set(plan: ConvertPlan, task: Task) -> Outcome[ConvertResult]:
    """Copy a set into a new one in another format."""
    made = convert.run(plan, task)
    sentence = f"Converted: {_set_in_words(made.backup_set)}. Later backups go on in it."
    return Outcome(sentence, value=made, changed=made.changed)


def adopt_chain(request: AdoptRequest, task: Task) -> Outcome[AdoptResult]:
    """Make a set of another program's chain."""
    made = adopt.adopt(request, task)
    sentence = f"Adopted: {_set_in_words(made.backup_set)}."
    return Outcome(sentence, value=made, changed=made.changed)


def _set_in_words(made: BackupSet) -> str:
    return f"the set {made.name} holds {words.plural(len(made.points), 'point')}"


def retarget_point(
    plan: RetargetPlan, sessions_folder: Path, task: Task
) -> Outcome[RetargetResult]:
    """Make a point's machine ready for other hardware."""
    done = retarget.run(plan, sessions_folder, task)
    if done.report is None:
        return Outcome("Its overlay is empty again.", value=done, changed=done.changed)
    hardware = done.report.hardware
    changed = tuple(f"{each.volume}:{each.path}" for each in done.report.changes)
    doubts = tuple(f"{each.sentence} {each.advice}".rstrip() for each in hardware.problems)
    sentence = f"Ready for other hardware: {words.plural(len(changed), 'file')} changed."
    details = (*hardware.reasons, *changed, *done.report.notes)
    return Outcome(sentence, details, doubts, value=done, changed=done.changed)


def repair_all(folder: Path, sessions_folder: Path, task: Task) -> Outcome[RepairResult]:
    """Finish what was interrupted, and rebuild metadata; what was done is said in the details."""
    repaired = repair.run(folder, sessions_folder, task)
    sentence = f"Repaired: {words.plural(len(repaired.done), 'thing')} done."
    if not repaired.done:
        sentence = "Nothing was repaired." if repaired.undone else "Nothing had to be repaired."
    warnings = _said_of((*repaired.undone, *repaired.trouble))
    return Outcome(sentence, repaired.done, warnings, value=repaired, changed=repaired.changed)


def delete_point(
    plan: DeletePlan | DeleteMomentPlan, sessions_folder: Path, task: Task
) -> Outcome[DeleteResult]:
    """Delete a point."""
    deleted = delete.run(plan, sessions_folder, task)
    return Outcome(
        f"Deleted: {', '.join(plan.invalidates)}.",
        plan.replaces,
        _said_of(deleted.trouble),
        value=deleted,
        changed=deleted.changed,
    )


def plan_discard(saved: SavedSession, written: int) -> Plan:
    """What discarding a session would take; nothing of a recovery point is."""
    started = words.when(saved.record.started.isoformat())
    machines = elsewhere.registered_in(saved.folder)
    losing = "".join(f" Its disk goes, and {each} stays without it." for each in machines)
    return Plan(
        f"The virtual machine was started from {saved.title}, {started}. What it wrote since then "
        f"is deleted and cannot be brought back; the recovery point stays as it is.{losing}",
        invalidates=(f"{words.size(written)} in {saved.folder}",),
    )


def promote_session(
    plan: PromotionPlan | None, saved: SavedSession, task: Task
) -> Outcome[PromotionResult]:
    """Make a recovery point of a session, which then goes.

    Who agrees to the plan, or is asked when the machine ends, says that it does not run.
    """
    result = promote.run(plan or promote.plan(saved, not_running=True), task)
    made = f"Point #{result.point.sequence} made of {saved.title}."
    warnings = _said_of(result.trouble)
    return Outcome(made, facts(result.point), warnings, value=result, changed=result.changed)


def targets(folder: Path, set_name: str, needed: int) -> list[RestoreTarget]:
    """Where a point that needs so many bytes could be restored to."""
    return restore.targets(Repository.open(folder), set_name, needed)


def parts_of(folder: Path, set_name: str, point_id: str, _task: Task) -> tuple[Content, ...]:
    """The partitions of the disk in a point."""
    return restore.parts(Repository.open(folder), set_name, point_id)


def restore_point(plan: RestorePlan, task: Task) -> Outcome[Restored]:
    """Write a point to a file or a device."""
    restored = restore.run(plan, task)
    details = (plan.summary, restored.figures.sentence) if plan.in_place else (plan.summary,)
    return Outcome(
        f"Restored to {plan.target}.",
        details,
        restored.warnings,
        value=restored,
        changed=NOTHING,
    )


def restore_machine(plan: MachineRestorePlan, task: Task) -> Outcome[Path]:
    """Write all disks of a moment to files; the folder of the first."""
    warnings = machine_restore.run(plan, task)
    targets = [each.target for each in plan.disks]
    said = ", ".join(map(str, targets))
    return Outcome(f"Restored to {said}.", (plan.summary,), warnings, value=targets[0].parent)


def verify_points(
    folder: Path, set_name: str, ids: tuple[str, ...], task: Task
) -> Outcome[list[Verdict]]:
    """Check points against their digests."""
    plan = verify.plan(Repository.open(folder), set_name, ids)
    verdicts = verify.run(plan, task)
    changed = Changed.only(set_name)  # it is noted in the points
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if not bad:
        checked = words.plural(len(verdicts), "point")
        sentence = f"{checked} verified: all data is as it was captured."
        return Outcome(sentence, value=verdicts, changed=changed)
    numbers = ", ".join(f"#{verdict.point.sequence}" for verdict in bad)
    details = tuple(
        f"#{verdict.point.sequence}: {finding.file}: {finding.problem}"
        + ("" if finding.offset is None else f" (byte {finding.offset})")
        for verdict in bad
        for finding in verdict.findings
    )
    warning = (
        f"Damaged: {numbers}. Use another point, and check the storage that the backups lie on."
    )
    sentence = f"{words.plural(len(verdicts), 'point')} verified."
    return Outcome(sentence, details, (warning,), value=verdicts, changed=changed)


def boots(
    folder: Path, set_name: str, point_id: str, request: BootTestOptions, task: Task
) -> Outcome[BootTest | NoSystem]:
    """Boot a point unseen."""
    tested = boot_test.run(Repository.open(folder), set_name, point_id, request, task)
    changed = Changed.only(set_name)  # it is noted in the point
    if isinstance(tested, NoSystem):  # nothing has failed
        return Outcome(remedies.sentences(tested), value=tested, changed=changed)
    if tested.ok:
        sentence = f"It boots, in {tested.seconds:.1f} s."
        return Outcome(sentence, (tested.sentence,), value=tested, changed=changed)
    where = f"It does not boot: it stopped at the stage {tested.stage}. {tested.sentence}"
    return Outcome("Boot-tested.", (), (where,), value=tested, changed=changed)


class Browser:
    """The files in a point; all methods are called on one thread, after another."""

    def __init__(self, folder: Path, set_name: str, point_id: str) -> None:
        self._what = (folder, set_name, point_id)
        self._point = ExitStack()
        self._chain: Chain | None = None
        self._open: FileBrowser | None = None

    def listing(self, path: str) -> list[tuple[str, Entry]]:
        """The entries of a folder with what to call them, folders first."""
        from vdbackup.recovery.browse import FileBrowser

        if self._open is None:
            self._open = FileBrowser(self._disk)
        browser = self._open
        entries = browser.listing(path)
        entries.sort(key=lambda entry: (entry.kind != "folder", entry.name.lower()))
        systems = {each.name: each.filesystem for each in browser.volumes()} if path == "/" else {}
        return [
            (
                printable(
                    f"{entry.name} ({systems[entry.name] or 'unknown contents'})"
                    if entry.name in systems
                    else entry.name
                ),
                entry,
            )
            for entry in entries
        ]

    def search(self, text: str, task: Task) -> list[tuple[str, Entry]]:
        """Files whose names hold a text, with what to call them: their paths."""
        from vdbackup.recovery.history import find

        return [(printable(each.path), each) for each in find.in_disk(self._disk, text, task)]

    @property
    def _disk(self) -> Chain:
        """The point's, opened when it is first needed."""
        if self._chain is None:
            opened = open_point(*self._what, "showing the files of")
            self._chain = self._point.enter_context(opened)
        return self._chain

    def warnings(self, path: str) -> tuple[str, ...]:
        """Why what a folder shows may not be the newest; it was listed before."""
        return self._open.warnings([path]) if self._open else ()

    def close(self) -> None:
        """Close the point's disks, and let them be changed again."""
        self._chain = self._open = None
        self._point.close()


def versions(folder: Path, set_name: str, path: str, task: Task) -> Versions:
    """Each state of a file over a set's points."""
    from vdbackup.recovery.history import versions

    return versions.versions(Repository.open(folder), set_name, path, task)


class PointFolder:
    """A point that can be a folder of this computer; its methods are called on one thread.

    Attributes:
        where: the folder, which is made and goes again.
        stays: whether it is left when nobody browses the point any more.
    """

    def __init__(self, folder: Path, set_name: str, point_id: str, where: Path) -> None:
        self._what = (folder, set_name, point_id)
        self.where = where
        self.stays = self.is_mounted

    @property
    def is_mounted(self) -> bool:
        """Whether it shows the point; an earlier window may have left it so."""
        return mounting.is_mounted(self.where)

    def mount(self, _task: Task) -> Mounted:
        """Show the point; raises what `recovery.mount.background.start` does."""
        self.where.mkdir(mode=0o700, parents=True, exist_ok=True)
        return background.start(*self._what, self.where)

    def unmount(self, _task: Task) -> None:
        """Show it no more; raises what `recovery.mount.mounting.unmount` does."""
        mounting.unmount(self.where)
        self._remove()

    def close(self) -> None:
        """Let go of it where it is not to stay; whoever has a file of it open can go on."""
        if not self.stays and self.is_mounted:
            mounting.detach(self.where)
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):  # it is no more than an empty folder
            self.where.rmdir()


def open_point(
    folder: Path, set_name: str, point_id: str, doing: str
) -> AbstractContextManager[Chain]:
    """A point's disk, which nobody changes meanwhile; `doing` says what for, before its name."""
    repository = Repository.open(folder)
    point = repository.set(set_name).point(point_id)
    what = f"{doing} point {point.sequence}"
    return claims.open_point(repository, set_name, point_id, what)


def extract(
    folder: Path,
    set_name: str,
    point_id: str,
    paths: Sequence[str],
    destination: Path,
    task: Task,
) -> Outcome[Path]:
    """Copy files out of a point; the destination."""
    from vdbackup.recovery.browse import FileBrowser
    from vdbackup.repository import checked

    repository = Repository.open(folder)
    point = repository.set(set_name).point(point_id)
    doing = f"extracting files of point {point.sequence}"
    with checked.open_point(repository, set_name, point_id, doing) as disk:
        warnings = FileBrowser(disk).extract(paths, destination, task)
    sentence = f"{words.plural(len(paths), 'item')} extracted to {destination}."
    return Outcome(sentence, tuple(paths), tuple(warnings), value=destination)


def plan_policy(folder: Path, set_name: str, change: policy.Change) -> PolicyPlan:
    """What a change of a set's policy would mean, its points called as they are here."""
    plan = policy.plan(Repository.open(folder), set_name, change)
    titles = (
        words.point_title(group.points[set_name])
        if group.points.keys() == {set_name}
        else group.name
        for group in plan.goes
    )
    return replace(plan, invalidates=tuple(titles))


def pin(
    folder: Path, set_name: str, point_id: str, note: str | None, task: Task
) -> Outcome[PinResult]:
    """Let a point stay, or be like any other again; asks nothing, as nothing goes by it."""
    result = pins.run(pins.plan(Repository.open(folder), set_name, point_id, note), task)
    return Outcome(result.sentence, value=result, changed=result.changed)


def set_schedule(plan: SchedulePlan, name: str, task: Task) -> Outcome[ScheduleResult]:
    """Have a set backed up automatically."""
    result = arrange.run(plan, task)
    by_cron = f"systemd does not run here. A line for your crontab does the same: {result.cron}"
    warnings = (by_cron,) if result.cron else _not_taken(result.trouble)
    return Outcome(
        plan.summary, tuple(plan.texts), warnings, value=result, changed=Changed.only(name)
    )


def remove_schedule(store: Schedules, schedule: Schedule, _task: Task) -> Outcome[ScheduleResult]:
    """Have it backed up automatically no more."""
    result = arrange.remove(store, schedule)
    sentence = f"{schedule.set_name} is backed up automatically no more. Its backups stay."
    lines = (f"Remove this line from your crontab: {result.cron}",) if result.cron else ()
    changed = Changed.only(schedule.set_name)
    return Outcome(sentence, lines, _not_taken(result.trouble), value=result, changed=changed)


def _not_taken(trouble: str) -> tuple[str, ...]:
    return (f"systemd did not take it: {trouble}",) if trouble else ()


def change_policy(plan: PolicyPlan, task: Task) -> Outcome[PolicyResult]:
    """Change what a set does automatically."""
    result = policy.run(plan, task)
    sentence = " ".join(result.sentences) or plan.summary
    return Outcome(sentence, value=result, changed=result.changed)
