"""A file is found by its name in all points of a source, and in the graph."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from tests.gui.test_changes_dialog import rows
from tests.gui.user import User
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.find_dialog import FindDialog
from vdbackup.gui.versions_dialog import VersionsDialog
from vdbackup.sources import demo_disk


def test_a_file_that_is_gone_is_found_in_the_points_that_have_it(
    with_source: User, disk: Path, qtbot: QtBot
) -> None:
    user = with_source
    demo_disk.change(disk, "day 2", {"LETTER.TXT": b"first"})
    user.backs_up(2)
    demo_disk.change(disk, "day 3", {"LETTER.TXT": b"a longer one"})
    user.backs_up(3)
    user.asks_for("findFile")
    dialog = user.sees(FindDialog, "findDialog")
    search = dialog.findChild(QPushButton, "findButton")
    assert not search.isEnabled()
    qtbot.keyClicks(dialog.field, "letter.*")
    qtbot.keyClick(dialog.field, Qt.Key.Key_Return)
    user.waits_until(lambda: rows(dialog.list))
    found = [(row[0], row[1], row[3]) for row in rows(dialog.list)]
    assert found == [("/p1/LETTER.TXT", "5 bytes", "#2"), ("/p1/LETTER.TXT", "12 bytes", "#3")]
    assert dialog.said.text() == "2 found."
    dialog.list.topLevelItem(0).setSelected(True)
    user.waits_until(lambda: user.window.point.sequence == 2)
    user.clicks("foundVersions")
    user.sees(VersionsDialog, "versionsDialog").close()
    user.clicks("foundFiles")
    user.sees(BrowseDialog, "browseDialog").close()
    dialog.field.setText("nothing like that")
    user.clicks("findButton")
    user.waits_until(lambda: dialog.said.text() == "No file in the points has such a name.")
    dialog.close()
