"""Give new files and folders what is known of the old ones beside their bytes.

Owners only root can give; who else extracts owns what is made. Bits and capabilities that give
whoever runs a file the rights of others (set-user-id, set-group-id, security.capability) are never
given: the disk may be anybody's, and the folder may be open to all. Where the destination has no
place for something, it is left out; that is said once for each kind, with how many files it was.
"""

from __future__ import annotations

import errno
import logging
import os
import stat as posix
from collections.abc import Iterator
from contextlib import contextmanager

from vdbackup.errors import RecoveryError
from vdbackup.recovery.pinned import pinned
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Node, Stat, reading

log = logging.getLogger(__name__)

_NO_SUCH_THING = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
"""What a file system, or the kernel for this user, says where something cannot be."""
_NO_PLACE = (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL, errno.EDQUOT)
_NO_TIMES = (*_NO_SUCH_THING, errno.EINVAL, errno.EOVERFLOW)
RIGHTS = posix.S_ISUID | posix.S_ISGID
"""Of permissions those that give whoever runs a file the rights of others."""
CAPABILITY = "security.capability"
_NEVER = frozenset({CAPABILITY, "security.ima", "security.evm"})
"""Rights; and seals of the file that it was."""
_OF_ROOT = ("trusted.", "security.")


class Giver:
    """Gives, and remembers what it could not."""

    def __init__(self) -> None:
        self._is_root = os.geteuid() == 0
        self._left_out: dict[str, tuple[str, str, int]] = {}
        """By kind: the first file of which it was left out, the last one, and how many."""

    def warnings(self) -> list[str]:
        """What was left out, a sentence for each kind."""
        return [
            tr("{what} left out: of {first}", what=what, first=printable(first))
            + (tr(" and {count} more.", count=count - 1) if count > 1 else ".")
            for what, (first, _, count) in self._left_out.items()
        ]

    def give(self, fd: int, path: str, node: Node, stat: Stat) -> None:
        """To an open file or folder; owner first, which takes rights away, and times last.

        Raises OSError where the storage fails.
        """
        self._give_owner(fd, path, stat)
        is_file = posix.S_ISREG(os.fstat(fd).st_mode)
        if self._is_root and stat.owner is not None:  # others have a umask, which is heeded
            give_mode(fd, stat.mode & (0o777 if is_file else 0o1777))
        if stat.mode & RIGHTS and is_file:
            self.withhold(path, stat.mode & RIGHTS, b"")
        self._give_attributes(fd, path, node)
        give_times(fd, stat)

    def withhold(self, path: str, bits: int, capability: bytes) -> None:
        """Rights of others that a file had, of RIGHTS or as its attribute, are not given."""
        what = tr("Rights of others (set-user-id, set-group-id, capabilities) are")
        self._leave_out(what, path)

    def give_link(self, name: str, folder: int, path: str, stat: Stat) -> None:
        """To a symbolic link in an open folder, and to nothing that has its name by now."""
        with pinned(name, folder) as (at, made):
            if not posix.S_ISLNK(made.st_mode) or made.st_nlink != 1:
                return
            if self._is_root and stat.owner is not None:
                with self._as_far_as_possible(tr("Owners are"), path):
                    os.chown(at, *stat.owner)
            if stat.modified is not None:
                with _as_far_as_it_can():
                    os.utime(at, ns=_times(stat))

    def _give_owner(self, fd: int, path: str, stat: Stat) -> None:
        if not self._is_root or stat.owner is None:
            return
        before = os.fstat(fd)
        if (before.st_uid, before.st_gid) != stat.owner:
            with self._as_far_as_possible(tr("Owners are"), path):
                os.fchown(fd, *stat.owner)

    def _give_attributes(self, fd: int, path: str, node: Node) -> None:
        try:
            with reading(path):
                attributes = node.attributes()
        except RecoveryError as error:
            log.info("%s", error.title)
            self._leave_out(tr("Attributes that cannot be read are"), path)
            return
        for name, value in attributes.items():
            if name in _NEVER:
                if name == CAPABILITY:
                    self.withhold(path, 0, value)
            elif self._is_root or not name.startswith(_OF_ROOT):
                is_list = name.startswith("system.posix_acl_")
                what = tr("Access control lists are") if is_list else tr("Extended attributes are")
                with self._as_far_as_possible(what, path):
                    os.setxattr(fd, name, value)

    @contextmanager
    def _as_far_as_possible(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (*_NO_SUCH_THING, *_NO_PLACE):
                raise
            log.info("%s: %s", path, error)
            self._leave_out(what, path)

    def _leave_out(self, what: str, path: str) -> None:
        first, last, count = self._left_out.get(what, (path, "", 0))
        if path != last:  # one file is counted once
            self._left_out[what] = first, path, count + 1


def give_times(fd: int, stat: Stat) -> None:
    """When it was read and modified, in ns, as far as the file system has a place for that."""
    if stat.modified is not None:
        with _as_far_as_it_can():
            os.utime(fd, ns=_times(stat))


def give_mode(fd: int, mode: int) -> None:
    """Its permissions, no more than the file system has."""
    with _as_far_as_it_can():
        os.fchmod(fd, mode)


def _times(stat: Stat) -> tuple[int, int]:
    modified = stat.modified or 0
    return (modified if stat.accessed is None else stat.accessed, modified)


@contextmanager
def _as_far_as_it_can() -> Iterator[None]:
    """For what a file system may have no place for: the file itself is worth more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_TIMES:
            raise
        log.info("the destination keeps no such time or permission: %s", error)
