"""What stories need in which overlays change, and what a guest wrote becomes a point."""

from __future__ import annotations

from pathlib import Path

from tests.backup import sessions
from tests.backup.lab import Lab
from vdbackup.backup import promote
from vdbackup.guest.hardware import Hardware
from vdbackup.guest.model import Guest, System
from vdbackup.jobs import Task
from vdbackup.recovery.retarget import report, retarget
from vdbackup.recovery.retarget.overlay import publish_overlay
from vdbackup.repository import overlays
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint

_PATCHES = {BLOCK + 7: b"retargeted", 17 * BLOCK - 2: b"across a border"}


def guest_writes(lab: Lab, point: RecoveryPoint) -> None:
    """A machine runs on the point's overlay, and leaves its disk."""
    session = sessions.begin(lab, point, lab.folder / "session")
    sessions.writes(
        session,
        f"write -q -P 0x51 {4 * BLOCK + 512} 1k",  # in a block that a layer holds
        f"write -q -P 0x52 {14 * BLOCK} {2 * BLOCK}",
        f"write -q -z {BLOCK // 2} {BLOCK}",
        f"write -q -P 0x53 {20 * BLOCK} 4k",  # the disk's last block, which is short
    )
    sessions.seen(session.disk, lab.folder / "seen.raw")


def promote_what_it_wrote(lab: Lab, point: RecoveryPoint, session: str = sessions.SESSION) -> None:
    """That becomes a point."""
    disk = lab.folder / "session" / "session.qcow2"
    held = overlays.contents(lab.overlay(point), lab.disk_format)
    sessions.promoted(lab, point, promote.EndedSession(session, "laptop", disk, held))


def retarget_by_patches(lab: Lab, point: RecoveryPoint) -> None:
    """The point's overlay gets other contents, as a Windows' does, and a report."""
    data = bytearray(lab.moments[point.id].read_bytes())
    for place, patch in _PATCHES.items():
        data[place : place + len(patch)] = patch
    raw = lab.folder / f"{point.id}-patched.raw"
    raw.write_bytes(data)
    _publish(lab, point, None, raw)


def retarget_by_scratch(lab: Lab, point: RecoveryPoint) -> None:
    """The same with what a guest wrote above the empty one, as a Linux's does."""
    _publish(lab, point, lab.folder / "session" / "session.qcow2", lab.folder / "seen.raw")


def _publish(lab: Lab, point: RecoveryPoint, scratch: Path | None, raw: Path) -> None:
    """As retarget.py does it."""
    patches = {} if scratch else _PATCHES
    with lab.repository.lock("retargeting"):
        disk_id = publish_overlay(lab.set, point, scratch, patches, Task())
        said = report.RetargetReport(
            version="1",
            made="2026-01-01T00:00:00+00:00",
            milliseconds=5,
            overlay=disk_id,
            wish="auto",
            guest=Guest(System.LINUX),
            hardware=Hardware(),
            notes=(str(raw),),  # so that it can be told beside which overlay it belongs
        )
        report.save(lab.set, point, said)
    lab.overlays[point.id] = raw


def empty(lab: Lab, point: RecoveryPoint) -> None:
    """The overlay becomes empty again."""
    plan = retarget.plan(lab.repository, "disk", point.id, retarget.NONE)
    retarget.run(plan, lab.folder, Task())
    del lab.overlays[point.id]
