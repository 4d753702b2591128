"""What the operating system says of storage, and what that means for the user."""

from __future__ import annotations

import errno

from vdbackup.errors.base import VdbackupError
from vdbackup.errors.repository import RepositoryError
from vdbackup.translation import tr

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What storage says to a user who cannot write there."""


class StorageError(RepositoryError):
    """The operating system says that something is wrong with storage."""

    code = "storage-failed"


class NoSpace(StorageError):
    """The storage that is written to is full."""

    code = "no-space"


class FileTooLarge(StorageError):
    """The storage takes no file as large as one would become: FAT none of 4 GiB."""

    code = "file-too-large"


class ReadOnly(StorageError):
    """The storage cannot be written to by anybody."""

    code = "storage-read-only"


class NotPermitted(StorageError):
    """Whoever owns a file or folder does not allow that."""

    code = "not-permitted"


class StorageLost(StorageError):
    """The storage does not answer, or is gone."""

    code = "storage-lost"


def too_large_advice() -> str:
    """What there is to do where a file would be too large."""
    return tr(
        "Use storage that takes larger files: FAT takes less than 4 GiB, while ext4, XFS, NTFS "
        "and exFAT take more."
    )


def from_os(error: OSError) -> VdbackupError:
    """What an operating system's error means for the user."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _no_room(error, where)
    if error.errno == errno.EROFS:
        return ReadOnly(
            tr("The storage is read-only{where}.", where=where),
            tr("Mount it writable, or choose another folder."),
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(
            tr("You may not do that{where}: {reason}.", where=where, reason=error.strerror),
            tr("Check who owns the file or folder and what they allow."),
        )
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return StorageLost(
            tr(
                "The storage does not answer as it should{where}: {reason}.",
                where=where,
                reason=error.strerror,
            ),
            tr("Check its connection and the kernel's log, then try again."),
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN):
        return StorageLost(
            tr(
                "Something that is needed is not there any more{where}: {reason}.",
                where=where,
                reason=error.strerror,
            ),
            tr("Check that the storage is connected and the folder where it was, then try again."),
        )
    return VdbackupError(f"{error.strerror or error}{where}.", tr("The log says more."))


def _no_room(error: OSError, where: str) -> StorageError:
    if error.errno == errno.EFBIG:
        return FileTooLarge(
            tr("The storage takes no file as large as this one becomes{where}.", where=where),
            too_large_advice(),
        )
    return NoSpace(
        tr("The storage is full{where}.", where=where),
        tr("Free some space on it, then try again; no point was lost."),
    )
