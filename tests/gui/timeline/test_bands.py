"""Logs of writes in the timeline: where moments stand, how the cursor gets there, what is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent, QColor
from pytestqt.qtbot import QtBot

from tests.gui.logs import SESSION, make_log
from tests.gui.points import chain, point
from tests.gui.user import move_mouse
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.errors import DamagedRecord
from vdbackup.gui import theme, words
from vdbackup.gui.timeline.bands import Band, lay_out, narrowest
from vdbackup.gui.timeline.bands_item import COLUMN, thinned
from vdbackup.gui.timeline.layout import arrange
from vdbackup.gui.timeline.timeline import Timeline
from vdbackup.jobs import Task
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.written import WrittenPoint

ALT, SHIFT = Qt.KeyboardModifier.AltModifier, Qt.KeyboardModifier.ShiftModifier
LEFT = Qt.MouseButton.LeftButton
FULL_STOP = "Its storage is full."


def read(folder: Path, of: int, writes: int, **options: object) -> ReadLog:
    kept = make_log(folder, point(of), writes, **options)  # type: ignore[arg-type]
    return ReadLog(kept, kept.read(), stored=kept.stored)


def band(log: ReadLog, points: int = 3) -> Band:
    shown = chain(points)
    (found,) = lay_out([log], shown, arrange(shown))
    return found


# where moments stand


def test_a_band_lies_between_its_point_and_the_next(tmp_path: Path) -> None:
    layout = arrange(chain(3))
    found = band(read(tmp_path, 2, 10))
    assert layout.x[1] < found.left < found.right < layout.x[2]
    assert band(read(tmp_path, 3, 10, number=1)).left > layout.x[2], "behind the newest, too"


def test_the_time_of_a_log_runs_evenly_in_its_band(tmp_path: Path) -> None:
    """Thirty writes in the second before 1, before 2 and before 4: nothing came before 3."""
    found = band(read(tmp_path, 2, 30, seconds=(1, 2, 4)))
    width = found.right - found.left
    at = [(found.x_of(write) - found.left) / width for write in (0, 10, 20, 30)]
    assert at == pytest.approx([0, 0.25, 0.5, 1.0], abs=0.01)
    assert found.x_of(21) > found.left + width * 0.74
    first, last = found.time_at(found.left), found.time_at(found.right)
    assert last - first == timedelta(seconds=4)


def test_each_write_has_a_place_of_its_own_and_is_found_there(tmp_path: Path) -> None:
    found = band(read(tmp_path, 1, 1000))
    places = [found.x_of(write) for write in range(1001)]
    assert all(np.diff(places) > 0)
    assert [found.write_at(x + 1e-9, 0.0) for x in places[:-1]] == list(range(1000))


def test_near_a_consistent_moment_that_is_meant_and_else_any_write(tmp_path: Path) -> None:
    found = band(read(tmp_path, 1, 1000, flush_each=10))
    beside = found.x_of(503)
    assert found.write_at(beside, 0.0) in (502, 503)
    assert found.write_at(beside, found.x_of(504) - found.x_of(500)) == 500


def test_from_moment_to_moment_and_no_further(tmp_path: Path) -> None:
    found = band(read(tmp_path, 1, 100, flush_each=10))
    assert [found.moment_beside(write, 1) for write in (0, 5, 10, 100)] == [10, 10, 20, 100]
    assert [found.moment_beside(write, -1) for write in (0, 5, 10, 100)] == [0, 0, 0, 90]
    assert found.moment_beside(5, 3) == 30


def test_writes_of_which_nobody_noted_the_time_come_last(tmp_path: Path) -> None:
    kept = make_log(tmp_path, point(1), 40)
    noted = kept.index.read_bytes()
    kept.index.write_bytes(noted[: len(noted) * 2 // 3])  # the last look is cut off
    log = ReadLog(kept, kept.read())
    found = band(log)
    assert log.moments[-1] < log.writes == 40
    assert found.x_of(40) == pytest.approx(found.right)
    kept.index.unlink()
    log = ReadLog(kept, kept.read())
    assert log.moments.tolist() == [0], "none is sure"
    assert band(log).x_of(20) == pytest.approx((found.left + found.right) / 2, abs=0.01)


def test_an_empty_log_is_its_beginning(tmp_path: Path) -> None:
    found = band(read(tmp_path, 1, 0, seconds=()))
    assert found.log.moments.tolist() == [0]
    assert found.write_at(found.left + 0.1, 0.0) == 0


def test_of_ticks_that_share_a_column_one_is_drawn_the_higher_the_more_there_are() -> None:
    ticks = np.sort(np.concatenate([np.linspace(0, 400, 100_000), [500.0]]))
    x, share = thinned(ticks, 0, 600)
    assert len(x) <= 400 / COLUMN + 2
    assert share[-1] < 0.2 < share[:-5].min()
    assert thinned(np.array([3.0, 50.0]), 0, 60)[1].tolist() == [1.0, 1.0]
    assert len(thinned(ticks, 700, 800)[0]) == 0


def test_one_can_look_as_close_as_some_writes(tmp_path: Path) -> None:
    assert narrowest(()) == 2.0
    assert narrowest([band(read(tmp_path, 1, 100_000))]) < 0.001


# the widget


@pytest.fixture
def timeline(qtbot: QtBot) -> Timeline:
    widget = Timeline(theme.LIGHT)
    widget.animated = False
    widget.resize(800, 440)
    qtbot.addWidget(widget)
    widget.show()
    qtbot.waitExposed(widget)
    widget.set_points(chain(4))
    return widget


def in_band(timeline: Timeline, share: float, number: int = 0) -> QPoint:
    """A place in a band, so far from its beginning."""
    area = timeline.area_of_band(timeline.facts.bands[number])
    return QPointF(area.left() + share * area.width(), area.center().y()).toPoint()


def test_a_drag_lands_on_moments_between_the_points(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    timeline.set_logs([read(tmp_path, 2, 60)])
    chosen: list[str] = []
    timeline.point_selected.connect(chosen.append)
    start, end = (timeline.place_of(index).toPoint() for index in (1, 2))
    qtbot.mousePress(timeline.viewport(), LEFT, pos=start)
    for x in range(start.x(), end.x() + 1):
        move_mouse(timeline.viewport(), QPoint(x, start.y() + 40))
    qtbot.mouseRelease(timeline.viewport(), LEFT, pos=end)
    assert chosen[0] == "2"
    assert chosen[-1] == "3"
    moments = [int(each.rpartition(".w")[2]) for each in chosen if "@" in each]
    assert moments == sorted(moments)
    assert len(moments) > 10
    assert all(each.startswith(f"2@{SESSION.format(number=0)}.w") for each in chosen[1:-1])


def test_a_click_into_a_band_chooses_a_moment(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    timeline.set_logs([read(tmp_path, 1, 60), read(tmp_path, 1, 90, number=1)])
    for number in (0, 1):
        at = in_band(timeline, 0.5, number)
        qtbot.mouseClick(timeline.viewport(), LEFT, pos=at)
        chosen = timeline.state
        assert isinstance(chosen, WrittenPoint)
        assert chosen.log == SESSION.format(number=number)
        assert chosen.flushed, "the consistent one is meant"
    with qtbot.waitSignal(timeline.point_activated) as heard:
        qtbot.mouseDClick(timeline.viewport(), LEFT, pos=at)
    assert heard.args == [chosen.id]


def test_keys_go_by_the_moment_by_the_write_and_back_to_the_point(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    timeline.set_logs([read(tmp_path, 2, 1000, flush_each=5)])
    timeline.select("2")
    for key, modifiers, wanted in (
        (Qt.Key.Key_Right, ALT, 5), (Qt.Key.Key_Right, ALT, 10),
        (Qt.Key.Key_Right, ALT | SHIFT, 11), (Qt.Key.Key_Left, ALT, 10),
        (Qt.Key.Key_PageDown, ALT, 20), (Qt.Key.Key_End, ALT, 1000),
        (Qt.Key.Key_Left, ALT | SHIFT, 999), (Qt.Key.Key_PageUp, ALT | SHIFT, 989),
        (Qt.Key.Key_Home, ALT, 0),
    ):  # fmt: skip
        qtbot.keyClick(timeline, key, modifiers)
        assert timeline.spot is not None
        assert timeline.spot.write == wanted
    qtbot.keyClick(timeline, Qt.Key.Key_Left, ALT)
    assert timeline.selected == "2"
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    qtbot.keyClick(timeline, Qt.Key.Key_Left)
    assert timeline.selected == "2"
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    qtbot.keyClick(timeline, Qt.Key.Key_Right)
    assert timeline.selected == "3"
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    assert timeline.selected == "3", "nothing is kept behind it"


def test_keys_go_from_one_log_of_a_point_to_the_other(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    timeline.set_logs([read(tmp_path, 2, 20), read(tmp_path, 2, 30, number=1)])
    timeline.select("2")
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    qtbot.keyClick(timeline, Qt.Key.Key_Up, ALT)
    assert timeline.selected.endswith("0.w20")
    qtbot.keyClick(timeline, Qt.Key.Key_Down, ALT)
    assert timeline.selected.endswith("1.w30")


def test_who_cannot_see_it_is_told_time_number_and_state_of_each_moment(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    items: list[int] = []

    def hear(event: QAccessible) -> None:
        if isinstance(event, QAccessibleAnnouncementEvent):
            told.append(event.message())
        else:
            items.append(event.child())  # type: ignore[attr-defined]

    monkeypatch.setattr(QAccessible, "isActive", lambda: True)
    monkeypatch.setattr(QAccessible, "updateAccessibility", hear)
    log = read(tmp_path, 4, 6000, flush_each=3)
    timeline.set_logs([log])
    qtbot.keyClick(timeline, Qt.Key.Key_End, ALT)
    qtbot.keyClick(timeline, Qt.Key.Key_Left, ALT | SHIFT)
    at = words.clock_of(log.moment(point(4), 6000))
    assert told == [
        f"Behind #4, {at}, after 6,000 writes, consistent",
        f"Behind #4, {at}, after 5,999 writes, like a power cut",
    ]
    assert items == [4, 4]
    assert timeline.accessibleDescription() == told[-1]
    listed = QAccessible.queryAccessibleInterface(timeline)
    assert listed is not None
    assert listed.childCount() == 5
    moment = listed.focusChild()
    assert "after 5,999 of 6,000 writes, like a power cut" in moment.text(QAccessible.Text.Name)
    assert moment.rect().width() > 5
    timeline.select("1")
    assert (listed.childCount(), moment.isValid()) == (4, False)


def test_a_log_that_grows_leaves_the_cursor_at_its_moment(
    timeline: Timeline, tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    timeline.set_logs([read(tmp_path / "a", 4, 60)])
    timeline.select_moment(SESSION.format(number=0), 20)
    before = timeline.selected
    timeline.set_logs([read(tmp_path / "b", 4, 90)])
    assert timeline.selected == before
    timeline.set_points(chain(4), same_set=True)
    assert timeline.selected == before
    timeline.set_points(chain(5), same_set=True)
    assert timeline.selected == before, "a new point takes the cursor along from a point alone"
    timeline.set_logs([])
    assert timeline.selected == "4", "its writes are forgotten"


def test_a_log_that_is_thinned_meanwhile_moves_the_cursor_to_what_is_kept_and_says_so(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    """By the backup that just ended: else a moment that is gone would be asked for."""
    log = read(tmp_path, 4, 60, flush_each=3)
    timeline.set_logs([log])
    timeline.select_moment(log.session, 20)
    thin = Thinning.of(log.kept.read(), [0, 9, 30])
    thin.write(log.kept.new_log, log.kept.new_index, Task())
    log.kept.replace_by_new()
    with qtbot.waitSignal(timeline.point_selected) as told:
        timeline.set_logs([ReadLog(log.kept, log.kept.read(), stored=log.kept.stored)])
    assert timeline.spot is not None
    assert timeline.spot.write == 9
    assert told.args == [timeline.selected]
    assert "after 9 writes" in timeline.accessibleDescription()


def test_a_log_that_cannot_be_read_is_marked_and_says_why(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    log = replace(read(tmp_path, 2, 60), log=None, problem=DamagedRecord("It is damaged.", "x"))
    timeline.set_logs([log])
    qtbot.mouseClick(timeline.viewport(), LEFT, pos=in_band(timeline, 0.5))
    assert timeline.selected == "2", "there is no moment"
    assert "cannot be read: It is damaged." in timeline.hint(1)
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    assert timeline.selected == "2"
    assert theme.LIGHT.bad in colours_around(timeline, timeline.facts.bands[0])


def test_a_log_that_was_cut_short_is_marked_where_it_ends(
    timeline: Timeline, tmp_path: Path
) -> None:
    logs = [read(tmp_path, 2, 60, ended=FULL_STOP), read(tmp_path, 3, 60, ended="", number=1)]
    timeline.set_logs(logs)
    timeline.select("1")  # its chain, drawn over all, is itself alone
    assert logs[0].cut_short == FULL_STOP
    assert FULL_STOP in timeline.hint(1)
    marked = [
        theme.LIGHT.warning in colours_around(timeline, each) for each in timeline.facts.bands
    ]
    assert marked == [True, False]


def colours_around(timeline: Timeline, of: Band) -> set[str]:
    picture, area = timeline.grab().toImage(), timeline.area_of_band(of).toAlignedRect()
    area = area.adjusted(0, -4, 4, 4)
    return {
        QColor(picture.pixel(x, y)).name()
        for x in range(area.left(), area.right() + 1)
        for y in range(area.top(), area.bottom() + 1)
    }


@pytest.mark.parametrize("chosen", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_a_band_has_the_colours_of_its_theme(
    timeline: Timeline, tmp_path: Path, chosen: theme.Theme
) -> None:
    timeline.set_logs([read(tmp_path, 2, 20)])
    timeline.set_theme(chosen)
    assert chosen.session in colours_around(timeline, timeline.facts.bands[0])


def test_seconds_are_told_where_one_looks_into_a_log(timeline: Timeline, tmp_path: Path) -> None:
    log = read(tmp_path, 2, 100_000, seconds=range(1, 61))
    timeline.set_logs([log])
    (shown,) = timeline.facts.bands
    middle = (shown.left + shown.right) / 2
    timeline.set_range(middle - 0.1, middle + 0.1)
    timeline.grab()
    axis = timeline._axis
    ((step, ticks),) = axis.tickValues(middle - 0.1, middle + 0.1, 700)
    labels = axis.tickStrings(ticks, 1, step)
    assert 4 <= len(labels) <= 9
    assert len(set(labels)) == len(labels)
    assert labels[0].startswith(f"{shown.time_at(ticks[0]):%H:%M:%S}")


def test_of_a_hundred_thousand_moments_no_more_is_drawn_than_there_is_room_for(
    timeline: Timeline, tmp_path: Path
) -> None:
    """And it is not drawn again for each place of the cursor: a frame of a drag takes 0.7 ms."""
    log = read(tmp_path, 2, 200_000, flush_each=2, seconds=range(1, 600))
    assert len(log.moments) == 100_001
    timeline.set_logs([log])
    timeline.viewport().repaint()
    area = timeline.area_of_band(timeline.facts.bands[0])
    places, _ = thinned(np.linspace(area.left(), area.right(), 100_001), area.left(), area.right())
    assert len(places) <= area.width() / COLUMN + 2  # a part of one at each end
    drawn = timeline.pictures_drawn
    for turn in range(200):
        at = QPointF(area.left() + 1 + turn % int(area.width() - 2), area.center().y())
        move_mouse(timeline.viewport(), at.toPoint())
        timeline.viewport().repaint()
    assert timeline.pictures_drawn == drawn


def test_who_goes_to_a_moment_picks_no_points_beside_it(
    timeline: Timeline, tmp_path: Path, qtbot: QtBot
) -> None:
    timeline.set_logs([read(tmp_path, 2, 60)])
    timeline.pick(["1", "2", "3"])
    timeline.select("2")
    qtbot.keyClick(timeline, Qt.Key.Key_Right, ALT)
    assert timeline.selected.endswith(".w2")
    assert timeline.chosen == ("2",)
