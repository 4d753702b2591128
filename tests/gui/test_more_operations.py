"""Convert, adopt, retarget, hardware and a second disk for a machine, and reading everything."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.gui.user import User
from vdbackup.guest.hardware import Controller
from vdbackup.gui.adopt_dialog import AdoptDialog
from vdbackup.gui.boot_dialog import BootDialog
from vdbackup.gui.convert_dialog import ConvertDialog
from vdbackup.gui.retarget_dialog import RetargetDialog
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.operations.machines import Machines
from vdbackup.recovery.retarget import report
from vdbackup.recovery.retarget.retarget import WISHES
from vdbackup.recovery.retarget.virt_v2v import VIRT_V2V
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef


def test_a_set_is_converted(with_source: User, repository: Path) -> None:
    with_source.asks_for("convertSet")
    dialog = with_source.sees(ConvertDialog, "convertDialog")
    offered = [dialog.format_box.itemData(row) for row in range(dialog.format_box.count())]
    assert "vmdk" not in offered  # it is kept in that
    dialog.format_box.setCurrentIndex(offered.index("vhdx"))
    with_source.agrees("convertDialog", "convertAccept")
    with_source.agrees()
    with_source.reads("Converted: the set laptop-vhdx holds 1 point")
    made = Repository.open(repository).set("laptop-vhdx")
    assert made.settings.format == "vhdx"
    assert made.disk_path(made.points[0]).suffix == ".vhdx"


def test_another_programs_chain_is_adopted_and_listed(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    base, tip = tmp_path / "base.qcow2", tmp_path / "tip.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*make, str(base), "4M"], check=True)
    subprocess.run([*make, "-b", str(base), "-F", "qcow2", str(tip)], check=True)
    with_source.asks_for("actionAdopt")
    dialog = with_source.sees(AdoptDialog, "adoptDialog")
    dialog.tip_edit.setText(str(tip))
    dialog.repository_edit.setText(str(repository))
    with_source.agrees("adoptDialog", "adoptAccept")
    with_source.agrees()
    with_source.reads("Adopted: the set tip holds 2 points")
    with_source.waits_until(lambda: with_source.window.sources.count() == 2)
    assert len(Repository.open(repository).set("tip").points) == 2


def test_what_cannot_be_adopted_is_refused_in_a_sentence(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    missing = SourceRef.of_path(tmp_path / "nowhere.qcow2")
    with_source.window.backups.adopt(missing, repository)
    with_source.reads("There is no")


def test_a_machine_is_made_ready_for_other_hardware(with_source: User, repository: Path) -> None:
    with_source.asks_for("actionRetarget")
    dialog = with_source.sees(RetargetDialog, "retargetDialog")
    wishes = [dialog.hardware.itemData(row) for row in range(dialog.hardware.count())]
    assert set(wishes) == set(WISHES) - {VIRT_V2V}
    dialog.hardware.setCurrentIndex(wishes.index("ide"))
    with_source.agrees("retargetDialog", "retargetAccept")
    with_source.agrees()
    with_source.reads("Ready for other hardware")
    backup_set = Repository.open(repository).set()
    saved = report.load(backup_set, backup_set.points[0])
    assert saved is not None
    assert saved.wish == "ide"


def test_a_machine_gets_the_hardware_that_was_chosen_for_it(with_source: User) -> None:
    with_source.asks_for("actionBootWith")
    dialog = with_source.sees(BootDialog, "bootDialog")
    assert dialog.memory.value() == 128  # as in the settings
    dialog.controller.setCurrentIndex(dialog.controller.findData(Controller.IDE))
    dialog.network.setChecked(True)
    with_source.agrees("bootDialog", "bootAccept")
    sessions = with_source.window.sessions
    with_source.waits_until(lambda: sessions.running and sessions.running[0].session)
    session = sessions.running[0].session
    assert session is not None
    assert session.hardware.controller is Controller.IDE
    assert session.hardware.memory_mib == 128


def test_a_machine_gets_the_disk_of_chosen_files_behind_its_own(
    with_source: User, repository: Path, tmp_path: Path
) -> None:
    chosen = tmp_path / "chosen"
    for text in ("one", "two"):
        chosen.mkdir(exist_ok=True)
        (chosen / "file").write_text(text)
        ref = SourceRef(Scheme.FILES, str(Choice.of([str(chosen)])))
        backup.back_up(backup.BackupRequest(ref, repository), Machines(tmp_path), Task())
    window = with_source.window
    window.catalogue.refresh(repository)
    with_source.waits_until(lambda: len(window.catalogue.entries) == 2)
    with_source.asks_for("actionBootWith")
    dialog = with_source.sees(BootDialog, "bootDialog")
    assert dialog.attach == ()
    assert not dialog.second_point.isVisible()
    assert [dialog.second_disk.itemText(row) for row in range(dialog.second_disk.count())] == [
        "none", "chosen",
    ]  # fmt: skip
    dialog.second_disk.setCurrentIndex(1)
    assert dialog.second_point.isVisible()
    assert dialog.second_point.currentText().startswith("#2, incremental")
    dialog.second_point.setCurrentIndex(1)
    with_source.agrees("bootDialog", "bootAccept")
    with_source.waits_until(lambda: window.sessions.running and window.sessions.running[0].session)
    (thread,) = window.sessions.running
    assert thread.session is not None
    (attached,) = thread.session.files.read_record().attached
    first = Repository.open(repository).set("chosen").points[0]
    assert (attached.set_name, attached.point) == ("chosen", first.id)
    nodes = [each["inserted"]["node-name"] for each in thread.session.execute("query-block")]
    assert nodes == ["disk", "disk2"]


def test_everything_is_read_where_that_is_asked_for(with_source: User, disk: Path) -> None:
    demo_disk.change(disk, "the second state", {})
    with_source.asks_for("actionBackUpReadAll")
    with_source.agrees()
    with_source.sees_points(2)
    entry = with_source.window.entry
    assert entry is not None
    assert [point.type for point in entry.points] == ["full", "incremental"]
