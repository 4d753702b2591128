"""A capture, merge or deletion was refused or failed."""

from __future__ import annotations

from vdbackup.errors.base import Remedy, VdbackupError
from vdbackup.translation import tr


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
        other = tr("is another source") if sure else tr("may be another source")
        super().__init__(
            tr(
                "The set {set_name} belongs to {known}; {now} {other}: {reasons}.",
                set_name=set_name,
                known=known,
                now=now,
                other=other,
                reasons=reasons,
            ),
            tr("Choose another set, or say that it is meant to go on there."),
            remedy=Remedy.SAY_SAME_SOURCE,
        )
        self.set_name, self.known, self.now = set_name, known, now
        self.reasons, self.sure = reasons, sure

    def advise_machine(self) -> None:
        """Say what can be done where the source is a machine's disk, whose set is no choice."""
        self.advice = tr("Put the machine's own disk there, or say that this one is meant.")
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


class NotThinned(BackupError):
    """Kept writes were to be thinned by a policy after a backup, and are as they were."""

    code = "not-thinned"


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
