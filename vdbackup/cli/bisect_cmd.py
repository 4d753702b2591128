"""The command that finds the point at which something stopped working."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS, announce, open_repository, sessions_folder
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.machines_cmd import request
from vdbackup.cli.options import (
    POINT_HELP,
    Subparsers,
    dry_run_option,
    hardware_options,
    json_option,
    new_command,
    repository_options,
)
from vdbackup.cli.values import (
    sensible_seconds,
)
from vdbackup.errors import UsageError
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.bisect import BisectResult
    from vdbackup.recovery.checks import Check, Checked


def add_bisect(subparsers: Subparsers) -> None:
    """The command `bisect`, and what it can be told."""
    parser = new_command(
        subparsers,
        "bisect",
        bisect,
        tr("find the first point at which a check fails, in few steps"),
        example="bisect -r /mnt/backups --until login:",
        failed=tr("no point fails, or the check cannot be done"),
        warned=tr("of some points nobody can tell; the first bad one may be one of them"),
    )
    repository_options(parser)
    parser.add_argument(
        "--from", dest="first", metavar="POINT", help=tr(
            "where to begin; the oldest if left out: {point_help}",
            point_help=POINT_HELP
        ),
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="last", metavar="POINT", help=tr("where to end; the newest if left out")
    )
    check = parser.add_mutually_exclusive_group(required=True)
    check.add_argument(
        "--run", metavar="CMD",
        help=tr(
            "a command that is given a folder with the point's files, and ends with 0 if it is "
            "good, with 125 if it cannot tell"
        ),
    )  # fmt: skip
    check.add_argument(
        "--run-inside", metavar="CMD",
        help=tr(
            "boot the points, and have their agent (qemu-guest-agent) run a command in them; its "
            "status means the same"
        ),
    )  # fmt: skip
    check.add_argument(
        "--until", metavar="TEXT",
        help=tr("boot the points; good is one on whose screen or serial console TEXT appears"),
    )  # fmt: skip
    parser.add_argument(
        "--timeout",
        type=sensible_seconds,
        metavar="SECONDS",
        help=tr("for each point that is booted"),
    )
    hardware_options(parser)
    dry_run_option(parser)
    json_option(parser)


def bisect(options: argparse.Namespace) -> int:
    """Find the first bad point."""
    from vdbackup.operations import bisect

    repository = open_repository(options.repository, as_json=options.json)
    backup_set = repository.set(options.set)
    first, last = (
        repository.find(each, options.set)[1].id if each else None
        for each in (options.first, options.last)
    )
    plan = bisect.plan(repository, backup_set.name, _check(options), first, last)
    if not announce(plan, options):
        return DONE
    result: BisectResult = work(
        tr("Bisect"), lambda task: bisect.run(plan, task), as_json=options.json
    )
    if options.json:
        print_json(_result_json(result))
    else:
        _say(result, options)
    warn(_untold(result))
    return WARNINGS if result.untold else DONE


def _check(options: argparse.Namespace) -> Check:
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions
    from vdbackup.recovery.checks import CommandCheck, GuestCheck, TextCheck

    if options.run is not None:
        return CommandCheck(_command(options.run, "--run"))
    how = BootTestOptions(sessions_folder(), time_limit=options.timeout, hardware=request(options))
    if options.run_inside is not None:
        return GuestCheck(_command(options.run_inside, "--run-inside"), how)
    return TextCheck(options.until, how)


def _command(text: str, option: str) -> tuple[str, ...]:
    """A program and its arguments, as a shell would take them apart."""
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(
            tr("{run!r} is no command: {error}.", run=text, error=error),
            tr("Check its quotes."),
        ) from error
    if not command:
        raise UsageError(
            tr("The command to run is empty."),
            tr("Name a program after {option}.", option=option),
        )
    return command


def _say(result: BisectResult, options: argparse.Namespace) -> None:
    for each in result.checked:
        say(
            tr(
                "Point {point}: {verdict}. {sentence}",
                point=each.point.sequence,
                verdict=tr(each.verdict),
                sentence=each.sentence,
            )
        )
    bad, good = result.first_bad, result.last_good
    created = bad.created.replace("T", " ")[:19]
    if good is None:
        say(
            tr(
                "Already point {bad}, of {created} (UTC), fails: none is before it.",
                bad=bad.sequence,
                created=created,
            )
        )
        return
    say(
        tr(
            "The first point that fails is {bad}, of {created} (UTC).",
            bad=bad.sequence,
            created=created,
        )
    )
    where = shlex.join(["-r", str(options.repository)])
    say(
        tr(
            "`vdbackup diff {where} {good} {bad}` lists what changed then.",
            where=where,
            good=good.sequence,
            bad=bad.sequence,
        )
    )


def _untold(result: BisectResult) -> list[str]:
    if not result.untold:
        return []
    numbers = ", ".join(str(each.sequence) for each in result.untold)
    return [
        tr(
            "Of these nobody can tell, and any may be the first that fails: {numbers}.",
            numbers=numbers,
        )
    ]


def _result_json(result: BisectResult) -> dict[str, Any]:
    good = result.last_good
    return {
        "event": "result",
        "first_bad": {"id": result.first_bad.id, "sequence": result.first_bad.sequence},
        "last_good": good and {"id": good.id, "sequence": good.sequence},
        "untold": [{"id": each.id, "sequence": each.sequence} for each in result.untold],
        "checked": [_checked_json(each) for each in result.checked],
    }


def _checked_json(each: Checked) -> dict[str, Any]:
    return {
        "id": each.point.id,
        "sequence": each.point.sequence,
        "verdict": str(each.verdict),
        "sentence": each.sentence,
    }
