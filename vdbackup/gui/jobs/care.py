"""Jobs that look after recovery points: merge and delete, verify, and what they boot on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.errors import NoSystem
from vdbackup.gui import remedies
from vdbackup.gui.jobs.outcome import Outcome, facts, said_of
from vdbackup.jobs import Task
from vdbackup.operations import (
    boot_test,
    delete,
    merge,
    retarget,
    several,
)
from vdbackup.operations.changed import Changed
from vdbackup.operations.delete import DeleteMomentPlan, DeletePlan, DeleteResult
from vdbackup.operations.merge import MergeMomentPlan, MergePlan, MergeResult
from vdbackup.operations.retarget import RetargetResult
from vdbackup.operations.several import DeletedSeveral, DeleteSeveralPlan, MergeRangePlan
from vdbackup.recovery import verify
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.history import noting
from vdbackup.recovery.verify import Verdict
from vdbackup.repository.model import BootTest
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr, trn

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    from vdbackup.recovery.retarget.retarget import RetargetPlan


def merge_point(
    plan: MergePlan | MergeMomentPlan, sessions_folder: Path, task: Task
) -> Outcome[MergeResult]:
    """Roll a point into its parent."""
    merged = merge.run(plan, sessions_folder, task)
    return Outcome(
        tr("Merged: point #{point} now holds what its parent held.", point=merged.point.sequence),
        (*facts(merged.point), merged.way.sentence),
        said_of(merged.trouble),
        value=merged,
        changed=merged.changed,
    )


def merge_range(plan: MergeRangePlan, sessions_folder: Path, task: Task) -> Outcome[MergeResult]:
    """Roll a range of points into one."""
    merged = several.merge_range(plan, sessions_folder, task)
    return Outcome(
        tr(
            "Merged: point #{point} now holds what the {count} points before it held.",
            point=merged.point.sequence,
            count=len(plan.steps),
        ),
        (*facts(merged.point), merged.way.sentence),
        said_of(merged.trouble),
        value=merged,
        changed=merged.changed,
    )


def delete_several(
    plan: DeleteSeveralPlan, sessions_folder: Path, task: Task
) -> Outcome[DeletedSeveral]:
    """Delete several points."""
    deleted = several.delete_several(plan, sessions_folder, task)
    return Outcome(
        tr("Deleted: {invalidates}.", invalidates=", ".join(plan.invalidates)),
        plan.replaces,
        said_of(deleted.trouble),
        value=deleted,
        changed=deleted.changed,
    )


def delete_point(
    plan: DeletePlan | DeleteMomentPlan, sessions_folder: Path, task: Task
) -> Outcome[DeleteResult]:
    """Delete a point."""
    deleted = delete.run(plan, sessions_folder, task)
    return Outcome(
        tr("Deleted: {invalidates}.", invalidates=", ".join(plan.invalidates)),
        plan.replaces,
        said_of(deleted.trouble),
        value=deleted,
        changed=deleted.changed,
    )


def verify_points(
    folder: Path, set_name: str, ids: tuple[str, ...], task: Task
) -> Outcome[list[Verdict]]:
    """Check points against their digests."""
    plan = verify.plan(Repository.open(folder), set_name, ids)
    verdicts = verify.run(plan, task)
    changed = Changed.only(set_name)  # it is noted in the points
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if not bad:
        checked = trn("{count} point", "{count} points", len(verdicts))
        sentence = tr("{checked} verified: all data is as it was captured.", checked=checked)
        return Outcome(sentence, value=verdicts, changed=changed)
    numbers = ", ".join(f"#{verdict.point.sequence}" for verdict in bad)
    details = tuple(
        f"#{verdict.point.sequence}: {finding.file}: {finding.problem}"
        + ("" if finding.offset is None else tr(" (byte {offset})", offset=finding.offset))
        for verdict in bad
        for finding in verdict.findings
    )
    warning = tr(
        "Damaged: {numbers}. Use another point, and check the storage that the backups lie on.",
        numbers=numbers,
    )
    sentence = trn("{count} point verified.", "{count} points verified.", len(verdicts))
    return Outcome(sentence, details, (warning,), value=verdicts, changed=changed)


def retarget_point(
    plan: RetargetPlan, sessions_folder: Path, task: Task
) -> Outcome[RetargetResult]:
    """Make a point's machine ready for other hardware."""
    done = retarget.run(plan, sessions_folder, task)
    if done.report is None:
        return Outcome(tr("Its overlay is empty again."), value=done, changed=done.changed)
    hardware = done.report.hardware
    changed = tuple(f"{each.volume}:{each.path}" for each in done.report.changes)
    doubts = tuple(f"{each.sentence} {each.advice}".rstrip() for each in hardware.problems)
    sentence = trn(
        "Ready for other hardware: {count} file changed.",
        "Ready for other hardware: {count} files changed.",
        len(changed),
    )
    details = (*hardware.reasons, *changed, *done.report.notes)
    return Outcome(sentence, details, doubts, value=done, changed=done.changed)


def boots(
    folder: Path, set_name: str, point_id: str, request: BootTestOptions, task: Task
) -> Outcome[BootTest | NoSystem]:
    """Boot a point unseen."""
    tested = boot_test.run(Repository.open(folder), set_name, point_id, request, task)
    changed = Changed.only(set_name)  # it is noted in the point
    if isinstance(tested, NoSystem):  # nothing has failed
        return Outcome(remedies.sentences(tested), value=tested, changed=changed)
    if tested.ok:
        sentence = tr("It boots, in {seconds:.1f} s.", seconds=tested.seconds)
        return Outcome(sentence, (tested.sentence,), value=tested, changed=changed)
    where = tr(
        "It does not boot: it stopped at the stage {stage}. {sentence}",
        stage=tr(str(tested.stage)),
        sentence=tested.sentence,
    )
    return Outcome(tr("Boot-tested."), (), (where,), value=tested, changed=changed)


def note_names(
    folder: Path, set_name: str, where: Callable[[str, str], Path], task: Task
) -> Outcome[bool]:
    """Note the names of files in a set's new points; `where` as `Locations.names_file`."""
    if noting.note(folder, set_name, where(Repository.open(folder).id, set_name), task):
        return Outcome(tr("The names of files are noted for searches."), value=True)
    return Outcome(tr("The next search reads them itself: others were at work."), value=False)
