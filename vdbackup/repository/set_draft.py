"""A whole backup set in the making: it exists once its folder bears its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from vdbackup.durable import give_to_owner_of_folder
from vdbackup.errors import Remedy, SetExists
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import PARTIAL, sync_folder
from vdbackup.repository.lock import check_lock
from vdbackup.repository.model import RecoveryPoint, SetSettings
from vdbackup.repository.repository import (
    Repository,
    check_set_name,
    is_in_the_making,
    write_settings,
)
from vdbackup.translation import tr


def left_behind(repository: Repository) -> tuple[tuple[str, ...], str]:
    """Folders of sets whose making was cut off, for a plan that takes them away; and its words."""
    names = tuple(repository.in_the_making())
    if not names:
        return (), ""
    which = ", ".join(names)
    return names, tr(
        " What was left when another set's making was cut off goes: {which}.", which=which
    )


def sweep(repository: Repository, names: Iterable[str]) -> None:
    """Remove such folders, as they were shown; the caller holds the lock: nobody is at them."""
    for name in names:
        if is_in_the_making(repository.path / name):
            shutil.rmtree(repository.path / name)


class SetDraft:
    """The folder of a new set while its points are made; the caller holds the repository's lock.

    As a context manager it goes where it was not made to the end.

    Raises RepositoryError where something else has that name.
    """

    def __init__(self, repository: Repository, name: str, settings: SetSettings) -> None:
        self._target = repository.path / check_set_name(name)
        if self._target.exists():
            raise SetExists(
                tr(
                    "{repository} holds something named {name!r} already.",
                    repository=repository.path,
                    name=name,
                ),
                tr("Choose another name."),
                remedy=Remedy.NAME_ANOTHER_SET,
            )
        folder = self._target.with_name(name + PARTIAL)
        if is_in_the_making(folder):
            shutil.rmtree(folder)  # of one that was interrupted
        elif os.path.lexists(folder):
            raise SetExists(
                tr("{folder} is in the way, and not all in it is of this program.", folder=folder),
                tr("Move it away, or choose another name."),
                remedy=Remedy.NAME_ANOTHER_SET,
            )
        folder.mkdir(mode=0o700)
        give_to_owner_of_folder(folder)
        self._set = BackupSet(name, folder, settings, ())

    @property
    def set(self) -> BackupSet:
        """Its folder and settings so far; the points whoever makes them knows."""
        return self._set

    def add(self, point: RecoveryPoint) -> None:
        """A point that was published into the folder."""
        settings = replace(
            self._set.settings,
            virtual_size=point.virtual_size,
            sector_size=point.sector_size,
            last_sequence=point.sequence,
        )
        self._set = replace(self._set, settings=settings)

    def publish(self) -> None:
        """Make the set exist: all of it is durable in its folder, which then takes its name."""
        write_settings(self._set.folder, self._set.settings)
        check_lock(self._target)
        os.rename(self._set.folder, self._target)
        sync_folder(self._target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Discard it where it was not made to the end, whatever came: a Ctrl-C, too."""
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Remove everything; nothing happens where the set exists already."""
        check_lock(self._set.folder)
        shutil.rmtree(self._set.folder, ignore_errors=True)
