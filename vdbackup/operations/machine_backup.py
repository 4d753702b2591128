"""Back up a machine: all its disks as of one moment, then what backup.py does with each new point.

A machine that is known already is backed up by its name alone: its sets know their sources. One of
those that is missing, or is another disk by now, stops it: no moment is made without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.backup import machine_capture, machine_retention, retention
from vdbackup.backup.belonging import said_before
from vdbackup.backup.capture import CaptureResult
from vdbackup.backup.machine_capture import MachinePlan
from vdbackup.errors import NotOneMachine, SourceError, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations import placement, policy
from vdbackup.operations.changed import Changed
from vdbackup.operations.following_up import follow_up
from vdbackup.operations.machines import Machines
from vdbackup.operations.request import Request
from vdbackup.repository.machine import KnownMachines, Machine, MomentPoints, record_name
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources.opening import Hints, open_source
from vdbackup.sources.reference import SourceRef
from vdbackup.sources.source import Source
from vdbackup.translation import grouped, tr

__all__ = ["MachinePlan", "MachineRequest", "MachineResult", "back_up", "plan", "planned", "run"]


@dataclass(frozen=True)
class MachineRequest(Request):
    """What is asked for of a machine: `same_source` is of the disks that it is known by.

    Attributes:
        name: the machine's.
        repository: the folder that holds the backups.
        sources: all of its disks, that which it starts from first; none where it is known.
    """

    name: str
    repository: Path
    sources: tuple[SourceRef, ...] = ()


@dataclass(frozen=True)
class MachineResult:
    """What a backup of a machine did.

    Attributes:
        moment: its points, as they are after the policy.
        disks: what was done for each of them.
        notes: what was done to all, a sentence each.
        warnings: what was not as it should be, of any of them.
        to_be_tested: it wants a boot test of the moment, and nobody has cancelled.
        to_be_indexed: the sets that want the names in their new points noted, likewise.
        changed: what is to be read again.
        trouble: what went wrong after it, and costs no point.
    """

    repository: Repository
    machine: Machine
    moment: MomentPoints
    disks: tuple[CaptureResult, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    to_be_tested: bool
    to_be_indexed: tuple[str, ...]
    changed: Changed
    trouble: tuple[VdbackupError, ...]

    @property
    def point(self) -> RecoveryPoint:
        """Of the disk that the machine starts from."""
        return self.disks[0].point

    @property
    def set_name(self) -> str:
        """Of that disk."""
        return self.disks[0].set_name


@contextmanager
def planned(request: MachineRequest) -> Iterator[MachinePlan]:
    """What the backup would do; its sources are open meanwhile, for `run`. Makes the repository.

    Raises:
        MachineNotFound: no source is named, and there is no such machine.
        SourceError, DiskError, BackupError, RepositoryError: as `backup.planned` does, of any disk.
    """
    set_names = None
    refs = request.sources
    if not refs:
        set_names, refs = _known(request)
    with ExitStack() as stack:
        sources = [
            _opened(stack, request, ref, set_names[number] if set_names else None)
            for number, ref in enumerate(refs)
        ]
        for source in sources:
            repository = placement.repository_for(source, request.repository)
        plan = machine_capture.plan(
            repository,
            sources,
            request.name,
            set_names=set_names,
            kind=request.kind,
            disk_format=request.disk_format,
            same_source=request.same_source,
            consistency=request.consistency,
            read_all=request.read_all,
            all_blocks=request.all_blocks,
        )
        yield _with_policy(replace(plan, merges=request.merges), request.policy)


def _known(request: MachineRequest) -> tuple[tuple[str, ...], tuple[SourceRef, ...]]:
    repository = Repository.open(request.repository)
    found = KnownMachines.of(repository).named(request.name)
    paths = [repository.settings(name).source.path for name in found.sets]
    return found.sets, tuple(map(SourceRef.parse, paths))


def _opened(
    stack: ExitStack, request: MachineRequest, ref: SourceRef, set_name: str | None
) -> Source:
    before = said_before(request.repository, ref, set_name)
    try:
        return stack.enter_context(open_source(ref, Hints(request.parents_in, None, before)))
    except SourceError as error:
        which = (
            tr("{set_name} of {request}", set_name=set_name, request=request.name)
            if set_name
            else request.name
        )
        title = tr(
            "A disk of the machine is missing ({which}): {error}", which=which, error=error.title
        )
        missing = NotOneMachine.because_of(error, title)
        if set_name:
            missing.advice += " " + tr(
                "If it is gone for good, remove {record} from the backups, and name the disks that "
                "are left as the machine.",
                record=record_name(request.name),
            )
        raise missing from error


def plan(request: MachineRequest) -> MachinePlan:
    """The same, to be shown: its sources are closed."""
    with planned(request) as plan:
        return plan


def run(plan: MachinePlan, machines: Machines, task: Task) -> MachineResult:
    """Make the points, and make them ready to boot. Closes the plan's sources when they are read.

    A capture that fails or is cancelled leaves all as it was. Cancelled later, the points stay.
    """
    from vdbackup.recovery.retarget.policy import for_new_point  # late: it takes long to import

    with ExitStack() as stack:
        for disk in plan.disks:
            stack.enter_context(disk.source)
        made = machine_capture.run(plan, task)
    repository, folder = plan.repository, machines.sessions_folder
    first = made.disks[0]  # with which the others are made ready
    unready = for_new_point(repository, first.set_name, first.point.id, folder, task)
    doubt = any(each.confirmed for each in plan.disks)
    thins = plan.merges and not doubt
    followed = follow_up(repository, made.machine.sets, folder, task, thins=thins)
    return MachineResult(
        repository,
        made.machine,
        made.moment,
        made.disks,
        (*made.notes, *followed.done),
        (
            *(f"{disk.set_name}: {each}" for disk in made.disks for each in disk.warnings),
            *made.warnings,
        ),
        made.disks[0].policy.boot_test is BootTests.EACH and not task.cancel.cancelled,
        made.machine.sets if made.disks[0].policy.index and not task.cancel.cancelled else (),
        Changed.only(*made.machine.sets),
        (*unready, *followed.trouble),
    )


def back_up(request: MachineRequest, machines: Machines, task: Task) -> MachineResult:
    """Plan anew and run: where nothing was shown, or what was shown may be out of date."""
    with planned(request) as plan:
        return run(plan, machines, task)


def _with_policy(plan: MachinePlan, change: policy.Change) -> MachinePlan:
    """The plan with what the change of the policy takes: all sets of a machine have one."""
    sets = {
        disk.set_name: plan.repository.set(disk.set_name) for disk in plan.disks if not disk.new_set
    }
    now = {name: each.settings.policy for name, each in sets.items()}
    for_new = next(iter(now.values()), Policy())
    if machine_retention.differing(now):
        for_new = for_new.retaining(Policy())
    wanted = {disk.set_name: change.of(now.get(disk.set_name, for_new)) for disk in plan.disks}
    disks = tuple(replace(disk, policy=wanted[disk.set_name]) for disk in plan.disks)
    summary = plan.summary
    takes: tuple[str, ...] = ()
    if differ := machine_retention.differing(wanted):
        summary += f" {differ}"
    elif any(each.retention != wanted[name].retention for name, each in now.items()):
        one = disks[0].policy or Policy()
        untold = next(filter(None, (retention.untold(each, one) for each in sets.values())), "")
        if untold:
            summary += tr(" {untold}: how many it keeps stays as it is.", untold=untold)
        groups = machine_retention.preview(plan.machine, sets, one, datetime.now(UTC))
        takes = tuple(group.name for group in groups)
    if takes:
        summary += tr(
            " Of what is older, {count} no longer stay by its new policy.",
            count=grouped(len(takes)),
        )
    one = disks[0].policy or Policy()
    thinned = policy.thinned(plan.repository, sets.values(), one, datetime.now(UTC))
    if thinned:
        summary += tr(" By it there go: {names}.", names="; ".join(thinned))
    return replace(plan, summary=summary, disks=disks, invalidates=(*takes, *thinned))
