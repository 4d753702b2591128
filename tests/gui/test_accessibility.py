"""What a screen reader and the keyboard find: names and roles in every view, and all in reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible, QAccessibleInterface
from PySide6.QtWidgets import QApplication, QScrollArea, QWidget
from pytestqt.qtbot import QtBot

from tests.gui.every_dialog import each_dialog, kinds
from tests.gui.user import User

ROLE = QAccessible.Role
FOR_LAYOUT = {ROLE.Client, ROLE.Pane, ROLE.Window, ROLE.Splitter, ROLE.LayeredPane, ROLE.Grouping}
FOR_LAYOUT |= {ROLE.Separator, ROLE.Grip, ROLE.ScrollBar, ROLE.Border, ROLE.Whitespace}
FOR_LAYOUT |= {ROLE.Cell, ROLE.Row, ROLE.Column, ROLE.Indicator}


def heard(widget: QWidget) -> Iterator[tuple[QAccessibleInterface, QWidget]]:
    """What a screen reader finds of a window: what each visible widget in it says of itself."""
    for each in [widget, *widget.findChildren(QWidget)]:
        ours = not each.objectName().startswith("qt_")
        if each.isVisible() and each.window() is widget and ours:
            found = QAccessible.queryAccessibleInterface(each)
            if found is not None and found.isValid():
                yield found, each


def nameless(widget: QWidget) -> list[str]:
    """What can be used, or has the keyboard, and does not say what it is."""
    return [
        f"{each.metaObject().className()} {each.objectName()!r}: {found.role()}"
        for found, each in heard(widget)
        if (found.role() not in FOR_LAYOUT or takes_keyboard(each))
        and found.role() != ROLE.StaticText
        and not found.text(QAccessible.Text.Name).strip()
        and each.focusProxy() is None
        and each.parentWidget() is not None
        and each.parentWidget().focusProxy() is not each
    ]


def takes_keyboard(widget: QWidget) -> bool:
    return widget.isEnabled() and bool(widget.focusPolicy() & Qt.FocusPolicy.TabFocus)


def without_role(widget: QWidget) -> list[str]:
    """What has the keyboard, and is for a screen reader nothing that one uses."""
    return [
        f"{each.metaObject().className()} {each.objectName()!r}"
        for found, each in heard(widget)
        if takes_keyboard(each)
        and each.focusProxy() is None
        and not isinstance(each, QScrollArea)  # the keyboard scrolls it
        and found.role() in {ROLE.NoRole, ROLE.Client, ROLE.Whitespace}
    ]


def out_of_reach(window: QWidget, bot: QtBot) -> set[str]:
    """What takes the keyboard, and never gets it however often Tab is pressed."""
    wanted = {each for _, each in heard(window) if takes_keyboard(each) and not each.focusProxy()}
    window.activateWindow()
    current = window.focusWidget() or window
    for _ in range(3 * len(wanted) + 10):
        wanted.discard(current)
        bot.keyClick(current, Qt.Key.Key_Tab)
        current = window.focusWidget() or window
    return {f"{each.metaObject().className()} {each.objectName()!r}" for each in wanted}


def test_the_first_page_says_what_everything_is(user: User) -> None:
    assert "; ".join(nameless(user.window)) == ""
    assert "; ".join(without_role(user.window)) == ""


@pytest.mark.parametrize("table", [False, True])
def test_the_window_says_what_everything_is(with_source: User, table: bool) -> None:
    with_source.window.panel.show_table(table)
    assert "; ".join(nameless(with_source.window)) == ""
    assert "; ".join(without_role(with_source.window)) == ""


@pytest.fixture
def of_two_points(with_source: User) -> User:
    with_source.backs_up(2)
    return with_source


def test_every_dialog_says_what_everything_is_and_lets_the_keyboard_reach_it(
    of_two_points: User, qtbot: QtBot
) -> None:
    wrong, walked = {}, set()
    for name, dialog in each_dialog(of_two_points):
        QApplication.processEvents()
        walked.add(type(dialog))
        found = (nameless(dialog), without_role(dialog), out_of_reach(dialog, qtbot))
        if any(found):
            wrong[name] = found
    assert wrong == {}
    assert walked >= kinds(), "each dialog of ours is one of them"


def test_every_dialog_fits_on_a_small_screen(of_two_points: User) -> None:
    """Of 800 by 600 pixels, with a title above it."""
    large = {}
    for name, dialog in each_dialog(of_two_points):
        least = dialog.minimumSizeHint().expandedTo(dialog.minimumSize())
        if least.width() > 800 or least.height() > 560:
            large[name] = least
    assert large == {}
