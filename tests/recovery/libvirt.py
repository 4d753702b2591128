"""A libvirt of one's own: a session daemon that a test starts, asks, and ends.

libvirt's daemon is one user's only where that user is not root. Root becomes nobody in a user
namespace, in which the same files are its own.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMIT = 240.0


class Refused(Exception):
    """What virsh said was wrong."""


class Libvirt:
    """The session daemon; `virsh` asks it.

    Attributes:
        programs: a folder with a virsh that asks it, to be the first on the PATH.
    """

    def __init__(self, folder: Path) -> None:
        self._as_user = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
        if os.geteuid():
            self._as_user = []
        self.programs = folder / "programs"
        self.programs.mkdir(parents=True)
        self._environment = dict(os.environ)
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
            self._environment[name] = str(folder / name.lower())
        self._environment["XDG_RUNTIME_DIR"] = str(folder / "r")
        (folder / "r").mkdir(mode=0o700)
        self._virsh()

    def _virsh(self) -> None:
        """As a user's own virsh: whoever calls it asks this daemon, and starts no other."""
        names = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
        settings = " ".join(f"{name}='{self._environment[name]}'" for name in names)
        program = self.programs / "virsh"
        user = " ".join(self._as_user)
        program.write_text(
            f'#!/bin/sh\nexec env LIBVIRT_AUTOSTART=0 {settings} {user} /usr/bin/virsh "$@"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def virsh(self, *words: str | Path) -> str:
        """What it answers; raises Refused where it has none."""
        done = subprocess.run(
            [self.programs / "virsh", "-q", "-c", "qemu:///session", *words],
            capture_output=True, text=True, check=False, timeout=_LIMIT,
        )  # fmt: skip
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        """The daemon, until the end of the block; its machines end with it."""
        with subprocess.Popen(
            [*self._as_user, "/usr/sbin/libvirtd"],
            env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as daemon:  # fmt: skip
            try:
                self._wait_for_answer()
                yield
            finally:
                for name in self.virsh("list", "--name").split("\n"):
                    if name.strip():
                        self.virsh("destroy", name.strip())
                daemon.terminate()

    def _wait_for_answer(self) -> None:
        end = time.monotonic() + _LIMIT
        while True:
            try:
                self.virsh("list")
            except Refused:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return
