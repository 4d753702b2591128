"""Chosen files in the window: chosen with their sizes, shown, changed, restored, dropped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QDialog, QPlainTextEdit, QPushButton
from pytestqt.qtbot import QtBot

from tests.gui.test_changes_dialog import rows
from tests.gui.test_source_dialog import drop
from tests.gui.user import User
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.changes_dialog import SizeDialog
from vdbackup.gui.choice_dialog import ChoiceDialog
from vdbackup.gui.parts import Fold
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.restore_files_dialog import RestoreFilesDialog
from vdbackup.gui.source_dialog import SourceDialog, facts
from vdbackup.jobs import Plan
from vdbackup.operations import file_choice
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.tree import Tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "inner").mkdir(parents=True)
    (folder / "letter.txt").write_text("Dear all")
    (folder / "inner" / "large").write_bytes(os.urandom(900_000))
    (folder / "draft.tmp").write_text("not this")
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "picture").write_bytes(os.urandom(50_000))
    return other


def counted(user: User) -> ChoiceDialog:
    """The dialog, once all is counted."""
    dialog = user.sees(ChoiceDialog, "choiceDialog")
    user.waits_until(lambda: dialog.preview is not None)
    return dialog


@pytest.fixture
def with_files(user: User, folder: Path, repository: Path) -> User:
    """Somebody who has chosen a folder, without what ends in .tmp, and backed it up once."""
    form = user.window.first_run.form
    form.repository_edit.setText(str(repository))
    user.clicks("chooseFilesButton")
    dialog = user.sees(ChoiceDialog, "choiceDialog")
    dialog.add([str(folder)])
    dialog.patterns.setPlainText("*.tmp\n")
    counted(user)
    user.clicks("choiceAccept")
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    return user


def test_what_is_chosen_says_how_much_it_is_before_it_is_kept(
    user: User, folder: Path, other: Path
) -> None:
    user.clicks("chooseFilesButton")
    dialog = user.sees(ChoiceDialog, "choiceDialog")
    assert not dialog.accept_button.isEnabled()
    dialog.add([str(folder), str(other), str(other)])
    counted(user)
    rows = [dialog.paths.topLevelItem(row) for row in range(dialog.paths.topLevelItemCount())]
    assert [(row.text(0), row.text(1), row.text(2)) for row in rows if row] == [
        (str(folder), "5", "896 KiB"),
        (str(other), "2", "56 KiB"),
    ]
    assert dialog.said.text.startswith("7 files and folders, 952 KiB.")
    dialog.patterns.setPlainText("*.tmp\n\nl*")
    assert dialog.preview is None
    counted(user)
    assert dialog.said.text.startswith("4 files and folders, ")
    dialog.largest.setValue(1)
    dialog.paths.topLevelItem(1).setSelected(True)
    user.clicks("takeOut")
    counted(user)
    user.clicks("choiceAccept")
    chosen = user.window.first_run.form.source_edit.text()
    wanted = Choice((str(folder),), ("*.tmp", "l*"), largest=1 << 20)
    assert chosen == str(file_choice.reference(wanted))
    user.clicks("chooseFilesButton")
    again = counted(user)
    assert again.choice == wanted
    again.reject()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counting that goes on until it is cancelled: how often it has begun and ended."""
    begun: list[int] = []

    def survey(_tree: Tree, check: object) -> None:
        begun.append(1)
        try:
            for files in range(1 << 40):
                check(files)  # type: ignore[operator]
        finally:
            begun.append(-1)

    monkeypatch.setattr(Tree, "survey", survey)
    return iter([begun])  # type: ignore[arg-type]


def test_counting_can_be_stopped_and_stops_when_it_is_closed(
    user: User, folder: Path, endless: Iterator[list[int]]
) -> None:
    begun = next(endless)
    user.clicks("chooseFilesButton")
    dialog = user.sees(ChoiceDialog, "choiceDialog")
    dialog.add([str(folder)])
    user.waits_until(lambda: "files and folders so far" in dialog.said.text)
    user.clicks("stopCounting")
    user.waits_until(lambda: begun == [1, -1])
    assert dialog.said.text == "It was not counted."
    assert dialog.accept_button.isEnabled()
    dialog.patterns.setPlainText("*.tmp")
    user.waits_until(lambda: len(begun) == 3)
    dialog.reject()
    user.waits_until(lambda: begun == [1, -1, 1, -1])


def test_the_page_about_it_says_what_is_chosen_and_left_out(with_files: User, folder: Path) -> None:
    entry = with_files.window.entry
    assert entry is not None
    said = facts(entry)
    assert said["Folders and files"] == str(folder)
    assert said["Left out"] == "*.tmp\nwhat is marked as a cache\nother file systems"
    with_files.asks_for("aboutSource")
    page = with_files.sees(SourceDialog, "sourceDialog")
    assert page.findChild(QPushButton, "changeChoiceButton") is not None
    page.close()


def test_what_is_chosen_is_changed_later_and_says_what_that_changes(
    with_files: User, folder: Path, other: Path
) -> None:
    user = with_files
    user.asks_for("changeChoice")
    dialog = counted(user)
    assert not dialog.accept_button.isEnabled()
    dialog.add([str(other)])
    dialog.patterns.setPlainText("")
    dialog.caches.setChecked(True)
    assert dialog.changes.text.splitlines() == [
        f"Added: {other}.",
        "Not left out any more: *.tmp.",
        "Folders marked as caches are taken, too.",
    ]
    counted(user)
    user.clicks("choiceAccept")
    plan = user.sees(PlanDialog, "planDialog").plan
    assert plan.summary.endswith("the points that there are stay as they are.")
    user.agrees()
    user.sees_job_end("Change the files of docs")
    user.waits_until(lambda: user.window.entry and str(other) in str(user.window.entry.source))
    assert len(user.window.catalogue.entries) == 1
    user.backs_up(2)
    entry = user.window.entry
    assert entry is not None
    assert entry.points[1].type == "incremental"
    assert str(other) in facts(entry)["Folders and files"]


def test_what_need_not_be_kept_is_left_out_once_that_is_wanted(
    with_files: User, folder: Path
) -> None:
    user = with_files
    (folder / ".cache").mkdir()
    (folder / ".cache" / "pages").write_bytes(os.urandom(3 << 20))
    user.backs_up(2)
    user.asks_for("actionExplainSize")
    dialog = user.sees(SizeDialog, "sizeDialog")
    user.waits_until(lambda: rows(dialog.needless))
    assert rows(dialog.needless) == [
        [f"/p1{folder}/.cache", "3 MiB", "a cache: made again when it is needed"]
    ]
    user.clicks("leaveOutButton")
    choice = counted(user)
    assert choice.changes.text == f"Left out by now: {folder}/.cache."
    user.clicks("choiceAccept")
    user.agrees()
    user.sees_job_end("Change the files of docs")
    user.waits_until(lambda: user.window.entry and ".cache" in str(user.window.entry.source))
    dialog.close()


def test_files_come_back_to_where_they_were_once_it_is_said_what_is_replaced(
    with_files: User, folder: Path
) -> None:
    user = with_files
    (folder / "letter.txt").write_text("Dear nobody")
    shutil.rmtree(folder / "inner")
    user.asks_for("actionRestoreFiles")
    dialog = user.sees(RestoreFilesDialog, "restoreFilesDialog")
    assert dialog.origin_button.isChecked()
    dialog.overwrite_box.setChecked(True)
    user.clicks("restoreFilesAccept")
    plan = user.sees(PlanDialog, "planDialog").plan
    assert plan.replaces == (f"{folder}/letter.txt",)
    assert (folder / "letter.txt").read_text() == "Dear nobody"
    user.agrees()
    row = user.sees_job_end("Restore files of #1")
    assert row.sentence.startswith("2 files restored to where they came from.")
    assert (folder / "letter.txt").read_text() == "Dear all"
    assert (folder / "inner" / "large").stat().st_size == 900_000


def test_files_are_restored_into_a_folder(with_files: User, folder: Path, tmp_path: Path) -> None:
    user = with_files
    user.asks_for("actionRestoreFiles")
    dialog = user.sees(RestoreFilesDialog, "restoreFilesDialog")
    dialog.folder_button.setChecked(True)
    assert not dialog.accept_button.isEnabled()
    file = tmp_path / "a file"
    file.touch()
    dialog.target_edit.setText(str(file))
    user.clicks("restoreFilesAccept")
    user.waits_until(lambda: "is not a folder" in dialog.said.text)
    dialog.target_edit.setText(str(tmp_path / "back"))
    user.clicks("restoreFilesAccept")
    user.agrees()
    user.sees_job_end("Restore files of #1")
    assert Path(f"{tmp_path}/back{folder}/letter.txt").read_text() == "Dear all"


def test_of_a_disk_no_files_are_restored(with_source: User) -> None:
    with_source.waits_until(lambda: with_source.window.point)
    for name in ("actionRestoreFiles", "changeChoice"):
        assert not with_source.window.actions_[name].isVisible()


def test_folders_that_are_dropped_are_counted_and_offered(
    user: User, folder: Path, other: Path
) -> None:
    assert drop(user, folder, other)
    dialog = counted(user)
    assert dialog.said.text.startswith("7 files and folders")
    user.clicks("choiceAccept")
    form = user.sees(AddSourceDialog, "addSourceDialog").form
    wanted = Choice((str(folder), str(other)))
    assert form.source_edit.text() == str(file_choice.reference(wanted))
    user.sees(QDialog, "addSourceDialog").close()


def test_many_files_that_are_replaced_are_a_list_that_scrolls(qtbot: QtBot) -> None:
    names = tuple(f"/home/me/{number}" for number in range(100))
    dialog = PlanDialog("Restore?", "Restore", Plan("100 are replaced.", replaces=names))
    qtbot.addWidget(dialog)
    dialog.show()
    dialog.findChild(Fold).click()
    (listed,) = [each for each in dialog.findChildren(QPlainTextEdit) if each.isVisible()]
    assert listed.toPlainText().count("\n") == 99
    assert dialog.sizeHint().height() < 600
