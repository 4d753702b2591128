"""A real Linux, which counts its boots on an ext4: its sessions are promoted, and survive crashes.

Each session is a boot of a kernel, 4 seconds of a processor where there is no KVM.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.guests import tiny_linux as builder
from vdbackup.backup import promote
from vdbackup.errors import RecoveryError
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.recovery.sessions import sessions as all_sessions
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.saved import SavedSession, SessionState, saved_sessions
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository.model import RecoveryPoint

LIMIT = 240.0
"""Seconds for a boot on a busy machine."""
VIRTIO = HardwareRequest(controller=Controller.VIRTIO)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def linux(tmp_path: Path, image: Path, disk_format: str) -> Lab:
    """A full with the system, and an incremental in which it had booted 41 times."""
    lab = Lab(tmp_path, builder.SIZE, disk_format=disk_format)
    lab.image.write_bytes(image.read_bytes())
    lab.backup()
    builder.set_boot_count(lab.image, 41)
    lab.backup()
    return lab


def booted(lab: Lab, point: RecoveryPoint, folder: Path) -> Session:
    return vm.start_from_point(
        lab.repository, lab.set, point, sessions_folder=folder, request=VIRTIO
    )


def counts(session: Session, number: int) -> None:
    assert session.wait_for_text(f"count={number}", LIMIT), session.console_text()


def digests(lab: Lab) -> dict[str, str]:
    """SHA-256 of every layer and overlay."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lab.set_folder.glob(f"*.{lab.disk_format}"))
    }


@pytest.mark.parametrize(
    "disk_format",
    ["vmdk", *(pytest.param(name, marks=pytest.mark.long) for name in ("vhd", "vhdx", "qcow2"))],
)
def test_what_a_linux_wrote_is_promoted_restored_and_boots(
    tiny_linux: Path, tmp_path: Path, folder: Path, disk_format: str
) -> None:
    lab = linux(tmp_path, tiny_linux, disk_format)
    before = digests(lab)
    with booted(lab, lab.set.points[-1], folder) as session:
        counts(session, 42)
        assert session.wait(LIMIT)  # it switches itself off
        session.keep()
    saved = all_sessions.find(folder, session.id)
    seen = tmp_path / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", saved.disk, seen], check=True)

    ended = promote.EndedSession(saved.id, saved.title, saved.disk, saved.origin.overlay_contents)
    plan = promote.plan(lab.repository, "disk", saved.origin.point, ended)
    point = promote.run(plan, Task())
    saved.discard()
    out = tmp_path / "restored.raw"
    restoring = restore.plan(
        restore.RestoreRequest(lab.repository, "disk", point.id, out, disk_format="raw")
    )
    restore.run(restoring, Task())
    assert out.read_bytes() == seen.read_bytes()
    assert 0 < point.stored_bytes < 1 << 20
    lab.moments[point.id] = seen
    lab.check_all()

    promoted = digests(lab)
    assert {name: promoted[name] for name in before} == before
    with booted(lab, point, folder) as session:
        counts(session, 43)
    assert digests(lab) == promoted


OWNER = """
import sys
from pathlib import Path
from vdbackup.recovery.sessions import sessions, vm
session = vm.reopen_session(sessions.find(Path(sys.argv[1]), sys.argv[2]))
session.execute("set-action", shutdown="pause")
if session.wait_for_text("count=43", 240):
    print("counted", flush=True)
session.wait()
"""


@pytest.fixture
def swept(folder: Path) -> Iterator[None]:
    """Whoever still runs in the end is killed."""
    yield
    for session in saved_sessions(folder):
        session.kill()


def found(folder: Path, state: SessionState) -> SavedSession:
    (session,) = saved_sessions(folder)
    assert session.state is state
    return session


def kill_qemu(session: SavedSession) -> None:
    assert session.record.pid is not None
    os.kill(session.record.pid, signal.SIGKILL)
    assert session.wait(LIMIT)


@pytest.mark.usefixtures("swept")
def test_a_linux_whose_qemu_was_killed_and_then_its_program_counts_on(
    tiny_linux: Path, tmp_path: Path, folder: Path
) -> None:
    """It has unmounted its root when it says so; QEMU is not let close the disk after that."""
    lab = linux(tmp_path, tiny_linux, "vmdk")
    before = digests(lab)
    session = booted(lab, lab.set.points[-1], folder)
    session.execute("set-action", shutdown="pause")
    counts(session, 42)
    kill_qemu(found(folder, SessionState.RUNNING))
    with pytest.raises(RecoveryError, match="has crashed"):
        session.wait(LIMIT)
    session.keep()
    crashed = found(folder, SessionState.CRASHED)

    command = [sys.executable, "-c", OWNER, str(folder), crashed.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "counted\n"
        finally:
            owner.kill()
    kill_qemu(found(folder, SessionState.UNATTENDED))

    (saved,) = saved_sessions(folder)
    with vm.reopen_session(saved) as session:
        counts(session, 44)
    assert digests(lab) == before
