"""Sessions as their folders show them, whoever they belong to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vdbackup.disks.holders import holders, named
from vdbackup.errors import (
    MachineRunning,
    RecoveryError,
    SessionUnusable,
)
from vdbackup.recovery.sessions.elsewhere import EndedMachine, check_ended, check_not_registered
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.qemu_process import gone, is_qemu_of, kill
from vdbackup.recovery.sessions.record import Origin, SessionRecord
from vdbackup.translation import marked, tr
from vdbackup.volumes import composition


class SessionState(StrEnum):
    """What a session is: one that runs has an owner, or has lost it."""

    RUNNING = marked("running")
    UNATTENDED = marked("unattended")
    """Its QEMU runs, and the program that started it is gone."""
    KEPT = marked("kept")
    CRASHED = marked("crashed")
    """It ended without anybody saying what was to become of it."""


@dataclass(frozen=True)
class SavedSession:
    """A session as its folder shows it, whoever it belongs to.

    Attributes:
        owned: a program runs it.
    """

    id: str
    folder: Path
    record: SessionRecord
    state: SessionState
    owned: bool

    @property
    def files(self) -> SessionFiles:
        """What lies in the folder."""
        return SessionFiles(self.folder)

    @property
    def title(self) -> str:
        """What runs there, for a person."""
        return self.record.title

    @property
    def running(self) -> bool:
        """Whether its QEMU is there."""
        return self.state in (SessionState.RUNNING, SessionState.UNATTENDED)

    @property
    def program(self) -> str | None:
        """Which other program has the machine; None where it is ours. Its record says anything."""
        program = self.record.machine.get("program")
        return program if isinstance(program, str) else None

    @property
    def disk(self) -> Path:
        """What the guest has written, at first: another program may have gone on in another file.

        What there is by now `ended_machine` finds out.
        """
        return self.files.first_disk

    def ended_machine(self, *, not_running: bool = False) -> EndedMachine:
        """All disks that the machine is on; raises RecoveryError where it runs, or may run."""
        return EndedMachine.of(self.folder, self.disk, self.program, not_running=not_running)

    @property
    def written(self) -> int:
        """Bytes of storage that its files take."""
        with suppress(OSError):
            return sum(each.stat().st_blocks * 512 for each in self.folder.rglob("*"))
        return 0

    @property
    def origin(self) -> Origin:
        """The recovery point that it lies on; raises RecoveryError where its record is lost."""
        if self.record.origin is None:
            raise SessionUnusable(
                tr(
                    "The session {id} does not say from which recovery point it was started.",
                    id=self.id,
                ),
                tr("Discard it."),
            )
        return self.record.origin

    @property
    def disk_start(self) -> int:
        """Where the point's disk begins on the session's, in bytes (volumes/composition.py)."""
        hardware = self.record.machine.get("hardware")
        partition = hardware.get("partition") if isinstance(hardware, dict) else 0
        return composition.START if partition else 0

    def kill(self) -> None:
        """End its machine, as a power cut would; returns when it is gone."""
        if self.record.pid is not None:
            kill(self.record.pid, self.folder)
        self._note_end()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of its machine; whether it came in time."""
        ended = self.record.pid is None or gone(self.record.pid, self.folder, seconds)
        if ended:
            self._note_end()
        return ended

    def _note_end(self) -> None:
        """Whoever ended it on purpose wants what it wrote; where it has an owner, that one says."""
        with suppress(RecoveryError):
            SessionFolder.reopen(self.folder).keep()

    def discard(self, *, not_running: bool = False) -> None:
        """End its QEMU if that still runs, and delete the folder.

        Raises RecoveryError where somebody needs it: what is done is done under the folder's lock,
        for the session may have been opened again since the list was read.

        Args:
            not_running: the user has said that the machine does not run in another program, where
                that cannot be found out, or that it may lose its disk there (MayRun).
        """
        try:
            lock = self.files.lock()
        except BlockingIOError:
            raise MachineRunning(
                tr("The session {id} belongs to a program that is running.", id=self.id),
                tr("End it there, or kill it first."),
            ) from None
        except FileNotFoundError:
            self._release(self.record)
            return
        try:
            record = self.files.read_record() if self.files.record.exists() else self.record
            if record.pid != self.record.pid:
                raise MachineRunning(
                    tr("The session {id} was opened again since it was listed.", id=self.id),
                    tr("Look at the list again before you throw away what it wrote."),
                )
            self._refuse_if_open(record.pid)
            if self.program is not None:
                check_ended(self.folder, self.disk, self.program, not_running=not_running)
            if not not_running:
                check_not_registered(self.folder)
            if record.pid is not None:
                kill(record.pid, self.folder)
            self.files.delete()
            self._release(record)
        finally:
            os.close(lock)

    def _refuse_if_open(self, pid: int | None) -> None:
        """Other programs than our QEMU, which is ended: VirtualBox, libvirt's, whatever it is."""
        ours = pid if is_qemu_of(pid, self.folder) else None
        found = [
            each for each in holders(self.files.but_logs()) if each.pid is None or each.pid != ours
        ]
        if found:
            raise MachineRunning(
                tr(
                    "The session {id} is in use: {found} has its files open.",
                    id=self.id,
                    found=named(found),
                ),
                tr("Shut the machine down there first."),
            )

    def _release(self, record: SessionRecord) -> None:
        for each in record.origins:
            each.release(self.id)


def saved_sessions(sessions_folder: Path) -> list[SavedSession]:
    """All sessions in `sessions_folder`, oldest first; what is just being deleted is left out."""
    return [
        session
        for files in SessionFiles.all_in(sessions_folder)
        if (session := saved_session(files.folder)) is not None
    ]


def saved_session(folder: Path) -> SavedSession | None:
    """The session of a folder, None where it has gone."""
    files = SessionFiles(folder)
    try:
        owned = files.is_locked()
        record = files.read_record()
    except FileNotFoundError:
        return None
    running = is_qemu_of(record.pid, folder)
    if owned:
        state = SessionState.KEPT if record.ended else SessionState.RUNNING
    elif running:
        state = SessionState.UNATTENDED
    else:
        state = SessionState.KEPT if record.ended else SessionState.CRASHED
    return SavedSession(folder.name, folder, record, state, owned)
