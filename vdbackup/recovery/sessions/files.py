"""What lies in a session's folder, and who has it.

    SESSIONS/<id>/            mode 0700
        session.json          what was started, from which point, how (record.py)
        session.qcow2         what the guest has written
        disk<n>/              the same, and the chain's map, for the machine's other disks
        machine.vmdk, .vhd    the same where another program runs the machine
        domain.xml, machine.vbox, machine.vmx
                              how that program is told of the machine
        map.*, layer<n>       the chain for a QEMU that cannot read it (qemu/concatenation.py)
    moment.*              the writes up to the moment that it was started from, for QEMU
        control               a socket on which QEMU hears what other programs want of it (QMP)
        console.log           what the guest wrote to its first serial port
        qemu.log              what QEMU complained of
        screen                what a boot test saw last

The folder is locked (flock) by the process that runs the session, for as long as that lives: one
without a lock is kept on purpose, or left over from a crash.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vdbackup import durable
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import MachineFailed, Obstructed, Remedy, SessionsFolder
from vdbackup.recovery.sessions.record import SessionRecord
from vdbackup.translation import tr

log = logging.getLogger(__name__)

CONTROL = "control"
_RECORD = "session.json"
_MAX_RECORD = 1 << 20
_MADE_ANEW = ("map.*", "moment.*", "layer*", "tables.bin", "console.log")
_OF_OTHERS = (DiskFormat.VMDK, DiskFormat.VHD)
"""What the disk of another program's machine may be in; libvirt's is ours."""
_OTHER_DISK = re.compile(r"disk\d+/session\.qcow2")
_NO_DISKS = re.compile(
    r"(?:map|moment)\..*|layer\d+|tables\.bin|.*\.log|.*\.fd|session\.json.*|.*\.(?:xml|vbox.*|vmx)"
)


@dataclass(frozen=True)
class SessionFiles:
    """The files of a session, whoever it belongs to; they need not be there."""

    folder: Path

    @classmethod
    def all_in(cls, sessions_folder: Path) -> list[SessionFiles]:
        """Of each session, oldest first."""
        return [
            cls(record.parent) for record in sorted(sessions_folder.absolute().glob(f"*/{_RECORD}"))
        ]

    @property
    def record(self) -> Path:
        """What was started, from which point, how."""
        return self.folder / _RECORD

    @property
    def disk(self) -> Path:
        """What the guest writes while the machine is ours, or libvirt's."""
        return self.folder / "session.qcow2"

    def folder_of(self, number: int) -> Path:
        """What belongs to one of the machine's other disks, the second number 2."""
        return self.folder / f"disk{number}"

    def disk_of_program(self, disk_format: DiskFormat) -> Path:
        """What it writes where another program runs it."""
        return self.folder / f"machine.{disk_format}"

    @property
    def first_disk(self) -> Path:
        """What it wrote at first, whoever runs it: a program may have gone on in another file."""
        others = map(self.disk_of_program, _OF_OTHERS)
        return next((path for path in others if path.exists()), self.disk)

    @property
    def domain(self) -> Path:
        """The machine as libvirt is told of it."""
        return self.folder / "domain.xml"

    @property
    def virtualbox(self) -> Path:
        """The machine as VirtualBox is told of it."""
        return self.folder / "machine.vbox"

    @property
    def vmware(self) -> Path:
        """The machine as VMware is told of it."""
        return self.folder / "machine.vmx"

    @property
    def console(self) -> Path:
        """What the guest wrote to its first serial port."""
        return self.folder / "console.log"

    @property
    def complaints(self) -> Path:
        """What QEMU wrote to its standard output and error."""
        return self.folder / "qemu.log"

    @property
    def screen(self) -> Path:
        """What a boot test saw last."""
        return self.folder / "screen"

    @property
    def control(self) -> Path:
        """The socket on which QEMU hears what other programs want of it."""
        return self.folder / CONTROL

    def made_anew(self) -> Iterator[Path]:
        """What is made anew when a machine starts again: the chain's map, the console."""
        places = ("", "disk*/")
        return (
            path
            for place in places
            for pattern in _MADE_ANEW
            for path in self.folder.glob(f"{place}{pattern}")
        )

    def may_be_disks(self) -> Iterator[Path]:
        """All files that may be what it wrote to the disk that it starts from, or lie above that.

        In the folders that programs make there, too.
        """
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if _OTHER_DISK.fullmatch(name) or _NO_DISKS.fullmatch(path.name):
                continue
            if not path.is_symlink() and path.is_file():
                yield path

    def but_logs(self) -> Iterator[Path]:
        """All that somebody has open while the machine runs; a log is read at any time."""
        return (path for path in self.folder.rglob("*") if path.suffix != ".log")

    def read_record(self) -> SessionRecord:
        """What session.json says; what can be said without it where a power cut has emptied it."""
        modified = datetime.fromtimestamp(os.lstat(self.record).st_mtime, UTC)
        data: object = None
        try:
            data = json.loads(durable.read_own(self.record, _MAX_RECORD))
        except (ValueError, RecursionError, Obstructed):
            log.warning("%s cannot be read", self.record)
        return SessionRecord.from_json(data, self.folder.name, modified)

    def connect(self) -> socket.socket:
        """A connection to the QEMU that runs in the folder; raises RecoveryError."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            descriptor = self._open()
            try:
                connection.connect(f"/proc/self/fd/{descriptor}/{CONTROL}")
            finally:
                os.close(descriptor)
        except OSError as error:
            connection.close()
            raise MachineFailed(
                tr(
                    "The virtual machine of the session {folder} does not answer: {reason}.",
                    folder=self.folder.name,
                    reason=error.strerror,
                ),
                tr("It may have ended."),
                remedy=Remedy.LIST_SESSIONS,
            ) from error
        return connection

    def lock(self) -> int:
        """A descriptor that holds the folder's lock; raises BlockingIOError where it is taken."""
        return durable.hold_lock(self._open())

    def is_locked(self) -> bool:
        """Whether a process runs the session."""
        try:
            os.close(self.lock())
        except BlockingIOError:
            return True
        return False

    def delete(self) -> None:
        """Delete the folder, if it is still there; raises SessionsFolder."""
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:  # somebody else has done it
            return
        except OSError as error:
            raise SessionsFolder(
                tr(
                    "The session's folder {folder} cannot be deleted: {reason}.",
                    folder=self.folder,
                    reason=error.strerror,
                ),
                tr("Delete it yourself."),
            ) from error

    def _open(self) -> int:
        return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
