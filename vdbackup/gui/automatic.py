"""Changing what a source does automatically: which points stay, and when it is backed up."""

from __future__ import annotations

from functools import partial

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import keeping
from vdbackup.gui.runner import Runner
from vdbackup.operations import policy
from vdbackup.operations.schedules.arrange import SchedulePlan
from vdbackup.repository.policy import Policy
from vdbackup.translation import tr, trn


def change_policy(runner: Runner, entry: Entry, change: policy.Change) -> None:
    """Change what a set does automatically, once the user has seen which points that takes."""
    backup_set = entry.backup_set
    if backup_set is None or change.of(present := backup_set.settings.policy) == present:
        return
    title = tr("Policy of {entry}", entry=entry.title)

    def make() -> policy.PolicyPlan:
        return keeping.plan_policy(entry.repository, backup_set.name, change)

    def start(plan: policy.PolicyPlan) -> None:
        runner.run(entry.repository, title, partial(keeping.change_policy, plan))

    wanted = change.of(present)
    takes_moments = wanted.writes.takes and wanted.writes != present.writes
    takes_points = wanted.takes and wanted.retention != present.retention
    if not (takes_points or takes_moments):
        runner.plan(entry.repository, title, "", make, start, asks=False)
    elif not takes_moments and wanted.keep is not None and wanted.retention == Policy(wanted.keep):
        kept = trn("{count} point", "{count} points", wanted.keep)
        newest = "point" if wanted.keep == 1 else kept
        asked = tr("Keep only the newest {newest} of {entry}", newest=newest, entry=entry.title)
        runner.plan(entry.repository, asked, tr("Keep {kept}", kept=kept), make, start)
    else:
        runner.plan(entry.repository, title, tr("Keep these"), make, start)


def change_schedule(
    runner: Runner, entry: Entry, plan: SchedulePlan | None, *, removes: bool
) -> None:
    """Set a source's schedule as planned, or remove the one it has."""
    title = tr("Schedule of {entry}", entry=entry.title)
    if plan is not None:
        runner.run(entry.repository, title, partial(keeping.set_schedule, plan, entry.name))
    elif removes:
        store, folder = runner.store.schedules, entry.repository.absolute()
        doing = partial(keeping.remove_schedule, store, folder, entry.name)
        runner.run(entry.repository, title, doing)
