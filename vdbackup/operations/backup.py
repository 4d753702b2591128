"""Back up: capture, then what the set's policy wants done with the new point.

Order: the point is captured and published; older ones are merged (both in backup/capture.py); the
new one is made ready to boot; other programs' machines learn what was merged (relinking.py). From
the publication on nothing costs the point: what goes wrong is a warning. A boot test takes minutes
and gives way to whoever writes, so it is an operation of its own (boot_test.py), which whoever
backed up starts where the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import capture, retention
from vdbackup.backup.belonging import said_before, size_before
from vdbackup.backup.capture import CapturePlan
from vdbackup.backup.kind import AUTO
from vdbackup.errors import NotOneMachine, Remedy, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations import placement, policy
from vdbackup.operations.changed import Changed
from vdbackup.operations.following_up import follow_up
from vdbackup.operations.machines import Machines
from vdbackup.operations.request import Request
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted
from vdbackup.sources.opening import Hints, HintsOfFiles, open_source
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import grouped, tr

__all__ = [
    "AUTO",
    "BackupRequest",
    "BackupResult",
    "CapturePlan",
    "back_up",
    "plan",
    "planned",
    "run",
    "source_of",
]


@dataclass(frozen=True)
class BackupRequest(Request):
    """What is asked for of one source; None leaves it to the capture, or to the set.

    Attributes:
        source: what is backed up.
        repository: the folder that holds the backups.
        set_name: the set that it goes into.
        source_format: what the user says that the source is, "raw" or a format.
        seen: the folder held backups, so that it is never begun anew: its drive may have been
            unplugged.
    """

    source: SourceRef
    repository: Path
    set_name: str | None = None
    source_format: str | None = None
    seen: bool = False


@dataclass(frozen=True)
class BackupResult:
    """What a backup did.

    Attributes:
        point: the new recovery point, as it is after the policy.
        notes: what else was done, a sentence each.
        warnings: what was not as it should be.
        to_be_tested: the set wants a boot test of the point, and nobody has cancelled.
        to_be_indexed: the sets that want the names in their new points noted, likewise.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    repository: Repository
    set_name: str
    point: RecoveryPoint
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    to_be_tested: bool
    to_be_indexed: tuple[str, ...]
    changed: Changed
    trouble: tuple[VdbackupError, ...]


@contextmanager
def planned(request: BackupRequest) -> Iterator[CapturePlan]:
    """What the backup would do; its source is open meanwhile, for `run`. Makes the repository.

    Raises:
        SourceError, DiskError: the source cannot be read; UnclearFormat, OtherSource where only the
            user knows what it is, or whether it is the set's.
        BackupError, RepositoryError: it cannot be backed up there, and why.
    """
    where = (request.repository, request.source, request.set_name)
    of_files = HintsOfFiles(
        size_before(*where),
        (request.repository,),
        request.read_all,
        request.consistency is not Wanted.AS_IS,
    )
    hints = Hints(request.parents_in, request.source_format, said_before(*where), of_files)
    is_files = request.source.is_files
    with open_source(request.source, hints) as source:
        repository = placement.repository_for(source, request.repository, seen=request.seen)
        plan = capture.plan(
            repository,
            source,
            set_name=request.set_name,
            kind=request.kind,
            disk_format=request.disk_format,
            same_source=request.same_source,
            consistency=_consistency(request),
            read_all=request.read_all and not is_files,  # of files it says which are read
            all_blocks=request.all_blocks or is_files,  # nothing is read of what is free there
        )
        _check_alone(repository, plan)
        plan = replace(plan, merges=request.merges)
        yield _placed(_with_policy(plan, request.policy), request)


def _consistency(request: BackupRequest) -> Wanted:
    """What the point is to be; of files their source knows that nothing is to be done for it."""
    as_is = request.source.is_files and request.consistency is Wanted.AS_IS
    return Wanted.AUTO if as_is else request.consistency


def source_of(folder: Path, set_name: str | None) -> SourceRef:
    """What a set holds the backups of, to be backed up again; raises RepositoryError.

    Args:
        folder: the repository's.
        set_name: the set; may be None where there is only one.
    """
    return SourceRef.parse(Repository.open(folder).set(set_name).settings.source.path)


def _check_alone(repository: Repository, plan: CapturePlan) -> None:
    """Raise NotOneMachine where the source is a machine's disk, and would be of another moment."""
    if plan.new_set:
        return
    machine = KnownMachines.of(repository).with_set(repository.set(plan.set_name))
    if machine is not None:
        raise NotOneMachine(
            tr(
                "{source} is a disk of the machine {machine}: all its disks are backed up "
                "together.",
                source=plan.source.title,
                machine=machine.name,
            ),
            tr("Back the machine up."),
            remedy=Remedy.BACK_UP_MACHINE,
            about=machine.name,
        )


def plan(request: BackupRequest) -> CapturePlan:
    """The same, to be shown: its source is closed."""
    with planned(request) as plan:
        return plan


def run(plan: CapturePlan, machines: Machines, task: Task) -> BackupResult:
    """Make the point, and make it ready to boot. Closes the plan's source when it is read.

    A capture that fails or is cancelled leaves all as it was. Cancelled later, the point stays.
    """
    from vdbackup.recovery.retarget.policy import for_new_point  # late: it takes long to import

    with plan.source:
        made = capture.run(plan, task)
    repository, name = plan.repository, made.set_name
    folder = machines.sessions_folder
    unready = for_new_point(repository, name, made.point.id, folder, task)
    # where the source may be another one, nothing goes
    thins = plan.merges and not plan.confirmed
    followed = follow_up(repository, [name], folder, task, thins=thins)
    return BackupResult(
        repository,
        name,
        made.point,
        (*made.notes, *followed.done),
        made.warnings,
        made.policy.boot_test is BootTests.EACH and not task.cancel.cancelled,
        (name,) if made.policy.index and not task.cancel.cancelled else (),
        Changed.only(name),
        (*unready, *followed.trouble),
    )


def back_up(request: BackupRequest, machines: Machines, task: Task) -> BackupResult:
    """Plan anew and run: where nothing was shown, or what was shown may be out of date."""
    with planned(request) as plan:
        return run(plan, machines, task)


def _with_policy(plan: CapturePlan, change: policy.Change) -> CapturePlan:
    """The plan with what the change of the policy takes: it was never shown before."""
    backup_set = None if plan.new_set else plan.repository.set(plan.set_name)
    now = backup_set.settings.policy if backup_set else Policy()
    wanted = change.of(now)
    if wanted == now:
        return plan
    takes: tuple[RecoveryPoint, ...] = ()
    thinned: tuple[str, ...] = ()
    if backup_set and not plan.confirmed:
        takes = policy.taken(plan.repository, backup_set, wanted, datetime.now(UTC))
        thinned = policy.thinned(plan.repository, [backup_set], wanted, datetime.now(UTC))
    names = tuple(tr("point {point}", point=point.sequence) for point in takes)
    summary = plan.summary
    if backup_set and (why := retention.untold(backup_set, wanted)):
        summary += tr(" {why}: how many it keeps stays as it is.", why=why)
    if takes:
        summary += tr(
            " Of the older points {count} no longer stay by its new policy.",
            count=grouped(len(takes)),
        )
    if thinned:
        summary += tr(" By it there go: {names}.", names="; ".join(thinned))
    return replace(plan, summary=summary, policy=wanted, invalidates=(*names, *thinned))


def _placed(plan: CapturePlan, request: BackupRequest) -> CapturePlan:
    """The plan with what is to be said of the folder, when a set is begun there."""
    warnings: tuple[str, ...] = ()
    if plan.new_set:
        with suppress(OSError):  # nothing can be said of it, then
            warnings = placement.judge(request.source, request.repository).warnings
    return replace(plan, summary=" ".join((plan.summary, *warnings)))
