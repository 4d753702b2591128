"""A guest of libvirt's, the user's own, whose writes are kept: its disk, its start, its QEMU.

Its definition is not touched. It is started by libvirt, paused, and what is put below its disk then
is put there through libvirt's own connection to its QEMU; when the guest ends, that is gone with
QEMU. libvirt notes of such a guest that it was spoken to past it ("tainted: custom-monitor").
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vdbackup import foreign_xml
from vdbackup.errors import MachineFailed, NotProtected, ProgramMissing
from vdbackup.recovery.sessions.protection import FILTER, attach_log, take_out
from vdbackup.repository.kept_logs import KeptLog
from vdbackup.translation import tr

_CONNECTIONS = ("qemu:///session", "qemu:///system")
_ANSWER = 120.0
"""Seconds that libvirt may take: it starts a QEMU meanwhile."""
_OFF = "shut off"


@dataclass(frozen=True)
class LibvirtGuest:
    """A guest that libvirt has.

    Attributes:
        connection: to which libvirt, as a URI.
        name: of the guest, or its UUID.
    """

    connection: str
    name: str

    @classmethod
    def find(cls, name: str) -> Self:
        """The user's own guest of that name, or else the system's; raises RecoveryError."""
        for connection in _CONNECTIONS:
            guest = cls(connection, name)
            try:
                guest._virsh("domstate")
            except MachineFailed:
                continue
            return guest
        raise NotProtected(
            tr("libvirt has no guest {name!r} that you may use, or does not answer.", name=name),
            tr("Check its name: virsh list --all"),
        )

    @property
    def is_off(self) -> bool:
        """Whether it does not run, paused neither; raises MachineFailed."""
        return self._virsh("domstate").strip() == _OFF

    def check_off(self) -> None:
        """Raise NotProtected where it runs."""
        if not self.is_off:
            raise NotProtected(
                tr("The guest {name} runs.", name=self.name),
                tr(
                    "Shut it down: a point is made of its disk while nobody writes to it, and it "
                    "is started then."
                ),
            )

    def disk(self) -> Path:
        """The one disk that it writes to; raises NotProtected where there are several, or none."""
        domain = foreign_xml.parsed(self._virsh("dumpxml", "--inactive"))
        found = [
            source.get("file") or source.get("dev") or ""
            for disk in (domain.iterfind("./devices/disk") if domain is not None else ())
            if disk.get("device", "disk") == "disk" and disk.find("readonly") is None
            if (source := disk.find("source")) is not None
        ]
        if len(found) != 1 or not found[0]:
            raise NotProtected(
                tr(
                    "The guest {name} has {count} disks in files or devices of this computer, and "
                    "writes are kept of guests with one.",
                    name=self.name,
                    count=len([each for each in found if each]),
                ),
            )
        return Path(found[0])

    def start_paused(self) -> None:
        """Start it; it waits for `resume`. Raises MachineFailed, also where it runs already."""
        self._virsh("start", "--paused")

    def resume(self) -> None:
        """Let it run; raises MachineFailed."""
        self._virsh("resume")

    def destroy(self) -> None:
        """End it at once, as a power cut would; raises MachineFailed."""
        self._virsh("destroy")

    def tell(self, command: str, **arguments: object) -> Any:
        """What its QEMU answers to a command of QMP; raises MachineFailed."""
        asked = {"execute": command, **({"arguments": arguments} if arguments else {})}
        answer = json.loads(self._virsh("qemu-monitor-command", json.dumps(asked)))
        if "error" in answer:
            raise MachineFailed(
                tr(
                    "The QEMU of {name} refuses: {why}",
                    name=self.name,
                    why=answer["error"].get("desc", ""),
                )
            )
        return answer.get("return")

    def put_in(self, kept: KeptLog, disk: Path) -> None:
        """Put a log below its disk while it waits; raises MachineFailed, OSError."""
        attach_log(self.tell, kept, self._node_of(disk))

    def take_out(self, disk: Path) -> None:
        """Take the log out that is below its disk, if there is one; raises MachineFailed."""
        nodes = self.tell("query-named-block-nodes")
        if any(each.get("node-name") == FILTER for each in nodes):
            take_out(self.tell, self._node_of(disk))

    def _node_of(self, disk: Path) -> str:
        """What its QEMU calls its disk, whatever is put above that; raises MachineFailed."""
        found = [
            each["node-name"]
            for each in self.tell("query-named-block-nodes")
            if os.path.realpath(each.get("image", {}).get("filename", "")) == os.path.realpath(disk)
        ]
        # libvirt's own names: of the format, and of the file below it, which has none above it
        # where the disk is raw and libvirt newer
        for kind in ("-format", "-storage"):
            if names := [each for each in found if each.endswith(kind)]:
                return str(names[0])
        raise MachineFailed(
            tr("The QEMU of {name} does not have {disk} open.", name=self.name, disk=disk)
        )

    def _virsh(self, command: str, *words: str) -> str:
        """What libvirt answers about it; raises MachineFailed."""
        asked = ["virsh", "-q", "-c", self.connection, command, f"--domain={self.name}", *words]
        try:
            done = subprocess.run(
                asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=_ANSWER, check=False, process_group=0, env=os.environ | {"LC_ALL": "C"},
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ProgramMissing(
                tr("libvirt's virsh is not installed."),
                tr("Install it with: sudo apt install libvirt-clients"),
            ) from error
        except subprocess.TimeoutExpired as error:
            raise MachineFailed(tr("libvirt does not answer.")) from error
        if done.returncode:
            said = done.stderr.strip().splitlines()
            why = said[-1].removeprefix("error: ") if said else ""
            raise MachineFailed(tr("libvirt says of {name}: {why}", name=self.name, why=why))
        return done.stdout
