"""Several points are picked as in any list, in the graph and in the table, and are one choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QComboBox, QLabel
from pytestqt.qtbot import QtBot

from tests.gui.points import many
from tests.gui.user import User, move_mouse
from vdbackup.gui.changes_dialog import DifferencesDialog
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.theme import LIGHT
from vdbackup.gui.timeline.timeline import Timeline
from vdbackup.sources import demo_disk

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
KEY = Qt.Key


@pytest.fixture
def timeline(qtbot: QtBot) -> Timeline:
    timeline = Timeline(LIGHT)
    qtbot.addWidget(timeline)
    timeline.resize(900, 400)
    timeline.show()
    qtbot.waitExposed(timeline)
    timeline.set_points(many(6))
    return timeline


def picked(timeline: Timeline) -> list[int]:
    numbers = {point.id: point.sequence for point in timeline.points}
    return [numbers[each] for each in timeline.chosen]


def test_without_any_picked_the_cursors_point_is_chosen(timeline: Timeline, qtbot: QtBot) -> None:
    assert picked(timeline) == [6]
    qtbot.keyClick(timeline, KEY.Key_Left)
    assert picked(timeline) == [5]


def test_shift_and_arrows_pick_all_on_the_way_and_back(timeline: Timeline, qtbot: QtBot) -> None:
    for _ in range(3):
        qtbot.keyClick(timeline, KEY.Key_Left, SHIFT)
    assert picked(timeline) == [3, 4, 5, 6]
    qtbot.keyClick(timeline, KEY.Key_Right, SHIFT)
    assert picked(timeline) == [4, 5, 6]
    qtbot.keyClick(timeline, KEY.Key_Home, SHIFT)
    assert picked(timeline) == [1, 2, 3, 4, 5, 6]
    qtbot.keyClick(timeline, KEY.Key_Right)  # as in any list, that is over then
    assert picked(timeline) == [2]


def test_ctrl_picks_what_lies_apart(timeline: Timeline, qtbot: QtBot) -> None:
    for _ in range(2):
        qtbot.keyClick(timeline, KEY.Key_Left, CTRL)
    assert picked(timeline) == [6]
    qtbot.keyClick(timeline, KEY.Key_Space, CTRL)
    assert picked(timeline) == [4, 6]
    assert "picked" in timeline.hint(3)
    assert "picked" not in timeline.hint(4)
    qtbot.keyClick(timeline, KEY.Key_Escape)
    assert picked(timeline) == [4]
    qtbot.keyClick(timeline, KEY.Key_A, CTRL)
    assert picked(timeline) == [1, 2, 3, 4, 5, 6]


def test_the_mouse_picks_by_ctrl_and_by_shift_and_still_pans(
    timeline: Timeline, qtbot: QtBot
) -> None:
    viewport, left = timeline.viewport(), Qt.MouseButton.LeftButton

    def at(index: int) -> QPoint:
        return timeline.place_of(index).toPoint()

    qtbot.mouseClick(viewport, left, pos=at(1))
    qtbot.mouseClick(viewport, left, CTRL, at(3))
    assert picked(timeline) == [2, 4]
    qtbot.mouseClick(viewport, left, CTRL, at(3))
    assert picked(timeline) == [2]
    qtbot.mouseClick(viewport, left, pos=at(1))
    qtbot.mouseClick(viewport, left, SHIFT, at(4))
    assert picked(timeline) == [2, 3, 4, 5]
    qtbot.mousePress(viewport, left, SHIFT, at(2))
    move_mouse(viewport, at(2) + QPoint(80, 0))
    qtbot.mouseRelease(viewport, left, SHIFT, at(2) + QPoint(80, 0))
    assert picked(timeline) == [2, 3, 4, 5]


def test_what_is_picked_is_seen(timeline: Timeline, qtbot: QtBot) -> None:
    before = timeline.viewport().grab().toImage()
    qtbot.keyClick(timeline, KEY.Key_Left, SHIFT)
    qtbot.keyClick(timeline, KEY.Key_Left, SHIFT)
    after = timeline.viewport().grab().toImage()
    at = timeline.place_of(4) + QPoint(0, -int(timeline.radius_of(4)) - 4)
    assert before.pixelColor(at.toPoint()) != after.pixelColor(at.toPoint())


def test_points_that_are_gone_are_picked_no_more(timeline: Timeline) -> None:
    points = timeline.points
    timeline.pick([points[1].id, points[3].id, points[4].id])
    timeline.set_points([*points[:3], *points[4:]], same_set=True)
    assert picked(timeline) == [2, 5]
    timeline.set_points(many(6))
    assert len(timeline.chosen) == 1


# in the window


@pytest.fixture
def user(with_source: User, disk: Path) -> User:
    for count in range(2, 6):
        demo_disk.change(disk, f"state {count}", {f"F{count}.TXT": bytes([count]) * 5000 * count})
        with_source.backs_up(count)
    return with_source


def shows(user: User) -> list[int]:
    return [each.sequence for each in user.window.chosen.points]


def test_a_range_is_merged_by_the_keyboard_once_its_amount_was_said(user: User) -> None:
    user._bot.keyClick(user.window.panel.timeline, KEY.Key_Left, SHIFT)
    user._bot.keyClick(user.window.panel.timeline, KEY.Key_Left, SHIFT)
    assert shows(user) == [3, 4, 5]
    assert user.window.panel.findChild(QLabel, "pickedPoints").text().startswith("3 points picked")
    assert user.window.actions_["actionMerge"].text() == "Merge 3 points"
    user.asks_for("actionMerge")
    dialog = user.sees(PlanDialog, "planDialog")
    said = " ".join(label.text() for label in dialog.findChildren(QLabel))
    assert "Points 3 to 5, 3 of them, are rolled into one" in said
    assert "No longer there afterwards: point 3, point 4." in said
    points = user.window.entry.points
    if "copied into" in said:
        size = sum(point.stored_bytes for point in points[3:]) >> 10
        assert f"At most {size} KiB will be read or written." in said
    user.agrees()
    user.reads("Merged: point #5 now holds what the 2 points before it held.")
    user.sees_points(3)
    assert [each.sequence for each in user.window.entry.points] == [1, 2, 5]
    assert user.window.actions_["actionMerge"].text() == "Merge"


def test_several_are_deleted_from_the_table(user: User) -> None:
    window = user.window
    window.panel.show_table()
    table = window.panel.table
    for row, held in ((1, Qt.KeyboardModifier.NoModifier), (3, CTRL)):
        place = table.visualRect(table.model().index(row, 1)).center()
        user._bot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, held, place)
    assert shows(user) == [2, 4]  # the newest stands first
    assert window.point.sequence == 2
    rows = {index.row() for index in table.selectionModel().selectedRows()}
    assert rows == {1, 3}
    assert window.actions_["actionDelete"].text() == "Delete 2 points"
    assert window.actions_["actionDelete"].iconText() == "Delete"
    user.asks_for("actionDelete")
    user.agrees()
    user.reads("Deleted: point 2, point 4.")
    user.sees_points(3)
    assert [each.sequence for each in window.entry.points] == [1, 3, 5]


def test_the_table_picks_by_the_keyboard_and_the_graph_follows(user: User) -> None:
    window = user.window
    window.panel.show_table()
    table = window.panel.table
    table.setFocus()
    user._bot.keyClick(table, KEY.Key_Down, SHIFT)
    user._bot.keyClick(table, KEY.Key_Down, SHIFT)
    assert shows(user) == [3, 4, 5]
    window.panel.show_table(False)
    assert len(window.panel.timeline.chosen) == 3
    user.presses(KEY.Key_Left)
    assert shows(user) == []
    assert {index.row() for index in table.selectionModel().selectedRows()} == {3}


def test_two_are_compared_with_each_other(user: User) -> None:
    timeline = user.window.panel.timeline
    points = user.window.entry.points
    timeline.pick([points[0].id, points[3].id])
    user.asks_for("actionCompare")
    dialog = user.sees(DifferencesDialog, "differencesDialog")
    assert dialog.windowTitle().startswith("What differs between point #4 of laptop")
    assert dialog.findChild(QComboBox, "otherPoint").currentData() == points[0].id
    dialog.close()
    timeline.pick([point.id for point in points[:3]])
    assert not user.window.actions_["actionCompare"].isEnabled()


def test_all_that_are_picked_are_verified_at_once(user: User) -> None:
    points = user.window.entry.points
    user.window.panel.timeline.pick([points[1].id, points[2].id])
    user.asks_for("actionVerify")
    user.reads("2 points verified: all data is as it was captured.")


def test_no_range_is_said_and_nothing_done(user: User, disk: Path) -> None:
    user.window.backups.back_up(user.window.entry, "differential")
    user.agrees()
    user.sees_points(6)
    points = user.window.entry.points
    user.window.panel.timeline.pick([points[3].id, points[5].id])
    user.asks_for("actionMerge")
    user.reads("Point 6 does not read through point 4: they are no range.")
