"""What else belongs to a file than its content: given as far as that may be, foretold where not.

Owners, devices, capabilities and what programs of root's keep in attributes only root can give.
Attributes and access control lists need a file system that has a place for them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vdbackup.sources.file_sets.inode import Inode
from vdbackup.translation import grouped, tr

NOT_FOR_US = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What is said of an owner, an attribute or a device that only root may give, or that the file
system has no place for."""
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_OF_ROOT = ("trusted.", "security.")
_NEW_RIGHTS = stat.S_ISUID | stat.S_ISGID
_OWNERS, _DEVICES, _ROOTS, _ATTRIBUTES, _ACLS = (
    tr("owners: who is not root gets them as their own"),
    tr("devices: only root can make them"),
    tr("capabilities and attributes that only root may give"),
    tr("extended attributes: the file system there has no place for them"),
    tr("access control lists: the file system there has no place for them"),
)


def describe(what: int | str, inode: Inode, attributes: Mapping[str, bytes]) -> bool:
    """Give a file all that it had beside its content; whether all of that could be.

    Owner first, which takes capabilities away; then permissions, attributes, times. Where it is
    somebody else's now, nobody gets that one's rights by it.

    Args:
        what: a descriptor, or the path of what is pinned.
        inode: what is to be restored.
        attributes: of that, as the kernel has them.

    Raises OSError where the storage fails.
    """
    complete = True
    with _as_far_as_may_be() as refused:
        os.chown(what, *inode.owner)
    complete &= not refused
    if not stat.S_ISLNK(inode.mode):
        mode = stat.S_IMODE(inode.mode)
        if refused and stat.S_ISREG(inode.mode):
            mode &= ~_NEW_RIGHTS
        with _as_far_as_may_be() as refused:
            os.chmod(what, mode)
        complete &= not refused
    for name, value in attributes.items():
        with _as_far_as_may_be() as refused:
            os.setxattr(what, name, value)
        complete &= not refused
    with _as_far_as_may_be() as refused:
        os.utime(what, ns=(inode.accessed, inode.known.modified))
    return complete and not refused


@contextmanager
def _as_far_as_may_be() -> Iterator[list[OSError]]:
    refused: list[OSError] = []
    try:
        yield refused
    except OSError as error:
        if error.errno not in NOT_FOR_US:
            raise
        refused.append(error)


class Foretold:
    """What will not come back as it was, counted file by file.

    Args:
        there: the folder that all goes to, or the nearest one that is there.
    """

    def __init__(self, there: Path) -> None:
        self._user = os.geteuid()
        self._groups = {os.getegid(), *os.getgroups()}
        self._has_attributes = _has_place(there, "user.vdbackup")
        self._has_acls = _has_place(there, _ACCESS)
        self._counted: Counter[str] = Counter()

    def note(self, inode: Inode, attributes: Callable[[], Mapping[str, bytes]]) -> None:
        """Count what is going to be refused of a file."""
        if self._user:
            user, group = inode.owner
            self._counted[_OWNERS] += user != self._user or group not in self._groups
            self._counted[_DEVICES] += stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
        complete = self._has_attributes and self._has_acls and not self._user
        if complete or not inode.has_attributes:
            return
        names = attributes().keys()
        if self._user:
            self._counted[_ROOTS] += any(name.startswith(_OF_ROOT) for name in names)
        if not self._has_attributes:
            self._counted[_ATTRIBUTES] += any(name.startswith("user.") for name in names)
        if not self._has_acls:
            self._counted[_ACLS] += not names.isdisjoint((_ACCESS, _DEFAULT))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What will not, of how many files, a sentence for each kind."""
        return tuple(
            tr("Cannot be restored there: {what} ({count}).", what=what, count=grouped(count))
            for what, count in self._counted.items()
            if count
        )


def _has_place(folder: Path, name: str) -> bool:
    """Whether the file system there keeps such an attribute; nothing is written."""
    try:
        os.getxattr(folder, name)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS)
    return True
