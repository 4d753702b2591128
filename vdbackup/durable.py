"""Our own small files where others may write, too: never led astray, and whole or not there.

A repository may lie on a share, or on a stick that somebody brought. What bears the name of one of
our files there may be a link to a file that matters, a pipe that nobody writes to, a device, or
huge. So such a file is opened in one way only (`open_own`): no link is followed, it is a regular
file, and no more of it is read than ours ever hold. The folders above it may be reached by links:
those the user made.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vdbackup.errors import Obstructed, Remedy
from vdbackup.translation import tr

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""What is in flight ends so, and is nobody's backup."""
MAX_RECORD = 16 << 20
"""Bytes of a record (JSON): 300,000 stretches that a source did not give, where one has 10,000."""
_KINDS = {
    stat.S_IFLNK: tr("a link"),
    stat.S_IFDIR: tr("a folder"),
    stat.S_IFIFO: tr("a pipe"),
    stat.S_IFSOCK: tr("a socket"),
    stat.S_IFCHR: tr("a device"),
    stat.S_IFBLK: tr("a device"),
}


def open_own(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of one of our own files, by open(2).

    Args:
        path: of the file.
        flags: how to open it; what keeps it from being led astray is added.
        mode: of a file that is made.

    Raises:
        Obstructed: something else bears its name.
        OSError: as open(2) has it; FileNotFoundError where there is nothing of that name.
    """
    flags |= os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # O_NONBLOCK: a pipe without a writer must not keep us waiting
        fd = os.open(path, flags | os.O_NONBLOCK, mode)
    except BlockingIOError:
        # a server on this computer (Samba, NFS) has it, and is just asked to let go (fcntl(2),
        # leases): that is waited for
        check_regular(path)
        fd = os.open(path, flags, mode)
    except OSError as error:
        # a device without a medium, or where devices may not be opened (mount(8), nodev)
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES, errno.ENODEV):
            with suppress(FileNotFoundError):  # none may be made there, or looked into
                check_regular(path)
        raise
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        raise _obstructed(path, kind)
    return fd


def check_regular(path: Path | str) -> os.stat_result:
    """What lstat(2) says of one of our own files.

    Raises:
        Obstructed: something else bears its name, a link for instance.
        OSError: FileNotFoundError where there is nothing of that name.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise _obstructed(path, found.st_mode)
    return found


def read_own(path: Path | str, most: int = MAX_RECORD) -> bytes:
    """All that one of our own files holds.

    Raises:
        Obstructed: something else bears its name, or it holds more than `most` bytes.
        OSError: FileNotFoundError where there is nothing of that name.
    """
    with open(open_own(path), "rb") as file:
        # memory is taken for as much as is asked for: for `most` that took 60 us, half of the read
        size = min(most, os.fstat(file.fileno()).st_size)
        data = file.read(size + 1)
        if len(data) > size:  # it grows, or its storage does not know its size
            data += file.read(most - size)
    if len(data) > most:
        raise Obstructed(
            tr("{path} is damaged: it is longer than such a file can be.", path=path),
            _OUT_OF_THE_WAY,
            remedy=Remedy.REPAIR,
        )
    return data


def hold_lock(fd: int) -> int:
    """The descriptor, which holds the flock(2) of its file or folder until it is closed.

    Where that cannot be had it is closed; raises BlockingIOError where somebody else holds it, and
    OSError where there is no such thing.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_partial(path: Path, mode: int = 0o600) -> int:
    """A descriptor of a new, empty file for writing, in place of what an interruption left there.

    Raises OSError: IsADirectoryError where a folder bears the name, for example.
    """
    path.unlink(missing_ok=True)
    return open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def replace(path: Path, data: bytes, check: Callable[[], None] = lambda: None) -> None:
    """Write a file so that there is always the old one or the new one.

    Order: content, fsync, rename, fsync of the folder. Renaming first could leave an empty file.

    Args:
        path: of the file; what lies beside it meanwhile ends in PARTIAL.
        data: all that it will hold.
        check: called before each change that others see; where it raises, nothing more is changed.
    """
    with made_beside(path, check) as partial:
        _write(partial, path, data)


def write_in_flight(path: Path, data: bytes, check: Callable[[], None] = lambda: None) -> None:
    """Write what `path` will hold once it is renamed to that; durable but for its name in flight.

    Args and order as in `replace`, without the rename.
    """
    check()
    _write(path.with_name(path.name + PARTIAL), path, data)


def _write(partial: Path, path: Path, data: bytes) -> None:
    with open(create_partial(partial), "wb") as file:
        _keep_owner_and_mode(file.fileno(), path)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def made_beside(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A name beside `path` for a file that takes its place once it is whole; else nothing is left.

    Whoever makes the file there makes it durable, too. Order: that, rename, fsync of the folder.

    Args:
        path: of the file; the name beside it ends in PARTIAL, and what bears that is removed.
        check: as in `replace`.
    """
    partial = path.with_name(path.name + PARTIAL)
    check()
    remove(partial)
    try:
        yield partial
    except BaseException:
        check()  # what bears that name by now may be somebody else's
        remove(partial)
        raise
    check()
    try:
        os.rename(partial, path)
    except OSError:
        check()
        remove(partial)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete one of our own files, which may be gone already.

    A folder of that name is none of ours: it stays, and stops nothing.
    """
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        log.warning("%s is a folder, and stays", path)


def give_to_owner_of_folder(path: Path) -> None:
    """Let whoever owns a folder own what root has just made in it, a file or a folder.

    One backup by root would else lock the owner of a repository out of it. Whoever may write there
    may have put something else in its place meanwhile: a link is not followed, and what has another
    name, too, or was somebody else's, is given to nobody.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(path.parent)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            made = os.fstat(fd)
            own = stat.S_ISDIR(made.st_mode) or (stat.S_ISREG(made.st_mode) and made.st_nlink == 1)
            own = own and made.st_uid == os.geteuid()
            if own and (made.st_uid, made.st_gid) != (owner.st_uid, owner.st_gid):
                os.fchown(fd, owner.st_uid, owner.st_gid)
        finally:
            os.close(fd)
    except OSError as error:  # a storage that knows no owners, as FAT; or the file has just gone
        log.debug("%s stays root's: %s", path, error)


def _keep_owner_and_mode(fd: int, path: Path) -> None:
    """Let who could read and change the file that is replaced go on doing so."""
    if not os.path.lexists(path):
        give_to_owner_of_folder(path.with_name(path.name + PARTIAL))
        return
    try:
        old, new = os.lstat(path), os.fstat(fd)
        if stat.S_ISREG(old.st_mode) and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            _give(fd, old)
        if stat.S_ISREG(old.st_mode) and stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
            os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o666)
    except OSError as error:  # there is none yet, it is somebody else's, or owners are not known
        log.debug("%s does not keep its owner and mode: %s", path, error)


def _give(fd: int, old: os.stat_result) -> None:
    """Only root can give a file away; its group can be kept by whoever belongs to that."""
    try:
        os.fchown(fd, old.st_uid, old.st_gid)
    except PermissionError:
        os.fchown(fd, -1, old.st_gid)


def sync_folder(folder: Path) -> None:
    """Make renames, links and deletions in a folder durable (fsync(2): the file's own does not)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make durable what was written to one of our own files, its mode and its times."""
    fd = open_own(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_OUT_OF_THE_WAY = tr("Move it away; what can be made anew is made anew then.")


def _obstructed(path: Path | str, kind: int) -> Obstructed:
    what = _KINDS.get(stat.S_IFMT(kind), tr("no file"))
    return Obstructed(
        tr("{path} is damaged: it is {what}, and no ordinary file.", path=path, what=what),
        _OUT_OF_THE_WAY,
        remedy=Remedy.REPAIR,
    )


def largest_file(beside: Path) -> int:
    """Bytes that a file can have where one of our own lies: by its storage, and for this process.

    The kernel lets nobody go to a place in a file that its file system cannot give it (lseek(2),
    EINVAL): 4 GiB on FAT, whatever stands between, NFS for one. Nothing is written for that.
    Raises what `open_own` raises.
    """
    fd = open_own(beside)
    try:
        least, above = 0, 1 << 63
        while above - least > 1:
            middle = (least + above) // 2
            try:
                os.lseek(fd, middle, os.SEEK_SET)
            except OSError:
                above = middle
            else:
                least = middle
    finally:
        os.close(fd)
    allowed, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return least if allowed == resource.RLIM_INFINITY else min(least, allowed)


def free_space(folder: Path) -> int | None:
    """Bytes that are free on the storage; None where it does not say, as some on networks do."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None
