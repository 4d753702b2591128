"""Files that lie ready in a folder of ours take the places where they belong, one by one.

Both folders are walked by what is open, and no link is followed. What may not be changed there, or
was changed by somebody meanwhile, stays, and is named at the end; the others go on.
"""

from __future__ import annotations

import errno
import os
import stat as posix
from dataclasses import dataclass

from vdbackup.jobs import Task
from vdbackup.recovery import homes
from vdbackup.recovery.beside import FOLDER
from vdbackup.recovery.file_sets.outlook import Named, names_in
from vdbackup.recovery.file_sets.seen import Seen
from vdbackup.recovery.metadata import Giver
from vdbackup.recovery.rights import RightsLater
from vdbackup.sources.file_sets.places import joined
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Kind, Stat

_CHANGED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT)
"""What is said where somebody put something else there since it was looked at."""
_REFUSED = (errno.EPERM, errno.EACCES, errno.EBUSY, errno.ETXTBSY)
"""What is said of a file or folder that may not be changed, or is in use."""
_NO_SECOND_NAME = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass
class _Folder:
    """A folder that is there and gets what is in ours; the last one's source alone is open."""

    target: int
    path: bytes
    todo: list[bytes]


class TakingPlaces:
    """Gives files that lie ready their names.

    Args:
        seen: what was there when it was planned: only that may be replaced.
        overwrites: whether it may at all.

    Attributes:
        files: how many took their places, folders left out.
        same: how many were there as they are in the point, by size and time.
        elsewhere: folders that are there and lie in another subvolume; what belongs into them has
            to be made in them. They are forgotten when asked for.
    """

    def __init__(self, seen: Seen, task: Task, *, overwrites: bool) -> None:
        self._seen, self._overwrites, self._task = seen, overwrites, task
        self._mounted = homes.mount_points()
        self._stays, self._came, self._blocked = Named(), Named(), Named()
        self._refused = Named()
        self._lost = Giver()
        self._elsewhere: list[bytes] = []
        self.files = self.same = 0

    @property
    def sentences(self) -> list[str]:
        """What was not put back, a sentence for each kind."""
        said = {
            tr("Something is there already under these names, and stays"): self._stays,
            tr("These have come or changed since it was planned, and stay"): self._came,
            tr("These stay, as a folder stands where a file was, or the other way round"): (
                self._blocked
            ),
            tr("These could not be made there"): self._refused,
        }
        named = [f"{what}: {names_in(found)}." for what, found in said.items() if found.count]
        return [*named, *self._lost.warnings()]

    def elsewhere(self) -> list[bytes]:
        """Folders in other subvolumes that were met since this was asked last."""
        found, self._elsewhere = self._elsewhere, []
        return found

    def leaves(self, own: bytes, stat: Stat, there: os.stat_result) -> bool:
        """Whether what is there stays as it is, so that the point's need not even be copied."""
        if posix.S_ISDIR(there.st_mode):
            self._blocked.note(own)
        elif looks_same(stat, there):
            self.same += 1
        else:
            return self._stays_there(own, there)
        return True

    def move(self, ready: int, folder: int, path: bytes, rights: RightsLater) -> None:
        """What lies in one open folder goes into another, which is at `path`."""
        # Opened anew: Btrfs lists of a folder what was in it when it was opened (Linux 6.5 and on).
        source = os.open(b".", FOLDER, dir_fd=ready)
        open_folders = [_Folder(os.dup(folder), path, _names(source))]
        try:
            while open_folders:
                self._task.check()
                last = open_folders[-1]
                if not last.todo:
                    os.close(open_folders.pop().target)
                    if open_folders:
                        source = _instead(source, b"..")  # ours: nobody else moves what is in it
                    continue
                name = last.todo.pop()
                inner = self._one(source, last, name, rights)
                if inner is not None:
                    open_folders.append(inner)
                    source = _instead(source, name)
                    inner.todo = _names(source)
        finally:
            os.close(source)
            for each in open_folders:
                os.close(each.target)
        rights.tell(self._lost)

    def _one(self, source: int, above: _Folder, name: bytes, rights: RightsLater) -> _Folder | None:
        """One name; of a folder that is there already that one, to go on in."""
        own = joined(above.path, name)
        try:
            return self._taken(source, above.target, name, own, rights)
        except OSError as error:
            if error.errno in _CHANGED:
                self._came.note(own)
            elif error.errno in _REFUSED:
                self._refused.note(own)
            else:
                raise
        return None

    def _taken(
        self, source: int, target: int, name: bytes, own: bytes, rights: RightsLater
    ) -> _Folder | None:
        made = os.stat(name, dir_fd=source, follow_symlinks=False)
        try:
            there = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            self._take(source, target, name, own, made)
            return None
        if posix.S_ISDIR(made.st_mode) != posix.S_ISDIR(there.st_mode) or own in self._mounted:
            self._blocked.note(own)
        elif not posix.S_ISDIR(made.st_mode):
            self._replace(source, target, name, own, (made, there), rights)
        elif made.st_dev != there.st_dev:
            self._elsewhere.append(own)
        else:
            return _Folder(os.open(name, FOLDER, dir_fd=target), own, [])
        return None

    def _take(
        self, source: int, target: int, name: bytes, own: bytes, made: os.stat_result
    ) -> None:
        """Put it where nothing is; what has come there meanwhile stays."""
        if posix.S_ISDIR(made.st_mode):
            files = _files_in(name, source)
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            self.files += files
            return
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_SECOND_NAME:
                raise
            if os.access(name, os.F_OK, dir_fd=target, follow_symlinks=False):
                self._came.note(own)
                return
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)  # FAT knows no second name
        self.files += 1

    def _replace(
        self,
        source: int,
        target: int,
        name: bytes,
        own: bytes,
        both: tuple[os.stat_result, os.stat_result],
        rights: RightsLater,
    ) -> None:
        made, there = both
        alike = posix.S_IFMT(made.st_mode) == posix.S_IFMT(there.st_mode) and (
            made.st_size,
            made.st_mtime_ns,
        ) == (there.st_size, there.st_mtime_ns)
        if alike:
            self.same += 1
        elif not self._stays_there(own, there):
            rights.keep(own, (name, source), (name, target))
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            self.files += 1

    def _stays_there(self, own: bytes, there: os.stat_result) -> bool:
        """Whether what is there and differs is not to be replaced."""
        if not self._seen.knows(own, there):
            self._came.note(own)
        elif not self._overwrites:
            self._stays.note(own)
        else:
            return False
        return True


def looks_same(stat: Stat, there: os.stat_result) -> bool:
    """Whether a file that is there has kind, size and time of what is in the point."""
    kinds = {Kind.FILE: posix.S_ISREG, Kind.LINK: posix.S_ISLNK}
    is_kind = kinds.get(stat.kind)
    return (
        is_kind is not None
        and is_kind(there.st_mode)
        and stat.size == there.st_size
        and stat.modified == there.st_mtime_ns
    )


def _names(folder: int) -> list[bytes]:
    """What is in an open folder, the last one first."""
    return sorted(map(os.fsencode, os.listdir(folder)), reverse=True)


def _instead(fd: int, name: bytes) -> int:
    """A folder in an open one, which is closed; raises OSError, and then it is not."""
    found = os.open(name, FOLDER, dir_fd=fd)
    os.close(fd)
    return found


def _files_in(name: bytes, folder: int) -> int:
    """How many files lie in a folder of ours and those in it."""
    return sum(len(files) for _, _, files, _ in os.fwalk(name, dir_fd=folder))
