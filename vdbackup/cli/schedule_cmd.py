"""The command that has sets backed up automatically: schedule list, set, show, remove.

What timers call is in schedule_run_cmd.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.json_values import plan_json, run_json
from vdbackup.cli.options import (
    Subparsers,
    dry_run_option,
    json_option,
    new_command,
    new_family,
    repository_options,
)
from vdbackup.cli.schedule_run_cmd import add_merge, add_run, schedules_store, set_named
from vdbackup.cli.values import (
    positive,
    seconds_of,
)
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.schedules.arrange import Removal, SchedulePlan, ScheduleResult
    from vdbackup.operations.schedules.store import Run, Schedule, Store


def add_schedule(subparsers: Subparsers) -> None:
    """The command `schedule`, and what it can be told."""
    actions = new_family(
        subparsers,
        "schedule",
        tr("have sets backed up automatically"),
        example="schedule set -r /mnt/backups --set laptop --every daily --at 12:30",
        failed=tr("nothing was arranged, or the backup failed"),
    )
    _add_list(actions)
    _add_set(actions)
    _add_show(actions)
    _add_remove(actions)
    add_run(actions)
    add_merge(actions)


def _add_list(actions: Subparsers) -> None:
    parser = new_command(
        actions,
        "list",
        list_schedules,
        tr("list what is backed up automatically, and how that went last"),
        example="schedule list",
        failed=tr("it cannot be told"),
    )
    json_option(parser)


def list_schedules(options: argparse.Namespace) -> int:
    """List what is backed up automatically."""
    store = schedules_store()
    found, damaged = store.schedules(), store.damaged()
    warn(
        [
            tr("{path} makes no sense any more: set or remove that set's schedule", path=path)
            for path in damaged
        ]
    )
    if options.json:
        more = {"damaged": [str(path) for path in damaged]} if damaged else {}
        print_json({"schedules": [_json(store, each) for each in found], **more})
    elif found:
        table(
            (tr("set"), tr("repository"), tr("when"), tr("last run (UTC)"), tr("how")),
            [_row(store, e) for e in found],
        )
    elif not damaged:
        say(tr("Nothing is backed up automatically by this user on this computer."))
    return DONE


def _add_set(actions: Subparsers) -> None:
    parser = new_command(
        actions,
        "set",
        set_schedule,
        tr("have a set backed up automatically; shown with --dry-run as systemd will read it"),
        example="schedule set -r /mnt/backups --set laptop --every 15m --on-mains --dry-run",
        failed=tr("nothing was arranged"),
        warned=tr("it is noted, and systemd did not take it"),
    )
    repository_options(parser)
    parser.add_argument(
        "--every", required=True, metavar="INTERVAL",
        help=tr(
            "15m or other minutes that divide a day, hourly, daily, weekly (on Mondays), monthly "
            "(on the 1st), login, or plug: when the drive with the backups is plugged in"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--at",
        default="",
        metavar="HH:MM",
        help=tr("of a day, by the local clock; 12:30 if left out"),
    )
    parser.add_argument(
        "--on-mains", action="store_true", help=tr("not while the computer runs on its battery")
    )
    parser.add_argument(
        "--random-delay", type=seconds_of, default=0, metavar="TIME",
        help=tr("up to so much later: 90s, 10m, 1h"),
    )  # fmt: skip
    parser.add_argument("--all-blocks", action="store_true", help=tr("keep what is free, too"))
    parser.add_argument(
        "--verify",
        type=positive,
        default=0,
        metavar="N",
        help=tr("after each backup, verify the N points that were the longest ago, or never"),
    )
    parser.add_argument(
        "--merge-at", default="", metavar="HH:MM",
        help=tr("merge what the policy keeps no more at that time, and not after each backup"),
    )  # fmt: skip
    parser.add_argument(
        "--network", action="append", default=[], metavar="NAME",
        help=tr(
            "only on that network: the name of its connection, the address of its gateway, or the "
            "interface; repeatable"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--not-metered", action="store_true", help=tr("not while the network is metered")
    )
    parser.add_argument(
        "--not-presenting", action="store_true",
        help=tr("not while something keeps the screen on, such as a presentation"),
    )  # fmt: skip
    dry_run_option(parser)
    json_option(parser)


def set_schedule(options: argparse.Namespace) -> int:
    """Have a set backed up automatically."""
    from vdbackup.operations.schedules import arrange
    from vdbackup.operations.schedules.store import Schedule

    repository, name = set_named(options)
    wanted = Schedule(
        repository,
        name,
        options.every,
        options.at,
        options.on_mains,
        options.random_delay,
        options.all_blocks,
        verify=options.verify,
        merge_at=options.merge_at,
        networks=tuple(options.network),
        not_metered=options.not_metered,
        not_presenting=options.not_presenting,
    )
    plan = arrange.plan(schedules_store(), wanted)
    warn([plan.warning] if plan.warning else [])
    if options.dry_run:
        _show_plan(plan, as_json=options.json)
        return DONE
    result: ScheduleResult = work(
        tr("Schedule"), lambda task: arrange.run(plan, task), as_json=options.json
    )
    if options.json:
        data = _json(plan.store, result.schedule)
        print_json({"event": "result", **data, "crontab": result.cron or None})
    else:
        say(plan.summary)
        _say_cron(result.cron, added=True)
    return _warned(result)


def _show_plan(plan: SchedulePlan, *, as_json: bool) -> None:
    if as_json:
        data = {"units": plan.texts, "systemd": plan.by_systemd, "crontab": plan.cron or None}
        print_json({"event": "plan", **plan_json(plan), **data})
        return
    say(plan.summary)
    _say_units(plan)


def _say_units(plan: SchedulePlan) -> None:
    for path, text in plan.texts.items():
        say("")
        say(f"# {path}")
        for line in text.splitlines():
            say(line)
    if not plan.by_systemd:
        say("")
        say(tr("systemd does not run here, so these are not written."))
        _say_cron(plan.cron, added=True)


def _say_cron(line: str, *, added: bool) -> None:
    if line:
        what = (
            tr("Add this line to your crontab")
            if added
            else tr("Remove this line from your crontab")
        )
        say(tr("{what} (crontab -e):", what=what))
        say(line)


def _warned(result: ScheduleResult | Removal) -> int:
    if result.trouble:
        warn([tr("systemd did not take it: {trouble}", trouble=result.trouble)])
    return WARNINGS if result.trouble else DONE


def _add_show(actions: Subparsers) -> None:
    parser = new_command(
        actions,
        "show",
        show_schedule,
        tr("show a set's schedule, its units, and its last runs"),
        example="schedule show -r /mnt/backups --set laptop",
        failed=tr("it has none, or it cannot be read"),
    )
    repository_options(parser)
    json_option(parser)


def show_schedule(options: argparse.Namespace) -> int:
    """Show a set's schedule."""
    from vdbackup.operations.schedules import arrange

    store = schedules_store()
    schedule = store.get(*set_named(options))
    runs = store.history_of(schedule.id).runs
    plan = arrange.planned(store, schedule)
    if options.json:
        history = [run_json(run) for run in runs]
        print_json({**_json(store, schedule), "units": plan.texts, "runs": history})
        return DONE
    say(plan.summary)
    _say_units(plan)
    if store.history_is_damaged(schedule.id):
        warn([tr("what is known of its last runs makes no sense; the next one is noted anew")])
    if runs:
        say("")
        table(
            (tr("began (UTC)"), tr("how"), tr("point"), tr("what")), [_run_row(run) for run in runs]
        )
    return DONE


def _add_remove(actions: Subparsers) -> None:
    parser = new_command(
        actions,
        "remove",
        remove_schedule,
        tr("back a set up automatically no more"),
        example="schedule remove -r /mnt/backups --set laptop",
        failed=tr("it has no schedule"),
        warned=tr("it is forgotten, and systemd did not take that"),
    )
    repository_options(parser)
    json_option(parser)


def remove_schedule(options: argparse.Namespace) -> int:
    """Back a set up automatically no more."""
    from vdbackup.operations.schedules import arrange

    result = arrange.remove(schedules_store(), *set_named(options))
    if options.json:
        print_json({"event": "result", "set": result.set_name, "crontab": result.cron or None})
    else:
        say(
            tr(
                "{set_name} is backed up automatically no more. Its backups stay.",
                set_name=result.set_name,
            )
        )
        _say_cron(result.cron, added=False)
    if result.by_cron:
        warn([tr("how it was run is not known any more: look for it in your crontab (crontab -e)")])
    return _warned(result)


def _json(store: Store, schedule: Schedule) -> dict[str, Any]:
    last, merge = store.history_of(schedule.id).last, store.last_merge(schedule.id)
    damaged = {"runs_damaged": True} if store.history_is_damaged(schedule.id) else {}
    return {
        **damaged,
        "set": schedule.set_name,
        "repository": str(schedule.repository),
        "every": schedule.every,
        "at": f"{schedule.timing.time:%H:%M}" if schedule.timing.has_time else None,
        "on_mains": schedule.on_mains,
        "random_delay": schedule.random_delay,
        "all_blocks": schedule.all_blocks,
        "verify": schedule.verify,
        "merge_at": schedule.merge_at or None,
        "networks": list(schedule.networks),
        "not_metered": schedule.not_metered,
        "not_presenting": schedule.not_presenting,
        "last_run": run_json(last) if last else None,
        "last_merge": run_json(merge) if merge else None,
    }


def _row(store: Store, schedule: Schedule) -> tuple[str, ...]:
    last = store.history_of(schedule.id).last
    never = tr("not known any more") if store.history_is_damaged(schedule.id) else tr("never")
    began, how = (last.began.replace("T", " ")[:19], tr(last.outcome)) if last else ("", never)
    return schedule.set_name, str(schedule.repository), schedule.timing.words, began, how


def _run_row(run: Run) -> tuple[str, ...]:
    began = run.began.replace("T", " ")[:19]
    return began, tr(run.outcome), str(run.point or ""), run.sentence
