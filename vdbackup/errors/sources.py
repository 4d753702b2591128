"""What is to be backed up cannot be read, or not as of one moment."""

from __future__ import annotations

import errno

from vdbackup.errors.base import VdbackupError
from vdbackup.translation import tr


class SourceError(VdbackupError):
    """What is to be backed up cannot be read."""

    code = "source-unusable"


class SourceNotFound(SourceError):
    """What is to be backed up is not there."""

    code = "source-not-found"


class Unreadable(SourceError):
    """A stretch of the source gives a read error: smaller pieces of it may be readable."""

    code = "source-unreadable"


UNREADABLE = frozenset({errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ})
"""Numbers by which Linux says that a medium cannot be read in one place: what `Unreadable` is made
of (block/blk-core.c, blk_errors)."""


class NotADisk(SourceError):
    """What was named as a source is no disk: a folder, a pipe, or empty."""

    code = "not-a-disk"


class SourceNotPermitted(SourceError):
    """Whoever wants to back it up may not read it."""

    code = "source-not-permitted"


class SourceLost(SourceError):
    """What is backed up went away, shrank or fails as a whole while it is read."""

    code = "source-lost"


class FileSystemNotMade(SourceError):
    """The file system that chosen files are kept in cannot be made, read or written."""

    code = "file-system-not-made"


class SourceInUse(SourceError):
    """Another program writes to what is to be taken over as it is."""

    code = "source-in-use"


class SourceNotOpened(SourceError):
    """The operating system does not let what is to be backed up be opened."""

    code = "source-not-opened"


class DamagedSource(SourceError):
    """A virtual disk that is to be backed up breaks its format's rules."""

    code = "source-damaged"


class NotFrozen(SourceError):
    """The file systems of a source could not be frozen together."""

    code = "not-frozen"


class NotFreezable(NotFrozen):
    """A file system knows no freezing.

    Attributes:
        where: it is mounted.
    """

    code = "not-freezable"

    def __init__(self, where: str) -> None:
        super().__init__(
            tr("The file system at {where} cannot be frozen.", where=where),
            tr("Unmount it, or back its disk up as it is."),
        )
        self.where = where


class FrozenElsewhere(NotFrozen):
    """A file system is frozen already, by another program."""

    code = "frozen-elsewhere"


class FreezeUndone(NotFrozen):
    """File systems did not stay frozen for as long as was needed."""

    code = "freeze-undone"


class DevicesNotListed(SourceError):
    """The block devices of this computer cannot be listed."""

    code = "devices-not-listed"
