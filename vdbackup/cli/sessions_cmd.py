"""Commands about the sessions of virtual machines: sessions, open-with."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdbackup.cli.common import (
    DONE,
    WARNINGS,
    announce,
    finish_merges,
    machines,
    open_repository,
    said_of,
    sessions_folder,
    told_of,
)
from vdbackup.cli.console import print_json, say, table, warn, work
from vdbackup.cli.json_values import point_json
from vdbackup.cli.machines_cmd import follow, last_words, missed
from vdbackup.cli.options import (
    Subparsers,
    dry_run_option,
    json_option,
    new_command,
    new_family,
    point_options,
    wait_option,
    watching_options,
)
from vdbackup.cli.values import (
    positive,
)
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.operations.promote import PromotionResult
    from vdbackup.recovery.sessions.saved import SavedSession


def add_sessions(subparsers: Subparsers) -> None:
    """The command `sessions`, and what it can be told."""
    text = tr("list, reopen, stop, discard and promote what virtual machines run on or left")
    actions = new_family(
        subparsers,
        "sessions",
        text,
        example="sessions list",
        failed=tr("the action was refused, or failed"),
    )
    made = {
        name: new_command(
            actions,
            name,
            run,
            does,
            example=f"sessions {name}" if name == "list" else f"sessions {name} 7f3a",
            failed=failed,
            warned=tr("the point is made, with a warning, such as that it cannot boot as it is")
            if name == "promote"
            else "",
        )
        for name, run, does, failed in _ACTIONS
    }
    for name, action in made.items():
        if name != "list":
            action.add_argument(
                "session", metavar="ID", help=tr("of the session, its start or its end")
            )
    watching_options(made["reopen"])
    made["discard"].add_argument(
        "-r", "--repository", type=Path, metavar="DIR",
        help=tr("also let go of the points there that another computer's session of this id holds"),
    )  # fmt: skip
    for name in ("discard", "promote", "reopen"):
        made[name].add_argument(
            "--not-running", action="store_true",
            help=tr("the machine of another program does not run, where only you can know that"),
        )  # fmt: skip
    writes = made["promote"].add_mutually_exclusive_group()
    writes.add_argument(
        "--forget-writes", action="store_true",
        help=tr("delete every kept write of its machine, too, and the moments in them"),
    )  # fmt: skip
    writes.add_argument(
        "--thin-writes", action="store_true",
        help=tr(
            "of the kept writes of its machine keep one moment of each minute, or as the policy "
            "says"
        ),
    )  # fmt: skip
    dry_run_option(made["promote"])
    wait_option(made["promote"])
    for name in ("list", "reopen", "promote"):
        json_option(made[name])


def add_open_with(subparsers: Subparsers) -> None:
    """The command `open-with`, and what it can be told."""
    parser = new_command(
        subparsers,
        "open-with",
        open_with,
        tr("make a virtual machine of a point for another program, and keep it as a session"),
        example="open-with virtualbox latest -r /mnt/backups",
        failed=tr("no machine was made"),
    )
    parser.add_argument(
        "program", choices=["virt-manager", "virtualbox", "vmware"], metavar="PROGRAM",
        help=tr("virt-manager, virtualbox or vmware"),
    )  # fmt: skip
    point_options(parser)
    parser.add_argument("--memory", type=positive, default=1024, metavar="MIB", help=tr("in MiB"))
    json_option(parser)


def list_sessions(options: argparse.Namespace) -> int:
    """List sessions, whoever they belong to."""
    from vdbackup.recovery.sessions import sessions
    from vdbackup.recovery.sessions.saved import saved_sessions

    found = [(each, sessions.status(each)) for each in saved_sessions(sessions_folder())]
    if options.json:
        print_json([_session_json(session, state) for session, state in found])
        return DONE
    rows: list[tuple[str, ...]] = [
        (session.id, state, f"{session.record.started:%Y-%m-%d %H:%M:%S}", session.title)
        for session, state in found
    ]
    if rows:
        table((tr("id"), tr("state"), tr("started (UTC)"), tr("title")), rows)
    else:
        say(tr("No sessions."))
    return DONE


def _session_json(session: SavedSession, state: str) -> dict[str, Any]:
    origin = session.record.origin
    return {
        "id": session.id,
        "state": state,
        "title": session.title,
        "started": session.record.started.isoformat(timespec="seconds"),
        "folder": str(session.folder),
        "repository": str(origin.repository) if origin else None,
        "set": origin.set_name if origin else None,
        "point": origin.point if origin else None,
        "attached": [
            {"repository": str(each.repository), "set": each.set_name, "point": each.point}
            for each in session.record.attached
        ],
        "program": session.record.machine.get("program"),
    }


def _find(options: argparse.Namespace) -> SavedSession:
    from vdbackup.recovery.sessions import sessions

    return sessions.find(sessions_folder(), options.session)


def reopen(options: argparse.Namespace) -> int:
    """Start a kept or crashed session's machine again; it is kept afterwards."""
    from vdbackup.errors import NotReached
    from vdbackup.recovery.sessions.vm import reopen_session

    saved = _find(options)
    if saved.program is not None:
        return _write_again(saved, options)
    started = time.monotonic()
    session, outcome, text = follow(
        lambda: reopen_session(saved, display=not options.headless), options, keep=True
    )
    seconds = time.monotonic() - started
    if options.json:
        data = {
            "accelerator": session.accelerator,
            "seconds": round(seconds, 2),
            "console": text,
            "keeps_writes": session.keeps_writes,
        }
        print_json({"event": "result", "reached": outcome, **data})
    if not outcome:
        raise NotReached(missed(options, seconds), last_words(text))
    return DONE


def _write_again(saved: SavedSession, options: argparse.Namespace) -> int:
    """Write the machine of another program anew: a merge has given its disks other names."""
    from vdbackup.recovery.other_programs.machine import write_again

    made = write_again(saved, not_running=options.not_running)
    if options.json:
        print_json({"event": "result", "session": made.session, "file": str(made.file)})
    else:
        say(made.how)
    return DONE


def resume(options: argparse.Namespace) -> int:
    """Let a paused machine go on."""
    from vdbackup.recovery.sessions import sessions

    sessions.resume(_find(options))
    return DONE


def stop(options: argparse.Namespace) -> int:
    """Press the power button; end the machine if it does not shut down."""
    from vdbackup.recovery.sessions import sessions
    from vdbackup.recovery.sessions.session import GRACE

    sessions.stop(_find(options), GRACE)
    return DONE


def kill(options: argparse.Namespace) -> int:
    """End a machine at once."""
    from vdbackup.recovery.sessions import sessions

    sessions.kill(_find(options))
    return DONE


def discard(options: argparse.Namespace) -> int:
    """Delete what a machine left; or only let go of what another computer's session holds."""
    if options.repository is None:
        _find(options).discard(not_running=options.not_running)
        return DONE
    from vdbackup.errors import SessionNotFound
    from vdbackup.repository import holds

    backup_sets = open_repository(options.repository).sets()
    found = [
        holds.release(backup_set.folder, hold.session)
        for backup_set in backup_sets
        for hold in holds.of(backup_set)
        if hold.session == options.session and not hold.is_ours
    ]
    if not found:
        raise SessionNotFound(
            tr(
                "No other computer's session {session} holds a point there.",
                session=options.session,
            ),
            tr("Give its whole id; leave -r out for a session of this computer."),
        )
    return DONE


def promote(options: argparse.Namespace) -> int:
    """Make a recovery point of what a machine wrote, and let the session go."""
    from vdbackup.operations import promote

    saved = _find(options)
    repository, _, _ = saved.origin.find()
    finished = finish_merges(repository, machines(), as_json=options.json)
    warn(told_of(finished))  # what could not be relinked is tried again, and said, at the end
    plan = promote.plan(
        saved,
        not_running=options.not_running,
        forget_writes=options.forget_writes,
        thin_writes=options.thin_writes,
    )
    if not announce(plan, options):
        return DONE
    result: PromotionResult = work(
        tr("Promote"),
        lambda task: promote.run(plan, task),
        as_json=options.json,
        wait=options.wait,
    )
    point = result.point
    if options.json:
        data = point_json(result.repository.set(result.set_name), point)
        freed = result.forgotten
        print_json({"event": "result", "set": result.set_name, **data, "forgotten_bytes": freed})
    else:
        say(
            tr(
                "Point {point} of {set_name} holds what {saved} wrote.",
                point=point.sequence,
                set_name=result.set_name,
                saved=saved.title,
            )
        )
    warn(said_of(result.trouble))
    return WARNINGS if result.trouble else DONE


def open_with(options: argparse.Namespace) -> int:
    """Write what another program needs to run a machine from a point."""
    from vdbackup.recovery.other_programs.machine import write_machine
    from vdbackup.recovery.sessions.elsewhere import Program

    repository = open_repository(options.repository, as_json=options.json)
    backup_set, point = repository.find(options.point, options.set)
    made = write_machine(
        repository,
        backup_set,
        point,
        Program(options.program),
        sessions_folder=sessions_folder(),
        memory_mib=options.memory,
    )
    if options.json:
        print_json({"event": "result", "session": made.session, "file": str(made.file)})
    else:
        say(made.how)
        say(tr("`vdbackup sessions discard {session}` throws it away.", session=made.session))
    return DONE


_ACTIONS: tuple[tuple[str, Callable[[argparse.Namespace], int], str, str], ...] = (
    (
        "list", list_sessions,
        tr("which sessions there are, running and kept"),
        tr("they cannot be listed"),
    ),
    (
        "reopen", reopen,
        tr("start a kept session's machine again, and keep it after"),
        tr("it did not start, or what was waited for did not come"),
    ),
    ("resume", resume, tr("let a machine that is paused go on"), tr("it does not go on")),
    (
        "stop", stop,
        tr("press the power button, and kill it after a minute"),
        tr("it does not run, or does not answer"),
    ),
    (
        "kill", kill,
        tr("end a machine at once, as a power cut would"),
        tr("it does not run, or cannot be ended"),
    ),
    ("discard", discard, tr(
        "end a session, and delete what its machine wrote"
    ), tr(
        "it is still there"
    )),
    (
        "promote", promote,
        tr("make a recovery point of what its machine wrote"),
        tr("no point was made, and the session stays"),
    ),
)  # fmt: skip
"""Of `sessions`: name, function, what it does, what it means that it ends with 1."""
