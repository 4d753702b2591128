"""QEMU is started for a session, and waits."""

from __future__ import annotations

import logging
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import replace

from vdbackup.qemu import qemu
from vdbackup.recovery.sessions.folder import SessionFolder

log = logging.getLogger(__name__)


def start(
    machine: qemu.Machine, folder: SessionFolder
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start QEMU, which waits for `cont`; returns it, and the socket of its monitor."""
    ours, theirs = socket.socketpair()
    with (
        ExitStack() as undo,
        theirs,
        folder.control() as control,
        folder.complaints() as complaints,
    ):
        undo.callback(ours.close)
        machine = replace(machine, monitor_fd=theirs.fileno(), control_fd=control.fileno())
        command = machine.command()
        log.info("starting %s", command)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=subprocess.STDOUT,
            env=qemu.environment(),
            pass_fds=machine.descriptors,
            process_group=0,  # Ctrl-C in our terminal is told to us: QEMU is ended by us alone
            # Python ignores SIGXFSZ, and so shall QEMU: a limit on the size of files then pauses
            # the guest, as a full disk does, instead of killing it.
            restore_signals=False,
        )
        undo.pop_all()
    return process, ours
