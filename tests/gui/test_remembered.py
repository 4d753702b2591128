"""What the window shows first, in which order, and what it remembers of how it was left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG, User
from vdbackup.backup import merge
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.catalogue import Entry, Shelf, read
from vdbackup.gui.jobs.making import back_up
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.sources_list import SourcesList
from vdbackup.gui.store import Store
from vdbackup.gui.theme import LIGHT
from vdbackup.jobs import Task
from vdbackup.locations import Locations
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.pace import Pace
from vdbackup.recovery.retarget import policy
from vdbackup.repository.repository import Repository
from vdbackup.settings import KnownSource, Settings, WindowState
from vdbackup.sources.reference import SourceRef


def entries(*names: str) -> list[Entry]:
    return [Entry(SourceRef.parse(f"/disks/{name}.img"), Path("/backups")) for name in names]


def test_a_source_keeps_its_place_when_it_is_backed_up_for_the_first_time(
    tmp_path: Path, disk: Path, repository: Path
) -> None:
    other = tmp_path / "another.img"
    other.write_bytes(disk.read_bytes())
    first, second = map(SourceRef.of_path, (disk, other))
    known = [KnownSource(first, repository), KnownSource(second, repository)]
    assert [entry.source for entry in read(Shelf(repository), known)] == [first, second]
    for source in (second, first):
        request, machines = BackupRequest(source, repository), Machines(tmp_path / "vms")
        back_up(request, machines, Pace(), Task())
        assert [entry.source for entry in read(Shelf(repository), known)] == [first, second]


def test_a_source_that_is_added_again_keeps_its_place() -> None:
    first, second = (KnownSource(SourceRef.parse(f"/{n}.img"), Path("/backups")) for n in "ab")
    settings = Settings().with_source(first).with_source(second)
    assert settings.with_source(replace(first, set_name="a")).sources[0].source == first.source


def test_the_first_source_is_shown_whichever_was_read_first(qtbot: QtBot) -> None:
    sources = SourcesList(LIGHT, 7)
    qtbot.addWidget(sources)
    sources.set_entries(entries("second"))
    sources.set_entries(entries("first", "second"))
    assert sources.entry
    assert sources.entry.name == "first"
    sources.setCurrentRow(1)
    sources.set_entries(entries("new", "first", "second"))
    assert sources.entry.name == "second", "the user has chosen it"


def test_the_window_comes_back_as_it_was_left(
    qtbot: QtBot, with_source: User, store: Store, locations: Locations, tmp_path: Path
) -> None:
    window = with_source.window
    window.panel.show_table()
    window.panel.table.sort_by(1, largest_first=False)
    window.resize(950, 640)
    with_source.waits_until(lambda: not window.busy)
    window.close()
    left = Settings.load(locations.settings_file).window
    assert (left.table, left.sort, left.size) == (True, (1, False), (950, 640))
    assert window.entry
    assert left.source == window.entry.key
    again = MainWindow(Store(Settings.load(locations.settings_file), locations))
    qtbot.addWidget(again)
    again.show()
    room = again.screen().availableSize()
    assert again.size().width() == min(950, room.width())
    assert again.panel.shows_table
    assert again.panel.table.sorted_by == (1, False)
    qtbot.waitUntil(lambda: again.entry is not None, timeout=LONG)
    assert again.entry
    assert again.entry.key == left.source
    again.close()


def test_a_remembered_window_that_makes_no_sense_is_forgotten_alone(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    Settings(remind_after_days=3).save(file)
    sizes = ({"size": ["a", 7]}, {"size": 3}, {"columns": [-1]})
    for nonsense in ([], "wide", *sizes, {"sort": [1]}, {"sort": [float("inf"), True]}):
        data = json.loads(file.read_text())
        file.write_text(json.dumps({**data, "window": nonsense}))
        loaded = Settings.load(file)
        assert loaded.remind_after_days == 3
        assert loaded.window == WindowState()


def test_a_window_is_no_larger_than_the_screen(qtbot: QtBot, locations: Locations) -> None:
    window = MainWindow(Store(Settings(window=WindowState(size=(9000, 9000))), locations))
    qtbot.addWidget(window)
    room = window.screen().availableSize()
    assert window.width() <= room.width()
    assert window.height() <= room.height()


def test_the_window_fits_800_pixels_with_a_machine_running(with_source: User) -> None:
    assert with_source.window.minimumSizeHint().width() <= 800
    with_source.asks_for("actionBootInVm")
    thread = with_source.window.sessions.running[0]
    with_source.waits_until(lambda: thread.session or thread.problem)
    with_source.window.resize(800, 600)
    with_source.waits_until(lambda: with_source.window.width() == 800)


def test_the_first_button_stays_where_it_is_while_one_types(
    user: User, disk: Path, repository: Path
) -> None:
    form = user.window.first_run.form
    before = form.start_button.mapTo(user.window, form.start_button.rect().topLeft())
    form.source_edit.setText(str(disk))
    form.repository_edit.setText(str(repository))
    user.waits_until(lambda: form.notice.text)
    user.waits_until(lambda: form.notice.height() > 10)
    assert form.start_button.mapTo(user.window, form.start_button.rect().topLeft()) == before


def test_the_dialog_of_a_new_source_grows_with_what_it_has_to_say(with_source: User) -> None:
    with_source.asks_for("actionAddSource")
    dialog = with_source.sees(AddSourceDialog, "addSourceDialog")
    before = dialog.height()
    dialog.form.refusal.say("It cannot be done, for a reason that takes a while to tell. " * 9)
    with_source.waits_until(lambda: dialog.height() > before)
    refusal, button = dialog.form.refusal, dialog.form.start_button
    with_source.waits_until(lambda: refusal.height() >= refusal.heightForWidth(refusal.width()))
    bottom = refusal.mapTo(dialog, refusal.rect().bottomLeft()).y()
    assert bottom <= button.mapTo(dialog, button.rect().topLeft()).y()
    dialog.reject()


def test_segments_are_heard_as_radio_buttons(window: MainWindow) -> None:
    segments = [b for b in window.panel.findChildren(QPushButton) if b.property("segment")]
    assert segments
    for each in segments:
        heard = QAccessible.queryAccessibleInterface(each)
        assert heard.role() == QAccessible.Role.RadioButton
        assert heard.text(QAccessible.Text.Name)


def test_a_disk_of_data_offers_its_files_first(user: User, tmp_path: Path, disk: Path) -> None:
    details = user.window.details
    user.window.machine.judged.emit(True)
    assert details._offered["actionBrowse"].property("primary") == "true"
    assert not details._offered["actionBootInVm"].property("primary")
    user.window.machine.judged.emit(False)
    assert details._offered["actionBootInVm"].property("primary") == "true"


def test_a_backup_in_which_nothing_changed_says_since_when(with_source: User) -> None:
    with_source.backs_up(2)
    row = with_source.sees_job_end("Back up laptop")
    assert "nothing has changed since #1" in row.sentence


def test_a_backup_is_made_even_if_the_point_before_is_merged_by_somebody_else(
    disk: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def back_up_disk() -> str:
        request = BackupRequest(SourceRef.of_path(disk), repository)
        machines = Machines(tmp_path / "vms")
        return back_up(request, machines, Pace(), Task()).sentence

    def merged(opened: Repository, name: str, point_id: str, *_: object) -> tuple[str, ...]:
        merge.run(merge.plan(opened, name, point_id), Task())
        return ()

    back_up_disk()
    monkeypatch.setattr(policy, "for_new_point", merged)
    assert back_up_disk() == "Point #2 made: incremental, nothing has changed."
