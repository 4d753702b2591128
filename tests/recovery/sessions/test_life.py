"""What a session's machine is when several want something of it at once: the first thing counts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.guests import boot_sector
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import MachineFailed, MachineRunning, RecoveryError, SessionsFolder
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.qemu import qemu
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.folder import SessionFolder
from vdbackup.recovery.sessions.life import Life
from vdbackup.recovery.sessions.saved import SessionState, saved_sessions
from vdbackup.recovery.sessions.session import Session

STATES = list(Life)
LIMIT = 240.0


@pytest.mark.parametrize("state", [Life.ENDED, Life.CRASHED, Life.CUT_OFF_AND_KILLED])
def test_a_session_that_has_ended_stays_as_it_ended(state: Life) -> None:
    assert not any(state.may_become(other) for other in STATES)


@pytest.mark.parametrize("state", [Life.TOLD_TO_END, Life.KILLED, Life.CUT_OFF])
def test_a_session_that_is_to_end_is_never_started_again(state: Life) -> None:
    reached = {state}
    while (
        more := {other for each in reached for other in STATES if each.may_become(other)} - reached
    ):
        reached |= more
    assert not reached & {Life.RUNNING, Life.RESTARTING}


def test_what_we_ended_is_not_cut_off_and_what_was_cut_off_did_not_end_by_our_wish() -> None:
    for ours in (Life.TOLD_TO_END, Life.KILLED, Life.ENDED):
        assert not ours.may_become(Life.CUT_OFF)
        assert not Life.CUT_OFF.may_become(ours)


def test_a_machine_that_we_killed_has_not_crashed() -> None:
    for killed in (Life.KILLED, Life.CUT_OFF_AND_KILLED):
        assert not killed.may_become(Life.CRASHED)


def test_every_state_comes_to_an_end() -> None:
    ends = {state for state in STATES if not any(map(state.may_become, STATES))} | {Life.CUT_OFF}
    for state in set(STATES) - ends:
        assert any(state.may_become(end) for end in ends), state


# -------------------------------------------------------------------------------- machines


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def session(tmp_path: Path, sessions: Path) -> Iterator[Session]:
    """A machine that does nothing, and does not hear its power button."""
    disk = boot_sector.make(tmp_path / "disk.img", "")
    with vm.start_session(
        disk,
        sessions_folder=sessions,
        title="races",
        disk_format=DiskFormat.RAW,
        request=HardwareRequest(Controller.IDE),
    ) as session:
        yield session


def at_once(*calls: Callable[[], object]) -> list[BaseException | None]:
    """Let threads begin the calls at one moment; what each of them ended in."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> BaseException | None:
        barrier.wait()
        try:
            call()
        except RecoveryError as error:
            return error
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def kept_state(sessions: Path) -> SessionState:
    (found,) = saved_sessions(sessions)
    assert not found.owned
    return found.state


def test_a_machine_that_is_killed_while_it_is_asked_to_end_has_not_crashed(
    session: Session, sessions: Path
) -> None:
    assert at_once(session.power_off, session.kill) == [None, None]
    assert session.life is Life.ENDED
    assert (session.crashed, session.cut_off, session.error) == (False, False, None)
    session.keep()
    assert kept_state(sessions) is SessionState.KEPT


def test_a_machine_that_is_killed_while_it_is_kept_is_kept(
    session: Session, sessions: Path
) -> None:
    assert at_once(session.keep, session.kill, session.kill) == [None, None, None]
    assert session.life is Life.ENDED
    assert kept_state(sessions) is SessionState.KEPT
    session.discard()
    assert kept_state(sessions) is SessionState.KEPT


def test_a_machine_that_ends_by_itself_while_it_is_told_to_has_ended_once(
    session: Session, sessions: Path
) -> None:
    quits = [lambda: session.execute("quit"), session.keep, lambda: session.power_off(0)]
    at_once(*quits)
    assert not session.running
    assert not session.crashed
    assert session.life in (Life.ENDED, Life.CUT_OFF)  # whichever of the three came first
    assert kept_state(sessions) is SessionState.KEPT


def test_a_machine_that_is_ending_is_not_killed_when_it_is_kept(
    session: Session, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes its monitor before it writes what of its disk's tables is in its memory."""

    def deaf() -> None:
        threading.Timer(0.5, session.execute, ["quit"]).start()
        raise MachineFailed("QEMU does not answer.")

    monkeypatch.setattr(session, "_tell_to_end", deaf)
    session.keep()
    assert session.life is Life.CUT_OFF
    assert kept_state(sessions) is SessionState.KEPT


def test_a_machine_whose_window_was_closed_stays_cut_off_when_it_is_killed(
    session: Session, sessions: Path
) -> None:
    session._on_event("SHUTDOWN", {"guest": False, "reason": "host-ui"})
    session.kill()
    assert session.life is Life.CUT_OFF_AND_KILLED
    assert (session.crashed, session.cut_off, session.error) == (False, True, None)


def test_a_machine_that_we_told_to_end_is_not_taken_for_one_whose_window_was_closed(
    session: Session,
) -> None:
    session.power_off(0)
    assert (session.life, session.cut_off) == (Life.ENDED, False)


def test_a_machine_that_crashed_stays_crashed_whatever_is_wanted_of_it_then(
    session: Session, sessions: Path
) -> None:
    pid = session.files.read_record().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MachineFailed, match="has crashed"):
        session.wait(LIMIT)
    at_once(session.power_off, session.kill, session.keep)
    assert session.life is Life.CRASHED
    assert kept_state(sessions) is SessionState.CRASHED


def test_a_machine_that_is_told_to_end_while_kvm_is_given_up_is_not_started_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM is claimed; the event is the one that QEMU sends where KVM meets what it cannot run."""
    kvm = replace(session._machine, accelerator=qemu.Accelerator.KVM)
    monkeypatch.setattr(session, "_machine", kvm)
    with session._lock:  # nobody starts it again meanwhile
        session._on_event("STOP", {"running": False, "status": "internal-error"})
        assert session.life is Life.RESTARTING
        with pytest.raises(RecoveryError):
            session._tell_to_end()
    assert session.wait(LIMIT)
    assert (session.life, session.error) == (Life.ENDED, None)


def test_a_machine_that_is_started_again_and_cannot_be_noted_is_ended(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder's storage is full by then: nobody else could see the second QEMU, or end it."""
    kvm = replace(session._machine, accelerator=qemu.Accelerator.KVM)
    monkeypatch.setattr(session, "_machine", kvm)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    def refuse(_: int) -> None:
        raise SessionsFolder("No space.")

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(session._folder, "write_record", refuse)
    session._on_event("STOP", {"running": False, "status": "internal-error"})
    with pytest.raises(MachineFailed, match="could not be started again"):
        session.wait(LIMIT)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_machine_that_does_not_start_leaves_nothing(
    tmp_path: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = boot_sector.make(tmp_path / "disk.img", "")
    monkeypatch.setattr(qemu, "processor", lambda _: ["-accel", "none"])
    with pytest.raises(MachineFailed, match="could not be started"):
        vm.start_session(
            disk,
            sessions_folder=sessions,
            title="none",
            disk_format=DiskFormat.RAW,
            request=HardwareRequest(Controller.IDE),
        )
    assert saved_sessions(sessions) == []


# ---------------------------------------------------------------------------------- folders


def new_folder(sessions: Path) -> SessionFolder:
    return SessionFolder.create(sessions, "races", Path("/overlay.vmdk"))


def test_a_folder_that_is_kept_and_discarded_at_once_is_one_of_both(sessions: Path) -> None:
    for _ in range(100):
        folder = new_folder(sessions)
        assert at_once(folder.remove, folder.keep) == [None, None]
        assert not folder.is_ours
        if folder.path.exists():
            assert folder.files.read_record().ended
            SessionFolder.reopen(folder.path).remove()
    assert saved_sessions(sessions) == []


def test_what_was_kept_is_nobodys_to_change_who_has_not_opened_it_again(sessions: Path) -> None:
    folder = new_folder(sessions)
    folder.keep()
    with SessionFolder.reopen(folder.path) as other:
        other.write_record(None)
        folder.keep()
        folder.remove()
        assert not other.files.read_record().ended


def test_of_two_who_promote_or_reopen_a_kept_session_one_has_it(sessions: Path) -> None:
    folder = new_folder(sessions)
    folder.keep()
    opened: list[SessionFolder] = []
    ends = at_once(*[lambda: opened.append(SessionFolder.reopen(folder.path))] * 4)
    assert [type(end) for end in ends if end] == [MachineRunning] * 3
    opened[0].close()
