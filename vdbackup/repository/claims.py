"""Claims: whoever reads a recovery point says so, and whoever changes layers asks first.

Claims are locks on bytes of the set's folder, one byte for each layer's number: they name no file,
cost one descriptor however long the chain is, need no right to write, so that they work on storage
that is read-only or full, and the kernel drops them with their process. Two kinds of bytes, and the
order in which they are taken, make one of two that come at once see the other (as QEMU does it,
block/file-posix.c; a folder cannot be locked exclusively):

- A reader takes the bytes of all the layers that it reads through, then looks whether somebody
  changes one of them, then looks again what there is: its files may have other names by now.
- Who changes layers takes their other bytes, and keeps them until the last file has its new name,
  then looks whether somebody reads. Readers that come later wait, or are refused.

Whoever holds the repository for writing (lock.py) needs no claim to read. Locks on a folder are
this computer's own on every file system, NFS and SMB included. (Open-file-description locks,
fcntl(2): others go as soon as the process closes the folder anywhere.) Other computers see a claim
by a file, in the same order: made first, then looked for the other kind (claim_files.py).

Programs that know nothing of this are looked for as well: QEMU by its own locks, and whoever else
has the files open (disks/holders.py).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

from vdbackup.disks import qemu_locks
from vdbackup.disks.chain import Chain
from vdbackup.disks.holders import holders, named
from vdbackup.errors import PointInUse
from vdbackup.jobs import CancelToken
from vdbackup.repository import naming
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.claim_files import Announcement, Kind, announced, claimed, sweep
from vdbackup.repository.lock import also_checked
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import point_of
from vdbackup.translation import tr

log = logging.getLogger(__name__)

GIVE_WAY = 5.0
"""Seconds that what is short gets to end, and a boot test, which gives way to whoever holds the
repository (recovery/boot_test/boot_test.py)."""
_LOOK = 0.1
"""Seconds between two looks whether what is in the way still is."""
_WAIT = tr("Wait until that is done, or end it, then try again.")
_READ, _CHANGED = 1 << 60, 1 << 61
"""First bytes of the two kinds, far from what anybody else locks."""
_NUMBERS = 1 << 59
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, pid (fcntl(2))."""
_LOCK_LINE = re.compile(r"lock:.*\sREAD\s.*\s(\d+)\s+(\d+)$")
"""A lock in /proc/<pid>/fdinfo (proc(5)): its first and its last byte stand at the end."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_claims: list[_Claim] = []
"""What this process has, so that it can say what for."""


# ------------------------------------------------------------------------------------- to claim


@contextmanager
def reading(
    repository: Repository, set_name: str, point_ids: Iterable[str], doing: str
) -> Iterator[BackupSet]:
    """Let nobody change what the points are read from; gives the set as it is since then.

    Args:
        repository: where they are.
        set_name: the set.
        point_ids: what is read. One that is not there any more is no error of this function's.
        doing: what the reader does, in words ("restoring point 3").

    Raises:
        PointInUse: somebody is changing the layers, or the point is going for good; at the end if
            another computer has changed them because it could not see that they were read.
        PointNotFound, RepositoryError: as `Repository.set`.
    """
    wanted = tuple(point_ids)
    until = time.monotonic() + GIVE_WAY
    backup_set = repository.set(set_name)
    while True:
        before = _layers(backup_set, wanted)
        numbers, folder = _numbers(before), backup_set.folder
        with (
            _Claim(folder, _READ, numbers, doing) as claim,
            announced(folder, Kind.READING, numbers, doing) as announcement,
        ):
            # what is read of the set meanwhile takes long: who changes it must not see us wait
            changed = claim.locked_by_others(_CHANGED) or claimed(folder, Kind.CHANGING, numbers)
            if not changed:
                backup_set = repository.set(set_name)
                if _files(_layers(backup_set, wanted)) == _files(before):
                    _check_stays(backup_set, wanted)
                    yield backup_set
                    if announcement.was_unseen():
                        _check_unchanged(backup_set, repository.set(set_name), wanted)
                    return
        if time.monotonic() > until:
            raise _being_changed(backup_set, before)
        time.sleep(_LOOK)
        backup_set = repository.set(set_name)


@contextmanager
def open_point(repository: Repository, set_name: str, point_id: str, doing: str) -> Iterator[Chain]:
    """A point's disk, claimed as by `reading`; raises also what `BackupSet.open_chain` does."""
    with (
        reading(repository, set_name, [point_id], doing) as backup_set,
        backup_set.open_chain(backup_set.point(point_id)) as chain,
    ):
        yield chain


@contextmanager
def changing(
    backup_set: BackupSet,
    points: Sequence[RecoveryPoint],
    cancel: CancelToken,
    patience: float | None = None,
) -> Iterator[None]:
    """Let nobody begin to read the points' layers; the caller holds the repository for writing.

    Raises PointInUse, as `check_unused` does, where somebody goes on using one. So do meanwhile the
    cancel token and whatever changes files there (`check_lock`), if this computer slept so long
    that another one has passed our claim over and begun to read.
    """
    numbers = [point.sequence for point in points]
    with (
        _Claim(backup_set.folder, _CHANGED, numbers, tr("changing it")),
        announced(backup_set.folder, Kind.CHANGING, numbers, tr("changing it")) as announcement,
    ):
        check_unused(backup_set, points, cancel, patience)
        look_again = partial(_check_unread_meanwhile, announcement, backup_set, points)
        with also_checked(backup_set.folder, look_again), cancel.also(look_again):
            yield


def _check_unread_meanwhile(
    announcement: Announcement, backup_set: BackupSet, points: Sequence[RecoveryPoint]
) -> None:
    """Raise PointInUse where another computer reads what we change, because it did not see us.

    On this computer the kernel keeps our claim, however long we sleep.
    """
    if not announcement.may_be_unseen:
        return
    announcement.show_again()  # first: who comes later sees it
    numbers = [point.sequence for point in points]
    if (seen := claimed(backup_set.folder, Kind.READING, numbers)) is not None:
        raise PointInUse(
            tr(
                "Point {seen} is in use: {seen_2}, which began while this computer slept or was "
                "cut off from the storage.",
                seen=seen[0],
                seen_2=seen[1],
            ),
            _WAIT,
            cleared=lambda: claimed(backup_set.folder, Kind.READING, numbers) is None,
        )


def _layers(backup_set: BackupSet, point_ids: Iterable[str]) -> list[RecoveryPoint]:
    """What the points read through, by sequence; of a chain that is broken what there is."""
    by_id = {point.id: point for point in (*backup_set.points, *backup_set.hidden)}
    layers: dict[str, RecoveryPoint] = {}
    for wanted in map(point_of, point_ids):
        point = by_id.get(wanted)
        while point is not None and point.id not in layers:
            layers[point.id] = point
            point = by_id.get(point.parent or "")
    return sorted(layers.values(), key=lambda point: point.sequence)


def _numbers(points: Iterable[RecoveryPoint]) -> list[int]:
    return [point.sequence for point in points]


def _files(points: Iterable[RecoveryPoint]) -> list[tuple[str, str]]:
    return [(point.id, point.disk) for point in points]


def _check_stays(backup_set: BackupSet, point_ids: Collection[str]) -> None:
    """Raise PointInUse for a point that a merge, which was cut off, has partly written over."""
    wanted = set(map(point_of, point_ids))
    for point in backup_set.hidden:
        if point.id in wanted:
            raise PointInUse(
                tr(
                    "Point {point} is not to be had: a merge that takes it has begun.",
                    point=point.sequence,
                ),
                tr("Use a later point."),
            )


def _check_unchanged(before: BackupSet, now: BackupSet, wanted: Collection[str]) -> None:
    """Raise PointInUse where the points are not read any more from what they were read from."""
    layers = _layers(before, wanted)
    begun = now.journal and {now.journal.parent.id, now.journal.child.id}
    concerned = begun and before.journal is None and not begun.isdisjoint(p.id for p in layers)
    if concerned or _files(_layers(now, wanted)) != _files(layers):
        raise PointInUse(
            tr(
                "{before} was changed by another computer while it was read here: what was read "
                "is not to be trusted.",
                before=before.name,
            ),
            tr(
                "Do it again. Other computers see who reads where this one may write to the "
                "backups, unless it sleeps meanwhile."
            ),
        )


def _being_changed(backup_set: BackupSet, layers: Sequence[RecoveryPoint]) -> PointInUse:
    folder, numbers = backup_set.folder, _numbers(layers)

    def changer() -> str:
        seen = claimed(folder, Kind.CHANGING, numbers)
        return _claimed_by(folder, _CHANGED, numbers) or (seen[1] if seen else "")

    return PointInUse(
        tr(
            "{backup_set} is just being changed: {changer}.",
            backup_set=backup_set.name,
            changer=changer() or tr("another program is changing it"),
        ),
        tr("Try again when that is done."),
        cleared=lambda: not changer(),
    )


class _Claim:
    """Locks of one kind on the bytes of these layers, while the context lasts."""

    def __init__(self, folder: Path, kind: int, numbers: Iterable[int], doing: str) -> None:
        self.folder, self.kind, self.doing = folder, kind, doing
        self.numbers = sorted({number % _NUMBERS for number in numbers})
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = _opened(self.folder)
        self._where = os.fstat(self._fd)
        try:
            for first, count in _runs(self.numbers):
                _lock(self._fd, self.kind + first, count)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(self._fd)
                raise
            log.warning("%s: who reads there cannot be seen: %s", self.folder, error)
        _claims.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _claims.remove(self)
        os.close(self._fd)

    def locked_by_others(self, kind: int) -> bool:
        """Whether somebody has a claim of that kind on one of the same layers."""
        return any(_is_locked(self._fd, kind + at, count) for at, count in _runs(self.numbers))

    def means(self, folder: Path, kind: int, numbers: Collection[int]) -> bool:
        """Whether it is what was asked for."""
        same = self.kind == kind and not set(self.numbers).isdisjoint(numbers)
        return same and os.path.samestat(self._where, os.stat(folder))


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, how many): neighbours are one lock."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def _lock(fd: int, first: int, count: int) -> None:
    request = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, first, count, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)


def _is_locked(fd: int, first: int, count: int) -> bool:
    """Whether anybody has locked one of the bytes, by another opening of the folder than `fd`."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    try:
        kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question))[0]
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return kind != fcntl.F_UNLCK


# ---------------------------------------------------------------------------------------- to ask


def check_unused(
    backup_set: BackupSet,
    points: Sequence[RecoveryPoint],
    cancel: CancelToken,
    patience: float | None = None,
) -> None:
    """Raise PointInUse, which names who it is, where somebody uses one of the points.

    What is short gets `patience` seconds to end, GIVE_WAY if that is None. The caller holds the
    repository for writing: what readers elsewhere left behind goes.
    """
    sweep(backup_set.folder)
    until = time.monotonic() + (GIVE_WAY if patience is None else patience)
    while (error := in_use(backup_set, points)) is not None:
        if time.monotonic() > until:
            raise error
        cancel.wait(_LOOK)


def in_use(backup_set: BackupSet, points: Sequence[RecoveryPoint]) -> PointInUse | None:
    """Who reads one of the points' layers, or has it open, at this moment; None if nobody does."""

    def error(point: RecoveryPoint, who: str, advice: str) -> PointInUse:
        return PointInUse(
            tr("Point {point} is in use: {who}.", point=point.sequence, who=who),
            advice,
            cleared=lambda: in_use(backup_set, points) is None,
        )

    if reader := reader_of(backup_set, points):
        return error(*reader, _WAIT)
    files = {backup_set.disk_path(point): point for point in points}
    for path, point in files.items():
        if path.exists() and qemu_locks.is_open(path):
            who = named(holders([path]))
            machine = tr("a virtual machine is running from it or from a later one")
            return error(point, f"{machine}: {who}" if who else machine, tr("Shut it down first."))
    files |= {backup_set.overlay_path(point): point for point in points}
    if opened := holders(files):
        first = files[opened[0].path]
        who = named(each for each in opened if files[each.path] is first)
        return error(first, tr("{who} has it open", who=who), tr("Close it there, then try again."))
    return None


def reader_of(
    backup_set: BackupSet, points: Iterable[RecoveryPoint]
) -> tuple[RecoveryPoint, str] | None:
    """Which of the points is read, and by whom, here or on another computer; None if none is.

    Asked of claims alone, which costs next to nothing: plans say it.
    """
    by_number = {point.sequence: point for point in points}
    for number, point in by_number.items():
        if who := _claimed_by(backup_set.folder, _READ, [number]):
            return point, who
    seen = claimed(backup_set.folder, Kind.READING, by_number.keys())
    return (by_number[seen[0]], seen[1]) if seen else None


def hindrance(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> str:
    """Who reads one of the points, in words, as a plan says it; "" if nobody does."""
    reader = reader_of(backup_set, points)
    return (
        tr(
            "Point {reader} is in use: {reader_2}. {wait}",
            reader=reader[0].sequence,
            reader_2=reader[1],
            wait=_WAIT,
        )
        if reader
        else ""
    )


def who_keeps(path: Path) -> str:
    """The same as `who_has`, of who still does when what is short has ended."""
    until = time.monotonic() + GIVE_WAY
    while (who := who_has(path)) and time.monotonic() < until:
        time.sleep(_LOOK)
    return who


def who_has(path: Path) -> str:
    """Who reads a layer, or has a file of a set or a session open, in words; "" if nobody."""
    layer = naming.layer_of(path.name)
    if layer and (who := _claimed_by(path.parent, _READ, [layer.sequence])):
        return who
    if layer and (seen := claimed(path.parent, Kind.READING, [layer.sequence])):
        return seen[1]
    if opened := holders([path]):
        return tr("{opened} has it open", opened=named(opened))
    return tr("a virtual machine") if path.exists() and qemu_locks.is_open(path) else ""


def _claimed_by(folder: Path, kind: int, numbers: Collection[int]) -> str:
    """Who has a claim on one of the layers, and what for, as far as that can be seen; or ""."""
    asked = sorted({number % _NUMBERS for number in numbers})
    fd = _opened(folder)
    try:
        taken = [run for run in _runs(asked) if _is_locked(fd, kind + run[0], run[1])]
    finally:
        os.close(fd)
    if not taken:
        return ""
    for claim in _claims.copy():
        if claim.means(folder, kind, asked):
            return tr("this program is {doing}", doing=claim.doing)
    for holder in holders([folder]):
        if holder.pid is not None and _has_claim(holder.pid, folder, kind, taken):
            return (
                tr("{holder} is reading it", holder=holder)
                if kind == _READ
                else tr("{holder} is changing it", holder=holder)
            )
    return (
        tr("another program is reading it")
        if kind == _READ
        else tr("another program is changing it")
    )


def _has_claim(pid: int, folder: Path, kind: int, taken: Sequence[tuple[int, int]]) -> bool:
    """Whether the process has one of these runs of bytes, as its descriptors tell."""
    wanted = os.stat(folder)
    for number in _descriptors(pid):
        with suppress(OSError):  # closed meanwhile
            if not os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), wanted):
                continue
            for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
                match = _LOCK_LINE.match(line)
                first, last = (int(match[1]) - kind, int(match[2]) - kind) if match else (-1, -1)
                if any(first < at + count and at <= last for at, count in taken):
                    return True
    return False


def _descriptors(pid: int) -> list[str]:
    with suppress(OSError):  # it has ended
        return os.listdir(f"/proc/{pid}/fd")
    return []
