"""Near-continuous protection: a point every so many seconds (`protect SOURCE --every`)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import DONE, WARNINGS, machines, said_of
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.json_values import point_json
from vdbackup.cli.options import (
    policy_change,
    policy_options,
)
from vdbackup.cli.remedies import sentences
from vdbackup.cli.values import (
    seconds_of,
)
from vdbackup.jobs import readable_size as size
from vdbackup.pace import Pace
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import grouped, original, tr, trn

if TYPE_CHECKING:
    from vdbackup.operations.backup import BackupRequest, BackupResult
    from vdbackup.operations.near_continuous import NearResult, NearSet, Told
    from vdbackup.repository.model import RecoveryPoint


def near_options(parser: argparse.ArgumentParser) -> None:
    """What says that points are made every so many seconds, and how."""
    parser.add_argument(
        "source", type=SourceRef.typed, metavar="SOURCE", nargs="?",
        help=tr(
            "a logical volume of this computer, or an open LUKS; with --every a disk whose changes "
            "are tracked, or a partition"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--every", type=seconds_of, metavar="TIME",
        help=tr(
            "make a point of SOURCE that often, of what has changed by then, until Ctrl-C: 30s, 10m"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--for", dest="lasts", type=seconds_of, metavar="TIME",
        help=tr("end that by itself after so long: 90s, 10m, 8h"),
    )  # fmt: skip
    policy_options(parser)


def asked_backup(options: argparse.Namespace) -> BackupRequest:
    """How each point of what is protected is made, by the same options as a point alone."""
    from vdbackup.operations.backup import BackupRequest
    from vdbackup.operations.policy import Change

    return BackupRequest(
        options.source,
        options.repository,
        set_name=options.set,
        policy=policy_change(options) or Change(),
    )


def protect_near(options: argparse.Namespace) -> int:
    """Make a point every so many seconds, until that is interrupted, which is no failure."""
    from vdbackup.operations import near_continuous

    request = near_continuous.NearRequest(asked_backup(options), options.every, options.lasts)
    trouble: list[str] = []

    def tell(told: Told) -> None:
        trouble.extend(_say(told, as_json=options.json))

    allowed, pace = machines(), Pace(None, gives_way=True)
    done: NearResult = work(
        tr("Points of {source}", source=options.source),
        lambda task: near_continuous.run(request, allowed, task.at(pace), tell),
        as_json=options.json,
    )
    if options.json:
        print_json(
            {
                "event": "result",
                "set": done.set_name,
                "points": done.points,
                "unchanged": done.unchanged,
                "left_out": done.left_out,
            }
        )
    else:
        say(
            trn(
                "{count} point was made; {unchanged} times nothing had changed.",
                "{count} points were made; {unchanged} times nothing had changed.",
                done.points,
                unchanged=grouped(done.unchanged),
            )
        )
    return WARNINGS if trouble else DONE


def _say(told: Told, *, as_json: bool) -> list[str]:
    """Say what has just been done; what was not as it should be."""
    if told.trouble is not None:
        left_out = tr("A point was left out: {why}", why=sentences(told.trouble))
        warn([left_out])
        return [left_out]
    return say_made(told.made, as_json=as_json) if told.made else []


def say_made(made: BackupResult, *, as_json: bool) -> list[str]:
    """Say that a point was made while its source is protected; what was not as it should be."""
    if as_json:
        point = point_json(made.repository.set(made.set_name), made.point)
        print_json({"event": "point", "set": made.set_name, **point})
    else:
        say(_point(made.point), at_once=True)
    trouble = [*made.warnings, *said_of(made.trouble)]
    warn(trouble)
    return trouble


def _point(point: RecoveryPoint) -> str:
    from datetime import datetime

    return tr(
        "{time:%H:%M:%S}  point {point}: {size} stored",
        time=datetime.fromisoformat(point.created).astimezone(),
        point=point.sequence,
        size=size(point.stored_bytes),
    )


def near_set_json(found: NearSet) -> dict[str, Any]:
    """A near-continuous set among what `moments` lists; what a log alone has is null."""
    return {
        "kind": "near-continuous",
        "every_seconds": found.near.every,
        "set": found.set_name,
        "point": None,
        "session": None,
        "title": found.set_name,
        "since": found.near.since,
        "ended": found.near.ended,
        "why": original(found.near.why),
        "writes": None,
        "stored_bytes": sum(point.stored_bytes for point in found.points),
        "limit_bytes": None,
        "moments": [
            {"point": point.id, "write": None, "time": point.created} for point in found.points
        ],
        "marks": [],
    }


def near_line(found: NearSet, clock: str, until: str) -> str:
    """The same for a person; the times are said already."""
    state = tr("until {until}", until=until) if until else tr("and goes on, or was broken off")
    return trn(
        "{set_name}: a point every {every} s where something had changed (not every write), since "
        "{since}, {state}: {count} point.",
        "{set_name}: a point every {every} s where something had changed (not every write), since "
        "{since}, {state}: {count} points.",
        len(found.points),
        set_name=found.set_name,
        every=found.near.every,
        since=clock,
        state=state,
    )
