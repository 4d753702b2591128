"""Where the other files of a disk may lie: its parents, its extents."""

from __future__ import annotations

import os
from pathlib import Path

from vdbackup.translation import tr


def own_folders(disk: Path) -> tuple[Path, ...]:
    """The folder that a disk lies in; where it is a link, the link's and that of what it leads to.

    The links of a whole chain may lie side by side, or one alone, as `current.qcow2` does.
    """
    named = disk.parent.resolve()
    if not os.path.islink(disk):
        return (named,)
    return tuple(dict.fromkeys((named, Path(os.path.realpath(disk)).parent)))


def behind_link(link: Path) -> tuple[str, str] | None:
    """What is wrong with a link that leads to no file, in words, and the advice; else None."""
    target = Path(os.path.realpath(link))
    if not os.path.exists(target):
        return (
            tr("a link to {target}, and there is nothing", target=target),
            tr(
                "Put it back to {target}, or into {parent} in the link's place.",
                target=target,
                parent=link.parent,
            ),
        )
    if not os.path.isfile(target):
        return (
            tr("a link to {target}, and that is no file", target=target),
            tr("Put the file itself into {parent}, in the link's place.", parent=link.parent),
        )
    return None
