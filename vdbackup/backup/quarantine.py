"""Putting aside what is broken: nothing of a repository is deleted by a repair."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from vdbackup.durable import give_to_owner_of_folder, read_own
from vdbackup.durable import replace as replace_file
from vdbackup.errors import Obstructed
from vdbackup.repository import naming
from vdbackup.repository.files import sync_folder
from vdbackup.translation import tr

QUARANTINE = "quarantine"
"""The folder in a set's folder, or a repository's, for what is broken."""


def put_aside(folder: Path, name: str) -> None:
    """Put a file aside, if it is there; what was put aside before stays, too."""
    if os.path.lexists(folder / name):
        target = _place_aside(folder, name)
        (folder / name).rename(target)
        sync_folder(target.parent)
        sync_folder(folder)


def put_point_aside(folder: Path, layer: Path) -> None:
    """Put a layer aside, and what speaks of it or hangs on it alone.

    The layer goes last: a repair that is cut off before finds it broken again, and puts the rest
    aside. The other way round its point would stay in the list for ever.
    """
    for name in (*naming.others_of(layer.name), layer.name):
        put_aside(folder, name)


def keep_a_copy(folder: Path, name: str) -> None:
    """Put a copy of a record aside that is to be replaced: only the old one says what it says.

    What is no ordinary file, or too long to be read, says nothing, and is put aside itself.
    """
    try:
        content = read_own(folder / name)
    except FileNotFoundError:
        return
    except Obstructed:
        put_aside(folder, name)
        return
    replace_file(_place_aside(folder, name), content)


def _place_aside(folder: Path, name: str) -> Path:
    aside = folder / QUARANTINE
    with suppress(FileExistsError):
        aside.mkdir(mode=0o700)
    if not stat.S_ISDIR(os.lstat(aside).st_mode):
        raise Obstructed(
            tr(
                "{aside} is damaged: it is no folder, and what is broken belongs there.",
                aside=aside,
            ),
            tr("Move it away, then have it repaired again."),
        )
    give_to_owner_of_folder(aside)
    sync_folder(folder)  # what is moved into a folder that a power cut takes away is gone with it
    target, number = aside / name, 2
    while os.path.lexists(target):
        target, number = aside / f"{name}.{number}", number + 1
    return target
