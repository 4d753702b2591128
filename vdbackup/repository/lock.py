"""One writer at a time: a lock that names its holder and outlives no crash.

The kernel drops a flock(2) when its process dies, however it dies; the file's content only says who
holds it. (Not fcntl's record locks: those go as soon as the process closes the file anywhere.)
Linux carries flock over NFS and SMB.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.errors import RepositoryLocked

LOCK_NAME = ".lock"


@contextmanager
def writer_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Hold the repository in `folder` for writing; raises RepositoryLocked, naming the holder.

    Args:
        folder: the repository's.
        purpose: what the holder does, in words ("backing up laptop-sda").
    """
    fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepositoryLocked(
                f"{folder} is in use: {_holder(fd)}.", "Wait until that is done, then try again."
            ) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "purpose": purpose,
        }
        _say(fd, json.dumps(holder))
        try:
            yield
        finally:
            _say(fd, "")
    finally:
        os.close(fd)


def _say(fd: int, holder: str) -> None:
    """Who holds the lock, as far as a full disk lets us: the lock itself is the kernel's."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, holder.encode(), 0)


def _holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return (
            f"process {holder['pid']} on {holder['host']} is {holder['purpose']} "
            f"since {holder['since']}"
        )
    except (ValueError, KeyError, TypeError):  # the holder is just writing it
        return "another program is writing to it"


def used_by_vm(path: Path) -> bool:
    """Whether QEMU has the file open.

    QEMU holds record locks on bytes from 100 on, one for each permission that it uses or denies
    (block/file-posix.c, RAW_LOCK_PERM_BASE).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # struct flock: type, whence, start, length, pid; asked as if we wanted to write there
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    finally:
        os.close(fd)
    kind: int = struct.unpack("hhqqi4x", answer)[0]
    return kind != fcntl.F_UNLCK
