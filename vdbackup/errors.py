"""Every error that a user can meet, in one hierarchy.

    VdbackupError                 exit status 1
    ├── UsageError                2   the command line asks for something that does not exist
    ├── Cancelled                 130 the user stopped it; not a failure
    ├── DiskError                 a virtual-disk file is not what it should be
    │   ├── DiskFormatError       its structures are broken; names the file and the offset
    │   │   └── DamagedDigests    a file of digests, by which a layer is checked
    │   └── ParentError           its parent is missing, is another disk, or lies where it must not
    ├── SourceError               what is to be backed up cannot be read
    │   └── Unreadable            one stretch of it gives an error; others may be readable
    ├── RepositoryError           the folder that holds the backups
    │   ├── RepositoryLocked      somebody else is writing; names who
    │   ├── LockLost              somebody else took it over while this computer slept
    │   ├── PointNotFound         no such recovery point, or more than one
    │   ├── Obstructed            what bears the name of one of our files is none: a link, a pipe
    │   └── NoSpace               the storage is full
    ├── BackupError               capture, merge, delete: refused or failed
    │   ├── PointInUse            a virtual machine runs from it, or a session is kept on it
    │   └── OtherSource           the set holds the backups of another source, or may do
    └── RecoveryError             restore, boot, browse, verify: refused or failed
        └── Damaged               stored data differ from what was captured

Each carries two sentences: `title` says what is wrong, `advice` says what to do. Where this program
itself has something for it, `remedy` says which, and each front end names it in words of its own: a
command or an option, a button or a menu. Whatever else is worth knowing goes to the log
(`logging`), never to the user.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What storage says to a user who cannot write there."""


class Remedy(StrEnum):
    """What this program has for who meets an error; worded by `cli.remedies` and `gui.remedies`."""

    CHOOSE_HARDWARE = "let the machine have other hardware"
    END_SESSION = "end a session, and discard it or make a point of it"
    END_SESSION_ELSEWHERE = "the same on another computer, or let go of what it holds"
    GIVE_DRIVERS = "name a folder with drivers for Windows"
    IGNORE_DAMAGE = "restore what is whole of a damaged point"
    LIST_DEVICES = "see which block devices there are"
    LIST_POINTS = "see which sets and points there are"
    LIST_SESSIONS = "see which sessions there are"
    NAME_ANOTHER_SET = "keep the backups in a set of another name"
    NAME_PARENTS = "name the folder that a disk's parents lie in"
    NAME_SET = "say which of several sets is meant"
    NO_DISPLAY = "start the machine without a window"
    OVERWRITE = "replace what is there"
    REPAIR = "rebuild metadata from the disks"
    RETARGET = "make a point ready to boot anew"
    SAY_NOT_RUNNING = "say that another program's machine does not run"
    SAY_SAME_SOURCE = "go on in a set with a source that does not look like its own"
    SAY_WHAT_IT_IS = "say which format a source is in"
    SET_KEEPS_ITS_FORMAT = "leave a set's format as it is, or begin another set"
    VERIFY = "see which points are whole"


class VdbackupError(Exception):
    """Base of all errors that are shown to a user.

    Attributes:
        title: one sentence that says what is wrong.
        advice: one sentence that says what to do about it (may be empty).
        over: where it helps to wait: asks whether what is in the way has gone; else None.
        remedy: what this program has for it, None where nothing.
        about: what the remedy is for, such as a session's id.
    """

    exit_code = 1

    def __init__(
        self,
        title: str,
        advice: str = "",
        *,
        over: Callable[[], bool] | None = None,
        remedy: Remedy | None = None,
        about: str = "",
    ) -> None:
        super().__init__(f"{title} {advice}".rstrip())
        self.title = title
        self.advice = advice
        self.over = over
        self.remedy = remedy
        self.about = about


def from_os(error: OSError) -> VdbackupError:
    """What an operating system's error means for the user."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"The storage is full{where}.", "Make room on it, then try again; no point was lost."
        )
    if error.errno == errno.EROFS:
        return RepositoryError(
            f"The storage is read-only{where}.", "Mount it writable, or choose another folder."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return RepositoryError(
            f"You may not do that{where}: {error.strerror}.",
            "Check who owns the file or folder and what they allow.",
        )
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return RepositoryError(
            f"The storage does not answer as it should{where}: {error.strerror}.",
            "Check its connection and the kernel's log, then try again.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN):
        return RepositoryError(
            f"Something that is needed is not there any more{where}: {error.strerror}.",
            "Check that the storage is connected and the folder where it was, then try again.",
        )
    return VdbackupError(f"{error.strerror or error}{where}.", "The log says more.")


class UsageError(VdbackupError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class Cancelled(VdbackupError):
    """The user stopped the work."""

    exit_code = 130

    def __init__(self, title: str = "Cancelled.", advice: str = "Nothing was changed.") -> None:
        super().__init__(title, advice)


class DiskError(VdbackupError):
    """A virtual-disk file cannot be used."""


class DiskFormatError(DiskError):
    """A virtual-disk file breaks its format's rules.

    Attributes:
        path: the file.
        offset: where in the file, in bytes, the broken structure starts.
    """

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged or is not a valid virtual disk: {problem} (at byte {offset}).",
            "Restore the file from a copy, or use another recovery point.",
        )
        self.path = path
        self.offset = offset


class DamagedDigests(DiskFormatError):
    """A layer's file of digests is damaged; the layer itself may be whole."""

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        VdbackupError.__init__(
            self,
            f"{path.name} is damaged: {problem} (at byte {offset}).",
            "Put back a good copy of the file, or let it be computed again from what the disk is "
            "now.",
            remedy=Remedy.REPAIR,
        )
        self.path = path
        self.offset = offset


class ParentError(DiskError):
    """The parent that a child disk names cannot be used."""


class SourceError(VdbackupError):
    """What is to be backed up cannot be read."""


class Unreadable(SourceError):
    """A stretch of the source gives a read error: smaller pieces of it may be readable."""


class RepositoryError(VdbackupError):
    """The folder that holds the backups cannot be used."""


class RepositoryLocked(RepositoryError):
    """Somebody else is writing to the repository."""


class LockLost(RepositoryError):
    """The repository was ours, and somebody else has taken it over: nothing may be changed now."""


class PointNotFound(RepositoryError):
    """No recovery point, or more than one, answers to what was asked for."""


class Obstructed(RepositoryError):
    """What bears the name of one of our files is none: a link, a pipe, or far too long."""


class NoSpace(RepositoryError):
    """The storage that is written to is full."""


class BackupError(VdbackupError):
    """A capture, merge or deletion was refused or failed."""


class PointInUse(BackupError):
    """A virtual machine runs from a recovery point, or a session is kept on it."""


class OtherSource(BackupError):
    """A set holds the backups of another source than the one to be backed up, or may do.

    Attributes:
        set_name: the set.
        known: the source that it belongs to, in words that tell it from others.
        now: the one to be backed up.
        reasons: what is the same of both, and what is not.
        sure: whether it is another one; else it may be.
    """

    def __init__(self, set_name: str, known: str, now: str, reasons: str, *, sure: bool) -> None:
        other = "is another source" if sure else "may be another source"
        super().__init__(
            f"The set {set_name} belongs to {known}; {now} {other}: {reasons}.",
            "Choose another set, or say that it is meant to go on there.",
            remedy=Remedy.SAY_SAME_SOURCE,
        )
        self.set_name, self.known, self.now = set_name, known, now
        self.reasons, self.sure = reasons, sure


class RecoveryError(VdbackupError):
    """A restore, boot, browse or verification was refused or failed."""


class NoSystem(RecoveryError):
    """There is no system on a disk that could be booted, and there was none before: it is data."""


class Damaged(RecoveryError):
    """Stored data differ from what was captured."""
