"""Jobs that do all of a restore beforehand, and look what it would be to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task, duration
from vdbackup.operations import rehearse
from vdbackup.operations.changed import Changed
from vdbackup.operations.rehearse import RehearsalPlan, Twin
from vdbackup.repository.model import Rehearsal
from vdbackup.repository.repository import Repository
from vdbackup.sources import inventory
from vdbackup.sources.inventory import Device
from vdbackup.translation import tr

if TYPE_CHECKING:  # late at run time: what boots machines takes long to import
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions


def disks(_task: Task) -> list[Device]:
    """The whole disks of this computer."""
    return [each for each in inventory.disks() if each.kind == "disk"]


def plan(
    repository: Path,
    set_name: str,
    point_id: str,
    wanted: Path | Twin,
    memory_mib: int | None,
    folder: Path | None,
) -> RehearsalPlan:
    """What a rehearsal would do.

    Args:
        repository: the folder with the backups.
        set_name: the set in it.
        point_id: of what is to be restored.
        wanted: a disk of this computer that a twin is made of, or what is said of another one.
        memory_mib: of the machine; None for what its system needs.
        folder: for the twin's disk; None for that of large temporary files.

    Raises VdbackupError, OSError.
    """
    twin = wanted if isinstance(wanted, Twin) else rehearse.like(wanted)
    twin = replace(twin, hardware=replace(twin.hardware, memory_mib=memory_mib))
    return rehearse.plan(Repository.open(repository), set_name, point_id, twin, folder)


def rehearse_restore(
    plan: RehearsalPlan, options: BootTestOptions, task: Task
) -> Outcome[Rehearsal]:
    """Restore a point to a virtual disk, and boot that."""
    found = rehearse.run(plan, options, task)
    changed = Changed.only(plan.set_name)  # it is noted in the point
    took = tr(
        "Restored and made ready in {restored}, up in {up}.",
        restored=duration(found.restore_seconds),
        up=duration(found.boot_seconds),
    )
    if found.ok:
        sentence = tr("Back in {seconds}.", seconds=duration(found.seconds))
        return Outcome(sentence, (took, found.sentence), value=found, changed=changed)
    failed = tr("The restored system did not come up. {sentence}", sentence=found.sentence)
    return Outcome(tr("Rehearsed."), (), (failed,), value=found, changed=changed)
