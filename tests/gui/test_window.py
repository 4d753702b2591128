"""The whole window with the real engine."""

from __future__ import annotations

import tarfile
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QTreeWidget
from pytestqt.qtbot import QtBot

from tests.gui.user import User
from tests.oracles import readers
from vdbackup.gui.browse_dialog import BrowseDialog
from vdbackup.gui.first_run import FirstRunPage
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.plan_dialog import PlanDialog
from vdbackup.gui.restore_dialog import RestoreDialog
from vdbackup.gui.store import Store
from vdbackup.repository.model import PointType
from vdbackup.repository.repository import Repository
from vdbackup.settings import Settings
from vdbackup.sources import demo_disk


def test_the_first_page_offers_to_choose_a_source(user: User) -> None:
    assert user.sees(FirstRunPage, "firstRunPage")
    assert not user.window.first_run.form.start_button.isEnabled()
    assert user.window.first_run.form.repository_edit.text() == ""  # never a silent default


def test_a_source_that_is_added_is_backed_up(with_source: User, repository: Path) -> None:
    backup_set = Repository.open(repository).set()
    assert [point.type for point in backup_set.points] == [PointType.FULL]
    assert with_source.window.sources.count() == 1
    assert with_source.window.details.point_id == backup_set.points[0].id


def test_a_first_backup_is_kept_in_the_format_that_was_chosen(
    user: User, disk: Path, repository: Path, disk_format: str
) -> None:
    form = user.window.first_run.form
    form.source_edit.setText(str(disk))
    form.repository_edit.setText(str(repository))
    form.format_box.setCurrentIndex(form.format_box.findData(disk_format))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    backup_set = Repository.open(repository).set()
    assert backup_set.settings.format == disk_format
    readers.assert_holds(backup_set.disk_path(backup_set.points[0]), disk, disk_format)


def test_a_file_is_restored_in_the_format_that_its_name_ends_with(
    with_source: User, disk: Path, tmp_path: Path, disk_format: str
) -> None:
    target = tmp_path / f"again.{disk_format}"
    with_source.asks_for("actionRestore")
    with_source.sees(RestoreDialog, "restoreDialog").target_edit.setText(str(target))
    with_source.agrees("restoreDialog", "restoreAccept")
    with_source.agrees()
    with_source.waits_until(target.exists)
    with_source.waits_until(lambda: not with_source.window.busy)
    readers.assert_holds(target, disk, disk_format)


def test_a_change_becomes_an_incremental_point(with_source: User, disk: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    points = with_source.window.panel.timeline.points
    assert [point.type for point in points] == [PointType.FULL, PointType.INCREMENTAL]
    assert points[1].parent == points[0].id
    assert with_source.window.panel.timeline.selected == points[1].id


def test_each_kind_of_backup_can_be_asked_for(with_source: User, disk: Path) -> None:
    actions = with_source.window.actions_
    for count, kind in enumerate(("incremental", "differential", "full"), start=2):
        demo_disk.change(disk, f"state {count}", {})
        actions[f"actionBackUp{kind.capitalize()}"].trigger()
        with_source.agrees()
        with_source.sees_points(count)
        assert with_source.window.panel.timeline.points[-1].type == kind


def test_a_backup_that_is_refused_leaves_everything_as_it_was(with_source: User) -> None:
    with_source.asks_for("actionBackUp")
    dialog = with_source.sees(PlanDialog, "planDialog")
    dialog.reject()
    with_source.waits_until(lambda: not with_source.window.busy)
    assert len(with_source.window.panel.timeline.points) == 1


def test_dragging_the_cursor_snaps_to_points(with_source: User, disk: Path) -> None:
    for count in (2, 3, 4):
        demo_disk.change(disk, f"state {count}", {})
        with_source.backs_up(count)
    points = with_source.window.panel.timeline.points
    passed = with_source.drags_cursor(3, 0)
    assert passed == [points[2].id, points[1].id, points[0].id]
    assert with_source.window.details.point_id == points[0].id


def test_the_keyboard_moves_the_cursor(with_source: User, disk: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    timeline = with_source.window.panel.timeline
    first, second = (point.id for point in timeline.points)
    with_source.presses(Qt.Key.Key_Left)
    assert timeline.selected == first
    with_source.presses(Qt.Key.Key_Right)
    assert timeline.selected == second
    with_source.presses(Qt.Key.Key_Home)
    assert timeline.selected == first
    with_source.presses(Qt.Key.Key_End, Qt.Key.Key_Right)
    assert timeline.selected == second


def test_the_table_and_the_graph_follow_each_other(with_source: User, disk: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    panel = with_source.window.panel
    panel.show_table()
    first, second = (point.id for point in panel.timeline.points)
    panel.table.setCurrentIndex(panel.table.model().index(1, 0))  # the newest is on top
    assert panel.timeline.selected == first
    panel.timeline.select(second)
    assert panel.table.currentIndex().row() == 0


def test_a_merge_is_confirmed_and_done(with_source: User, disk: Path, repository: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    child = with_source.window.panel.timeline.selected
    with_source.asks_for("actionMerge")
    with_source.agrees()
    with_source.sees_points(1)
    (point,) = Repository.open(repository).set().points
    assert point.sequence == 2 or child in point.merged
    assert with_source.window.panel.timeline.selected == point.id


def test_a_full_cannot_be_merged(with_source: User) -> None:
    assert not with_source.window.actions_["actionMerge"].isEnabled()


def test_a_verified_point_says_so(with_source: User) -> None:
    with_source.asks_for("actionVerify")
    row = with_source.sees_job_end("Verify")
    assert "as it was captured" in row.sentence
    with_source.waits_until(lambda: with_source.window.point and with_source.window.point.verified)


def damage(repository: Path) -> None:
    """Flip bits in a point's layer."""
    backup_set = Repository.open(repository).set()
    layer = backup_set.disk_path(backup_set.points[0])
    data = bytearray(layer.read_bytes())
    data[-200] ^= 0xFF
    layer.chmod(0o600)
    layer.write_bytes(data)


def test_damage_is_shown(with_source: User, repository: Path) -> None:
    damage(repository)
    with_source.asks_for("actionVerify")
    assert "Damaged: #1" in with_source.sees_job_end("Verify").sentence


def test_what_is_whole_of_a_damaged_point_is_restored_by_whoever_asks_for_it(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    damage(repository)

    def restores(target: Path, *, whole_alone: bool) -> str:
        with_source.asks_for("actionRestore")
        dialog = with_source.sees(RestoreDialog, "restoreDialog")
        dialog.target_edit.setText(str(target))
        dialog.damage_box.setChecked(whole_alone)
        with_source.agrees("restoreDialog", "restoreAccept")
        with_source.agrees()
        return with_source.sees_job_end("Restore").sentence

    refused = restores(tmp_path / "first.img", whole_alone=False)
    assert "“Even if it is damaged” restores all that is whole." in refused
    assert "--" not in refused
    assert not (tmp_path / "first.img").exists()
    assert "are damaged in" in restores(tmp_path / "second.img", whole_alone=True)
    assert (tmp_path / "second.img").exists()


def test_a_repository_is_repaired_by_the_menu_of_its_source(
    with_source: User, repository: Path
) -> None:
    (manifest,) = repository.glob("*/*-full.json")
    manifest.unlink()
    with_source.asks_for("repairRepository")
    assert "Repaired" in with_source.sees_job_end("Repair").sentence
    assert manifest.exists()
    with_source.sees_points(1)


def test_a_point_is_restored_to_an_image(with_source: User, disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "restored.img"
    with_source.asks_for("actionRestore")
    with_source.sees(RestoreDialog, "restoreDialog").target_edit.setText(str(target))
    with_source.agrees("restoreDialog", "restoreAccept")
    with_source.agrees()
    assert str(target) in with_source.sees_job_end("Restore").sentence
    assert target.read_bytes() == disk.read_bytes()


def test_a_point_is_exported_as_an_appliance(with_source: User, tmp_path: Path) -> None:
    target = tmp_path / "machine.ova"
    with_source.asks_for("actionRestore")
    dialog = with_source.sees(RestoreDialog, "restoreDialog")
    dialog.target_edit.setText(str(target))
    assert dialog.disk_format == "ova"
    with_source.agrees("restoreDialog", "restoreAccept")
    with_source.agrees()
    assert str(target) in with_source.sees_job_end("Restore").sentence
    with tarfile.open(target) as archive:
        assert [Path(name).suffix for name in archive.getnames()] == [".ovf", ".mf", ".vmdk"]


def test_a_package_that_was_chosen_stays_when_its_ending_is_written(with_source: User) -> None:
    with_source.asks_for("actionRestore")
    dialog = with_source.sees(RestoreDialog, "restoreDialog")
    dialog.format_box.setCurrentIndex(dialog.format_box.findData("vhd-fixed"))
    dialog.target_edit.setText("/tmp/azure.vhd")
    assert dialog.disk_format == "vhd-fixed"
    dialog.target_edit.setText("/tmp/azure.qcow2")
    assert dialog.disk_format == "qcow2"
    dialog.reject()


def test_a_restore_overwrites_nothing_unasked(with_source: User, tmp_path: Path) -> None:
    target = tmp_path / "precious.img"
    target.write_bytes(b"precious")
    with_source.asks_for("actionRestore")
    with_source.sees(RestoreDialog, "restoreDialog").target_edit.setText(str(target))
    with_source.agrees("restoreDialog", "restoreAccept")
    assert str(target) in with_source.sees_job_end("Restore").sentence
    assert target.read_bytes() == b"precious"


def test_files_are_browsed_and_extracted(with_source: User, tmp_path: Path) -> None:
    with_source.asks_for("actionBrowse")
    dialog = with_source.sees(BrowseDialog, "browseDialog")
    tree: QTreeWidget = dialog.tree
    with_source.waits_until(lambda: tree.topLevelItem(0).icon(0).isNull() is False)
    tree.topLevelItem(0).setExpanded(True)
    with_source.waits_until(lambda: tree.topLevelItem(0).child(1) is not None)
    item = tree.topLevelItem(0).child(tree.topLevelItem(0).childCount() - 1)
    item.setSelected(True)
    assert dialog.extract_button.isEnabled()
    dialog.extract(tmp_path / "out")
    with_source.sees_job_end("Extract")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [item.text(0)]
    dialog.close()


def test_a_point_is_deleted_after_a_question(with_source: User, disk: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.backs_up(2)
    with_source.asks_for("actionDelete")
    with_source.agrees()
    with_source.sees_points(1)


def test_what_cannot_be_done_is_said_with_advice(with_source: User, disk: Path) -> None:
    disk.unlink()
    with_source.asks_for("actionBackUp")
    assert "Check the path" in with_source.reads(f"There is no {disk}").sentence


def test_a_source_and_its_points_are_there_after_a_restart(
    with_source: User, qtbot: QtBot, repository: Path
) -> None:
    locations = with_source.window.store.locations
    again = MainWindow(Store(Settings.load(locations.settings_file), locations))
    again.show()
    other = User(again, qtbot)
    other.sees_points(1)
    assert again.entry is not None
    assert again.entry.repository == repository
    again.close()
    again.deleteLater()


def test_a_repository_whose_drive_is_gone_is_not_begun_anew(
    with_source: User, qtbot: QtBot, repository: Path
) -> None:
    user = with_source
    user.waits_until(lambda: user.window.store.value.sources[0].set_name == "laptop")
    away = repository.rename(repository.with_name("on a drive in a drawer"))
    user.asks_for("actionBackUp")
    assert "Connect the drive" in user.reads(f"{repository} is not a repository").sentence
    user.asks_for("actionRefresh")
    action = user.window.actions_["actionBackUp"]
    user.waits_until(lambda: not action.isEnabled())

    locations = user.window.store.locations
    again = MainWindow(Store(Settings.load(locations.settings_file), locations))
    again.show()
    other = User(again, qtbot)
    other.waits_until(lambda: again.entry is not None and again.entry.problem is not None)
    assert not again.actions_["actionBackUp"].isEnabled()
    assert not repository.exists()

    away.rename(repository)
    other.asks_for("actionRefresh")
    other.sees_points(1)
    again.close()
    again.deleteLater()


def test_the_files_of_a_folder_are_backed_up_again_and_again(
    user: User, tmp_path: Path, repository: Path
) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear all")
    user.clicks("chooseFilesButton")
    user.clicks("addFolder")
    dialog = user.sees(QFileDialog, "QFileDialog")
    dialog.filesSelected.emit([str(folder)])
    dialog.close()
    user.clicks("choiceAccept")
    form = user.window.first_run.form
    assert form.source_edit.text() == f"files:'{folder}'"
    form.repository_edit.setText(str(repository))
    user.clicks("startButton")
    user.agrees()
    user.sees_points(1)
    (folder / "letter.txt").write_text("Dear nobody")
    user.backs_up(2)
    points = user.window.panel.timeline.points
    assert [point.type for point in points] == [PointType.FULL, PointType.INCREMENTAL]
