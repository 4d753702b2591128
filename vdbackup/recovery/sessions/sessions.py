"""Sessions seen from outside: those of any program, running or kept; found, stopped, killed."""

from __future__ import annotations

import logging
from pathlib import Path

from vdbackup.errors import RecoveryError, Remedy, SessionNotFound
from vdbackup.qemu.monitor import tell
from vdbackup.recovery.sessions.saved import SavedSession, saved_sessions
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SHORTEST_ID = 4
_ANSWER = 2.0
"""Seconds that QEMU may take to answer one question."""
_OFF = 5.0
"""Seconds that QEMU may take to end by itself when it is told to."""


def find(sessions_folder: Path, reference: str) -> SavedSession:
    """The session that `reference` means: its id, or the start or the end of it, if unique.

    Raises RecoveryError where none or several answer to it.
    """
    found = [
        session
        for session in saved_sessions(sessions_folder)
        if session.id.startswith(reference) or session.id.endswith(reference)
    ]
    if len(found) == 1 and len(reference) >= SHORTEST_ID:
        return found[0]
    problem = tr("more than one") if len(found) > 1 else tr("no")
    raise SessionNotFound(
        tr("{reference!r} matches {problem} session.", reference=reference, problem=problem),
        tr("Check the id."),
        remedy=Remedy.LIST_SESSIONS,
    )


def status(session: SavedSession) -> str:
    """The session's state in a word; "paused" where its machine waits for space or somebody."""
    if not session.running:
        return str(session.state)
    try:
        answer = tell(session.files.connect(), "query-status", _ANSWER)
    except RecoveryError:
        log.info("session %s does not answer", session.id, exc_info=True)
        return str(session.state)
    running = isinstance(answer, dict) and answer.get("running") is not False
    return str(session.state) if running else tr("paused")


def resume(session: SavedSession) -> None:
    """Let a machine go on that was paused, for want of space for example; raises RecoveryError."""
    tell(session.files.connect(), "cont")


def stop(session: SavedSession, grace: float) -> None:
    """Press the power button, and kill the machine if it has not shut down after `grace` seconds.

    What it wrote stays, unless the program that started it throws it away.
    """
    try:
        tell(session.files.connect(), "system_powerdown")
    except RecoveryError:
        log.info("session %s cannot be asked to shut down", session.id, exc_info=True)
        grace = 0
    if not session.wait(grace):
        kill(session)


def kill(session: SavedSession) -> None:
    """End the machine at once, as a power cut would; it is asked first, so as not to look crashed.

    What it wrote stays, unless the program that started it throws it away.
    """
    try:
        tell(session.files.connect(), "quit", _ANSWER)
    except RecoveryError:
        log.info("session %s does not end by itself", session.id, exc_info=True)
    else:
        if session.wait(_OFF):
            return
    session.kill()
