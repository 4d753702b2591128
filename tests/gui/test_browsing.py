"""What the files' window says of a file system that was in use when it was backed up."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QDrag
from PySide6.QtWidgets import QTreeWidget

from tests.gui.user import User
from tests.recovery.mount.points import kill_all_behind
from tests.volumes.test_journals import in_use
from tests.volumes.volumes import MIB
from vdbackup.gui import dragging
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.parts import Notice
from vdbackup.gui.versions_dialog import VersionsDialog
from vdbackup.locations import Locations
from vdbackup.recovery.mount import mounting


@pytest.fixture
def disk(as_root: None, tmp_path: Path) -> Path:
    """Btrfs with something in its log, which is not applied."""
    return in_use(tmp_path, "btrfs", 128 * MIB)


def test_the_files_window_says_of_a_file_system_that_its_log_was_not_applied(
    with_source: User, tmp_path: Path
) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    notice = with_source.sees(Notice, "browseNotice")
    assert "was not applied" in notice.text
    assert "files that were changed shortly before may be missing" in notice.text
    assert not dialog.key_row.isVisible()  # nothing is encrypted
    (docs,) = dialog.tree.findItems("docs", Qt.MatchFlag.MatchExactly)
    docs.setSelected(True)
    dialog.extract(tmp_path / "out")
    row = with_source.sees_job_end("Extract")
    assert "was not applied" in row.sentence
    assert (tmp_path / "out" / "docs" / "new.txt").is_file()


def test_files_are_dragged_out_as_copies_that_go_with_the_window(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    dragged: list[list[Path]] = []

    class Drag(QDrag):
        def exec(self, *_: object) -> Qt.DropAction:
            urls = self.mimeData().urls()
            dragged.append([Path(url.toLocalFile()) for url in urls])
            return Qt.DropAction.CopyAction

    held = [Qt.MouseButton.LeftButton]
    monkeypatch.setattr(dragging, "QDrag", Drag)
    monkeypatch.setattr(dragging.QGuiApplication, "mouseButtons", lambda: held[0])
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    with_source.waits_until(
        lambda: dialog.tree.findItems("docs", Qt.MatchFlag.MatchExactly) and not dialog._looked_at
    )
    (docs,) = dialog.tree.findItems("docs", Qt.MatchFlag.MatchExactly)
    docs.setSelected(True)
    dialog.tree.startDrag(Qt.DropAction.CopyAction)
    with_source.waits_until(lambda: dragged)
    ((folder,),) = dragged
    assert folder.name == "docs"
    assert (folder / "new.txt").is_file()
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    dialog.tree.startDrag(Qt.DropAction.CopyAction)  # they are there already
    assert dragged[1] == dragged[0]
    docs.setSelected(False)
    other = next(
        item
        for row in range(dialog.tree.topLevelItemCount())
        if (item := dialog.tree.topLevelItem(row)) is not docs and not item.isDisabled()
    )
    other.setSelected(True)
    held[0] = Qt.MouseButton.NoButton  # let go before it was there
    dialog.tree.startDrag(Qt.DropAction.CopyAction)
    notice = dialog.findChild(Notice, "browseNotice")
    with_source.waits_until(lambda: notice.text == "It is copied: drag it once more.")
    assert len(dragged) == 2
    dialog.tree.startDrag(Qt.DropAction.CopyAction)
    assert len(dragged) == 3
    dialog.close()
    with_source.waits_until(lambda: not folder.parent.exists())


def test_a_point_is_mounted_as_a_folder_and_unmounted_with_the_window(
    with_source: User, locations: Locations
) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    with_source.clicks("mountButton")
    notice = with_source.sees(Notice, "folderNotice")
    (folder,) = (locations.data / "points").iterdir()
    assert str(folder) in notice.text
    assert "docs" in {path.name for path in folder.iterdir()}
    dialog.close()
    with_source.waits_until(lambda: not folder.exists())


def test_a_point_is_mounted_as_a_disk_which_is_the_one_that_was_backed_up(
    with_source: User, locations: Locations, disk: Path
) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    with_source.clicks("mountDiskButton")
    notice = with_source.sees(Notice, "folderNotice")
    (folder,) = (locations.data / "points").iterdir()
    assert str(folder) in notice.text
    assert [path.name for path in folder.iterdir()] == ["disk.raw"]
    assert filecmp.cmp(folder / "disk.raw", disk, shallow=False)
    assert not dialog.folder_bar.mount_button.isEnabled()
    with_source.clicks("unmountButton")
    with_source.waits_until(lambda: not folder.exists())
    assert dialog.folder_bar.disk_button.isEnabled()


def left_on_purpose(user: User, locations: Locations) -> Path:
    """A folder that shows a point, and stays when the window that it was asked of is closed."""
    user.asks_for("actionBrowse")
    dialog = user.sees(BrowseDialog, "browseDialog")
    user.clicks("mountButton")
    user.sees(Notice, "folderNotice")
    dialog.folder_bar.leave.setChecked(True)
    (folder,) = (locations.data / "points").iterdir()
    dialog.close()
    return folder


def test_a_folder_that_is_left_on_purpose_is_found_again(
    with_source: User, locations: Locations
) -> None:
    folder = left_on_purpose(with_source, locations)
    with_source.asks_for("actionBrowse")
    with_source.sees(Notice, "folderNotice")
    assert mounting.is_mounted(folder)
    with_source.clicks("unmountButton")
    with_source.waits_until(lambda: not folder.exists())


def test_a_folder_whose_process_was_killed_is_none_and_can_be_one_again(
    with_source: User, locations: Locations
) -> None:
    folder = left_on_purpose(with_source, locations)
    kill_all_behind(folder)
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    assert not dialog.folder_bar.isVisible()
    with_source.clicks("mountButton")
    with_source.sees(Notice, "folderNotice")
    assert "docs" in {path.name for path in folder.iterdir()}
    with_source.clicks("unmountButton")
    with_source.waits_until(lambda: not folder.exists())


def test_a_name_is_searched_in_the_whole_point(with_source: User) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    dialog.search_edit.setText("NEW")
    dialog.search_edit.returnPressed.emit()
    with_source.waits_until(lambda: texts(dialog.results) == ["/docs/new.txt"])
    dialog.results.topLevelItem(0).setSelected(True)
    assert dialog.chosen == ["/docs/new.txt"]
    assert dialog.extract_button.isEnabled()
    dialog.search_edit.setText("nothing of the kind")
    dialog.search_edit.returnPressed.emit()
    with_source.waits_until(lambda: texts(dialog.results) == ["No file or folder is called so."])
    assert dialog.chosen == []
    dialog.search_edit.clear()
    assert dialog.tree.isVisible()


def test_the_versions_of_a_file_are_shown_in_the_graph(with_source: User, disk: Path) -> None:
    with_source.backs_up(2)
    before = with_source.window.panel.selected
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    with_source.waits_until(lambda: "docs" in texts(dialog.tree))
    (docs,) = dialog.tree.findItems("docs", Qt.MatchFlag.MatchExactly)
    docs.setSelected(True)
    with_source.clicks("versionsButton")
    versions = with_source.sees(VersionsDialog, "versionsDialog")
    with_source.waits_until(lambda: texts(versions.list) == ["#1 to #2"])
    versions.list.topLevelItem(0).setSelected(True)
    with_source.waits_until(lambda: with_source.window.panel.selected != before)
    with_source.clicks("versionFiles")
    shown = [each for each in with_source.window.findChildren(BrowseDialog) if each.isVisible()]
    assert sorted(each.windowTitle().split(",")[0][-2:] for each in shown) == ["#1", "#2"]


def texts(tree: QTreeWidget) -> list[str]:
    return [tree.topLevelItem(row).text(0) for row in range(tree.topLevelItemCount())]
