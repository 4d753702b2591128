"""A window that opens on a merge that was cut off finishes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.backup.merge_cut_off import cut_off_before
from tests.gui.user import User
from tests.sources.opened import open_path
from vdbackup.backup import capture, merge
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.store import Store
from vdbackup.jobs import Task
from vdbackup.locations import Locations
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource, Settings
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def store(
    locations: Locations, disk: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """Settings that know a repository in which a merge was cut off."""
    opened = Repository.create(repository)
    for day in ("Monday", "Tuesday"):
        demo_disk.change(disk, day, {})
        with open_path(disk) as source:
            point = capture.run(capture.plan(opened, source), Task()).point

    with monkeypatch.context() as patch:
        cut_off_before(patch, "relink")
        with pytest.raises(KeyboardInterrupt):
            merge.run(merge.plan(opened, opened.set().name, point.id), Task())
    assert opened.set().journal
    settings = Settings(headless=True, animations=False)
    return Store(settings.with_source(KnownSource(SourceRef.of_path(disk), repository)), locations)


def test_a_merge_that_was_cut_off_is_finished_when_the_window_opens(
    window: MainWindow, qtbot: QtBot, repository: Path
):
    user = User(window, qtbot)
    user.waits_until(lambda: Repository.open(repository).set().journal is None)
    user.sees_points(1)
    assert [point.type for point in window.panel.timeline.points] == ["full"]
