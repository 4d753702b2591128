"""What a machine wrote becomes a point: the session goes, and only as it was shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.oracles import qemu
from vdbackup.errors import Cancelled, RecoveryError, SessionsFolder
from vdbackup.jobs import CancelToken, Task
from vdbackup.operations import promote
from vdbackup.recovery.other_programs.machine import write_machine
from vdbackup.recovery.sessions.elsewhere import Program
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.recovery.sessions.saved import SavedSession, saved_sessions
from vdbackup.repository import holds


@pytest.fixture
def saved(lab: Lab, tmp_path: Path) -> SavedSession:
    """A machine of another program, that has written to its disk and is shut down."""
    point = lab.backup()
    folder = tmp_path / "sessions"
    write_machine(
        lab.repository,
        lab.set,
        point,
        Program.VMWARE,
        sessions_folder=folder,
        memory_mib=64,
    )
    (session,) = saved_sessions(folder)
    qemu.io(session.disk, "write -P 7 64k 128k", disk_format="vmdk")
    return session


def test_the_point_holds_what_the_machine_wrote_and_the_session_is_gone(
    lab: Lab, saved: SavedSession, tmp_path: Path
) -> None:
    seen = tmp_path / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(saved.disk), str(seen)], check=True)
    plan = promote.plan(saved, not_running=True)
    assert "must be shut down in VMware" in plan.summary
    assert plan.replaces == (str(saved.disk),)
    result = promote.run(plan, Task())
    assert (result.set_name, result.point.sequence, result.trouble) == ("disk", 2, ())
    assert result.point.promoted_from is not None
    lab.moments[result.point.id] = seen
    lab.check_all()
    assert not saved.folder.exists()
    assert holds.of(lab.set) == []


def test_a_promotion_does_not_guess_whether_the_machine_runs(saved: SavedSession) -> None:
    with pytest.raises(RecoveryError, match="cannot be found out"):
        promote.plan(saved)


def test_a_promotion_deletes_no_disks_that_were_not_shown(lab: Lab, saved: SavedSession) -> None:
    plan = promote.plan(saved, not_running=True)
    snapshot = saved.folder / "snapshot.vmdk"
    command = ["qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b"]
    subprocess.run([*command, str(saved.disk), str(snapshot)], check=True)
    machine = saved.folder / "machine.vmx"
    machine.write_text(machine.read_text().replace(saved.disk.name, snapshot.name))
    with pytest.raises(RecoveryError, match="on other disks"):
        promote.run(plan, Task())
    assert snapshot.exists()
    assert len(lab.set.points) == 1


def test_a_cancelled_promotion_leaves_the_session(lab: Lab, saved: SavedSession) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        promote.run(promote.plan(saved, not_running=True), Task(cancel=cancel))
    assert saved.disk.exists()
    assert len(lab.set.points) == 1


def test_a_session_that_cannot_be_deleted_costs_the_point_nothing_and_is_said(
    lab: Lab, saved: SavedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = promote.plan(saved, not_running=True)

    def refuse(files: SessionFiles) -> None:
        raise SessionsFolder(f"{files.folder} cannot be deleted.")

    with monkeypatch.context() as patch:
        patch.setattr(SessionFiles, "delete", refuse)
        result = promote.run(plan, Task())
    assert [error.title for error in result.trouble] == [f"{saved.folder} cannot be deleted."]
    assert [point.id for point in lab.set.points][1:] == [result.point.id]
    saved.discard(not_running=True)  # nobody holds it
