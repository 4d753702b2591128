"""Jobs that write a point, or a moment of a machine, to files and devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task
from vdbackup.operations import (
    machine_restore,
    put_back,
    restore,
    restore_files,
)
from vdbackup.operations.changed import NOTHING
from vdbackup.operations.machine_restore import MachineRestorePlan
from vdbackup.operations.put_back import PutBack, PutBackPlan
from vdbackup.operations.restore import Restored, RestorePlan, RestoreTarget
from vdbackup.operations.restore_files import FilesPlan, FilesRequest, FilesRestored
from vdbackup.repository.repository import Repository
from vdbackup.sources.inventory import Content
from vdbackup.translation import grouped, tr, trn

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    pass


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
        tr("Restored to {target}.", target=plan.target),
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
    return Outcome(
        tr("Restored to {said}.", said=said), (plan.summary,), warnings, value=targets[0].parent
    )


def plan_files(
    folder: Path,
    set_name: str,
    point_id: str,
    target: Path,
    overwrite: bool,
    ignore_damage: bool,
    task: Task,
) -> FilesPlan:
    """What restoring the files of a point would do."""
    repository = Repository.open(folder)
    request = FilesRequest(
        repository, set_name, point_id, target, overwrite=overwrite, ignore_damage=ignore_damage
    )
    return restore_files.plan(request, task)


def restore_chosen_files(plan: FilesPlan, task: Task) -> Outcome[FilesRestored]:
    """Bring the files of a point back."""
    restored = restore_files.run(plan, task)
    files = trn("{count} file", "{count} files", restored.files)
    where = (
        tr("{files} restored to where they came from.", files=files)
        if restored.target == restore_files.ORIGIN
        else tr("{files} restored to {target}.", files=files, target=restored.target)
    )
    same = tr("{count} were there as they are in the point.", count=grouped(restored.same))
    sentence = f"{where} {same}" if restored.same else where
    return Outcome(sentence, (plan.summary,), restored.warnings, value=restored, changed=NOTHING)


def put_files_back(plan: PutBackPlan, task: Task) -> Outcome[PutBack]:
    """Put files of a point back to where they came from."""
    done = put_back.run(plan, task)
    sentence = trn("{count} file put back.", "{count} files put back.", done.files)
    return Outcome(sentence, (plan.summary,), done.warnings, value=done, changed=NOTHING)
