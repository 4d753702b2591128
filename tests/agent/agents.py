"""The real agent, as systemd starts it: a process of root's for each client that connects.

In the place of polkit stands a program of the test's, which is asked as pkcheck is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sources.ordinary_user import open_folder
from vdbackup.agent import connection

CHECKOUT = Path(__file__).resolve().parents[2]

LISTENER = """
import os, socket, subprocess, sys
place, *command = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
    listening.bind(place)
    os.chmod(place, 0o666)
    listening.listen()
    print("listens", flush=True)
    agents = []
    while True:
        end, _ = listening.accept()
        agents = [each for each in agents if each.poll() is None]
        agents.append(subprocess.Popen(command, stdin=end.fileno()))
        end.close()
"""
"""Accept=yes of systemd.socket(5)."""

AGENT = """
import hashlib, mmap, os, pathlib, sys, time
from vdbackup.agent import freezing, last_set, marking, permission, pins, service
folder = pathlib.Path(sys.argv[2])
with (folder / "pids").open("a") as file:
    print(os.getpid(), file=file)
pins.BPFFS = pathlib.Path(sys.argv[1])
permission.PKCHECK = folder / "pkcheck"
marking._MAX_WORDS = 64  # as in conftest.py

def filled(last, stretches, read, freeze, fill=last_set.LastSet.fill):
    done = fill(last, stretches, read, freeze)
    if done:
        held, size = hashlib.blake2b(), os.lseek(read.__self__._device, 0, os.SEEK_END)
        with mmap.mmap(-1, 1 << 20) as memory:
            for at in range(0, size, 1 << 20):
                view = memoryview(memory)[: size - at]
                read(at, view)
                held.update(view)
                view.release()
        with (folder / "frozen").open("a") as file:
            file.write(held.hexdigest() + os.linesep)
    if (folder / "stays frozen").exists():
        (folder / "in freeze").touch()
        while (folder / "stays frozen").exists():
            time.sleep(0.01)
    return done

last_set.LastSet.fill = filled
service.main()
"""
"""It notes what the device held when the last set had been read, still within the freeze."""

PKCHECK = """#!/bin/sh
echo "$@" >> {folder}/asked
for last; do :; done
grep -qsx -- "$last" {folder}/allowed
"""


@dataclass
class Agents:
    """What the agents of a test do, and were told.

    Attributes:
        folder: of theirs, that every user may look into.
    """

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def asked(self) -> list[str]:
        """What the program in polkit's place was asked."""
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def said(self) -> str:
        """What all of them said that is for the journal."""
        return (self.folder / "said").read_text()

    @property
    def frozen(self) -> list[str]:
        """What devices held as a whole when they were frozen for the last time."""
        return (self.folder / "frozen").read_text().splitlines()

    @property
    def pids(self) -> list[int]:
        """Of all that were started."""
        file = self.folder / "pids"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    @contextmanager
    def staying_frozen(self) -> Iterator[Path]:
        """Freezes do not end by themselves; gives a file that is there once one has begun."""
        stays = self.folder / "stays frozen"
        stays.touch()
        try:
            yield self.folder / "in freeze"
        finally:
            stays.unlink(missing_ok=True)

    def allow(self, *devices: Path) -> None:
        """Every user may use these, and no others."""
        looks = "--allow-user-interaction"  # the last word where no device is meant
        text = "".join(f"{each}\n" for each in (looks, *(device.name for device in devices)))
        (self.folder / "allowed").write_text(text)


@contextmanager
def agents_for(bpffs: Path) -> Iterator[Agents]:
    """Agents at a socket that clients in this process find, too."""
    with open_folder() as folder, pytest.MonkeyPatch.context() as patch:
        found = Agents(folder)
        pkcheck = folder / "pkcheck"
        pkcheck.write_text(PKCHECK.format(folder=folder))
        pkcheck.chmod(0o755)
        agent = [sys.executable, "-c", AGENT, str(bpffs), str(folder)]
        command = [sys.executable, "-c", LISTENER, str(found.socket), *agent]
        with (
            (folder / "said").open("wb") as said,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, cwd=CHECKOUT, start_new_session=True
            ) as listener,
        ):
            try:
                assert listener.stdout is not None
                assert listener.stdout.readline() == b"listens\n"
                patch.setattr(connection, "SOCKET", found.socket)
                yield found
            finally:
                listener.kill()
