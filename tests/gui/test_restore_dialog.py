"""Where to restore to: the disks of this computer, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt

from tests.gui.user import User
from tests.sources.loops import loop
from vdbackup.gui.restore_dialog import RestoreDialog
from vdbackup.operations import restore
from vdbackup.operations.restore import RestoreTarget
from vdbackup.sources.inventory import Content, Device

MIB = 1 << 20
PARTS = (Content(1, 8 * MIB, "vfat", "EFI"), Content(2, MIB, "ext4", "", ("/mnt/<b>",)))
SEEN = [
    RestoreTarget(Device(Path("/dev/sda"), "disk", 90 * MIB, "Old One", "S1", PARTS), True, ""),
    RestoreTarget(Device(Path("/dev/sdc"), "disk", 64 * MIB, "", "", ()), False, ""),
    RestoreTarget(
        Device(Path("/dev/sdb"), "disk", 99 * MIB, "Mine", "", ()), False, "/dev/sdb is in use."
    ),
]


@pytest.fixture
def opened(with_source: User, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RestoreDialog]:
    """The dialog once it shows three disks, of which the last is refused."""
    monkeypatch.setattr(restore, "targets", lambda *_: SEEN)

    def opens() -> RestoreDialog:
        with_source.asks_for("actionRestore")
        dialog = with_source.sees(RestoreDialog, "restoreDialog")
        with_source.waits_until(lambda: dialog.picker.count() == len(SEEN))
        return dialog

    return opens


def test_each_disk_says_what_it_is_and_what_would_be_lost(
    opened: Callable[[], RestoreDialog],
) -> None:
    dialog = opened()
    assert [dialog.picker.item(row).text().split("\n") for row in range(3)] == [
        [
            "Old One (sda)  ·  90 MiB  ·  where it came from  ·  serial number S1",
            "Partition 1 (vfat “EFI”, 8 MiB); partition 2 (ext4, 1 MiB, mounted at /mnt/<b>)",
        ],
        ["sdc  ·  64 MiB", "Nothing is known to lie on it."],
        ["Mine (sdb)  ·  99 MiB", "/dev/sdb is in use."],
    ]
    usable = [bool(dialog.picker.item(row).flags() & Qt.ItemFlag.ItemIsEnabled) for row in range(3)]
    assert usable == [True, True, False]
    assert "<b>" not in dialog.picker.item(0).toolTip().replace("&lt;b&gt;", "")
    dialog.reject()


def test_a_disk_that_is_chosen_is_meant_and_one_that_is_typed_over_is_not(
    opened: Callable[[], RestoreDialog],
) -> None:
    dialog = opened()
    assert not dialog.accept_button.isEnabled()
    dialog.picker.setCurrentRow(0)
    dialog.picker.itemClicked.emit(dialog.picker.item(0))
    assert (dialog.target, dialog.overwrite) == (Path("/dev/sda"), True)
    assert not dialog.format_box.isEnabled()
    dialog.target_edit.setText("/tmp/new.img")
    assert not dialog.overwrite
    assert dialog.format_box.isEnabled()
    assert dialog.picker.selectedItems() == []
    dialog.reject()


def test_a_disk_is_gone_to_by_the_keyboard(opened: Callable[[], RestoreDialog], qtbot) -> None:
    dialog = opened()
    dialog.picker.setFocus()
    for _ in range(3):
        qtbot.keyClick(dialog.picker, Qt.Key.Key_Down)
    assert dialog.target == Path("/dev/sdc")  # the last one cannot be gone to
    dialog.reject()


def test_what_fits_a_partition_alone_is_looked_for_anew(
    with_source: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []

    def targets(_repository: object, _name: str, size: int) -> list[RestoreTarget]:
        needed.append(size)
        return SEEN

    monkeypatch.setattr(restore, "targets", targets)
    with_source.asks_for("actionRestore")
    dialog = with_source.sees(RestoreDialog, "restoreDialog")
    with_source.waits_until(lambda: dialog.parts_box.count() == 2)
    assert dialog.partitions == ()
    dialog.parts_box.setCurrentIndex(1)
    with_source.waits_until(lambda: len(needed) == 2)
    assert dialog.partitions == (1,)
    assert needed[1] < needed[0]
    assert not dialog.resize_box.isEnabled()
    dialog.parts_box.setCurrentIndex(0)
    dialog.resize_box.setChecked(True)  # a smaller one may do then
    with_source.waits_until(lambda: len(needed) == 4)
    assert needed[2:] == [needed[0], 0]
    assert dialog.fits_size
    dialog.reject()


@pytest.mark.usefixtures("as_root")
def test_a_disk_is_restored_with_what_differs_alone(
    with_source: User, disk: Path, tmp_path: Path
) -> None:
    image = tmp_path / "older.img"
    image.write_bytes(disk.read_bytes())
    with image.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"damage")
    with loop(image) as device:
        with_source.asks_for("actionRestore")
        dialog = with_source.sees(RestoreDialog, "restoreDialog")
        dialog.target_edit.setText(str(device))
        dialog.overwrite_box.setChecked(True)
        dialog.delta_box.setChecked(True)
        with_source.agrees("restoreDialog", "restoreAccept")
        with_source.agrees()
        row = with_source.sees_job_end("Restore")
        assert f"Restored to {device}." in row.sentence
    assert image.read_bytes() == disk.read_bytes()
