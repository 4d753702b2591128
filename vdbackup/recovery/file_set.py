"""Restore chosen files: the tree that a point has of them, to where it came from or elsewhere.

What comes back is all that was kept: owners, permissions, times, links, attributes, devices. Below
a folder each file gets the whole path that it had; "/" is where all of them came from.

The folders on the way are opened one in the other, and no link in them is followed, so that nobody
who may write there can have something written elsewhere. A file is made beside the one that it
replaces and then takes its name. Nothing is deleted. Extracting (extract.py) is for what others
made; this is for who trusts the points as the files themselves.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from vdbackup.durable import PARTIAL
from vdbackup.errors import Cancelled, Damaged, NotInPoint, SourceNotFound, UnfitTarget
from vdbackup.jobs import Plan, Task
from vdbackup.recovery.pinned import pinned
from vdbackup.repository import checked
from vdbackup.repository.model import RecoveryPoint, SetSettings
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.sources.file_sets.folder import Entry, Folder
from vdbackup.sources.file_sets.image import LOST_AND_FOUND, ROOT, Image
from vdbackup.sources.file_sets.inode import Inode
from vdbackup.sources.file_sets.places import joined
from vdbackup.sources.file_sets.tree import Tree, named
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_FOR_US = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What is said of an owner, an attribute or a device that only root may give, or that the file
system has no place for."""
_PASSED_BY = (*_NOT_FOR_US, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)


@dataclass(frozen=True, kw_only=True)
class FilesPlan(Plan):
    """What restoring chosen files would do.

    Attributes:
        choice: what the point is of.
        target: the folder that stands for "/".
        overwrite: replace what is there under the same names.
        ignore_damage: restore what is damaged as it is, and name it.
    """

    repository: Repository
    set_name: str
    point_id: str
    choice: Choice
    target: Path
    overwrite: bool
    ignore_damage: bool


def plan(
    repository: Repository,
    set_name: str,
    point_id: str,
    target: Path,
    *,
    overwrite: bool,
    ignore_damage: bool = False,
) -> FilesPlan:
    """What restoring a point's files below `target` would do.

    Args:
        repository: where the point is.
        set_name: the set that it belongs to.
        point_id: its id.
        target: a folder, which need not be there; "/" is where the files came from.
        overwrite: replace what is there; else it stays, and is named.
        ignore_damage: restore what is damaged as it is, and name it.

    Raises NotInPoint where the set is none of chosen files, UnfitTarget.
    """
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    choice = _choice_of(backup_set.settings, point)
    if target.exists() and not target.is_dir():
        raise UnfitTarget(
            tr("{target} is not a folder.", target=target), tr("Choose one, or a new name.")
        )
    to = tr("to where they came from") if target == Path("/") else tr("to {target}", target=target)
    there = tr("replaces") if overwrite else tr("leaves alone")
    return FilesPlan(
        summary=tr(
            "The files of point {point} ({choice}) are restored {to}; that {there} what is there "
            "under the same names, and deletes nothing.",
            point=point.sequence,
            choice=choice.title,
            to=to,
            there=there,
        ),
        creates=tuple(f"{target}{path}".replace("//", "/") for path in choice.paths),
        repository=repository,
        set_name=set_name,
        point_id=point_id,
        choice=choice,
        target=target,
        overwrite=overwrite,
        ignore_damage=ignore_damage,
    )


def _choice_of(settings: SetSettings, point: RecoveryPoint) -> Choice:
    """What the point is of: as it was chosen when it was captured."""
    kept = point.captured_from or settings.source
    ref = SourceRef.parse(kept.path)
    if ref.is_files:
        with suppress(SourceNotFound):
            return Choice.parse(ref.rest)
    raise NotInPoint(
        tr("Point {point} is of a disk, not of chosen files.", point=point.sequence),
        tr("Extract what you want of its files, or restore the disk."),
    )


def run(plan: FilesPlan, task: Task) -> tuple[str, ...]:
    """Restore them; what could not be, a sentence each."""
    point = plan.repository.set(plan.set_name).point(plan.point_id)
    doing = tr("restoring the files of point {point}", point=point.sequence)
    plan.target.mkdir(parents=True, exist_ok=True)
    with (
        checked.open_point(
            plan.repository,
            plan.set_name,
            plan.point_id,
            doing,
            ignore_damage=plan.ignore_damage,
        ) as disk,
        Delta(disk.size, disk) as delta,
        Image(delta) as image,
        _Restoring(image, plan, task) as restoring,
    ):
        try:
            restoring.run()
        except Cancelled:
            done = tr("What had been restored until then is in {target}.", target=plan.target)
            raise Cancelled(left=done) from None
    return (*restoring.said.sentences, *disk.damage)


@dataclass
class _Said:
    """What did not come back as it was, by path."""

    in_the_way: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    described: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)

    @property
    def sentences(self) -> tuple[str, ...]:
        said = {
            "Something is there already under these names, and stays": self.in_the_way,
            "These could not be made there": self.refused,
            "Owners or attributes of these could not be restored": self.described,
            "These are not in the point as they were captured, and are left out": self.damaged,
        }
        return tuple(f"{what}: {named(paths)}." for what, paths in said.items() if paths)


@dataclass
class _Open:
    """A folder that is being filled.

    Attributes:
        describes: whether it gets its owner and the like at the end: one that was there and only
            leads to what was chosen does not.
    """

    path: bytes
    number: int
    place: tuple[int, int]
    todo: list[tuple[bytes, Entry]]
    describes: bool


class _Restoring:
    """One restore. Only the folder that is being filled is open, and the way up is checked."""

    def __init__(self, image: Image, plan: FilesPlan, task: Task) -> None:
        self._image, self._plan, self._task = image, plan, task
        self._tree = Tree(plan.choice)
        self._top = os.open(plan.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd = os.dup(self._top)
        self._open: list[_Open] = []
        self._made: dict[int, tuple[bytes, tuple[int, int]]] = {}
        self._seen: set[int] = set()
        self._done = 0
        self.said = _Said()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.close(self._top)

    def run(self) -> None:
        """All of it, a folder before what is in it."""
        self._fill(b"/", ROOT, self._image.folder(ROOT), describes=False)
        while self._open:
            self._task.check()
            folder = self._open[-1]
            if not folder.todo:
                self._leave(self._open.pop())
                continue
            name, entry = folder.todo.pop()
            path = joined(folder.path, name)
            try:
                if entry.is_folder:
                    self._enter(path, name, entry.inode)
                else:
                    self._leaf(path, name, entry.inode)
            except FileExistsError:
                self.said.in_the_way.append(path)
            except Damaged:
                self.said.damaged.append(path)
            except OSError as error:
                if error.errno not in _PASSED_BY:
                    raise
                self.said.refused.append(path)

    def _fill(self, path: bytes, number: int, folder: Folder, *, describes: bool) -> None:
        """Begin with the folder that is open now."""
        status = os.fstat(self._fd)
        entries = folder.entries
        if number == ROOT:
            entries.pop(LOST_AND_FOUND, None)
        todo = [(name, each) for name, each in sorted(entries.items(), reverse=True)
                if b"/" not in name and b"\0" not in name]  # fmt: skip
        self._seen.add(number)
        place = (status.st_dev, status.st_ino)
        self._open.append(_Open(path, number, place, todo, describes))

    def _enter(self, path: bytes, name: bytes, number: int) -> None:
        if number in self._seen:  # a folder in itself: of a damaged file system
            self.said.refused.append(path)
            return
        folder = self._image.folder(number)  # raises before anything is made
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
        leads = self._tree.leads(path)
        self._fill(path, number, folder, describes=is_new or (self._plan.overwrite and not leads))

    def _leave(self, folder: _Open) -> None:
        if folder.describes:
            try:
                inode = self._image.read(folder.number)
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
            tr("{target} was changed while files were restored to it.", target=self._plan.target),
            tr("See what is there, then restore them again."),
        )

    def _leaf(self, path: bytes, name: bytes, number: int) -> None:
        there = self._exists(name)
        if there is not None and (not self._plan.overwrite or stat.S_ISDIR(there.st_mode)):
            raise FileExistsError
        inode = self._image.read(number)
        beside = os.fsencode(f".vdbackup-{secrets.token_hex(8)}{PARTIAL}")  # nobody's own file
        try:
            if not self._link(number, beside):
                self._make(path, beside, number, inode)
            os.rename(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self._fd)
            raise
        if inode.links > 1 and number not in self._made:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            self._made[number] = (path, (status.st_dev, status.st_ino))

    def _exists(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _link(self, number: int, name: bytes) -> bool:
        """Have a name mean a file that was made already; whether that could be done."""
        if (made := self._made.get(number)) is None:
            return False
        path, identity = made
        try:
            os.link(path.lstrip(b"/"), name, src_dir_fd=self._top, dst_dir_fd=self._fd,
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
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], place + done)
            self._done += len(view)
            self._task.phase(tr("Restoring"), self._done, 0)

    def _describe(self, path: bytes, what: int | str, inode: Inode, number: int) -> None:
        """Owner first, which takes capabilities away; then permissions, attributes, times.

        Args:
            path: in the point, to be named.
            what: a descriptor, or the path of what is pinned.
            inode: what is to be restored.
            number: of that.
        """
        complete = True
        with self._as_far_as_may_be() as refused:
            os.chown(what, *inode.owner)
        complete &= not refused
        if not stat.S_ISLNK(inode.mode):
            with self._as_far_as_may_be() as refused:
                os.chmod(what, stat.S_IMODE(inode.mode))
            complete &= not refused
        attributes = self._image.attributes(number) if inode.has_attributes else {}
        for name, value in attributes.items():
            with self._as_far_as_may_be() as refused:
                os.setxattr(what, name, value)
            complete &= not refused
        known = inode.known
        with self._as_far_as_may_be() as refused:
            os.utime(what, ns=(inode.accessed, known.modified))
        if not complete or refused:
            self.said.described.append(path)

    @contextmanager
    def _as_far_as_may_be(self) -> Iterator[list[OSError]]:
        refused: list[OSError] = []
        try:
            yield refused
        except OSError as error:
            if error.errno not in _NOT_FOR_US:
                raise
            refused.append(error)
