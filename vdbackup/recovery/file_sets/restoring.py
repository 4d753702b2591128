"""Restore chosen files: the tree that a point has of them, to where it came from or elsewhere.

What comes back is all that was kept: owners, permissions, times, links, attributes, devices. Below
a folder each file gets the whole path that it had; "/" is where all of them came from.

The folders on the way are opened one in the other, and no link in them is followed, so that nobody
who may write there can have something written elsewhere. A file is made beside the one that it
replaces and then takes its name; where none was when this was planned, none is replaced. Nothing is
deleted. What is there as it is in the point stays, so that a restore that was cut off goes on where
it was. Extracting (extract.py) is for what others made; this is for who trusts the points as the
files themselves.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from vdbackup.durable import PARTIAL
from vdbackup.errors import Cancelled, Damaged, UnfitTarget
from vdbackup.jobs import Task
from vdbackup.recovery.file_sets.giving import NOT_FOR_US, describe
from vdbackup.recovery.file_sets.outlook import belonging, looks_same
from vdbackup.recovery.file_sets.plan import FilesPlan
from vdbackup.recovery.file_sets.sameness import is_same, open_beneath
from vdbackup.recovery.pinned import pinned
from vdbackup.repository import checked
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.sources.file_sets.folder import Entry
from vdbackup.sources.file_sets.image import ROOT, Image
from vdbackup.sources.file_sets.inode import Inode
from vdbackup.sources.file_sets.places import joined
from vdbackup.sources.file_sets.tree import Tree, named
from vdbackup.translation import tr

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSED_BY = (*NOT_FOR_US, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)
_NO_LINKS = (*NOT_FOR_US, errno.EMLINK, errno.EXDEV)
_BEING_FILLED = 0o1700
"""Permissions of a folder that is not whole yet: after a kill it is known by them, and finished."""
_OURS = re.compile(rb"\.vdbackup-[0-9a-f]{16}" + re.escape(PARTIAL.encode()))
"""How a file is called that is not whole yet: nobody's own one."""


@dataclass(frozen=True)
class FilesRestored:
    """What came of restoring chosen files.

    Attributes:
        target: the folder that stands for "/".
        files: how many were made or replaced, folders left out.
        content: bytes that were written.
        same: how many were there as they are in the point.
        warnings: what did not come back as it was, a sentence each.
    """

    target: Path
    files: int
    content: int
    same: int
    warnings: tuple[str, ...]


def run(plan: FilesPlan, task: Task) -> FilesRestored:
    """Restore them; raises Cancelled, UnfitTarget, OSError, and what opening the point raises."""
    request = plan.request
    point = request.repository.set(request.set_name).point(request.point_id)
    doing = tr("restoring the files of point {point}", point=point.sequence)
    request.target.mkdir(parents=True, exist_ok=True)
    with (
        checked.open_point(
            request.repository,
            request.set_name,
            request.point_id,
            doing,
            ignore_damage=request.ignore_damage,
        ) as disk,
        Delta(disk.size, disk) as delta,
        Image(delta) as image,
        _Restoring(image, plan, task) as restoring,
    ):
        try:
            restoring.run()
        except Cancelled:
            done = tr(
                "What had been restored until then is in {target}; restored again, it goes on from "
                "there.",
                target=request.target,
            )
            raise Cancelled(left=done) from None
    made = restoring.made
    warnings = (*restoring.said.sentences, *disk.damage)
    return FilesRestored(request.target, made.files, made.content, made.same, warnings)


@dataclass
class _Said:
    """What did not come back as it was, by path."""

    in_the_way: list[bytes] = field(default_factory=list)
    newly_there: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    described: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)

    @property
    def sentences(self) -> tuple[str, ...]:
        said = {
            tr("Something is there already under these names, and stays"): self.in_the_way,
            tr("These have come or changed since it was planned, and stay"): self.newly_there,
            tr("These could not be made there"): self.refused,
            tr("Owners or attributes of these could not be restored"): self.described,
            tr("These are not in the point as they were captured, and are left out"): self.damaged,
        }
        return tuple(f"{what}: {named(paths)}." for what, paths in said.items() if paths)


@dataclass
class _Made:
    """How much was done."""

    files: int = 0
    content: int = 0
    same: int = 0


class _NewlyThere(Exception):
    """What would be replaced is not what was there when that was planned."""


@dataclass
class _Open:
    """A folder that is being filled.

    Attributes:
        describes: whether it gets its owner and the like at the end: one that was there and only
            leads to what was chosen does not.
        is_new: whether it was made here, or by a restore that was killed.
        is_ours: whether nothing lies in it that is not in the point's.
    """

    path: bytes
    number: int
    place: tuple[int, int]
    todo: list[tuple[bytes, Entry]]
    describes: bool
    is_new: bool = False
    is_ours: bool = False


class _Restoring:
    """One restore. Only the folder that is being filled is open, and the way up is checked."""

    def __init__(self, image: Image, plan: FilesPlan, task: Task) -> None:
        self._image, self._plan, self._task = image, plan, task
        self._overwrites = plan.request.overwrite
        self._tree = Tree(plan.choice)
        self._top = os.open(plan.request.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd = os.dup(self._top)
        self._open: list[_Open] = []
        self._linked: dict[int, tuple[bytes, tuple[int, int]]] = {}
        self._folders: set[int] = set()
        self.said = _Said()
        self.made = _Made()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.close(self._top)

    def run(self) -> None:
        """All of it, a folder before what is in it."""
        self._fill(b"/", ROOT, belonging(self._image, ROOT), is_new=False)
        try:
            while self._open:
                self._task.check()
                self._step(self._open[-1])
        except Cancelled:
            self._give_up_folders()
            raise

    def _step(self, folder: _Open) -> None:
        if not folder.todo:
            self._leave(self._open.pop())
            return
        name, entry = folder.todo.pop()
        path = joined(folder.path, name)
        try:
            if entry.is_folder:
                self._enter(path, name, entry.inode)
            else:
                self._leaf(path, name, entry.inode)
        except FileExistsError:
            self.said.in_the_way.append(path)
        except _NewlyThere:
            self.said.newly_there.append(path)
        except Damaged:
            self.said.damaged.append(path)
        except OSError as error:
            if error.errno not in _PASSED_BY:
                raise
            self.said.refused.append(path)

    def _give_up_folders(self) -> None:
        """Have what was made so far look as it did, though not all of it is there."""
        while self._open:
            folder = self._open.pop()
            folder.describes, folder.is_ours = folder.is_new, False
            self._leave(folder)

    def _fill(self, path: bytes, number: int, entries: dict[bytes, Entry], *, is_new: bool) -> None:
        """Begin with the folder that is open now."""
        status = os.fstat(self._fd)
        was_there = not is_new
        is_new = is_new or _is_half_made(status)
        describes = is_new or (self._overwrites and not self._tree.leads(path))
        is_ours = was_there and not self._sweep(entries.keys()) and not self._tree.leads(path)
        self._folders.add(number)
        place = (status.st_dev, status.st_ino)
        todo = sorted(entries.items(), reverse=True)
        self._open.append(_Open(path, number, place, todo, describes, is_new, is_ours))

    def _sweep(self, known: AbstractSet[bytes]) -> bool:
        """Remove from the folder that is open what a restore that was killed has left there.

        Whether something else is in it than those names.
        """
        names = {os.fsencode(name) for name in os.listdir(self._fd)} - known
        for name in names:
            if not _OURS.fullmatch(name):
                continue
            status = self._exists(name)
            if status is None or stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if stat.S_ISREG(status.st_mode) and _is_being_written(name, self._fd):
                continue
            with suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
        return not all(map(_OURS.fullmatch, names))

    def _enter(self, path: bytes, name: bytes, number: int) -> None:
        if number in self._folders:  # a folder in itself: of a damaged file system
            self.said.refused.append(path)
            return
        entries = belonging(self._image, number)  # raises before anything is made
        is_new = True
        try:
            os.mkdir(name, 0o700, dir_fd=self._fd)
        except FileExistsError:
            is_new = False
        try:
            inner = os.open(name, _FOLDER, dir_fd=self._fd)
        except NotADirectoryError:
            raise FileExistsError from None
        os.close(self._fd)
        self._fd = inner
        # Who owns the folder above can give the name to another one at once, root's perhaps, which
        # must not get the owner of this one.
        is_new = is_new and not os.listdir(inner)
        if is_new:
            with suppress(PermissionError):  # where there are no permissions, it is not marked
                os.fchmod(inner, _BEING_FILLED)
        self._fill(path, number, entries, is_new=is_new)

    def _leave(self, folder: _Open) -> None:
        if folder.describes or folder.is_ours:
            try:
                inode = self._image.read(folder.number)
                if folder.describes or _has_rights(self._fd, inode):
                    self._describe(folder.path, self._fd, inode, folder.number)
            except Damaged:  # what is in it is restored all the same
                self.said.described.append(folder.path)
        if self._open:
            above = os.open("..", _FOLDER, dir_fd=self._fd)
            os.close(self._fd)
            self._fd = above
            status = os.fstat(above)
            if (status.st_dev, status.st_ino) != self._open[-1].place:
                raise self._changed()

    def _changed(self) -> UnfitTarget:
        return UnfitTarget(
            tr(
                "{target} was changed while files were restored to it.",
                target=self._plan.request.target,
            ),
            tr("See what is there, then restore them again."),
        )

    def _leaf(self, path: bytes, name: bytes, number: int) -> None:
        there = self._exists(name)
        inode = self._image.read(number)
        if there is not None and self._stays(path, name, number, inode, there):
            self.made.same += 1
            return
        beside = os.fsencode(f".vdbackup-{secrets.token_hex(8)}{PARTIAL}")
        try:
            if not self._link(number, beside):
                self._make(path, beside, number, inode)
            self._take_name(path, beside, name, is_new=there is None)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self._fd)
            raise
        self.made.files += 1
        self._remember(path, name, number, inode)

    def _stays(
        self, path: bytes, name: bytes, number: int, inode: Inode, there: os.stat_result
    ) -> bool:
        """Whether what is there is what is in the point; raises where it may not be replaced."""
        if stat.S_ISDIR(there.st_mode):
            raise FileExistsError
        if (
            looks_same(inode, there)
            and self._is_one_file(number, there)
            and is_same(self._image, number, inode, name, self._fd, self._task)
        ):
            self._remember(path, name, number, inode)
            return True
        if not self._overwrites:
            raise FileExistsError
        self._check_seen(path, there)
        return False

    def _is_one_file(self, number: int, there: os.stat_result) -> bool:
        """Whether a file has no other names there than it may have."""
        made = self._linked.get(number)
        return made is None or made[1] == (there.st_dev, there.st_ino)

    def _check_seen(self, path: bytes, there: os.stat_result) -> None:
        if not self._plan.outlook.seen.knows(path, there):
            raise _NewlyThere

    def _take_name(self, path: bytes, beside: bytes, name: bytes, *, is_new: bool) -> None:
        """Have what is whole be called by its name; raises _NewlyThere."""
        if is_new:
            try:
                os.link(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd,
                        follow_symlinks=False)  # fmt: skip
            except FileExistsError:
                raise _NewlyThere from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise  # else a file system without links: look, then move
                if self._exists(name) is not None:
                    raise _NewlyThere from None
            else:
                os.unlink(beside, dir_fd=self._fd)
                return
        elif (there := self._exists(name)) is not None:
            self._check_seen(path, there)
        os.rename(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _remember(self, path: bytes, name: bytes, number: int, inode: Inode) -> None:
        """Keep in mind where a file of several names is."""
        if inode.links > 1 and number not in self._linked:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            self._linked[number] = (path, (status.st_dev, status.st_ino))

    def _exists(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _link(self, number: int, name: bytes) -> bool:
        """Have a name mean a file that was made already; whether that could be done."""
        if (made := self._linked.get(number)) is None:
            return False
        path, identity = made
        try:
            with open_beneath(self._top, path) as folder:
                os.link(path.rpartition(b"/")[2], name, src_dir_fd=folder, dst_dir_fd=self._fd,
                        follow_symlinks=False)  # fmt: skip
        except OSError:
            return False
        status = self._exists(name)
        if status is not None and (status.st_dev, status.st_ino) == identity:
            return True
        os.unlink(name, dir_fd=self._fd)  # somebody has put another one there
        return False

    def _make(self, path: bytes, name: bytes, number: int, inode: Inode) -> None:
        mode = inode.mode
        if stat.S_ISREG(mode):
            fd = os.open(name, _NEW, 0o600, dir_fd=self._fd)
            try:
                with suppress(OSError):  # says that it is not left behind; not all storage can
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._write(fd, number, inode.size)
                self._describe(path, fd, inode, number)
            finally:
                os.close(fd)
            return
        if stat.S_ISLNK(mode):
            os.symlink(self._image.target(number, inode), name, dir_fd=self._fd)
        else:
            device = inode.device if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
            os.mknod(name, stat.S_IFMT(mode) | 0o600, device, dir_fd=self._fd)
        with pinned(name, self._fd) as (at, made):
            own = (stat.S_IFMT(mode), os.geteuid(), 1)
            if (stat.S_IFMT(made.st_mode), made.st_uid, made.st_nlink) != own:
                raise self._changed()
            self._describe(path, at, inode, number)

    def _write(self, fd: int, number: int, size: int) -> None:
        os.ftruncate(fd, size)
        for place, view in self._image.content(number, size):
            self._task.checkpoint()
            if (limit := self._task.pace.limit) is not None:
                limit.hold(len(view), self._task.cancel)
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], place + done)
            self.made.content += len(view)
            total = max(self._plan.outlook.content, self.made.content)
            self._task.phase(tr("Restoring"), self.made.content, total)

    def _describe(self, path: bytes, what: int | str, inode: Inode, number: int) -> None:
        """Give what was made all else that it had; `path` is named where that cannot be."""
        attributes = self._image.attributes(number) if inode.has_attributes else {}
        if not describe(what, inode, attributes):
            self.said.described.append(path)


def _has_rights(fd: int, inode: Inode) -> bool:
    """Whether a folder has owner and permissions of what is in the point."""
    status = os.fstat(fd)
    return (status.st_mode, (status.st_uid, status.st_gid)) == (inode.mode, inode.owner)


def _is_half_made(status: os.stat_result) -> bool:
    """Whether a folder was made by a restore that was killed before it was whole."""
    own = (_BEING_FILLED, os.geteuid())
    return (stat.S_IMODE(status.st_mode), status.st_uid) == own


def _is_being_written(name: bytes, folder: int) -> bool:
    """Whether another restore is at work on that file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                     dir_fd=folder)  # fmt: skip
    except OSError:
        return True  # nobody can tell
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
