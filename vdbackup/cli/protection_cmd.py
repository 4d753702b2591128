"""Commands about every write of a machine: protect, unprotect, moments, promote."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    find_moment_or_point,
    open_repository,
    said_of,
    sessions_folder,
)
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.json_values import point_json
from vdbackup.cli.near_cmd import near_line, near_options, near_set_json, protect_near
from vdbackup.cli.options import (
    Subparsers,
    changing_options,
    dry_run_option,
    json_option,
    new_command,
    point_options,
    repository_options,
)
from vdbackup.cli.values import number_of_bytes
from vdbackup.cli.volume_cmd import protect_guest, protect_volume, unprotect_volume
from vdbackup.errors import NotProtected, UsageError
from vdbackup.jobs import readable_size as size
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import grouped, tr

if TYPE_CHECKING:
    from vdbackup.operations.folding import Folded
    from vdbackup.operations.protection import KeptMomentResult, KeptMoments
    from vdbackup.recovery.sessions.saved import SavedSession

_NS = 1_000_000_000


def add_protect(subparsers: Subparsers) -> None:
    """The command `protect`, and what it can be told."""
    parser = new_command(
        subparsers,
        "protect",
        protect,
        tr(
            "keep every write of a running machine, or to a volume of this computer, beside its "
            "point, so that any moment of it can be booted, read and restored; or make a point of "
            "a disk every some seconds"
        ),
        example="protect --session 7f3a -r /mnt/backups",
        failed=tr("no writes are kept, or no more points are made; those before are whole"),
        warned=tr("a point was left out, or made with a warning"),
    )
    repository_options(parser)
    near_options(parser)
    parser.add_argument("--session", metavar="ID", help=tr("of the session, its start or its end"))
    parser.add_argument(
        "--guest", metavar="NAME",
        help=tr(
            "of a guest of libvirt's that is off: a point is made of its disk, then it is started, "
            "and its writes are kept until it ends, or Ctrl-C"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=number_of_bytes, metavar="SIZE",
        help=tr("what the writes may take, such as 20G (64G is usual): then no more are kept"),
    )  # fmt: skip
    json_option(parser)


def protect(options: argparse.Namespace) -> int:
    """Keep every write of a running machine or to a volume, or points of a disk every so often."""
    named = [each for each in (options.source, options.session, options.guest) if each is not None]
    if len(named) != 1 or (options.source is None and options.every is not None):
        raise UsageError(
            tr("Either a machine is protected, or a volume or disk of this computer."),
            tr(
                "Name a session with --session ID, a guest of libvirt's with --guest NAME, a "
                "volume, or a disk with --every TIME."
            ),
        )
    if options.guest is not None:
        return protect_guest(options)
    if options.every is not None:
        return protect_near(options)
    if options.source is not None:
        return protect_volume(options)
    from vdbackup.operations import protection
    from vdbackup.recovery.sessions.protection import LIMIT

    saved = _session(options)
    kept, more = protection.protect(saved, options.limit or LIMIT)
    if options.json:
        log = {"set": kept.folder.name, "session": kept.session, "since": kept.protection.since}
        print_json({"event": "result", **log, "said": more})
    else:
        say(
            tr(
                "From now on every write of {saved} is kept beside {folder}.",
                saved=saved.title,
                folder=kept.folder.name,
            )
            + (f" {more}" if more else "")
        )
    return DONE


def add_unprotect(subparsers: Subparsers) -> None:
    """The command `unprotect`, and what it can be told."""
    parser = new_command(
        subparsers,
        "unprotect",
        unprotect,
        tr("keep no more writes of a machine, or delete those that are kept"),
        example="unprotect --session 7f3a -r /mnt/backups",
        failed=tr("it is as it was"),
    )
    repository_options(parser, in_set=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "source", type=SourceRef.typed, metavar="SOURCE", nargs="?",
        help=tr("keep no more writes to that volume of this computer; what is kept stays"),
    )  # fmt: skip
    which.add_argument("--session", metavar="ID", help=tr("keep no more of it; what is kept stays"))
    which.add_argument(
        "--forget", metavar="ID", help=tr("delete what is kept of that session's machine")
    )
    which.add_argument(
        "--thin", metavar="ID",
        help=tr("of what is kept of that session's machine delete moments that lie close together"),
    )  # fmt: skip
    parser.add_argument(
        "--all-within", type=_seconds, metavar="TIME",
        help=tr("with --thin: all of so long before its end stays, such as 90m (1h is usual)"),
    )  # fmt: skip
    parser.add_argument(
        "--every", type=_seconds, metavar="TIME",
        help=tr("with --thin: before that one consistent moment of so long, such as 5m (1m)"),
    )  # fmt: skip
    dry_run_option(parser)
    json_option(parser)


def unprotect(options: argparse.Namespace) -> int:
    """Keep no more writes, or delete them."""
    from vdbackup.operations import protection

    if options.thin is not None:
        return _thin(options)
    if options.all_within is not None or options.every is not None:
        raise UsageError(
            tr("Without --thin all moments stay."), tr("Leave out --all-within and --every.")
        )
    if options.forget is None and options.dry_run:
        raise UsageError(
            tr("What ends is not planned; nothing that is kept is lost by it."),
            tr("Leave out --dry-run, or name with --forget what would be deleted."),
        )
    if options.forget is None and (done := unprotect_volume(options)):
        result: dict[str, Any] = {"session": done.session, "forgotten_bytes": 0}
        said = done.said
    elif options.forget is None:
        saved = _session(options)
        kept = protection.unprotect(saved)
        said = tr(
            "No more writes of {saved} are kept. Those until now can be used.", saved=saved.title
        )
        result = {"session": kept.session, "forgotten_bytes": 0}
    else:
        repository = open_repository(options.repository, as_json=options.json)
        name, found = protection.find_kept(repository, options.forget)
        plan = protection.plan_forget(repository, name, found.session, sessions_folder())
        if not announce(plan, options):
            return DONE
        freed = protection.forget(repository, name, found.session, sessions_folder())
        said = tr(
            "The writes of {protection} are deleted, {size}.",
            protection=protection.title_of(found),
            size=size(freed),
        )
        result = {"session": found.session, "forgotten_bytes": freed}
    if options.json:
        print_json({"event": "result", **result})
    else:
        say(said)
    return DONE


def _thin(options: argparse.Namespace) -> int:
    """Delete moments of a log that lie close together."""
    from vdbackup.operations import protection, thinning

    repository = open_repository(options.repository, as_json=options.json)
    name, found = protection.find_kept(repository, options.thin)
    within = thinning.WITHIN if options.all_within is None else options.all_within
    every = thinning.EVERY if options.every is None else options.every
    plan = thinning.plan(repository, name, found.session, sessions_folder(), within, every)
    if not announce(plan, options):
        return DONE
    freed: int = work(
        tr("Thin"), lambda task: thinning.run(plan, sessions_folder(), task), as_json=options.json
    )
    if options.json:
        print_json({"event": "result", "session": found.session, "forgotten_bytes": freed})
    else:
        say(tr("They take {size} less.", size=size(freed)))
    return DONE


def _seconds(text: str) -> int:
    """A time such as 90s, 5m or 2h, in seconds; raises ArgumentTypeError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 9):
        raise argparse.ArgumentTypeError(tr("{text} is no time, such as 90m", text=text))
    return int(number) * units[unit]


def _session(options: argparse.Namespace) -> SavedSession:
    """The session that is meant, which lies on a point of the repository that is named."""
    from vdbackup.recovery.sessions import sessions

    saved = sessions.find(sessions_folder(), options.session)
    if saved.origin.repository.resolve() != options.repository.resolve():
        raise NotProtected(
            tr(
                "The session {id} lies on a point in {repository}, not in {repository_2}.",
                id=saved.id,
                repository=saved.origin.repository,
                repository_2=options.repository,
            ),
            tr("Name that repository."),
        )
    return saved


def add_moments(subparsers: Subparsers) -> None:
    """The command `moments`, and what it can be told."""
    parser = new_command(
        subparsers,
        "moments",
        moments,
        tr("list the moments between points that can be booted, read and restored"),
        example="moments -r /mnt/backups --from 2026-11-30T06:00",
        failed=tr("they cannot be listed"),
        warned=tr("a log of writes is damaged or ended too early; what can be used is listed"),
    )
    repository_options(parser)
    parser.add_argument(
        "--from",
        dest="first",
        type=_time,
        metavar="TIME",
        help=tr("from then on: 2026-11-30T06:15"),
    )
    parser.add_argument("--to", dest="last", type=_time, metavar="TIME", help=tr("until then"))
    json_option(parser)


def moments(options: argparse.Namespace) -> int:
    """List the moments behind points: those at which all that was written had been written out."""
    from vdbackup.operations import near_continuous, protection
    from vdbackup.repository.kept_logs import KeptLog

    repository = open_repository(options.repository)
    asked = (repository, options.set, options.first, options.last)
    logs, near = list(protection.moments(*asked)), list(near_continuous.near_sets(*asked))
    warn([each.trouble for each in logs if each.trouble])
    result = WARNINGS if any(each.trouble for each in logs) else DONE
    if options.json:
        print_json([*map(_log_json, logs), *map(near_set_json, near)])
        return result
    for found in near:
        until = _clock(found.near.ended) if found.near.ended else ""
        say(near_line(found, _clock(found.near.since), until))
    if not logs and not near:
        say(tr("No writes are kept."))
    for each in logs:
        if not isinstance(each.kept, KeptLog):
            continue
        writes = each.kept.protection
        state = (
            tr("until {ended}: {why}", ended=_clock(writes.ended), why=writes.why)
            if writes.ended
            else tr("and go on.")
        )
        say(
            tr(
                "{set_name} #{point}, session {session}: {writes} writes, {size}, since {since}, "
                "{state}",
                set_name=each.set_name,
                point=each.point or "?",
                session=each.kept.session,
                writes=grouped(each.writes),
                size=size(each.stored),
                since=_clock(writes.since),
                state=state,
            )
        )
        if each.set_back:
            say(
                tr(
                    "The clock was set back meanwhile: times up to {until} are in doubt, numbers "
                    "of writes are not.",
                    until=_clock_ns(each.set_back),
                )
            )
        by_second = {moment.time // _NS: moment for moment in each.moments}
        table(
            (tr("moment"), tr("there by")),
            [
                (f"{each.point}@w{moment.write}", _clock_ns(moment.time))
                for moment in by_second.values()
            ],
        )
    return result


def _log_json(log: KeptMoments) -> dict[str, Any]:
    from vdbackup.repository.kept_logs import KeptLog

    writes = log.kept.protection if isinstance(log.kept, KeptLog) else None
    return {
        "kind": "every-write",
        "every_seconds": None,
        "set": log.set_name,
        "point": log.point or None,
        "session": log.kept.session,
        "title": writes.title if writes else "",
        "since": writes.since if writes else None,
        "ended": writes.ended if writes else None,
        "why": writes.why if writes else "",
        "writes": log.writes,
        "stored_bytes": log.stored,
        "limit_bytes": writes.limit if writes else None,
        "moments": [
            {
                "point": f"{log.point}@{log.kept.session}.w{each.write}",
                "write": each.write,
                "time": _iso(each.time),
            }
            for each in log.moments
        ],
        "marks": [{"write": write, "text": text} for write, text in log.marks],
        "trouble": log.trouble or None,
        "times_in_doubt_until": _iso(log.set_back),
    }


def add_promote(subparsers: Subparsers) -> None:
    """The command `promote`, and what it can be told."""
    parser = new_command(
        subparsers,
        "promote",
        promote,
        tr("make a recovery point of a moment between points"),
        example="promote 3@2026-11-30T06:15 -r /mnt/backups",
        failed=tr("no point was made"),
        warned=tr("the point is made, with a warning, such as that it cannot boot as it is"),
    )
    point_options(parser)
    parser.add_argument(
        "--thin-writes", action="store_true",
        help=tr(
            "of the writes before it keep one moment of each minute, or as the policy says; those "
            "behind it stay"
        ),
    )  # fmt: skip
    changing_options(parser)


def promote(options: argparse.Namespace) -> int:
    """Make a recovery point of a moment; the writes stay, or are thinned."""
    from vdbackup.operations import folding, protection
    from vdbackup.repository.written import WrittenPoint, is_moment

    if not is_moment(options.point):
        raise UsageError(
            tr("{point} is a recovery point already.", point=options.point),
            tr("Name a moment behind it, such as 3@2026-11-30T06:15 or 3@w1200."),
        )
    repository = open_repository(options.repository, as_json=options.json)
    backup_set, moment = find_moment_or_point(repository, options.point, options.set)
    folds: folding.FoldPlan | None = None
    if options.thin_writes and isinstance(moment, WrittenPoint):
        folds = folding.plan_point(repository, backup_set.name, moment, sessions_folder())
    plan = folds.point if folds else protection.plan_point(repository, backup_set.name, moment.id)
    if not announce(folds or plan, options):
        return DONE
    made: KeptMomentResult = work(
        tr("Promote"),
        lambda task: protection.make_point(plan, sessions_folder(), task),
        as_json=options.json,
        wait=options.wait,
    )
    folded: Folded = work(
        tr("Thin"),
        lambda task: folding.after(folds.thins if folds else None, sessions_folder(), task),
        as_json=options.json,
    )
    trouble = (*made.trouble, *folded.trouble)
    if options.json:
        data = point_json(repository.set(made.set_name), made.point)
        freed = folded.freed
        print_json({"event": "result", "set": made.set_name, **data, "forgotten_bytes": freed})
    else:
        say(
            tr(
                "Point {point} of {set_name} is that moment.",
                point=made.point.sequence,
                set_name=made.set_name,
            )
        )
    warn(said_of(trouble))
    return WARNINGS if trouble else DONE


def _time(text: str) -> int:
    """A time, as ns since 1970; raises ArgumentTypeError."""
    from vdbackup.errors import PointNotFound
    from vdbackup.repository.written import parse_time

    try:
        return parse_time(text)
    except PointNotFound as error:
        raise argparse.ArgumentTypeError(
            tr("{text} is no time, such as 2026-11-30T06:15", text=text)
        ) from error


def _clock(moment: str) -> str:
    from datetime import datetime

    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def _clock_ns(time: int) -> str:
    from datetime import UTC, datetime

    return _clock(datetime.fromtimestamp(time / _NS, UTC).isoformat()) if time else "?"


def _iso(time: int) -> str | None:
    if not time:
        return None
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time / _NS, UTC).isoformat(timespec="milliseconds")
