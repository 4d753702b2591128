"""The timeline by itself: where points stand, what the cursor does, and that it can be drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QAccessible, QAccessibleInterface, QColor, QImage, QWheelEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from tests.gui.points import HOUR, chain, many, point
from tests.gui.user import move_mouse
from vdbackup.gui import theme
from vdbackup.gui.timeline.glyphs import Glyphs
from vdbackup.gui.timeline.layout import Layout, arrange
from vdbackup.gui.timeline.timeline import Timeline
from vdbackup.repository.model import RecoveryPoint

# where points stand


def lanes(points: Sequence[RecoveryPoint]) -> list[int]:
    return arrange(points).lane.tolist()


def test_a_chain_stays_in_one_lane() -> None:
    assert lanes(chain(5)) == [0, 0, 0, 0, 0]


def test_a_differential_stands_below_the_chain_that_goes_on() -> None:
    points = [point(1), point(2, 1), point(3, 1, kind="differential"), point(4, 2)]
    assert lanes(points) == [0, 0, 1, 0]


def test_differentials_share_a_lane() -> None:
    points = [point(1), *(point(i, 1, kind="differential") for i in range(2, 6))]
    assert lanes(points) == [0, 1, 1, 1, 1]


def test_a_second_chain_from_one_parent_gets_a_lane_of_its_own() -> None:
    points = [point(1), point(2, 1), point(3, 1), point(4, 2), point(5, 3)]
    assert lanes(points) == [0, 0, 1, 0, 1]


def test_a_new_full_begins_in_the_first_lane_that_is_free() -> None:
    assert lanes([point(1), point(2, 1), point(3), point(4, 3)]) == [0, 0, 0, 0]
    assert lanes([point(1), point(2), point(3, 1)]) == [0, 1, 0]


def test_the_order_is_the_sequence_even_when_the_clock_was_set_back() -> None:
    layout = arrange([point(1, hours=9), point(2, 1, hours=3), point(3, 2, hours=4)])
    assert all(layout.x[1:] > layout.x[:-1])


def test_points_seconds_apart_are_a_whole_step_apart() -> None:
    layout = arrange([point(i, None, hours=i / 3600 if i < 3 else i) for i in range(1, 9)])
    assert min(layout.x[1:] - layout.x[:-1]) > 0.999


def test_a_long_pause_is_wider_than_a_step_but_not_as_long_as_it_lasted() -> None:
    layout = arrange([*chain(10), point(11, 10, hours=10 + 24 * 9)])
    assert 1.5 < layout.x[10] - layout.x[9] <= 2.5


def test_the_way_down_to_the_full_is_a_line_for_each_lane() -> None:
    layout = arrange([*chain(100), point(101, 50), point(102, 101)])
    assert layout.chain(101) == [(101, 100), (100, 49), (49, 0)]


@pytest.mark.parametrize(("x", "index"), [(-5, 0), (0.4, 0), (0.6, 1), (99, 3)])
def test_the_nearest_point_is_found(x: float, index: int) -> None:
    assert arrange(chain(4)).nearest(x) == index


def test_no_points_have_no_nearest() -> None:
    assert arrange(()).nearest(0.0) == -1


def test_the_last_day_begins_with_the_first_point_in_it() -> None:
    layout: Layout = arrange(chain(48))
    assert layout.since(24 * HOUR) == 47 - 24


# the widget


@pytest.fixture
def timeline(qtbot: QtBot) -> Timeline:
    widget = Timeline(theme.LIGHT)
    widget.animated = False
    widget.resize(800, 440)
    qtbot.addWidget(widget)
    widget.show()
    qtbot.waitExposed(widget)
    return widget


def test_the_cursor_begins_at_the_newest_point(timeline: Timeline, qtbot: QtBot) -> None:
    with qtbot.waitSignal(timeline.point_selected) as heard:
        timeline.set_points(chain(5))
    assert heard.args == ["5"]


def test_a_click_selects_the_point_under_it_also_in_a_lower_lane(
    timeline: Timeline, qtbot: QtBot
) -> None:
    timeline.set_points([*chain(3), point(4, 1, kind="differential")])
    for index in (1, 3, 0):
        at = timeline.place_of(index).toPoint()
        qtbot.mouseClick(timeline.viewport(), Qt.MouseButton.LeftButton, pos=at)
        assert timeline.selected == timeline.points[index].id


def test_a_drag_passes_every_point(timeline: Timeline, qtbot: QtBot) -> None:
    timeline.set_points(chain(30))
    heard: list[str] = []
    timeline.point_selected.connect(heard.append)
    start, end = (timeline.place_of(index).toPoint() for index in (29, 0))
    qtbot.mousePress(timeline.viewport(), Qt.MouseButton.LeftButton, pos=start)
    for x in range(start.x(), end.x() - 1, -2):
        move_mouse(timeline.viewport(), QPoint(x, 5))
    qtbot.mouseRelease(timeline.viewport(), Qt.MouseButton.LeftButton, pos=end)
    assert heard == [str(i) for i in range(29, 0, -1)]


@pytest.mark.parametrize(
    ("key", "selected"),
    [
        (Qt.Key.Key_Left, "4"),
        (Qt.Key.Key_Home, "1"),
        (Qt.Key.Key_PageUp, "1"),
        (Qt.Key.Key_Right, "5"),
        (Qt.Key.Key_Down, "3"),
        (Qt.Key.Key_Up, "5"),
    ],
)
def test_keys_move_the_cursor(timeline: Timeline, qtbot: QtBot, key: Qt.Key, selected: str) -> None:
    timeline.set_points(
        [point(1), point(2, 1), point(3, 1, kind="differential"), point(4, 2), point(5, 4)]
    )
    qtbot.keyClick(timeline, key)
    assert timeline.selected == selected


def test_return_boots(timeline: Timeline, qtbot: QtBot) -> None:
    timeline.set_points(chain(2))
    with qtbot.waitSignal(timeline.point_activated) as heard:
        qtbot.keyClick(timeline, Qt.Key.Key_Return)
    assert heard.args == ["2"]


def test_who_cannot_see_the_graph_is_told_of_the_chosen_point(timeline: Timeline) -> None:
    timeline.set_points(chain(2))
    assert timeline.accessibleName()
    assert "#2, incremental" in timeline.accessibleDescription()


def heard(timeline: Timeline) -> QAccessibleInterface:
    """What a screen reader gets of the timeline."""
    found = QAccessible.queryAccessibleInterface(timeline)
    assert found is not None
    return found


def test_a_screen_reader_gets_a_list_of_the_points(timeline: Timeline) -> None:
    timeline.set_points(chain(3))
    listed = heard(timeline)
    assert listed.role() == QAccessible.Role.List
    assert listed.text(QAccessible.Text.Name) == "Timeline of recovery points"
    assert listed.childCount() == 3
    items = [listed.child(number) for number in range(3)]
    assert {item.role() for item in items} == {QAccessible.Role.ListItem}
    assert ["#1, full" in item.text(QAccessible.Text.Name) for item in items] == [
        True,
        False,
        False,
    ]
    assert "#3, incremental" in items[2].text(QAccessible.Text.Name)
    assert [listed.indexOfChild(item) for item in items] == [0, 1, 2]
    assert listed.child(3) is None


def test_a_screen_reader_finds_each_point_where_it_is_drawn(
    timeline: Timeline,
) -> None:
    timeline.set_points(chain(3))
    timeline.select("2")
    listed = heard(timeline)
    for number in range(3):
        middle = listed.child(number).rect().center()
        assert listed.indexOfChild(listed.childAt(middle.x(), middle.y())) == number
    assert listed.indexOfChild(listed.focusChild()) == 1


def test_a_screen_reader_is_told_each_point_that_the_cursor_comes_to(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(QAccessible, "isActive", lambda: True)
    monkeypatch.setattr(
        QAccessible, "updateAccessibility", lambda event: told.append(event.child())
    )
    timeline.set_points(chain(3))
    timeline.select("1")
    timeline.select("2")
    assert told == [2, 0, 1]


def test_points_that_have_gone_are_no_items_any_more(timeline: Timeline) -> None:
    timeline.set_points(chain(3))
    listed = heard(timeline)
    third = listed.child(2)
    timeline.set_points(chain(1))
    assert (listed.childCount(), third.isValid()) == (1, False)
    assert third.text(QAccessible.Text.Name) == ""


def test_the_wheel_zooms_around_the_pointer(timeline: Timeline) -> None:
    timeline.set_points(chain(200))
    at = QPointF(300, 100)
    under, (low, high) = timeline.x_at(at.x()), timeline.visible_range
    wheel = QWheelEvent(
        at,
        QPointF(timeline.viewport().mapToGlobal(at.toPoint())),
        QPoint(),
        QPoint(0, 240),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(timeline.viewport(), wheel)
    new_low, new_high = timeline.visible_range
    assert new_high - new_low == pytest.approx((high - low) * 0.64)
    assert timeline.x_at(at.x()) == pytest.approx(under)


def test_a_range_shows_what_is_not_older_than_the_newest_point(timeline: Timeline) -> None:
    timeline.set_points(chain(200))
    timeline.show_since(24 * HOUR)
    low, high = timeline.visible_range
    assert timeline.facts.layout.x[174] < low < timeline.facts.layout.x[175] < high
    timeline.show_since(None)
    assert timeline.visible_range[0] < 0


def test_a_new_point_takes_the_cursor_along_only_from_the_newest(timeline: Timeline) -> None:
    timeline.set_points(chain(3))
    timeline.set_points(chain(4), same_set=True)
    assert timeline.selected == "4"
    timeline.select("2")
    timeline.set_points(chain(5), same_set=True)
    assert timeline.selected == "2"


def test_with_a_retention_the_cursor_stays_at_the_newest_point(timeline: Timeline) -> None:
    """Then there are as many points afterwards as before."""
    points = chain(6)
    timeline.set_points(points[:3])
    for first in (1, 2, 3):
        timeline.set_points(points[first : first + 3], same_set=True)
        assert timeline.selected == points[first + 2].id
    timeline.select(points[4].id)
    timeline.set_points([*points[4:], point(7, 6)], same_set=True)
    assert timeline.selected == points[4].id


def test_a_double_click_beside_all_points_boots_nothing(timeline: Timeline, qtbot: QtBot) -> None:
    booted: list[str] = []
    timeline.set_points(chain(3))
    timeline.point_activated.connect(booted.append)
    at, left = timeline.place_of(1).toPoint(), Qt.MouseButton.LeftButton
    bars = QPoint(at.x(), round(timeline.bars_area.center().y()))
    for beside in (at + QPoint(0, 60), at - QPoint(30, 0), QPoint(3, 3), bars):
        qtbot.mouseDClick(timeline.viewport(), left, pos=beside)
    assert booted == []
    qtbot.mouseDClick(timeline.viewport(), left, pos=at + QPoint(3, 3))
    assert booted == [timeline.points[1].id]


def test_the_cursor_goes_with_a_point_that_is_merged(timeline: Timeline) -> None:
    timeline.set_points(chain(3))
    timeline.select("2")
    timeline.set_points([point(1), point(3, 1, merged=[2])], same_set=True)
    assert timeline.selected == "3"


def test_a_merge_is_seen_happening(timeline: Timeline, qtbot: QtBot) -> None:
    timeline.animated = True
    timeline.set_points(chain(3))
    timeline.set_points([point(1), point(3, 1, merged=[2])], same_set=True)
    assert timeline.merging
    qtbot.waitUntil(lambda: not timeline.merging)


def colours(timeline: Timeline) -> set[str]:
    picture: QImage = timeline.grab().toImage()
    return {
        QColor(picture.pixel(x, y)).name()
        for x in range(picture.width())
        for y in range(picture.height())
    }


def test_the_bars_are_as_high_as_what_is_in_sight_allows(timeline: Timeline) -> None:
    timeline.set_points([point(1, stored=1 << 40), *(point(i, i - 1) for i in range(2, 30))])
    whole = timeline.grab().toImage()
    assert timeline._most_in_sight() == 1 << 40
    timeline.set_range(10.0, 20.0)
    assert timeline._most_in_sight() == 1 << 20
    bars = timeline.bars_area.toRect()
    colour = QColor(timeline.glyphs.theme.bar)

    def highest(image: QImage, x: int) -> int:
        rows = range(bars.top() + 20, bars.bottom())
        return sum(image.pixelColor(x, y) == colour for y in rows)

    at = round(timeline.place_of(15).x())
    assert highest(timeline.grab().toImage(), at) > 1.5 * max(
        highest(whole, x) for x in range(bars.left() + bars.width() // 2, bars.right())
    )


def test_a_point_that_a_machine_wrote_looks_other_than_one_of_the_source() -> None:
    glyphs = Glyphs(theme.LIGHT, 1.0)
    own, promoted = glyphs.node(1, 8.0).toImage(), glyphs.node(1, 8.0, promoted=True).toImage()
    middle = own.rect().center()
    assert own.pixelColor(middle) == QColor(theme.LIGHT.incremental)
    assert promoted.pixelColor(middle) == QColor(theme.LIGHT.base)


@pytest.mark.parametrize("chosen", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_the_timeline_has_the_colours_of_its_theme(timeline: Timeline, chosen: theme.Theme) -> None:
    timeline.set_points([*chain(3), point(4, 1, kind="differential", verified=False)])
    timeline.set_theme(chosen)
    wanted = {chosen.base, chosen.full, chosen.incremental, chosen.differential, chosen.bad}
    assert wanted <= colours(timeline)


@pytest.mark.parametrize("count", [0, 1, 2, 13, 10_000])
def test_any_number_of_points_is_drawn(timeline: Timeline, count: int) -> None:
    timeline.set_points(many(count))
    assert timeline.grab().width() == timeline.width()


def repaint(timeline: Timeline, times: int) -> None:
    for turn in range(times):
        timeline.show_since(HOUR * (20 + turn % 200))  # each makes a new picture
        timeline.select(str(1 + turn % 300))
        timeline.viewport().repaint()


def test_repaints_take_no_references_away(timeline: Timeline) -> None:
    """Before Python 3.12 a process ends that has none left to None, which all programs share.

    PySide6 6.12.0 took 160 at each repaint, of 42,000.
    """
    timeline.set_points(many(300))
    repaint(timeline, 10)
    before = sys.getrefcount(None)
    repaint(timeline, 100)
    assert sys.getrefcount(None) > before - 1000


@pytest.mark.long  # the same, to the end that it came to
def test_two_thousand_repaints_end_well(timeline: Timeline) -> None:
    """PySide6 6.12.0 on CPython 3.11 ended the process after about half as many."""
    timeline.set_points(many(300))
    repaint(timeline, 2000)
    assert timeline.grab().width() == timeline.width()


def test_moving_the_cursor_does_not_draw_the_picture_again(timeline: Timeline) -> None:
    timeline.set_points(many(1000))
    timeline.viewport().repaint()
    drawn = timeline.pictures_drawn
    for sequence in range(1, 1000, 7):
        timeline.select(str(sequence))
        timeline.viewport().repaint()
    assert timeline.pictures_drawn == drawn


SHARP = """
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication
from tests.gui.points import chain
from vdbackup.gui import theme
from vdbackup.gui.timeline.timeline import Timeline

application = QApplication([])
timeline = Timeline(theme.LIGHT)
timeline.resize(800, 440)
timeline.set_points(chain(5))
timeline.select("1")  # its chain, drawn over points, is itself alone
timeline.show()
picture = timeline.grab().toImage()
assert timeline.devicePixelRatioF() == 2 and picture.width() == 1600
for index in range(5):
    at = timeline.place_of(index) * 2
    print(QColor(picture.pixel(at.toPoint())).name())
"""


def test_points_stand_where_they_should_on_a_sharper_screen() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SHARP],
        env={**os.environ, "QT_SCALE_FACTOR": "2"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.stdout.split() == [
        theme.LIGHT.full,
        *[theme.LIGHT.incremental] * 4,
    ], result.stderr
