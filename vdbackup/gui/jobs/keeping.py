"""Jobs that change what is done automatically, and which points stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.gui import words
from vdbackup.gui.jobs.outcome import Outcome
from vdbackup.jobs import Task
from vdbackup.operations import (
    file_choice,
    pins,
    policy,
)
from vdbackup.operations.changed import Changed
from vdbackup.operations.file_choice import ChoicePlan, ChoiceResult
from vdbackup.operations.pins import PinResult
from vdbackup.operations.policy import PolicyPlan, PolicyResult
from vdbackup.operations.schedules import arrange
from vdbackup.operations.schedules.arrange import Removal, SchedulePlan, ScheduleResult
from vdbackup.operations.schedules.store import Store as Schedules
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

if TYPE_CHECKING:  # late at run time: what reads file systems takes long to import
    pass


def plan_policy(folder: Path, set_name: str, change: policy.Change) -> PolicyPlan:
    """What a change of a set's policy would mean, its points called as they are here."""
    plan = policy.plan(Repository.open(folder), set_name, change)
    titles = (
        words.point_title(group.points[set_name])
        if group.points.keys() == {set_name}
        else group.name
        for group in plan.goes
    )
    return replace(plan, invalidates=(*titles, *(each.name for each in plan.thinned)))


def change_policy(plan: PolicyPlan, task: Task) -> Outcome[PolicyResult]:
    """Change what a set does automatically."""
    result = policy.run(plan, task)
    sentence = " ".join(result.sentences) or plan.summary
    return Outcome(sentence, value=result, changed=result.changed)


def change_choice(plan: ChoicePlan, task: Task) -> Outcome[ChoiceResult]:
    """Have a set be of other files."""
    result = file_choice.run(plan, task)
    return Outcome(result.sentence, value=result, changed=result.changed)


def pin(
    folder: Path, set_name: str, point_id: str, note: str | None, task: Task
) -> Outcome[PinResult]:
    """Let a point stay, or be like any other again; asks nothing, as nothing goes by it."""
    result = pins.run(pins.plan(Repository.open(folder), set_name, point_id, note), task)
    return Outcome(result.sentence, value=result, changed=result.changed)


def set_schedule(plan: SchedulePlan, name: str, task: Task) -> Outcome[ScheduleResult]:
    """Have a set backed up automatically."""
    result = arrange.run(plan, task)
    by_cron = tr(
        "systemd does not run here. A line for your crontab does the same: {cron}", cron=result.cron
    )
    warnings = (by_cron,) if result.cron else _not_taken(result.trouble)
    return Outcome(
        plan.summary, tuple(plan.texts), warnings, value=result, changed=Changed.only(name)
    )


def remove_schedule(store: Schedules, folder: Path, name: str, _task: Task) -> Outcome[Removal]:
    """Have a set backed up automatically no more."""
    result = arrange.remove(store, folder, name)
    sentence = tr("{name} is backed up automatically no more. Its backups stay.", name=name)
    lines = (
        (tr("Remove this line from your crontab: {cron}", cron=result.cron),) if result.cron else ()
    )
    warnings = _not_taken(result.trouble)
    if result.by_cron:
        warnings += (tr("How it was run is not known any more: look for it in your crontab."),)
    return Outcome(sentence, lines, warnings, value=result, changed=Changed.only(name))


def _not_taken(trouble: str) -> tuple[str, ...]:
    return (tr("systemd did not take it: {trouble}", trouble=trouble),) if trouble else ()
