"""Nothing is cut off, in any language and on any screen; only what warns looks like a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLabel, QPushButton, QScrollArea
from pytestqt.qtbot import QtBot

from tests.gui.points import many
from tests.gui.test_actions import MADE
from tests.gui.user import User
from vdbackup import translation
from vdbackup.gui import parts, theme
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.schedule_dialog import ScheduleDialog
from vdbackup.gui.settings_dialog import SettingsDialog
from vdbackup.gui.theme import DARK, LIGHT, Theme
from vdbackup.gui.timeline import points_table
from vdbackup.gui.timeline.panel import LINE, MOST_LINES, Legend, TimelinePanel
from vdbackup.gui.timeline.points_table import PointsTable
from vdbackup.operations.schedules import systemd
from vdbackup.translation import tr

GERMAN = Path(__file__).resolve().parents[2] / "resources/locale/de/LC_MESSAGES/vdbackup.po"
LONG_NAME = "a-machine-in-the-cellar-that-nobody-has-ever-looked-after-properly"


@pytest.fixture
def german() -> Iterator[None]:
    """The language of this process, for a while."""
    translation.use(translation.read(GERMAN))
    yield
    translation.english()


def test_the_settings_are_not_cut_off_at_the_right(with_source: User, german: None) -> None:
    window = with_source.window
    entries = [
        replace(each, backup_set=replace(each.backup_set, name=LONG_NAME))
        for each in window.catalogue.entries
        if each.backup_set
    ]
    locations = replace(window.store.locations, logs=Path("/var/log") / LONG_NAME / "vdbackup")
    dialog = SettingsDialog(
        window.store.value, locations, entries, window.workers.reader(None), window
    )
    dialog.fits = False
    dialog.resize(dialog.minimumWidth(), 400)  # so low that it scrolls
    dialog.open()
    inside = dialog.findChild(QScrollArea)
    QApplication.processEvents()
    assert inside.verticalScrollBar().isVisible()
    assert inside.widget().minimumSizeHint().width() <= inside.viewport().width()
    assert inside.widget().width() <= inside.viewport().width()
    assert dialog.width() <= 800
    dialog.close()


def test_a_schedule_has_room_on_a_small_screen_in_german(
    with_source: User, german: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "no-systemd")  # so that most is said
    with_source.asks_for("chooseSchedule")
    dialog = with_source.sees(ScheduleDialog, "scheduleDialog")
    monkeypatch.setattr(dialog, "_most", lambda: 560)
    dialog.every.setCurrentIndex(dialog.every.findData("daily"))
    dialog.merges.setChecked(True)
    with_source.waits_until(lambda: dialog.plan and dialog.plan.schedule.merge_at)
    with_source.waits_until(lambda: dialog.height() > 450)  # it grows with what it says
    QApplication.processEvents()
    assert dialog.height() <= 560
    for field in (dialog.every, dialog.at, dialog.delay, dialog.verify, dialog.merge_at):
        assert field.height() >= LINE, field.objectName()  # and none is squeezed
    for box in (dialog.merges, dialog.not_metered, dialog.on_mains, dialog.not_presenting):
        assert box.width() >= box.sizeHint().width(), box.text()
    room = dialog.findChild(QScrollArea)
    assert room.widget().width() <= room.viewport().width()
    assert dialog._save.visibleRegion().boundingRect().height() == dialog._save.height()
    dialog.close()


def test_the_files_of_a_point_have_room_on_a_small_screen_in_german(
    with_source: User, german: None
) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    dialog.key_row.setVisible(True)
    dialog.resize(780, 540)
    QApplication.processEvents()
    assert dialog.minimumSizeHint().width() <= 780
    for button in dialog.findChildren(QPushButton):
        assert button.width() >= button.sizeHint().width(), button.text()
    dialog.close()


def test_each_title_of_the_table_has_room_in_german(
    qtbot: QtBot, german: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tuple(replace(each, title=tr(each.title)) for each in points_table.COLUMNS)
    assert "Elternteil" in [each.title for each in told]
    monkeypatch.setattr(points_table, "COLUMNS", told)
    theme.apply(QApplication.instance(), LIGHT)  # type: ignore[arg-type]
    table = PointsTable(LIGHT)
    qtbot.addWidget(table)
    table.set_points(many(5))
    table.show()
    header = table.horizontalHeader()
    for column in range(len(told)):
        table.sort_by(column, largest_first=True)  # with its mark
        assert header.sectionSizeHint(column) <= table.columnWidth(column), told[column].title


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_only_what_warns_looks_like_a_warning(qtbot: QtBot, colours: Theme) -> None:
    application = QApplication.instance()
    assert isinstance(application, QApplication)
    theme.apply(application, colours)
    notice = parts.Notice("All is well.", role="good")
    qtbot.addWidget(notice)
    notice.resize(300, 60)
    notice.show()

    def bar() -> str:
        return notice.grab().toImage().pixelColor(1, notice.height() // 2).name()

    assert bar() == colours.good
    notice.say("It may be.", "warning")
    assert bar() == colours.warning
    notice.say("It failed.", "bad")
    assert bar() == colours.bad
    notice.say("So it is.", "")
    assert bar() == colours.accent
    theme.apply(application, LIGHT)


def test_the_legend_goes_on_in_the_next_line(qtbot: QtBot) -> None:
    legend = Legend(LIGHT)
    qtbot.addWidget(legend)
    assert legend.heightForWidth(2000) == LINE
    assert legend.heightForWidth(500) > LINE
    assert legend.heightForWidth(200) == MOST_LINES * LINE  # and the hint says the rest
    assert "does not boot" in legend.toolTip()
    panel = TimelinePanel(LIGHT)
    qtbot.addWidget(panel)
    panel.show_entry(MADE)
    panel.resize(420, 420)
    panel.show()
    shown = panel._legend
    assert shown.isVisible()
    assert shown.height() == shown.heightForWidth(shown.width()) > LINE
    placed = list(legend._placed(500))
    assert len(placed) == len(legend._items())
    assert all(left < 500 for _, left, _, _ in placed)


def test_a_dialog_that_grows_stays_on_the_screen(qtbot: QtBot) -> None:
    dialog = parts.Dialog("dialog", "It grows", 300, None)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
    qtbot.addWidget(dialog)
    text = parts.label("short")
    dialog.column.addWidget(text)
    dialog.show()
    room = dialog.screen().availableGeometry()
    dialog.move(room.right() - 60, room.bottom() - 60)
    text.setText("a long story. " * 60)
    dialog.fit()
    assert room.contains(dialog.geometry())


def test_no_line_of_a_points_facts_is_cut_off_beside_a_scroll_bar(owner: User) -> None:
    """Of a disk in use more is said, and the bar that comes with it takes width from all."""
    owner.window.resize(1280, 800)
    owner.backs_up(2)

    def cut() -> list[str]:
        labels = owner.window.details.findChildren(QLabel)
        wrapped = [each for each in labels if each.isVisible() and each.wordWrap()]
        return [
            each.text() for each in wrapped if each.height() < each.heightForWidth(each.width())
        ]

    owner.waits_until(lambda: "frozen together" in owner.window.details.fact("moment"))
    owner.waits_until(lambda: not cut())
