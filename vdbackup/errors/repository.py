"""The folder that holds the backups, and what describes them there."""

from __future__ import annotations

from vdbackup.errors.base import VdbackupError


class RepositoryError(VdbackupError):
    """The folder that holds the backups cannot be used."""

    code = "repository-unusable"


class NoRepository(RepositoryError):
    """There is no repository in a folder, or none can be made there."""

    code = "no-repository"


class NewerLayout(RepositoryError):
    """A newer version of this program has made it, in a layout that is not known here."""

    code = "newer-layout"


class RepositoryLocked(RepositoryError):
    """Somebody else is writing to the repository."""

    code = "repository-locked"


class LockLost(RepositoryError):
    """The repository was ours, and somebody else has taken it over: nothing may be changed now."""

    code = "lock-lost"


class PointNotFound(RepositoryError):
    """No recovery point, or more than one, answers to what was asked for."""

    code = "point-not-found"


class NotWritten(PointNotFound):
    """No writes of a machine from the point are kept, so there are no moments behind it."""

    code = "no-writes-kept"


class MachineNotFound(RepositoryError):
    """No machine has the name that was asked for."""

    code = "machine-not-found"


class NotWhole(RepositoryError):
    """A moment of a machine lacks the points of some of its disks."""

    code = "moment-incomplete"


class NotRepaired(RepositoryError):
    """Something in a repository is damaged, and could not be made again."""

    code = "not-repaired"


class Obstructed(RepositoryError):
    """What bears the name of one of our files is none: a link, a pipe, or far too long."""

    code = "obstructed"


class DamagedMetadata(RepositoryError):
    """What describes sets and points is damaged or missing: it can be made again from the disks."""

    code = "metadata-damaged"


class SetExists(RepositoryError):
    """Something else has the name that a new set was to have."""

    code = "set-exists"


class BadSetName(RepositoryError):
    """No set can have that name."""

    code = "set-name-unfit"


class ChainTooLong(RepositoryError):
    """A point reads through as many layers as are read: no other may read through it."""

    code = "chain-too-long"


class RecordTooLong(RepositoryError):
    """A record would become longer than one that is read."""

    code = "record-too-long"


class LiesTwice(RepositoryError):
    """A file of a point lies there twice, in place and in flight: nobody knows which is meant."""

    code = "file-twice"
