"""Stands between the engine and the file system, and records every change of a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backup import sparse
from tests.crash.faults import one_by_one
from tests.crash.folders import copy_tree
from tests.crash.record import (
    Attribute,
    Change,
    Choice,
    Enter,
    Leave,
    Node,
    Record,
    Resize,
    Sync,
    Write,
    keep_all,
)
from tests.crash.states import States
from vdbackup.disks import host_file, transfer

_UNKNOWN = (
    "copy_file_range", "fchown", "fdatasync", "link", "posix_fallocate", "removexattr", "sendfile",
    "setxattr", "splice", "symlink", "truncate", "write", "writev",
)  # fmt: skip
"""Calls that would go past the record: the engine makes none of them."""


class Recorder:
    """Notes the changes of what lies below a folder while the calls into the system are patched.

    Args:
        folder: what to watch.
        base: where to keep a copy of it as it is now.
        clones: whether the storage is one on which files can share extents, as XFS and Btrfs are.
    """

    def __init__(self, folder: Path, base: Path, *, clones: bool = True) -> None:
        copy_tree(folder, base)
        self._clones = clones
        self._folder = folder
        self._open: dict[int, tuple[Node, int]] = {}  # with the number of the inode
        self._changes: list[Change] = []
        self._lock = threading.RLock()
        self._now: dict[Node, dict[str, Node]] = {}
        root = self._scanned(folder, base)
        self._root = root
        self._base = base

    def _scanned(self, folder: Path, base: Path) -> Node:
        entries = {}
        for path in sorted(folder.iterdir()):
            copy = base / path.name
            entries[path.name] = (
                self._scanned(path, copy) if path.is_dir() else Node(path.name, None, copy)
            )
        node = Node(folder.name, entries)
        self._now[node] = dict(entries)
        return node

    def record(self) -> Record:
        """What was noted; raises AssertionError where the folder is not what that makes of it."""
        record = Record(self._root, self._base, tuple(self._changes))
        whole = Choice(len(record.changes), keep_all(record.changes))
        copy = self._base.with_name(self._base.name + "-whole")
        with States(record, copy.with_name(copy.name + "-cache")) as states:
            states.make(whole, copy)
        assert _listing(copy) == _listing(self._folder), "changes went past the record"
        shutil.rmtree(copy)
        return record

    # ------------------------------------------------------------------ the calls

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Patches the calls; one thread moves the data, so that the same happens each time."""
        calls = {name: getattr(self, method) for name, method in _RECORDED.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "THREADS", 1)
            one_by_one(patch)
            for name, call in calls.items():
                patch.setattr(os, name, self._around(call, getattr(os, name)))
            for name in _UNKNOWN:
                if hasattr(os, name):
                    patch.setattr(os, name, self._refusing(getattr(os, name)))
            patch.setattr(fcntl, "ioctl", self._around(self._ioctl, fcntl.ioctl))
            yield

    def _around(self, call: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                return call(original, *arguments, **named)

        return replacement

    def _refusing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(target: Any, *arguments: Any, **named: Any) -> Any:
            concerned = self._held(target) if isinstance(target, int) else self._inside(target)
            assert not concerned, f"os.{original.__name__} is not recorded"
            return original(target, *arguments, **named)

        return replacement

    def _path(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """Where it lies below the folder; None if it lies elsewhere."""
        if isinstance(path, int):
            return None
        whole = Path(os.fsdecode(path))
        if dir_fd is not None:
            whole = Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / whole
        return whole.relative_to(self._folder) if whole.is_relative_to(self._folder) else None

    def _inside(self, path: Any) -> bool:
        return self._path(path) is not None

    def _held(self, fd: int) -> Node | None:
        """What the descriptor is open for, unless it was closed since and is something else now."""
        node, inode = self._open.get(fd, (None, 0))
        return node if node and os.fstat(fd).st_ino == inode else None

    def _node(self, path: Path) -> Node | None:
        node = self._root
        for part in path.parts:
            found = self._now.get(node, {}).get(part)
            if found is None:
                return None
            node = found
        return node

    def _parent(self, path: Path) -> Node:
        node = self._node(path.parent)
        assert node is not None
        return node

    def _note(self, change: Change) -> None:
        self._changes.append(change)

    def _open_(self, path: Path | None, fd: int, flags: int, existed: bool) -> None:
        if path is None:
            self._open.pop(fd, None)
            return
        node = self._node(path)
        if node is None:
            assert flags & os.O_CREAT
            node = Node(str(path))
            self._enter(path, node)
            self._note(Attribute(node, mode=stat.S_IMODE(os.fstat(fd).st_mode)))
        elif flags & os.O_TRUNC and existed:
            self._note(Resize(node, 0))
        self._open[fd] = node, os.fstat(fd).st_ino

    def _enter(self, path: Path, node: Node) -> None:
        parent = self._parent(path)
        self._now[parent][path.name] = node
        self._note(Enter(parent, path.name, node))

    def _os_open(self, original: Any, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        where = self._path(path, named.get("dir_fd"))
        fd: int = original(path, flags, *rest, **named)
        nameless = flags & os.O_TMPFILE == os.O_TMPFILE  # and gone when it is closed
        self._open_(None if nameless else where, fd, flags, True)
        return fd

    def _os_mkdir(self, original: Any, path: Any, *rest: Any, **named: Any) -> None:
        original(path, *rest, **named)
        where = self._path(path, named.get("dir_fd"))
        if where is not None:
            node = Node(str(where), {})
            self._now[node] = {}
            self._enter(where, node)

    def _os_pwrite(self, original: Any, fd: int, data: Any, offset: int) -> int:
        count: int = original(fd, data, offset)
        if node := self._held(fd):
            self._note(Write(node, offset, bytes(data)[:count]))
        return count

    def _os_pwritev(self, original: Any, fd: int, buffers: Any, offset: int) -> int:
        count: int = original(fd, buffers, offset)
        if node := self._held(fd):
            self._note(Write(node, offset, b"".join(map(bytes, buffers))[:count]))
        return count

    def _os_ftruncate(self, original: Any, fd: int, size: int) -> None:
        original(fd, size)
        if node := self._held(fd):
            self._note(Resize(node, size))

    def _os_fsync(self, original: Any, fd: int) -> None:
        del original  # what is durable is the record's to say: the storage need not be waited for
        if node := self._held(fd):
            self._reconcile(node, Path(f"/proc/self/fd/{fd}"))
            self._note(Sync(node, _site()))

    def _reconcile(self, node: Node, path: Path) -> None:
        """Note what was written through a file object, which calls nothing that we see: JSON."""
        if node.entries is None and ".json" in node.path:
            data = path.read_bytes()
            last = next((e for e in reversed(self._changes) if e.node is node), None)
            if not (isinstance(last, Write) and last.data == data) and data:
                self._note(Write(node, 0, data))

    def _os_rename(self, original: Any, source: Any, target: Any) -> None:
        old, new = self._path(source), self._path(target)
        assert (old is None) == (new is None)
        if old is not None and new is not None:
            node, parent = self._node(old), self._parent(new)
            assert node is not None
            original(source, target)
            del self._now[self._parent(old)][old.name]
            self._now[parent][new.name] = node
            # from folder to folder, too, it happens as a whole; by the new one's fsync for good
            self._note(Enter(parent, new.name, node, old.name))
        else:
            original(source, target)

    def _os_unlink(self, original: Any, path: Any, **named: Any) -> None:
        where = self._path(path, named.get("dir_fd"))
        original(path, **named)
        if where is not None:
            parent = self._parent(where)
            self._note(Leave(parent, where.name, self._now[parent].pop(where.name)))

    def _os_chmod(self, original: Any, path: Any, mode: int, **named: Any) -> None:
        original(path, mode, **named)
        where = self._path(path)
        if where is not None and (node := self._node(where)):
            self._note(Attribute(node, mode=mode))

    def _os_fchmod(self, original: Any, fd: int, mode: int) -> None:
        original(fd, mode)
        if node := self._held(fd):
            self._note(Attribute(node, mode=mode))

    def _os_utime(self, original: Any, path: Any, *rest: Any, **named: Any) -> None:
        original(path, *rest, **named)
        where = self._path(path)
        if where is not None and (node := self._node(where)):
            self._note(Attribute(node, mtime=os.stat(path).st_mtime_ns))

    def _ioctl(self, original: Any, fd: Any, request: int, argument: Any = 0, *rest: Any) -> Any:
        """Cloning a file works or not as was wanted: to clone, the contents are copied."""
        if request not in (host_file._FICLONE, host_file._FICLONERANGE):
            return original(fd, request, argument, *rest)
        if not self._clones:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        target = fd if isinstance(fd, int) else fd.fileno()
        whole = request == host_file._FICLONE
        source, start, length, offset = (
            (argument, 0, 0, 0) if whole else host_file._CLONE_RANGE.unpack(argument)
        )
        length = length or os.fstat(source).st_size - start
        data = os.pread(source, length, start)
        assert len(data) == length, "extents behind the end of a file cannot be shared"
        with open(f"/proc/self/fd/{target}", "r+b") as file:
            file.seek(offset)
            file.write(data)
        if node := self._held(target):
            self._note(Write(node, offset, data))
        return 0


_RECORDED = {
    "open": "_os_open", "mkdir": "_os_mkdir", "pwrite": "_os_pwrite", "pwritev": "_os_pwritev",
    "ftruncate": "_os_ftruncate", "fsync": "_os_fsync", "rename": "_os_rename",
    "replace": "_os_rename", "unlink": "_os_unlink", "remove": "_os_unlink", "rmdir": "_os_unlink",
    "chmod": "_os_chmod", "fchmod": "_os_fchmod", "utime": "_os_utime",
}  # fmt: skip


def _site() -> str:
    """The place in the code that wants an fsync: who calls HostFile.sync, sync_folder and such."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ or "sync" in frame.f_code.co_name:
        assert frame.f_back is not None
        frame = frame.f_back
    module = str(frame.f_globals["__name__"]).removeprefix("vdbackup.")
    return f"{module}:{frame.f_code.co_qualname}:{frame.f_lineno}"


def _listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's and folder's contents and mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        data = b"" if path.is_dir() else sparse.digest(path)
        found[str(path.relative_to(folder))] = data, 0 if path.is_dir() else path.stat().st_mode
    return found
