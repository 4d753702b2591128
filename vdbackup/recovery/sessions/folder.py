"""A session's folder: its disk, its console's text, and who it belongs to.

    SESSIONS/<id>/            mode 0700
        session.json          what was started, from which point, how (record.py)
        session.qcow2         what the guest has written
        map.*, layer<n>       the chain for a QEMU that cannot read it (qemu/concatenation.py)
        control               a socket on which QEMU hears what other programs want of it (QMP)
        console.log           what the guest wrote to its first serial port
        qemu.log              what QEMU complained of

The folder is locked (flock) by the process that runs the session, for as long as that lives: one
without a lock is kept on purpose, or left over from a crash.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Self

from vdbackup import durable
from vdbackup.disks.holders import holders, named
from vdbackup.errors import (
    MachineFailed,
    MachineRunning,
    Obstructed,
    RecoveryError,
    Remedy,
    SessionNotFound,
    SessionsFolder,
    SessionUnusable,
)
from vdbackup.recovery.sessions.elsewhere import EndedMachine, check_ended, check_not_registered
from vdbackup.recovery.sessions.record import Origin, SessionRecord
from vdbackup.volumes import composition

log = logging.getLogger(__name__)

_RECORD = "session.json"
_CONTROL = "control"
_MAX_RECORD = 1 << 20


class SessionFolder:
    """The folder of a session of ours, locked until `close`, or until nobody holds this object.

    Attributes:
        id: the folder's name.
        path: the folder.
        said: what session.json says.
    """

    def __init__(self, path: Path, said: SessionRecord, descriptor: int) -> None:
        """Take over a folder whose `descriptor` holds the lock; use `create` or `reopen`."""
        self.id = path.name
        self.path = path
        self.said = said
        self._unlock = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(
        cls,
        sessions_folder: Path,
        title: str,
        overlay: Path,
        origin: Origin | None = None,
        machine: dict[str, Any] | None = None,
    ) -> Self:
        """Make a session's folder, and hold the point that it lies on.

        Raises RecoveryError where the folder cannot be made, RepositoryError where the point is not
        there.
        """
        started = datetime.now(UTC)
        name = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        path = sessions_folder.absolute() / name
        said = SessionRecord(title, started, overlay.absolute(), None, False, origin, machine or {})
        with _writing(path):
            path.mkdir(mode=0o700, parents=True)
            folder = cls(path, said, _locked(path))
        try:
            folder.record(None)
            if origin:
                origin.hold(name, title, path)
        except BaseException:
            folder.remove()
            raise
        return folder

    @property
    def unheld(self) -> str:
        """What there is to say where the point is not held for the session; "" where it is."""
        origin = self.said.origin
        if origin is None or origin.is_held(self.id):
            return ""
        return (
            "The repository cannot be written to, so nobody else sees that this point is in use: "
            "do not merge or delete it meanwhile."
        )

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Take over a session that nobody runs; raises RecoveryError where somebody does."""
        try:
            folder = cls(path, read_record(path), _locked(path))
        except BlockingIOError:
            raise MachineRunning(
                f"The session {path.name} is in use by another program.",
                "End it there, or kill it first.",
            ) from None
        except FileNotFoundError:
            raise SessionNotFound(f"There is no session {path.name} any more.") from None
        folder.said = read_record(path)  # as it is under the lock
        if is_qemu_of(folder.said.pid, path):
            raise MachineRunning(
                f"The machine of the session {path.name} is still running.", "Stop or kill it."
            )
        return folder

    @property
    def title(self) -> str:
        """What runs here, for a person."""
        return self.said.title

    @property
    def disk(self) -> Path:
        """What the guest writes, a qcow2 child of the overlay."""
        return self.path / "session.qcow2"

    @property
    def console(self) -> Path:
        """What the guest wrote to its first serial port."""
        return self.path / "console.log"

    def complaints(self) -> BinaryIO:
        """The file that takes what QEMU writes to its standard output and error."""
        with _writing(self.path):
            return (self.path / "qemu.log").open("ab+")

    def record(self, pid: int | None, *, ended: bool = False) -> None:
        """Write session.json; `pid` is QEMU's, once it runs. Raises RecoveryError."""
        self.said = replace(self.said, pid=pid, ended=ended)
        text = json.dumps({"id": self.id, **self.said.to_json()}, indent=2) + "\n"
        with _writing(self.path):
            durable.replace(self.path / _RECORD, text.encode())

    def control(self) -> socket.socket:
        """A listening socket in the folder, for other programs; raises RecoveryError.

        A socket's path may have 107 bytes; the folder's own descriptor makes it short.
        """
        path = self.path / _CONTROL
        listener = socket.socket(socket.AF_UNIX)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _writing(self.path):
                path.unlink(missing_ok=True)
                listener.bind(f"/proc/self/fd/{descriptor}/{_CONTROL}")
                path.chmod(0o600)
                listener.listen()
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(descriptor)
        return listener

    def clear(self) -> None:
        """Remove what is made anew when a machine starts again: the chain's map, the console."""
        with _writing(self.path):
            for pattern in ("map.*", "layer*", "tables.bin", "console.log"):
                for name in self.path.glob(pattern):
                    name.unlink()

    def keep(self, *, ended: bool = True) -> None:
        """What the machine wrote stays, and may be opened again; ends our part in it.

        Args:
            ended: as it was meant to, and not by a crash.
        """
        self.record(self.said.pid, ended=ended)
        self.close()

    def close(self) -> None:
        """Let others have the folder; may be called again."""
        self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove(self) -> None:
        """Delete the folder and all that is in it, and let go of the point; may be called again."""
        _delete(self.path)
        if self.said.origin:
            self.said.origin.release(self.id)
        self.close()


class SessionState(StrEnum):
    """What a session is: one that runs has an owner, or has lost it."""

    RUNNING = "running"
    UNATTENDED = "unattended"
    """Its QEMU runs, and the program that started it is gone."""
    KEPT = "kept"
    CRASHED = "crashed"
    """It ended without anybody saying what was to become of it."""


@dataclass(frozen=True)
class SavedSession:
    """A session as its folder shows it, whoever it belongs to.

    Attributes:
        owned: a program runs it.
    """

    id: str
    folder: Path
    said: SessionRecord
    state: SessionState
    owned: bool

    @property
    def title(self) -> str:
        """What runs there, for a person."""
        return self.said.title

    @property
    def running(self) -> bool:
        """Whether its QEMU is there."""
        return self.state in (SessionState.RUNNING, SessionState.UNATTENDED)

    @property
    def program(self) -> str | None:
        """Which other program has the machine; None where it is ours. Its record says anything."""
        program = self.said.machine.get("program")
        return program if isinstance(program, str) else None

    @property
    def disk(self) -> Path:
        """What the guest has written, at first: another program may have gone on in another file.

        What there is by now `ended_machine` finds out.
        """
        others = (self.folder / f"machine.{suffix}" for suffix in ("vmdk", "vhd"))
        return next((path for path in others if path.exists()), self.folder / "session.qcow2")

    def ended_machine(self, *, not_running: bool = False) -> EndedMachine:
        """All disks that the machine is on; raises RecoveryError where it runs, or may run."""
        return EndedMachine.of(self.folder, self.disk, self.program, not_running=not_running)

    @property
    def written(self) -> int:
        """Bytes of storage that its files take."""
        with suppress(OSError):
            return sum(each.stat().st_blocks * 512 for each in self.folder.iterdir())
        return 0

    @property
    def origin(self) -> Origin:
        """The recovery point that it lies on; raises RecoveryError where its record is lost."""
        if self.said.origin is None:
            raise SessionUnusable(
                f"The session {self.id} does not say from which recovery point it was started.",
                "Discard it.",
            )
        return self.said.origin

    @property
    def disk_start(self) -> int:
        """Where the point's disk begins on the session's, in bytes (volumes/composition.py)."""
        hardware = self.said.machine.get("hardware")
        partition = hardware.get("partition") if isinstance(hardware, dict) else 0
        return composition.START if partition else 0

    def kill(self) -> None:
        """End its machine, as a power cut would; returns when it is gone."""
        if self.said.pid is not None:
            kill(self.said.pid, self.folder)
        self._note_end()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of its machine; whether it came in time."""
        ended = self.said.pid is None or _gone(self.said.pid, self.folder, seconds)
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
            lock = _locked(self.folder)
        except BlockingIOError:
            raise MachineRunning(
                f"The session {self.id} belongs to a program that is running.",
                "End it there, or kill it first.",
            ) from None
        except FileNotFoundError:
            self._release(self.said)
            return
        try:
            said = read_record(self.folder) if (self.folder / _RECORD).exists() else self.said
            if said.pid != self.said.pid:
                raise MachineRunning(
                    f"The session {self.id} was opened again since it was listed.",
                    "Look at the list again before you throw away what it wrote.",
                )
            self._refuse_if_open(said.pid)
            if self.program is not None:
                check_ended(self.folder, self.disk, self.program, not_running=not_running)
            if not not_running:
                check_not_registered(self.folder)
            if said.pid is not None:
                kill(said.pid, self.folder)
            _delete(self.folder)
            self._release(said)
        finally:
            os.close(lock)

    def _refuse_if_open(self, pid: int | None) -> None:
        """Other programs than our QEMU, which is ended: VirtualBox, libvirt's, whatever it is."""
        files = (path for path in self.folder.rglob("*") if path.suffix != ".log")
        ours = pid if is_qemu_of(pid, self.folder) else None
        found = [each for each in holders(files) if each.pid is None or each.pid != ours]
        if found:
            raise MachineRunning(
                f"The session {self.id} is in use: {named(found)} has its files open.",
                "Shut the machine down there first.",
            )

    def _release(self, said: SessionRecord) -> None:
        if said.origin:
            said.origin.release(self.id)


def saved_sessions(sessions_folder: Path) -> list[SavedSession]:
    """All sessions in `sessions_folder`, oldest first; what is just being deleted is left out."""
    return [
        session
        for record in sorted(sessions_folder.absolute().glob(f"*/{_RECORD}"))
        if (session := saved_session(record.parent)) is not None
    ]


def saved_session(folder: Path) -> SavedSession | None:
    """The session of a folder, None where it has gone."""
    try:
        owned = _is_locked(folder)
        said = read_record(folder)
    except FileNotFoundError:
        return None
    running = is_qemu_of(said.pid, folder)
    if owned:
        state = SessionState.KEPT if said.ended else SessionState.RUNNING
    elif running:
        state = SessionState.UNATTENDED
    else:
        state = SessionState.KEPT if said.ended else SessionState.CRASHED
    return SavedSession(folder.name, folder, said, state, owned)


def read_record(folder: Path) -> SessionRecord:
    """What session.json says; what can be said without it where a power cut has emptied it."""
    path = folder / _RECORD
    modified = datetime.fromtimestamp(os.lstat(path).st_mtime, UTC)
    data: object = None
    try:
        data = json.loads(durable.read_own(path, _MAX_RECORD))
    except (ValueError, RecursionError, Obstructed):
        log.warning("%s cannot be read", path)
    return SessionRecord.from_json(data, folder.name, modified)


def connect(folder: Path) -> socket.socket:
    """A connection to the QEMU that runs in a session's folder; raises RecoveryError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{_CONTROL}")
        finally:
            os.close(descriptor)
    except OSError as error:
        connection.close()
        raise MachineFailed(
            f"The virtual machine of the session {folder.name} does not answer: {error.strerror}.",
            "It may have ended.",
            remedy=Remedy.LIST_SESSIONS,
        ) from error
    return connection


def is_qemu_of(pid: int | None, folder: Path) -> bool:
    """Whether process `pid` works in `folder`: by its command line, since pids are used again."""
    if pid is None:
        return False
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, folder: Path) -> None:
    """Kill the QEMU of `folder`, if `pid` still is that; returns when it is gone."""
    with _process(pid, folder) as process:
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])


def _gone(pid: int, folder: Path, seconds: float) -> bool:
    with _process(pid, folder) as process:
        return process is None or bool(select.select([process], [], [], seconds)[0])


@contextmanager
def _process(pid: int, folder: Path) -> Iterator[int | None]:
    """A descriptor of the process, if it is the QEMU of `folder`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield process if is_qemu_of(pid, folder) else None
    finally:
        os.close(process)


def _locked(folder: Path) -> int:
    """A descriptor of the folder that holds its lock; raises BlockingIOError where it is taken."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_locked(folder: Path) -> bool:
    try:
        os.close(_locked(folder))
    except BlockingIOError:
        return True
    return False


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # somebody else has done it
        return
    except OSError as error:
        raise SessionsFolder(
            f"The session's folder {folder} cannot be deleted: {error.strerror}.",
            "Delete it yourself.",
        ) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says in a sentence that the folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise SessionsFolder(
            f"The session's folder {folder} cannot be written to: {error.strerror}.",
            "Choose another folder for sessions, or make room there.",
        ) from error
