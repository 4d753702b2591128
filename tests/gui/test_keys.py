"""What is encrypted in a point is read in the files' window, once its key is typed there."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit

from tests.gui.user import User
from tests.volumes import luks, volumes
from tests.volumes.volumes import MIB
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.changes_dialog import SizeDialog
from vdbackup.gui.parts import Notice
from vdbackup.gui.versions_dialog import VersionsDialog
from vdbackup.locations import Locations

KEY = "viel größer"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A partition that anybody can read, and an encrypted one."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "letter.txt").write_text("Dear all")
    plain, image = tmp_path / "plain", tmp_path / "disk.img"
    volumes.blank(plain, 8 * MIB)
    volumes.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "tree", plain)
    luks.luks2(plain, tmp_path / "luks", KEY.encode(), *luks.PBKDF2)
    size = (tmp_path / "luks").stat().st_size
    volumes.blank(image, 12 * MIB + size)
    volumes.partition(image, f"label: gpt\nsize={8 * MIB // 512}\nsize={size // 512}\n")
    with image.open("r+b") as file:
        for at, part in ((MIB, plain), (9 * MIB, tmp_path / "luks")):
            file.seek(at)
            file.write(part.read_bytes())
    return image


def test_the_key_is_typed_once_and_opens_list_copy_and_folder(
    with_source: User, tmp_path: Path, locations: Locations
) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    edit = with_source.sees(QLineEdit, "keyEdit")
    assert edit.echoMode() == QLineEdit.EchoMode.Password
    edit.setText("viel kleiner")
    with_source.clicks("unlockButton")
    notice = with_source.sees(Notice, "browseNotice")
    assert "does not open" in notice.text
    assert not edit.text()
    edit.setText(KEY)
    with_source.clicks("unlockButton")
    with_source.waits_until(lambda: not dialog.key_row.isVisible())
    assert not notice.isVisible()
    with_source.waits_until(lambda: dialog.tree.topLevelItemCount() == 2)
    (part,) = dialog.tree.findItems("p2 (ext4)", Qt.MatchFlag.MatchExactly)
    part.setSelected(True)
    dialog.extract(tmp_path / "out")
    with_source.sees_job_end("Extract")
    assert (tmp_path / "out" / "p2" / "letter.txt").read_text() == "Dear all"
    with_source.clicks("mountButton")
    with_source.sees(Notice, "folderNotice")
    (folder,) = (locations.data / "points").iterdir()
    assert (folder / "p2" / "letter.txt").read_text() == "Dear all"
    dialog.close()
    with_source.waits_until(lambda: not folder.exists())


def searched(user: User) -> BrowseDialog:
    """The files' window, in which the letter was looked for once its key was typed."""
    user.asks_for("actionBrowse")
    dialog = user.sees(BrowseDialog, "browseDialog")
    user.sees(QLineEdit, "keyEdit").setText(KEY)
    user.clicks("unlockButton")
    user.waits_until(lambda: not dialog.key_row.isVisible())
    dialog.search_edit.setText("letter")
    dialog.search_edit.returnPressed.emit()
    user.waits_until(lambda: dialog.results.topLevelItemCount() == 2)
    return dialog


def test_a_search_looks_into_what_was_opened(with_source: User) -> None:
    found = searched(with_source).results.findItems("/p2/letter.txt", Qt.MatchFlag.MatchExactly)
    assert len(found) == 1


def test_what_makes_a_point_large_is_told_with_the_key(with_source: User) -> None:
    with_source.asks_for("actionExplainSize")
    dialog = with_source.sees(SizeDialog, "sizeDialog")
    with_source.waits_until(dialog.key_row.isVisible)
    assert "encrypted with LUKS" in with_source.sees(Notice, "changesNotice").text
    dialog.key_row.edit.setText("viel kleiner")
    dialog.key_row.button.click()
    notice = with_source.sees(Notice, "changesNotice")
    with_source.waits_until(lambda: "does not open" in notice.text)
    dialog.key_row.edit.setText(KEY)
    dialog.key_row.button.click()
    with_source.waits_until(lambda: not dialog.key_row.isVisible())
    (part,) = dialog.list.findItems("p2", Qt.MatchFlag.MatchExactly)
    names = {part.child(row).text(0) for row in range(part.childCount())}
    assert "letter.txt" in names


def test_versions_are_told_with_the_key_that_opened_the_files(with_source: User) -> None:
    with_source.backs_up(2)
    dialog = searched(with_source)
    (found,) = dialog.results.findItems("/p2/letter.txt", Qt.MatchFlag.MatchExactly)
    found.setSelected(True)
    with_source.clicks("versionsButton")
    versions = with_source.sees(VersionsDialog, "versionsDialog")
    with_source.waits_until(lambda: versions.list.topLevelItemCount() == 1)
    with_source.waits_until(lambda: versions.list.topLevelItem(0).text(2) == "8 bytes")
    assert not versions.key_row.isVisible()
