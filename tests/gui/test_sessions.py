"""Virtual machines started from the window, without a display."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QMessageBox, QPushButton
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG, User
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
    assert not with_source.window.sessions.leftovers


def test_what_a_machine_wrote_is_kept_on_request_until_it_is_discarded(with_source: User) -> None:
    boots(with_source, "the first state")
    folder = with_source.window.sessions.running[0].session.folder
    with_source.sees(QCheckBox, "keepBox").setChecked(True)
    with_source.clicks("killButton")
    with_source.clicks("discardButton")
    with_source.waits_until(lambda: not with_source.window.sessions.leftovers)
    assert not folder.exists()


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


def test_closing_the_window_asks_before_it_ends_a_machine(with_source: User, qtbot: QtBot) -> None:
    boots(with_source, "the first state")
    with_source.window.close()
    question = with_source.sees(QMessageBox, "quitQuestion")
    qtbot.mouseClick(question.findChild(QPushButton, "stopAndQuit"), Qt.MouseButton.LeftButton)
    with_source.waits_until(lambda: not with_source.window.isVisible())
    assert not with_source.window.sessions.running
