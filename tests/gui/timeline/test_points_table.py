"""The table of recovery points: each column says, sorts and colours one fact."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from tests.gui.points import point
from vdbackup.gui import theme, words
from vdbackup.gui.timeline.points_table import COLUMNS, PointsTable
from vdbackup.repository.model import Check

RIGHT = Qt.AlignmentFlag.AlignRight
POINTS = [
    point(1, stored=3 << 20, verified=True),
    point(2, 1, stored=1 << 20, verified=False),
    replace(point(12, 2, stored=2 << 30), boot_tested=Check("2026-03-02T12:00:00+00:00", False)),
    point(3, 999),
]


@pytest.fixture
def table(qtbot: QtBot) -> PointsTable:
    table = PointsTable(theme.LIGHT)
    qtbot.addWidget(table)
    table.set_points(POINTS)
    return table


def column(table: PointsTable, title: str, role: int = Qt.ItemDataRole.DisplayRole) -> list[object]:
    """What stands in a column, from its top."""
    model = table.model()
    titles = [each.title for each in COLUMNS]
    return [model.index(row, titles.index(title)).data(role) for row in range(model.rowCount())]


def test_the_titles_stand_over_their_columns(table: PointsTable) -> None:
    titles = [
        table.model().headerData(place, Qt.Orientation.Horizontal)
        for place in range(table.model().columnCount())
    ]
    assert titles == ["#", "Time", "Type", "Parent", "Stored", "Verified", "Boot-tested", "Pinned"]


def test_each_column_says_its_own_fact(table: PointsTable) -> None:
    assert column(table, "#") == ["12", "3", "2", "1"]  # the newest first
    assert column(table, "Time")[3] == words.when(POINTS[0].created)
    assert column(table, "Type") == ["incremental", "incremental", "incremental", "full"]
    assert column(table, "Parent") == ["#2", "none", "#1", "none"]
    assert column(table, "Stored") == ["2 GiB", "1 MiB", "1 MiB", "3 MiB"]
    assert [str(each).split(",")[0] for each in column(table, "Verified")] == [
        *("never", "never", "failed", "yes")
    ]
    assert str(column(table, "Boot-tested")[0]).startswith("failed, ")


@pytest.mark.parametrize("place", range(len(COLUMNS)))
def test_a_column_sorts_by_its_fact(table: PointsTable, place: int) -> None:
    for largest_first in (False, True):
        table.sort_by(place, largest_first=largest_first)
        facts = [COLUMNS[place].sort_by(row) for row in table._model._rows]
        assert facts == sorted(facts, reverse=largest_first)


def test_numbers_do_not_sort_as_words_do(table: PointsTable) -> None:
    table.sort_by(0, largest_first=False)
    assert column(table, "#") == ["1", "2", "3", "12"]
    table.sort_by([each.title for each in COLUMNS].index("Stored"), largest_first=True)
    assert column(table, "Stored") == ["2 GiB", "3 MiB", "1 MiB", "1 MiB"]


def test_numbers_are_aligned_to_the_right_with_their_titles(table: PointsTable) -> None:
    for place, each in enumerate(COLUMNS):
        role = Qt.ItemDataRole.TextAlignmentRole
        title = table.model().headerData(place, Qt.Orientation.Horizontal, role)
        assert bool(title & RIGHT) == (each.title in ("#", "Parent", "Stored"))
        assert table.model().index(0, place).data(role) == title


def test_what_failed_has_the_colour_of_that(table: PointsTable) -> None:
    role = Qt.ItemDataRole.ForegroundRole
    colours = [each.name() for each in column(table, "Verified", role)]  # type: ignore[attr-defined]
    light = theme.LIGHT
    assert colours == [light.muted, light.muted, light.bad, light.good]
    assert column(table, "Boot-tested", role)[0].name() == light.warning  # type: ignore[attr-defined]
    assert column(table, "Stored", role) == [None] * 4


def test_the_exact_moment_of_a_point_is_said_wherever_one_points(table: PointsTable) -> None:
    for each in COLUMNS:
        hints = column(table, each.title, Qt.ItemDataRole.ToolTipRole)
        assert hints[3] == words.when_exactly(POINTS[0].created)
