"""Jobs that make recovery points, and sets of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.errors import VdbackupError
from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Task
from vdbackup.operations import (
    adopt,
    backup,
    convert,
    demo_week,
    machine_backup,
)
from vdbackup.operations.adopt import AdoptRequest, AdoptResult
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.changed import ANY
from vdbackup.operations.convert import ConvertPlan, ConvertResult
from vdbackup.operations.machine_backup import MachineRequest, MachineResult
from vdbackup.operations.machines import Machines
from vdbackup.pace import Pace
from vdbackup.translation import tr, trn

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.model import RecoveryPoint


def back_up(
    request: BackupRequest, machines: Machines, pace: Pace, task: Task
) -> Outcome[BackupResult]:
    """Make a recovery point at a pace."""
    made = backup.back_up(request, machines, task.at(pace))
    return Outcome(
        tr(
            "Point #{point} made: {type}, {made}.",
            point=made.point.sequence,
            type=tr(made.point.type.value),
            made=_stored(made),
        ),
        (*facts(made.point), *made.notes),
        (*made.warnings, *said_of(made.trouble)),
        value=made,
        changed=made.changed,
    )


def back_up_machine(
    request: MachineRequest, machines: Machines, pace: Pace, task: Task
) -> Outcome[MachineResult]:
    """Make a moment of a machine at a pace."""
    made = machine_backup.back_up(request, machines, task.at(pace))
    number, disks = made.moment.moment.number, trn("{count} disk", "{count} disks", len(made.disks))
    said = [f"{disk.set_name}: {each}" for disk in made.disks for each in disk.notes]
    return Outcome(
        tr(
            "Moment {number} of {machine} made, of {disks}.",
            number=number,
            machine=made.machine.name,
            disks=disks,
        ),
        (*(fact for disk in made.disks for fact in facts(disk.point)), *said, *made.notes),
        (*made.warnings, *said_of(made.trouble)),
        value=made,
        changed=made.changed,
    )


def _stored(made: BackupResult) -> str:
    """How much a new point holds, in words; somebody may merge the one before meanwhile."""
    point = made.point
    if point.stored_bytes or point.parent is None:
        return tr("{size} stored", size=words.size(point.stored_bytes))
    try:
        before = made.repository.set(made.set_name).point(point.parent)
    except (VdbackupError, OSError):  # the new one is there all the same
        return tr("nothing has changed")
    return tr("nothing has changed since #{before}", before=before.sequence)


def make_demo(
    image: Path, repository: Path, machines: Machines, task: Task
) -> Outcome[tuple[RecoveryPoint, ...]]:
    """Make the demo disk and a week of its backups, unless they are there already."""
    points = demo_week.make(image, repository, machines, task)
    sentence = trn(
        "The demo disk is {image}, with {count} point of a week.",
        "The demo disk is {image}, with {count} points of a week.",
        len(points),
        image=image,
    )
    return Outcome(sentence, value=points, changed=ANY)


def convert_set(plan: ConvertPlan, task: Task) -> Outcome[ConvertResult]:
    """Copy a set into a new one in another format."""
    made = convert.run(plan, task)
    sentence = tr(
        "Converted: {backup_set}. Later backups go on in it.",
        backup_set=_set_in_words(made.backup_set),
    )
    return Outcome(sentence, value=made, changed=made.changed)


def adopt_chain(request: AdoptRequest, task: Task) -> Outcome[AdoptResult]:
    """Make a set of another program's chain."""
    made = adopt.adopt(request, task)
    sentence = tr("Adopted: {backup_set}.", backup_set=_set_in_words(made.backup_set))
    return Outcome(sentence, warnings=made.warnings, value=made, changed=made.changed)


def _set_in_words(made: BackupSet) -> str:
    return trn(
        "the set {made} holds {count} point",
        "the set {made} holds {count} points",
        len(made.points),
        made=made.name,
    )
