"""A second start of the window shows the first one's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG
from vdbackup.gui.instance import Instance
from vdbackup.gui.main_window import MainWindow

START = "import sys; from vdbackup.gui import app; sys.exit(app.main([]))"


@pytest.fixture
def instances(tmp_path: Path, qtbot: QtBot) -> Iterator[list[Instance]]:
    """Two that want the same settings."""
    made = [Instance(tmp_path / "config") for _ in range(2)]
    yield made
    with ExitStack() as stack:
        for each in made:
            stack.callback(each.release)


def test_a_second_start_calls_the_first_and_ends(
    instances: list[Instance], qtbot: QtBot, window: MainWindow
) -> None:
    first, second = instances
    assert first.claim()
    first.called.connect(window.come_forward)
    window.showMinimized()
    with qtbot.waitSignal(first.called):
        assert not second.claim()
    qtbot.waitUntil(lambda: not window.isMinimized())


def test_a_window_that_has_ended_leaves_the_next_one_alone(instances: list[Instance]) -> None:
    first, second = instances
    assert first.claim()
    first.release()
    assert second.claim()


def test_other_settings_have_a_window_of_their_own(
    instances: list[Instance], tmp_path: Path
) -> None:
    assert instances[0].claim()
    other = Instance(tmp_path / "other")
    assert other.claim()
    other.release()


def test_a_folder_that_cannot_be_written_stops_no_window(tmp_path: Path, qtbot: QtBot) -> None:
    (tmp_path / "config").write_text("a file where the folder should be")
    assert Instance(tmp_path / "config").claim()


def test_the_second_program_says_that_it_is_open_already(
    instances: list[Instance], tmp_path: Path, qtbot: QtBot
) -> None:
    (first, _) = instances
    assert first.claim()
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    environment["VDBACKUP_CONFIG_DIR"] = str(tmp_path / "config")
    with (
        qtbot.waitSignal(first.called, timeout=LONG),
        subprocess.Popen(
            [sys.executable, "-c", START], env=environment, stderr=subprocess.PIPE, text=True
        ) as program,
    ):
        assert "open already" in program.communicate(timeout=200)[1]
    assert program.returncode == 0
