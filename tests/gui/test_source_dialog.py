"""A page about a source, and what may be dropped on the window."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QLabel, QPushButton

from tests.gui.user import User
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.parts import Notice
from vdbackup.gui.schedule_dialog import ScheduleDialog
from vdbackup.gui.source_dialog import HELD, SourceDialog, facts


def test_a_page_says_of_a_source_what_it_holds_and_does_and_leads_to_what_changes_that(
    with_source: User, disk: Path, repository: Path
) -> None:
    user = with_source
    user.asks_for("aboutSource")
    page = user.sees(SourceDialog, "sourceDialog")
    said = {each.accessibleName(): each.text() for each in page.findChildren(QLabel)}
    entry = user.window.entry
    assert entry is not None
    assert said["Source"].replace("\u200b", "") == str(disk)
    assert said["Points"] == "1 point"
    assert said["Format"] == "VMDK"
    assert said["Points that stay"] == "all points"
    assert said["Backed up"] == "when you say so"
    assert said["Holds"].endswith(" stored, of 16 MiB")
    assert facts(entry)["Backups in"] == str(repository)
    assert user.sees(Notice, "sourceHealth").text == HELD
    assert page.findChild(QPushButton, "forgetSourceButton") is not None
    assert page.findChild(QPushButton, "leaveRepositoryButton") is not None
    user.clicks("chooseScheduleButton")
    user.sees(ScheduleDialog, "scheduleDialog").close()


def drop(user: User, *paths: Path) -> bool:
    """Drag files over the window and let go of them there; whether they are taken."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    none = Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPointF(9, 9).toPoint(), copy, data, left, none)
    enter.ignore()
    QApplication.sendEvent(user.window, enter)
    if not enter.isAccepted():
        return False
    QApplication.sendEvent(user.window, QDropEvent(QPointF(9, 9), copy, data, left, none))
    return True


def test_an_image_that_is_dropped_is_offered_as_a_source(user: User, disk: Path) -> None:
    assert drop(user, disk)
    dialog = user.sees(AddSourceDialog, "addSourceDialog")
    assert dialog.form.source_edit.text() == str(disk)
    dialog.close()


def test_a_folder_with_backups_that_is_dropped_is_opened(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    user = with_source
    other = tmp_path / "moved"
    repository.rename(other)
    assert drop(user, other)
    user.waits_until(lambda: other in user.window.store.value.repositories)


def test_several_files_or_what_is_no_file_are_not_taken(user: User, disk: Path) -> None:
    assert not drop(user, disk, disk)
    assert not drop(user)
