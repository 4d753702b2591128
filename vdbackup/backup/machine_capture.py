"""Capture of a machine: all its disks as of one moment, each into a point of its own set.

The steps of capture.py are taken with all disks before the next: all are read, one after the other;
what has changed meanwhile is read again in rounds that freeze all of them together; then all points
are completed, and published together (repository/draft.py). A failure before that leaves every set
as it was.
"""

from __future__ import annotations

import stat
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.backup import capture, machine_retention, space, unmerged
from vdbackup.backup.belonging import belonging
from vdbackup.backup.capture import Begun, CapturePlan, CaptureResult
from vdbackup.backup.kind import AUTO
from vdbackup.errors import NotOneMachine, OtherSource
from vdbackup.jobs import Plan, Task
from vdbackup.repository.draft import publish_together
from vdbackup.repository.machine import KnownMachines, Machine, MomentPoints, joined, moments_of
from vdbackup.repository.model import Moment, RecoveryPoint
from vdbackup.repository.naming import PointType
from vdbackup.repository.repository import Repository, free_set_name
from vdbackup.sources.moment import Wanted
from vdbackup.sources.source import Source
from vdbackup.sources.together import RoundsTogether
from vdbackup.translation import tr, trn


@dataclass(frozen=True, kw_only=True)
class MachinePlan(Plan):
    """What a capture of a machine would do.

    Attributes:
        machine: as it will be.
        known: as it is; None where it is new.
        disks: what would be done for each, in the machine's order.
        merges: the machine's policy is applied after it; else at another time.
    """

    repository: Repository
    machine: Machine
    known: Machine | None
    disks: tuple[CapturePlan, ...]
    merges: bool = True


@dataclass(frozen=True)
class MachineResult:
    """What a capture of a machine did.

    Attributes:
        moment: its points, as they are now.
        disks: what was done for each.
        notes: what was done to all, a sentence each.
        warnings: what was not as it should be.
    """

    machine: Machine
    moment: MomentPoints
    disks: tuple[CaptureResult, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def plan(  # noqa: PLR0913 - each is a thing that is asked for
    repository: Repository,
    sources: Sequence[Source],
    name: str,
    *,
    set_names: Sequence[str] | None = None,
    kind: str = AUTO,
    disk_format: str | None = None,
    same_source: bool = False,
    consistency: Wanted = Wanted.AUTO,
    read_all: bool = False,
    all_blocks: bool = False,
) -> MachinePlan:
    """What backing up a machine now would do.

    Args:
        repository: where to.
        sources: all of the machine's, open until `run` is done, that of the disk that it starts
            from first. Where it is known already, they are its own, and others that join it.
        name: the machine's.
        set_names: whose sources they are, in their order; found out if None.
        kind: for each of them, as `capture.plan` has it; so is what follows.
        disk_format: of new sets.
        same_source: the user says that each is its set's.
        consistency: what the points are to be.
        read_all: read everything.
        all_blocks: whether what is free is kept, too.

    Raises:
        NotOneMachine: these cannot be one, or some of its disks are missing.
        RepositoryError: one of them may be a machine's whose record is damaged.
        BackupError: one of them cannot be backed up, and why.
    """
    known = KnownMachines.of(repository)
    before = next((each for each in known.all if each.name == name), None)
    for each in known.damaged:
        if each.name == name:
            raise each.problem
    names = list(set_names) if set_names else _set_names(repository, sources, before)
    for set_name in set(names) & set(repository.names()):
        known.with_set(repository.set(set_name))  # whose record is damaged may have it
    machine = joined(before, name, names, known)
    if missing := [each for each in machine.sets if each not in names]:
        raise NotOneMachine(
            tr(
                "The machine {name} has other disks, too: {missing}.",
                name=name,
                missing=", ".join(missing),
            ),
            tr("Name the sources of all its disks, or none of them."),
        )
    plans = {}
    for set_name, source in zip(names, sources, strict=True):
        try:
            plans[set_name] = capture.plan(
                repository,
                source,
                set_name=set_name,
                kind=kind,
                disk_format=disk_format,
                same_source=same_source,
                consistency=consistency,
                read_all=read_all,
                all_blocks=all_blocks,
                beside=[each for each in sources if each is not source],
            )
        except OtherSource as error:
            error.advise_machine()
            raise
    disks = tuple(plans[each] for each in machine.sets)
    return MachinePlan(
        summary=" ".join((_summary(before, machine, disks), *(each.summary for each in disks))),
        bytes_to_copy=sum(each.bytes_to_copy for each in disks),
        creates=tuple(f"{each.set_name}: {what}" for each in disks for what in each.creates),
        repository=repository,
        machine=machine,
        known=before,
        disks=disks,
    )


def _set_names(
    repository: Repository, sources: Sequence[Source], machine: Machine | None
) -> list[str]:
    """The set of each source: its own, or one that is to be made."""
    names: list[str] = []
    for number, source in enumerate(sources):
        if any(_is_same(source, other) for other in sources[:number]):
            raise _twice(source)
        home = belonging(repository, source, same_source=False)
        name, count = _of_machine(repository, home.set_name, machine), 2
        while home.existing is None and name in names:  # two new ones that are called alike
            name, count = f"{free_set_name(repository, source.name)}-{count}", count + 1
        if name in names:
            raise _twice(source)
        names.append(name)
    return names


def _of_machine(repository: Repository, set_name: str, machine: Machine | None) -> str:
    """The machine's set that this one is a conversion of: a machine goes on in its own."""
    name = set_name
    while machine and name not in machine.sets and name in repository.names():
        name = repository.settings(name).continues
    return name if machine and name in machine.sets else set_name


def _is_same(one: Source, other: Source) -> bool:
    """Whether two sources are read from the same files: that shows before they have sets."""
    return bool(one.files) and set(map(_node, one.files)) == set(map(_node, other.files))


def _node(path: Path) -> tuple[int, ...]:
    """What a name leads to: a device has many names, and a file may have."""
    found = path.stat()
    is_device = stat.S_ISBLK(found.st_mode)
    return (found.st_rdev,) if is_device else (found.st_dev, found.st_ino)


def _twice(source: Source) -> NotOneMachine:
    return NotOneMachine(
        tr("{source} is named twice, or another name of it is.", source=source.title),
        tr("Name each disk of the machine once."),
    )


def _summary(before: Machine | None, machine: Machine, disks: Sequence[CapturePlan]) -> str:
    titles = [each.source.title for each in disks]
    which = (
        tr("{titles} and {title}", titles=", ".join(titles[:-1]), title=titles[-1])
        if len(titles) > 1
        else titles[0]
    )
    if before is None and len(titles) == 1:
        return tr("{which} becomes the machine {machine}.", which=which, machine=machine.name)
    if before is None:
        return tr(
            "{which} become the machine {machine}: they are backed up as of one moment.",
            which=which,
            machine=machine.name,
        )
    new = [each.source.title for each in disks if each.set_name not in before.sets]
    joins = trn(" {new} joins it.", " {new} join it.", len(new), new=", ".join(new)) if new else ""
    return tr(
        "The machine {machine} is backed up as of one moment: {which}.{joins}",
        machine=machine.name,
        which=which,
        joins=joins,
    )


def run(plan: MachinePlan, task: Task) -> MachineResult:
    """Capture all disks, publish their points, then apply the machine's policy.

    What fails or is cancelled before they are published leaves every set as it was.
    """
    repository, disks = plan.repository, plan.disks
    with repository.lock(tr("backing up {machine}", machine=plan.machine.name), task.cancel):
        fulls = [(each.source, each.left_out) for each in disks if each.kind is PointType.FULL]
        space.check_together(
            fulls, repository.path, tr("A backup of {machine}", machine=plan.machine.name)
        )
        begun = [capture.begin(each, task) for each in disks]
        machine = _with_next_number(plan)
        moment, points = _captured(plan, begun, machine.last_number, task)
        settled = [
            capture.settle(each, own, point)
            for each, own, point in zip(disks, begun, points, strict=True)
        ]
        notes: tuple[str, ...] = ()
        warnings: tuple[str, ...] = ()
        doubt = any(each.confirmed for each in disks) or any(each.interrupted for each in begun)
        if plan.merges and not doubt and not any(each.failed for each in settled):
            applied = unmerged.after_point(
                repository,
                machine.sets,
                lambda: machine_retention.apply(repository, plan.machine, task),
            )
            notes, warnings = applied.done, applied.damaged
        results = tuple(
            capture.result(each, point, said.notes, said.warnings)
            for each, point, said in zip(disks, points, settled, strict=True)
        )
        found = {each.set_name: each.point for each in results}
        return MachineResult(machine, MomentPoints(moment, found), results, notes, warnings)


def _with_next_number(plan: MachinePlan) -> Machine:
    """The machine, with the number of the moment to be captured, which no other gets.

    The lock is held. Raises NotOneMachine where the machine is another one than was shown.
    """
    repository, name = plan.repository, plan.machine.name
    now = KnownMachines.of(repository)
    known = next((each for each in now.all if each.name == name), None)
    sets = plan.machine.sets
    if (known.sets if known else None) != (plan.known.sets if plan.known else None):
        raise NotOneMachine(
            tr("The machine {name} has changed meanwhile.", name=name), tr("Start again.")
        )
    machine = joined(known, name, sets, now)
    highest = max((each.moment.number for each in moments_of(repository, machine)), default=0)
    machine = replace(machine, last_number=max(machine.last_number, highest) + 1)
    machine.save(repository)
    return machine


def _captured(
    plan: MachinePlan, begun: Sequence[Begun], number: int, task: Task
) -> tuple[Moment, list[RecoveryPoint]]:
    both = list(zip(plan.disks, begun, strict=True))
    rounds = [capture.rounds_of(disk, own, task) for disk, own in both]
    with RoundsTogether(rounds) as together, ExitStack() as stack:
        copies = [
            stack.enter_context(
                capture.copying(
                    disk, own, its, tr("Capture {set_name}", set_name=disk.set_name), task
                )
            )
            for (disk, own), its in zip(both, rounds, strict=True)
        ]
        for copy in copies:
            copy.read()
        for changed in together:
            for copy, its in zip(copies, changed, strict=True):
                copy.read_again(its)
        ids = tuple(copy.draft.id for copy in copies)
        sets = tuple(disk.set_name for disk in plan.disks)
        moment = Moment(str(uuid.uuid4()), plan.machine.name, number, sets, ids)
        points = [copy.complete(own.noted, moment) for copy, own in zip(copies, begun, strict=True)]
        publish_together([copy.draft for copy in copies])
        for each in rounds:
            each.keep()
    return moment, points
