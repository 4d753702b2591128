"""Whether a file that is there is the one in the point: its content and all that belongs to it.

It is read and compared: that it has the same size and the same time may be somebody's doing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from vdbackup.jobs import Task
from vdbackup.sources.file_sets.image import Image
from vdbackup.sources.file_sets.inode import Inode
from vdbackup.sources.file_sets.places import attributes_of, open_quietly

_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20


def is_same(image: Image, number: int, inode: Inode, name: bytes, folder: int, task: Task) -> bool:
    """Whether what has a name in an open folder is what is in the point.

    Args:
        image: the files as the point has them.
        number: of the inode there.
        inode: that.
        name: in the folder; it means something of the same kind.
        folder: a descriptor.
        task: what stops it.

    What cannot be read is not the same. Raises what the disk raises, and Cancelled.
    """
    try:
        fd = os.open(name, _NAMED, dir_fd=folder)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        return _is_described_so(image, number, inode, fd, status) and _holds_so(
            image, number, inode, (name, folder, fd, status), task
        )
    except OSError:
        return False
    finally:
        os.close(fd)


@contextmanager
def open_beneath(top: int, path: bytes) -> Iterator[int]:
    """The folder that a path's last name lies in, reached from `top` without following a link.

    Raises OSError.
    """
    fd = os.dup(top)
    try:
        for name in path.strip(b"/").split(b"/")[:-1]:
            inner = os.open(name, _NAMED | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _is_described_so(
    image: Image, number: int, inode: Inode, fd: int, status: os.stat_result
) -> bool:
    wanted = image.attributes(number) if inode.has_attributes else {}
    return (
        status.st_mode == inode.mode
        and (status.st_uid, status.st_gid) == inode.owner
        and status.st_mtime_ns == inode.known.modified
        and status.st_nlink <= inode.links  # else it is another file's name, too
        and attributes_of(fd) == wanted
    )


def _holds_so(
    image: Image,
    number: int,
    inode: Inode,
    there: tuple[bytes, int, int, os.stat_result],
    task: Task,
) -> bool:
    name, folder, fd, status = there
    if stat.S_ISLNK(inode.mode):
        return os.readlink(b"", dir_fd=fd) == image.target(number, inode)
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        return status.st_rdev == inode.device
    if not stat.S_ISREG(inode.mode):
        return True
    own = open_quietly(name, _READ, folder)
    try:
        opened = os.fstat(own)
        if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
            return False
        return opened.st_size == inode.size and _reads_so(image, number, inode.size, own, task)
    finally:
        os.close(own)


def _reads_so(image: Image, number: int, size: int, fd: int, task: Task) -> bool:
    """Whether a file holds the same bytes, and nothing where the point has a hole."""
    done = 0
    for place, view in image.content(number, size):
        task.checkpoint()
        if not _is_zero(fd, done, place) or os.pread(fd, len(view), place) != view:
            return False
        done = place + len(view)
    return _is_zero(fd, done, size)


def _is_zero(fd: int, start: int, end: int) -> bool:
    """Whether a file has only zeros there; its own holes are not read."""
    at = start
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return True  # nothing more but a hole
        if data >= end:
            return True
        at = data
        piece = os.pread(fd, min(_PIECE, end - at), at)
        if not piece or any(piece):
            return False
        at += len(piece)
    return True
