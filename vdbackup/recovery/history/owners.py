"""Whose the bytes of a disk are that differ: files', by their maps of blocks, or nobody's.

"Why is this point so large?" is answered by it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Int64s, Ranges, as_ranges, overlap, total, union, without
from vdbackup.errors import NotInPoint, RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery.file_sets.choices import choice_now
from vdbackup.recovery.history import leaving_out, walk
from vdbackup.recovery.history.changes import NOTHING, Counter, differing, not_shared
from vdbackup.recovery.history.leaving_out import Needless
from vdbackup.recovery.history.unlocking import Unlocking
from vdbackup.repository import claims
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes import allocation
from vdbackup.volumes.filesystems.node import Kind, Unreadable, reading
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import on_disk
from vdbackup.volumes.volumes import Volumes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """How many of the bytes that differ are one's.

    Attributes:
        path: of a file or folder; of a folder, all that is in it is counted.
        kind: which of them it is.
        bytes: in units of 4 KiB.
    """

    path: str
    kind: Kind
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """What a point consists of, against the one that it goes on from.

    Attributes:
        point: the recovery point.
        before: the one that it is compared with; None where it stands for itself, as a full does.
        stored: bytes that its layer holds.
        changed: bytes that differ.
        shares: of files and folders, the largest first.
        others: what is no file's, in words, and how many bytes each.
        warnings: what could not be looked through.
        is_locked: whether something is encrypted that no key has opened.
        needless: what need not be kept the next time.
        choice: which files the set is of by now; None where it is of a disk.
    """

    point: RecoveryPoint
    before: RecoveryPoint | None
    stored: int
    changed: int
    shares: tuple[Share, ...]
    others: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...]
    is_locked: bool = False
    needless: tuple[Needless, ...] = ()
    choice: Choice | None = None


def sizes(
    repository: Repository,
    set_name: str,
    point_id: str,
    below: str,
    task: Task,
    keys: Keys | None = None,
) -> Sizes:
    """Why a point is as large as it is, by folder and file.

    Args:
        repository: where it is.
        set_name: its set.
        point_id: the point.
        below: a folder; only what is in it is listed. "/" for all.
        task: what it reports to, and what stops it.
        keys: of what is encrypted.

    Raises:
        WrongKey: nothing was opened with the keys.
        NotInPoint: there is no such folder. PointInUse, PointNotFound, DiskError, Cancelled.
        RecoveryError: the partition table is damaged.
    """
    doing = tr("finding out why point {point_id} is so large", point_id=point_id[:8])
    wanted = [point_id, *_parent_of(repository, set_name, point_id)]
    with claims.reading(repository, set_name, wanted, doing) as backup_set:
        point = backup_set.point(point_id)
        before = backup_set.point(point.parent) if point.parent is not None else None
        with backup_set.open_chain(point) as disk:
            if before is None:
                changed = union(disk.stored(disk.map.data_ranges()), NOTHING)
            else:
                with backup_set.open_chain(before) as other:
                    changed = differing(other, disk, not_shared(other, disk), task)
            owned = Owned.of(disk, changed, below, task, Unlocking(keys or Keys()))
        choice = choice_now(backup_set.settings)
    return Sizes(
        point,
        before,
        point.stored_bytes,
        total(changed),
        owned.shares,
        owned.others,
        tuple(owned.warnings),
        is_locked=owned.is_locked,
        needless=leaving_out.needless(owned.shares, owned.volumes, owned.tagged, choice),
        choice=choice,
    )


def _parent_of(repository: Repository, set_name: str, point_id: str) -> list[str]:
    parent = repository.set(set_name).point(point_id).parent
    return [parent] if parent is not None else []


@dataclass
class _Pieces:
    """Where files lie on the disk, a row for each stretch."""

    owners: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def bytes_in(self, changed: Ranges, count: int) -> Int64s:
        """Of each of so many owners: the bytes that changed."""
        starts, ends = np.array(self.starts, np.int64), np.array(self.ends, np.int64)
        here = Counter(changed).bytes_in(starts, ends)
        sums = np.zeros(count, np.int64)
        np.add.at(sums, np.array(self.owners, np.int64), here)
        return sums

    @property
    def ranges(self) -> Ranges:
        """All of them."""
        pairs = [(start, end - start) for start, end in zip(self.starts, self.ends, strict=True)]
        return union(as_ranges(pairs), NOTHING)


@dataclass
class Owned:
    """Whose the ranges are.

    Attributes:
        shares: of files and folders, the largest first.
        others: what is no file's, and how many bytes.
        warnings: what could not be looked through.
        is_locked: whether something is encrypted that no key has opened.
        volumes: names of the disk's volumes.
        tagged: folders that are marked as caches.
    """

    shares: tuple[Share, ...]
    others: tuple[tuple[str, int], ...]
    warnings: list[str]
    is_locked: bool
    volumes: AbstractSet[str]
    tagged: AbstractSet[str]

    @classmethod
    def of(
        cls, disk: Chain, changed: Ranges, below: str, task: Task, unlocking: Unlocking
    ) -> Owned:
        """Find the owners of ranges of a disk; a file of several names is counted by the first."""
        warnings: list[str] = []
        volumes = unlocking.volumes(disk)
        unlocking.check()
        found: list[tuple[str, Kind]] = []
        warnings += volumes.cautions([below])
        pieces = _Pieces()
        seen: set[tuple[str, int]] = set()
        tagged: set[str] = set()
        for each in walk.files(volumes, task, warnings):
            task.phase(tr("Looking whose that is"), 0, 0)
            found.append((each.path, each.stat.kind))
            if leaving_out.is_tag(each):
                tagged.add(each.path.rpartition("/")[0] or "/")
            if each.stat.inode is not None and each.stat.links > 1:
                if (key := (each.place.name, each.stat.inode)) in seen:
                    continue
                seen.add(key)
            for start, end in _blocks(each, warnings):
                pieces.owners.append(len(found) - 1)
                pieces.starts.append(start)
                pieces.ends.append(end)
        sums = pieces.bytes_in(changed, len(found))
        shares = _by_folder(found, sums, below)
        if below.strip("/") and not shares and not any(path == _clean(below) for path, _ in found):
            raise NotInPoint(
                tr("There is no {below} in this recovery point.", below=printable(below)), ""
            )
        nobodys = without(changed, pieces.ranges)
        others = tuple(_others(disk, volumes, nobodys))
        names = frozenset(volumes.by_name)
        return cls(shares, others, warnings, unlocking.is_locked, names, tagged)


def _clean(path: str) -> str:
    return "/" + "/".join(name for name in path.split("/") if name)


def _blocks(found: walk.Found, warnings: list[str]) -> Iterable[tuple[int, int]]:
    """Where a file lies on the disk, in bytes."""
    try:
        with reading(found.path):
            own = found.node.blocks()
    except RecoveryError as error:
        warnings.append(error.title)
        return []
    runs = found.place.runs
    if len(runs) == 1:
        base = runs[0][0]
        return [(base + start, base + end) for start, end in own]
    stretches = union(as_ranges([(start, end - start) for start, end in sorted(own)]), NOTHING)
    return [(start, start + length) for start, length in on_disk(stretches, runs).tolist()]


def _by_folder(found: list[tuple[str, Kind]], sums: Int64s, below: str) -> tuple[Share, ...]:
    """What each file and folder comes to, those without a share left out."""
    kinds = dict(found)
    bytes_of: dict[str, int] = {}
    for (path, _), own in zip(found, sums.tolist(), strict=True):
        while own:
            bytes_of[path] = bytes_of.get(path, 0) + own
            if path == "/":
                break
            path = path.rpartition("/")[0] or "/"  # noqa: PLW2901 - up to the topmost folder
    above = _clean(below).rstrip("/") + "/"
    shares = [
        Share(path, kinds.get(path, Kind.FOLDER), size)
        for path, size in bytes_of.items()
        if path.startswith(above) and path != "/"
    ]
    return tuple(sorted(shares, key=lambda share: (-share.bytes, share.path)))


def _others(disk: Chain, volumes: Volumes, rest: Ranges) -> Iterable[tuple[str, int]]:
    """What is no file's, by where it lies."""
    free = _free(disk, volumes)
    opened = [volumes.open(name)[0] for name in volumes.by_name]
    for volume in sorted(opened, key=lambda each: bool(each.problem)):  # what others lie in, last
        name = volume.name
        here = overlap(rest, union(as_ranges(list(volumes.runs(name))), NOTHING))
        rest = without(rest, here)
        of = name or tr("the disk")
        if volume.problem:
            yield (
                tr(
                    "{of}, which cannot be looked into ({filesystem})",
                    of=of,
                    filesystem=volume.filesystem or tr("unknown"),
                ),
                total(here),
            )
            continue
        yield tr("free space of {of}, as far as that is known", of=of), total(overlap(here, free))
        yield (
            tr(
                "what {filesystem} keeps for itself on {of}: its tables, its journal",
                filesystem=volume.filesystem,
                of=of,
            ),
            total(without(here, free)),
        )
    yield tr("outside of all volumes"), total(rest)


def _free(disk: Chain, volumes: Volumes) -> Ranges:
    """What no file system of the disk uses, or of what is encrypted on it."""
    found = NOTHING
    for each, runs in ((disk, ((0, disk.size),)), *volumes.unlocked):
        with contextlib.suppress(RecoveryError, Unreadable):
            free = allocation.left_out(each, allocation.MountedAreas()).ranges
            found = union(found, on_disk(free, runs))
    return found
