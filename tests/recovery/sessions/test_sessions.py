"""Sessions after their machine has ended: kept, reopened, held; and those of other programs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.disks.opened import opened
from tests.guests import boot_sector
from vdbackup.backup import promote
from vdbackup.errors import (
    PointInUse,
    RecoveryError,
    RepositoryError,
    SessionUnusable,
    VdbackupError,
)
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import Task
from vdbackup.recovery.sessions import sessions as all_sessions
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.saved import SavedSession, SessionState, saved_sessions
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository import holds
from vdbackup.repository.digests import BLOCK

LIMIT = 240.0
IDE = HardwareRequest(controller=Controller.IDE)
"""The BIOS boots disks this small there alone."""
Boot = Callable[..., Session]


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return counting(Lab(tmp_path, size=boot_sector.SIZE, disk_format=disk_format))


@once
def counting(lab: Lab) -> None:
    """Two points of a disk that counts its boots: it had booted twice, then four times."""
    boot_sector.make(lab.image, boot_sector.COUNT)
    for boots in (2, 4):
        lab.poke(boot_sector.COUNT_AT, bytes([boots]))
        lab.backup()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def boot(lab: Lab, folder: Path) -> Iterator[Boot]:
    """Boot a point of the lab by its number; what still runs at the end is ended."""
    started: list[Session] = []

    def start(number: int, **options: Any) -> Session:
        point = next(each for each in lab.set.points if each.sequence == number)
        options = {"request": IDE, "sessions_folder": folder, **options}
        started.append(vm.start_from_point(lab.repository, lab.set, point, **options))
        return started[-1]

    yield start
    for session in started:
        session.discard()


@pytest.fixture
def again() -> Iterator[Callable[[SavedSession], Session]]:
    """Reopen a session; its machine is ended when the test has."""
    opened: list[Session] = []

    def reopen(saved: SavedSession) -> Session:
        opened.append(vm.reopen_session(saved))
        return opened[-1]

    yield reopen
    for session in opened:
        session.keep()


Reopen = Callable[[SavedSession], Session]


def says(session: Session, text: str) -> None:
    assert session.wait_for_text(text, LIMIT), session.console_text()


def layers(lab: Lab) -> dict[str, str]:
    """SHA-256 of all layers and overlays."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lab.set_folder.glob(f"*.{lab.disk_format}"))
    }


def kept(session: Session, folder: Path) -> SavedSession:
    session.keep()
    return all_sessions.find(folder, session.id)


def ended(saved: SavedSession) -> promote.EndedSession:
    return promote.EndedSession(saved.id, saved.title, saved.disk, saved.origin.overlay_contents)


def test_a_kept_session_goes_on_where_it_was_and_the_backup_stays(
    lab: Lab, boot: Boot, again: Reopen, folder: Path
) -> None:
    before = layers(lab)
    first, other = boot(2), boot(2)
    says(first, "5")
    says(other, "5")
    saved = kept(first, folder)
    assert saved.state is SessionState.KEPT
    session = again(saved)
    assert session.id == first.id
    says(session, "6")
    other.discard()
    assert layers(lab) == before


def test_a_session_is_reopened_after_its_layers_got_other_names(
    lab: Lab, boot: Boot, again: Reopen, folder: Path, tmp_path: Path
) -> None:
    session = boot(2)
    says(session, "5")
    saved = kept(session, folder)
    lab.merge(lab.set.points[1])
    assert {path.name for path in lab.set_folder.glob("0001-*")} == set()
    session = again(saved)
    says(session, "6")
    session.keep()
    convert = ["qemu-img", "convert", "-O", "raw", str(saved.disk), str(tmp_path / "seen.raw")]
    subprocess.run(convert, check=True)  # the disk can be read by itself again
    assert (tmp_path / "seen.raw").read_bytes()[128 * 512] == 6


@pytest.mark.each_format
def test_what_a_machine_wrote_is_promoted_byte_for_byte(
    lab: Lab, boot: Boot, folder: Path, tmp_path: Path
) -> None:
    before = layers(lab)
    session = boot(2)
    says(session, "5")
    saved = kept(session, folder)
    seen = tmp_path / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", saved.disk, seen], check=True)
    plan = promote.plan(lab.repository, "disk", saved.origin.point, ended(saved))
    point = promote.run(plan, Task())
    saved.discard()
    assert point.stored_bytes == BLOCK
    lab.moments[point.id] = seen
    lab.check_all()
    assert seen.read_bytes()[128 * 512] == 5
    assert {name: layers(lab)[name] for name in before} == before
    says(boot(3), "6")


# ------------------------------------------------------------------------------------- holds


@pytest.fixture
def vmdk(tmp_path: Path) -> Lab:
    """As `lab`, in one format, for what has nothing to do with formats."""
    return counting(Lab(tmp_path, size=boot_sector.SIZE))


@pytest.fixture
def running(vmdk: Lab, folder: Path) -> Iterator[Session]:
    """A machine on the first of two points."""
    point = vmdk.set.points[0]
    with vm.start_from_point(
        vmdk.repository, vmdk.set, point, sessions_folder=folder, request=IDE
    ) as session:
        yield session


def test_a_point_is_held_from_the_start_to_the_end_of_a_session(
    vmdk: Lab, running: Session, folder: Path
) -> None:
    (hold,) = holds.of(vmdk.set)
    assert (hold.session, hold.point) == (running.id, vmdk.set.points[0].id)
    assert running.unheld == ""
    with pytest.raises(PointInUse, match=running.id):
        vmdk.merge(vmdk.set.points[1])
    saved = kept(running, folder)
    with pytest.raises(PointInUse, match=running.id):
        vmdk.merge(vmdk.set.points[1])
    saved.discard()
    assert holds.of(vmdk.set) == []
    vmdk.merge(vmdk.set.points[1])
    vmdk.check_all()


def test_a_session_whose_hold_cannot_be_removed_is_gone_all_the_same(
    vmdk: Lab, saved: SavedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repository's storage does not answer: the session's folder is let go of, and deleted."""
    folder = SessionFolder.reopen(saved.folder)

    def unanswered(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(holds, "remove", unanswered)
        folder.remove()
    assert not folder.is_ours
    assert not saved.folder.exists()
    assert holds.of(vmdk.set) == []  # the session is known to be gone
    vmdk.merge(vmdk.set.points[1])


def test_a_point_that_is_gone_is_not_booted(vmdk: Lab, folder: Path) -> None:
    old = vmdk.set
    vmdk.delete(old.points[1])
    with pytest.raises(VdbackupError):
        vm.start_from_point(vmdk.repository, old, old.points[1], sessions_folder=folder)
    assert not folder.exists() or list(folder.iterdir()) == []
    assert holds.of(vmdk.set) == []


def test_a_point_of_a_repository_that_takes_no_holds_boots_and_it_is_said(
    vmdk: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(holds, "write_json", refuse)
    point = vmdk.set.points[0]
    with vm.start_from_point(
        vmdk.repository, vmdk.set, point, sessions_folder=folder, request=IDE
    ) as session:
        says(session, "3")
        assert "nobody else sees that this point is in use" in session.unheld


def test_a_promoted_session_is_refused_while_it_runs(
    vmdk: Lab, running: Session, folder: Path
) -> None:
    saved = all_sessions.find(folder, running.id)
    with pytest.raises(PointInUse, match="still running"):
        promote.plan(vmdk.repository, "disk", saved.origin.point, ended(saved))


# -------------------------------------------------------------------------- reopening refused


@pytest.fixture
def saved(running: Session, folder: Path) -> SavedSession:
    says(running, "3")
    return kept(running, folder)


def test_an_overlay_that_was_retargeted_anew_is_noticed(vmdk: Lab, saved: SavedSession) -> None:
    path = vmdk.overlay(vmdk.set.points[0])
    overlay = vmdk.open(path, writable=True)
    overlay.write(BLOCK, memoryview(bytes([7]) * BLOCK))
    overlay.flush()
    overlay.close()
    with pytest.raises(RecoveryError, match="overlay of point 1 has changed"):
        vm.reopen_session(saved)
    assert saved.disk.exists()


def test_a_session_that_runs_is_not_opened_twice(
    saved: SavedSession, again: Reopen, folder: Path
) -> None:
    again(saved)
    with pytest.raises(RecoveryError, match="in use by another program"):
        vm.reopen_session(saved)
    assert all_sessions.find(folder, saved.id).state is SessionState.RUNNING


def test_another_repository_in_the_same_place_is_noticed(vmdk: Lab, saved: SavedSession) -> None:
    marker = vmdk.repository.path / "vdbackup.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"id": "another"}))
    with pytest.raises(RecoveryError, match="not the repository"):
        vm.reopen_session(saved)


def test_a_repository_that_is_not_there_leaves_the_session(vmdk: Lab, saved: SavedSession) -> None:
    vmdk.repository.path.rename(vmdk.folder / "unplugged")
    with pytest.raises(RepositoryError):
        vm.reopen_session(saved)
    assert saved.disk.exists()
    saved.discard()
    assert not saved.folder.exists()


def test_a_session_whose_folder_was_renamed_is_not_opened_and_can_be_discarded(
    vmdk: Lab, saved: SavedSession, folder: Path
) -> None:
    """Its hold bears its own name, and counts no more when nothing of that name is there."""
    saved.folder.rename(folder / "my laptop")
    (found,) = saved_sessions(folder)
    with pytest.raises(SessionUnusable, match="renamed, or copied"):
        vm.reopen_session(found)
    found.discard()
    assert saved_sessions(folder) == []
    assert holds.of(vmdk.set) == []


@pytest.mark.parametrize(
    "lie",
    [
        {"origin": None},
        {"origin": {"repository": "x", "repository_id": "", "set": "disk", "point": "p"}},
        {"origin": []},
        {"origin": {"set": "../../etc"}},
        {"pid": "1", "title": 3, "started": "yesterday", "overlay": 7, "machine": [], "origin": 1},
        {"pid": -1, "started": "2026-01-01", "title": "\0", "overlay": "\0"},
        {"pid": 2**80},
        {"started": "0001-01-01T00:00:00+23:59"},
    ],
)
def test_a_record_that_lies_is_listed_and_can_be_discarded(
    saved: SavedSession, folder: Path, lie: dict[str, Any]
) -> None:
    record = saved.folder / "session.json"
    said = json.loads(record.read_text())
    origin = lie.get("origin")
    if isinstance(origin, dict) and "set" in origin and len(origin) == 1:
        lie = {"origin": said["origin"] | origin}
    record.write_text(json.dumps(said | lie))
    (found,) = saved_sessions(folder)
    assert not found.running
    assert found.record.started.astimezone(UTC).year > 2000
    if "origin" in lie:
        with pytest.raises(RecoveryError, match="does not say from which"):
            vm.reopen_session(found)
    found.discard()
    assert saved_sessions(folder) == []


@pytest.mark.parametrize("lie", [None, "floppy", {}, {"controller": "ide"}])
def test_hardware_that_makes_no_sense_is_refused(saved: SavedSession, lie: object) -> None:
    lying = replace(saved, record=replace(saved.record, machine={"hardware": lie}))
    with pytest.raises(RecoveryError, match="machine in this recovery point is damaged"):
        vm.reopen_session(lying)


# ------------------------------------------------------------------------- other programs' own


OWNER = """
import sys
from pathlib import Path
from vdbackup.recovery.sessions import vm
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.repository.repository import Repository
repository = Repository.open(Path(sys.argv[1]))
backup_set, point = repository.find("1")
session = vm.start_from_point(
    repository, backup_set, point, sessions_folder=Path(sys.argv[2]),
    request=HardwareRequest(controller=Controller.IDE),
)
session.wait_for_text("3")
print("started", flush=True)
session.wait()
session.keep()
print("crashed" if session.crashed else "ended", flush=True)
"""


@pytest.fixture
def owner(vmdk: Lab, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that runs a machine, and keeps what it wrote when that has ended."""
    command = [sys.executable, "-c", OWNER, str(vmdk.repository.path), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        process.kill()
    for each in saved_sessions(folder):
        all_sessions.kill(each)


def test_another_programs_machine_is_ended_and_does_not_look_crashed(
    owner: subprocess.Popen[str], folder: Path
) -> None:
    (session,) = saved_sessions(folder)
    assert (session.state, all_sessions.status(session)) == (SessionState.RUNNING, "running")
    all_sessions.kill(session)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ended\n"
    owner.wait()
    (session,) = saved_sessions(folder)
    assert session.state is SessionState.KEPT


def test_a_machine_that_ignores_the_button_is_ended_after_all(
    owner: subprocess.Popen[str], folder: Path
) -> None:
    (session,) = saved_sessions(folder)
    all_sessions.stop(session, grace=0.2)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ended\n"
    owner.wait()


def test_a_machine_whose_program_crashed_is_stopped_kept_and_reopened(
    owner: subprocess.Popen[str], folder: Path, again: Reopen
) -> None:
    owner.kill()
    owner.wait()
    (session,) = saved_sessions(folder)
    assert session.state is SessionState.UNATTENDED
    with pytest.raises(RecoveryError, match="still running"):
        vm.reopen_session(session)
    all_sessions.kill(session)
    (session,) = saved_sessions(folder)
    assert session.state is SessionState.KEPT
    says(again(session), "4")


def test_a_machine_whose_program_and_qemu_crashed_is_reopened(
    owner: subprocess.Popen[str], folder: Path, again: Reopen
) -> None:
    owner.kill()
    owner.wait()
    (session,) = saved_sessions(folder)
    assert session.record.pid is not None
    os.kill(session.record.pid, signal.SIGKILL)
    assert session.wait(LIMIT)
    (session,) = saved_sessions(folder)
    says(again(session), "3")  # what the guest had not flushed is gone, as after a power cut


def test_the_control_socket_is_private_and_works_at_the_end_of_a_long_path(
    vmdk: Lab, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 120) / "sessions"
    with vm.start_from_point(
        vmdk.repository, vmdk.set, vmdk.set.points[0], sessions_folder=deep, request=IDE
    ) as session:
        assert (session.folder / "control").stat().st_mode & 0o777 == 0o600
        session.execute("stop")
        saved = all_sessions.find(deep, session.id)
        assert all_sessions.status(saved) == "paused"
        all_sessions.resume(saved)
        assert all_sessions.status(saved) == "running"


def test_a_session_is_found_by_either_end_of_its_id(saved: SavedSession, folder: Path) -> None:
    assert all_sessions.find(folder, saved.id[-6:]) == saved
    assert all_sessions.find(folder, saved.id[:10]) == saved
    for reference in ("nothing", saved.id[-3:], ""):
        with pytest.raises(RecoveryError, match="matches"):
            all_sessions.find(folder, reference)


def test_a_folder_that_is_taken_is_not_taken_again(saved: SavedSession) -> None:
    with SessionFolder.reopen(saved.folder), pytest.raises(RecoveryError, match="in use"):
        SessionFolder.reopen(saved.folder)
    SessionFolder.reopen(saved.folder).close()


# ------------------------------------------------------------ discarded from a list that is stale


def test_a_session_that_was_reopened_since_it_was_listed_is_not_discarded(
    saved: SavedSession,
) -> None:
    with SessionFolder.reopen(saved.folder):
        assert not saved.owned  # as the list has it
        with pytest.raises(RecoveryError, match="belongs to a program that is running"):
            saved.discard()
        assert saved.disk.exists()
    saved.discard()
    assert not saved.folder.exists()


def test_what_was_written_since_it_was_listed_is_not_discarded_unseen(
    saved: SavedSession, folder: Path
) -> None:
    with SessionFolder.reopen(saved.folder) as again:
        again.write_record(os.getpid())
        again.keep()
    with pytest.raises(RecoveryError, match="opened again since it was listed"):
        saved.discard()
    (fresh,) = saved_sessions(folder)
    fresh.discard()


def test_a_session_whose_disk_another_program_has_open_is_not_discarded(
    saved: SavedSession,
) -> None:
    with opened(saved.disk) as program:
        with pytest.raises(RecoveryError, match=rf"cat \(process {program.pid} of "):
            saved.discard()
        assert saved.disk.exists()
    saved.discard()
    assert not saved.folder.exists()


def test_a_session_that_somebody_else_has_discarded_is_gone(saved: SavedSession) -> None:
    saved.discard()
    saved.discard()
    assert not saved.folder.exists()
