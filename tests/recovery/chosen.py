"""A set of chosen files, and restores of its newest point: what the tests of those begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.sources.file_sets.trees import described
from vdbackup.jobs import Task
from vdbackup.operations import backup, restore_files
from vdbackup.operations.machines import Machines
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef


def back_up(folder: Path) -> Repository:
    """A point of a folder, of which there is nothing to say."""
    made = again(folder)
    assert made.warnings == ()
    return made.repository


def again(folder: Path, **options: Any) -> backup.BackupResult:
    where = folder.parent / "backups"
    ref = SourceRef(Scheme.FILES, str(Choice.of([str(folder)])))
    request = backup.BackupRequest(ref, where, **options)
    return backup.back_up(request, Machines(folder.parent / "sessions"), Task())


def planned(
    repository: Repository, target: Path = restore_files.ORIGIN, **options: Any
) -> restore_files.FilesPlan:
    backup_set = repository.set()
    point = backup_set.points[-1]
    request = restore_files.FilesRequest(repository, backup_set.name, point.id, target, **options)
    return restore_files.plan(request, Task())


def restored(
    repository: Repository, target: Path = restore_files.ORIGIN, **options: Any
) -> restore_files.FilesRestored:
    return restore_files.run(planned(repository, target, **options), Task())


def restore(
    repository: Repository, target: Path = restore_files.ORIGIN, **options: Any
) -> tuple[str, ...]:
    """What there was to say of it."""
    return restored(repository, target, **options).warnings


def not_ones_own(path: Path) -> tuple[str, ...]:
    """What an ordinary user is told of the folders above that are somebody else's: /tmp."""
    user = os.geteuid()
    others = [each for each in path.parents[:-1] if user not in (0, each.stat().st_uid)]
    said = "Owners or attributes of these could not be restored: "
    return tuple(f"{said}{each}." for each in others)


def as_restored(folder: Path) -> tuple[dict[bytes, Any], list[list[bytes]]]:
    """What can be set by anybody: the time of change is the kernel's own."""
    files, links = described(folder)
    return {name: (*each[:4], *each[5:]) for name, each in files.items()}, links
