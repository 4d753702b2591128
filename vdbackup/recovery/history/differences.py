"""Which files differ between two points, and in what.

Blocks that differ say it (changes.py): of a file whose own blocks are the same, and lie where they
lay, the bytes are the same and are not read. Others are compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vdbackup.disks.extents import Ranges, as_ranges, total, union
from vdbackup.errors import GuestUnreadable, NotInPoint, RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery.history import walk
from vdbackup.recovery.history.changes import NOTHING, Counter, differing, not_shared
from vdbackup.recovery.history.unlocking import Unlocking, in_point
from vdbackup.recovery.history.versions import same_content
from vdbackup.repository import claims
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.text import printable
from vdbackup.translation import marked, tr
from vdbackup.volumes.filesystems.node import Kind, Unreadable, reading
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import on_disk


class What(StrEnum):
    """What of a file is another."""

    NEW = marked("new")
    GONE = marked("gone")
    KIND = marked("kind")
    CONTENT = marked("content")
    TARGET = marked("target")
    TIME = marked("time")
    PERMISSIONS = marked("permissions")
    OWNER = marked("owner")


@dataclass(frozen=True)
class Difference:
    """A path that does not mean the same in both points.

    Attributes:
        path: in both.
        what: of it is another; NEW or GONE stands alone.
        kind: what it is in the later point, or was.
        sizes: in bytes, before and after; None where it is not there.
        changed: bytes of it that lie in blocks which differ.
    """

    path: str
    what: tuple[What, ...]
    kind: Kind
    sizes: tuple[int | None, int | None]
    changed: int


@dataclass(frozen=True)
class Differences:
    """What lies between two points.

    Attributes:
        before, after: the points.
        changed: bytes of the disk that differ, whoever they belong to.
        files: by path.
        warnings: what could not be looked through.
        is_locked: whether something was encrypted that no key has opened.
    """

    before: RecoveryPoint
    after: RecoveryPoint
    changed: int
    files: tuple[Difference, ...]
    warnings: tuple[str, ...]
    is_locked: bool = False


def differences(
    repository: Repository,
    set_name: str,
    ids: tuple[str, str],
    below: str,
    task: Task,
    keys: Keys | None = None,
) -> Differences:
    """What differs between two points, in a folder and all that is in it.

    Raises:
        NotInPoint: neither has such a folder. PointInUse, PointNotFound, DiskError, Cancelled.
        WrongKey: neither was opened with the keys, which are of what is encrypted.
        RecoveryError: a partition table is damaged.
    """
    doing = tr("comparing two points")
    with claims.reading(repository, set_name, ids, doing) as backup_set, ExitStack() as opened:
        before, after = (backup_set.point(each) for each in ids)
        one, other = (opened.enter_context(backup_set.open_chain(each)) for each in (before, after))
        changed = differing(one, other, not_shared(one, other), task)
        counter = Counter(changed)
        warnings: list[str] = []
        unlocking = Unlocking(keys or Keys())
        both = [unlocking.volumes(each) for each in (one, other)]
        unlocking.check()
        old, new = (
            {each.path: each for each in walk.files(volumes, task, warnings, below)}
            for volumes in both
        )
        if not old and not new and not warnings:
            raise NotInPoint(
                tr("There is no {below} in either recovery point.", below=printable(below)), ""
            )
        for point, volumes in zip((before, after), both, strict=True):
            warnings += in_point(point.sequence, volumes.cautions([below]))
        found = []
        paths = sorted(old.keys() | new.keys())
        for number, path in enumerate(paths):
            task.check()
            task.phase(tr("Comparing files"), number, len(paths))
            difference = _difference(old.get(path), new.get(path), counter, warnings)
            if difference is not None:
                found.append(difference)
    warned = tuple(dict.fromkeys(warnings))
    return Differences(
        before, after, total(changed), tuple(found), warned, is_locked=unlocking.is_locked
    )


def _difference(
    old: walk.Found | None, new: walk.Found | None, changed: Counter, warnings: list[str]
) -> Difference | None:
    if old is None or new is None:
        return _new_or_gone(old, new, changed)
    try:
        what = tuple(_what(old, new, changed))
        bytes_ = _touched(new, changed) if what else 0
    except RecoveryError as error:
        warnings.append(error.title)
        return None
    if not what:
        return None
    sizes = old.stat.size, new.stat.size
    return Difference(new.path, what, new.stat.kind, sizes, bytes_)


def _new_or_gone(
    old: walk.Found | None, new: walk.Found | None, changed: Counter
) -> Difference | None:
    if new is not None:
        sizes = None, new.stat.size
        with suppress(RecoveryError):
            return Difference(new.path, (What.NEW,), new.stat.kind, sizes, _touched(new, changed))
        return Difference(new.path, (What.NEW,), new.stat.kind, sizes, 0)
    if old is not None:
        return Difference(old.path, (What.GONE,), old.stat.kind, (old.stat.size, None), 0)
    return None


def _what(old: walk.Found, new: walk.Found, changed: Counter) -> Iterator[What]:
    before, after = old.stat, new.stat
    if (before.kind, before.type, before.device) != (after.kind, after.type, after.device):
        yield What.KIND
        return
    if after.kind is Kind.FILE and _has_other_bytes(old, new, changed):
        yield What.CONTENT
    if after.kind is Kind.LINK:
        with reading(new.path):
            if old.node.target() != new.node.target():
                yield What.TARGET
    if before.modified != after.modified and after.kind is not Kind.FOLDER:
        yield What.TIME  # a folder's is that of what is in it
    if before.mode != after.mode:
        yield What.PERMISSIONS
    if before.owner != after.owner:
        yield What.OWNER


def _has_other_bytes(old: walk.Found, new: walk.Found, changed: Counter) -> bool:
    if old.stat.size != new.stat.size:
        return True
    before, after = _lies(old), _lies(new)
    if before is not None and after is not None and np.array_equal(before, after):
        lies_there = len(after) or _is_all_hole(new)  # and not in the file system's own structures
        if lies_there and not _bytes_in(after, changed):
            return False
    with reading(new.path):
        try:
            return not same_content(old.node.content(), new.node.content())
        except Unreadable as error:
            raise GuestUnreadable(
                tr("{new} cannot be compared: {error}.", new=printable(new.path), error=error), ""
            ) from error


def _is_all_hole(found: walk.Found) -> bool:
    """Whether a file without blocks is none but a hole: small ones lie in the file's record."""
    with reading(found.path):
        return not found.node.content().ranges


def _lies(found: walk.Found) -> Ranges | None:
    """Where a file lies on the disk; None where that cannot be told."""
    with reading(found.path):
        try:
            own = as_ranges([(start, end - start) for start, end in sorted(found.node.blocks())])
        except Unreadable:
            return None
    return on_disk(union(own, NOTHING), found.place.runs)


def _touched(found: walk.Found, changed: Counter) -> int:
    lies = _lies(found)
    return 0 if lies is None else _bytes_in(lies, changed)


def _bytes_in(lies: Ranges, changed: Counter) -> int:
    return int(changed.bytes_in(lies[:, 0], lies[:, 0] + lies[:, 1]).sum())
