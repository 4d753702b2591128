"""A repository: a folder of backup sets, each a folder of recovery points, readable without us."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.durable import PARTIAL, give_to_owner_of_folder, sync_folder
from vdbackup.errors import (
    BadSetName,
    DamagedMetadata,
    NoRepository,
    NoSpace,
    PointNotFound,
    Remedy,
    RepositoryError,
    SetExists,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import CancelToken
from vdbackup.repository import naming, publication
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import read_json, remove, write_json
from vdbackup.repository.journal import JOURNAL_NAME, Journal
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.lock import LOCK_NAME, writer_lock
from vdbackup.repository.manifests import manifest_path, read_manifests
from vdbackup.repository.marker import LAYOUT, MARKER, Marker
from vdbackup.repository.model import RecoveryPoint, SetSettings
from vdbackup.repository.mount_points import waiting_mount_point
from vdbackup.repository.policy import Policy
from vdbackup.repository.written import is_moment, moment, point_of
from vdbackup.translation import tr

log = logging.getLogger(__name__)

SETTINGS = "set.json"
SETTINGS_COPY = "set.copy.json"
"""Beside it: a policy and what the user said of the source stand in nothing else."""
LAYER_MODE = 0o444
_MAX_NAME = 240
"""Bytes of a folder's name; file systems take 255, and a number may be put behind it."""
LOST_AND_FOUND = "lost+found"
_NOT_OURS = (LOCK_NAME, LEASE_NAME, LOST_AND_FOUND, MARKER + PARTIAL)
"""What an empty folder may hold: the third is there in every new file system, the last where
making a repository was interrupted."""
_SHORTEST_ID = 4
_SHORTEST_NUMERIC_ID = 8
"""How many characters of an id are enough to mean it; digits alone may be a sequence number."""


@dataclass(frozen=True)
class DamagedSet:
    """A set that cannot be read: its own work stops, and nobody else's.

    Attributes:
        refused: whether we only may not read it: then it may be whole.
    """

    name: str
    folder: Path
    problem: VdbackupError
    refused: bool = False


class Repository:
    """A folder of backup sets. Everything read is read afresh at each call.

    Attributes:
        path: the folder.
        id: UUID.
    """

    def __init__(self, path: Path, repository_id: str) -> None:
        self.path = path
        self.id = repository_id

    @classmethod
    def create(cls, path: Path) -> Repository:
        """Make a new repository in `path`, which may exist if it is an empty folder.

        Raises RepositoryError where `path` is something else, cannot be written, or lies where a
        drive or share is to be mounted that is not there.
        """
        if path.exists() and not path.is_dir():
            raise NoRepository(
                tr("{path} is not a folder.", path=path), tr("Choose a folder for the backups.")
            )
        if path.is_dir() and any(entry.name not in _NOT_OURS for entry in path.iterdir()):
            raise NoRepository(
                tr("{path} is not empty and is not a repository.", path=path),
                tr("Choose an empty or a new folder for the backups."),
            )
        if point := waiting_mount_point(path):
            raise NoRepository(
                tr(
                    "{path} has no backups yet, and nothing is mounted on {point} (see "
                    "/etc/fstab).",
                    path=path,
                    point=point,
                ),
                tr("Mount what belongs on {point}, or choose a folder elsewhere.", point=point),
            )
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in made:
            sync_folder(folder.parent)
        repository = cls(path, str(uuid.uuid4()))
        Marker(LAYOUT, repository.id).save(path)
        return repository

    @classmethod
    def open(cls, path: Path) -> Repository:
        """Open an existing repository; raises RepositoryError."""
        return cls(path, Marker.load(path).id)

    @classmethod
    def open_or_create(cls, path: Path) -> Repository:
        """Open the repository in `path`, or make one there."""
        return cls.open(path) if os.path.lexists(path / MARKER) else cls.create(path)

    def lock(self, purpose: str, cancel: CancelToken | None = None) -> AbstractContextManager[None]:
        """Hold the repository for writing; raises RepositoryLocked, naming the holder.

        `cancel.check()` meanwhile raises LockLost, too, if somebody else takes it over.
        """
        return writer_lock(self.path, purpose, cancel)

    def names(self) -> list[str]:
        """The names of all backup sets; `misnamed` says which folders cannot be called as they are.

        A folder with layers and without settings is one, too: they were lost.
        """
        # isdir: of a link that leads in a circle, or where we may not look, is_dir raises OSError
        names = [n for n in sorted(os.listdir(self.path)) if os.path.isdir(self.path / n)]
        return [n for n in names if _can_be_set(n) and _holds_a_set(self.path / n)]

    def misnamed(self) -> list[str]:
        """Names of folders that hold a set and that no set can have: somebody renamed or copied it.

        A hidden one is passed over: what programs that copy folders have in flight is called so.
        """
        names = (name for name in sorted(os.listdir(self.path)) if not _can_be_set(name))
        seen = (name for name in names if not name.startswith(".") and not name.endswith(PARTIAL))
        return [name for name in seen if os.path.isfile(self.path / name / SETTINGS)]

    def in_the_making(self) -> list[str]:
        """Names of folders of sets that are just being made, or whose making was cut off.

        A folder in which anything lies that is not ours is somebody's own, whatever it is called.
        """
        names = (name for name in sorted(os.listdir(self.path)) if name.endswith(PARTIAL))
        return [name for name in names if is_in_the_making(self.path / name)]

    def sets(self) -> list[BackupSet]:
        """All backup sets that can be read, by name; `survey` says which others there are."""
        return self.survey()[0]

    def survey(
        self, names: Iterable[str] | None = None
    ) -> tuple[list[BackupSet], list[DamagedSet]]:
        """The backup sets that can be read and those that cannot, by name: all, or those named.

        A folder that holds a set and cannot be called so is among those that cannot.
        """
        sets: list[BackupSet] = []
        damaged: list[DamagedSet] = []
        for name in [*self.names(), *self.misnamed()] if names is None else names:
            try:
                check_folder_name(name)
                sets.append(self.set(name))
            except (VdbackupError, OSError) as error:
                if not self.path.exists():  # not this set alone: the storage is gone
                    raise
                problem = from_os(error) if isinstance(error, OSError) else error
                refused = isinstance(error.__cause__ or error, PermissionError)
                damaged.append(DamagedSet(name, self.path / name, problem, refused))
        return sets, damaged

    def set(self, name: str | None = None) -> BackupSet:
        """The set of that name; without a name the only one there is. Raises PointNotFound."""
        if name is None:
            names = self.names()
            if len(names) != 1:
                which = f": {', '.join(names)}." if names else "."
                raise PointNotFound(
                    tr(
                        "{path} holds {count} backup sets{which}",
                        path=self.path,
                        count=len(names),
                        which=which,
                    ),
                    tr("Say which one.") if names else tr("Back something up first."),
                    remedy=Remedy.NAME_SET if names else None,
                )
            return self.set(names[0])
        settings = self.settings(name)
        folder = self.path / name
        points, broken = read_manifests(folder)
        hidden: list[RecoveryPoint] = []
        try:
            journal = Journal.load(folder) if self.interrupted(name) else None
        except FileNotFoundError:  # a merge has just ended: the points are others now
            return self.set(name)
        if journal:
            points, hidden = journal.offered(folder, points)
            broken = [each for each in broken if each.sequence not in journal.numbers]
        points.sort(key=lambda point: point.sequence)
        return BackupSet(
            name, folder, settings, tuple(points), journal, tuple(hidden), tuple(broken),
            self.unfinished(name),
        )  # fmt: skip

    def settings(self, name: str) -> SetSettings:
        """A set's settings alone.

        Raises PointNotFound where there is no such set, RepositoryError where they are damaged.
        """
        folder = self.path / check_set_name(name)
        try:
            return SetSettings.from_json(read_json(folder / SETTINGS))
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir() or not _holds_a_set(folder):
                raise PointNotFound(
                    tr("{path} has no backup set {name!r}.", path=self.path, name=name),
                    tr("Check its name."),
                    remedy=Remedy.LIST_POINTS,
                ) from None
            raise DamagedMetadata(
                tr("{folder} is missing.", folder=folder / SETTINGS),
                tr("It can be rebuilt from the disks."),
                remedy=Remedy.REPAIR,
            ) from None
        except OSError as error:
            if not self.path.exists():  # not this set alone: the storage is gone
                raise
            raise from_os(error) from error

    def changed_at(self, name: str) -> int:
        """When something in a set's folder was last made, renamed or deleted; 0 if it is gone.

        In ns by the storage's clock. Whatever says what a set holds is renamed into place there.
        """
        try:
            return os.stat(self.path / name).st_mtime_ns
        except OSError:
            return 0

    def interrupted(self, name: str) -> bool:
        """Whether a merge was cut off in the set, or is running; no file is read."""
        return os.path.lexists(self.path / name / JOURNAL_NAME)

    def unfinished(self, name: str) -> bool:
        """Whether a merge or a publication was cut off in the set, or is running; none is read."""
        try:
            return self.interrupted(name) or bool(publication.begun(self.path / name))
        except OSError:  # it may not be looked into, or has just gone
            return False

    def unfinished_sets(self) -> list[str]:
        """The names of the sets in which something was cut off, or is running; no file is read."""
        return [name for name in self.names() if self.unfinished(name)]

    def find(self, reference: str, set_name: str | None = None) -> tuple[BackupSet, RecoveryPoint]:
        """The point that `reference` means; raises PointNotFound if none or several answer to it.

        Args:
            reference: an id, the unique start of one (4 characters at least), a sequence number,
                or "latest": the newest that was captured, not promoted from a session.
            set_name: the set; may be None where there is only one.
        """
        if is_moment(reference):
            raise _only_a_moment(reference)
        backup_set = self.set(set_name)
        _check_not_broken(backup_set, reference)
        found = list(_matching(backup_set, reference))
        if len(found) == 1:
            return backup_set, found[0]
        merged = [p for p in backup_set.points if any(m.startswith(reference) for m in p.merged)]
        if not found and merged and len(reference) >= _SHORTEST_ID:
            raise PointNotFound(
                tr(
                    "Recovery point {reference} was merged into point {merged}.",
                    reference=reference,
                    merged=merged[0].sequence,
                ),
                tr("Its moment is no longer kept; use that point."),
            )
        problem = tr("matches no") if not found else tr("matches more than one")
        raise PointNotFound(
            tr(
                "{reference!r} {problem} recovery point of {backup_set}.",
                reference=reference,
                problem=problem,
                backup_set=backup_set.name,
            ),
            tr("Give a sequence number, an id, or `latest`."),
            remedy=Remedy.LIST_POINTS,
        )

    def find_state(
        self, reference: str, set_name: str | None = None
    ) -> tuple[BackupSet, RecoveryPoint]:
        """The same, or the moment behind a point that `reference` means: N@TIME, N@wW.

        For who only reads. Raises also what `written.moment` does.
        """
        if not is_moment(reference):
            return self.find(reference, set_name)
        backup_set, point = self.find(point_of(reference), set_name)
        return backup_set, moment(backup_set.folder, point, reference)

    def create_set(self, name: str, settings: SetSettings) -> BackupSet:
        """Make a new, empty set; raises RepositoryError where something else has that name."""
        folder = self.path / check_set_name(name)
        begun = folder.is_dir() and all(each.suffix == PARTIAL for each in folder.iterdir())
        if folder.exists() and not begun:
            raise SetExists(
                tr("{path} holds something named {name!r} already.", path=self.path, name=name),
                tr("Start again, or choose another name."),
                remedy=Remedy.NAME_ANOTHER_SET,
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of_folder(folder)
        sync_folder(self.path)
        write_settings(folder, settings)
        return self.set(name)

    def save_settings(self, name: str, settings: SetSettings) -> None:
        """Replace a set's `set.json`; the caller holds the lock."""
        write_settings(self.path / check_set_name(name), settings)

    def set_policy(self, name: str, policy: Policy) -> None:
        """Change what a set does automatically; the caller holds the lock."""
        self.save_settings(name, replace(self.set(name).settings, policy=policy))

    def remember_sequence(self, name: str, sequence: int) -> None:
        """Never give a number to another point; the caller holds the lock."""
        settings = self.set(name).settings
        highest = max(settings.last_sequence, sequence)
        self.save_settings(name, replace(settings, last_sequence=highest))

    def save_point(self, name: str, point: RecoveryPoint) -> None:
        """Write or replace a point's manifest; the caller holds the lock.

        Raises PointNotFound for a moment behind a point, which has none.
        """
        if is_moment(point.id):
            raise _only_a_moment(point.id)
        write_json(manifest_path(self.path / check_set_name(name), point), point.to_json())


def write_settings(folder: Path, settings: SetSettings) -> None:
    """Write a set's `set.json`, and then its copy, which a repair goes by where the first is lost.

    A copy with another policy or other pins goes before: a power cut between the two would leave
    one by which points are deleted that the set was to keep. One that cannot be written is written
    next time.
    """
    copy = settings_copy(folder)
    if copy is not None and (copy.policy, copy.pins) != (settings.policy, settings.pins):
        remove(folder / SETTINGS_COPY)
        sync_folder(folder)
    write_json(folder / SETTINGS, settings.to_json())
    try:
        write_json(folder / SETTINGS_COPY, settings.to_json())
    except (NoSpace, OSError) as error:
        log.warning("%s has no copy of %s: %s", folder, SETTINGS, error)


def settings_copy(folder: Path) -> SetSettings | None:
    """What the copy beside a set's `set.json` says; None where there is none that can be read.

    An older version changes the first alone.
    """
    try:
        return SetSettings.from_json(read_json(folder / SETTINGS_COPY))
    except (RepositoryError, OSError):
        return None


def is_in_the_making(folder: Path) -> bool:
    """Whether a folder that bears such a name holds nothing but what a set's making leaves."""
    if not _can_be_set(folder.name.removesuffix(PARTIAL)) or os.path.islink(folder):
        return False
    try:
        names = [name.removesuffix(PARTIAL) for name in os.listdir(folder)]
    except OSError:  # no folder, or it may not be looked into
        return False
    ours = (SETTINGS, SETTINGS_COPY)
    return all(name in ours or naming.number_of(name) is not None for name in names)


def check_set_name(name: str) -> str:
    """The name, if it can be a folder's; raises RepositoryError (it may be external text)."""
    if not _can_be_set(name):
        raise BadSetName(
            tr("{name!r} cannot be the name of a backup set.", name=name),
            tr("Use letters, digits, spaces and any of . _ + @ - , at most 100."),
        )
    return name


def check_folder_name(name: str) -> None:
    """Raise BadSetName where a folder that holds a set is called as no set can be."""
    if not _can_be_set(name):
        raise BadSetName(
            tr("{name!r} holds a backup set, and none can have that name.", name=name),
            tr(
                "Rename the folder: letters, digits, spaces and any of . _ + @ - , at most 100. A "
                "copy of another set belongs elsewhere."
            ),
        )


def _can_be_set(name: str) -> bool:
    one = unicodedata.normalize("NFC", name)  # a Mac takes accents apart, and they are no \w then
    valid = re.fullmatch(r"\w[\w .+@-]{0,99}", one) is not None and name == name.strip()
    valid &= not name.endswith(PARTIAL)  # a set in the making
    return valid and len(os.fsencode(name)) <= _MAX_NAME


def set_name_for(source_name: str) -> str:
    """A set's name made from a source's."""
    name = re.sub(r"[^\w.+@-]+", "-", source_name).lstrip("-.+@")
    name = name.encode()[:80].decode(errors="ignore").rstrip("-.") or "disk"
    return f"disk-{name}" if _OF_WINDOWS.fullmatch(name) else name


_OF_WINDOWS = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
"""Names of its devices: a share of Windows, and whatever it has mounted, has no such folder."""


def free_set_name(repository: Repository, source_name: str) -> str:
    """A source's name, with a number behind it if another source's set has it already."""
    base = set_name_for(source_name)
    name, number = base, 2
    while (repository.path / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def _only_a_moment(reference: str) -> PointNotFound:
    return PointNotFound(
        tr(
            "{reference} is a moment behind a point: it can be read, restored and booted, no more.",
            reference=reference,
        ),
        tr("Make a recovery point of it first."),
        remedy=Remedy.KEEP_MOMENT,
        about=reference,
    )


def _matching(backup_set: BackupSet, reference: str) -> Iterator[RecoveryPoint]:
    if reference == "latest":
        latest = backup_set.latest_captured()
        yield from [latest] if latest else []
        return
    # a small number is never the start of an id: "merge 9" must not merge whatever point begins so
    if reference.isascii() and reference.isdigit() and len(reference) < _SHORTEST_NUMERIC_ID:
        yield from (p for p in backup_set.points if p.sequence == int(reference))
    elif len(reference) >= _SHORTEST_ID:
        yield from (p for p in backup_set.points if p.id.startswith(reference))


def _check_not_broken(backup_set: BackupSet, reference: str) -> None:
    """Raise the problem of a manifest if it may be its point that is meant."""
    newest = max((point.sequence for point in backup_set.points), default=0)
    for each in backup_set.broken:
        if reference == str(each.sequence) or (reference == "latest" and each.sequence > newest):
            raise each.problem


def _holds_a_set(folder: Path) -> bool:
    """Whether a folder holds settings, or layers that have lost theirs, or does not show what."""
    if os.path.lexists(folder / SETTINGS):
        return True
    try:
        return any(map(naming.layer_of, os.listdir(folder)))
    except FileNotFoundError:  # it has just gone
        return False
    except OSError:  # a set that may not be read must not pass for none
        return folder.name != LOST_AND_FOUND  # root's alone
