"""The command `rehearse`: all of a restore beforehand, in a virtual twin of the target."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli import machines_cmd
from vdbackup.cli.common import DONE, announce, open_repository, sessions_folder
from vdbackup.cli.console import print_json, say, work
from vdbackup.cli.json_values import rehearsal_json
from vdbackup.cli.options import (
    Subparsers,
    dry_run_option,
    hardware_options,
    json_option,
    new_command,
    point_options,
)
from vdbackup.cli.values import (
    sensible_seconds,
    size_in_bytes,
)
from vdbackup.errors import DoesNotBoot, UsageError
from vdbackup.jobs import duration
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.rehearse import Twin


def add_rehearse(subparsers: Subparsers) -> None:
    """The command, and what it can be told."""
    parser = new_command(
        subparsers,
        "rehearse",
        rehearse,
        tr("do all of a restore beforehand, in a virtual twin of the target, and note the time"),
        example="rehearse -r /mnt/backups latest --size 500G --hardware nvme --firmware uefi",
        failed=tr("the restored system did not come up"),
    )
    point_options(parser)
    parser.add_argument(
        "--size", type=size_in_bytes, metavar="SIZE",
        help=tr("of the target's disk, such as 500G; that of the point if left out"),
    )  # fmt: skip
    parser.add_argument(
        "--sectors",
        type=int,
        choices=[512, 4096],
        help=tr("of that disk, in bytes; as the point had"),
    )
    parser.add_argument(
        "--like", type=Path, metavar="DISK", help=tr("a twin of this disk, and of this computer")
    )
    parser.add_argument(
        "--folder", type=Path, help=tr("for the twin's disk meanwhile; TMPDIR if left out")
    )
    parser.add_argument(
        "--timeout", type=sensible_seconds, metavar="SECONDS",
        help=tr("for the boot (default: 180, or 900 where there is no KVM)"),
    )  # fmt: skip
    hardware_options(parser)
    dry_run_option(parser)
    json_option(parser)


def rehearse(options: argparse.Namespace) -> int:
    """Rehearse the restore of a point."""
    from vdbackup.operations import rehearse
    from vdbackup.recovery.boot_test.boot_test import BootTestOptions

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    plan = rehearse.plan(repository, backup_set.name, point.id, _twin(options), options.folder)
    if not announce(plan, options):
        return DONE
    watched = BootTestOptions(sessions_folder(), time_limit=options.timeout)
    found = work(
        tr("Rehearsal of {backup_set} #{point}", backup_set=backup_set.name, point=point.sequence),
        lambda task: rehearse.run(plan, watched, task),
        as_json=options.json,
    )
    if options.json:
        values: dict[str, Any] = rehearsal_json(found)
        print_json({"event": "result", **values})
    elif found.ok:
        say(
            tr(
                "Back in {seconds}: {sentence}",
                seconds=duration(found.seconds),
                sentence=found.sentence,
            )
        )
    if not found.ok:
        raise DoesNotBoot(tr("The restored system did not come up."), found.sentence)
    return DONE


def _twin(options: argparse.Namespace) -> Twin:
    from vdbackup.operations import rehearse

    if options.like is None:
        return rehearse.Twin(options.size, machines_cmd.request(options), options.sectors)
    if options.size is not None or options.sectors is not None:
        raise UsageError(
            tr("The size is that of the disk that is named."), tr("Leave out either of them.")
        )
    return rehearse.like(options.like)
