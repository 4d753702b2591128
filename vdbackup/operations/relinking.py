"""After whatever may have merged: other programs' machines name their layers as merges left them.

It is the last step of each operation that may have merged, and no part of what was done before,
which is whole without it: what goes wrong is only said, and whoever opens the repository next tries
again.
"""

from __future__ import annotations

from pathlib import Path

from vdbackup.errors import VdbackupError, from_os
from vdbackup.repository.repository import Repository


def relink(repository: Path, sessions_folder: Path) -> tuple[VdbackupError, ...]:
    """Let no machine name layers that are gone; what went wrong. Never raises.

    Args:
        repository: its folder.
        sessions_folder: where machines write; it need not be there.
    """
    try:
        if not sessions_folder.is_dir():
            return ()
        from vdbackup.recovery.relinking import relink_all  # late: it takes long to import

        return tuple(relink_all(sessions_folder, Repository.open(repository)))
    except VdbackupError as error:
        return (error,)
    except OSError as error:
        return (from_os(error),)
