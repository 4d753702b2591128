"""What a virtual machine leaves: a session's disk on a point's overlay, written by QEMU's tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.backup.lab import Lab
from tests.oracles import qemu as oracle
from vdbackup.backup import promote
from vdbackup.disks.chain import Chain
from vdbackup.jobs import Task
from vdbackup.qemu import concatenation, qemu
from vdbackup.repository import overlays
from vdbackup.repository.model import RecoveryPoint

SESSION = "20260301-120000-abcdef"


def begin(lab: Lab, point: RecoveryPoint, folder: Path) -> promote.EndedSession:
    """A session of the point, as it is when its machine has not written yet."""
    folder.mkdir()
    overlay = lab.overlay(point)
    with Chain.open(overlay, lab.disk_format) as chain:
        layers = [layer.path for layer in chain.layers]
        if lab.disk_format in qemu.DRIVERS:
            backing = qemu.Backing.of_chain(layers, lab.disk_format)
        else:
            backing = qemu.Backing.of_map(concatenation.build(folder, chain.map, layers))
    disk = folder / "session.qcow2"
    qemu.create_session_disk(disk, backing, point.virtual_size)
    held = overlays.contents(overlay, lab.disk_format)
    return promote.EndedSession(SESSION, "laptop #1", disk, held)


def writes(session: promote.EndedSession, *commands: str) -> None:
    """What the machine does to its disk, in qemu-io's words."""
    oracle.io(session.disk, *commands, disk_format="qcow2")


def seen(disk: Path, raw: Path) -> Path:
    """What the guest of a session's disk saw, read through its whole chain by QEMU."""
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)]
    subprocess.run(command, check=True)
    return raw


def promoted(lab: Lab, point: RecoveryPoint, session: promote.EndedSession) -> RecoveryPoint:
    """Make a point of it; the moment is what QEMU says that the guest saw."""
    plan = promote.plan(lab.repository, "disk", point.id, session)
    result = promote.run(plan, Task())
    lab.moments[result.id] = seen(session.disk, lab.folder / f"{result.id}.raw")
    return result
