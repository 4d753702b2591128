"""The work behind the buttons: calls of the engine that a job runs, with what to tell of them.

Each returns a plan or an `Outcome`, takes plain values, and knows nothing of Qt.
"""

from __future__ import annotations

from pathlib import Path

from vdbackup.backup import capture, delete, merge, retention
from vdbackup.gui import words
from vdbackup.gui.outcome import Outcome
from vdbackup.jobs import CancelToken, Plan, Report
from vdbackup.repository.model import Policy, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.source import open_source

DEMO_MESSAGE = "Hello from the vdbackup demo disk."


def facts(point: RecoveryPoint) -> tuple[str, ...]:
    """A new point's details, a line each."""
    return (
        f"Recovery point #{point.sequence} ({point.type.value}), {point.id}",
        f"Made {words.when_exactly(point.created)}",
        f"{words.size(point.stored_bytes)} of {words.size(point.virtual_size)} in {point.disk}",
    )


def plan_backup(path: Path, folder: Path, set_name: str | None, kind: str) -> Plan:
    """What backing up `path` into the repository in `folder` would do; makes the repository."""
    with open_source(path) as source:
        capture.check_apart(source, folder)
        repository = Repository.open_or_create(folder)
        return capture.plan(repository, source, set_name=set_name, kind=kind)


def back_up(
    path: Path, folder: Path, set_name: str | None, kind: str, report: Report, cancel: CancelToken
) -> Outcome:
    """Make a recovery point; `value` is the CaptureResult."""
    with open_source(path) as source:
        capture.check_apart(source, folder)
        repository = Repository.open_or_create(folder)
        plan = capture.plan(repository, source, set_name=set_name, kind=kind)
        result = capture.run(plan, report, cancel)
    point = result.point
    return Outcome(
        f"Point #{point.sequence} made: {point.type.value}, "
        f"{words.size(point.stored_bytes)} stored.",
        (*facts(point), *result.notes),
        result.warnings,
        result,
    )


def make_demo_disk(image: Path, _report: Report, _cancel: CancelToken) -> Outcome:
    """Make the demo disk unless it is there already; `value` is its path."""
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        demo_disk.create(image, DEMO_MESSAGE)
    return Outcome(f"The demo disk is {image}.", value=image)


def merge_point(plan: merge.MergePlan, report: Report, cancel: CancelToken) -> Outcome:
    """Roll a point into its parent; `value` is the resulting point."""
    point = merge.run(plan, report, cancel)
    return Outcome(
        f"Merged: point #{point.sequence} now holds what its parent held.",
        facts(point),
        value=point,
    )


def delete_point(plan: delete.DeletePlan, report: Report, cancel: CancelToken) -> Outcome:
    """Delete a point."""
    delete.run(plan, report, cancel)
    return Outcome(f"Deleted: {', '.join(plan.invalidates)}.", plan.replaces)


def keep_newest(
    folder: Path, set_name: str, keep: int | None, report: Report, cancel: CancelToken
) -> Outcome:
    """Change how many points a set keeps, and merge what is too many now."""
    repository = Repository.open(folder)
    repository.set_policy(set_name, Policy(keep))
    if keep is None:
        return Outcome(f"{set_name} keeps all its points.")
    with repository.lock(f"merging in {set_name}"):
        done = retention.apply(repository, set_name, report, cancel)
    return Outcome(f"{set_name} keeps its newest {words.plural(keep, 'point')}.", tuple(done))
