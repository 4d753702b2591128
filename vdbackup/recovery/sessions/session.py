"""A session: one virtual machine that runs or has ended; QEMU is started, watched and ended here.

vm.py says what is to run.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from vdbackup import durable
from vdbackup.errors import (
    MachineFailed,
    MachinePaused,
    NotProtected,
    RecoveryError,
    UnfitTarget,
    VdbackupError,
)
from vdbackup.jobs import CancelToken
from vdbackup.qemu import accelerator, devices, qemu
from vdbackup.qemu.monitor import Monitor
from vdbackup.recovery.sessions import events
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.life import Life
from vdbackup.recovery.sessions.protection import protect, protect_again
from vdbackup.recovery.sessions.starting import start
from vdbackup.recovery.sessions.writes_watch import watching
from vdbackup.translation import tr

log = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds that a guest gets to shut down when it is asked to."""

_POLL = 0.05
"""Seconds between two looks at the console and at the user's request to cancel."""
_ROOM = 256 << 20
"""Bytes that must be free where a machine writes that QEMU itself does not pause..."""
_ROOM_POLL = 0.1
"""... and seconds between two looks: enough for what writes 2.5 GiB a second."""
_EXIT_LIMIT = 30.0
"""Seconds that QEMU may take to end when it is told to."""


class Session:
    """A running or ended virtual machine. As a context manager it is ended and discarded.

    All methods may be called from any thread; those that wait may be cut short from another one
    by `kill`.

    Attributes:
        id: names the session's folder.
        folder: the session's.
        files: what lies in it: the session's disk, its console's text, and QEMU's complaints.
        title: for a person.
        hardware: the machine's, with the reasons for it.
        accelerator: what runs the guest's instructions.
        notice: why that is not KVM, in a sentence; empty where it is.
        unheld: that others cannot see that its point is in use, in a sentence; empty where they do.
        protection: that its writes are kept, or why no more, in a sentence; empty where none were.
        error: what went wrong in the machine or with QEMU, None as long as nothing has.
        life: what is going on with its machine, or how that has ended.
    """

    def __init__(
        self,
        folder: SessionFolder,
        choice: accelerator.Choice,
        machine: qemu.Machine,
        keep_writes: int | None = None,
    ) -> None:
        """Start QEMU, which waits; use `start_session`.

        Args:
            folder: the session's.
            choice: what runs its instructions, and why.
            machine: what is started.
            keep_writes: bytes that every write may take that is kept; None: none are.
        """
        self.id = folder.id
        self.folder = folder.path
        self.files = folder.files
        self.title = folder.title
        self.hardware = machine.hardware
        self.accelerator = choice.accelerator
        self.notice = choice.notice
        self.unheld = folder.unheld
        self.protection = ""
        self.keeps_writes = False
        self.error: RecoveryError | None = None
        self.life = Life.RUNNING
        self._lock = threading.RLock()
        """Held while `life` or `error` changes, and while QEMU is ended or replaced."""
        self._folder = folder
        self._machine = machine
        self._keep_writes = keep_writes
        self._process, connection = start(machine, folder)
        self._monitor = Monitor(connection, self._on_event)
        self._claim = ExitStack()
        """What says that the machine reads its point, until it has ended."""
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._supervise, name=f"session {self.id}", daemon=True
        )
        self._watching: threading.Thread | None = None
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether QEMU is there, with a guest that runs or is paused."""
        return not self._ended.is_set()

    @property
    def paused(self) -> bool:
        """Whether `error` is one of its storage, after which it can go on (`resume`)."""
        return isinstance(self.error, MachinePaused)

    @property
    def crashed(self) -> bool:
        """Whether QEMU ended without anybody wanting it to."""
        return self.life is Life.CRASHED

    @property
    def cut_off(self) -> bool:
        """Whether QEMU was ended by neither its guest nor us.

        Its window was closed, or another program told it to. Nobody has said then what is to become
        of what the guest wrote.
        """
        return self.life in (Life.CUT_OFF, Life.CUT_OFF_AND_KILLED)

    def hold_claim(self, claim: ExitStack) -> None:
        """Take over the claim on what the machine reads (claims.py), until it has ended."""
        with self._lock:
            if self.running:
                self._claim.push(claim)
                return
        claim.close()

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
                if console.seek(0, os.SEEK_END) < seen:  # QEMU has been started anew
                    seen = 0
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

    def wait_while_paused(self, cancel: CancelToken) -> None:
        """Return when a machine that was paused goes on, or has ended; raises Cancelled.

        To go on for a moment is enough: where there still is no space, that is to be said again.
        """
        reason = self.error
        while self.paused and self.error is reason and not self._ended.wait(_POLL):
            cancel.check()

    def console_text(self) -> str:
        """All that the guest has written to its first serial port, with plain line ends."""
        if not self._folder.console.exists():
            return ""
        return self._folder.console.read_text(encoding="utf-8", errors="replace")

    def screenshot(self, path: Path) -> None:
        """Save the guest's screen as a PNG file, durably; raises RecoveryError."""
        try:
            with durable.made_beside(path.absolute()) as new:
                self.execute("screendump", filename=str(new), format="png")
                durable.sync_file(new)
        except OSError as error:
            raise UnfitTarget(
                tr(
                    "The screenshot {path} cannot be written: {reason}.",
                    path=path,
                    reason=error.strerror,
                ),
                tr("Choose another file."),
            ) from error

    @property
    def virtual_processors_rest(self) -> bool:
        """Whether none of the guest's processors has anything to do at this moment.

        A thread that runs a processor sleeps while that is halted (proc(5), stat: state). How much
        time it takes would not tell: where others want the computer's, it gets little.
        """
        tasks = Path(f"/proc/{self._process.pid}/task")
        threads = [each["thread-id"] for each in self.execute("query-cpus-fast")]
        try:
            stats = [(tasks / str(thread) / "stat").read_text() for thread in threads]
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return True
        return all(stat.rpartition(") ")[2].startswith("S") for stat in stats)

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
                self._tell_to_end()
        except RecoveryError:
            log.info("ended before it was told to", exc_info=True)
        if not self._ended.wait(_EXIT_LIMIT):
            self.kill()

    def resume(self) -> None:
        """Let a paused machine go on: what could not be written is tried again."""
        self.execute("cont")

    def kill(self) -> None:
        """End the machine at once, as a power cut would; returns when it has ended."""
        with self._lock:
            if self.running:  # what has ended stays as it ended
                if not self._become(Life.KILLED):
                    self._become(Life.CUT_OFF_AND_KILLED)
                self._process.kill()
        self._thread.join()
        if self._watching is not None:
            self._watching.join()

    def discard(self) -> None:
        """End the machine if it runs, and delete all that it wrote, unless that is kept."""
        self.kill()
        self._folder.remove()

    def keep(self) -> None:
        """End the machine if it runs; what it wrote stays, and may be opened again or promoted.

        QEMU ends by itself, if it can: killed, it loses what of the disk's tables is in its memory.
        One that hears nothing any more as a rule is about to end, and gets its time, too.
        """
        try:
            self._tell_to_end()
        except RecoveryError:
            log.info("session %s does not hear any more", self.id, exc_info=True)
        self._ended.wait(_EXIT_LIMIT)
        self.kill()
        self._folder.keep(ended=not self.crashed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def begin(self) -> None:
        """Let the guest run; raises RecoveryError where QEMU has ended instead."""
        self._folder.write_record(self._process.pid)
        try:
            self._monitor.wait_until_ready()
            self._protect()
            self.execute("cont")
            self._watching = watching(self.id, self._folder.record, self.execute, self._ended)
            if not devices.pauses(self.hardware):
                name = f"space of session {self.id}"
                threading.Thread(target=self._watch_space, name=name, daemon=True).start()
        except NotProtected:
            self.kill()
            raise
        except RecoveryError:
            self.kill()
            log.exception("QEMU did not start")
            raise MachineFailed(
                tr("The virtual machine {title} could not be started.", title=self.title),
                self._complaint(),
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
        if self.life is Life.RESTARTING and self._start_again():
            starter = threading.Thread(target=self._go_on, name=f"start of session {self.id}")
            starter.start()
            self._monitor.run()
            starter.join()
            status = self._process.wait()
        if status == 0 or not self._become(Life.CRASHED):
            self._become(Life.ENDED)
        else:
            self._fail(
                MachineFailed(
                    tr("QEMU, which ran {title}, has crashed.", title=self.title), self._complaint()
                )
            )
        self._let_go()

    def _let_go(self) -> None:
        """The machine has ended: what it read may be changed again."""
        with self._lock:
            try:
                self._claim.close()
            except VdbackupError as error:  # another computer has changed it meanwhile
                self._fail(MachineFailed(error.title, error.advice))
            except OSError:
                log.exception("session %s: its storage has gone", self.id)
            finally:
                self._ended.set()

    def _protect(self) -> None:
        """Put the log of all writes below the disk, before the guest runs, if that is wanted.

        Or was, before a session was opened again: where that fails, the machine runs without.
        """
        told = (self.execute, self.id, self.folder, self._folder.record)
        if self._keep_writes is not None:
            _, self.protection = protect(*told, self._keep_writes)
            self.keeps_writes = True
            return
        self.keeps_writes, self.protection = protect_again(*told)

    def _watch_space(self) -> None:
        """Pause a machine before its storage is full: its guest would be told of a broken disk."""
        while not self._ended.wait(_ROOM_POLL):
            try:
                if self.error is not None or shutil.disk_usage(self.folder).free >= _ROOM:
                    continue
                self.execute("stop")
            except (RecoveryError, OSError):  # it ends, or its storage does not answer
                log.info("session %s cannot be paused", self.id, exc_info=True)
                continue
            self._fail(events.no_space(self.title))

    def _on_event(self, event: str, data: Mapping[str, Any]) -> None:
        if self._machine.accelerator is qemu.Accelerator.KVM and events.is_internal_error(
            event, data
        ):
            with self._lock:
                if self._become(Life.RESTARTING):
                    self._process.kill()
            return
        if events.is_cut_off(event, data):
            self._become(Life.CUT_OFF)
        if event == "RESUME":
            with self._lock:
                self.error = None if self.paused else self.error
        error = events.trouble(self.title, event, data)
        if error is not None:
            self._fail(error)

    def _start_again(self) -> bool:
        """Start QEMU without KVM, which could not run this guest; whether it has been started.

        The disk is as the guest has left it, as after a power cut: a boot has written little.
        """
        log.warning("session %s: KVM could not run the guest; going on without", self.id)
        with self._lock:
            if self.life is not Life.RESTARTING:
                return False
            self._machine = replace(self._machine, accelerator=qemu.Accelerator.TCG)
            try:
                connection = self._started_and_noted()
            except (RecoveryError, OSError):
                log.exception("QEMU could not be started again")
                self._fail(
                    MachineFailed(
                        tr(
                            "{title} could not be started again without hardware virtualization.",
                            title=self.title,
                        ),
                        tr("The log says more."),
                    )
                )
                return False
            self._monitor = Monitor(connection, self._on_event)
            self._become(Life.RUNNING)
        self.accelerator = qemu.Accelerator.TCG
        self.notice = tr(
            "The virtual machine runs slowly, in software: hardware virtualization (KVM) is "
            "there, but could not run this system, which was started again without it."
        )
        return True

    def _started_and_noted(self) -> socket.socket:
        """Start QEMU in the place of the one that has ended; the socket of its monitor.

        Raises RecoveryError or OSError, and then there is none.
        """
        process, connection = start(self._machine, self._folder)
        try:
            self._folder.write_record(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            connection.close()
            raise
        self._process = process
        return connection

    def _go_on(self) -> None:
        """Let the guest run that has been started again."""
        try:
            self._monitor.wait_until_ready()
            self._protect()
            self.execute("cont")
        except (VdbackupError, OSError) as error:
            self._fail(
                MachineFailed(
                    tr("{title} could not be started again.", title=self.title), str(error)
                )
            )
            self._process.kill()

    def _fail(self, error: RecoveryError) -> None:
        """Note what went wrong; what follows from it is not noted."""
        log.error("session %s: %s", self.id, error)
        with self._lock:
            self.error = self.error or error

    def _become(self, state: Life) -> bool:
        """Change the machine's state, if that can follow on the one it is in; whether it did."""
        with self._lock:
            if not self.life.may_become(state):
                return False
            log.info("session %s: %s", self.id, state.name)
            self.life = state
            return True

    def _tell_to_end(self) -> None:
        """Tell QEMU to quit; raises RecoveryError where it does not hear that any more."""
        with self._lock:
            if self.life is Life.RESTARTING:  # there is none that could be told
                self._become(Life.KILLED)
            self._become(Life.TOLD_TO_END)
        self.execute("quit")

    def _complaint(self) -> str:
        """Why QEMU has ended, in a sentence; all that it said goes to the log."""
        with self._folder.complaints() as file:
            file.seek(0)
            complaints = file.read().decode(errors="replace")
        status = self._process.returncode
        log.error("QEMU ended with status %s and said: %s", status, complaints)
        return qemu.first_complaint(complaints) or tr(
            "QEMU ended with status {status}.", status=status
        )
