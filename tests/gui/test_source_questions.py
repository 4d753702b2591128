"""What only the user knows of a source is asked in the window, and kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog
from pytestqt.qtbot import QtBot

from tests.gui.user import User
from tests.sources.opened import open_path
from vdbackup.gui.source_questions import FormatDialog, OtherSourceDialog
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk


@pytest.fixture
def cloud_image(disk: Path, tmp_path: Path) -> Path:
    """A QCOW2 disk in a file that is called .img."""
    image = tmp_path / "cloud.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], check=True)
    return image


@pytest.fixture
def asked(user: User, cloud_image: Path, repository: Path) -> User:
    """Somebody who is asked what the disk is that they want to back up."""
    user.window.first_run.form.source_edit.setText(str(cloud_image))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.sees(FormatDialog, "formatQuestion")
    return user


def newest(repository: Path, name: str) -> bytes:
    """What the newest point of a set holds."""
    backup_set = Repository.open(repository).set(name)
    with backup_set.open_chain(backup_set.points[-1]) as chain:
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
        return bytes(data)


def held(path: Path, said: str) -> bytes:
    with open_path(path, said=said) as source:
        data = bytearray(source.size)
        source.readinto(0, memoryview(data))
        return bytes(data)


@pytest.mark.parametrize("answer", ["qcow2", "raw"])
def test_what_a_source_is_is_asked_once_and_kept(
    asked: User, answer: str, cloud_image: Path, repository: Path
) -> None:
    asked.agrees("formatQuestion", f"choose-{answer}")
    asked.agrees()
    asked.sees_points(1)
    assert newest(repository, "cloud") == held(cloud_image, answer)
    asked.backs_up(2)
    assert newest(repository, "cloud") == held(cloud_image, answer)
    assert Repository.open(repository).set("cloud").settings.source_format == answer


def test_enter_backs_nothing_up_where_it_is_not_said_what_a_source_is(
    asked: User, repository: Path, qtbot: QtBot
) -> None:
    question = asked.sees(FormatDialog, "formatQuestion")
    qtbot.keyClick(question, Qt.Key.Key_Return)
    asked.waits_until(lambda: not question.isVisible())
    form = asked.window.first_run.form
    assert "begins as a QCOW2 disk" in form.refusal.text
    assert form.start_button.isEnabled()
    assert not repository.exists()


@pytest.fixture
def replaced(with_source: User, disk: Path, tmp_path: Path) -> User:
    """Somebody whose disk is another one in another file, while the set is named."""
    user = with_source
    demo_disk.create(tmp_path / "other.img", "another disk")
    disk.unlink()
    shutil.copy(tmp_path / "other.img", disk)
    return user


def test_another_disk_is_shown_beside_the_known_one_and_gets_a_set_of_its_own(
    replaced: User, disk: Path, repository: Path, qtbot: QtBot
) -> None:
    before = newest(repository, "laptop")
    replaced.asks_for("actionBackUp")
    question = replaced.sees(OtherSourceDialog, "otherSourceQuestion")
    qtbot.keyClick(question, Qt.Key.Key_Return)
    replaced.agrees()
    replaced.sees_job_end("Back up")
    names = [each.name for each in Repository.open(repository).sets()]
    assert len(names) == 2
    assert newest(repository, "laptop") == before
    (other,) = set(names) - {"laptop"}
    assert newest(repository, other) == disk.read_bytes()


def test_another_disk_goes_on_in_the_set_where_the_user_says_so(
    replaced: User, disk: Path, repository: Path
) -> None:
    replaced.asks_for("actionBackUp")
    replaced.agrees("otherSourceQuestion", "sameSource")
    question = replaced.sees(QDialog, "planDialog")
    assert "no older points are merged or deleted" in question.plan.summary
    replaced.agrees()
    replaced.sees_points(2)
    assert newest(repository, "laptop") == disk.read_bytes()


def test_a_question_that_is_turned_away_leaves_everything_as_it_was(
    replaced: User, repository: Path
) -> None:
    before = newest(repository, "laptop")
    replaced.asks_for("actionBackUp")
    replaced.agrees("otherSourceQuestion", "cancelButton")
    (only,) = Repository.open(repository).sets()
    assert len(only.points) == 1
    assert newest(repository, "laptop") == before


def test_without_the_question_before_a_backup_what_a_source_is_is_asked_all_the_same(
    replaced: User, repository: Path
) -> None:
    replaced.window.store.change(ask_before_backup=False)
    replaced.asks_for("actionBackUp")
    replaced.agrees("otherSourceQuestion", "ownSet")
    replaced.waits_until(lambda: len(Repository.open(repository).sets()) == 2)
    replaced.waits_until(lambda: not replaced.window.busy)


def test_two_sets_of_one_path_can_both_be_chosen(replaced: User, repository: Path) -> None:
    replaced.asks_for("actionBackUp")
    replaced.agrees("otherSourceQuestion", "ownSet")
    replaced.agrees()
    sources = replaced.window.sources
    replaced.waits_until(lambda: sources.count() == 2)
    for row in range(2):
        sources.setCurrentRow(row)
        wanted = sources.entry
        assert wanted is not None
        replaced.window.catalogue.refresh(repository)
        replaced.waits_until(lambda: not replaced.window.catalogue.loading)
        assert sources.entry is not None
        assert sources.entry.key == wanted.key
