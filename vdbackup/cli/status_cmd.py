"""The command that says how everything is: status."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli import remedies
from vdbackup.cli.common import DONE, WARNINGS
from vdbackup.cli.console import print_json, say, table, warn
from vdbackup.cli.in_use_cmd import moment
from vdbackup.cli.json_values import problem_json, rehearsal_json, run_json
from vdbackup.cli.options import Subparsers, json_option, new_command
from vdbackup.cli.schedule_run_cmd import schedules_store
from vdbackup.errors import AgentError
from vdbackup.jobs import readable_size as size
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:
    from vdbackup.agent.tracked import Status
    from vdbackup.operations.health import Finding, RepositoryHealth, SetHealth
    from vdbackup.recovery.mount.table import Shown


def add_status(subparsers: Subparsers) -> None:
    """The command `status`, and what it can be told."""
    parser = new_command(
        subparsers,
        "status",
        status,
        tr("say how the backups are, and which disks' changes are tracked"),
        example="status -r /mnt/backups",
        failed=tr("it cannot be told, or not to this user"),
        warned=tr("something needs a person, or a tracked disk's changes were missed"),
    )
    parser.add_argument(
        "-r", "--repository", type=Path, action="append", metavar="DIR",
        help=tr(
            "look at this folder with backups, not at all that the window and schedules know; "
            "repeatable"
        ),
    )  # fmt: skip
    json_option(parser)


def status(options: argparse.Namespace) -> int:
    """Say how the backups are, which disks' changes are tracked, and what shows a point."""
    from vdbackup.recovery.mount import table as table_of_mounts

    found = _looked_at(options.repository)
    tracked = _tracked(needed=not found)
    mounts = table_of_mounts.shown()
    if options.json:
        disks = None if tracked is None else [_tracked_json(each) for each in tracked]
        print_json(
            {
                "tracked": disks,
                "repositories": [_repository_json(each) for each in found],
                "mounts": [_mount_json(each) for each in mounts],
            }
        )
    else:
        for each in found:
            _show(each)
        if tracked or not found:
            _show_tracked(tracked or [])
        for folder in mounts:
            if not folder.is_dead:
                say(tr("{where} shows point {point}.", where=folder.where, point=folder.point))
    dead = [each for each in mounts if each.is_dead]
    warn(
        [
            tr(
                "{where} shows nothing any more: the process behind it was ended. `vdbackup "
                "umount` lets it be a folder again.",
                where=each.where,
            )
            for each in dead
        ]
    )
    doubted = [each for each in tracked or () if each.doubt]
    warn(
        [
            tr("all of {device} is read, because {doubt}.", device=each.device, doubt=each.doubt)
            for each in doubted
        ]
    )
    return WARNINGS if doubted or dead or any(each.needs_somebody for each in found) else DONE


def _looked_at(named: Sequence[Path] | None) -> list[RepositoryHealth]:
    """How these repositories are; where none is named, all that this user knows."""
    from vdbackup.locations import Locations
    from vdbackup.operations import health
    from vdbackup.settings import DamagedSettings, Settings

    store = schedules_store()
    try:
        settings = Settings.load(Locations.from_environment().settings_file)
    except DamagedSettings as error:
        warn([remedies.sentences(error)])
        settings = Settings()
    known = [*settings.repositories, *(each.repository for each in store.schedules())]
    moment = health.Moment.at_present(settings.remind_after_days)
    folders = dict.fromkeys(path.absolute() for path in (known if named is None else named))
    return [health.look(path, store, moment) for path in folders]


def _tracked(*, needed: bool) -> list[Status] | None:
    """The tracked disks; None where that cannot be told, and something else can."""
    from vdbackup.agent import client

    try:
        return list(client.tracked())
    except AgentError:
        if needed:
            raise
        return None


def _show(repository: RepositoryHealth) -> None:
    free = tr(", {size} free", size=size(repository.free)) if repository.free is not None else ""
    say(f"{repository.path}{free}")
    if repository.problem is not None:
        warn([remedies.sentences(repository.problem)])
        return
    if not repository.sets:
        say(tr("No backups yet."))
        return
    table(_COLUMNS, [_row(each) for each in repository.sets])
    for each in repository.sets:
        for finding in each.findings:
            mark = "!" if finding.needs_somebody else "-"
            say(f"{mark} {each.name}: {finding.sentence}")


_COLUMNS = (
    tr("set"),
    tr("last good (UTC)"),
    tr("points"),
    tr("layers"),
    tr("schedule"),
    tr("verified"),
    tr("boots"),
    tr("full in"),
)


def _row(found: SetHealth) -> tuple[str, ...]:
    last = found.last_good
    days = None if found.full_in is None else int(found.full_in // 86400)
    return (
        found.name,
        _day(last.created) if last else tr("never"),
        str(found.points),
        str(found.layers),
        found.schedule.timing.words if found.schedule else tr("none here"),
        _day(found.verified) or tr("never"),
        _day(found.boot_tested) or tr("never"),
        "" if days is None else tr("{days} days", days=grouped(days)),
    )


def _day(at: str) -> str:
    return at.replace("T", " ")[:16]


def _repository_json(found: RepositoryHealth) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "problem": problem_json(found.problem) if found.problem else None,
        "free_bytes": found.free,
        "needs_somebody": found.needs_somebody,
        "sets": [_set_json(each) for each in found.sets],
    }


def _set_json(found: SetHealth) -> dict[str, Any]:
    last, schedule = found.last_good, found.schedule
    good = {"sequence": last.sequence, "created": last.created} if last else None
    return {
        "name": found.name,
        "last_good": good,
        "age_seconds": None if found.age is None else round(found.age),
        "points": found.points,
        "layers": found.layers,
        "verified": found.verified or None,
        "boot_tested": found.boot_tested or None,
        "rehearsed": rehearsal_json(found.rehearsed) if found.rehearsed else None,
        "proven": found.proven or None,
        "full_in_seconds": None if found.full_in is None else round(found.full_in),
        "schedule": {"every": schedule.every, "at": schedule.at or None} if schedule else None,
        "last_run": run_json(found.last_run) if found.last_run else None,
        "needs_somebody": found.needs_somebody,
        "findings": [_finding_json(each) for each in found.findings],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "about": finding.about.value,
        "needs_somebody": finding.needs_somebody,
        "sentence": finding.sentence,
    }


def _show_tracked(tracked: Sequence[Status]) -> None:
    if not tracked:
        say(tr("No disk's changes are tracked."))
        return
    rows = [_tracked_row(each, name) for each in tracked for name in each.followers or [""]]
    table((tr("device"), tr("tracked since (UTC)"), tr("set"), tr("changed")), rows)


def _tracked_json(disk: Status) -> dict[str, Any]:
    return {
        "device": str(disk.device),
        "since": disk.since.isoformat(),
        "changed_bytes": disk.changed,
        "sets": [{"name": name, "changed_bytes": each} for name, each in disk.followers.items()],
        "scan_reason": disk.doubt or None,
    }


def _mount_json(found: Shown) -> dict[str, Any]:
    return {
        "folder": str(found.where),
        "point": found.point,
        "process": found.process,
        "dead": found.is_dead,
    }


def _tracked_row(disk: Status, name: str) -> tuple[str, ...]:
    """A disk, or one of the sets that follow it."""
    changed = disk.followers[name] if name else disk.changed
    amount = tr("everything is read") if changed is None else size(changed)
    return str(disk.device), moment(disk.since), name, amount
