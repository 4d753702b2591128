"""Commands for volumes in use: track, untrack."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup.cli.common import DONE
from vdbackup.cli.console import print_json, say
from vdbackup.cli.options import Subparsers, json_option, new_command
from vdbackup.translation import tr

if TYPE_CHECKING:
    from datetime import datetime


def add_track(subparsers: Subparsers) -> None:
    """The command `track`, and what it can be told."""
    _add(
        subparsers,
        track,
        tr("see from now on which blocks of a disk change, so that backups read only those"),
        failed=tr("its changes cannot be tracked, or not by this user"),
    )


def track(options: argparse.Namespace) -> int:
    """See which blocks of a disk change."""
    from vdbackup.operations import tracking

    device, since = tracking.begin(options.device)
    if options.json:
        print_json({"event": "result", "device": str(device), "since": since.isoformat()})
    else:
        say(
            tr(
                "Changes of {device} are tracked since {since}, until the next start.",
                device=device,
                since=moment(since),
            )
        )
    return DONE


def add_untrack(subparsers: Subparsers) -> None:
    """The command `untrack`, and what it can be told."""
    _add(
        subparsers,
        untrack,
        tr("end that: the next backup of each set reads everything"),
        failed=tr("its changes are not tracked, or this user may not end that"),
    )


def untrack(options: argparse.Namespace) -> int:
    """See no more which blocks of a disk change."""
    from vdbackup.operations import tracking

    device = tracking.end(options.device)
    if options.json:
        print_json({"event": "result", "device": str(device)})
    else:
        say(
            tr(
                "Changes of {device} are tracked no more: the next backup reads everything.",
                device=device,
            )
        )
    return DONE


def _add(
    subparsers: Subparsers, run: Callable[[argparse.Namespace], int], does: str, *, failed: str
) -> None:
    """A command that is called like its function, and takes a device."""
    name = run.__name__
    parser = new_command(subparsers, name, run, does, example=f"{name} /dev/sda", failed=failed)
    parser.add_argument(
        "device", type=Path, metavar="DEVICE", help=tr("a disk, or a partition of the disk")
    )
    json_option(parser)


def moment(at: datetime) -> str:
    """For a person, in UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
