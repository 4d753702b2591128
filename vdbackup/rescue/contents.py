"""Which Debian a rescue medium is, and which of its packages; resources/rescue says it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vdbackup.errors import RescueMediumFailed
from vdbackup.translation import tr

_SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Debian's releases by their Python: libraries with compiled parts fit one minor version alone."""
_PACKAGE = Path(str(files("vdbackup")))
_FOLDERS = (_PACKAGE / "resources", _PACKAGE.parent / "resources")


@dataclass(frozen=True)
class Contents:
    """What a medium is made of, beside the program.

    Attributes:
        suite: of Debian.
        packages: that are installed, with what they depend on.
        window: whether the restore window is there, or questions in text alone.
    """

    suite: str
    packages: tuple[str, ...]
    window: bool


def contents(*, window: bool) -> Contents:
    """What a medium would be made of here; raises RescueMediumFailed where none can be."""
    lists = ["packages", *(["packages-window"] if window else [])]
    names = tuple(name for each in lists for name in _names(resource(each)))
    return Contents(suite_for(sys.version_info[:2], platform.machine()), names, window)


def suite_for(python: tuple[int, int], machine: str) -> str:
    """The Debian whose Python takes this installation's libraries as they are.

    Args:
        python: major and minor version that the program runs with.
        machine: which processors it is for, as uname(2) has it.
    """
    if machine != "x86_64":
        raise RescueMediumFailed(
            tr(
                "A rescue medium is for computers with x86-64, and this one is {machine}.",
                machine=machine,
            ),
            tr("Make it on another computer."),
        )
    suite = _SUITES.get(python)
    if suite is None:
        known = tr(" or ").join(f"{major}.{minor}" for major, minor in _SUITES)
        raise RescueMediumFailed(
            tr(
                "vdbackup runs with Python {names} here, which no Debian that a rescue medium is "
                "made from has.",
                names=".".join(map(str, python)),
            ),
            tr("Run it with Python {known}: on Debian that is the system's own.", known=known),
        )
    return suite


def resource(name: str) -> Path:
    """A file or folder of resources/rescue; raises RescueMediumFailed where it is missing."""
    for folder in _FOLDERS:
        found = folder / "rescue" / name
        if found.exists():
            return found
    raise RescueMediumFailed(
        tr("{name} is missing in this installation.", name=name), tr("Install vdbackup anew.")
    )


def _names(listing: Path) -> list[str]:
    """The packages in a list: one a line, `#` begins a comment."""
    lines = listing.read_text(encoding="utf-8").splitlines()
    return [name for line in lines if (name := line.partition("#")[0].strip())]
