"""A restore, boot, browse or verification was refused or failed."""

from __future__ import annotations

from vdbackup.errors.base import VdbackupError


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


class WrongKey(RecoveryError):
    """What is encrypted is not opened by the key that was given."""

    code = "wrong-key"


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
    """An overlay, or a restored disk, could not be changed for the hardware that it is to have."""

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


class NotProtected(RecoveryError):
    """The writes of a machine are not kept, or cannot be."""

    code = "not-protected"


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
