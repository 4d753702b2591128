"""Commands for volumes in use: track, untrack, status."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS
from vdbackup.cli.console import print_json, say, table, warn
from vdbackup.cli.options import Subparsers, json_option, new_command
from vdbackup.jobs import readable_size as size

if TYPE_CHECKING:
    from datetime import datetime

    from vdbackup.agent.tracked import Status


def add_track(subparsers: Subparsers) -> None:
    """The command `track`, and what it can be told."""
    _add(
        subparsers,
        track,
        "see from now on which blocks of a disk change, so that backups read only those",
        failed="its changes cannot be tracked, or not by this user",
    )


def track(options: argparse.Namespace) -> int:
    """See which blocks of a disk change."""
    from vdbackup.operations import tracking

    device, since = tracking.begin(options.device)
    if options.json:
        print_json({"event": "result", "device": str(device), "since": since.isoformat()})
    else:
        say(f"Changes of {device} are tracked since {_moment(since)}, until the next start.")
    return DONE


def add_untrack(subparsers: Subparsers) -> None:
    """The command `untrack`, and what it can be told."""
    _add(
        subparsers,
        untrack,
        "end that: the next backup of each set reads everything",
        failed="its changes are not tracked, or this user may not end that",
    )


def untrack(options: argparse.Namespace) -> int:
    """See no more which blocks of a disk change."""
    from vdbackup.operations import tracking

    device = tracking.end(options.device)
    if options.json:
        print_json({"event": "result", "device": str(device)})
    else:
        say(f"Changes of {device} are tracked no more: the next backup reads everything.")
    return DONE


def add_status(subparsers: Subparsers) -> None:
    """The command `status`, and what it can be told."""
    parser = new_command(
        subparsers,
        "status",
        status,
        "list the disks whose changes are tracked, and how much has changed",
        example="status",
        failed="it cannot be told, or not to this user",
        warned="changes of one of them were missed: all of it is read at the next backup",
    )
    json_option(parser)


def status(options: argparse.Namespace) -> int:
    """List the disks whose changes are tracked."""
    from vdbackup.agent import client

    found = client.tracked()
    if options.json:
        print_json({"tracked": [_json(each) for each in found]})
    elif found:
        rows = [_row(each, name) for each in found for name in each.followers or [""]]
        table(("device", "tracked since (UTC)", "set", "changed"), rows)
    else:
        say("No disk's changes are tracked.")
    warn([f"all of {each.device} is read, because {each.doubt}." for each in found if each.doubt])
    return WARNINGS if any(each.doubt for each in found) else DONE


def _json(disk: Status) -> dict[str, Any]:
    return {
        "device": str(disk.device),
        "since": disk.since.isoformat(),
        "changed_bytes": disk.changed,
        "sets": [{"name": name, "changed_bytes": each} for name, each in disk.followers.items()],
        "scan_reason": disk.doubt or None,
    }


def _row(disk: Status, name: str) -> tuple[str, ...]:
    """A disk, or one of the sets that follow it."""
    changed = disk.followers[name] if name else disk.changed
    amount = "everything is read" if changed is None else size(changed)
    return str(disk.device), _moment(disk.since), name, amount


def _add(
    subparsers: Subparsers, run: Callable[[argparse.Namespace], int], does: str, *, failed: str
) -> None:
    """A command that is called like its function, and takes a device."""
    name = run.__name__
    parser = new_command(subparsers, name, run, does, example=f"{name} /dev/sda", failed=failed)
    parser.add_argument(
        "device", type=Path, metavar="DEVICE", help="a disk, or a partition of the disk"
    )
    json_option(parser)


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
