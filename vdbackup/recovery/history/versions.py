"""The states that a file had over the points of a set.

A point in which nothing changed of what was read to find the file, nor of what the file consists
of, holds it as the point before: it is not read again.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import Ranges, as_ranges, union
from vdbackup.errors import GuestUnreadable, NotInPoint, Remedy, VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery.history import walk
from vdbackup.recovery.history.changes import NOTHING, Traced, touches
from vdbackup.recovery.history.disks import Moment, in_order
from vdbackup.recovery.history.unlocking import Unlocking, in_point
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Stat,
    Unreadable,
    read_at,
    reading,
)
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import on_disk
from vdbackup.volumes.volumes import Volumes

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Version:
    """A state of a file.

    Attributes:
        points: those that hold it so, by sequence, with none between them that holds it otherwise.
        stat: what is known of it; None where it is not there.
    """

    points: tuple[RecoveryPoint, ...]
    stat: Stat | None


@dataclass(frozen=True)
class Versions:
    """What has become of a file.

    Attributes:
        path: of it.
        versions: oldest first.
        read: how many points had to be read for that.
        warnings: which points could not be read, and why.
        is_locked: whether something was encrypted that no key has opened.
    """

    path: str
    versions: tuple[Version, ...]
    read: int
    warnings: tuple[str, ...]
    is_locked: bool = False


@dataclass(frozen=True, eq=False)
class _State:
    """A file in the last point that was read.

    Attributes:
        stat: None where it is not there.
        looked_at: what of the disk was read to find that out.
        lies: what of the disk it consists of; None where that cannot be told.
        cautions: why it may not be the newest.
    """

    stat: Stat | None
    looked_at: Ranges
    lies: Ranges | None
    cautions: tuple[str, ...]


def versions(
    repository: Repository, set_name: str, path: str, task: Task, keys: Keys | None = None
) -> Versions:
    """Each state of a file or folder in a set; `keys` are of what is encrypted.

    Raises:
        NotInPoint: no point has such a file. PointInUse: points are just being changed.
        WrongKey: no point was opened with the keys. Cancelled, RepositoryError.
    """
    clean = "/" + "/".join(name for name in path.split("/") if name)
    ids = [point.id for point in repository.set(set_name).points]
    doing = tr("looking for versions of {clean}", clean=printable(clean))
    with claims.reading(repository, set_name, ids, doing) as backup_set:
        search = _Search(backup_set, clean, keys or Keys())
        with closing(in_order(backup_set, backup_set.points)) as moments:
            for number, moment in enumerate(moments):
                task.check()
                task.phase(tr("Looking through points"), number, len(ids))
                search.look(moment)
    search.unlocking.check()
    is_locked = search.unlocking.is_locked
    if not search.versions and search.warnings:
        raise GuestUnreadable(
            search.warnings[0],
            tr("Boot the recovery point, or restore it, to get at what is in it."),
            remedy=Remedy.UNLOCK if is_locked else None,
        )
    if all(version.stat is None for version in search.versions):
        raise NotInPoint(
            tr(
                "There is no {clean} in any recovery point of {set_name}.",
                clean=printable(clean),
                set_name=set_name,
            ),
            tr("Search for its name, or list the folder above it."),
        )
    warnings = (*search.warnings, *search.cautions)
    return Versions(clean, tuple(search.versions), search.read, warnings, is_locked=is_locked)


class _Search:
    """What `Versions` says, as it is found."""

    def __init__(self, backup_set: BackupSet, path: str, keys: Keys) -> None:
        self.unlocking = Unlocking(keys)
        self.versions: list[Version] = []
        self.read = 0
        self.warnings: list[str] = []
        self.cautions: list[str] = []
        self._set, self._path = backup_set, path
        self._state: _State | None = None
        self._since: Ranges | None = None
        """What may have changed since that state was looked at; None where all may have."""

    def look(self, moment: Moment) -> None:
        number, disk = moment.point.sequence, moment.disk
        if disk is None:
            because = moment.problem.title if moment.problem else ""
            self.warnings.append(
                tr("Point {number} cannot be read: {because}", number=number, because=because)
            )
            return
        self._since = _both(self._since, moment.maybe)
        before = self._state
        if before is not None and self._is_untouched(before):
            self._since = NOTHING
            self._add(moment.point, before, is_new=False)
            return
        self.read += 1
        try:
            now = self._look(disk)
            is_new = before is None or self._is_another(before, now, disk)
        except VdbackupError as error:
            self.warnings += in_point(number, [error.title])
            return
        known = before.cautions if before else ()
        self.cautions += in_point(number, (each for each in now.cautions if each not in known))
        self._state, self._since = now, NOTHING
        self._add(moment.point, now, is_new=is_new)

    def _is_untouched(self, state: _State) -> bool:
        """Whether a file is certainly as it was: nothing that was read to say so has changed."""
        if self._since is None or state.lies is None:
            return False
        return not touches(state.looked_at, self._since) and not touches(state.lies, self._since)

    def _is_another(self, before: _State, now: _State, disk: Chain) -> bool:
        """Whether it is another state than that of the point before; its bytes say so at last."""
        if before.stat is None or now.stat is None:
            return before.stat is not now.stat
        if _known(before.stat) != _known(now.stat):
            return True
        if now.stat.kind is not Kind.FILE or self._lies_where_it_lay(before, now):
            return False
        earlier = self.versions[-1].points[-1]
        with closing(self._set.open_chain(earlier)) as other:
            try:
                return not self._has_same_bytes(other, disk)
            except GuestUnreadable:  # nobody can say
                return True

    def _look(self, disk: Chain) -> _State:
        return _look(disk, self._path, self.unlocking)

    def _has_same_bytes(self, one: Chain, other: Chain) -> bool:
        with reading(self._path):
            before, after = (self._content(each) for each in (one, other))
            return same_content(before, after)

    def _content(self, disk: Chain) -> Content:
        found = _find(self.unlocking.volumes(disk), self._path)
        if found is None:
            raise _missing(self._path)
        return found.node.content()

    def _lies_where_it_lay(self, before: _State, now: _State) -> bool:
        if self._since is None or before.lies is None or now.lies is None:
            return False
        same_place = np.array_equal(before.lies, now.lies)
        return same_place and not touches(now.lies, self._since)

    def _add(self, point: RecoveryPoint, state: _State, *, is_new: bool) -> None:
        if is_new:
            self.versions.append(Version((point,), state.stat))
        else:
            last = self.versions[-1]
            self.versions[-1] = Version((*last.points, point), last.stat)


def _both(since: Ranges | None, maybe: Ranges | None) -> Ranges | None:
    return None if since is None or maybe is None else union(since, maybe)


def _known(stat: Stat) -> tuple[object, ...]:
    """What makes a state another one: not when it was read, nor where it lies."""
    return stat.kind, stat.size, stat.modified, stat.mode, stat.owner, stat.device


def _look(disk: Chain, path: str, unlocking: Unlocking) -> _State:
    """Find a file; all that is read for it is noted."""
    traced = Traced(disk)
    volumes = unlocking.volumes(traced)
    found = _find(volumes, path)
    cautions = volumes.cautions([path])
    if found is None:
        return _State(None, traced.ranges, NOTHING, cautions)
    with reading(path):
        stat = found.stat
        try:
            own = sorted((first, last - first) for first, last in found.node.blocks())
        except Unreadable:  # it is read again in every point
            lies = None
        else:
            lies = on_disk(union(as_ranges(own), NOTHING), found.place.runs)
    if stat.kind is Kind.LINK:
        with reading(path):
            found.node.target()
    return _State(stat, traced.ranges, lies, cautions)


def _find(volumes: Volumes, path: str) -> walk.Found | None:
    warnings: list[str] = []
    for found in walk.files(volumes, Task(), warnings, path):
        return found if found.path == path else None
    if warnings:  # nobody can say that it is not there
        raise GuestUnreadable(warnings[0], "")
    return None


def _missing(path: str) -> NotInPoint:
    return NotInPoint(tr("There is no {path} in this recovery point.", path=printable(path)), "")


def same_content(one: Content, other: Content) -> bool:
    """Whether two files hold the same bytes; holes are zeros."""
    if one.size != other.size:
        return False
    stretches = union(
        as_ranges([(first, last - first) for first, last in one.ranges]),
        as_ranges([(first, last - first) for first, last in other.ranges]),
    )
    return all(
        read_at(one, offset, _AT_ONCE) == read_at(other, offset, _AT_ONCE)
        for start, length in stretches.tolist()
        for offset in range(start, start + length, _AT_ONCE)
    )
