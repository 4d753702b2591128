"""A virtual machine that runs from a recovery point, followed by a thread of its own."""

from __future__ import annotations

import enum
import logging
import queue
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PySide6.QtCore import QObject, QThread, Signal

from vdbackup.errors import RecoveryError, VdbackupError, from_os
from vdbackup.guest.hardware import ANYTHING, HardwareRequest
from vdbackup.recovery.retarget.report import machines_hardware, wish_for
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.attached import Attachment
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.recovery.sessions.session import GRACE, Session
from vdbackup.repository.kept_logs import Protection, kept_protection
from vdbackup.repository.repository import Repository
from vdbackup.repository.written import is_moment
from vdbackup.translation import tr

log = logging.getLogger(__name__)

LOOK = 0.2  # seconds between two looks at the machine, and at what the user wants


class Order(enum.Enum):
    """What the user wants of a running machine."""

    POWER_OFF = tr("power off")
    KILL = tr("kill")
    RESUME = tr("go on")


class AtEnd(enum.Enum):
    """What is to become of what a machine wrote."""

    DISCARD = tr("Discard what it wrote")
    KEEP = tr("Keep what it wrote")
    PROMOTE = tr("Make it a recovery point")


@dataclass(frozen=True)
class Boot:
    """What to start, and how.

    Attributes:
        title: of the machine's window, and in lists.
        repository, set_name, point_id: the recovery point.
        sessions_folder: where the machine writes.
        display: open a window.
        hardware: what the user wants of it.
        again: a session whose machine is started again, instead of a new one.
        keep_writes: bytes that all its writes may take, which are kept; None: they are not.
        attach: the points whose disks it gets behind its own.
    """

    title: str
    repository: Path
    set_name: str
    point_id: str
    sessions_folder: Path
    display: bool
    hardware: HardwareRequest = ANYTHING
    again: SavedSession | None = None
    keep_writes: int | None = None
    attach: tuple[Attachment, ...] = ()


class SessionThread(QThread):
    """Starts a machine, follows it to its end, and discards what it wrote unless told otherwise.

    Attributes:
        boot: what was started.
        began: when.
        session: the machine, None until it runs.
        problem: what went wrong, None as long as nothing has.
        at_end: what becomes of what the machine wrote.
        kept: it is there still, though the machine has ended.
        wanted_end: the user has ended the machine from here, or its guest has.
        protection: whose writes are kept, as far as any are, as it was a moment ago.

    Signals:
        changed(): `session`, `problem` or `protection` is another one now.
    """

    changed = Signal()

    def __init__(self, boot: Boot, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(f"session {boot.title}")
        self.boot = boot
        self.began = datetime.now(UTC)
        self.session: Session | None = None
        self.problem: VdbackupError | None = None
        self.at_end = AtEnd.KEEP if boot.again else AtEnd.DISCARD
        self.kept = False
        self.wanted_end = True
        self.protection: Protection | None = None
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    @property
    def paused(self) -> bool:
        """Whether the machine waits for its storage."""
        return self.session is not None and self.session.paused

    @property
    def protected(self) -> bool:
        """Whether every write of it is being kept."""
        return self.protection is not None and self.protection.ended is None

    @property
    def can_be_protected(self) -> bool:
        """Whether that could be begun: it runs, lies on a point, and no writes of it are kept."""
        lies_on_point = not is_moment(self.boot.point_id)
        return self.session is not None and self.protection is None and lies_on_point

    def order(self, order: Order) -> None:
        """Ask something of the machine; returns at once."""
        self._orders.put(order)

    def run(self) -> None:
        """The thread itself; Qt calls this."""
        try:
            self.session = self._start()
            self._look_at_writes(self.session)
            self.changed.emit()
            self._follow(self.session)
            self.wanted_end = not (self.session.crashed or self.session.cut_off)
            if self.at_end is AtEnd.DISCARD and self.wanted_end:
                self.session.discard()
            else:
                self.session.keep()
                self.kept = True
        except VdbackupError as error:
            log.info("session %s failed", self.boot.title, exc_info=True)
            self.problem = error
        except OSError as error:
            log.warning("session %s failed", self.boot.title, exc_info=True)
            self.problem = from_os(error)

    def _start(self) -> Session:
        boot = self.boot
        if boot.again:
            return vm.reopen_session(boot.again, display=boot.display)
        repository = Repository.open(boot.repository)
        backup_set = repository.set(boot.set_name)
        point = backup_set.point(boot.point_id)
        return vm.start_from_point(
            repository,
            backup_set,
            point,
            sessions_folder=boot.sessions_folder,
            display=boot.display,
            hardware=machines_hardware(repository, backup_set, point, boot.hardware),
            request=wish_for(backup_set, point, boot.hardware),
            keep_writes=boot.keep_writes,
            attach=boot.attach,
        )

    def _follow(self, session: Session) -> None:
        """Obey orders until the machine has ended, or is to be ended.

        `power_off` would not hear a kill meanwhile.
        """
        ends_at = float("inf")
        while session.running:
            order = self._next_order()
            if order is Order.POWER_OFF:
                ends_at = time.monotonic() + GRACE
                self._press_power_button(session)
            if order is Order.KILL or time.monotonic() > ends_at:
                return  # whoever keeps or discards what it wrote ends it first
            if order is Order.RESUME:
                self._resume(session)
            if self._look_at_writes(session):
                self.changed.emit()
            if session.error is not self.problem:  # a machine that was paused may go on
                self.problem = session.error
                self.changed.emit()

    def _look_at_writes(self, session: Session) -> bool:
        """See whether its writes are kept, by whomever that was begun; whether that is new."""
        folder = self.boot.repository / self.boot.set_name
        before, self.protection = self.protection, kept_protection(folder, session.id)
        return before != self.protection

    def _next_order(self) -> Order | None:
        try:
            return self._orders.get(timeout=LOOK)
        except queue.Empty:
            return None

    def _resume(self, session: Session) -> None:
        try:
            session.resume()
        except RecoveryError:
            log.info("%s does not go on", self.boot.title, exc_info=True)

    def _press_power_button(self, session: Session) -> None:
        try:
            session.execute("system_powerdown")
        except RecoveryError:
            log.info("%s ended before it was told to", self.boot.title, exc_info=True)


Machine = SessionThread | SavedSession
"""One of this window, or one of another program or what is left of one that has ended."""
