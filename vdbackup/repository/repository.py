"""A repository: a folder of backup sets, each a folder of recovery points, readable without us."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from vdbackup.disks.chain import Chain, parent_of
from vdbackup.disks.disk import DiskInfo
from vdbackup.disks.formats import FORMATS, open_disk
from vdbackup.durable import PARTIAL, check_regular, give_to_owner_of_folder, read_own, sync_folder
from vdbackup.errors import (
    Damaged,
    PointNotFound,
    Remedy,
    RepositoryError,
    VdbackupError,
    from_os,
)
from vdbackup.jobs import CancelToken, sizes_apart
from vdbackup.repository.digests import DigestFold
from vdbackup.repository.files import parse_json, read_json, write_json
from vdbackup.repository.journal import JOURNAL_NAME, Journal
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.lock import LOCK_NAME, writer_lock
from vdbackup.repository.model import PointType, Policy, RecoveryPoint, SetSettings
from vdbackup.repository.mount_points import waiting_mount_point

LAYOUT = 1
MARKER = "vdbackup.json"
SETTINGS = "set.json"
LAYER_MODE = 0o444
_LONGEST_NAME = 240
"""Bytes of a folder's name; file systems take 255, and a number may be put behind it."""
LOST_AND_FOUND = "lost+found"
_NOT_OURS = (LOCK_NAME, LEASE_NAME, LOST_AND_FOUND, MARKER + PARTIAL)
"""What an empty folder may hold: the third is there in every new file system, the last where
making a repository was interrupted."""
_SHORTEST_ID = 4
_SHORTEST_NUMERIC_ID = 8
"""How many characters of an id are enough to mean it; digits alone may be a sequence number."""

LAYER_NAME = re.compile(rf"([0-9]{{4,18}})-({'|'.join(PointType)})\.({'|'.join(FORMATS)})\Z")
"""A layer's file name: its number, its kind, its format."""
_MANIFEST = re.compile(rf"([0-9]{{4,18}})-({'|'.join(PointType)})\.json")
_POINT_FILE = re.compile(r"([0-9]{4,18})-[a-z]+(?:\.retarget)?\.[a-z0-9]+")


@dataclass(frozen=True)
class BrokenManifest:
    """A point whose manifest cannot be read: nothing is known of it but its number.

    Attributes:
        name: the file's.
        sequence: the number in it, which no other point gets.
        problem: what is wrong with it.
        refused: whether we only may not read it: then it may be whole.
    """

    name: str
    sequence: int
    problem: VdbackupError
    refused: bool = False


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


@dataclass(frozen=True)
class BackupSet:
    """All recovery points of one source: a picture taken when it was read.

    Attributes:
        name: also the folder's name.
        points: by sequence; the parent of a merge in flight is not among them.
        journal: of a merge that was interrupted or is running, else None.
        hidden: points that may not be used, but that others read through meanwhile.
        broken: points whose manifests cannot be read. What does not need them goes on; what merges
            or deletes does not (`check_manifests`), for they may read through any other.
    """

    name: str
    folder: Path
    settings: SetSettings
    points: tuple[RecoveryPoint, ...]
    journal: Journal | None = None
    hidden: tuple[RecoveryPoint, ...] = ()
    broken: tuple[BrokenManifest, ...] = ()

    def point(self, point_id: str) -> RecoveryPoint:
        """The point with exactly this id; raises PointNotFound."""
        if (point := self._by_id.get(point_id)) is not None:
            return point
        raise PointNotFound(
            f"{self.name} has no recovery point {point_id}.",
            "It may have been merged or deleted.",
            remedy=Remedy.LIST_POINTS,
        )

    def children(self, point_id: str) -> list[RecoveryPoint]:
        """The points that read through this one directly, by sequence."""
        return list(self._children.get(point_id, ()))

    @cached_property
    def _by_id(self) -> dict[str, RecoveryPoint]:
        every = (*self.points, *self.hidden)
        return {point.id: point for point in reversed(every)}  # the first, where two have one id

    @cached_property
    def _children(self) -> dict[str | None, list[RecoveryPoint]]:
        children: dict[str | None, list[RecoveryPoint]] = {}
        for point in self.points:
            children.setdefault(point.parent, []).append(point)
        return children

    def latest_captured(self) -> RecoveryPoint | None:
        """The point that the source's next backup goes on from: not what a VM has made of it."""
        captured = (point for point in reversed(self.points) if point.promoted_from is None)
        return next(captured, None)

    def chain(self, point: RecoveryPoint) -> list[RecoveryPoint]:
        """The points that this one reads through and itself, the full first.

        Raises Damaged where one is missing, RepositoryError where they form a circle.
        """
        chain = [point]
        while chain[-1].parent is not None:
            if len(chain) > len(self.points) + len(self.hidden):
                raise RepositoryError(
                    f"The parents of point {point.sequence} form a circle.",
                    "The manifests can be rebuilt from the disks.",
                    remedy=Remedy.REPAIR,
                )
            try:
                chain.append(self.point(chain[-1].parent))
            except PointNotFound:
                names = ", ".join(each.name for each in self.broken)
                raise Damaged(
                    f"The point that point {chain[-1].sequence} reads through is missing from "
                    f"{self.name}" + (f", or it is damaged: {names}." if names else "."),
                    "Use another chain's point; or put its files back, then have it repaired.",
                    remedy=Remedy.REPAIR,
                ) from None
        chain.reverse()
        return chain

    def check_manifests(self) -> None:
        """Raise RepositoryError unless every point is known.

        What is merged or deleted otherwise may be what an unknown one reads through.
        """
        if self.broken:
            first = self.broken[0]
            if first.refused:
                raise RepositoryError(
                    f"{first.name} of {self.name} may not be read, so nothing is merged or deleted "
                    "there.",
                    "Let whoever owns the file do it, or have them let you read it.",
                )
            raise RepositoryError(
                f"{self.name} has damaged manifests, so nothing is merged or deleted in it: "
                f"{first.problem.title}",
                "They can be rebuilt from the disks.",
                remedy=Remedy.REPAIR,
            )

    def disk_path(self, point: RecoveryPoint) -> Path:
        """The point's layer; raises Obstructed where something else bears its name, as a link."""
        return _own(self.folder / point.disk)

    def overlay_path(self, point: RecoveryPoint) -> Path:
        """The point's overlay; raises Obstructed as `disk_path` does."""
        return _own(self.folder / point.overlay)

    def open_chain(self, point: RecoveryPoint) -> Chain:
        """The point's disk through all its layers.

        Raises:
            Damaged: a layer is missing, not as long as when it was published, or its disk is not.
            DiskError: the disks' own links do not lead where the manifests say.
        """
        points = self.chain(point)
        for each in points:
            self.check_layer(each, point)
        chain = Chain.open(self.disk_path(point), self.settings.format)
        if [layer.path.name for layer in chain.layers] != [each.disk for each in points]:
            chain.close()
            raise _other_parents(point)
        try:
            for layer, each in zip(chain.layers, points, strict=True):
                check_size(layer.info, each)
        except Damaged:
            chain.close()
            raise
        return chain

    def check_link(self, layer: RecoveryPoint) -> None:
        """Raise DiskError or Damaged unless the layer's own link leads where its manifest says.

        Where that holds of each layer of a chain, `open_chain` finds all of it.
        """
        parent = self.point(layer.parent).disk if layer.parent is not None else None
        with closing(open_disk(self.disk_path(layer), self.settings.format)) as disk:
            found = parent_of(disk)
        if (found.name if found else None) != parent:
            raise _other_parents(layer)

    def check_layer(self, layer: RecoveryPoint, wanted: RecoveryPoint | None = None) -> None:
        """Raise Damaged if the layer is missing or has another length than when published.

        FileNotFoundError where the whole set is gone.

        Args:
            layer: whose layer to look at.
            wanted: the point on whose behalf it is needed, for the sentence.
        """
        path = self.disk_path(layer)
        other = wanted is not None and wanted.id != layer.id
        needs = f", which point {wanted.sequence} needs," if wanted and other else ""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if not self.folder.exists():  # not this layer alone: the storage is gone
                raise
            raise Damaged(
                f"{path.name} of point {layer.sequence}{needs} is missing from {self.folder}.",
                "Put the file back, or use a recovery point of another chain.",
            ) from None
        # what is merged into grows, or loses what an earlier merge left behind in it
        merged_into = self.journal is not None and layer.id == self.journal.parent.id
        if size != layer.disk_size and not merged_into:
            now, then = sizes_apart(size, layer.disk_size)
            raise Damaged(
                f"{path.name} of point {layer.sequence}{needs} is {now} long instead of {then}: it "
                "was cut off or altered.",
                "Put the original file back, or use a recovery point of another chain.",
            )

    def open_digests(self, point: RecoveryPoint) -> DigestFold:
        """The digests of the point's whole state."""
        paths = [self.folder / each.digests for each in self.chain(point)]
        return DigestFold(paths, point.virtual_size)

    def unlisted_layers(self) -> list[str]:
        """Names of layers that no manifest names, so that `repair` would make points of them.

        A backup that was cut off right before its end leaves one (draft.py), or its manifest was
        lost. Not to be asked while there is a journal.
        """
        listed = {Path(point.disk).stem for point in self.points}
        listed |= {Path(each.name).stem for each in self.broken}
        ending = "." + self.settings.format
        names = (name for name in os.listdir(self.folder) if name.endswith(ending))
        return sorted(n for n in names if LAYER_NAME.match(n) and Path(n).stem not in listed)

    def next_sequence(self) -> int:
        """One more than any point ever had, and than any file in the folder bears."""
        names = (name.removesuffix(PARTIAL) for name in os.listdir(self.folder))
        numbers = (int(match[1]) for name in names if (match := _POINT_FILE.fullmatch(name)))
        return max(self.settings.last_sequence, *numbers, 0) + 1


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
            raise RepositoryError(f"{path} is not a folder.", "Choose a folder for the backups.")
        if path.is_dir() and any(entry.name not in _NOT_OURS for entry in path.iterdir()):
            raise RepositoryError(
                f"{path} is not empty and is not a repository.",
                "Choose an empty or a new folder for the backups.",
            )
        if point := waiting_mount_point(path):
            raise RepositoryError(
                f"{path} has no backups yet, and nothing is mounted on {point} (see /etc/fstab).",
                f"Mount what belongs on {point}, or choose a folder elsewhere.",
            )
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in made:
            sync_folder(folder.parent)
        repository = cls(path, str(uuid.uuid4()))
        write_json(path / MARKER, {"layout": LAYOUT, "id": repository.id})
        return repository

    @classmethod
    def open(cls, path: Path) -> Repository:
        """Open an existing repository; raises RepositoryError."""
        try:
            data = read_json(path / MARKER)
        except (FileNotFoundError, NotADirectoryError):
            raise RepositoryError(
                f"{path} is not a repository of vdbackup: it has no {MARKER}.",
                "Connect the drive if it is on one, or give the folder that holds the backups.",
            ) from None
        layout = data.get("layout")
        if not isinstance(layout, int) or layout > LAYOUT:
            raise RepositoryError(
                f"{path} has layout {layout}; this vdbackup knows layouts up to {LAYOUT}.",
                "Use a newer version of vdbackup.",
            )
        return cls(path, str(data.get("id", "")))

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
        """The names of all backup sets; a folder that somebody named otherwise is passed over.

        A folder with layers and without settings is one, too: they were lost.
        """
        # isdir: of a link that leads in a circle, or where we may not look, is_dir raises OSError
        names = [n for n in sorted(os.listdir(self.path)) if os.path.isdir(self.path / n)]
        return [n for n in names if _can_be_set(n) and _holds_a_set(self.path / n)]

    def sets(self) -> list[BackupSet]:
        """All backup sets that can be read, by name; `survey` says which others there are."""
        return self.survey()[0]

    def survey(self) -> tuple[list[BackupSet], list[DamagedSet]]:
        """The backup sets that can be read and those that cannot, by name."""
        sets: list[BackupSet] = []
        damaged: list[DamagedSet] = []
        for name in self.names():
            try:
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
                    f"{self.path} holds {len(names)} backup sets{which}",
                    "Say which one." if names else "Back something up first.",
                    remedy=Remedy.NAME_SET if names else None,
                )
            return self.set(names[0])
        settings = self.settings(name)
        folder = self.path / name
        points, broken = _read_manifests(folder)
        hidden: list[RecoveryPoint] = []
        try:
            journal = Journal.load(folder) if self.interrupted(name) else None
        except FileNotFoundError:  # a merge has just ended: the points are others now
            return self.set(name)
        if journal:
            points, hidden = journal.offered(folder, points)
            known = (journal.parent.sequence, journal.child.sequence)
            broken = [each for each in broken if each.sequence not in known]
        points.sort(key=lambda point: point.sequence)
        return BackupSet(
            name, folder, settings, tuple(points), journal, tuple(hidden), tuple(broken)
        )

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
                    f"{self.path} has no backup set {name!r}.",
                    "Check its name.",
                    remedy=Remedy.LIST_POINTS,
                ) from None
            raise RepositoryError(
                f"{folder / SETTINGS} is missing.",
                "It can be rebuilt from the disks.",
                remedy=Remedy.REPAIR,
            ) from None
        except OSError as error:
            if not self.path.exists():  # not this set alone: the storage is gone
                raise
            raise from_os(error) from error

    def interrupted(self, name: str) -> bool:
        """Whether a merge was cut off in the set, or is running; no file is read."""
        return os.path.lexists(self.path / name / JOURNAL_NAME)

    def find(self, reference: str, set_name: str | None = None) -> tuple[BackupSet, RecoveryPoint]:
        """The point that `reference` means; raises PointNotFound if none or several answer to it.

        Args:
            reference: an id, the unique start of one (4 characters at least), a sequence number,
                or "latest": the newest that was captured, not promoted from a session.
            set_name: the set; may be None where there is only one.
        """
        backup_set = self.set(set_name)
        _check_not_broken(backup_set, reference)
        found = list(_matching(backup_set, reference))
        if len(found) == 1:
            return backup_set, found[0]
        merged = [p for p in backup_set.points if any(m.startswith(reference) for m in p.merged)]
        if not found and merged and len(reference) >= _SHORTEST_ID:
            raise PointNotFound(
                f"Recovery point {reference} was merged into point {merged[0].sequence}.",
                "Its moment is no longer kept; use that point.",
            )
        problem = "matches no" if not found else "matches more than one"
        raise PointNotFound(
            f"{reference!r} {problem} recovery point of {backup_set.name}.",
            "Give a sequence number, an id, or `latest`.",
            remedy=Remedy.LIST_POINTS,
        )

    def create_set(self, name: str, settings: SetSettings) -> BackupSet:
        """Make a new, empty set; raises RepositoryError where something else has that name."""
        folder = self.path / check_set_name(name)
        begun = folder.is_dir() and all(each.suffix == PARTIAL for each in folder.iterdir())
        if folder.exists() and not begun:
            raise RepositoryError(
                f"{self.path} holds something named {name!r} already.",
                "Start again, or choose another name.",
                remedy=Remedy.NAME_ANOTHER_SET,
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of_folder(folder)
        sync_folder(self.path)
        write_json(folder / SETTINGS, settings.to_json())
        return self.set(name)

    def save_settings(self, name: str, settings: SetSettings) -> None:
        """Replace a set's `set.json`; the caller holds the lock."""
        write_json(self.path / check_set_name(name) / SETTINGS, settings.to_json())

    def set_policy(self, name: str, policy: Policy) -> None:
        """Change what a set does by itself; takes the lock for a moment."""
        with self.lock(f"changing the policy of {name}"):
            self.save_settings(name, replace(self.set(name).settings, policy=policy))

    def remember_sequence(self, name: str, sequence: int) -> None:
        """Never give a number to another point; the caller holds the lock."""
        settings = self.set(name).settings
        highest = max(settings.last_sequence, sequence)
        self.save_settings(name, replace(settings, last_sequence=highest))

    def save_point(self, name: str, point: RecoveryPoint) -> None:
        """Write or replace a point's manifest; the caller holds the lock."""
        write_json(manifest_path(self.path / check_set_name(name), point), point.to_json())


def _other_parents(point: RecoveryPoint) -> Damaged:
    return Damaged(
        f"The parents inside {point.disk} are not those that the manifests name.",
        "A repair finds out which are right.",
        remedy=Remedy.REPAIR,
    )


def check_size(disk: DiskInfo, layer: RecoveryPoint) -> None:
    """Raise Damaged unless the disk in a layer's file has the size that was captured.

    No checksum guards the size that a VMDK, a VHDX or a QCOW2 says it has.
    """
    if disk.virtual_size != layer.virtual_size:
        now, then = sizes_apart(disk.virtual_size, layer.virtual_size)
        raise Damaged(
            f"{layer.disk} says that its disk has {now}; when it was captured, it had {then}.",
            "Put the original file back, or use a recovery point of another chain.",
        )


def manifest_path(folder: Path, point: RecoveryPoint) -> Path:
    """Where a point's manifest lies: beside its layer, "0001-full.vmdk" -> "0001-full.json"."""
    return folder / (Path(point.disk).stem + ".json")


def point_files(folder: Path, point: RecoveryPoint) -> tuple[Path, ...]:
    """Everything that belongs to a point, its manifest first: the rest counts only with that.

    The report of retargeting and the picture of a boot test need not be there.
    """
    names = (point.disk, point.overlay, point.digests, point.report, point.picture)
    return (manifest_path(folder, point), *(folder / name for name in names))


def check_set_name(name: str) -> str:
    """The name, if it can be a folder's; raises RepositoryError (it may be external text)."""
    if not _can_be_set(name):
        raise RepositoryError(
            f"{name!r} cannot be the name of a backup set.",
            "Use letters, digits, spaces and any of . _ + @ - , at most 100.",
        )
    return name


def _can_be_set(name: str) -> bool:
    valid = re.fullmatch(r"\w[\w .+@-]{0,99}", name) is not None and name == name.strip()
    valid &= not name.endswith(PARTIAL)  # a set in the making
    return valid and len(os.fsencode(name)) <= _LONGEST_NAME


def set_name_for(source_name: str) -> str:
    """A set's name made from a source's."""
    name = re.sub(r"[^\w.+@-]+", "-", source_name).lstrip("-.+@")
    return name.encode()[:80].decode(errors="ignore").rstrip("-.") or "disk"


def free_set_name(repository: Repository, source_name: str) -> str:
    """A source's name, with a number behind it if another source's set has it already."""
    base = set_name_for(source_name)
    name, number = base, 2
    while (repository.path / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


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
        return any(map(LAYER_NAME.match, os.listdir(folder)))
    except FileNotFoundError:  # it has just gone
        return False
    except OSError:  # a set that may not be read must not pass for none
        return folder.name != LOST_AND_FOUND  # root's alone


def _own(path: Path) -> Path:
    """The path of a file of ours, which need not be there; raises Obstructed."""
    with suppress(FileNotFoundError):
        check_regular(path)
    return path


def _read_manifests(folder: Path) -> tuple[list[RecoveryPoint], list[BrokenManifest]]:
    """The points of a set, and the manifests that are damaged; in no order."""
    points: dict[str, RecoveryPoint] = {}
    broken = []
    for name in sorted(os.listdir(folder)):
        match = _MANIFEST.fullmatch(name)
        if not match:
            continue
        try:
            point = _manifest(folder, name)
            if point.id in points:
                raise RepositoryError(
                    f"{folder / name} is damaged: {points[point.id].disk} has the same id.",
                    "It can be rebuilt from the disks.",
                    remedy=Remedy.REPAIR,
                )
            points[point.id] = point
        except FileNotFoundError:
            if not folder.exists():  # not this manifest alone: the storage is gone
                raise
        except (RepositoryError, OSError) as error:
            problem = from_os(error) if isinstance(error, OSError) else error
            refused = isinstance(error, PermissionError)
            broken.append(BrokenManifest(name, int(match[1]), problem, refused))
    return list(points.values()), broken


_known: dict[Path, tuple[bytes, RecoveryPoint]] = {}
"""Of each manifest that was read, its checksum and what it says.

A set is read afresh several times in each operation, and what its manifests say took more of the
time of a merge among 1,000 points than the merge. They are read each time, and understood once.
"""
_MOST_KNOWN = 20_000


def _manifest(folder: Path, name: str) -> RecoveryPoint:
    """A point from its manifest."""
    path = folder / name
    content = read_own(path)
    checksum = blake3(content).digest()
    known = _known.get(path)
    if known is not None and known[0] == checksum:
        return known[1]
    point = _understood(folder, name, content)
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[path] = checksum, point
    return point


def _understood(folder: Path, name: str, content: bytes) -> RecoveryPoint:
    """What a manifest says, which must not speak of another point's files."""
    point = RecoveryPoint.from_json(parse_json(folder / name, content), name)
    stem = name.removesuffix(".json")
    named = (Path(point.disk).stem, Path(point.digests).stem, Path(point.overlay).stem)
    if named != (stem, stem, stem.partition("-")[0] + "-overlay"):
        raise RepositoryError(
            f"{folder / name} is damaged: it names files of another point.",
            "It can be rebuilt from the disks.",
            remedy=Remedy.REPAIR,
        )
    return point
