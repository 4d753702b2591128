"""One window for one person's settings: a second start shows the first one's window instead.

Whoever holds the lock is the one window; the system lets go of it with the process, however that
ends. A socket without a file, which cannot be left behind either, only tells it to come forward.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtNetwork import QLocalServer, QLocalSocket

from vdbackup import durable

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that a window which is just opening or closing is waited for
_ANSWER = 1000  # milliseconds
_ACTIVATION = "XDG_ACTIVATION_ACTIVATION"
_MAX_LENGTH = 4096


class Instance(QObject):
    """The claim of a window to be the only one that uses the settings in a folder.

    Signals:
        called(): another start wants to see this window.
    """

    called = Signal()

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._lock: int | None = None
        self._server: QLocalServer | None = None

    def claim(self, patience: float = PATIENCE) -> bool:
        """Be the one window; False where another one is, which comes forward.

        Where no lock can be had at all, as on storage that is read-only, this one opens, too.
        """
        until = time.monotonic() + patience
        while True:
            try:
                self._lock = self._locked()
            except BlockingIOError:
                if self._call():
                    return False
            except OSError:
                log.warning("several windows may open", exc_info=True)
                return True
            else:
                self._listen()
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.1)

    def release(self) -> None:
        """Let another window be the one."""
        if self._server:
            self._server.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _locked(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        return durable.hold_lock(os.open(self._folder / "window.lock", flags, 0o600))

    @property
    def _name(self) -> str:
        folder = hashlib.blake2b(os.fsencode(self._folder.resolve()), digest_size=12)
        return f"vdbackup-{folder.hexdigest()}"

    def _listen(self) -> None:
        self._server = server = QLocalServer(self)
        server.setSocketOptions(QLocalServer.SocketOption.AbstractNamespaceOption)
        server.newConnection.connect(self._on_called)
        if not server.listen(self._name):
            log.warning("a second start cannot call this window: %s", server.errorString())

    def _call(self) -> bool:
        """Ask the one window to come forward; whether it has heard."""
        socket = QLocalSocket()
        socket.setSocketOptions(QLocalSocket.SocketOption.AbstractNamespaceOption)
        socket.connectToServer(self._name)
        if not socket.waitForConnected(_ANSWER):
            return False
        socket.write(os.fsencode(os.environ.get(_ACTIVATION, ""))[:_MAX_LENGTH] + b"\n")
        heard = socket.waitForBytesWritten(_ANSWER)
        socket.disconnectFromServer()
        return heard

    def _on_called(self) -> None:
        while self._server and self._server.hasPendingConnections():
            caller = self._server.nextPendingConnection()
            caller.readyRead.connect(lambda caller=caller: self._on_token(caller))
            caller.disconnected.connect(caller.deleteLater)
            if caller.bytesAvailable():
                self._on_token(caller)

    def _on_token(self, caller: QLocalSocket) -> None:
        """Come forward, with the right to that which the desktop gave to the second start."""
        token = bytes(caller.read(_MAX_LENGTH).data()).strip()
        if token:
            os.environ[_ACTIVATION] = os.fsdecode(token)
        self.called.emit()
