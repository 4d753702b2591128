"""A session's folder: its disk, its console's text, and who it belongs to.

    SESSIONS/<id>/            mode 0700
        session.json          id, pid (QEMU's), started, title, overlay
        session.qcow2         what the guest has written
        map.*, layer<n>       the chain for a QEMU that cannot read it (concatenation.py)
        console.log           what the guest wrote to its first serial port
        qemu.log              what QEMU complained of

The folder is locked (flock) by the process that started the session, for as long as that lives: a
folder without a lock is left over from a crash.
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
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from vdbackup.errors import RecoveryError

log = logging.getLogger(__name__)

_RECORD = "session.json"


class SessionFolder:
    """The folder of a session of ours, locked until `remove`, or until nobody holds this object.

    Attributes:
        id: the folder's name.
        title: what runs here, for a person.
        started: when, in UTC.
    """

    def __init__(self, sessions_folder: Path, title: str, overlay: Path) -> None:
        """Make the folder; raises RecoveryError where that cannot be."""
        self.started = datetime.now(UTC)
        self.id = f"{self.started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.title = title
        self.path = sessions_folder.absolute() / self.id
        self._overlay = overlay.absolute()
        with self._writing():
            self.path.mkdir(mode=0o700, parents=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._unlock = weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self.record(None)
        except RecoveryError:
            self.remove()
            raise

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
        with self._writing():
            return (self.path / "qemu.log").open("ab+")

    def record(self, pid: int | None) -> None:
        """Write session.json; `pid` is QEMU's, once it runs. Raises RecoveryError."""
        record = {
            "id": self.id,
            "pid": pid,
            "started": self.started.isoformat(timespec="seconds"),
            "title": self.title,
            "overlay": str(self._overlay),
        }
        new = self.path / f"{_RECORD}.new"
        with self._writing():
            new.write_text(json.dumps(record, indent=2) + "\n")
            new.replace(self.path / _RECORD)

    def remove(self) -> None:
        """Delete the folder and all that is in it; may be called again."""
        _delete(self.path)
        self._unlock()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in a sentence that the folder cannot be written to."""
        try:
            yield
        except OSError as error:
            raise RecoveryError(
                f"The session's folder {self.path} cannot be written to: {error.strerror}.",
                "Choose another folder for sessions, or make room there.",
            ) from error


@dataclass(frozen=True)
class LeftoverSession:
    """A session whose owner has crashed.

    Attributes:
        started: when, in UTC.
        overlay: what it was started on.
        running: its QEMU is still there, and nobody controls it.
    """

    id: str
    folder: Path
    title: str
    started: datetime
    overlay: Path
    pid: int | None
    running: bool

    def discard(self) -> None:
        """End its QEMU if that still runs, and delete the folder."""
        if self.pid is not None:
            _kill(self.pid, self.folder)
        _delete(self.folder)


def leftover_sessions(sessions_folder: Path) -> list[LeftoverSession]:
    """The sessions in `sessions_folder` that nobody owns any more, oldest first."""
    return [
        session
        for record in sorted(sessions_folder.absolute().glob(f"*/{_RECORD}"))
        if (session := _leftover(record.parent)) is not None
    ]


def _leftover(folder: Path) -> LeftoverSession | None:
    """The session in `folder`, unless its owner lives or is just deleting it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record = _read_record(folder)
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        os.close(descriptor)
    pid = record["pid"]
    return LeftoverSession(
        id=folder.name,
        folder=folder,
        title=record["title"],
        started=datetime.fromisoformat(record["started"]),
        overlay=Path(record["overlay"]),
        pid=pid,
        running=pid is not None and _is_qemu_of(pid, folder),
    )


def _read_record(folder: Path) -> dict[str, Any]:
    """What session.json says; what can be said without it where a power cut has emptied it."""
    path = folder / _RECORD
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    record: dict[str, Any] = {
        "pid": None,
        "title": folder.name,
        "started": modified.isoformat(),
        "overlay": "",
    }
    try:
        record |= json.loads(path.read_text())
    except ValueError:
        log.warning("%s cannot be read", path)
    return record


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # somebody else has done it
        return
    except OSError as error:
        raise RecoveryError(
            f"The session's folder {folder} cannot be deleted: {error.strerror}.",
            "Delete it yourself.",
        ) from error


def _is_qemu_of(pid: int, folder: Path) -> bool:
    """Whether process `pid` works in `folder`: by its command line, since pids are used again."""
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill(pid: int, folder: Path) -> None:
    """Kill the QEMU of `folder`, if `pid` still is that; returns when it is gone."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_qemu_of(pid, folder):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])
    finally:
        os.close(process)
