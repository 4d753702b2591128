"""Ends the system that a medium has started."""

from __future__ import annotations

import subprocess


def restart() -> None:
    """Start the computer anew; raises OSError or CalledProcessError where that cannot be."""
    subprocess.run(["systemctl", "reboot"], check=True)


def power_off() -> None:
    """Switch the computer off; raises as `restart` does."""
    subprocess.run(["systemctl", "poweroff"], check=True)
