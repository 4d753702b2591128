"""What several families of commands do: open a repository, announce a plan, end with a status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli import output, remedies
from vdbackup.cli.console import interrupts, print_json, say, warn, work
from vdbackup.cli.json_values import plan_json
from vdbackup.errors import Cancelled, NotConfirmed, UsageError, VdbackupError, from_os
from vdbackup.jobs import Plan, Task
from vdbackup.jobs import readable_size as size
from vdbackup.text import printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.machines import Machines
    from vdbackup.operations.opening import Finished
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.machine import Machine
    from vdbackup.repository.manifests import BrokenManifest
    from vdbackup.repository.model import RecoveryPoint
    from vdbackup.repository.repository import DamagedSet, Repository


DONE, WARNINGS = 0, 3


def open_repository(
    path: Path, allowed: Machines | None = None, *, as_json: bool = False
) -> Repository:
    """Open a repository, and finish first what a crash left in it.

    Args:
        path: the repository's folder.
        allowed: what machines may use, where the command knows it already.
        as_json: show progress as JSON lines; not for a command that prints a single JSON value.
    """
    from vdbackup.repository.repository import Repository

    repository = Repository.open(path)
    finished = finish_merges(repository, allowed or machines(), as_json=as_json)
    warn([*told_of(finished), *said_of(finished.trouble)])
    return repository


def find(
    repository: Repository, reference: str, options: argparse.Namespace
) -> tuple[BackupSet, RecoveryPoint]:
    """The point that is meant; of a moment of a machine, that of the disk that it starts from.

    Raises PointNotFound, MachineNotFound, NotWhole.
    """
    from vdbackup.repository.machine import KnownMachines, find_moment

    known = KnownMachines.of(repository)
    name = options.machine
    if name is None and options.set is None:  # it is plain which is meant
        name = next((each.name for each in known.all if _is_all(repository, each)), None)
    if name is None:
        return repository.find(reference, options.set)
    if options.set is not None:
        raise UsageError(
            tr("A point is of a machine or of a set."), tr("Leave out --machine or --set.")
        )
    moment = find_moment(repository, known.named(name), reference)
    set_name, point = next(iter(moment.points.items()))
    return repository.set(set_name), point


def find_state(
    repository: Repository, reference: str, options: argparse.Namespace
) -> tuple[BackupSet, RecoveryPoint]:
    """The same, or the moment behind a point that is meant: for commands that only read."""
    from vdbackup.repository.written import is_moment

    if is_moment(reference):
        return find_moment_or_point(repository, reference, options.set)
    return find(repository, reference, options)


def find_moment_or_point(
    repository: Repository, reference: str, set_name: str | None
) -> tuple[BackupSet, RecoveryPoint]:
    """What `Repository.find_state` finds; where a clock leaves it in doubt, that is said."""
    from vdbackup.repository.written import WrittenPoint

    backup_set, point = repository.find_state(reference, set_name)
    if isinstance(point, WrittenPoint):
        warn([point.doubt] if point.doubt else [])
    return backup_set, point


def _is_all(repository: Repository, machine: Machine) -> bool:
    """Whether there is nothing in the repository but the disks of a machine."""
    return len(machine.sets) > 1 and set(repository.names()) == set(machine.sets)


def finish_merges(repository: Repository, allowed: Machines, *, as_json: bool) -> Finished:
    """Finish what was cut off; what was done. A merge may take an hour."""
    from vdbackup.operations import opening

    if not repository.unfinished_sets():
        return opening.finish(repository, allowed.sessions_folder, Task())
    finished: Finished = work(
        tr("Finishing what was interrupted"),
        lambda task: opening.finish(repository, allowed.sessions_folder, task),
        as_json=as_json,
    )
    interrupts.check()
    return finished


def told_of(finished: Finished) -> list[str]:
    """What was finished, and what could not be, a sentence or two each."""
    return [*finished.done, *said_of(finished.undone)]


def said_of(trouble: Iterable[VdbackupError]) -> list[str]:
    """What went wrong beside what was done, a sentence or two each."""
    return [remedies.sentences(each) for each in trouble]


def sessions_folder() -> Path:
    """Where virtual machines write, by the user's settings."""
    from vdbackup.locations import Locations
    from vdbackup.settings import Settings

    locations = Locations.from_environment()
    return Settings.load(locations.settings_file).sessions(locations)


def machines() -> Machines:
    """What machines may use that are started unseen, by the user's settings.

    Settings that cannot be read stop nothing: then it is what is usual, and that is said.
    """
    from vdbackup.locations import Locations
    from vdbackup.operations.machines import Machines
    from vdbackup.settings import Settings

    locations = Locations.from_environment()
    try:
        settings = Settings.load(locations.settings_file)
    except (VdbackupError, OSError) as error:
        warn([remedies.sentences(from_os(error) if isinstance(error, OSError) else error)])
        settings = Settings()
    return Machines(settings.sessions(locations), settings.memory_mib or None)


def announce(plan: Plan, options: argparse.Namespace, **more: Any) -> bool:
    """Say what is planned; whether it is to be done. `more` stands in its JSON, too."""
    if options.dry_run:
        if options.json:
            print_json({"event": "plan", **plan_json(plan), **more})
        else:
            say(plan.summary)
            if plan.bytes_to_copy:
                say(tr("Up to {size} are copied.", size=size(plan.bytes_to_copy)))
            for name in (*plan.replaces, *plan.invalidates):
                say(tr("  replaced or gone afterwards: {name}", name=name))
            if plan.hindrance:
                say(plan.hindrance)
    elif not options.json:
        say(plan.summary)
    return not options.dry_run


def confirm(question: str, problem: str, otherwise: str) -> None:
    """Ask on the terminal, and go on where the answer is yes.

    Args:
        question: what is asked.
        problem: what is said where there is nobody to ask.
        otherwise: what has become of it where the answer is no.

    Raises Cancelled where it is no, and BackupError where there is nobody.
    """
    if not sys.stdin.isatty():
        raise NotConfirmed(problem, tr("Say with --yes that this is meant."))
    output.complain(printable(f"{question} [y/N] "), end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled(otherwise, "")


def unread_state(unread: BrokenManifest | DamagedSet) -> str:
    """What may not be read need not be damaged."""
    return "MAY NOT BE READ" if unread.refused else tr("DAMAGED")
