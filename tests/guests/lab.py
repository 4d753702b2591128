"""A Debian in which vdbackup runs, on kernels and with parts that the tests' own machine lacks.

It boots under QEMU without any network (tests/guests/debian.py has built it): systemd, polkit,
udev, device-mapper. What it has of vdbackup lies on a disk of its own, packed anew from this
checkout and the packages of the environment that runs the tests. Its guest agent runs the commands.

    sda                  the system, on AHCI
    virtio-NAME          others, by /dev/disk/by-id/virtio-NAME
    usb-...              drives that a test plugs in
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import vdbackup
from tests.guests import debian
from tests.guests.cache import NotBuilt, run
from tests.guests.debian import Debian
from tests.guests.patience import Patience, ask
from vdbackup.errors import MachineFailed

PYTHON = (3, 11)
"""The Debian's: compiled packages of another one do not run there."""
_WINDOW = {"pyside6-essentials", "pyqtgraph"}
"""What only the window needs."""
PLACE, PROGRAM = "/opt/vdbackup", "program"
"""Where vdbackup lies in the guest, and the disk that is mounted there."""
_SERVICE = "org.qemu.guest_agent.0"
_CONSOLE, _MONITOR, _LOG = "console", "monitor", "commands"
_UP_WITHIN, _DONE_WITHIN, _COMES_WITHIN = 900.0, 900.0, 300.0
"""Seconds of a machine that only translates, as its `Clock` counts them."""
_TRIES_AGAIN, _ANSWERS_WITHIN = 5.0, 900.0
"""Seconds on the wall, on a busy computer."""
_LOOKS_AGAIN, _SELDOM = 2.0, 8.0
_LAST_WORDS = 3000
"""Characters of the console that are said where something did not come."""
_ENVIRONMENT = [
    *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"),
    *("HOME=/root", "PYTHONDONTWRITEBYTECODE=1"),
]


@dataclass(frozen=True)
class Done:
    """What came of a command.

    Attributes:
        status: it ended with.
        said, complained: its output, and what it said of errors.
    """

    status: int
    said: str
    complained: str

    @property
    def json(self) -> Any:
        """What it says, as JSON: the last of several lines."""
        try:
            return json.loads(self.said)
        except ValueError:
            return json.loads((self.said or self.complained).splitlines()[-1])


class Guest:
    """A Debian that runs.

    Attributes:
        console: what it says on its first serial port.
    """

    def __init__(
        self, agent: socket.socket, folder: Path, process: subprocess.Popen[bytes]
    ) -> None:
        self._agent, self._process, self._monitor = agent, process, folder / _MONITOR
        self._lines = agent.makefile("rb")
        self._begun: dict[int, str] = {}
        self.console = folder / _CONSOLE
        self._log = (folder / _LOG).open("a", buffering=1)

    def close(self) -> None:
        """Speak to it no more."""
        self._log.close()
        self._lines.close()

    def wait_until_up(self) -> None:
        """All that is started with it is there."""
        patience = self._patience(_UP_WITHIN)
        self._agent.settimeout(_TRIES_AGAIN)
        for number in itertools.count():
            try:
                found = self._ask("guest-sync", id=number)
                while found < number:  # earlier ones were heard, but not yet answered
                    found = self._reply()
                break
            except TimeoutError:  # it was not heard: nobody had the port open
                self._lines.close()
                self._lines = self._agent.makefile("rb")
            assert self.is_on, f"The guest has ended:\n{self._last_words()}"
            self._check(patience, "to come up")
        self._agent.settimeout(_ANSWERS_WITHIN)
        self.run("systemctl is-system-running --wait; udevadm settle")
        mounted = f"mountpoint -q {PLACE} || mount -o ro {device(PROGRAM)} {PLACE}"
        self.run(f"mkdir -p {PLACE}; {mounted}")
        self.run(f"ln -sf {PLACE}/vdbackup.sh /usr/local/bin/vdbackup")
        # as installed: what starts it by Python alone, as the units of schedules do, finds it, too
        self.run(f"echo {PLACE} > /usr/lib/python3/dist-packages/lab.pth")

    def _ask(self, execute: str, **arguments: Any) -> Any:
        request = {"execute": execute, "arguments": arguments}
        self._agent.sendall(json.dumps(request).encode() + b"\n")
        return self._reply()

    def _reply(self) -> Any:
        line = self._lines.readline()
        assert line, f"The guest has ended:\n{self._last_words()}"
        reply = json.loads(line)
        assert "error" not in reply, reply
        return reply["return"]

    def _last_words(self) -> str:
        return self.console.read_text(errors="replace")[-_LAST_WORDS:]

    def start(self, shell: str) -> int:
        """Begin to run a line of the shell as root; its number, for `end_of`."""
        pid: int = self._ask(
            "guest-exec",
            path="/bin/sh",
            arg=["-c", shell],
            env=_ENVIRONMENT,
            **{"capture-output": True},
        )["pid"]
        self._begun[pid] = shell
        return pid

    def end_of(self, pid: int, limit: float = _DONE_WITHIN) -> Done:
        """What came of it, once it has ended."""
        patience, pause = self._patience(limit), 0.1
        while not (found := self._ask("guest-exec-status", pid=pid))["exited"]:
            self._check(patience, self._begun[pid])
            time.sleep(pause)
            pause = min(1.5 * pause, _LOOKS_AGAIN)  # the guest's journal notes each time
        done = Done(
            found.get("exitcode", -found.get("signal", 0)),
            *(
                base64.b64decode(found.get(name, "")).decode(errors="replace")
                for name in ("out-data", "err-data")
            ),
        )
        self._log.write(f"{self._begun.pop(pid)}\n    {done.status} after {patience.clock}\n")
        return done

    def run(self, shell: str, *, status: int | None = 0, user: str | None = None) -> Done:
        """Run a line of the shell as root, or as a user, to its end.

        Args:
            shell: the line.
            status: that it has to end with; None for any.
            user: who does it.
        """
        if user is not None:
            shell = f"exec runuser -u {user} -- sh -c {_quoted(shell)}"
        done = self.end_of(self.start(shell))
        if status is not None:
            assert done.status == status, f"{shell}\n{done}"
        return done

    def wait_for(self, what: str, shell: str, limit: float = _COMES_WITHIN) -> Done:
        """Run a line of the shell as root until it succeeds; what it said then.

        Args:
            what: is waited for: it is said where it does not come.
            shell: the line.
            limit: seconds, as a `Clock` counts them.
        """
        done: list[Done] = []

        def succeeds() -> bool:
            done[:] = [self.run(shell, status=None)]
            return done[0].status == 0

        self.wait_until(what, succeeds, limit)
        return done[0]

    def wait_until(
        self, what: str, there: Callable[[], bool], limit: float = _COMES_WITHIN
    ) -> None:
        """The same for what is found out in another way."""
        patience, pause = self._patience(limit), _LOOKS_AGAIN
        while not there():
            self._check(patience, what)
            time.sleep(pause)
            pause = min(1.2 * pause, _SELDOM)  # each look takes from what is waited for

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file of root's."""
        encoded = base64.b64encode(text.encode()).decode()
        self.run(f"mkdir -p $(dirname {path}); echo {encoded} | base64 -d > {path}")
        self.run(f"chmod {mode} {path}")

    def plug(self, name: str, path: Path) -> None:
        """Plug a drive in, by USB."""
        file = {"driver": "file", "filename": str(path)}
        drive: dict[str, object] = {"driver": "raw", "node-name": name, "file": file}
        ask(self._monitor, "blockdev-add", drive)
        stick: dict[str, object] = {"driver": "usb-storage", "id": name, "bus": "usb.0"}
        ask(self._monitor, "device_add", {**stick, "drive": name, "serial": name})

    def unplug(self, name: str) -> None:
        """Pull it out again."""
        ask(self._monitor, "device_del", {"id": name})
        while True:
            try:
                ask(self._monitor, "blockdev-del", {"node-name": name})
                return
            except MachineFailed:  # it is still being pulled
                time.sleep(_LOOKS_AGAIN)

    @property
    def is_on(self) -> bool:
        """Whether it has not been switched off, or lost its power."""
        return self._process.poll() is None

    def lose_power(self) -> None:
        """What it had not written out is lost."""
        self._process.kill()
        self._process.wait()

    def power_off(self) -> None:
        """As its user would."""
        self.start("systemctl poweroff")
        patience = self._patience(_UP_WITHIN)
        while self.is_on:
            self._check(patience, "to power off")
            time.sleep(_LOOKS_AGAIN)

    def _patience(self, limit: float) -> Patience:
        return Patience(self._process.pid, self._monitor, limit)

    def _check(self, patience: Patience, what: str) -> None:
        """What it is waited for has not come yet."""
        try:
            patience.check(what)
        except AssertionError as error:
            raise AssertionError(f"{error}\nIts last words: {self._last_words()}") from None


def device(name: str) -> str:
    """How the guest calls a disk other than its own."""
    return f"/dev/disk/by-id/virtio-{name}"


@contextmanager
def running(
    folder: Path, system: Path, others: Mapping[str, Path] | None = None, clock: str = "utc"
) -> Iterator[Guest]:
    """Boot a system from its disk, which it may write to.

    Args:
        folder: for what is needed meanwhile.
        system: its disk, raw.
        others: more of those, by name.
        clock: what its clock shows when it is switched on, as in "2026-03-10T02:29:30"; else that
            of this computer.
    """
    folder.mkdir(exist_ok=True)
    program = folder / "program.img"
    if not program.exists():
        _program(program)
    console, agent = folder / _CONSOLE, folder / "agent"
    drives = {**(others or {}), PROGRAM: program}
    command = [
        # what numpy wants: with AVX2, as QEMU 7.2 translates it, whole digests make no sense to it
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"),
        *("-machine", "q35", "-smp", "2", "-m", "1024"),
        *("-display", "none", "-nic", "none", "-no-reboot"),
        *("-rtc", f"base={clock}", "-device", "qemu-xhci,id=usb"),
        *("-qmp", f"unix:{folder / _MONITOR},server=on,wait=off"),
        *("-serial", f"file:{console}", "-device", "virtio-serial", "-chardev"),
        *(f"socket,path={agent},server=on,wait=off,id=agent", "-device"),
        f"virtserialport,chardev=agent,name={_SERVICE}",
        *("-drive", f"file={system},format=raw,if=none,id=system,cache=unsafe"),
        *("-device", "ide-hd,drive=system,bus=ide.0,bootindex=0"),
    ]
    for name, path in drives.items():
        drive = f"file={path},format=raw,if=none,id={name},cache=unsafe"
        drive += ",readonly=on" * (name == PROGRAM)
        command += ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        stack.callback(process.kill)
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        _connect(connection, agent)
        guest = stack.enter_context(closing(Guest(connection, folder, process)))
        guest.wait_until_up()
        yield guest


def _connect(connection: socket.socket, path: Path) -> None:
    until = time.monotonic() + _ANSWERS_WITHIN
    while True:
        try:
            return connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def image(kind: Debian) -> Path:
    """Its disk, built if it is not in the cache."""
    if sys.version_info[:2] != PYTHON:
        raise NotBuilt(f"The lab needs tests that are run by Python {PYTHON[0]}.{PYTHON[1]}.")
    return debian.image(kind)


def disk(folder: Path, kind: Debian) -> Path:
    """A copy of that, to be written to."""
    copy = folder / "system.img"
    run("cp", "--sparse=always", image(kind), copy)
    copy.chmod(0o600)
    return copy


def empty(path: Path, mebibytes: int) -> Path:
    """A disk with nothing on it."""
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ------------------------------------------------------------------------------- the program


def _program(path: Path) -> None:
    """vdbackup, as its wheel holds it, and all that it needs but for the window."""
    tree = path.with_suffix(".tree")
    own = Path(vdbackup.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(own, tree / "vdbackup", ignore=ignored)
    shutil.copytree(own.parent / "resources", tree / "vdbackup/resources", dirs_exist_ok=True)
    for each in _needed("vdbackup", set()):
        _copy(each, tree)
    starts = f'#!/bin/sh\nPYTHONPATH={PLACE} exec python3 -m vdbackup "$@"\n'
    (tree / "vdbackup.sh").write_text(starts)
    (tree / "vdbackup.sh").chmod(0o755)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "1", tree], check=False)
    size = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
    empty(path, (size >> 20) * 3 // 2 + 32)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, path)
    shutil.rmtree(tree)


def _needed(name: str, known: set[str]) -> Iterator[Distribution]:
    """The packages that one needs, and what those need."""
    for line in distribution(name).requires or ():
        need = Requirement(line)
        applies = need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in ("", "full")
        )
        if not applies or need.name.lower() in _WINDOW | known:
            continue
        known.add(need.name.lower())
        with suppress(PackageNotFoundError):  # of an extra that was not asked for
            yield distribution(need.name)
            yield from _needed(need.name, known)


def _copy(package: Distribution, tree: Path) -> None:
    for file in package.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), tree / file)
