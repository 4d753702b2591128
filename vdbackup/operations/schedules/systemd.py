"""Has systemd know a schedule's units: a user's own instance of it, or, for root, the system's."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from pathlib import Path

from vdbackup import durable
from vdbackup.operations.schedules.units import Units
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_RUNS = Path("/run/systemd/system")
_PATIENCE = 300.0
"""Seconds: systemd took 80 to read its units on a busy computer."""
_LOOKS_AGAIN = 0.1


def runs() -> bool:
    """Whether systemd has started this computer (sd_booted(3))."""
    return _RUNS.is_dir()


def folder() -> Path:
    """Where this user's units lie; root's are the system's."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    usual = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return usual / "systemd" / "user"


def linger() -> str:
    """Have this user's systemd run from the computer's start on, whoever is logged in.

    Why that cannot be, "" where it is: logind lets everybody do that for themselves, unless an
    administrator has forbidden it (org.freedesktop.login1.set-self-linger).
    """
    # by name: without one, logind means whoever has the session, and cron(8) has none
    if trouble := _run("loginctl", "enable-linger", str(os.geteuid())):
        return trouble
    until = time.monotonic() + _PATIENCE
    while not (_runtime_folder() / "systemd/private").exists():  # it is being started
        if time.monotonic() > until:
            return tr("the systemd of user {geteuid} does not start", geteuid=os.geteuid())
        time.sleep(_LOOKS_AGAIN)
    return ""


def install(units: Units) -> str:
    """Write units and have them started when they are due; why that cannot be, "" where it is."""
    for name, text in units.texts.items():
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, text.encode("utf-8"))
        os.chmod(path, 0o644)
    return _control("daemon-reload") or _control("enable", "--now", *units.wanted)


def remove(names: list[str]) -> str:
    """Stop and delete units, of which none need be there; why systemd did not take that."""
    there = [name for name in names if (folder() / name).exists()]
    trouble = _control("disable", "--now", *there) if there else ""
    for name in there:
        durable.remove(folder() / name)
    return _control("daemon-reload") or trouble if there else ""


def _control(*arguments: str) -> str:
    """Ask systemd for something; why it did not do it, "" where it did."""
    whose = "--system" if os.geteuid() == 0 else "--user"
    return _run("systemctl", whose, *arguments)


def _run(*command: str) -> str:
    """Why a program did not do what it is there for; "" where it did."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(_runtime_folder())}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", command, error)
        return f"{command[0]}: {error}"
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        log.warning("%s: %s %s", command, done.returncode, said)
        return said or tr(
            "{command} ended with {returncode}", command=command[0], returncode=done.returncode
        )
    return ""


def _runtime_folder() -> Path:
    """By which a user's systemd is found; nobody has said it to who came by su(1) or cron(8)."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
