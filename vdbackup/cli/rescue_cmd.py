"""The commands `make-rescue`, and `rescue` and `make-bootable` for who has started from one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vdbackup.cli import output, remedies
from vdbackup.cli.common import DONE, WARNINGS, announce, find_moment_or_point, open_repository
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.options import Subparsers, dry_run_option, json_option, new_command
from vdbackup.errors import Cancelled, RepositoryError, VdbackupError
from vdbackup.jobs import readable_size as size
from vdbackup.text import printable
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.recovery.bootable.making import MadeBootable
    from vdbackup.repository.backup_set import BackupSet
    from vdbackup.repository.repository import Repository
    from vdbackup.rescue.finding import FoundRepository
    from vdbackup.sources.devices import Candidate

T = TypeVar("T")


def add_make_rescue(subparsers: Subparsers) -> None:
    """The command `make-rescue`, and what it can be told."""
    parser = new_command(
        subparsers,
        "make-rescue",
        make_rescue,
        tr("make an image that a computer without a system starts from, to restore it"),
        example="make-rescue rescue.iso --dry-run",
        failed=tr("no image was made"),
    )
    parser.add_argument("image", type=Path, metavar="OUT.iso", help=tr("a new file"))
    parser.add_argument(
        "--text", action="store_true", help=tr("without the window: smaller, and made sooner")
    )
    parser.add_argument("--overwrite", action="store_true", help=tr("replace what is there"))
    dry_run_option(parser)
    json_option(parser)


def make_rescue(options: argparse.Namespace) -> int:
    """Make a rescue medium."""
    from vdbackup.rescue import making

    plan = making.plan(options.image, window=not options.text, overwrite=options.overwrite)
    if not announce(plan, options):
        return DONE
    made = work(tr("Rescue medium"), lambda task: making.run(plan, task), as_json=options.json)
    if options.json:
        print_json({"event": "result", "image": str(made.image), "size": made.size})
    else:
        say(
            tr(
                "{image} is made: {size}. Copy it to a stick as it is, or burn it.",
                image=made.image,
                size=size(made.size),
            )
        )
    return DONE


def add_make_bootable(subparsers: Subparsers) -> None:
    """The command `make-bootable`, and what it can be told."""
    parser = new_command(
        subparsers,
        "make-bootable",
        make_bootable,
        tr("make a restored disk start on this computer: drivers, names, boot entry"),
        example="make-bootable /dev/nvme0n1 --dry-run",
        failed=tr("the disk may not start"),
        warned=tr("something could not be done, or has to be known"),
    )
    parser.add_argument("disk", type=Path, metavar="DISK", help=tr("the device of the whole disk"))
    dry_run_option(parser)
    json_option(parser)


def make_bootable(options: argparse.Namespace) -> int:
    """Make a restored disk start on this computer."""
    from vdbackup.records import to_json
    from vdbackup.recovery.bootable import making

    plan = making.plan(options.disk)
    facts = {"changes": [to_json(each) for each in plan.changes], "boot_entry": plan.entry}
    if not announce(plan, options, **facts, notes=plan.notes):
        return DONE
    made = work(tr("Make bootable"), lambda task: making.run(plan, task), as_json=options.json)
    if options.json:
        print_json({"event": "result", "done": made.done, "warnings": made.warnings})
    else:
        _show_made_bootable(made)
    return WARNINGS if made.warnings else DONE


def _show_made_bootable(made: MadeBootable) -> None:
    for sentence in made.done:
        say(sentence)
    warn(made.warnings)


def add_rescue(subparsers: Subparsers) -> None:
    """The command `rescue`, and what it can be told."""
    parser = new_command(
        subparsers,
        "rescue",
        rescue,
        tr("find backups on attached disks, and restore: the rescue medium does so"),
        example="rescue --json",
        failed=tr("what is attached cannot be looked at"),
    )
    parser.add_argument(
        "--for-window", action="store_true", help=tr("ask nothing; the window lists what is found")
    )
    json_option(parser)


def rescue(options: argparse.Namespace) -> int:
    """Find backups on attached disks, and restore what the user chooses."""
    if options.for_window:
        _let_window_list(_found(as_json=False))
    elif options.json:
        found = _found(as_json=True)
        print_json({"event": "result", "repositories": [_repository_json(each) for each in found]})
    elif not sys.stdin.isatty():
        _show(_sets_in(_found(as_json=False)))
    else:
        _converse()
    return DONE


def _found(*, as_json: bool) -> list[FoundRepository]:
    from vdbackup.rescue import finding

    return work(tr("Looking for backups"), finding.find, as_json=as_json)


def _let_window_list(found: Sequence[FoundRepository]) -> None:
    """Put what was found among what the window knows."""
    from vdbackup.locations import Locations
    from vdbackup.settings import Settings

    def with_all(settings: Settings) -> Settings:
        for each in found:
            settings = settings.with_repository(each.folder)
        return settings

    Settings.update(Locations.from_environment().settings_file, with_all, Settings())


def _repository_json(found: FoundRepository) -> dict[str, Any]:
    sets = [each for _, each in _sets_in([found])]
    return {
        "folder": str(found.folder),
        "where": found.where,
        "sets": [{"name": each.name, "points": len(each.points)} for each in sets],
    }


def _sets_in(found: Sequence[FoundRepository]) -> list[tuple[Repository, BackupSet]]:
    """The sets that hold points; what cannot be read is said."""
    sets: list[tuple[Repository, BackupSet]] = []
    for each in found:
        try:
            repository = open_repository(each.folder)
            readable, damaged = repository.survey()
        except (RepositoryError, OSError) as error:
            warn([f"{each.folder}: {error}"])
            continue
        sets += [(repository, found_set) for found_set in readable if found_set.points]
        warn([f"{lost.name}: {remedies.sentences(lost.problem)}" for lost in damaged])
    return sets


# ----------------------------------------------------------------------------------- questions

_HELP = tr("l looks again, q goes to a terminal, r restarts the computer, p switches it off")


class _Left(Exception):
    """The user wants a terminal."""


class _LookAgain(Exception):
    """The user wants all disks to be looked at again."""


def _converse() -> None:
    """Ask until the user leaves."""
    while True:
        try:
            sets = _sets_in(_found(as_json=False))
            _show(sets)
            say(f"({_HELP}.)")
            _restore(*_chosen_set(sets))
        except _LookAgain:
            continue
        except _Left:
            return
        except (VdbackupError, OSError) as error:
            ours = error if isinstance(error, VdbackupError) else None
            warn([remedies.sentences(ours) if ours else str(error)])


def _show(sets: Sequence[tuple[Repository, BackupSet]]) -> None:
    if not sets:
        say(tr("No backups were found on the attached disks. Attach the disk that holds them, or"))
        say(
            tr(
                "mount a network share at a terminal (the manual of the medium says how): l, "
                "then q."
            )
        )
        return
    rows: list[tuple[str, ...]] = [
        (
            str(number),
            backup_set.name,
            size(backup_set.settings.virtual_size),
            str(len(backup_set.points)),
            backup_set.points[-1].created.replace("T", " ")[:16],
            str(repository.path),
        )
        for number, (repository, backup_set) in enumerate(sets, 1)
    ]
    table(("#", tr("backups of"), tr("size"), tr("points"), tr("newest (UTC)"), tr("where")), rows)


def _chosen_set(sets: Sequence[tuple[Repository, BackupSet]]) -> tuple[Repository, BackupSet]:
    return _choice(tr("Restore which?"), sets)


def _choice(question: str, among: Sequence[T]) -> T:
    """What the user chooses by its number in a list that was shown, counted from 1."""
    while True:
        answer = _answer(question)
        if answer.isdecimal() and 1 <= int(answer) <= len(among):
            return among[int(answer) - 1]
        say(tr("Type a number from the list ({help}).", help=_HELP))


def _answer(question: str) -> str:
    """What the user types; raises what stands for a wish of another kind."""
    from vdbackup.rescue import ending

    output.complain(printable(f"{question} "), end="")
    line = sys.stdin.readline()
    answer = line.strip()
    if not line or answer == "q":
        raise _Left
    if answer == "l":
        raise _LookAgain
    if answer in ("r", "p"):
        (ending.restart if answer == "r" else ending.power_off)()
        raise _Left
    return answer


def _restore(repository: Repository, backup_set: BackupSet) -> None:
    """Ask for the point and the disk, show what would be lost, and do it."""
    from vdbackup.operations import restore

    wanted = _answer(tr("Which point? A number, or Enter for the newest:")) or "latest"
    _, point = find_moment_or_point(repository, wanted, backup_set.name)
    disk = _chosen_disk(point.virtual_size)
    target, fits = disk.path, _is_to_fit(disk, point.virtual_size)
    plan = restore.plan(
        restore.RestoreRequest(
            repository, backup_set.name, point.id, target, overwrite=True, resize=fits
        )
    )
    say(plan.summary)
    say(tr("Everything on {target} will be lost.", target=target))
    if _answer(tr("Type yes to go on:")) != "yes":
        raise Cancelled(tr("Nothing was written."), "")
    warn(work(tr("Restore"), lambda task: restore.run(plan, task), as_json=False).warnings)
    say(
        tr(
            "{target} holds point {point} of {backup_set}, checked on its way.",
            target=target,
            point=point.sequence,
            backup_set=backup_set.name,
        )
    )
    _offer_to_make_bootable(target)
    say(tr("Type r to restart the computer, and take the medium out."))


def _is_to_fit(disk: Candidate, size_of_point: int) -> bool:
    """Whether the partitions are to be fitted to a disk of another size."""
    if disk.size < size_of_point:
        say(tr("That disk is smaller than the one in the backup: its partitions are fitted to it."))
        return True
    if disk.size == size_of_point:
        return False
    say(tr("That disk is larger than the one in the backup."))
    return (
        _answer(tr("Type yes to fit the partitions to it, Enter to leave the rest free:")) == "yes"
    )


def _offer_to_make_bootable(disk: Path) -> None:
    """Say what it takes for the restored system to start here, and do it if that is wanted."""
    from vdbackup.recovery.bootable import making

    try:
        plan = making.plan(disk)
    except (VdbackupError, OSError) as error:  # a disk of data, for one
        say(tr("Nothing is changed for this computer: {error}", error=error))
        return
    say(plan.summary)
    if not plan.needed:
        warn(plan.notes)
    elif _answer(tr("Type yes to have that done:")) == "yes":
        _show_made_bootable(work(tr("Make bootable"), lambda t: making.run(plan, t), as_json=False))


def _chosen_disk(needed: int) -> Candidate:
    """The disk that the user wants to be written over."""
    from vdbackup.sources import devices

    disks = [each for each in devices.candidates() if each.kind == "disk"]
    rows: list[tuple[str, ...]] = [
        (
            str(number),
            str(each.path),
            each.title,
            size(each.size),
            _state(each, needed),
        )
        for number, each in enumerate(disks, 1)
    ]
    table(("#", tr("disk"), tr("what it is"), tr("size"), ""), rows)
    return _choice(tr("Onto which disk?"), disks)


def _state(disk: Candidate, needed: int) -> str:
    """Why a disk may not be the right one, as far as that is known; "" where nothing is."""
    if disk.mountpoints:
        return tr("in use: {mountpoints}", mountpoints=", ".join(disk.mountpoints))
    return tr("smaller") if disk.size < needed else ""
