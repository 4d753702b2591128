"""What every error has, and those that are of no family."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, Self

from vdbackup.translation import original, tr


class Remedy(StrEnum):
    """What this program has for who meets an error; worded by `cli.remedies` and `gui.remedies`."""

    BACK_UP_MACHINE = "back all disks of a machine up"
    BOOT_WITHOUT_MISSING = "start a machine without the disks that are missing"
    CHOOSE_HARDWARE = "let the machine have other hardware"
    END_SESSION = "end a session, and discard it or make a point of it"
    END_SESSION_ELSEWHERE = "the same on another computer, or let go of what it holds"
    FORGET_WRITES = "delete the writes that are kept of a machine"
    GIVE_DRIVERS = "name a folder with drivers for Windows"
    IGNORE_DAMAGE = "restore what is whole of a damaged point"
    INSTALL_AGENT = "let users do what else only root may, as far as polkit allows it"
    KEEP_MOMENT = "make a recovery point of a moment between points"
    LIST_DEVICES = "see which block devices there are"
    LIST_MOMENTS = "see which moments there are between points"
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
    TRACK = "see from now on which blocks of a disk change"
    UNLOCK = "give the key of what is encrypted"
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
        super().__init__(f"{original(title)} {original(advice)}".rstrip())  # for the log
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
        self,
        title: str = tr("Cancelled."),
        advice: str = tr("Nothing was changed."),
        *,
        left: str = "",
    ) -> None:
        super().__init__(title, left or advice)
        self.left = left


class Unexpected(VdbackupError):
    """A fault of this program."""

    code = "unexpected"
