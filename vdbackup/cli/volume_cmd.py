"""Every write to a volume, or of a guest of libvirt's: `protect` and `unprotect`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdbackup.cli.common import DONE, WARNINGS, machines, open_repository
from vdbackup.cli.console import print_json, say, warn, work
from vdbackup.cli.near_cmd import asked_backup, say_made
from vdbackup.errors import NotProtected
from vdbackup.pace import Pace
from vdbackup.translation import tr

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdbackup.jobs import Task
    from vdbackup.operations.volume_protection import Tell, Told, VolumeResult
    from vdbackup.repository.kept_logs import KeptLog


def protect_volume(options: argparse.Namespace) -> int:
    """Keep every write to a volume until that is interrupted, which is no failure."""
    from vdbackup.operations import volume_protection
    from vdbackup.recovery.sessions.protection import LIMIT

    request = volume_protection.VolumeRequest(
        asked_backup(options), options.limit or LIMIT, options.lasts
    )
    return _watched(
        lambda task, tell: volume_protection.run(request, machines(), task, tell), options
    )


def protect_guest(options: argparse.Namespace) -> int:
    """Start a guest of libvirt's, and keep its writes until it ends, or that is interrupted."""
    from vdbackup.operations import guest_protection
    from vdbackup.recovery.libvirt_guest import LibvirtGuest
    from vdbackup.recovery.sessions.protection import LIMIT
    from vdbackup.sources.reference import SourceRef

    guest = LibvirtGuest.find(options.guest)
    guest.check_off()
    options.source = SourceRef.of_path(guest.disk())
    request = guest_protection.GuestRequest(
        guest, asked_backup(options), options.limit or LIMIT, options.lasts
    )
    return _watched(
        lambda task, tell: guest_protection.run(request, machines(), task, tell), options
    )


def _watched(run: Callable[[Task, Tell], VolumeResult], options: argparse.Namespace) -> int:
    """Have a log looked after, and say what comes of it."""
    trouble: list[str] = []

    def tell(told: Told) -> None:
        trouble.extend(_say(told, as_json=options.json))

    pace = Pace(None, gives_way=True)
    done: VolumeResult = work(
        tr("Writes to {source}", source=options.source),
        lambda task: run(task.at(pace), tell),
        as_json=options.json,
    )
    record = done.kept.protection
    if record.ended_early:
        trouble.append(record.why)
    if options.json:
        print_json({"event": "result", **_log(done.kept), "ended": record.ended, "why": record.why})
    else:
        say(
            tr(
                "No more writes of {saved} are kept. Those until now can be used.",
                saved=record.title,
            )
        )
        warn([record.why] if record.ended_early else [])
    return WARNINGS if trouble else DONE


def _log(kept: KeptLog) -> dict[str, object]:
    return {"set": kept.folder.name, "session": kept.session, "since": kept.protection.since}


def _say(told: Told, *, as_json: bool) -> list[str]:
    """Say what has just been done; what was not as it should be."""
    if told.begun is not None:
        if as_json:
            print_json({"event": "protected", **_log(told.begun)})
        else:
            say(
                tr(
                    "From now on every write of {saved} is kept beside {folder}.",
                    saved=told.begun.protection.title,
                    folder=told.begun.folder.name,
                ),
                at_once=True,
            )
        return []
    return say_made(told.made, as_json=as_json) if told.made else []


@dataclass(frozen=True)
class Unprotected:
    """What was ended.

    Attributes:
        session: the id of the log; None where a volume had one that lies elsewhere.
        said: a sentence about it.
    """

    session: str | None
    said: str


def unprotect_volume(options: argparse.Namespace) -> Unprotected | None:
    """Keep no more writes to the volume that is named, or whose log is; None where none is."""
    from vdbackup.operations import volume_protection

    if options.source is None:
        kept = _log_of_session(options)
        return _unprotected(volume_protection.unprotect(kept)) if kept else None
    repository = open_repository(options.repository, as_json=options.json)
    ended = volume_protection.end_of(repository, options.source.path)
    if ended is not None:
        return _unprotected(ended)
    said = tr(
        "No more writes to {source} are kept. Their log does not lie in {repository}.",
        source=options.source,
        repository=options.repository,
    )
    return Unprotected(None, said)


def _unprotected(kept: KeptLog) -> Unprotected:
    said = tr(
        "No more writes of {saved} are kept. Those until now can be used.",
        saved=kept.protection.title,
    )
    return Unprotected(kept.session, said)


def _log_of_session(options: argparse.Namespace) -> KeptLog | None:
    """The log of a volume's writes that is meant; None where it is a session's, or none."""
    from vdbackup.operations import protection
    from vdbackup.repository.kept_logs import KeptLog

    try:
        repository = open_repository(options.repository, as_json=options.json)
        _, found = protection.find_kept(repository, options.session)
    except NotProtected:
        return None
    return found if isinstance(found, KeptLog) and found.protection.source else None
