"""A Btrfs subvolume, and a snapshot of it that is read in its place for the length of one backup.

The kernel is asked itself: no program is needed. A snapshot lies in the root of its subvolume, in a
folder whose name says which process it is for; what a killed one has left goes with the next
backup. Whose that root is may give that name to any other snapshot in it, of which root alone may
delete anything: so ours is made and removed through the folder, which is open, into which nobody
else can move anything, and which is known by its permissions. In such a one nothing goes either but
what may not be written to, and is this subvolume's snapshot.

Source: Linux, include/uapi/linux/btrfs.h, fs/btrfs/ioctl.c.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.errors import NotFrozen
from vdbackup.processes import start_of
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

ROOT_INODE, EMPTY_INODE = 256, 2
"""Of a subvolume's root, and of what stands in a snapshot for a subvolume that lies in it."""
NAME = re.compile(rb"\.vdbackup-snapshot-(\d+)-(\d+)-\d+")
"""Of the folder: the number and the start of the process that it is for, and how many before."""
_INSIDE = b"snapshot"
_MARKED = 0o1700
"""The folder's permissions, which no other has: root's alone, and where none but it may delete."""
_CREATE, _DESTROY, _INFO, _FLAGS = 0x50009417, 0x5000940F, 0x81F8943C, 0x80089419
"""BTRFS_IOC_SNAP_CREATE_V2, _SNAP_DESTROY, _GET_SUBVOL_INFO, _SUBVOL_GETFLAGS."""
_READ_ONLY = 2
_ARGS = 4096
"""Bytes of what both are told."""
_UUIDS = struct.Struct("=8s256s8s8s8s8s16s16s")
"""Id, name, parent's id, folder, generation, flags; own UUID, and that of what it was made of."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNTS = Path("/proc/self/mountinfo")
_made = itertools.count()


@dataclass(frozen=True)
class Subvolume:
    """One that chosen files lie on.

    Attributes:
        path: of its root.
        device: by which the kernel knows it (stat.st_dev).
    """

    path: bytes
    device: int

    @classmethod
    def of(cls, path: bytes) -> Subvolume | None:
        """That on which a file or folder lies; None where it is another file system.

        None, too, where its root is not to be seen on the way to it, as in a bind mount, or where
        another part of it is: in a snapshot lies there what that hides. Raises OSError.
        """
        device, chosen = os.lstat(path).st_dev, path
        while True:
            found = os.lstat(path)
            if found.st_dev != device:
                return None
            if found.st_ino == ROOT_INODE and _is_btrfs(path):
                return None if mounted_between(path, chosen) else cls(path, device)
            if path == b"/":
                return None
            path = os.path.dirname(path)

    def hindrance(self) -> str:
        """Why this user has no snapshot made of it, a sentence; "" where nothing is known.

        Who may make one but not remove it again makes none.
        """
        if os.geteuid() == 0:
            return ""
        return tr(
            "only root can have a snapshot of {path} made and removed.",
            path=printable(os.fsdecode(self.path)),
        )

    def snapshot(self) -> Snapshot:
        """Make one; raises NotFrozen."""
        return Snapshot(self)


class Snapshot:
    """One that is there until it is closed. A context manager.

    Attributes:
        fd: of its root.
        device: by which the kernel knows it.
    """

    def __init__(self, of: Subvolume) -> None:
        """Make it; raises NotFrozen where the kernel does not."""
        self._above = self._folder = -1
        self.fd = -1
        own = os.getpid()
        self._name = b".vdbackup-snapshot-%d-%d-%d" % (own, start_of(own) or 0, next(_made))
        try:
            self._above = os.open(of.path, _FOLDER)
            if os.fstat(self._above).st_dev != of.device:
                raise OSError(tr("it is another one now"))
            _sweep(self._above)
            self._folder = _own_folder(self._name, self._above)
            fcntl.ioctl(self._folder, _CREATE, _creating(self._above, _INSIDE))
            self.fd = os.open(_INSIDE, _FOLDER, dir_fd=self._folder)
            self.device = os.fstat(self.fd).st_dev
        except OSError as error:
            self.close()
            raise NotFrozen(
                tr(
                    "No snapshot of {path} can be made: {reason}.",
                    path=printable(os.fsdecode(of.path)),
                    reason=error.strerror or str(error),
                )
            ) from error

    def check(self) -> None:
        """It is what it was for as long as it is there."""

    def close(self) -> None:
        """Remove it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._folder >= 0:
            try:
                _remove(self._name, self._folder, self._above)
            except OSError:  # the next backup tries again
                log.warning("the snapshot %r is still there", self._name, exc_info=True)
            os.close(self._folder)
            self._folder = -1
        if self._above >= 0:
            os.close(self._above)
            self._above = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mounted_below(paths: tuple[bytes, ...]) -> frozenset[bytes]:
    """Where something is mounted in these folders; in a snapshot lies there what that hides."""
    return frozenset(
        place
        for place in _mounted()
        if any(place != path and _is_at_or_in(place, path) for path in paths)
    )


def mounted_between(above: bytes, path: bytes) -> bool:
    """Whether something is mounted on the way from a folder to a path in it, or there."""
    return any(
        place != above and _is_at_or_in(place, above) and _is_at_or_in(path, place)
        for place in _mounted()
    )


def _is_at_or_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _mounted() -> list[bytes]:
    """Where anything is mounted."""
    places = (line.split()[4] for line in _MOUNTS.read_bytes().splitlines())
    return [
        re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), place) for place in places
    ]


def _is_btrfs(path: bytes) -> bool:
    """Whether the kernel answers for a subvolume there."""
    try:
        fd = os.open(path, _FOLDER)
    except OSError:
        return False
    try:
        fcntl.ioctl(fd, _INFO, bytearray(504))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _creating(source: int, name: bytes) -> bytearray:
    """A btrfs_ioctl_vol_args_v2: of which, that it is to be read only, its name."""
    head = struct.pack("=qQQ32x", source, 0, _READ_ONLY)
    return bytearray((head + name).ljust(_ARGS, b"\0"))  # of bytes fcntl takes 1,024 at most


def _own_folder(name: bytes, above: int) -> int:
    """Make the folder for a snapshot; raises OSError, also where another has taken its name."""
    os.mkdir(name, 0o700, dir_fd=above)
    fd = os.open(name, _FOLDER, dir_fd=above)
    try:
        if os.fstat(fd).st_uid != os.geteuid() or os.listdir(fd):
            raise OSError(tr("it is another one now"))
        os.fchmod(fd, _MARKED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove(name: bytes, folder: int, above: int) -> None:
    """Delete the snapshot in a folder of ours, and that if it still has its name."""
    own = _uuids(above)[0]
    # Opened anew: Btrfs lists of a folder what was in it when it was opened (Linux 6.5 and on).
    listed = os.open(b".", _FOLDER, dir_fd=folder)
    try:
        names = os.listdir(listed)
    finally:
        os.close(listed)
    for inner in map(os.fsencode, names):
        fd = os.open(inner, _FOLDER, dir_fd=folder)
        try:
            is_ours = os.fstat(fd).st_ino == ROOT_INODE and _uuids(fd)[1] == own
            is_ours = is_ours and _is_read_only(fd)
        finally:
            os.close(fd)
        if is_ours:
            _destroy(folder, inner)
    there, ours = os.stat(name, dir_fd=above, follow_symlinks=False), os.fstat(folder)
    if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
        os.rmdir(name, dir_fd=above)


def _destroy(above: int, name: bytes) -> None:
    """A btrfs_ioctl_vol_args: no descriptor, the name."""
    fcntl.ioctl(above, _DESTROY, bytearray((struct.pack("=q", 0) + name).ljust(_ARGS, b"\0")))


def _sweep(above: int) -> None:
    """Remove what backups that were killed have left of this subvolume."""
    for name in map(os.fsencode, os.listdir(above)):
        match = NAME.fullmatch(name)
        if match is None or start_of(int(match[1])) == int(match[2]):
            continue
        try:
            fd = os.open(name, _FOLDER, dir_fd=above)
            try:
                found = os.fstat(fd)
                if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _MARKED:
                    _remove(name, fd, above)
            finally:
                os.close(fd)
        except OSError:
            log.warning("%r was left by a backup, and cannot be removed", name, exc_info=True)


def _uuids(fd: int) -> tuple[bytes, bytes]:
    """Of a subvolume its own UUID, and that of what it is a snapshot of."""
    info = bytearray(504)
    fcntl.ioctl(fd, _INFO, info)
    *_, own, parent = _UUIDS.unpack_from(info)
    return own, parent


def _is_read_only(fd: int) -> bool:
    flags = bytearray(8)
    fcntl.ioctl(fd, _FLAGS, flags)
    return bool(int.from_bytes(flags, "little") & _READ_ONLY)
