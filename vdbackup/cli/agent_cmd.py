"""The command `agent`: install and remove the program that does what only root may do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli.common import DONE, announce
from vdbackup.cli.console import print_json, say, work
from vdbackup.cli.options import (
    Subparsers,
    dry_run_option,
    json_option,
    new_command,
    new_family,
)
from vdbackup.translation import tr

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdbackup.jobs import Task
    from vdbackup.operations.agent import AgentPlan, AgentResult


def add_agent(subparsers: Subparsers) -> None:
    """The command `agent`, and what it can be told."""
    text = tr("let users back up disks that only root may read, each allowed or asked by polkit")
    actions = new_family(
        subparsers,
        "agent",
        text,
        example="agent install",
        failed=tr("it could not be installed, or removed"),
    )
    for run, does, failed in (
        (install, tr("install the program that runs as root for that"), tr("it is not installed")),
        (
            remove,
            tr("remove it, and all that was installed with it"),
            tr("some of it may still be there"),
        ),
    ):
        name = run.__name__
        made = new_command(
            actions, name, run, does, example=f"agent {name} --dry-run", failed=failed
        )
        made.add_argument(
            "--root", type=Path, default=Path("/"), metavar="DIR",
            help=tr("put it together there, for a package, in place of this system"),
        )  # fmt: skip
        dry_run_option(made)
        json_option(made)


def install(options: argparse.Namespace) -> int:
    """Install the agent."""
    from vdbackup.operations import agent

    plan = agent.plan_install(options.root)
    done = _done(tr("Install the agent"), plan, agent.install, options)
    if done is not None and not options.json:
        how = tr("systemd starts it") if done.listens else tr("pkexec starts it")
        say(
            tr(
                "{count} files are written; {how} for whoever needs it.",
                count=len(done.files),
                how=how,
            )
        )
    return DONE


def remove(options: argparse.Namespace) -> int:
    """Remove the agent."""
    from vdbackup.operations import agent

    plan = agent.plan_remove(options.root)
    done = _done(tr("Remove the agent"), plan, agent.remove, options)
    if done is not None and not options.json:
        say(tr("{count} files are removed.", count=len(done.files)))
    return DONE


def _done(
    title: str,
    plan: AgentPlan,
    do: Callable[[AgentPlan, Task], AgentResult],
    options: argparse.Namespace,
) -> AgentResult | None:
    """What was done; None where it was only planned."""
    if not announce(plan, options):
        if not options.json:
            for name in plan.creates:
                say(tr("  new: {name}", name=name))
        return None
    result = work(title, lambda task: do(plan, task), as_json=options.json)
    if options.json:
        found = {"files": [str(each) for each in result.files], "listens": result.listens}
        print_json({"event": "result", **found})
    return result
