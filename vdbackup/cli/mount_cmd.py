"""Commands that show a point as a folder: mount, umount."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli.common import DONE, WARNINGS, find_moment_or_point, open_repository
from vdbackup.cli.console import print_json, say, warn
from vdbackup.cli.keys import key_options, keys_of
from vdbackup.cli.options import Subparsers, json_option, new_command, state_options
from vdbackup.errors import UsageError
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.recovery.mount.mounting import Mounted


def add_mount(subparsers: Subparsers) -> None:
    """The command `mount`, and what it can be told."""
    parser = new_command(
        subparsers,
        "mount",
        mount,
        tr("show a point's files as a folder, read-only, until it is unmounted"),
        example="mount -r /mnt/backups latest /home/me/look",
        failed=tr("nothing is mounted"),
        warned=tr("what it shows may not be the newest"),
    )
    state_options(parser)
    parser.add_argument("where", type=Path, metavar="FOLDER", help=tr("an empty folder"))
    parser.add_argument(
        "--background", action="store_true", help=tr("leave it mounted, and return at once")
    )
    parser.add_argument(
        "--as-disk", action="store_true",
        help=tr("show one file instead, disk.raw: the whole disk, for other programs"),
    )  # fmt: skip
    key_options(parser)
    json_option(parser)


def mount(options: argparse.Namespace) -> int:
    """Show a point as a folder; what it says at once says that the folder is there."""
    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = find_moment_or_point(repository, options.point, options.set)

    if options.as_disk and (options.unlock or options.key_file):
        raise UsageError(
            tr("A disk is shown as it was captured, with all that is encrypted on it."),
            tr("Leave out the key, or --as-disk."),
        )
    keys = keys_of(options)

    warned = False

    def tell(found: Mounted) -> None:
        nonlocal warned
        warned = bool(found.warnings)
        _tell(found, options)

    what = backup_set.name, point.id, options.where
    if options.background:
        from vdbackup.recovery.mount import background

        if options.as_disk:
            tell(background.start_disk(repository.path, *what))
        else:
            tell(background.start(repository.path, *what, keys))
        return WARNINGS if warned else DONE
    from vdbackup.recovery.mount import mounting

    if options.as_disk:
        mounting.mount_disk(repository, *what, tell)
    else:
        mounting.mount(repository, *what, tell, keys)
    return WARNINGS if warned else DONE


def _tell(found: Mounted, options: argparse.Namespace) -> None:
    if options.json:
        print_json(
            {
                "event": "mounted",
                "folder": str(found.where),
                "sequence": found.point,
                "volumes": found.volumes,
                "warnings": found.warnings,
            }
        )
    else:
        say(tr("Point {point} is the folder {where}.", point=found.point, where=found.where))
        for volume in found.volumes:
            say(f"  {volume}")
        also = "" if options.background else tr(", or Ctrl-C,")
        say(
            tr("`vdbackup umount {where}`{also} ends that.", where=found.where, also=also),
            at_once=True,
        )
    warn(found.warnings)


def add_umount(subparsers: Subparsers) -> None:
    """The command `umount`, and what it can be told."""
    parser = new_command(
        subparsers,
        "umount",
        umount,
        tr("let a folder show no point any more"),
        example="umount /home/me/look",
        failed=tr("no point is mounted there, or something uses the folder"),
    )
    parser.add_argument("where", type=Path, metavar="FOLDER", help=tr("what `mount` was told"))
    json_option(parser)


def umount(options: argparse.Namespace) -> int:
    """Unmount a folder, and wait until its point is free."""
    from vdbackup.recovery.mount import mounting

    mounting.unmount(options.where)
    if options.json:
        print_json({"event": "result", "folder": str(options.where)})
    return DONE
