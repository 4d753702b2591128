"""Virtual machines started from the window, without a display."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QLabel, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG, User
from vdbackup.gui.machines.session import AtEnd
from vdbackup.gui.parts import Notice
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.qemu import monitor
from vdbackup.recovery.sessions.saved import SessionState, saved_session
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk


def boots(user: User, message: str) -> None:
    """Boot the chosen point and wait until its guest has said `message`."""
    user.asks_for("actionBootInVm")
    (thread,) = user.window.sessions.running
    user.waits_until(lambda: thread.session is not None or thread.problem)
    assert thread.problem is None
    assert thread.session is not None
    assert thread.session.wait_for_text(message, timeout=LONG / 1000)


def chooses(user: User, what: AtEnd) -> None:
    """Say what is to become of what the machine writes."""
    user.sees(QComboBox, "atEndBox").setCurrentText(what.value)


def layers(repository: Path) -> dict[str, str]:
    """Digests of everything in the repository's sets."""
    files = sorted(Repository.open(repository).set().folder.iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_chosen_point_boots_and_its_backup_stays_as_it_was(
    with_source: User, disk: Path, repository: Path
) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    before = layers(repository)
    with_source.presses(Qt.Key.Key_Left)
    boots(with_source, "the first state")
    with_source.clicks("killButton")
    with_source.waits_until(lambda: not with_source.window.sessions.running)
    assert layers(repository) == before


def test_a_running_machine_is_seen_in_the_list_and_the_timeline(with_source: User) -> None:
    boots(with_source, "the first state")
    assert with_source.sees(QPushButton, "killButton")
    timeline = with_source.window.panel.timeline
    assert timeline.facts.sessions == {timeline.selected}
    with_source.clicks("killButton")
    with_source.waits_until(lambda: not timeline.facts.sessions)


def test_what_a_machine_wrote_is_discarded_by_default(with_source: User) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    with_source.clicks("killButton")
    with_source.waits_until(lambda: not with_source.window.sessions.running)
    assert not folder.exists()
    assert not with_source.window.sessions.saved


def test_what_a_machine_wrote_is_kept_on_request_until_it_is_discarded(with_source: User) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    chooses(with_source, AtEnd.KEEP)
    with_source.clicks("killButton")
    with_source.clicks("discardButton")
    with_source.agrees()
    with_source.waits_until(lambda: not with_source.window.sessions.saved)
    assert not folder.exists()


def test_a_kept_machine_is_started_again_and_stays_kept(with_source: User) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    chooses(with_source, AtEnd.KEEP)
    with_source.clicks("killButton")
    with_source.clicks("reopenButton")
    (thread,) = with_source.window.sessions.running
    with_source.waits_until(lambda: thread.session is not None or thread.problem)
    assert thread.session is not None
    assert thread.session.folder == folder
    assert thread.session.wait_for_text("the first state", timeout=LONG / 1000)
    with_source.clicks("killButton")
    assert with_source.sees(QPushButton, "discardButton")
    assert [saved.folder for saved in with_source.window.sessions.saved] == [folder]


def test_what_a_machine_wrote_becomes_a_point_beside_those_of_its_source(
    with_source: User, disk: Path
) -> None:
    boots(with_source, "the first state")
    (thread,) = with_source.window.sessions.running
    folder = thread.session.folder
    chooses(with_source, AtEnd.PROMOTE)
    with_source.clicks("killButton")
    with_source.sees_points(2)
    with_source.waits_until(lambda: not folder.exists())
    with_source.waits_until(lambda: not with_source.window.sessions.saved)
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(3)
    layout = with_source.window.panel.timeline.facts.layout
    assert layout.parent.tolist() == [-1, 0, 0]
    assert layout.lane.tolist() == [0, 1, 0]
    with_source.presses(Qt.Key.Key_Left)
    assert "a virtual machine on laptop #1" in with_source.window.details.fact("promoted")


def test_a_kept_machine_becomes_a_point_after_a_question(with_source: User) -> None:
    boots(with_source, "the first state")
    chooses(with_source, AtEnd.KEEP)
    with_source.clicks("killButton")
    with_source.clicks("makeapointButton")
    with_source.agrees()
    with_source.sees_points(2)
    with_source.waits_until(lambda: not with_source.window.sessions.saved)


def test_a_merge_of_a_point_with_a_kept_machine_cannot_be_agreed_to(
    with_source: User, disk: Path, qtbot: QtBot
) -> None:
    boots(with_source, "the first state")
    chooses(with_source, AtEnd.KEEP)
    with_source.clicks("killButton")
    assert with_source.sees(QPushButton, "discardButton")
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    with_source.asks_for("actionMerge")
    dialog = with_source.sees(PlanDialog, "planDialog")
    assert "a session on point 1" in dialog.findChild(Notice, "planHindrance").text
    assert "laptop #1" in dialog.findChild(Notice, "planHindrance").text  # as its card is called
    assert not dialog.accept_button.isEnabled()
    qtbot.keyClick(dialog, Qt.Key.Key_Return)  # closes it
    with_source.waits_until(lambda: not dialog.isVisible())
    assert not [row for row in with_source.window.jobs.rows if "Merge" in row.accessibleName()]
    with_source.sees_points(2)


def test_a_machine_whose_qemu_crashed_is_kept(with_source: User) -> None:
    boots(with_source, "the first state")
    (thread,) = with_source.window.sessions.running
    record = json.loads((thread.session.folder / "session.json").read_text())
    os.kill(record["pid"], signal.SIGKILL)
    with_source.reads("has crashed")
    assert with_source.sees(QPushButton, "reopenButton")
    (saved,) = with_source.window.sessions.saved
    assert saved.state is SessionState.CRASHED


def test_a_double_click_boots_the_point(with_source: User, qtbot: QtBot) -> None:
    timeline = with_source.window.panel.timeline
    at = timeline.place_of(0).toPoint()
    qtbot.mouseDClick(timeline.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert len(with_source.window.sessions.running) == 1


def test_a_point_that_cannot_boot_says_why(with_source: User, repository: Path) -> None:
    backup_set = Repository.open(repository).set()
    backup_set.disk_path(backup_set.points[0]).unlink()
    with_source.asks_for("actionBootInVm")
    with_source.reads("is missing")
    assert not with_source.window.sessions.running


def test_closing_the_window_says_what_becomes_of_each_machine_and_loses_nothing_by_enter(
    with_source: User, qtbot: QtBot
) -> None:
    boots(with_source, "the first state")
    with_source.window.close()
    question = with_source.sees(QuitDialog, "quitQuestion")
    assert "laptop #1: what it wrote is thrown away" in question.text
    qtbot.keyClick(question, Qt.Key.Key_Return)
    with_source.waits_until(lambda: not question.isVisible())
    assert with_source.window.isVisible()
    assert with_source.window.sessions.running
    with_source.window.close()
    with_source.agrees("quitQuestion", "stopAndQuit")
    with_source.waits_until(lambda: not with_source.window.isVisible())
    assert not with_source.window.sessions.running


def test_what_a_machine_wrote_becomes_a_point_before_the_window_closes(
    with_source: User, repository: Path
) -> None:
    boots(with_source, "the first state")
    chooses(with_source, AtEnd.PROMOTE)
    with_source.window.close()
    question = with_source.sees(QuitDialog, "quitQuestion")
    assert "laptop #1: what it wrote becomes a recovery point" in question.text
    assert not question.findChild(QWidget, "quitLosses").isVisible()
    with_source.agrees("quitQuestion", "stopAndQuit")
    with_source.waits_until(lambda: not with_source.window.isVisible())
    assert [bool(each.promoted_from) for each in Repository.open(repository).set().points] == [
        False,
        True,
    ]


def test_a_signal_keeps_what_machines_wrote(with_source: User) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    with_source.window.ending.stop_before_the_desktop_ends()
    assert not with_source.window.isVisible()
    saved = saved_session(folder)
    assert saved is not None
    assert saved.state is SessionState.KEPT


@pytest.mark.parametrize("at_end", [AtEnd.DISCARD, AtEnd.KEEP])
def test_a_machine_whose_window_was_closed_is_kept(with_source: User, at_end: AtEnd) -> None:
    """GTK's window tells QEMU to quit then, as whoever has its monitor can."""
    boots(with_source, "the first state")
    chooses(with_source, at_end)
    (thread,) = with_source.window.sessions.running
    with thread.session.files.connect() as qemu:
        monitor.tell(qemu, "quit")
    with_source.reads("What it wrote is kept")
    assert with_source.sees(QPushButton, "reopenButton")
    (saved,) = with_source.window.sessions.saved
    assert saved.state is SessionState.KEPT


def test_discarding_what_is_kept_asks_and_says_what_goes(with_source: User, qtbot: QtBot) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    chooses(with_source, AtEnd.KEEP)
    with_source.clicks("killButton")
    with_source.clicks("discardButton")
    question = with_source.sees(PlanDialog, "planDialog")
    said = " ".join(label.text() for label in question.findChildren(QLabel))
    assert "started from laptop #1, today" in said
    assert f"KiB in {folder}" in said
    qtbot.keyClick(question, Qt.Key.Key_Return)
    with_source.waits_until(lambda: not question.isVisible())
    assert folder.exists()
    with_source.clicks("discardButton")
    with_source.agrees()
    with_source.waits_until(lambda: not folder.exists())


def test_a_point_is_opened_with_another_program_and_thrown_away(with_source: User) -> None:
    window = with_source.window
    with_source.waits_until(lambda: window.point)
    (action,) = [a for a in window.actions_.open_menu.actions() if a.text() == "VirtualBox"]
    action.trigger()
    with_source.reads("Open it in VirtualBox: Machine, Add, ")
    with_source.waits_until(lambda: window.sessions.saved)
    (saved,) = window.sessions.saved
    assert (saved.folder / "machine.vbox").exists()
    assert (
        not with_source.sees(QPushButton, "discardButton")
        .parent()
        .findChild(QPushButton, "reopenButton")
    )
    with_source.clicks("discardButton")
    with_source.agrees()
    with_source.waits_until(lambda: not window.sessions.saved)
    assert not saved.folder.exists()


def test_a_program_that_reads_the_format_wrong_says_so(with_source: User) -> None:
    """The set is kept in VMDK, which all three read; VHDX none."""
    window = with_source.window
    backup_set = Repository.open(window.entry.repository).set()
    settings = backup_set.folder / "set.json"
    settings.write_text(settings.read_text().replace('"vmdk"', '"vhdx"'))
    with_source.waits_until(lambda: window.point)
    window.actions_.open_menu.actions()[0].trigger()
    with_source.reads("virt-manager cannot boot from this point")
