"""The menu bar, the menus that the right mouse button brings, and help."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QUrl
from PySide6.QtGui import QAction, QContextMenuEvent, QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QApplication, QMenu, QWidget

from tests.gui.user import User
from vdbackup import __version__
from vdbackup.gui import help_dialogs, parts
from vdbackup.gui.actions import ACTIONS
from vdbackup.gui.help_dialogs import AboutDialog, ManualDialog, ShortcutsDialog
from vdbackup.repository.repository import Repository


def in_menus(menu: QMenu) -> list[QAction]:
    """What a menu holds, and the menus in it."""
    found = []
    for action in menu.actions():
        inside = action.menu()
        found += [action, *(in_menus(inside) if isinstance(inside, QMenu) else [])]
    return found


def ask_for_menu(widget: QWidget, at: QPoint, how: QContextMenuEvent.Reason) -> None:
    event = QContextMenuEvent(how, at, widget.mapToGlobal(at))
    QApplication.sendEvent(widget, event)


def test_the_menu_bar_has_every_action(user: User) -> None:
    bar = user.window.menus
    there = {action for title in bar.actions() for action in in_menus(title.menu())}
    made = user.window.actions_
    assert {name for name, action in made._made.items() if action not in there} == set()


def test_no_two_actions_have_the_same_keys() -> None:
    keys = [each.keys for each in ACTIONS]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("how", [QContextMenuEvent.Reason.Mouse, QContextMenuEvent.Reason.Keyboard])
def test_a_point_of_the_timeline_offers_what_can_be_done_to_it(
    with_source: User, how: QContextMenuEvent.Reason
) -> None:
    timeline = with_source.window.panel.timeline
    ask_for_menu(timeline.viewport(), timeline.place_of(0).toPoint(), how)
    menu = with_source.window.menus.point
    assert menu.isVisible()
    offered = [action.objectName() for action in menu.actions() if action.isVisible()]
    assert "actionPin" in offered
    assert "actionUnpin" not in offered
    assert with_source.window.actions_["actionBrowse"] in menu.actions()
    menu.close()


def test_beside_the_points_nothing_is_offered(with_source: User) -> None:
    timeline = with_source.window.panel.timeline
    aside = timeline.place_of(0).toPoint() + QPoint(-200, 60)
    ask_for_menu(timeline.viewport(), aside, QContextMenuEvent.Reason.Mouse)
    assert not with_source.window.menus.point.isVisible()


def test_the_table_and_the_list_of_sources_offer_the_same(with_source: User) -> None:
    window = with_source.window
    window.panel.show_table()
    by_key = QContextMenuEvent.Reason.Keyboard
    for widget, menu in (
        (window.panel.table.viewport(), window.menus.point),
        (window.sources.viewport(), window.menus.source),
    ):
        ask_for_menu(widget, QPoint(5, 5), by_key)
        assert menu.isVisible()
        menu.close()


def test_ids_and_paths_can_be_copied(with_source: User, disk: Path) -> None:
    clipboard = QGuiApplication.clipboard()
    with_source.asks_for("copySource")
    assert clipboard.text() == str(disk)
    with_source.asks_for("actionCopyId")
    assert clipboard.text() == with_source.window.panel.selected


def test_files_and_folders_are_shown_in_the_file_manager(
    with_source: User, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(
        QDesktopServices, "openUrl", lambda url: opened.append(Path(url.toLocalFile()))
    )
    with_source.asks_for("showRepository")
    with_source.asks_for("actionShowDisk")  # there is no file manager to choose it
    with_source.waits_until(lambda: len(opened) == 2)
    assert opened == [repository, Repository.open(repository).set().folder]


def test_f1_opens_the_manual_which_follows_its_links(user: User) -> None:
    user.window.activateWindow()
    user.window.setFocus()
    user.asks_for("actionManual")
    dialog = user.sees(ManualDialog, "manualDialog")
    assert dialog.pages.count() == len(help_dialogs.manual_pages()) > 10
    titles = [dialog.pages.item(row).text() for row in range(dialog.pages.count())]
    assert "Booting a point" in titles
    for row in range(dialog.pages.count()):
        dialog.pages.setCurrentRow(row)
        assert dialog.text.toPlainText().startswith(titles[row])
    page = dialog.text.source()
    other = QUrl(page)
    other.setPath(str(Path(page.toLocalFile()).with_name("booting.md")))
    dialog.text.anchorClicked.emit(other)
    assert dialog.pages.currentItem().text() == "Booting a point"
    dialog.close()


def test_the_shortcuts_are_those_of_the_actions(user: User) -> None:
    user.asks_for("actionShortcuts")
    dialog = user.sees(ShortcutsDialog, "shortcutsDialog")
    said = {each.text() for each in dialog.findChildren(parts.Label)}
    assert {each.text for each in ACTIONS} <= said
    assert {each.keys for each in ACTIONS if each.keys.startswith("Ctrl+")} <= {
        text.replace("Del", "Delete") for text in said
    }
    dialog.close()


def test_about_says_which_version_this_is(user: User) -> None:
    user.asks_for("actionAbout")
    dialog = user.sees(AboutDialog, "aboutDialog")
    said = " ".join(each.text() for each in dialog.findChildren(parts.Label))
    assert f"vdbackup {__version__}" in said
    assert "GNU General Public License" in said
    dialog.close()


def test_ctrl_q_closes_the_window(user: User) -> None:
    assert user.window.actions_["actionQuit"].shortcut().toString() == "Ctrl+Q"
    user.asks_for("actionQuit")
    user.waits_until(lambda: not user.window.isVisible())
