"""Every error that a user can meet, in one hierarchy.

    VdbackupError           exit status 1
    ├── UsageError          2   the command line asks for something that does not exist
    ├── Cancelled           130 the user stopped it; not a failure
    ├── Unexpected          a fault of this program
    ├── DiskError           a virtual-disk file is not what it should be
    ├── SourceError         what is to be backed up cannot be read
    ├── RepositoryError     the folder that holds the backups
    │   └── StorageError    what the operating system says of the storage
    ├── BackupError         capture, merge, delete: refused or failed
    ├── AgentError          what only root may do to a volume in use: refused or failed
    └── RecoveryError       restore, boot, browse, verify: refused or failed

Each carries two sentences: `title` says what is wrong, `advice` says what to do. Where this program
itself has something for it, `remedy` says which, and each front end names it in words of its own: a
command or an option, a button or a menu. `code` says to another program which class it is: it stays
the same when a class gets another name, and `resources/manual/json.md` lists all of them. Whatever
else is worth knowing goes to the log (`logging`), never to the user.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What storage says to a user who cannot write there."""


class Remedy(StrEnum):
    """What this program has for who meets an error; worded by `cli.remedies` and `gui.remedies`."""

    BACK_UP_MACHINE = "back all disks of a machine up"
    CHOOSE_HARDWARE = "let the machine have other hardware"
    END_SESSION = "end a session, and discard it or make a point of it"
    END_SESSION_ELSEWHERE = "the same on another computer, or let go of what it holds"
    GIVE_DRIVERS = "name a folder with drivers for Windows"
    IGNORE_DAMAGE = "restore what is whole of a damaged point"
    INSTALL_AGENT = "let users do what else only root may, as far as polkit allows it"
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
    SAY_SAME_DISK = "go on with a disk of a machine that does not look like its own"
    SAY_WHAT_IT_IS = "say which format a source is in"
    SET_KEEPS_ITS_FORMAT = "leave a set's format as it is, or begin another set"
    UNPIN = "let a pinned point be like any other"
    VERIFY = "see which points are whole"


class VdbackupError(Exception):
    """Base of all errors that are shown to a user.

    Attributes:
        code: which class it is, for programs; each class has its own.
        title: one sentence that says what is wrong.
        advice: one sentence that says what to do about it (may be empty).
        cleared: where it helps to wait: asks whether what is in the way has gone; else None.
        remedy: what this program has for it, None where nothing.
        about: what the remedy is for, such as a session's id.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        title: str,
        advice: str = "",
        *,
        cleared: Callable[[], bool] | None = None,
        remedy: Remedy | None = None,
        about: str = "",
    ) -> None:
        super().__init__(f"{title} {advice}".rstrip())
        self.title = title
        self.advice = advice
        self.cleared = cleared
        self.remedy = remedy
        self.about = about

    @classmethod
    def because_of(cls, error: VdbackupError, title: str) -> Self:
        """One that says where another was met; what can be done about it is the same."""
        return cls(title, error.advice, remedy=error.remedy, about=error.about)

    @property
    def family(self) -> str:
        """The code of the family that its class is one of: what a program knows that knows less."""
        of_ours = [each for each in type(self).__mro__ if issubclass(each, VdbackupError)]
        return of_ours[-2].code if len(of_ours) > 1 else self.code


def from_os(error: OSError) -> VdbackupError:
    """What an operating system's error means for the user."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"The storage is full{where}.",
            "Free some space on it, then try again; no point was lost.",
        )
    if error.errno == errno.EROFS:
        return ReadOnly(
            f"The storage is read-only{where}.", "Mount it writable, or choose another folder."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(
            f"You may not do that{where}: {error.strerror}.",
            "Check who owns the file or folder and what they allow.",
        )
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return StorageLost(
            f"The storage does not answer as it should{where}: {error.strerror}.",
            "Check its connection and the kernel's log, then try again.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN):
        return StorageLost(
            f"Something that is needed is not there any more{where}: {error.strerror}.",
            "Check that the storage is connected and the folder where it was, then try again.",
        )
    return VdbackupError(f"{error.strerror or error}{where}.", "The log says more.")


class UsageError(VdbackupError):
    """The command line asks for something that does not exist."""

    code = "wrong-usage"
    exit_code = 2


class Cancelled(VdbackupError):
    """The user stopped the work.

    Attributes:
        left: what that leaves, a sentence; "" where nothing was changed.
    """

    code = "cancelled"
    exit_code = 130

    def __init__(
        self, title: str = "Cancelled.", advice: str = "Nothing was changed.", *, left: str = ""
    ) -> None:
        super().__init__(title, left or advice)
        self.left = left


class Unexpected(VdbackupError):
    """A fault of this program."""

    code = "unexpected"


class DiskError(VdbackupError):
    """A virtual-disk file cannot be used."""

    code = "disk-unusable"


class DiskFormatError(DiskError):
    """A virtual-disk file breaks its format's rules.

    Attributes:
        path: the file.
        offset: where in the file, in bytes, the broken structure starts.
    """

    code = "disk-damaged"

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged or is not a valid virtual disk: {problem} (at byte {offset}).",
            "Restore the file from a copy, or use another recovery point.",
        )
        self.path = path
        self.offset = offset


class DamagedDigests(DiskFormatError):
    """A layer's file of digests is damaged; the layer itself may be whole."""

    code = "digests-damaged"

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

    code = "parent-unusable"


class ReadOnlyLayout(DiskError):
    """A disk was made by another program in a layout that is read, and not written to."""

    code = "disk-read-only"


class NotSupported(DiskError):
    """A disk uses something of its format that cannot be read."""

    code = "disk-not-supported"


class DoesNotFit(DiskError):
    """A format cannot hold a disk of that size, those sectors or that name."""

    code = "disk-does-not-fit"


class ChangedWhileRead(DiskError):
    """A disk was written to, moved or replaced while it was read."""

    code = "disk-changed"


class NotLinkable(DiskError):
    """A disk cannot have the parent or the identity that it was to get."""

    code = "disk-not-linkable"


class NeedsCheck(DiskError):
    """A disk has to be checked and mended by its own program before it is written to."""

    code = "disk-needs-check"


class NoSpaceInDisk(DiskError):
    """A disk's own structures have no space for more: it has to be written anew."""

    code = "disk-full"


class NotAFile(DiskError):
    """What was named as a disk is neither a file nor a block device."""

    code = "not-a-file"


class PartMissing(DiskError):
    """A disk lies in several files, and one of them is missing."""

    code = "disk-incomplete"


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
            f"The file system at {where} cannot be frozen.",
            "Unmount it, or back its disk up as it is.",
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


class RecordTooLong(RepositoryError):
    """A record would become longer than one that is read."""

    code = "record-too-long"


class LiesTwice(RepositoryError):
    """A file of a point lies there twice, in place and in flight: nobody knows which is meant."""

    code = "file-twice"


class StorageError(RepositoryError):
    """The operating system says that something is wrong with storage."""

    code = "storage-failed"


class NoSpace(StorageError):
    """The storage that is written to is full."""

    code = "no-space"


class ReadOnly(StorageError):
    """The storage cannot be written to by anybody."""

    code = "storage-read-only"


class NotPermitted(StorageError):
    """Whoever owns a file or folder does not allow that."""

    code = "not-permitted"


class StorageLost(StorageError):
    """The storage does not answer, or is gone."""

    code = "storage-lost"


class BackupError(VdbackupError):
    """A capture, merge or deletion was refused or failed."""

    code = "backup-refused"


class NotOneMachine(BackupError):
    """Sources cannot be backed up, or sets kept, together as one machine like that."""

    code = "not-one-machine"


class PointInUse(BackupError):
    """A virtual machine runs from a recovery point, or a session is kept on it."""

    code = "point-in-use"


class PointPinned(BackupError):
    """A recovery point is to be taken away that somebody has said stays."""

    code = "point-pinned"


class ScheduleNotFound(BackupError):
    """A set is not backed up automatically on this computer, by this user."""

    code = "schedule-not-found"


class OtherSource(BackupError):
    """A set holds the backups of another source than the one to be backed up, or may do.

    Attributes:
        set_name: the set.
        known: the source that it belongs to, in words that tell it from others.
        now: the one to be backed up.
        reasons: what is the same of both, and what is not.
        sure: whether it is another one; else it may be.
    """

    code = "other-source"

    def __init__(self, set_name: str, known: str, now: str, reasons: str, *, sure: bool) -> None:
        other = "is another source" if sure else "may be another source"
        super().__init__(
            f"The set {set_name} belongs to {known}; {now} {other}: {reasons}.",
            "Choose another set, or say that it is meant to go on there.",
            remedy=Remedy.SAY_SAME_SOURCE,
        )
        self.set_name, self.known, self.now = set_name, known, now
        self.reasons, self.sure = reasons, sure

    def advise_machine(self) -> None:
        """Say what can be done where the source is a machine's disk, whose set is no choice."""
        self.advice = "Put the machine's own disk there, or say that this one is meant."
        self.remedy = Remedy.SAY_SAME_DISK


class ChangedMeanwhile(BackupError):
    """A set is not as it was when the plan was shown."""

    code = "changed-meanwhile"


class WrongPlace(BackupError):
    """The backups would lie on or in what is backed up, or it in them."""

    code = "place-unfit"


class OtherFormat(BackupError):
    """A set is kept in another format than the one that was asked for."""

    code = "other-format"


class NotFinished(BackupError):
    """What was interrupted in a set could not be finished."""

    code = "not-finished"


class NotMergeable(BackupError):
    """A point cannot be rolled into its parent: it has none, or others read through that."""

    code = "not-mergeable"


class PointNeeded(BackupError):
    """Other points read through one, which therefore cannot be deleted."""

    code = "point-needed"


class NotPromotable(BackupError):
    """A session's disk is not what a recovery point can be made of."""

    code = "not-promotable"


class NotConfirmed(BackupError):
    """What takes something away has to be confirmed, and there is nobody to ask."""

    code = "not-confirmed"


class AlreadyBackedUp(BackupError):
    """A disk that should be adopted belongs to a set already."""

    code = "already-backed-up"


class NoPoints(BackupError):
    """A set has no recovery points, so there is nothing to do with them."""

    code = "no-points"


class PointsUnknown(BackupError):
    """What a policy takes cannot be told while some points of the set cannot be read."""

    code = "points-unknown"


class AgentError(VdbackupError):
    """What only root may do to a volume in use was refused or failed."""

    code = "agent-refused"


class NeedsRoot(AgentError):
    """An ordinary user asks for what only root may do."""

    code = "needs-root"


class TrackingNotSupported(AgentError):
    """This kernel, or this system, cannot or may not see which blocks of a disk change."""

    code = "tracking-not-supported"


class TrackingRefused(AgentError):
    """Not all changes of this disk would be seen."""

    code = "tracking-refused"


class NotTracked(AgentError):
    """Nobody looks at which blocks of this disk change."""

    code = "not-tracked"


class TrackerBusy(AgentError):
    """Another process is at work with a tracker."""

    code = "tracker-busy"


class Unauthorized(AgentError):
    """This user may not do that to this disk, or nobody could be asked whether they may."""

    code = "unauthorized"


class AgentFailed(AgentError):
    """The service that does what only root may do failed, or does not understand."""

    code = "agent-failed"


class RecoveryError(VdbackupError):
    """A restore, boot, browse or verification was refused or failed."""

    code = "recovery-refused"


class PointUnreadable(RecoveryError):
    """A file that a recovery point needs cannot be read."""

    code = "point-unreadable"


class PlanOutdated(RecoveryError):
    """What a plan has shown is so no more."""

    code = "plan-outdated"


class PointBusy(RecoveryError):
    """A recovery point is just being merged."""

    code = "point-busy"


class DamagedRecord(RecoveryError):
    """What was found out about a recovery point is damaged, and can be found out again."""

    code = "record-damaged"


class UnfitTarget(RecoveryError):
    """Something cannot be written where it should go."""

    code = "target-unfit"


class TargetExists(UnfitTarget):
    """Something is already where something should go."""

    code = "target-exists"


class TargetInUse(UnfitTarget):
    """What would be written over is in use: the running system, the backups, swap, a mount."""

    code = "target-in-use"


class TargetUnsound(UnfitTarget):
    """What was written to a target is not what is read back from it."""

    code = "target-unsound"


class NotResized(RecoveryError):
    """A disk, or a partition of it, cannot be made another size."""

    code = "not-resized"


class NotInPoint(RecoveryError):
    """What was asked for is not in a recovery point, or is of another kind."""

    code = "not-in-point"


class TooManyFiles(RecoveryError):
    """A folder in a recovery point holds more files than are listed."""

    code = "too-many-files"


class NothingExtracted(RecoveryError):
    """None of the files that were asked for could be copied out of a recovery point."""

    code = "nothing-extracted"


class NothingFails(RecoveryError):
    """No point fails a check that was to find the first that does."""

    code = "nothing-fails"


class NotStarted(RecoveryError):
    """A command that the user named cannot be run, or did not end by itself."""

    code = "command-failed"


class NotMounted(RecoveryError):
    """A point was not mounted as a folder, or is not."""

    code = "not-mounted"


class GuestUnreadable(RecoveryError):
    """A partition table, file system or file inside a disk is damaged or unknown."""

    code = "guest-unreadable"


class ProgramMissing(RecoveryError):
    """A program or a part of the system that this needs is not installed."""

    code = "program-missing"


class RescueMediumFailed(RecoveryError):
    """A rescue medium cannot be made here, or could not be made."""

    code = "rescue-medium-failed"


class NoDisplay(RecoveryError):
    """There is no screen to show a machine on."""

    code = "no-display"


class NoSystem(RecoveryError):
    """There is no system on a disk that could be booted, and there was none before: it is data."""

    code = "no-system"


class CannotBoot(RecoveryError):
    """No machine can be made of a recovery point as it is."""

    code = "cannot-boot"


class NoDriver(RecoveryError):
    """The system in a recovery point has no driver for the hardware, and gets none."""

    code = "no-driver"


class NotRetargeted(RecoveryError):
    """An overlay could not be changed, and is as it was."""

    code = "not-retargeted"


class DoesNotBoot(RecoveryError):
    """Points were boot-tested, and not all of them boot."""

    code = "does-not-boot"


class NotReached(RecoveryError):
    """A machine ran, and what was waited for did not come."""

    code = "not-reached"


class MachineFailed(RecoveryError):
    """A machine did not start, has crashed or ended, or does not answer."""

    code = "machine-failed"


class MachinePaused(RecoveryError):
    """A machine waits for its storage, and can go on."""

    code = "machine-paused"


class MachineRunning(RecoveryError):
    """A machine runs, or its session is open elsewhere."""

    code = "machine-running"


class OtherProgramFailed(RecoveryError):
    """The program that a machine was made for does not take it, or does not answer."""

    code = "other-program-failed"


class DisksUnclear(RecoveryError):
    """Which disks a machine is on cannot be told."""

    code = "disks-unclear"


class SessionNotFound(RecoveryError):
    """No session, or more than one, answers to what was asked for."""

    code = "session-not-found"


class SessionUnusable(RecoveryError):
    """A session fits the recovery point that it was started from no more."""

    code = "session-unusable"


class SessionsFolder(RecoveryError):
    """The folder that sessions are kept in cannot be written to."""

    code = "sessions-folder-unusable"


class Damaged(RecoveryError):
    """Stored data differ from what was captured."""

    code = "damaged"


class NotComparable(RecoveryError):
    """A source cannot be compared with a point as it is now."""

    code = "not-comparable"


class ChangesMissed(RecoveryError):
    """A tracker of changes did not mark all that has changed."""

    code = "changes-missed"
