"""What the window's actions are done to, and what each kind of them needs before it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vdbackup.gui.catalogue import Entry
from vdbackup.gui.machines.session import Machine, SessionThread
from vdbackup.operations import restore_files, tracking
from vdbackup.operations.written_logs import ReadLog
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import tr

if TYPE_CHECKING:
    from vdbackup.gui.backups import Backups
    from vdbackup.gui.catalogue import Catalogue
    from vdbackup.gui.dialogs import Dialogs
    from vdbackup.gui.machines.sessions import Sessions
    from vdbackup.gui.operations import Operations
    from vdbackup.gui.rescue import Rescue


@dataclass(frozen=True)
class Chosen:
    """What is chosen in the window.

    Attributes:
        point: the recovery point, or the moment behind one (WrittenPoint).
        points: all that are picked, by sequence, where it is not one alone.
        logs: of the writes that are kept behind that point.
    """

    entry: Entry | None = None
    point: RecoveryPoint | None = None
    machine: Machine | None = None
    points: tuple[RecoveryPoint, ...] = ()
    logs: tuple[ReadLog, ...] = ()

    @property
    def parent(self) -> str:
        """What the point's parent is called."""
        return self.entry.parent_of(self.point) if self.entry and self.point else tr("its parent")


class Desk(Protocol):
    """The window as its actions know it: who does what they stand for, and what with."""

    @property
    def chosen(self) -> Chosen:
        """What is chosen at this moment."""

    @property
    def catalogue(self) -> Catalogue:
        """What there is."""

    @property
    def backups(self) -> Backups:
        """What makes points."""

    @property
    def operations(self) -> Operations:
        """What else can be done."""

    @property
    def rescue(self) -> Rescue:
        """What makes rescue media."""

    @property
    def sessions(self) -> Sessions:
        """The virtual machines."""

    @property
    def dialogs(self) -> Dialogs:
        """Where the user says more of what is to be done."""

    def show_source(self, entry: Entry) -> None:
        """Show what is known of a source."""

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""

    def show_disk(self, entry: Entry, point: RecoveryPoint) -> None:
        """Show a point's virtual disk in the file manager."""

    def show_folder(self, folder: Path) -> None:
        """Show a folder in the file manager."""

    def show_manual(self) -> None:
        """Let the user read the manual."""

    def show_shortcuts(self) -> None:
        """Show what can be done by the keyboard."""

    def show_about(self) -> None:
        """Show which version this is."""

    def show_history(self) -> None:
        """Show what was done, in this window and before."""

    def leave_desktop(self) -> None:
        """End, once nothing runs any more, the tray or not."""


@dataclass(frozen=True)
class OfWindow:
    """What can be done at any time."""

    do: Callable[[Desk], object]

    def ready(self, _chosen: Chosen) -> bool:
        """Always."""
        return True

    def run(self, desk: Desk, _chosen: Chosen) -> None:
        """Do it."""
        self.do(desk)


@dataclass(frozen=True)
class OfSource:
    """What is done to a source."""

    do: Callable[[Desk, Entry], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where its backups can be read, or there are none yet."""
        return chosen.entry is not None and chosen.entry.problem is None

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to the chosen one."""
        if chosen.entry:
            self.do(desk, chosen.entry)


@dataclass(frozen=True)
class OfListed(OfSource):
    """What is done to a source in the list, whether its backups can be read or not."""

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen."""
        return chosen.entry is not None


@dataclass(frozen=True)
class OfDevice(OfSource):
    """What is done to a source that is a device of this computer."""

    def ready(self, chosen: Chosen) -> bool:
        """Where the chosen one is called like one; whether it is there is seen then."""
        return super().ready(chosen) and bool(chosen.entry and tracking.can_be(chosen.entry.source))


@dataclass(frozen=True)
class OfBackedUp(OfSource):
    """What is done to a source of which there is a set that can be read."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        return super().ready(chosen) and bool(chosen.entry and chosen.entry.backup_set)


@dataclass(frozen=True)
class OfFiles(OfBackedUp):
    """What is done to a set of chosen files."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        return super().ready(chosen) and bool(chosen.entry and chosen.entry.source.is_files)


@dataclass(frozen=True)
class OfAlone(OfBackedUp):
    """What is done to a set that is no machine's: all of a machine stays together."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        return super().ready(chosen) and bool(chosen.entry and chosen.entry.machine is None)


@dataclass(frozen=True)
class OfOneSource(OfListed):
    """What is done to a source alone, and not to all that is in its repository."""

    def ready(self, chosen: Chosen) -> bool:
        """Where the chosen one does not stand for a whole repository."""
        entry = chosen.entry
        return entry is not None and str(entry.source) != str(entry.repository)


@dataclass(frozen=True)
class OfState:
    """What is done to a recovery point, or to a moment behind one."""

    do: Callable[[Desk, Entry, RecoveryPoint], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen."""
        return chosen.point is not None

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to the chosen one."""
        if chosen.entry and chosen.point:
            self.do(desk, chosen.entry, chosen.point)


@dataclass(frozen=True)
class OfPoint(OfState):
    """What is done to a recovery point, which a moment is not."""

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen."""
        return chosen.point is not None and not isinstance(chosen.point, WrittenPoint)


@dataclass(frozen=True)
class OfPointAlone(OfPoint):
    """What is done to a point whose disk is all of its computer."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen; of a machine of several disks it is no moment."""
        return super().ready(chosen) and bool(chosen.entry and chosen.entry.machine is None)


@dataclass(frozen=True)
class OfPointOfFiles(OfPoint):
    """What is done to a point of chosen files."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        backup_set = chosen.entry.backup_set if chosen.entry else None
        if backup_set is None or chosen.point is None or not super().ready(chosen):
            return False
        return restore_files.can_be(backup_set.settings, chosen.point)


@dataclass(frozen=True)
class OfMoment:
    """What is done to a moment behind a point."""

    do: Callable[[Desk, Entry, WrittenPoint], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen."""
        return isinstance(chosen.point, WrittenPoint)

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to the chosen one."""
        if chosen.entry and isinstance(chosen.point, WrittenPoint):
            self.do(desk, chosen.entry, chosen.point)


@dataclass(frozen=True)
class OfWritten:
    """What is done to the writes that are kept behind a point."""

    do: Callable[[Desk, Entry, ReadLog], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where the point, or the moment, has such."""
        return chosen.point is not None and bool(chosen.logs)

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to those that the moment is of, or to the newest behind the point."""
        if chosen.entry and chosen.logs:
            own = chosen.point.log if isinstance(chosen.point, WrittenPoint) else ""
            log = next((each for each in chosen.logs if each.session == own), chosen.logs[-1])
            self.do(desk, chosen.entry, log)


@dataclass(frozen=True)
class OfChild(OfPoint):
    """What is done to a point and its parent."""

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen that has a parent."""
        return super().ready(chosen) and bool(chosen.point and chosen.point.parent)


@dataclass(frozen=True)
class OfOneOfSeveral(OfPoint):
    """What is done to a point and another one of its source."""

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen, and there is another one."""
        return super().ready(chosen) and bool(chosen.entry and len(chosen.entry.points) > 1)


@dataclass(frozen=True)
class OfComparable(OfState):
    """What is done to a state and another one of its source: to a moment and its point, too."""

    def ready(self, chosen: Chosen) -> bool:
        """Where there is another one."""
        if isinstance(chosen.point, WrittenPoint):
            return True
        return bool(chosen.entry and chosen.point and len(chosen.entry.points) > 1)


Several = Callable[[Desk, Entry, tuple[RecoveryPoint, ...]], object]


@dataclass(frozen=True)
class OfOneOrSeveral:
    """What is done to a point, or to all that are picked.

    Attributes:
        one: for a point alone.
        several: for two or more.
        most: so many at most; None for any number.
    """

    one: OfState
    several: Several
    most: int | None = None

    def ready(self, chosen: Chosen) -> bool:
        """Where so many are picked, or one is chosen for which it can be done."""
        if chosen.points:
            return self.most is None or len(chosen.points) <= self.most
        return self.one.ready(chosen)

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to what is chosen."""
        if chosen.entry and chosen.points:
            self.several(desk, chosen.entry, chosen.points)
        else:
            self.one.run(desk, chosen)


@dataclass(frozen=True)
class OfPinned(OfPoint):
    """What is done to a point that is pinned."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        return super().ready(chosen) and bool(
            chosen.entry and chosen.point and chosen.point.id in chosen.entry.pins
        )


@dataclass(frozen=True)
class OfUnpinned(OfPoint):
    """What is done to a point that is not pinned."""

    def ready(self, chosen: Chosen) -> bool:
        """Where such a one is chosen."""
        there = super().ready(chosen)
        return there and bool(
            chosen.entry and chosen.point and chosen.point.id not in chosen.entry.pins
        )


@dataclass(frozen=True)
class OfRunning:
    """What is done to a machine that this window has started."""

    do: Callable[[Desk, SessionThread], object]

    def ready(self, chosen: Chosen) -> bool:
        """As long as it has not ended."""
        return isinstance(chosen.machine, SessionThread)

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to that one."""
        if isinstance(chosen.machine, SessionThread):
            self.do(desk, chosen.machine)


@dataclass(frozen=True)
class OfUnprotected(OfRunning):
    """What is done to one of which not every write is kept."""

    def ready(self, chosen: Chosen) -> bool:
        """While it runs, and none was: a log is not gone on with."""
        machine = chosen.machine
        return isinstance(machine, SessionThread) and machine.can_be_protected


@dataclass(frozen=True)
class OfProtected(OfRunning):
    """What is done to one of which every write is kept."""

    def ready(self, chosen: Chosen) -> bool:
        """While that goes on."""
        machine = chosen.machine
        return isinstance(machine, SessionThread) and machine.protected


@dataclass(frozen=True)
class OfPaused(OfRunning):
    """What is done to one that waits for its storage."""

    def ready(self, chosen: Chosen) -> bool:
        """While it does."""
        machine = chosen.machine
        return isinstance(machine, SessionThread) and machine.paused


@dataclass(frozen=True)
class OfSession:
    """What is done to a session of another program, or to one that was kept.

    Attributes:
        fits: whether it can be done to this one.
    """

    do: Callable[[Desk, SavedSession], object]
    fits: Callable[[SavedSession], bool]

    def ready(self, chosen: Chosen) -> bool:
        """Where it is one to which that can be done."""
        return isinstance(chosen.machine, SavedSession) and self.fits(chosen.machine)

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it to that one."""
        if isinstance(chosen.machine, SavedSession):
            self.do(desk, chosen.machine)


class Operation(Protocol):
    """What an action does, and what it needs for that."""

    def ready(self, chosen: Chosen) -> bool:
        """Whether it can be done to what is chosen."""

    def run(self, desk: Desk, chosen: Chosen) -> None:
        """Do it; what is not there any more is let be."""
