"""Boot tests from the window: a job of their own, a badge, a picture, and what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QLabel

from tests.gui.user import User
from vdbackup.gui.machines import boot_picture
from vdbackup.gui.settings_dialog import SettingsDialog
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository


def test_the_chosen_point_is_tested_and_shows_its_picture(with_source: User) -> None:
    with_source.asks_for("actionBootTest")
    row = with_source.sees_job_end("Boot test of laptop #1")
    assert row.sentence.startswith("It boots, in")
    details = with_source.window.details
    with_source.waits_until(lambda: details.fact("booted").startswith("yes"))
    with_source.waits_until(lambda: not details.boot_test.picture.isNull())
    label = with_source.sees(QLabel, "bootPicture")
    assert label.pixmap().width() > 100
    assert details.boot_test.sentence.startswith("Up in ")
    assert "Its screen has not changed" in details.boot_test.sentence


def test_a_backup_does_not_wait_for_a_test(with_source: User, disk: Path) -> None:
    _take_boot_code(disk)
    with_source.backs_up(2)
    with_source.asks_for("actionBootTest")
    with_source.backs_up(3)
    row = with_source.sees_job_end("Boot test of laptop #2")
    assert "stopped at the stage firmware" in row.sentence
    with_source.window.panel.timeline.select(with_source.window.entry.points[1].id)
    with_source.waits_until(
        lambda: "stage firmware" in with_source.window.details.boot_test.sentence
    )


def test_each_new_point_is_tested_if_the_settings_say_so(
    with_source: User, disk: Path, repository: Path
) -> None:
    with_source.asks_for("actionSettings")
    dialog = with_source.sees(SettingsDialog, "settingsDialog")
    ((_, box),) = dialog.boot_test
    box.setChecked(True)
    with_source.clicks("settingsSave")
    with_source.sees_job_end("Policy of laptop")
    _take_boot_code(disk)
    with_source.backs_up(2)
    with_source.sees_job_end("Boot test of laptop #2")
    tested = [each.boot_tested for each in Repository.open(repository).set().points]
    assert [each and each.ok for each in tested] == [None, False]


def test_a_disk_of_data_is_said_to_hold_no_system_and_is_not_marked(
    user: User, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "data.img").write_bytes(bytes(1 << 20) + b"data" * 4096)
    user.window.first_run.form.source_edit.setText(str(tmp_path / "data.img"))
    user.window.first_run.form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    user.asks_for("actionBootTest")
    row = user.sees_job_end("Boot test of data #1")
    assert "no system to boot" in row.sentence
    assert "does not boot" not in row.sentence
    assert Repository.open(repository).set().points[0].boot_tested is None


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_picture_that_is_none_is_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0001-boot.png").write_bytes(content)
    for name in ("0001-boot.png", "0002-boot.png"):
        assert boot_picture.read(tmp_path / name, Task()).isNull()


def test_a_picture_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    image = QImage(8, 8, QImage.Format.Format_RGB32)
    image.fill(0)
    assert image.save(str(tmp_path / "0001-boot.png"), "PNG")
    assert not boot_picture.read(tmp_path / "0001-boot.png", Task()).isNull()
    (tmp_path / "0002-boot.png").symlink_to("0001-boot.png")
    assert boot_picture.read(tmp_path / "0002-boot.png", Task()).isNull()


def _take_boot_code(disk: Path) -> None:
    with disk.open("rb+") as file:
        file.write(bytes(512))
