"""What is attached, mounted and taken away while somebody looks is seen within seconds."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from PySide6.QtWidgets import QListWidget
from pytestqt.qtbot import QtBot

from tests.gui.user import User
from tests.sources.loops import loop
from vdbackup.gui import plugging
from vdbackup.gui.add_source import AddSourceDialog
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.restore_dialog import RestoreDialog

pytestmark = pytest.mark.usefixtures("as_root")
MIB = 1 << 20
LISTENS, MOUNTS = plugging.listening, plugging.mounts


@pytest.fixture(autouse=True)
def plugging_is_heard(no_plugging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugging, "listening", LISTENS)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "drive.img"
    path.write_bytes(b"drive 64" * (8 * MIB))  # as large as what is restored to it
    return path


def row_of(disks: QListWidget, device: Path) -> int | None:
    paths = [disks.item(row).data(plugging.PATH) for row in range(disks.count())]
    return paths.index(str(device)) if str(device) in paths else None


def shows(disks: QListWidget, device: Path) -> bool:
    return row_of(disks, device) is not None


def test_a_disk_that_is_plugged_in_appears_among_the_sources_and_goes_again(
    with_source: User, image: Path
) -> None:
    with_source.asks_for("actionAddSource")
    dialog = with_source.sees(AddSourceDialog, "addSourceDialog")
    disks = dialog.form.devices
    with loop(image) as device:
        with_source.waits_until(lambda: shows(disks, device))
        disks.setCurrentRow(row_of(disks, device) or 0)
        other = image.with_suffix(".other")
        other.write_bytes(bytes(MIB))
        with loop(other) as second:
            with_source.waits_until(lambda: shows(disks, second))
            (selected,) = disks.selectedItems()
            assert selected.data(plugging.PATH) == str(device)
    with_source.waits_until(lambda: not shows(disks, device))
    dialog.reject()


def test_what_was_plugged_in_before_anybody_looked_is_seen_then(
    window: MainWindow, user: User, image: Path
) -> None:
    form = window.first_run.form
    user.waits_until(form.devices.count)
    window.hide()
    with loop(image) as device:
        window.show()
        user.waits_until(lambda: shows(form.devices, device))


def test_a_target_that_is_pulled_out_or_becomes_another_disk_is_not_meant_any_more(
    with_source: User, image: Path
) -> None:
    with_source.asks_for("actionRestore")
    dialog = with_source.sees(RestoreDialog, "restoreDialog")
    with ExitStack() as stack:
        device = stack.enter_context(loop(image))
        with_source.waits_until(lambda: shows(dialog.picker, device))
        dialog.picker.setCurrentRow(row_of(dialog.picker, device) or 0)
        dialog.picker.itemClicked.emit(dialog.picker.currentItem())
        assert (dialog.target, dialog.overwrite) == (device, True)
    with_source.waits_until(lambda: dialog.target_edit.text() == "")
    assert not dialog.overwrite
    assert not dialog.accept_button.isEnabled()
    dialog.reject()


def test_who_may_not_listen_has_the_list_as_it_was(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("not in here")

    monkeypatch.setattr(plugging.socket, "socket", refused)
    assert LISTENS() is None
    with_source.asks_for("actionAddSource")
    dialog = with_source.sees(AddSourceDialog, "addSourceDialog")
    with_source.waits_until(dialog.form.devices.count)
    dialog.reject()


def test_what_is_mounted_and_unmounted_is_told(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugging, "mounts", MOUNTS)
    heard = plugging.Plugging()
    for command in (("mount", "-t", "tmpfs", "none"), ("umount",)):
        with qtbot.waitSignal(heard.changed, timeout=10_000):
            subprocess.run([*command, tmp_path], check=True)


def test_a_drive_that_goes_and_comes_back_is_seen(with_source: User, repository: Path) -> None:
    window, away = with_source.window, repository.with_name("unplugged")
    repository.rename(away)
    window.plugging.changed.emit()
    with_source.waits_until(lambda: window.entry and window.entry.problem)
    away.rename(repository)
    window.plugging.changed.emit()
    with_source.sees_points(1)
