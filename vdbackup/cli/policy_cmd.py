"""The command that shows and changes what a set does automatically, without a backup."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli import remedies
from vdbackup.cli.common import DONE, WARNINGS, announce, confirm, open_repository, unread_state
from vdbackup.cli.console import print_json, say, table, work
from vdbackup.cli.json_values import policy_json, problem_json
from vdbackup.cli.options import (
    Subparsers,
    changing_options,
    new_command,
    policy_change,
    policy_options,
    repository_options,
)

if TYPE_CHECKING:
    from vdbackup.jobs import Task
    from vdbackup.operations.policy import PolicyPlan, PolicyResult
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.repository import Repository

_MAX_NAMED = 6
"""Points that a question names; more of them are counted."""


def add_policy(subparsers: Subparsers) -> None:
    """The command `policy`, and what it can be told."""
    parser = new_command(
        subparsers,
        "policy",
        policy,
        "show what a set does automatically, or change it without a backup",
        example="policy -r /mnt/backups --keep 14 --boot-test each",
        failed="nothing was changed",
        warned="a set is damaged, or may not be read",
    )
    repository_options(parser)
    policy_options(parser)
    parser.add_argument(
        "--yes", action="store_true", help="even where the next backup then takes points"
    )
    changing_options(parser)


def policy(options: argparse.Namespace) -> int:
    """Show what a set does automatically, or change it."""
    from vdbackup.operations import policy

    change = policy_change(options)
    as_lines = options.json and change is not None
    repository = open_repository(options.repository, as_json=as_lines)
    if change is None:
        return _show(repository, options)
    plan = policy.plan(repository, options.set, change)
    if not announce(plan, options):
        return DONE
    if plan.takes and not options.yes:
        points = _named(plan)
        confirm(
            f"The next backup of {plan.set_name} takes {points}. Is that meant?",
            f"The next backup of {plan.set_name} would take {points}.",
            "Nothing was changed.",
        )

    def again(task: Task) -> PolicyResult:
        """Who agreed without being asked means what there is after waiting, too."""
        return policy.run(policy.plan(repository, plan.set_name, change), task)

    result: PolicyResult = work(
        "Policy",
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
        say("No backups yet.")
    return WARNINGS if damaged else DONE


_COLUMNS = ("set", "keeps", "made ready to boot", "boot-tested", "all read, if tracked")


def _row(backup_set: BackupSet) -> tuple[str, ...]:
    from vdbackup.backup.proving import nth

    record: dict[str, Any] = policy_json(backup_set.name, backup_set.settings.policy)
    keep = "all points" if record["keep"] is None else f"the newest {record['keep']:,}"
    each = "each new point"
    tested = each if record["boot_test"] == "each" else "no"
    every = record["read_all_every"]
    proof = nth(every) if every else "never"
    return backup_set.name, keep, each if record["retarget"] else "no", tested, proof


def _named(plan: PolicyPlan) -> str:
    numbers = [str(point.sequence) for point in plan.takes]
    if len(numbers) > _MAX_NAMED:
        return f"{len(numbers):,} points, {numbers[0]} to {numbers[-1]}"
    return f"point{'' if len(numbers) == 1 else 's'} {', '.join(numbers)}"
