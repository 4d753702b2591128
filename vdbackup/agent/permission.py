"""Whether a client may use a disk: polkit decides, by the kind of disk.

Who the client is, the kernel says of its end of the socket (SO_PEERCRED): as it was when the socket
was made, whatever it is now. Root may do everything without asking. Where pkexec has started this
program, it has asked already (its action names this program), and says for whom: PKEXEC_UID.
Anybody else is asked about by pkcheck(1), once for each disk as long as the client is connected.

A process is named to polkit by its number, its start and its user. The number may be another
process's by now, so the start is taken while the client is surely still that process: by a pidfd of
the socket's (SO_PEERPIDFD, Linux 6.5), else by its having begun before this program did, as the
user that the socket says. The user is in any case the one that the kernel noted.
"""

from __future__ import annotations

import enum
import logging
import os
import select
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vdbackup.agent import stacking
from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.errors import AgentFailed, Unauthorized
from vdbackup.processes import start_of
from vdbackup.translation import marked, tr

log = logging.getLogger(__name__)

PKCHECK = Path("/usr/bin/pkcheck")
_PATIENCE = 600.0
"""Seconds in which a person has to answer the dialogue."""
_AUTHORIZED, _NOBODY_TO_ASK, _DISMISSED = 0, 2, 3
"""What pkcheck ends with (pkcheck(1)); with 1 where it is refused."""
_PEERPIDFD = 77
"""SO_PEERPIDFD (asm-generic/socket.h); Python has no name for it."""
_SYSTEM_FOLDERS = ("/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/home", "/etc", "/opt")
_HOT_BUSES = ("usb", "fw")


class Action(enum.StrEnum):
    """What polkit is asked about (resources/agent/org.vdbackup.vdbackup.policy)."""

    USE_REMOVABLE = "org.vdbackup.vdbackup.use-removable-disk"
    USE_SYSTEM = "org.vdbackup.vdbackup.use-system-disk"
    SEE_TRACKED = "org.vdbackup.vdbackup.see-tracked-disks"
    LOG_WRITES = "org.vdbackup.vdbackup.log-writes"


DOING = {
    Action.USE_REMOVABLE: marked("use this disk for backups"),
    Action.USE_SYSTEM: marked("use this disk for backups"),
    Action.SEE_TRACKED: marked("see which disks are tracked"),
    Action.LOG_WRITES: marked("keep every write to this volume"),
}
"""What a client would do by it, as a part of a sentence."""
RUN = "org.vdbackup.vdbackup.run-agent"
"""What pkexec asks about itself: to run this program, for all disks."""


class Permission(Protocol):
    """Who may do what."""

    def check_use(self, device: str) -> None:
        """Raise Unauthorized unless the client may use the device of that number."""

    def check_look(self) -> None:
        """Raise Unauthorized unless the client may see which disks are tracked."""

    def check_log(self, device: str) -> None:
        """Raise Unauthorized unless the client may have the volume's writes logged."""


class Everything:
    """The permission of root, and of whom pkexec has asked about."""

    def check_use(self, device: str) -> None:
        """They may."""

    def check_look(self) -> None:
        """They may."""

    def check_log(self, device: str) -> None:
        """They may."""


def permission_of(connection: socket.socket) -> Permission:
    """Of the client at the other end; raises Unauthorized where nobody knows who that is."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if uid == 0 or os.environ.get("PKEXEC_UID", "").isdigit():
        return Everything()
    return Asked(Client(pid, _start(connection, pid, uid), uid))


@dataclass(frozen=True)
class Client:
    """A process as polkit knows it.

    Attributes:
        pid: its number. start: in ticks since the boot. uid: of its user.
    """

    pid: int
    start: int
    uid: int


class Asked:
    """What polkit says of a client; of each disk it is asked once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._allowed: set[tuple[Action, str]] = set()

    def check_use(self, device: str) -> None:
        """Raise Unauthorized unless the client may use the device of that number."""
        disks = _disks_under(device)
        removable = bool(disks) and all(map(is_removable, disks)) and not _serves_system(disks)
        action = Action.USE_REMOVABLE if removable else Action.USE_SYSTEM
        # asked anew where another medium is in it, or it became one that the system lies on
        medium = " ".join(f"{each}-{_says(each, 'diskseq')}" for each in sorted(disks))
        self._check(action, tr("{device} on {medium}", device=device, medium=medium), device)

    def check_look(self) -> None:
        """Raise Unauthorized unless the client may see which disks are tracked."""
        self._check(Action.SEE_TRACKED, "", "")

    def check_log(self, device: str) -> None:
        """Raise Unauthorized unless the client may have the volume's writes logged."""
        self._check(Action.LOG_WRITES, device, device)

    def _check(self, action: Action, what: str, device: str) -> None:
        if (action, what) in self._allowed:
            return
        self._ask(action, device)
        self._allowed.add((action, what))

    def _ask(self, action: Action, device: str) -> None:
        client = self._client
        command = [
            str(PKCHECK), "--action-id", action.value,
            "--process", f"{client.pid},{client.start},{client.uid}", "--allow-user-interaction",
        ]  # fmt: skip
        if device:
            command += ["--detail", "device", _called(device)]
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=_PATIENCE, check=False,
            ).returncode  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("polkit cannot be asked: %s", error)
            status = None
        log.info("polkit on %s of %s by %s: %s", action.value, device, client, status)
        if status != _AUTHORIZED:
            raise _refused(status, DOING[action])


def _refused(status: int | None, what: str) -> Unauthorized:
    if status == _DISMISSED:
        return Unauthorized(
            tr("The dialogue that asks whether you may {what} was closed.", what=what),
            tr("Do it again, and answer there."),
        )
    if status == _NOBODY_TO_ASK:
        return Unauthorized(
            tr(
                "You may not {what} without a password, and nobody is there to be asked for it.",
                what=what,
            ),
            tr(
                "Do it as root, in a desktop's session, or let an administrator allow it by a "
                "rule of polkit."
            ),
        )
    if status == 1:
        return Unauthorized(
            tr("You may not {what}: polkit refuses it.", what=what),
            tr("Ask an administrator of this computer, or do it as root."),
        )
    return Unauthorized(
        tr("Nobody could be asked whether you may {what}: polkit does not answer.", what=what),
        tr("Do it as root, or see that polkit is installed and runs."),
    )


# ---------------------------------------------------------------------------- who the client is


def _start(connection: socket.socket, pid: int, uid: int) -> int:
    """When the client started; raises Unauthorized where the number may be another one's now."""
    pidfd = _pidfd_of(connection)
    start = start_of(pid)
    try:
        if start is not None and (_lives(pidfd) if pidfd is not None else _fits(pid, uid, start)):
            return start
    finally:
        if pidfd is not None:
            os.close(pidfd)
    raise Unauthorized(
        tr("The program that asks for the disk has ended, or is another one now."),
        tr("Start it again."),
    )


def _pidfd_of(connection: socket.socket) -> int | None:
    """Of whoever made the socket's other end; None where the kernel does not know."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _PEERPIDFD)
    except OSError:
        return None


def _lives(pidfd: int) -> bool:
    """A pidfd can be read from once its process has ended (pidfd_open(2))."""
    return not select.select([pidfd], [], [], 0)[0]


def _fits(pid: int, uid: int, start: int) -> bool:
    own = start_of(os.getpid())
    return own is not None and start <= own and _uid_of(pid) == uid


def _uid_of(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith("Uid:"))
    return int(line.split()[2])


# ------------------------------------------------------------------------- which kind of disk


def is_removable(disk: str) -> bool:
    """Whether a whole disk, by its number, comes and goes as its user likes.

    As UDisks has it (its HintSystem): on USB or FireWire, or with a medium that can be taken out.
    What is virtual is not, for nobody knows what lies behind it; nor is memory that is soldered in
    (eMMC), which is on the bus of memory cards.
    """
    place = (SYS_BLOCK / disk).resolve()
    if "/virtual/" in f"{place}/":
        return False
    on_hot_bus = any(
        part.startswith(bus) and part[len(bus) :].isdigit()
        for part in place.parts
        for bus in _HOT_BUSES
    )
    return on_hot_bus or _says(disk, "removable") == "1"


def _disks_under(device: str) -> set[str]:
    """The whole disks that a device lies on, by number; none where one cannot be told."""
    place = (SYS_BLOCK / device).resolve()
    if not (place / "dev").exists():
        raise AgentFailed(
            tr("There is no block device {device}.", device=device),
            tr("Check that it is connected."),
        )
    if (place / "partition").exists():
        return _disks_under((place.parent / "dev").read_text().strip())
    below = [file.read_text().strip() for file in stacking.slaves(place)]
    return set().union(*map(_disks_under, below)) if below else {device}


def _serves_system(disks: set[str]) -> bool:
    """Whether the computer runs from one of these, or swaps to it."""
    on = stacking.all_above(disks)
    if any(
        mount.where in _SYSTEM_FOLDERS and not on.isdisjoint(mount.numbers)
        for mount in stacking.mounts()
    ):
        return True
    return any(not on.isdisjoint(each.numbers) for each in stacking.swaps())


def _says(disk: str, file: str) -> str:
    try:
        return (SYS_BLOCK / disk / file).read_text(errors="replace").strip()
    except OSError:
        return ""


def _called(device: str) -> str:
    """A device's name for the dialogue."""
    return (SYS_BLOCK / device).resolve().name
