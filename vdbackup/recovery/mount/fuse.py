"""A tree of files as libfuse asks for it, through mfusepy, which calls libfuse 3 by ctypes.

Traps: mfusepy takes libfuse 2 where both are there, unless a variable says otherwise before it is
imported. An attribute of the operations that has the name of one (`lock`, ...) is taken for it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
import stat as posix
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from vdbackup.errors import NotInPoint, NotMounted, ProgramMissing, VdbackupError
from vdbackup.recovery.mount.disk_tree import DiskTree
from vdbackup.recovery.mount.table import TYPE
from vdbackup.recovery.mount.tree import LONGEST_NAME, Tree
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Content, Kind

log = logging.getLogger(__name__)

READ_AT_ONCE = 1 << 20
"""Bytes that the kernel asks for at most."""
_UNCHANGING = 3600
"""Seconds for which the kernel need not ask again: what is in a point stays as it is."""
_BLOCK = 4096
_TYPES = {Kind.FILE: posix.S_IFREG, Kind.FOLDER: posix.S_IFDIR, Kind.LINK: posix.S_IFLNK}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    tree: Tree | DiskTree, where: Path, name: str, size: int, mounted: Callable[[], None]
) -> None:
    """Show a tree as a folder, in this thread, until that is unmounted or a signal ends it.

    Args:
        tree: what is shown.
        where: an empty folder.
        name: what mount(8) and df(1) call it.
        size: of the disk, in bytes, which df shows.
        mounted: called as soon as the folder shows the files.

    Raises:
        ProgramMissing: libfuse or its helper is missing. NotMounted: the system refused.
    """
    fuse = _library()
    operations = _Operations(tree, size, mounted)
    options = {"subtype": TYPE, "fsname": name.replace("\\", "\\\\").replace(",", "\\,")}
    with _signals_left_to_libfuse(), chdir("."):  # libfuse goes to the topmost folder
        try:
            fuse(
                operations,
                str(where),
                foreground=True,
                nothreads=True,  # readers are for one thread
                ro=True,
                auto_unmount=True,  # also when this process is killed
                use_ino=True,  # names of one file have one number
                kernel_cache=True,
                entry_timeout=_UNCHANGING,
                attr_timeout=_UNCHANGING,
                max_read=READ_AT_ONCE,
                **options,
            )
        except RuntimeError as error:  # its number; libfuse has said more on standard error
            if not operations.is_mounted:
                raise NotMounted(
                    tr(
                        "{where} was not mounted: the system refused (libfuse ends with {error}).",
                        where=where,
                        error=error,
                    ),
                    tr(
                        "Look whether this user may mount with FUSE, and own an empty folder for "
                        "it."
                    ),
                ) from error
            log.info("%s: libfuse ended with %s", where, error)  # a signal, usually


def _library() -> Callable[..., Any]:
    """What mounts, by the name of mfusepy's class."""
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        import mfusepy
    except OSError as error:  # ImportError is no case: it comes with the program
        raise ProgramMissing(
            tr("Folders cannot be mounted: libfuse 3 is missing."), tr("Install the package fuse3.")
        ) from error

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]  # mfusepy knows lseek, and cannot call it
        def lseek(self, path: bytes, offset: int, whence: int, file: Any) -> int:
            found: int = self.operations.lseek(offset, whence, file.contents.fh)
            return found

    return Fuse


@contextmanager
def _signals_left_to_libfuse() -> Iterator[None]:
    """It unmounts at a signal that nobody else has a handler for."""
    before = {}
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _answering() -> Iterator[None]:
    """Whatever goes wrong, as a number of the operating system's."""
    try:
        yield
    except NotInPoint as error:
        raise OSError(errno.ENOENT, error.title) from error
    except VdbackupError as error:
        log.warning("%s", error.title)
        raise OSError(errno.EIO, error.title) from error
    except OSError as error:
        log.warning("the storage of the backups: %s", error)
        raise OSError(error.errno or errno.EIO, str(error)) from error
    except Exception as error:
        log.exception("a file cannot be shown")
        raise OSError(errno.EIO, str(error)) from error


class _Operations:
    """What libfuse calls: the names are its own.

    Attributes:
        is_mounted: whether the kernel has begun to ask.
        use_ns: that times are in ns, for mfusepy.
    """

    use_ns = True

    def __init__(self, tree: Tree | DiskTree, size: int, mounted: Callable[[], None]) -> None:
        self.is_mounted = False
        self._tree, self._size, self._mounted = tree, size, mounted
        self._numbers = itertools.count(1)
        self._opened: dict[int, tuple[str, Content]] = {}

    def init_with_config(self, connection: Any, _config: Any) -> None:
        connection.max_read = READ_AT_ONCE  # libfuse wants to be told both here and as an option
        self.is_mounted = True
        self._mounted()

    def getattr(self, path: str, _file: int | None = None) -> dict[str, int]:
        with _answering():
            found = self._tree.stat(path)
        stored = found.size if found.stored is None else found.stored
        user, group = found.owner or (os.getuid(), os.getgid())
        modified = found.modified or 0
        return {
            "st_ino": found.inode or 0,
            "st_mode": _TYPES.get(found.kind, found.type or posix.S_IFREG) | found.mode,
            "st_nlink": found.links,
            "st_uid": user,
            "st_gid": group,
            "st_rdev": found.device,
            "st_size": found.size if found.kind is not Kind.OTHER else 0,
            "st_blksize": _BLOCK,
            "st_blocks": -(-stored // 512),
            "st_mtime": modified,
            "st_atime": modified if found.accessed is None else found.accessed,
            "st_ctime": modified if found.changed is None else found.changed,
        }

    def readdir(self, path: str, _file: int) -> Iterator[tuple[str, None, int]]:
        with _answering():
            names = self._tree.names(path)
        return ((name, None, 0) for name in (".", "..", *names))

    def readlink(self, path: str) -> str:
        with _answering():
            return self._tree.target(path)

    def listxattr(self, path: str) -> list[str]:
        with _answering():
            return list(self._tree.attributes(path))

    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        with _answering():
            found = self._tree.attributes(path)
        if name not in found:
            raise OSError(errno.ENODATA, name)
        return found[name]

    def open(self, path: str, _flags: int) -> int:
        with _answering():
            content = self._tree.content(path)
        number = next(self._numbers)
        self._opened[number] = path, content
        return number

    def read(self, _path: str, length: int, offset: int, file: int) -> bytes:
        path, content = self._opened[file]
        with _answering():
            return self._tree.read(path, content, offset, length)

    def lseek(self, offset: int, whence: int, file: int) -> int:
        _, content = self._opened[file]
        if not 0 <= offset < content.size:
            raise OSError(errno.ENXIO, tr("beyond the end"))
        if whence == os.SEEK_DATA:
            return _data_from(content, offset)
        if whence == os.SEEK_HOLE:
            return _hole_from(content, offset)
        raise OSError(errno.EINVAL, tr("the kernel does this itself"))

    def release(self, _path: str, file: int) -> int:
        with suppress(KeyError):
            del self._opened[file]
        return 0

    def statfs(self, _path: str) -> dict[str, int]:
        return {
            "f_bsize": _BLOCK,
            "f_frsize": _BLOCK,
            "f_blocks": self._size // _BLOCK,
            "f_namemax": LONGEST_NAME,
        }


def _data_from(content: Content, offset: int) -> int:
    for first, end in content.ranges:
        if offset < end:
            return max(first, offset)
    raise OSError(errno.ENXIO, tr("there is a hole up to the end"))


def _hole_from(content: Content, offset: int) -> int:
    for first, end in content.ranges:
        if offset < first:
            break
        offset = max(offset, end)
    return min(offset, content.size)
