"""A session's folder that is ours: made or opened again, locked, written to, kept or deleted."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from vdbackup import durable
from vdbackup.errors import MachineRunning, SessionNotFound, SessionsFolder
from vdbackup.recovery.sessions.files import CONTROL, SessionFiles
from vdbackup.recovery.sessions.qemu_process import is_qemu_of
from vdbackup.recovery.sessions.record import Origin, SessionRecord
from vdbackup.translation import tr


class SessionFolder:
    """The folder of a session of ours, locked until `close`, or until nobody holds this object.

    Attributes:
        id: the folder's name.
        path: the folder.
        files: what lies in it.
        record: what session.json says.
    """

    def __init__(self, files: SessionFiles, record: SessionRecord, descriptor: int) -> None:
        """Take over a folder whose `descriptor` holds the lock; use `create` or `reopen`."""
        self.id = files.folder.name
        self.path = files.folder
        self.files = files
        self.record = record
        self._deciding = threading.Lock()
        """Held while it is decided what becomes of the folder: of two who say so, the first."""
        self._unlock = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(
        cls,
        sessions_folder: Path,
        title: str,
        overlay: Path,
        origin: Origin | None = None,
        machine: dict[str, Any] | None = None,
        others: tuple[Origin, ...] = (),
        attached: tuple[Origin, ...] = (),
    ) -> Self:
        """Make a session's folder, and hold the points that it lies on.

        Raises RecoveryError where the folder cannot be made, RepositoryError where the point is not
        there.
        """
        started = datetime.now(UTC)
        name = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        path = sessions_folder.absolute() / name
        record = SessionRecord(
            title, started, overlay.absolute(), None, False, origin, machine or {}, others, attached
        )
        with _writing(path):
            path.mkdir(mode=0o700, parents=True)
            files = SessionFiles(path)
            folder = cls(files, record, files.lock())
        try:
            folder.write_record(None)
            for each in record.origins:
                each.hold(name, title, path, record.program)
        except BaseException:
            folder.remove()
            raise
        return folder

    @property
    def unheld(self) -> str:
        """What there is to say where the point is not held for the session; "" where it is."""
        if all(each.is_held(self.id) for each in self.record.origins):
            return ""
        return tr(
            "The repository cannot be written to, so nobody else sees that this point is in "
            "use: do not merge or delete it meanwhile."
        )

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Take over a session that nobody runs; raises RecoveryError where somebody does."""
        files = SessionFiles(path)
        try:
            folder = cls(files, files.read_record(), files.lock())
        except BlockingIOError:
            raise MachineRunning(
                tr("The session {path} is in use by another program.", path=path.name),
                tr("End it there, or kill it first."),
            ) from None
        except FileNotFoundError:
            raise SessionNotFound(
                tr("There is no session {path} any more.", path=path.name)
            ) from None
        folder.record = files.read_record()  # as it is under the lock
        if is_qemu_of(folder.record.pid, path):
            raise MachineRunning(
                tr("The machine of the session {path} is still running.", path=path.name),
                tr("Stop or kill it."),
            )
        return folder

    @property
    def title(self) -> str:
        """What runs here, for a person."""
        return self.record.title

    @property
    def disk(self) -> Path:
        """What the guest writes, a qcow2 child of the overlay."""
        return self.files.disk

    def folder_of(self, number: int) -> Path:
        """What belongs to one of the machine's other disks, the second number 2; made if need be.

        Raises SessionsFolder.
        """
        folder = self.files.folder_of(number)
        with _writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def console(self) -> Path:
        """What the guest wrote to its first serial port."""
        return self.files.console

    def complaints(self) -> BinaryIO:
        """The file that takes what QEMU writes to its standard output and error."""
        with _writing(self.path):
            return self.files.complaints.open("ab+")

    def write_record(self, pid: int | None, *, ended: bool = False) -> None:
        """Write session.json; `pid` is QEMU's, once it runs. Raises RecoveryError."""
        self.record = replace(self.record, pid=pid, ended=ended)
        text = json.dumps({"id": self.id, **self.record.to_json()}, indent=2) + "\n"
        with _writing(self.path):
            durable.replace(self.files.record, text.encode())

    def control(self) -> socket.socket:
        """A listening socket in the folder, for other programs; raises RecoveryError.

        A socket's path may have 107 bytes; the folder's own descriptor makes it short.
        """
        path = self.files.control
        listener = socket.socket(socket.AF_UNIX)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _writing(self.path):
                path.unlink(missing_ok=True)
                listener.bind(f"/proc/self/fd/{descriptor}/{CONTROL}")
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
            for path in self.files.made_anew():
                path.unlink()

    def keep(self, *, ended: bool = True) -> None:
        """What the machine wrote stays, and may be opened again; ends our part in it.

        Where that has ended already, nothing is done: somebody else may have the folder by now.

        Args:
            ended: as it was meant to, and not by a crash.
        """
        with self._deciding:
            if self.is_ours:
                self.write_record(self.record.pid, ended=ended)
                self.close()

    @property
    def is_ours(self) -> bool:
        """Whether its lock is held, and so what lies in it is ours to change."""
        return self._unlock.alive

    def close(self) -> None:
        """Let others have the folder; may be called again."""
        self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove(self) -> None:
        """Delete the folder and all that is in it, and let go of the point; may be called again.

        What was kept, and so is not ours any more, stays.
        """
        with self._deciding:
            if not self.is_ours:
                return
            self.files.delete()
            for each in self.record.origins:
                each.release(self.id)
            self.close()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says in a sentence that the folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise SessionsFolder(
            tr(
                "The session's folder {folder} cannot be written to: {reason}.",
                folder=folder,
                reason=error.strerror,
            ),
            tr("Choose another folder for sessions, or free some space there."),
        ) from error
