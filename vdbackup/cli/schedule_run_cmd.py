"""What timers call: schedule run backs a set up if that is due, schedule merge keeps its policy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli.boot_test_cmd import prove_new_point
from vdbackup.cli.care_cmd import verdict_json, words_of_points
from vdbackup.cli.common import DONE, WARNINGS, machines, said_of
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.history_cmd import note_names
from vdbackup.cli.json_values import run_json
from vdbackup.cli.options import Subparsers, json_option, new_command, repository_options
from vdbackup.errors import Cancelled, PointInUse, UsageError, VdbackupError
from vdbackup.pace import Pace
from vdbackup.translation import again, tr

if TYPE_CHECKING:
    from vdbackup.operations.machines import Machines
    from vdbackup.operations.schedules.run import RunResult
    from vdbackup.operations.schedules.store import Schedule, Store


def add_run(actions: Subparsers) -> None:
    """The command `schedule run`, and what it can be told."""
    parser = new_command(
        actions,
        "run",
        run_schedule,
        tr("back a set up if that is due: what timers call"),
        example="schedule run -r /mnt/backups --set laptop --json",
        failed=tr("no recovery point was made"),
        warned=tr("a point was made, and something was not as it should be"),
    )
    repository_options(parser)
    json_option(parser)


def run_schedule(options: argparse.Namespace) -> int:
    """Back a set up if that is due."""
    from vdbackup.operations.schedules import run

    store = schedules_store()
    schedule = store.get(*set_named(options))
    allowed, pace = machines(), Pace(gives_way=True)
    try:
        result: RunResult = work(
            tr("Backup of {set_name}", set_name=schedule.set_name),
            lambda task: run.run(store, schedule, allowed, task.at(pace)),
            as_json=options.json,
        )
    except VdbackupError:
        _tell_people(store, schedule)
        raise
    status = _ran(schedule, result, allowed, pace, as_json=options.json)
    if result.made is not None:
        _tell_people(store, schedule)
    return status


def _tell_people(store: Store, schedule: Schedule) -> None:
    """Tell of what has gone wrong, and of what is over; the window does that itself, on screen."""
    from vdbackup.locations import Locations
    from vdbackup.operations import health, troubles
    from vdbackup.operations.telling import Ways
    from vdbackup.settings import DamagedSettings, Settings

    locations = Locations.from_environment()
    try:
        settings = Settings.load(locations.settings_file)
        seen = locations.window_is_open()
        ways = Ways.of(settings.mail_to, settings.trouble_command, desktop=not seen)
    except (DamagedSettings, UsageError) as error:
        warn([tr("Nobody could be told of trouble: {error}.", error=error)])
        settings, ways = Settings(), Ways()
    moment = health.Moment.at_present(settings.remind_after_days)
    warn(troubles.tell(store, schedule, moment, ways))


def _ran(
    schedule: Schedule,
    result: RunResult,
    allowed: Machines,
    pace: Pace,
    *,
    as_json: bool,
) -> int:
    """Say how a run ended, and do what follows it."""
    if as_json:
        print_json({"event": "result", "set": schedule.set_name, **run_json(result.run)})
    else:
        say(again(result.run.sentence))
    if (made := result.made) is None:
        return DONE
    warn([*made.warnings, *said_of(made.trouble)])
    note_names(made, as_json=as_json)
    boots = not made.to_be_tested or prove_new_point(made, allowed, as_json=as_json)
    damaged = _verify(schedule, pace, as_json=as_json)
    return WARNINGS if made.warnings or made.trouble or damaged or not boots else DONE


def add_merge(actions: Subparsers) -> None:
    """The command `schedule merge`, and what it can be told."""
    parser = new_command(
        actions,
        "merge",
        merge_by_schedule,
        tr("merge what the policy of a set keeps no more: what timers call"),
        example="schedule merge -r /mnt/backups --set laptop --json",
        failed=tr("nothing was merged"),
        warned=tr("something is due to go and stays"),
    )
    repository_options(parser)
    json_option(parser)


def merge_by_schedule(options: argparse.Namespace) -> int:
    """Merge what the policy of a schedule's set keeps no more."""
    from vdbackup.operations.schedules import merging

    store = schedules_store()
    schedule = store.get(*set_named(options))
    folder, pace = machines().sessions_folder, Pace(gives_way=True)
    try:
        merged = work(
            tr("Merge in {set_name}", set_name=schedule.set_name),
            lambda task: merging.run(store, schedule, folder, task.at(pace)),
            as_json=options.json,
        )
    except VdbackupError:
        _tell_people(store, schedule)
        raise
    if options.json:
        data = {"set": schedule.set_name, "done": list(merged.done)}
        print_json({"event": "result", **data})
    else:
        for sentence in merging.words(merged):
            say(sentence)
    warn([*merged.warnings, *said_of(merged.trouble)])
    _tell_people(store, schedule)
    return WARNINGS if merged.warnings or merged.trouble else DONE


def _verify(schedule: Schedule, pace: Pace, *, as_json: bool) -> bool:
    """Verify as many points as the schedule says; whether that found, or met, what is said.

    The backup has been made: what keeps this from being done is no failure of it.
    """
    from vdbackup.recovery import verify
    from vdbackup.repository.repository import Repository

    if schedule.verify < 1:
        return False
    try:
        repository = Repository.open(schedule.repository)
        chosen = verify.longest_ago(repository.set(schedule.set_name), schedule.verify)
        plan = verify.plan(repository, schedule.set_name, chosen)
        verdicts: list[verify.Verdict] = work(
            tr("Verify {set_name}", set_name=schedule.set_name),
            lambda task: verify.run(plan, task.at(pace)),
            as_json=as_json,
        )
    except PointInUse as error:
        warn([tr("Nothing was verified: {error}", error=error.title)])
        return False
    except Cancelled:
        raise
    except VdbackupError as error:
        warn([tr("Nothing was verified: {error}", error=error.title)])
        return True
    if as_json:
        print_json({"event": "verified", "points": [verdict_json(each) for each in verdicts]})
    else:
        say(tr("Verified: {verdicts}.", verdicts=words_of_points(verdicts)))
    damaged = [each for each in verdicts if not each.ok]
    warn([tr("Damaged: {damaged}.", damaged=words_of_points(damaged))] if damaged else [])
    return bool(damaged)


def set_named(options: argparse.Namespace) -> tuple[Path, str]:
    """The repository's folder, and the set; that need not be there, where it is named."""
    from vdbackup.repository.repository import Repository

    folder: Path = options.repository.absolute()
    return folder, options.set or Repository.open(folder).set(None).name


def schedules_store() -> Store:
    """Where this user's schedules are kept."""
    from vdbackup.locations import Locations
    from vdbackup.operations.schedules.store import Store

    locations = Locations.from_environment()
    return Store.within(locations.config, locations.data)
