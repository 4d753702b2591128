"""A virtual machine on a recovery point's overlay: start it, watch it, end it.

What the guest writes goes to a session disk of its own; the overlay and the layers below it are
opened for reading only. Nothing of a session outlives `discard`.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import BlockMap
from vdbackup.errors import RecoveryError
from vdbackup.jobs import CancelToken
from vdbackup.recovery import accelerator, concatenation, qemu
from vdbackup.recovery.monitor import Monitor
from vdbackup.recovery.session_folder import SessionFolder

log = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds that a guest gets to shut down when it is asked to."""

_POLL = 0.05
"""Seconds between two looks at the console and at the user's wish to cancel."""
_EXIT_LIMIT = 30.0
"""Seconds that QEMU may take to end when it is told to."""


def start_session(
    overlay: Path,
    *,
    sessions_folder: Path,
    title: str,
    sector_size: int = 512,
    hardware: str = qemu.Hardware.VIRTIO,
    display: bool = False,
    memory_mib: int = 1024,
    disk_format: str = "vmdk",
) -> Session:
    """Boot a virtual machine from `overlay`; returns as soon as the guest runs.

    QEMU gets the chain as it was just checked (`Chain.open`): it follows no link by itself. Where
    it cannot read the chain's format, it gets a map of it (recovery/concatenation.py).

    Args:
        overlay: the tip of a chain; neither it nor a parent is ever written to.
        sessions_folder: where the session's own folder is made.
        title: the window's, and the session's in lists.
        sector_size: that the guest sees, in bytes.
        hardware: the disk's controller, one of qemu.Hardware.
        display: open QEMU's own window; else the machine runs unseen.
        memory_mib: the guest's memory, in MiB.
        disk_format: of the chain.

    Raises:
        RecoveryError: QEMU is not installed, has no window here, or does not start.
        ParentError, DiskFormatError: the chain is not what it should be.
    """
    choice = accelerator.choose()
    controller = qemu.hardware(hardware, sector_size)
    window = qemu.window() if display else "none"
    layers, flat = _checked(overlay, disk_format)
    with ExitStack() as undo:
        folder = SessionFolder(sessions_folder, title, overlay)
        undo.callback(folder.remove)
        if disk_format in qemu.DRIVERS:
            backing = qemu.Backing.of_chain(layers, disk_format)
        else:
            backing = qemu.Backing.of_map(concatenation.build(folder.path, flat, layers))
        qemu.create_session_disk(folder.disk, backing, flat.size)
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs:
            machine = qemu.Machine(
                title=title,
                backing=backing,
                session_disk=folder.disk,
                sector_size=sector_size,
                hardware=controller,
                memory_mib=memory_mib,
                accelerator=choice.accelerator,
                display=window,
                console=folder.console,
                monitor_fd=theirs.fileno(),
            )
            process = _start(machine, folder)
        session = Session(folder, choice, process, ours)
        undo.pop_all()  # folder, QEMU and socket are the session's from here on
        undo.callback(session.discard)
        session._begin()
        undo.pop_all()
    return session


def _checked(overlay: Path, disk_format: str) -> tuple[list[Path], BlockMap]:
    """The files of the overlay's chain, base first, and where in them the disk's data lie."""
    try:
        with Chain.open(overlay, disk_format) as chain:
            return [layer.path.absolute() for layer in chain.layers], chain.map
    except OSError as error:
        raise RecoveryError(
            f"{overlay} cannot be read: {error.strerror}.",
            "Boot another recovery point, or put the file back.",
        ) from error


def _start(machine: qemu.Machine, folder: SessionFolder) -> subprocess.Popen[bytes]:
    """Start QEMU, which waits for `cont`."""
    command = machine.command()
    log.info("starting %s", command)
    with folder.complaints() as complaints:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=subprocess.STDOUT,
            env=qemu.environment(),
            pass_fds=[machine.monitor_fd],
            # Python ignores SIGXFSZ, and so shall QEMU: a limit on the size of files then pauses
            # the guest, as a full disk does, instead of killing it.
            restore_signals=False,
        )


class Session:
    """A running or ended virtual machine. As a context manager it is ended and discarded.

    All methods may be called from any thread; those that wait may be cut short from another one
    by `kill`.

    Attributes:
        id: names the session's folder.
        folder: holds the session's disk, its console's text, and QEMU's complaints.
        title: for a person.
        accelerator: what runs the guest's instructions.
        notice: why that is not KVM, in a sentence; empty where it is.
        error: what went wrong in the machine or with QEMU, None as long as nothing has.
    """

    def __init__(
        self,
        folder: SessionFolder,
        choice: accelerator.Choice,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
    ) -> None:
        """Take over a QEMU that has just been started; use `start_session`."""
        self.id = folder.id
        self.folder = folder.path
        self.title = folder.title
        self.accelerator = choice.accelerator
        self.notice = choice.notice
        self.error: RecoveryError | None = None
        self._folder = folder
        self._process = process
        self._monitor = Monitor(connection, self._on_event)
        self._killed = False
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._supervise, name=f"session {self.id}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether QEMU is there, with a guest that runs or is paused."""
        return not self._ended.is_set()

    def wait_for_text(
        self, text: str, timeout: float | None = None, cancel: CancelToken | None = None
    ) -> bool:
        """Wait until the guest has written `text` to its first serial port, from its start on.

        Args:
            text: looked for as UTF-8; a guest ends its lines with CR and LF as a rule.
            timeout: seconds; None waits for ever.
            cancel: looked at twenty times a second.

        Returns:
            Whether it came; False when the time is over or the machine has ended.

        Raises:
            RecoveryError: something went wrong in the machine (`error`).
            Cancelled: by `cancel`.
        """
        wanted = text.encode()
        seen = 0  # bytes of the console in which the text does not start

        def came() -> bool:
            nonlocal seen
            if not self._folder.console.exists():
                return False
            with self._folder.console.open("rb") as console:
                console.seek(seen)
                new = console.read()
            seen += max(0, len(new) - len(wanted) + 1)
            return wanted in new

        return self._wait(came, timeout, cancel)

    def wait(self, timeout: float | None = None, cancel: CancelToken | None = None) -> bool:
        """Wait until the machine has ended; returns whether it has within `timeout` seconds.

        Raises:
            RecoveryError: something went wrong in the machine (`error`); it may still be there,
                paused, so that its screen can be looked at.
            Cancelled: by `cancel`.
        """
        ended = self._wait(self._ended.is_set, timeout, cancel)
        if self.error is not None:
            raise self.error
        return ended

    def console_text(self) -> str:
        """All that the guest has written to its first serial port, with plain line ends."""
        if not self._folder.console.exists():
            return ""
        return self._folder.console.read_text(encoding="utf-8", errors="replace")

    def screenshot(self, path: Path) -> None:
        """Save the guest's screen as a PNG file, durably; raises RecoveryError."""
        new = path.absolute().with_name(path.name + ".partial")
        self.execute("screendump", filename=str(new), format="png")
        try:
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            raise RecoveryError(
                f"The screenshot {path} cannot be written: {error.strerror}.",
                "Choose another file.",
            ) from error

    def execute(self, command: str, **arguments: object) -> Any:
        """What QEMU answers to a command of QMP; raises RecoveryError."""
        return self._monitor.execute(command, **arguments)

    def power_off(self, grace: float = GRACE) -> None:
        """Press the power button; end the machine if it has not shut down after `grace` seconds.

        Returns when it has ended.
        """
        try:
            self.execute("system_powerdown")
            paused = self.error is not None
            if not self._ended.wait(0 if paused else grace):
                self.execute("quit")
        except RecoveryError:
            log.info("ended before it was told to", exc_info=True)
        if not self._ended.wait(_EXIT_LIMIT):
            self.kill()

    def kill(self) -> None:
        """End the machine at once, as a power cut would; returns when it has ended."""
        self._killed = True
        self._process.kill()
        self._thread.join()

    def discard(self) -> None:
        """End the machine if it runs, and delete all that it wrote; may be called again."""
        self.kill()
        self._folder.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _begin(self) -> None:
        """Let the guest run; raises RecoveryError where QEMU has ended instead."""
        self._folder.record(self._process.pid)
        try:
            self._monitor.wait_until_ready()
            self.execute("cont")
        except RecoveryError:
            self.kill()
            log.exception("QEMU did not start")
            raise RecoveryError(
                f"The virtual machine {self.title} could not be started.", self._complaint()
            ) from None

    def _wait(
        self, done: Callable[[], bool], timeout: float | None, cancel: CancelToken | None
    ) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            ended = self._ended.is_set()
            if done():
                return True
            if cancel is not None:
                cancel.check()
            if self.error is not None:
                raise self.error
            if ended or (deadline is not None and time.monotonic() >= deadline):
                return False
            self._ended.wait(_POLL)

    def _supervise(self) -> None:
        """What the session's thread does: speak with QEMU, and wait for its end."""
        self._monitor.run()
        status = self._process.wait()
        if status != 0 and not self._killed:
            self._fail(
                RecoveryError(f"QEMU, which ran {self.title}, has crashed.", self._complaint())
            )
        self._ended.set()

    def _on_event(self, event: str, data: Mapping[str, Any]) -> None:
        error = _trouble(self.title, event, data)
        if error is not None:
            self._fail(error)

    def _fail(self, error: RecoveryError) -> None:
        """Note what went wrong; what follows from it is not noted."""
        log.error("session %s: %s", self.id, error)
        self.error = self.error or error

    def _complaint(self) -> str:
        """Why QEMU has ended, in a sentence; all that it said goes to the log."""
        with self._folder.complaints() as file:
            file.seek(0)
            said = file.read().decode(errors="replace")
        status = self._process.returncode
        log.error("QEMU ended with status %s and said: %s", status, said)
        return qemu.first_complaint(said) or f"QEMU ended with status {status}."


def _trouble(title: str, event: str, data: Mapping[str, Any]) -> RecoveryError | None:
    """What is wrong with the machine `title`, if an event of QMP says that something is."""
    if event == "GUEST_PANICKED":
        return RecoveryError(
            f"The operating system in {title} has crashed.",
            "Its screen says why; try another recovery point, or other virtual hardware.",
        )
    if event == "STOP" and data.get("status") == "internal-error":
        return RecoveryError(
            f"This computer cannot run {title}: QEMU has paused it with an internal error.",
            "The log says more.",
        )
    if event == "BLOCK_IO_ERROR" and data.get("action") == "stop":
        if data.get("nospace"):
            return RecoveryError(
                f"{title} is paused: there is no room for what it writes.",
                "Make room where sessions are kept, and boot it again.",
            )
        verb = "read" if data.get("operation") == "read" else "written"
        return RecoveryError(
            f"{title} is paused: its disk cannot be {verb} ({data.get('reason')}).",
            "Verify the recovery point, and look at the storage that it and sessions lie on.",
        )
    return None
