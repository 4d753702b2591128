"""Has systemd know the agent's units, and sees whether the system's Python can run it."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)

PYTHON = "/usr/bin/python3"
NEEDED = (3, 11)
UNIT = "vdbackup-agent.socket"
_RUNS = Path("/run/systemd/system")
_PATIENCE = 300.0
"""Seconds: systemd itself took 80 to read its units on a busy computer, and the agent was installed
with nobody listening."""


def python_fits() -> bool:
    """Whether PYTHON is there, and as new as NEEDED."""
    check = f"import sys; sys.exit(sys.version_info < {NEEDED})"
    return _run(PYTHON, "-I", "-S", "-c", check)


def listen() -> bool:
    """Have systemd listen for clients, now and after each start; whether it does."""
    if not _RUNS.is_dir():
        return False
    return _run("systemctl", "daemon-reload") and _run("systemctl", "enable", "--now", UNIT)


def listen_no_more() -> None:
    """End that, before the units are removed."""
    if _RUNS.is_dir():
        _run("systemctl", "disable", "--now", UNIT)


def forget() -> None:
    """Have systemd see that the units are gone."""
    if _RUNS.is_dir():
        _run("systemctl", "daemon-reload")


def _run(*command: str) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("%s: %s", command, error)
        return False
    if done.returncode:
        log.info("%s: %s %s", command, done.returncode, done.stderr.decode(errors="replace"))
    return done.returncode == 0
