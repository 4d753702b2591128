"""Copy files out of a file system that may be hostile into a folder that must not suffer from it.

- What the destination cannot hold, a name or a file, is left out, with all that lies in it.
- What names can be, and how deep folders lie in folders, tree_walk.py says.
- Every file and folder is made anew (O_EXCL, mkdir), by its name in a folder that is open; the way
  there is never walked again, so no link, stored or slipped in, can lead it astray.
- Links are made when nothing more will be written into their folder, and point where they pointed.
- No devices, pipes or sockets. What else is known of a file is given as metadata.py says.
- Names of one file are names of one file again; the way to the first of them is walked through
  folders that are opened as folders, and it is looked whether it is that file still.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat as posix
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vdbackup.disks.extents import runs_of
from vdbackup.errors import (
    Cancelled,
    Damaged,
    NothingExtracted,
    RecoveryError,
    TargetExists,
    UnfitTarget,
)
from vdbackup.jobs import Progress, Task
from vdbackup.recovery.metadata import Giver, give_mode
from vdbackup.recovery.tree_walk import Item, Walk, is_name
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import (
    Content,
    Kind,
    Node,
    Stat,
    Unreadable,
    reading,
)

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes that are read and written at once."""
_HOLE = 4096
"""Bytes of zeros, aligned, that are not written."""
_NOT_HERE = (errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT)
"""What a file system says of a name that it has, or cannot have: ENOENT of exFAT through FUSE, and
of shares of Windows."""
_TOO_LARGE = (errno.EFBIG, errno.EINVAL)
_NO_SUCH_THING = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What it says where it knows no links, times or permissions at all."""
_NO_LINKS = (*_NOT_HERE, *_NO_SUCH_THING)
_NO_SECOND_NAME = (*_NO_LINKS, errno.EMLINK, errno.EXDEV, errno.ENOTDIR, errno.ELOOP, errno.EACCES)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _all(path: str, stat: Stat) -> bool:
    return True


def extract(
    items: Sequence[Item],
    destination: Path,
    task: Task,
    giver: Giver | None = None,
    is_wanted: Callable[[str, Stat], bool] = _all,
) -> tuple[str, ...]:
    """Copy items into a folder; see `FileBrowser.extract`.

    Args:
        items: what is copied.
        destination: a folder.
        task: what it reports to, and what stops it.
        giver: gives files what is known of the old ones, where that is not what metadata.py does.
        is_wanted: whether what is no folder is to be copied, by its path and what is known of it.
    """
    _check_space(items, destination)
    task.phase(tr("Counting"), 0, 0)
    measure = _Measure()
    for item in items:
        Walk(measure, task.cancel).run(item)
    destination.mkdir(parents=True, exist_ok=True)
    top = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    writer = _Writer(top, measure.total, task, giver or Giver(), is_wanted)
    try:
        for item in items:
            writer.volume = item.volume
            Walk(writer, task.cancel).run(item)
        writer.finish()
    except Cancelled:
        raise Cancelled(
            left=tr(
                "What had been extracted until then is in {destination}.", destination=destination
            )
        ) from None
    finally:
        writer.close()
    if writer.warnings and not writer.made:
        raise NothingExtracted(writer.warnings[0], tr("Nothing was extracted."))
    return (*writer.warnings, *writer.giver.warnings())


def _check_space(items: Sequence[Item], destination: Path) -> None:
    """Find out what can be known before anything is written."""
    if destination.exists() and not destination.is_dir():
        raise UnfitTarget(
            tr("{destination} is not a folder.", destination=destination),
            tr("Choose one, or a new name."),
        )
    names: set[str] = set()
    for item in items:
        if not item.name and destination.exists() and any(destination.iterdir()):
            raise TargetExists(
                tr("{destination} is not empty.", destination=destination),
                tr("Choose another folder for all the files of a disk: nothing is overwritten."),
            )
        if item.name in names:
            raise TargetExists(
                tr("Two of the chosen files are called {item}.", item=printable(item.name)),
                tr("Extract them one after the other, into different folders."),
            )
        names.add(item.name)
        if is_name(item.name) and os.path.lexists(destination / item.name):
            raise TargetExists(
                tr("{destination} exists already.", destination=destination / printable(item.name)),
                tr("Choose another folder, or move it away: nothing is overwritten."),
            )


# --------------------------------------------------------------------------------- measuring


class _Measure:
    """Sums up the sizes of files; what is left out will be told by the writer.

    Attributes:
        total: in bytes.
    """

    def __init__(self) -> None:
        self.total = 0

    def enter(self, path: str, name: str, stat: Stat) -> bool:
        return True

    def leave(self, path: str, node: Node, stat: Stat) -> None:
        pass

    def leaf(self, path: str, name: str, node: Node, stat: Stat) -> None:
        if stat.kind == Kind.FILE:
            self.total += stat.size

    def warn(self, sentence: str) -> None:
        pass


# ----------------------------------------------------------------------------------- writing


@dataclass
class _Folder:
    """A folder that is being filled; `name` is its own in the one above."""

    fd: int
    name: str = ""
    links: list[tuple[str, str, Node, Stat]] = field(default_factory=list)


class _Writer:
    """Makes files and folders of what it is shown.

    Attributes:
        warnings: sentences that say what was left out.
        made: number of files, folders and links.
        giver: gives them what is known of the old ones.
        volume: whose files come now.
    """

    def __init__(
        self,
        top: int,
        total: int,
        task: Task,
        giver: Giver,
        is_wanted: Callable[[str, Stat], bool],
    ) -> None:
        self.warnings: list[str] = []
        self.made = 0
        self.giver, self._is_wanted = giver, is_wanted
        self.volume = ""
        self._first: dict[tuple[str, int], tuple[tuple[str, ...], tuple[int, int]]] = {}
        """Of files of several names: where the first lies, and which file that is."""
        self._folders = [_Folder(top)]
        self._done, self._total = 0, total
        self._report, self._cancel = task.report, task.cancel

    def finish(self) -> None:
        """Make the links that belong into the topmost folder."""
        self._make_links(self._folders[0])

    def close(self) -> None:
        """Close the folders that are open still."""
        for folder in self._folders:
            os.close(folder.fd)
        self._folders.clear()

    def warn(self, sentence: str) -> None:
        log.info("%s", sentence)
        self.warnings.append(sentence)

    def enter(self, path: str, name: str, stat: Stat) -> bool:
        parent = self._folders[-1].fd
        try:
            # What is made in it needs us to be allowed to; `leave` takes back what was too much.
            os.mkdir(name, stat.mode & 0o777 | 0o700, dir_fd=parent)
            fd = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            self._pass_by(path, error, _NOT_HERE)
            return False
        self._folders.append(_Folder(fd, name))
        self.made += 1
        return True

    def leave(self, path: str, node: Node, stat: Stat) -> None:
        folder = self._folders[-1]
        self._make_links(folder)
        if stat.mode & 0o700 != 0o700:
            give_mode(folder.fd, os.fstat(folder.fd).st_mode & stat.mode & 0o777)
        self.giver.give(folder.fd, path, node, stat)
        os.close(self._folders.pop().fd)

    def leaf(self, path: str, name: str, node: Node, stat: Stat) -> None:
        if not self._is_wanted(path, stat):
            self._reach(self._done + (stat.size if stat.kind == Kind.FILE else 0))
        elif stat.kind == Kind.FILE:
            start = self._done
            try:
                if not self._is_second_name(name, stat):
                    self._make_file(path, name, node, stat)
            except Damaged as error:
                self.warn(
                    tr("{path} is left out: {error}", path=printable(path), error=error.title)
                )
            except RecoveryError as error:
                self.warn(error.title)
            self._reach(start + stat.size)
        elif stat.kind == Kind.LINK:
            self._folders[-1].links.append((path, name, node, stat))
        else:
            self.warn(
                tr("{path} is left out: it is a device, a pipe or a socket.", path=printable(path))
            )

    def _make_file(self, path: str, name: str, node: Node, stat: Stat) -> None:
        parent = self._folders[-1].fd
        try:
            fd = os.open(name, _FILE, stat.mode & 0o777, dir_fd=parent)
        except OSError as error:
            self._pass_by(path, error, _NOT_HERE)
            return
        try:
            self._copy(path, node, fd)
            self.giver.give(fd, path, node, stat)
            self._remember(name, fd, stat)
        except BaseException as error:
            os.unlink(name, dir_fd=parent)
            if not isinstance(error, OSError):
                raise
            self._pass_by(path, error, _TOO_LARGE)
        else:
            self.made += 1
        finally:
            os.close(fd)

    def _remember(self, name: str, fd: int, stat: Stat) -> None:
        if stat.inode is not None and stat.links > 1:
            made = os.fstat(fd)
            where = (*(folder.name for folder in self._folders[1:]), name)
            self._first[self.volume, stat.inode] = where, (made.st_dev, made.st_ino)

    def _is_second_name(self, name: str, stat: Stat) -> bool:
        """Whether it was made as one more name of a file that is there already."""
        found = self._first.get((self.volume, -1 if stat.inode is None else stat.inode))
        if found is None:
            return False
        (*folders, first), wanted = found
        try:
            with self._opened(folders) as folder:
                there = os.stat(first, dir_fd=folder, follow_symlinks=False)
                is_it = (there.st_dev, there.st_ino) == wanted and posix.S_ISREG(there.st_mode)
                if not is_it:  # a number is given again, to a link perhaps
                    return False
                parent = self._folders[-1].fd
                os.link(first, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_SECOND_NAME:
                raise
            log.info("%s is copied once more: %s", printable(name), error)
            return False
        self.made += 1
        return True

    @contextlib.contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[int]:
        """A folder that was made here, by names from the topmost one on; no link is followed."""
        fd = os.dup(self._folders[0].fd)
        try:
            for name in names:
                inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _copy(self, path: str, node: Node, fd: int) -> None:
        with reading(path):
            content = node.content()
        before = self._done
        _give_length(fd, content.size)
        for start, end in content.ranges:
            for offset in range(start, end, CHUNK):
                self._cancel.checkpoint(self._report)
                with reading(path):
                    chunk = _read(content, offset, min(CHUNK, end - offset))
                _write(fd, offset, chunk)
                self._reach(before + offset + len(chunk))

    def _make_links(self, folder: _Folder) -> None:
        for path, name, node, stat in folder.links:
            try:
                with reading(path):
                    target = node.target()
                    if "\0" in target:
                        raise Unreadable(tr("it is a link to an impossible name"))
                os.symlink(target, name, dir_fd=folder.fd)
            except RecoveryError as error:
                self.warn(error.title)
                continue
            except OSError as error:
                self._pass_by(path, error, _NO_LINKS)
                continue
            self.made += 1
            self.giver.give_link(name, folder.fd, path, stat)

    def _pass_by(self, path: str, error: OSError, expected: Sequence[int]) -> None:
        """Warn that the destination cannot hold this one; raise what is wrong with all."""
        is_of_this = error.errno in expected or isinstance(error, _NoRoomForThis)
        if not is_of_this or not self._is_there():
            raise error
        if error.errno == errno.EEXIST:
            why = tr("the folder holds something of this name already")
        else:
            why = tr("the destination cannot hold it ({reason})", reason=error.strerror)
        self.warn(tr("{path} is left out: {why}.", path=printable(path), why=why))

    def _is_there(self) -> bool:
        """Whether the folder that is being filled is there still, and so is its storage."""
        try:
            return os.stat(".", dir_fd=self._folders[-1].fd).st_nlink > 0
        except OSError:
            return False

    def _reach(self, done: int) -> None:
        if done != self._done:
            self._done = done
            self._report(Progress(tr("Extracting"), done, self._total))


def _give_length(fd: int, size: int) -> None:
    """Make a new file so long; raises _NoRoomForThis where that takes space that is not there.

    FAT and exFAT have no holes: there a file of some hundred gigabytes of which nothing was written
    (/var/log/lastlog) takes all of them, and others come that do not.
    """
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _NoRoomForThis(error.errno, error.strerror) from error
        raise


class _NoRoomForThis(OSError):
    """The destination has no space for the whole length of a file, and may have for others."""


def _read(content: Content, offset: int, length: int) -> bytes:
    content.stream.seek(offset)
    chunk: bytes = content.stream.read(length)
    if len(chunk) != length:
        raise Unreadable(tr("a part of it is missing"))
    return chunk


def _write(fd: int, offset: int, chunk: bytes) -> None:
    """Write a chunk into a new file, except for blocks of zeros, which become holes."""
    data = np.frombuffer(chunk, np.uint8)
    whole = len(data) // _HOLE
    blocks = data[: whole * _HOLE].view(np.uint64).reshape(whole, _HOLE // 8)
    wanted = np.append(blocks.any(axis=1), data[whole * _HOLE :].any())
    with memoryview(chunk) as view:
        for first, end in runs_of(wanted):
            _write_all(fd, offset + first * _HOLE, view[first * _HOLE : end * _HOLE])


def _write_all(fd: int, offset: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
