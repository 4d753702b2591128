"""Whether a folder is a good place for the backups of a source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent.stacking import share_a_disk
from vdbackup.backup.capture import check_apart
from vdbackup.repository.marker import MARKER
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef
from vdbackup.sources.source import Source
from vdbackup.translation import tr


@dataclass(frozen=True)
class Placement:
    """What is to be said of a folder.

    Attributes:
        warnings: why another folder would be better, a sentence each.
        is_repository: it holds backups already.
    """

    warnings: tuple[str, ...] = ()
    is_repository: bool = False


def judge(source: SourceRef | None, folder: Path) -> Placement:
    """Look at where the folder, or the nearest one above it that exists, is stored."""
    warnings = []
    if source and _share_a_disk(source, folder):
        warnings.append(
            tr(
                "This folder is on the source's own disk: when that disk fails, the backups are "
                "lost with it."
            )
        )
    elif _device(folder) == os.stat("/").st_dev:
        warnings.append(tr("This folder is on the system disk, which the backups may fill."))
    return Placement(tuple(warnings), (folder / MARKER).is_file())


def repository_for(source: Source, folder: Path, *, seen: bool = False) -> Repository:
    """The repository in a folder that is apart from the source; made if there is none.

    Args:
        source: what goes into it.
        folder: the repository's.
        seen: it held backups, and is not begun anew: its drive may have been unplugged.

    Raises:
        BackupError: it lies on the source, or the source in it: before anything is made there.
        RepositoryError: it cannot be opened, or made.
    """
    check_apart(source, folder)
    return Repository.open(folder) if seen else Repository.open_or_create(folder)


def _share_a_disk(source: SourceRef, folder: Path) -> bool:
    path = Path(source.rest) if source.is_file and source.rest else None
    return path is not None and path.exists() and share_a_disk(path, folder)


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
