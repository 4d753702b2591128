"""The command that shows and changes what a set does automatically, without a backup."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli import remedies
from vdbackup.cli.common import DONE, WARNINGS, announce, confirm, open_repository, unread_state
from vdbackup.cli.console import print_json, say, table, work
from vdbackup.cli.json_values import (
    fate_json,
    log_fate_json,
    plan_json,
    point_json,
    policy_json,
    problem_json,
)
from vdbackup.cli.options import (
    POINT_HELP,
    Subparsers,
    changing_options,
    new_command,
    policy_change,
    policy_options,
    repository_options,
)
from vdbackup.errors import UsageError
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:
    from vdbackup.backup.forecast import Fate
    from vdbackup.jobs import Task
    from vdbackup.operations.pins import PinResult
    from vdbackup.operations.policy import Change, PolicyPlan, PolicyResult
    from vdbackup.operations.writes_policy import LogFate
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.repository import Repository

_MAX_NAMED = 6
"""Moments that a question names; more of them are counted."""


def add_policy(subparsers: Subparsers) -> None:
    """The command `policy`, and what it can be told."""
    parser = new_command(
        subparsers,
        "policy",
        policy,
        tr("show what a set does automatically, or change it without a backup"),
        example="policy -r /mnt/backups --keep-within 2d --daily 14 --weekly 8 --dry-run",
        failed=tr("nothing was changed"),
        warned=tr("a set is damaged, or may not be read"),
    )
    repository_options(parser)
    policy_options(parser)
    pins = parser.add_mutually_exclusive_group()
    pins.add_argument(
        "--pin", metavar="POINT",
        help=tr(
            "let that point stay, whatever the policy says: {point_help}",
            point_help=POINT_HELP
        ),
    )  # fmt: skip
    pins.add_argument("--unpin", metavar="POINT", help=tr("let it be like any other again"))
    parser.add_argument("--note", metavar="TEXT", help=tr("why it is pinned"))
    parser.add_argument(
        "--yes", action="store_true", help=tr("even where the next backup then takes points")
    )
    changing_options(parser)


def policy(options: argparse.Namespace) -> int:
    """Show what a set does automatically, or change it, or pin a point."""
    from vdbackup.operations.policy import Change

    change = policy_change(options)
    if options.note is not None and options.pin is None:
        raise UsageError(
            tr("--note says why a point is pinned, and none is."), tr("Add --pin POINT.")
        )
    reference = options.pin or options.unpin
    if reference and change:
        raise UsageError(
            tr("A point is pinned alone."), tr("Change the policy in a command of its own.")
        )
    as_lines = options.json and bool(change or reference)
    repository = open_repository(options.repository, as_json=as_lines)
    if reference:
        return _pin(repository, reference, options)
    if change is None and not options.dry_run:
        return _show(repository, options)
    return _change(repository, change or Change(), options)


def _change(repository: Repository, change: Change, options: argparse.Namespace) -> int:
    from vdbackup.operations import policy

    plan = policy.plan(repository, options.set, change)
    if options.dry_run:
        _foretell(plan, options)
        return DONE
    announce(plan, options)
    if (plan.goes or plan.thinned) and not options.yes:
        what = _named(plan)
        confirm(
            tr(
                "The next backup of {set_name} takes {what}. Is that meant?",
                set_name=plan.set_name,
                what=what,
            ),
            tr(
                "The next backup of {set_name} would take {what}.",
                set_name=plan.set_name,
                what=what,
            ),
            tr("Nothing was changed."),
        )

    def again(task: Task) -> PolicyResult:
        """Who agreed without being asked means what there is after waiting, too."""
        return policy.run(policy.plan(repository, plan.set_name, change), task)

    result: PolicyResult = work(
        tr("Policy"),
        lambda task: policy.run(plan, task),
        as_json=options.json,
        wait=options.wait,
        again=again if options.yes else None,
    )
    if options.json:
        print_json({"event": "result", **policy_json(result.set_name, result.policy)})
    else:
        for sentence in result.sentences:
            say(sentence)
    return DONE


def _foretell(plan: PolicyPlan, options: argparse.Namespace) -> None:
    """What stays and what goes with the next backup, and why."""
    if options.json:
        points = [fate_json(fate) for fate in plan.fates]
        wanted = policy_json(plan.set_name, plan.wanted)
        logs = [log_fate_json(fate) for fate in plan.logs]
        more = {**wanted, "points": points, "logs": logs}
        print_json({"event": "plan", **plan_json(plan), **more})
        return
    announce(plan, options)
    rows = [_fate_row(fate) for fate in plan.fates]
    table(("#", tr("created (UTC)"), tr("next backup"), tr("why")), rows)
    if plan.logs:
        table(
            (tr("kept writes"), tr("moments"), tr("going"), tr("next backup"), tr("why")),
            [_log_row(fate) for fate in plan.logs],
        )


def _log_row(fate: LogFate) -> tuple[str, ...]:
    known = fate.moments > 0
    every = grouped(fate.moments) if known else "?"
    going = fate.moments if fate.whole else len(fate.going)
    return fate.kept.session, every, grouped(going), tr(fate.outcome), fate.why


def _fate_row(fate: Fate) -> tuple[str, ...]:
    created = fate.point.created.replace("T", " ")[:19]
    return str(fate.point.sequence), created, tr(fate.outcome), fate.why


def _pin(repository: Repository, reference: str, options: argparse.Namespace) -> int:
    """Let a point stay, or be like any other again."""
    from vdbackup.operations import pins

    backup_set, point = repository.find(reference, options.set)
    note = None if options.pin is None else options.note or ""
    plan = pins.plan(repository, backup_set.name, point.id, note)
    if options.dry_run:
        announce(plan, options)
        return DONE
    result: PinResult = work(
        tr("Pin"), lambda task: pins.run(plan, task), as_json=options.json, wait=options.wait
    )
    if options.json:
        data = point_json(repository.set(result.set_name), result.point)
        print_json({"event": "result", "set": result.set_name, **data})
    else:
        say(result.sentence)
    return DONE


def _show(repository: Repository, options: argparse.Namespace) -> int:
    sets, damaged = repository.survey()
    if options.set:
        sets, damaged = [repository.set(options.set)], []
    if options.json:
        print_json(
            {
                "sets": [policy_json(each.name, each.settings.policy) for each in sets],
                "damaged": [{"name": each.name, **problem_json(each.problem)} for each in damaged],
            }
        )
        return WARNINGS if damaged else DONE
    if sets:
        table(_COLUMNS, [_row(each) for each in sets])
    for lost in damaged:
        say(f"{lost.name}: {unread_state(lost)}: {remedies.sentences(lost.problem)}")
    if not sets and not damaged:
        say(tr("No backups yet."))
    return WARNINGS if damaged else DONE


_COLUMNS = (
    tr("set"),
    tr("keeps"),
    tr("made ready to boot"),
    tr("boot-tested"),
    tr("all read, if tracked"),
    tr("names noted"),
)


def _row(backup_set: BackupSet) -> tuple[str, ...]:
    from vdbackup.backup.proving import nth
    from vdbackup.operations import writes_policy
    from vdbackup.operations.policy import in_words

    record: dict[str, Any] = policy_json(backup_set.name, backup_set.settings.policy)
    each = tr("each new point")
    tested = each if record["boot_test"] == "each" else tr("no")
    every = record["read_all_every"]
    proof = nth(every) if every else tr("never")
    keep = in_words(backup_set.settings.policy)
    if (writes := backup_set.settings.policy.writes).takes:
        said = writes_policy.in_words(writes)
        keep = tr("{points}; of kept writes {writes}", points=keep, writes=said)
    ready, noted = (each if record[name] else tr("no") for name in ("retarget", "index"))
    return backup_set.name, keep, ready, tested, proof, noted


def _named(plan: PolicyPlan) -> str:
    names = [group.name for group in plan.goes]
    if len(names) > _MAX_NAMED:
        many = tr(
            "{count} moments, {name} to {name_2}",
            count=grouped(len(names)),
            name=names[0],
            name_2=names[-1],
        )
        names = [many]
    return ", ".join((*names, *(fate.name for fate in plan.thinned)))
